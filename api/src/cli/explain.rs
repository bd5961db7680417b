//! `explain`: why the steps of a build were or were not found in the cache.

use std::ffi::OsString;

use builder::{Answer, Events, Lookup};
use cache::{BuildRecord, FileChanges, Named};
use clap::{Args, Parser as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Cli, Command};
use super::build;
use super::engine::Engine;
use super::{Why, open_local, print};
use crate::config::{Environment, Settings};
use crate::fault::Fault;
use crate::format::{ago, millis, now, printable};
use crate::report::{self, Quotable, step_label};
use crate::story::{self, State, StepStory, Story};

/// Files named of each kind of change.
const SHOWN_FILES: usize = 20;

/// Say why the steps of a build were or were not found in the cache
///
/// WHAT is a build's ID or the beginning of one, a line of the Dockerfile such as Dockerfile:12, or
/// both as 0a1b2c3d:12 [default: the last build]. With --dry-run everything that follows is as for
/// `rbuild build`, and nothing is built.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Say what a build would find: rbuild explain --dry-run [BUILD OPTIONS] PATH
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Build and line, or the options of the build
    #[arg(value_name = "WHAT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) what: Vec<OsString>,
}

/// `rbuild explain`.
pub(super) async fn explain(
    args: ExplainArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<(), Fault> {
    if args.dry_run {
        return preview(args, settings, environment).await;
    }
    let what = match args.what.as_slice() {
        [] => String::new(),
        [what] => what.to_string_lossy().into_owned(),
        _ => return Err(Fault::user("explain takes one build or line").with_help(SEE_HELP)),
    };
    if what.starts_with('-') {
        return Err(Fault::user(format!("there is no option `{what}`")).with_help(SEE_HELP));
    }
    let engine = Engine::open(&settings).await?;
    let (build, line) = place(&what)?;
    let record = engine.build(&build).await?;
    let story = engine.story(&record.id).await?;
    if args.json {
        return print(&(story::record_json(&record, &story).to_string() + "\n"));
    }
    let steps = steps_at(&story, line)?;
    print(&(title(&record) + &steps.map(|it| paragraph(&story, it)).collect::<String>()))
}

const SEE_HELP: &str = "`rbuild explain --help` tells the forms";

/// Splits `BUILD:LINE`. What stands before the line and is no id is the name of a file.
fn place(what: &str) -> Result<(String, Option<usize>), Fault> {
    let Some((build, line)) = what.rsplit_once(':') else { return Ok((what.to_owned(), None)) };
    let line = line.parse().map_err(|_| {
        Fault::user(format!("`{what}` names no line")).with_help("as in Dockerfile:12")
    })?;
    let is_id = build.len() <= 8 && build.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok((if is_id { build.to_owned() } else { String::new() }, Some(line)))
}

fn steps_at(story: &Story, line: Option<usize>) -> Result<impl Iterator<Item = &StepStory>, Fault> {
    let is_at = move |step: &&StepStory| {
        line.is_none_or(|line| {
            let (first, last) = story.lines(step);
            (first..=last).contains(&line)
        })
    };
    let steps: Vec<&StepStory> = story.steps.iter().filter(is_at).collect();
    match line {
        Some(line) if steps.is_empty() => {
            Err(Fault::user(format!("line {line} holds no instruction that the build reached")))
        }
        _ => Ok(steps.into_iter()),
    }
}

fn title(record: &BuildRecord) -> String {
    let started = i64::try_from(record.header.started_ms / 1000).unwrap_or(i64::MAX);
    let result = super::builds::result(&record.summary.result);
    printable(&format!("Build {}, {}: {result}", record.id, ago(started, now()))) + "\n"
}

/// Tells one step.
fn paragraph(story: &Story, step: &StepStory) -> String {
    if !step.planned.has_work {
        return String::new();
    }
    let took = if step.millis > 0 { format!(" in {}", millis(step.millis)) } else { String::new() };
    let state = step.state.word().to_owned() + &took;
    let label = step_label(&step.planned);
    let mut text = format!("\n{label} {}\n", printable(&step.planned.text));
    let line = story.lines(step).0;
    push(&mut text, "state", &format!("{state} (line {line})"));
    if let Some(lookup) = &step.lookup {
        push_lookup(&mut text, story, lookup);
    }
    text
}

fn push(text: &mut String, name: &str, value: &str) {
    text.extend([format!("  {name:<10} {}\n", printable(value))]);
}

fn push_lookup(text: &mut String, story: &Story, lookup: &Lookup) {
    if let Some(reason) = &lookup.reason {
        push(text, "why", reason);
    }
    if let Some(cause) = lookup.cause.and_then(|cause| story.steps.get(cause)) {
        let label = step_label(&cause.planned);
        push(text, "cause", &format!("{label} {}", cause.planned.text));
    }
    push(text, "key", &lookup.key);
    if let Some(earlier) = &lookup.earlier {
        let seen = ago(i64::try_from(earlier.seen).unwrap_or(i64::MAX), now());
        let what = if lookup.answer == Answer::Hit { "made" } else { "compared" };
        push(text, what, &format!("{seen}: {} ({})", earlier.step, earlier.key));
    }
    for change in &lookup.changes {
        let value = |value: &Option<String>| {
            value.as_ref().map_or_else(|| "nothing".to_owned(), |value| format!("\"{value}\""))
        };
        let (before, after) = (value(&change.before), value(&change.after));
        push(text, "differs", &format!("{}: {before} -> {after}", change.name));
    }
    if let Some(files) = &lookup.files {
        push_files(text, files);
    }
}

fn push_files(text: &mut String, files: &FileChanges) {
    let kinds: [(&str, &Named); 4] = [
        ("changed", &files.changed),
        ("added", &files.added),
        ("removed", &files.removed),
        ("mode", &files.modes),
    ];
    for (kind, named) in kinds {
        for name in named.names.iter().take(SHOWN_FILES) {
            push(text, kind, name);
        }
        if named.count > SHOWN_FILES.min(named.names.len()) {
            let more = named.count - SHOWN_FILES.min(named.names.len());
            push(text, kind, &format!("and {more} more"));
        }
    }
}

/// Says what a build would find.
async fn preview(
    args: ExplainArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<(), Fault> {
    let line = ["rbuild", "build"].map(OsString::from).into_iter().chain(args.what);
    let parsed = Cli::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Fault::user(what).with_help("the options are those of `rbuild build`")
    })?;
    let Command::Build(build_args) = parsed.command else {
        return Err(Fault::user("explain --dry-run takes the options of a build"));
    };
    // The settings were made of the command line, of which the build's options are not yet part.
    let network = build_args.network.unwrap_or(settings.network);
    let settings = Settings { network, ..settings };
    let request = build::request(&build_args, &settings, environment).await?;
    let builder = open_local(
        settings,
        "explain --dry-run",
        Why {
            reason: "what would be found is looked up in the store of this machine",
            instead: "build there and ask `rbuild --host URL explain`, or look here",
        },
    )
    .await?;
    let (events, mut seen) = Events::channel();
    let cancel = CancellationToken::new();
    let told = async {
        let previewed = builder.preview(request, &events, &cancel).await;
        drop(events);
        previewed
    };
    let collected = async {
        let mut all = Vec::new();
        while let Some(event) = seen.recv().await {
            all.push(event);
        }
        all
    };
    let (previewed, events) = tokio::join!(told, collected);
    let story = Story::of(events.into_iter());
    if let Err((failure, source)) = previewed {
        let quotable = Quotable { source: source.as_ref(), ..Quotable::default() };
        let text = report::failure(&failure, quotable, false);
        let what = text.trim_start_matches("error: ").trim_end().to_owned();
        return Err(Fault::new(failure.kind, what));
    }
    if args.json {
        return print(&(json!({ "plan": story.steps_json() }).to_string() + "\n"));
    }
    // A base image is looked up nowhere: its digest is asked for anew each time.
    let looked_up = || story.steps.iter().filter(|step| step.lookup.is_some());
    let found = looked_up().filter(|step| step.state == State::Cached).count();
    let count = looked_up().count();
    let text = format!("{found} of {count} steps would be found in the cache, nothing was built\n");
    print(&(text + &looked_up().map(|step| paragraph(&story, step)).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_builds_and_lines() {
        #[rustfmt::skip]
        let cases = [
            ("",              Some(("",         None))),
            ("0a1b2c3d",      Some(("0a1b2c3d", None))),
            (":12",           Some(("",         Some(12)))),
            ("Dockerfile:12", Some(("",         Some(12)))),
            ("0a1b:3",        Some(("0a1b",     Some(3)))),
            ("Dockerfile:x",  None),
        ];
        for (what, want) in cases {
            let got = place(what).ok();
            let got = got.as_ref().map(|(build, line)| (build.as_str(), *line));
            assert_eq!(got, want, "{what}");
        }
    }
}
