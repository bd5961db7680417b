//! `rbuild debug dump-ast` and `dump-graph`.

use std::collections::BTreeMap;

use frontend::{
    BaseImage, BuildGraph, Dockerfile, ImageConfig, LowerOptions, Lowered, Parsed, Platform,
    ResolvedBase, RootFs,
};
use serde_json::json;

use super::{AstFormat, DumpAstArgs, DumpGraphArgs, GraphFormat, dot, source};
use crate::cli::print;
use crate::config::Environment;
use crate::fault::Fault;

/// Stands for the digest of an image that nobody asked a registry about.
const UNRESOLVED: &str = "unresolved";

pub(super) fn ast(args: &DumpAstArgs) -> Result<(), Fault> {
    let text = source::read(&args.file)?;
    match args.format {
        AstFormat::Sexp => match frontend::dump_ast(&text.text) {
            Ok(ast) => print(&ast),
            Err(diagnostics) => Err(source::fault(&text, &diagnostics)),
        },
        AstFormat::Json => {
            let Parsed { dockerfile, diagnostics } = frontend::parse(&text.text);
            let document = json!({ "dockerfile": dockerfile, "diagnostics": diagnostics });
            print(&format!("{document:#}\n"))
        }
    }
}

pub(super) fn graph(args: &DumpGraphArgs, environment: &Environment) -> Result<(), Fault> {
    let text = source::read(&args.file)?;
    let host = Platform::host();
    let options = LowerOptions {
        target: args.target.clone(),
        build_args: args.build_args(environment),
        target_platform: args.platform.clone().unwrap_or_else(|| host.clone()),
        build_platform: host,
        ..LowerOptions::default()
    };
    let parsed = frontend::parse_with(&text.text, &options.build_args);
    if !frontend::faults(&parsed, &options).is_empty() {
        return Err(source::fault(&text, &parsed.diagnostics));
    }
    let graph = lower(&parsed.dockerfile, &options)
        .map_err(|diagnostics| source::fault(&text, &diagnostics))?;
    match args.format {
        GraphFormat::Json => print(&format!("{:#}\n", json!(graph))),
        GraphFormat::Dot => print(&dot::write(&graph)),
    }
}

/// Lowers with a stub for each image.
fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
) -> Result<Box<BuildGraph>, Vec<frontend::Diagnostic>> {
    let mut wanted = frontend::base_images(dockerfile, options)?;
    let mut bases = BTreeMap::new();
    loop {
        bases.extend(wanted.into_iter().map(|image| {
            let base = stub(&image);
            (image, base)
        }));
        match frontend::lower(dockerfile, options, &bases)? {
            Lowered::Graph(graph) => return Ok(graph),
            Lowered::Needs(more) => wanted = more,
        }
    }
}

/// An image of one layer, of the platform that was asked for, with nothing in its config.
fn stub(image: &BaseImage) -> ResolvedBase {
    let config = ImageConfig {
        os: image.platform.os.clone(),
        architecture: image.platform.architecture.clone(),
        variant: image.platform.variant.clone(),
        rootfs: RootFs { diff_ids: vec![UNRESOLVED.to_owned()], ..RootFs::default() },
        ..ImageConfig::default()
    };
    ResolvedBase { digest: UNRESOLVED.to_owned(), config }
}
