//! `builds`: the history of builds in the store.

use std::io::{self, Write as _};

use builder::{Builder, Event, blocking};
use cache::{BuildRecord, BuildResult};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::ListFormat;
use super::store::store_fault;
use super::{open_local, print};
use crate::config::Settings;
use crate::fault::Fault;
use crate::format::{ago, ellipsis, millis, now, printable, short_id, size, table};
use crate::report::step_label;
use crate::story::{self, StepStory, Story};

/// Characters of a reason of failure in a list.
const RESULT_WIDTH: usize = 60;

/// What can be done with past builds.
#[derive(Debug, Subcommand)]
pub(crate) enum BuildsCommand {
    Ls(ListArgs),
    Show(ShowArgs),
    Logs(LogsArgs),
    Rm(ForgetArgs),
}

/// List past builds, newest first
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Show one build: its steps, what they took, and how it ended
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// ID or the beginning of one [default: the last build]
    #[arg(value_name = "BUILD", default_value = "")]
    pub(crate) id: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Print the whole output of a build's steps
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// ID or the beginning of one [default: the last build]
    #[arg(value_name = "BUILD", default_value = "")]
    pub(crate) id: String,
    /// Only of this step: its number, or STAGE/NUMBER
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// Every recorded event as JSON, one a line
    #[arg(long)]
    pub(crate) events: bool,
}

/// Forget builds
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// IDs or the beginnings of some
    #[arg(value_name = "BUILD", required_unless_present = "all")]
    pub(crate) ids: Vec<String>,
    /// All that have ended
    #[arg(short, long, conflicts_with = "ids")]
    pub(crate) all: bool,
}

/// `rbuild builds`.
pub(super) async fn builds(command: BuildsCommand, settings: Settings) -> Result<(), Fault> {
    let builder = open_local(settings, "builds").await?;
    blocking::run(move || match command {
        BuildsCommand::Ls(args) => list(&args, &builder),
        BuildsCommand::Show(args) => show(&args, &builder),
        BuildsCommand::Logs(args) => logs(&args, &builder),
        BuildsCommand::Rm(args) => forget(&args, &builder),
    })
    .await
}

/// Finds the one build that `prefix` means; the newest for an empty one.
pub(super) fn find(builder: &Builder, prefix: &str) -> Result<BuildRecord, Fault> {
    let mut found = builder.builds().find(prefix).map_err(|error| store_fault(&error))?;
    let help = "`rbuild builds ls` lists them";
    match (found.len(), prefix) {
        (0, "") => Err(Fault::user("no build is remembered here")),
        (0, _) => Err(Fault::user(format!("there is no build `{prefix}`")).with_help(help)),
        (1, _) => Ok(found.remove(0)),
        (count, _) => {
            let what = format!("{count} builds have an id that begins with `{prefix}`");
            Err(Fault::user(what).with_help(help))
        }
    }
}

/// Reads what happened in a build.
pub(super) fn tell(builder: &Builder, record: &BuildRecord) -> Result<Story, Fault> {
    let events = builder.builds().events(&record.id).map_err(|error| store_fault(&error))?;
    let events = events.into_iter().flat_map(story::events);
    Ok(Story::of(events.map(|recorded| recorded.event)))
}

fn list(args: &ListArgs, builder: &Builder) -> Result<(), Fault> {
    let records = builder.builds().list().map_err(|error| store_fault(&error))?;
    if args.quiet {
        return print(&records.iter().map(|it| it.id.clone() + "\n").collect::<String>());
    }
    if args.format == ListFormat::Json {
        let lines = records.iter().map(|it| json!(it).to_string() + "\n");
        return print(&lines.collect::<String>());
    }
    let rows: Vec<[String; 6]> = records.iter().map(row).collect();
    print(&table(["BUILD", "STARTED", "TOOK", "CACHED", "NAME", "RESULT"], &rows))
}

fn row(record: &BuildRecord) -> [String; 6] {
    let (header, summary) = (&record.header, &record.summary);
    let is_over = !matches!(summary.result, BuildResult::Running | BuildResult::Interrupted);
    let name = header.tags.first().unwrap_or(&header.context);
    let over = |text: String| if is_over { text } else { String::new() };
    [
        record.id.clone(),
        ago(seconds(header.started_ms), now()),
        over(millis(summary.millis)),
        over(format!("{}/{}", summary.cached, summary.steps)),
        ellipsis(&printable(name), RESULT_WIDTH),
        ellipsis(&printable(&result(&summary.result)), RESULT_WIDTH),
    ]
}

fn seconds(millis: u64) -> i64 {
    i64::try_from(millis / 1000).unwrap_or(i64::MAX)
}

/// Says how a build ended.
pub(super) fn result(result: &BuildResult) -> String {
    match result {
        BuildResult::Running => "running".to_owned(),
        BuildResult::Done { image } => format!("done {}", short_id(image)),
        BuildResult::Failed { causes } => format!("failed: {}", causes.join(": ")),
        BuildResult::Cancelled => "cancelled".to_owned(),
        BuildResult::Interrupted => "interrupted".to_owned(),
        BuildResult::Unknown => "unknown: its record is damaged".to_owned(),
    }
}

fn show(args: &ShowArgs, builder: &Builder) -> Result<(), Fault> {
    let record = find(builder, &args.id)?;
    let story = tell(builder, &record)?;
    if args.format == ListFormat::Json {
        return print(&(record_json(&record, &story).to_string() + "\n"));
    }
    let (header, summary) = (&record.header, &record.summary);
    let mut rows = vec![
        ["build".to_owned(), record.id.clone()],
        ["started".to_owned(), time(header.started_ms)],
        ["result".to_owned(), result(&summary.result)],
        ["took".to_owned(), millis(summary.millis)],
        ["context".to_owned(), header.context.clone()],
    ];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push([name.to_owned(), value]);
        }
    };
    add("names", header.tags.join(", "));
    add("target", header.target.clone().unwrap_or_default());
    add("platform", header.platform.clone().unwrap_or_default());
    add("build args", header.build_args.join(", "));
    add("Dockerfile", summary.dockerfile.map(|it| it.to_string()).unwrap_or_default());
    let warnings =
        story.warnings.iter().map(|it| format!("line {}: {}", it.line_column.0, it.message));
    add("warnings", warnings.collect::<Vec<_>>().join("; "));
    let mut text = String::new();
    for [name, value] in rows {
        text.extend([format!("{name:<12}{}\n", printable(&value))]);
    }
    text += "\n";
    let steps: Vec<[String; 5]> = story.steps.iter().map(step_row).collect();
    text += &table(["STEP", "STATE", "TOOK", "MEMORY", "INSTRUCTION"], &steps);
    print(&text)
}

fn step_row(step: &StepStory) -> [String; 5] {
    let memory = step.usage.as_ref().map(|usage| size(usage.peak_memory_bytes));
    let reason = step.lookup.as_ref().and_then(|lookup| lookup.reason.as_ref());
    let mut text = printable(&step.planned.text);
    if let Some(reason) = reason {
        text = format!("{text}  ({})", printable(reason));
    }
    [
        step_label(&step.planned),
        if step.planned.has_work { step.state.word().to_owned() } else { String::new() },
        if step.millis > 0 { millis(step.millis) } else { String::new() },
        memory.unwrap_or_default(),
        text,
    ]
}

/// Returns a build with its steps as one JSON object.
pub(super) fn record_json(record: &BuildRecord, story: &Story) -> Value {
    let mut value = json!(record);
    value["dockerfile_text"] = json!(story.source.as_ref().map(|source| &source.text));
    value["warnings"] = json!(story.warnings);
    value["plan"] = story.steps_json().into();
    value["end"] = json!(story.end);
    value
}

fn time(unix_millis: u64) -> String {
    let millis = i64::try_from(unix_millis).unwrap_or(i64::MAX);
    let second = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    format!("{} ({})", second.strftime("%F %T UTC"), ago(seconds(unix_millis), now()))
}

fn logs(args: &LogsArgs, builder: &Builder) -> Result<(), Fault> {
    let record = find(builder, &args.id)?;
    let events = builder.builds().events(&record.id).map_err(|error| store_fault(&error))?;
    let mut out = io::stdout().lock();
    let mut steps = Vec::new();
    for recorded in events.into_iter().flat_map(story::events) {
        let written = if args.events {
            let line = serde_json::to_string(&recorded).expect("events are JSON");
            writeln!(out, "{line}")
        } else {
            match recorded.event {
                Event::Planned { steps: planned } => {
                    steps = planned;
                    Ok(())
                }
                Event::StepOutput { step, data, .. } if is_wanted(args, steps.get(step)) => {
                    out.write_all(&data.bytes())
                }
                _ => Ok(()),
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Fault::of(builder::ErrorKind::Host, &error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn is_wanted(args: &LogsArgs, step: Option<&builder::PlannedStep>) -> bool {
    let Some(wanted) = &args.step else { return true };
    step.is_some_and(|step| {
        let number = step.number.to_string();
        let full = step.stage.as_ref().map(|stage| format!("{stage}/{number}"));
        *wanted == number || full.as_ref() == Some(wanted)
    })
}

fn forget(args: &ForgetArgs, builder: &Builder) -> Result<(), Fault> {
    let ids = if args.all {
        let all = builder.builds().list().map_err(|error| store_fault(&error))?;
        let ended = all.into_iter().filter(|it| it.summary.result != BuildResult::Running);
        ended.map(|it| it.id).collect()
    } else {
        let found = args.ids.iter().map(|prefix| Ok(find(builder, prefix)?.id));
        found.collect::<Result<Vec<_>, Fault>>()?
    };
    for id in ids {
        if !builder.builds().remove(&id).map_err(|error| store_fault(&error))? && !args.all {
            return Err(Fault::user(format!("build `{id}` is running")));
        }
        print(&(id + "\n"))?;
    }
    Ok(())
}
