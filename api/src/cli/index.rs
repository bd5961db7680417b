//! `rbuild index`: several platforms' images under one name.

use builder::{Annotations, Builder, blocking};
use clap::{Args, Subcommand};

use super::engine::Engine;
use super::print;
use crate::client::Client;
use crate::fault::Fault;

/// What can be done about indexes. `push`, `save` and `tag` take an index like an image.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    Create(CreateArgs),
    Annotate(AnnotateArgs),
    Inspect(InspectArgs),
}

/// Put images of several platforms under one name
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the index
    #[arg(value_name = "NAME")]
    name: String,
    /// Images or indexes in the store; of two for one platform the later is taken
    #[arg(value_name = "IMAGE", required = true)]
    sources: Vec<String>,
    /// Annotation, `index:KEY=VALUE` or `manifest-descriptor[OS/ARCH]:KEY=VALUE` (repeatable)
    #[arg(long, value_name = "[LEVEL:]KEY=VALUE")]
    annotation: Vec<String>,
}

/// Add annotations to an index
#[derive(Debug, Args)]
pub(crate) struct AnnotateArgs {
    /// Name of the index
    #[arg(value_name = "NAME")]
    name: String,
    /// Annotation, `index:KEY=VALUE` or `manifest-descriptor[OS/ARCH]:KEY=VALUE` (repeatable)
    #[arg(long, value_name = "[LEVEL:]KEY=VALUE", required = true)]
    annotation: Vec<String>,
}

/// Show the document of an index
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name of the index
    #[arg(value_name = "NAME")]
    name: String,
}

/// `rbuild index`.
pub(super) async fn index(command: IndexCommand, engine: Engine) -> Result<(), Fault> {
    match engine {
        Engine::Remote(client) => remote(command, &client).await,
        Engine::Local(builder) => blocking::run(move || local(command, &builder)).await,
    }
}

async fn remote(command: IndexCommand, client: &Client) -> Result<(), Fault> {
    match command {
        IndexCommand::Create(CreateArgs { name, sources, annotation }) => {
            let annotations = annotations(&annotation)?;
            print(&(client.create_index(&name, &sources, &annotations).await? + "\n"))
        }
        IndexCommand::Annotate(AnnotateArgs { name, annotation }) => {
            let annotations = annotations(&annotation)?;
            print(&(client.annotate_index(&name, &annotations).await? + "\n"))
        }
        IndexCommand::Inspect(InspectArgs { name }) => {
            print(&format!("{:#}\n", client.index_document(&name).await?))
        }
    }
}

fn local(command: IndexCommand, builder: &Builder) -> Result<(), Fault> {
    match command {
        IndexCommand::Create(CreateArgs { name, sources, annotation }) => {
            let annotations = annotations(&annotation)?;
            print(&(builder.create_index(&name, &sources, &annotations)? + "\n"))
        }
        IndexCommand::Annotate(AnnotateArgs { name, annotation }) => {
            let annotations = annotations(&annotation)?;
            print(&(builder.annotate_index(&name, &annotations)? + "\n"))
        }
        IndexCommand::Inspect(InspectArgs { name }) => {
            let document = builder.index_document(&name)?;
            let value: serde_json::Value = serde_json::from_slice(&document)
                .map_err(|error| Fault::of(builder::ErrorKind::Host, &error))?;
            print(&format!("{value:#}\n"))
        }
    }
}

/// Reads annotations; those without a level are the index's. An image's own manifest is what it is.
fn annotations(texts: &[String]) -> Result<Annotations, Fault> {
    let mut annotations = Annotations::default();
    for text in texts {
        let (name, _) = text.split_once('=').unwrap_or((text, ""));
        if name.split(':').next().is_some_and(|levels| {
            levels.split(',').any(|it| it == "manifest" || it.starts_with("manifest["))
        }) && name.contains(':')
        {
            let fault = Fault::user(format!("`{text}` is for a manifest, which stays as it is"));
            return Err(fault.with_help("annotate it where the image is built or pushed"));
        }
        let has_level = ["index", "manifest-descriptor", "index-descriptor"].iter().any(|level| {
            name.starts_with(&format!("{level}:")) || name.starts_with(&format!("{level}["))
        });
        let text = if has_level { text.clone() } else { format!("index:{text}") };
        annotations.add_flag(&text).map_err(Fault::user)?;
    }
    Ok(annotations)
}
