//! Where a build's result goes: `-o`, `--push`, `--load`, and what scripts are told of it.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use builder::{Annotations, Finished, NamedTarget, OutputDest, OutputKind, OutputSpec};

use super::args::BuildArgs;
use super::docker;
use super::engine::Engine;
use crate::config::Environment;
use crate::fault::Fault;
use crate::progress::Mode;

/// Returns all that is asked for, `--push` and `--load` spelled out.
pub(super) fn asked(args: &BuildArgs) -> Vec<OutputSpec> {
    let mut outputs = args.output.clone();
    if args.push {
        let mut images =
            outputs.iter_mut().filter(|output| output.kind == OutputKind::Image).peekable();
        if images.peek().is_none() {
            let mut image = OutputSpec::new(OutputKind::Image, OutputDest::Own);
            image.push = true;
            outputs.push(image);
        } else {
            images.for_each(|image| image.push = true);
        }
    }
    if args.load && !outputs.iter().any(is_for_engine) {
        outputs.push(OutputSpec::new(OutputKind::Docker, OutputDest::Own));
    }
    outputs
}

/// Whether an output goes into a docker engine, which the builder knows nothing of.
pub(super) fn is_for_engine(output: &OutputSpec) -> bool {
    output.kind == OutputKind::Docker && output.dest == OutputDest::Own
}

/// Parses `--annotation`.
pub(super) fn annotations(args: &BuildArgs) -> Result<Annotations, Fault> {
    let mut annotations = Annotations::default();
    for text in &args.annotation {
        let added = annotations.add_flag(text);
        added.map_err(|what| Fault::user(format!("--annotation: {what}")))?;
    }
    Ok(annotations)
}

/// The targets of a build: the first with its names, and the others.
pub(super) struct Targets {
    pub(super) first: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) more: Vec<NamedTarget>,
}

impl Targets {
    /// Takes them from `--target` and `-t`, which names the only one.
    pub(super) fn of(args: &BuildArgs) -> Result<Self, Fault> {
        let mut tags = args.tag.clone();
        let Some(((first, name), more)) = args.target.split_first() else {
            return Ok(Self { first: None, tags, more: Vec::new() });
        };
        if !more.is_empty() && !tags.is_empty() {
            let fault = Fault::user("-t cannot name the results of several targets");
            return Err(fault.with_help("name each: --target STAGE=NAME"));
        }
        tags.extend(name.clone());
        let more = more.iter().map(|(stage, name)| NamedTarget {
            stage: stage.clone(),
            tags: name.iter().cloned().collect(),
        });
        Ok(Self { first: Some(first.clone()), tags, more: more.collect() })
    }
}

/// Standard output can take one thing only, and a terminal takes no archive.
pub(super) fn check(outputs: &[OutputSpec], mode: Mode) -> Result<(), Fault> {
    let to_stdout = outputs.iter().filter(|it| it.dest == OutputDest::Stdout).count();
    if to_stdout == 0 {
        return Ok(());
    }
    if to_stdout > 1 {
        return Err(Fault::user("only one output can go to standard output"));
    }
    if matches!(mode, Mode::Json | Mode::Quiet) {
        let what = "the output and this form of progress cannot both go to standard output";
        return Err(Fault::user(what).with_help("name a file with dest=, or use --progress plain"));
    }
    if io::stdout().is_terminal() {
        return Err(Fault::user("standard output is a terminal, which cannot take an archive")
            .with_help("redirect it, or name a file with dest="));
    }
    Ok(())
}

/// Does what the builder did not: brings the result into a docker engine.
pub(super) async fn finish(
    engine: &Engine,
    outputs: &[OutputSpec],
    finished: &Finished,
    environment: &Environment,
) -> Result<(), Fault> {
    for output in outputs.iter().filter(|output| is_for_engine(output)) {
        let own: Vec<String> =
            output.names.iter().cloned().map(|it| it.with_default_tag().familiar()).collect();
        let tags = if own.is_empty() { &finished.tags } else { &own };
        let done = match engine {
            Engine::Local(builder) => {
                docker::load(builder, &finished.image_id, tags, environment).await?
            }
            Engine::Remote(client) => {
                let image = (finished.image_id.as_str(), finished.tags.as_slice());
                docker::pass_on(client, image, tags, environment).await?
            }
        };
        super::note(&format!("Loaded into {done}\n"));
    }
    Ok(())
}

/// Writes what scripts ask for.
pub(super) fn write_results(args: &BuildArgs, finished: &Finished) -> Result<(), Fault> {
    if let Some(path) = &args.iidfile {
        write_file(path, &finished.image_id)?;
    }
    if let Some(path) = &args.metadata_file {
        write_file(path, &format!("{:#}\n", metadata(finished)))?;
    }
    Ok(())
}

/// Returns the document that BuildKit's clients write: of what was pushed, if anything was.
fn metadata(finished: &Finished) -> serde_json::Value {
    let pushed = finished.pushed.first();
    let digest = pushed.map_or(&finished.manifest_digest, |pushed| &pushed.digest);
    let names: Vec<&str> = match pushed {
        Some(_) => finished.pushed.iter().map(|pushed| pushed.name.as_str()).collect(),
        None => finished.tags.iter().map(String::as_str).collect(),
    };
    let mut document = serde_json::json!({
        "containerimage.config.digest": finished.image_id,
        "containerimage.digest": digest,
        "image.name": names.join(","),
    });
    if let Some(pushed) = pushed {
        document["containerimage.descriptor"] = serde_json::json!({
            "mediaType": pushed.media_type,
            "digest": pushed.digest,
            "size": pushed.size,
        });
    }
    document
}

fn write_file(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text).map_err(|error| Fault::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use builder::PushedImage;
    use clap::Parser as _;

    use super::*;

    fn build_args(line: &[&str]) -> BuildArgs {
        let line = ["rbuild", "build"].iter().chain(line);
        match super::super::Cli::try_parse_from(line).unwrap().command {
            super::super::Command::Build(args) => *args,
            other => panic!("not a build: {other:?}"),
        }
    }

    #[test]
    fn standard_output_takes_one_thing() {
        let to = |text: &str| OutputSpec::parse(text).unwrap();
        assert!(check(&[to("a"), to("b")], Mode::Json).is_ok());
        assert!(check(&[to("-"), to("-")], Mode::Plain).is_err());
        assert!(check(&[to("-")], Mode::Quiet).is_err());
        assert!(check(&[to("-")], Mode::Json).is_err());
    }

    #[test]
    fn push_and_load_are_outputs() {
        let kinds = |line: &[&str]| {
            let outputs = asked(&build_args(line));
            outputs.iter().map(|it| (it.kind, it.push)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&["--push", "."]), [(OutputKind::Image, true)]);
        let both = ["--push", "--load", "-o", "type=image", "-o", "type=docker", "."];
        assert_eq!(kinds(&both), [(OutputKind::Image, true), (OutputKind::Docker, false)]);
    }

    #[test]
    fn each_target_has_its_names() {
        let targets =
            Targets::of(&build_args(&["--target", "a=x:1", "--target", "b", "."])).unwrap();
        assert_eq!((targets.first.as_deref(), targets.tags), (Some("a"), vec!["x:1".to_owned()]));
        assert_eq!(targets.more, [NamedTarget { stage: "b".to_owned(), tags: Vec::new() }]);
        let one = Targets::of(&build_args(&["-t", "y", "--target", "a=x", "."])).unwrap();
        assert_eq!(one.tags, ["y", "x"]);
        let args = build_args(&["-t", "y", "--target", "a", "--target", "b", "."]);
        assert!(Targets::of(&args).is_err());
    }

    #[test]
    fn results_are_written_for_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let (iid, metadata) = (dir.path().join("iid"), dir.path().join("metadata"));
        let (iid, metadata) = (iid.to_str().unwrap(), metadata.to_str().unwrap());
        let args = build_args(&["--iidfile", iid, "--metadata-file", metadata, "."]);
        let mut finished = Finished {
            image_id: "sha256:aa".to_owned(),
            manifest_digest: "sha256:bb".to_owned(),
            tags: vec!["a:1".to_owned(), "b:2".to_owned()],
            ..Finished::default()
        };
        let document = |finished: &Finished| -> serde_json::Value {
            write_results(&args, finished).unwrap();
            serde_json::from_str(&std::fs::read_to_string(metadata).unwrap()).unwrap()
        };
        let local = document(&finished);
        assert_eq!(std::fs::read_to_string(iid).unwrap(), "sha256:aa");
        assert_eq!(local["containerimage.config.digest"], "sha256:aa");
        assert_eq!(local["containerimage.digest"], "sha256:bb");
        assert_eq!(local["image.name"], "a:1,b:2");
        finished.pushed = vec![PushedImage {
            name: "a".to_owned(),
            digest: "sha256:cc".to_owned(),
            size: 7,
            media_type: "m".to_owned(),
        }];
        let pushed = document(&finished);
        assert_eq!(pushed["containerimage.digest"], "sha256:cc");
        assert_eq!(pushed["containerimage.descriptor"]["size"], 7);
        assert_eq!(pushed["image.name"], "a");
    }
}
