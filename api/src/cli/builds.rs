//! `builds`: the history of builds in the store.

use std::io::{self, Write as _};

use builder::{Event, PlannedStep, RecordedEvent};
use cache::{BuildRecord, BuildResult};
use clap::{Args, Subcommand};
use serde_json::json;

use super::args::ListFormat;
use super::engine::Engine;
use super::print;
use crate::config::Settings;
use crate::fault::Fault;
use crate::format::{ago, ellipsis, millis, now, printable, short_id, size, table};
use crate::report::step_label;
use crate::story::{self, StepStory};

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
pub(super) async fn builds(command: BuildsCommand, settings: &Settings) -> Result<(), Fault> {
    let engine = Engine::open(settings).await?;
    match command {
        BuildsCommand::Ls(args) => list(&args, &engine.builds("").await?),
        BuildsCommand::Show(args) => show(&args, &engine).await,
        BuildsCommand::Logs(args) => logs(args, &engine).await,
        BuildsCommand::Rm(args) => forget(&args, &engine).await,
    }
}

fn list(args: &ListArgs, records: &[BuildRecord]) -> Result<(), Fault> {
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

async fn show(args: &ShowArgs, engine: &Engine) -> Result<(), Fault> {
    let record = engine.build(&args.id).await?;
    let story = engine.story(&record.id).await?;
    if args.format == ListFormat::Json {
        return print(&(story::record_json(&record, &story).to_string() + "\n"));
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

fn time(unix_millis: u64) -> String {
    let millis = i64::try_from(unix_millis).unwrap_or(i64::MAX);
    let second = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    format!("{} ({})", second.strftime("%F %T UTC"), ago(seconds(unix_millis), now()))
}

async fn logs(args: LogsArgs, engine: &Engine) -> Result<(), Fault> {
    let record = engine.build(&args.id).await?;
    let shown = Logs { args, steps: Vec::new(), is_read: true };
    engine.fold_events(&record.id, shown, Logs::note).await.map(drop)
}

/// Output on its way to standard output.
struct Logs {
    args: LogsArgs,
    steps: Vec<PlannedStep>,
    /// Whether somebody still reads it.
    is_read: bool,
}

impl Logs {
    fn note(&mut self, recorded: RecordedEvent) -> Result<(), Fault> {
        if !self.is_read {
            return Ok(());
        }
        let written = if self.args.events {
            let line = serde_json::to_string(&recorded).expect("events are JSON");
            writeln!(io::stdout(), "{line}")
        } else {
            match recorded.event {
                Event::Planned { steps } => {
                    self.steps = steps;
                    Ok(())
                }
                Event::StepOutput { step, data, .. }
                    if is_wanted(&self.args, self.steps.get(step)) =>
                {
                    io::stdout().write_all(&data.bytes())
                }
                _ => Ok(()),
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.is_read = false,
            Err(error) => return Err(Fault::of(builder::ErrorKind::Host, &error)),
            Ok(()) => {}
        }
        Ok(())
    }
}

fn is_wanted(args: &LogsArgs, step: Option<&PlannedStep>) -> bool {
    let Some(wanted) = &args.step else { return true };
    step.is_some_and(|step| story::is_called(step, wanted))
}

async fn forget(args: &ForgetArgs, engine: &Engine) -> Result<(), Fault> {
    let mut ids = Vec::new();
    if args.all {
        let all = engine.builds("").await?.into_iter();
        let ended = all.filter(|it| it.summary.result != BuildResult::Running);
        ids.extend(ended.map(|it| it.id));
    }
    for prefix in &args.ids {
        ids.push(engine.build(prefix).await?.id);
    }
    for id in ids {
        if !engine.forget(&id).await? && !args.all {
            return Err(Fault::user(format!("build `{id}` is running")));
        }
        print(&(id + "\n"))?;
    }
    Ok(())
}
