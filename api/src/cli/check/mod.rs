//! `rbuild check`, and what `rbuild build --check` and `--call` do instead of building.
//!
//! Nothing is fetched and nothing is built; base images that are in the store are looked at.

mod call;
mod diff;
mod explain;
mod json;
mod sarif;
mod subject;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use builder::SourceText;
use clap::{Args, ValueEnum};
use frontend::{
    BaseImage, CheckRequest, Checked, LowerOptions, NamedContext, Platform, ResolvedBase, RuleSet,
};

use super::args::{BuildArgs, named_value};
use super::print;
use crate::config::{Environment, Settings};
use crate::fault::{EXIT_CODES, Fault};

pub(crate) use call::{Call, CallArgs};
use subject::Subject;

/// Check a Dockerfile against BuildKit's build checks and good practices
///
/// PATH is the context directory, a Dockerfile, or `-` for a Dockerfile on standard input. Nothing
/// is built or fetched. Exits 1 when there is anything to say. Rules are silenced by
/// `# check=skip=RULE` at the file's head, or by `# rbuild check skip=RULE` or
/// `# hadolint ignore=CODE` above an instruction.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CheckArgs {
    /// Context directory, Dockerfile, or `-`
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Dockerfile; looked for here, then in the context [default: Dockerfile or Containerfile in
    /// the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stage to check, with those it needs [default: every stage]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG; without a value, this environment's (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = named_value)]
    build_arg: Vec<(String, Option<String>)>,
    /// Platform to check for, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Rules that speak: all, buildkit, or names and codes parted by commas
    #[arg(long, value_name = "RULES", default_value = "all", value_parser = rule_set)]
    rules: RuleSet,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
    /// Mend the file where the text leaves no doubt; all else stays byte for byte
    #[arg(long)]
    fix: bool,
    /// Show what --fix would change, and change nothing
    #[arg(long, conflicts_with = "fix")]
    diff: bool,
    /// List the rules
    #[arg(long, conflicts_with_all = ["fix", "diff", "explain"])]
    list: bool,
    /// Tell why a rule wants what it wants, with an example
    #[arg(long, value_name = "RULE", conflicts_with_all = ["fix", "diff"])]
    explain: Option<String>,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The source with what is said about it
    #[default]
    Text,
    /// One document, in the form of docker's `--call=check,format=json`
    Json,
    /// SARIF 2.1.0, for code hosts and editors
    Sarif,
}

fn rule_set(text: &str) -> Result<RuleSet, String> {
    RuleSet::parse(text).map_err(|error| explain::unknown(&error))
}

/// Does `rbuild check`.
pub(super) async fn check(
    args: CheckArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    if let Some(name) = &args.explain {
        return print(&explain::explain(name)?).map(|()| ExitCode::SUCCESS);
    }
    if args.list {
        return print(&explain::list(args.format)?).map(|()| ExitCode::SUCCESS);
    }
    let options = LowerOptions {
        target: args.target.clone(),
        build_args: super::build::build_args(&args.build_arg, environment),
        ..platforms(args.platform.clone())
    };
    let (path, file) = (args.path.clone(), args.file.clone());
    let subject = load(path, file, options, settings).await?;
    let request = subject.request(&args.rules);
    if args.fix || args.diff {
        return mend(&args, &subject.subject, &request);
    }
    let checked = frontend::check(&subject.subject.source.text, &request);
    show(args.format, &subject.subject.source, &checked)
}

/// Does what `--check` or `--call` asks of a build.
pub(super) async fn call(
    args: &BuildArgs,
    call: Call,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    let contexts = args.build_context.iter().map(|(name, value)| {
        let context = match value.strip_prefix("docker-image://") {
            Some(image) => NamedContext::Image(image.to_owned()),
            None => NamedContext::Local,
        };
        (name.clone(), context)
    });
    let options = LowerOptions {
        target: args.target.first().map(|(stage, _)| stage.clone()),
        build_args: super::build::arguments(args, environment).await?,
        named_contexts: contexts.collect(),
        ..platforms(args.platform.first().cloned())
    };
    let file = match args.file.as_slice() {
        [] => None,
        [file] => Some(file.clone()),
        _ => return Err(Fault::user("several Dockerfiles cannot be looked at as one")),
    };
    let path = args.context.clone();
    let loaded = load(path, file, options, settings).await?;
    let source = &loaded.subject.source;
    match call {
        Call::Check(format) => {
            let checked = frontend::check(&source.text, &loaded.request(&RuleSet::BuildKit));
            show(format, source, &checked)
        }
        Call::Outline { json } => call::outline(source, &loaded.options, &loaded.bases, json),
        Call::Targets { json } => call::targets(source, &loaded.options, json),
    }
}

fn platforms(target: Option<Platform>) -> LowerOptions {
    let target_platform = target.unwrap_or_else(Platform::host);
    LowerOptions { target_platform, ..LowerOptions::default() }
}

/// A file with all that a check needs beside it.
struct Loaded {
    subject: Subject,
    options: LowerOptions,
    bases: BTreeMap<BaseImage, ResolvedBase>,
}

impl Loaded {
    fn request<'a>(&'a self, rules: &'a RuleSet) -> CheckRequest<'a> {
        CheckRequest { options: &self.options, bases: &self.bases, rules }
    }
}

async fn load(
    path: PathBuf,
    file: Option<PathBuf>,
    options: LowerOptions,
    settings: Settings,
) -> Result<Loaded, Fault> {
    builder::blocking::run(move || {
        let subject = Subject::load(&path, file.as_deref())?;
        let options = LowerOptions { ignore: subject.ignore.clone(), ..options };
        let bases = subject::known_bases(&subject.source.text, &options, settings);
        Ok(Loaded { subject, options, bases })
    })
    .await
}

/// Prints what was found; anything at all makes the exit code 1, as docker's `--check` does.
fn show(format: Format, source: &SourceText, checked: &Checked) -> Result<ExitCode, Fault> {
    match format {
        Format::Text => print(&text::write(source, checked, text::wants_color()))?,
        Format::Json => print(&json::write(source, checked))?,
        Format::Sarif => print(&sarif::write(source, checked))?,
    }
    Ok(exit(checked))
}

fn exit(checked: &Checked) -> ExitCode {
    if checked.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mend(
    args: &CheckArgs,
    subject: &Subject,
    request: &CheckRequest<'_>,
) -> Result<ExitCode, Fault> {
    let source = &subject.source;
    let mended = frontend::fix(&source.text, request);
    if args.diff {
        print(&diff::unified(&source.name, &source.text, &mended.text))?;
        let is_clean = mended.text == source.text && mended.left.findings.is_empty();
        return Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let Some(path) = &subject.path else {
        return Err(Fault::user("standard input cannot be rewritten")
            .with_help("name the file, or use --diff"));
    };
    if mended.text != source.text {
        super::fmt::replace(Path::new(path), &mended.text)?;
        super::note(&text::mended(&source.name, &mended.mended));
    }
    let source = SourceText { name: source.name.clone(), text: mended.text };
    show(args.format, &source, &mended.left)
}
