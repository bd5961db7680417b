//! `pull`, `push`, `save`, `load`, `import`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::Path;

use builder::{ArchiveKind, Events, ImageError, ImageForm, ImportOptions, PushOptions};
use frontend::{Platform, Reference};

use super::args::{ImportArgs, LoadArgs, PullArgs, PushArgs, SaveArgs};
use super::engine::Engine;
use super::print;
use crate::client::Client;
use crate::fault::Fault;
use crate::format::{now, printable};
use crate::progress::{self, Mode};
use crate::temporary::Temporary;

/// `rbuild pull`.
pub(super) async fn pull(args: PullArgs, engine: &Engine) -> Result<(), Fault> {
    let show = shower(args.quiet);
    match engine {
        Engine::Remote(client) => {
            client.pull(&args.name, args.platform.as_ref(), show).await?;
            print(&format!("{}\n", args.name))
        }
        Engine::Local(builder) => {
            let none = BTreeMap::new();
            let work = async |events: &Events| {
                builder.pull(&args.name, args.platform, &none, events).await
            };
            let pulled = with_progress(args.quiet, work).await?;
            let what = if pulled.up_to_date { "Up to date" } else { "Pulled" };
            show(&format!("{what}: {} at {}", pulled.reference, pulled.digest));
            print(&format!("{}\n", pulled.reference))
        }
    }
}

/// `rbuild push`.
pub(super) async fn push(args: PushArgs, engine: &Engine) -> Result<(), Fault> {
    let show = shower(args.quiet);
    let options = push_options(&args)?;
    match engine {
        Engine::Remote(client) => match client.push(&args.name, &options, show).await? {
            Some(digest) => print(&format!("{digest}\n")),
            None => Ok(()),
        },
        Engine::Local(builder) => {
            let none = BTreeMap::new();
            let work =
                async |events: &Events| builder.push(&args.name, &options, &none, events).await;
            let pushed = with_progress(args.quiet, work).await?;
            show(&format!("Pushed: {}", pushed.reference));
            print(&format!("{}\n", pushed.digest))
        }
    }
}

fn push_options(args: &PushArgs) -> Result<PushOptions, Fault> {
    let PushArgs { compression, compression_level: level, force_compression: force, .. } = *args;
    let (destination, platform) = (args.destination.clone(), args.platform.clone());
    let form = ImageForm { compression, level, force, ..ImageForm::default() };
    form.check().map_err(Fault::user)?;
    Ok(PushOptions { destination, platform, form })
}

/// `rbuild save`.
pub(super) async fn save(args: SaveArgs, engine: &Engine) -> Result<(), Fault> {
    let dest = args.output.filter(|path| path != Path::new("-"));
    if dest.is_none() && io::stdout().is_terminal() {
        let fault = Fault::user("standard output is a terminal, which cannot take an archive");
        return Err(fault.with_help("name a file with -o"));
    }
    match engine {
        Engine::Remote(client) => {
            let archive = (args.format.into(), args.platform.as_ref());
            save_remote(client, &args.names, archive, dest.as_deref()).await
        }
        Engine::Local(builder) => {
            let (kind, platform) = (args.format.into(), args.platform.as_ref());
            let work = async |events: &Events| {
                if let Some(path) = dest {
                    return builder.save_file(&args.names, kind, platform, path, events).await;
                }
                builder.save(&args.names, kind, platform, Box::new(io::stdout()), events).await
            };
            with_progress(false, work).await
        }
    }
}

/// Fetches an archive from a service, to `dest` or standard output. A file appears whole or not at
/// all.
async fn save_remote(
    client: &Client,
    names: &[String],
    archive: (ArchiveKind, Option<&Platform>),
    dest: Option<&Path>,
) -> Result<(), Fault> {
    let Some(dest) = dest else {
        return client.save(names, archive, Box::new(io::stdout())).await;
    };
    let (file, temporary) = Temporary::beside(dest)?;
    client.save(names, archive, Box::new(file)).await?;
    temporary.rename()
}

/// `rbuild load`.
pub(super) async fn load(args: LoadArgs, engine: &Engine) -> Result<(), Fault> {
    let archive = open_archive(args.input.as_deref(), "name a file with -i")?;
    let mut lines = Vec::new();
    match engine {
        Engine::Remote(client) => {
            client.load(archive, |line| lines.push(line.trim_end().to_owned())).await?;
        }
        Engine::Local(builder) => {
            let names = builder.load(archive).await?;
            lines.extend(names.iter().map(|name| format!("Loaded image: {}", printable(name))));
        }
    }
    if args.quiet {
        return Ok(());
    }
    lines.push(String::new());
    print(&lines.join("\n"))
}

fn open_archive(path: Option<&Path>, help: &'static str) -> Result<Box<dyn Read + Send>, Fault> {
    match path {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).map_err(|error| Fault::file("read", path, &error))?;
            Ok(Box::new(file))
        }
        _ if io::stdin().is_terminal() => {
            let fault = Fault::user("standard input is a terminal, which holds no archive");
            Err(fault.with_help(help))
        }
        _ => Ok(Box::new(io::stdin())),
    }
}

/// `rbuild import`.
pub(super) async fn import(args: ImportArgs, engine: &Engine) -> Result<(), Fault> {
    let name = args.name.as_deref().map(|name| {
        let parsed = Reference::parse_normalized(name);
        parsed.map(Reference::with_default_tag).map_err(|error| Fault::user(error.to_string()))
    });
    let options = ImportOptions {
        name: name.transpose()?,
        changes: args.change,
        message: args.message,
        platform: args.platform,
        created: u64::try_from(now()).unwrap_or_default(),
    };
    let archive = open_archive(Some(&args.file), "name a file")?;
    match engine {
        Engine::Remote(client) => {
            let mut id = String::new();
            client.import(archive, &options, |line| line.trim_end().clone_into(&mut id)).await?;
            print(&format!("{id}\n"))
        }
        Engine::Local(builder) => {
            let id = builder.import(archive, options).await?;
            print(&format!("{id}\n"))
        }
    }
}

/// Does `work` and shows its events meanwhile.
pub(super) async fn with_progress<T>(
    quiet: bool,
    work: impl AsyncFnOnce(&Events) -> Result<T, ImageError>,
) -> Result<T, Fault> {
    let (events, seen) = Events::channel();
    let work = async {
        let result = work(&events).await;
        drop(events);
        result
    };
    if quiet {
        drop(seen);
        return Ok(work.await?);
    }
    let (result, ()) = tokio::join!(work, progress::show(Mode::Auto, seen));
    Ok(result?)
}

/// Writes lines for people to standard error, unless `quiet`.
fn shower(quiet: bool) -> impl Fn(&str) {
    move |line| {
        if !quiet {
            // Nobody may be listening.
            drop(writeln!(io::stderr(), "{}", line.trim_end()));
        }
    }
}
