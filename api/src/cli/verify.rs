//! `rbuild verify`: whether a build gives the same bytes twice.

#![expect(clippy::doc_markdown, reason = "the doc comments here are the help that terminals show")]

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use builder::{Builder, Events, Finished, StepDifference, blocking};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::args::BuildArgs;
use super::{Why, build, print};
use crate::config::{Environment, Settings};
use crate::fault::{EXIT_CODES, Fault, exit_code};
use crate::format::printable;
use crate::progress::{self, Mode};
use crate::signals;

/// Between the builds: what a clock shows in whole seconds differs.
const PAUSE: Duration = Duration::from_millis(2100);

/// Differing files that are shown of one step.
const SHOWN: usize = 20;

/// Build twice without the cache and compare the results, byte for byte
///
/// The second build is later, and does one step at a time. What differs is named by step and file,
/// and the exit code is then 1. The clock that commands see is the machine's: files that hold the
/// time differ, unless they take it from SOURCE_DATE_EPOCH.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// Runs it.
pub(super) async fn verify(
    args: VerifyArgs,
    settings: Settings,
    environment: &Environment,
) -> Result<ExitCode, Fault> {
    let mut args = args.build;
    refuse(&args)?;
    let mode = if args.quiet { Mode::Quiet } else { args.progress };
    let mode = if mode == Mode::Quiet { None } else { Some(mode) };
    let tags = std::mem::take(&mut args.tag);
    let builder = super::open_local(settings.clone(), "verify", WHY).await?;
    let mut slow = settings.clone();
    slow.builder.parallel_steps = NonZeroUsize::MIN;
    let again = super::open_local(slow.clone(), "verify", WHY).await?;
    args.no_cache = true;
    let mut results = Vec::new();
    for (builder, settings) in [(&builder, &settings), (&again, &slow)] {
        if !results.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
        match build_once(&args, builder, settings, environment, mode).await? {
            Ok(finished) => results.push(finished),
            Err(code) => return Ok(code),
        }
    }
    compare(builder, &results[0], &results[1], tags).await
}

/// Returns the result, or with what code to end: why it failed was shown.
async fn build_once(
    args: &BuildArgs,
    builder: &Builder,
    settings: &Settings,
    environment: &Environment,
    mode: Option<Mode>,
) -> Result<Result<Finished, ExitCode>, Fault> {
    let cancel = CancellationToken::new();
    let _watch = signals::cancel_on_signal(&cancel)
        .map_err(|error| Fault::of(builder::ErrorKind::Host, &error))?;
    let request = build::request(args, settings, environment).await?;
    let (events, seen) = Events::channel();
    let show = async {
        match mode {
            Some(mode) => progress::show(mode, seen).await,
            None => drop(seen),
        }
    };
    let (ended, ()) = tokio::join!(builder.build(request, events, cancel), show);
    builder.flush_telemetry().await;
    Ok(ended.map_err(|failure| {
        if mode.is_none() {
            super::note(&format!("error: {}\n", printable(&failure.causes.join(": "))));
        }
        ExitCode::from(exit_code(failure.kind))
    }))
}

const WHY: Why = Why {
    reason: "two builds of one machine are compared",
    instead: "run it on the machine of the service, or here",
};

/// What a comparison cannot use.
fn refuse(args: &BuildArgs) -> Result<(), Fault> {
    let refused = [
        ("--output", !args.output.is_empty()),
        ("--push", args.push),
        ("--load", args.load),
        ("several --target", args.target.len() > 1),
        ("a context on standard input", args.context.as_os_str() == "-"),
    ];
    match refused.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((what, _)) => Err(Fault::user(format!("{what} cannot be used with verify"))),
    }
}

async fn compare(
    builder: Builder,
    first: &Finished,
    second: &Finished,
    tags: Vec<String>,
) -> Result<ExitCode, Fault> {
    let (a, b) = (first.image_id.clone(), second.image_id.clone());
    let is_same = first.manifest_digest == second.manifest_digest;
    let (differences, a) = blocking::run(move || {
        let differences = if is_same { Vec::new() } else { builder.differences(&a, &b)? };
        if is_same {
            tags.iter().try_for_each(|tag| builder.tag(&a, tag))?;
        }
        builder.forget_untagged(&a)?;
        builder.forget_untagged(&b)?;
        Ok::<_, Fault>((differences, a))
    })
    .await?;
    if is_same {
        print(&format!("reproducible: {a}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&report(&differences))?;
    Ok(ExitCode::from(1))
}

fn report(differences: &[StepDifference]) -> String {
    let mut text = String::from("not reproducible\n");
    for StepDifference { step, files, count } in differences {
        text.extend(["\n", &printable(step), "\n"]);
        for file in files.iter().take(SHOWN) {
            text.extend(["  ", &printable(&file.path), ": ", &file.what.join(", "), "\n"]);
        }
        if *count > SHOWN {
            text.extend(["  and ", &(count - SHOWN).to_string(), " more\n"]);
        }
    }
    let only_times = |it: &StepDifference| it.files.iter().all(|file| file.what == ["time"]);
    if differences.iter().any(only_times) {
        text += "\nhelp: times are the same where SOURCE_DATE_EPOCH is given (--build-arg, or the \
                 environment), or the context is a git checkout\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use builder::FileDifference;

    use super::*;

    #[test]
    fn differences_are_told_by_step() {
        let file = |path: &str, what| FileDifference { path: path.to_owned(), what: vec![what] };
        let step = |step: &str, files: Vec<FileDifference>, count| StepDifference {
            step: step.to_owned(),
            files,
            count,
        };
        let all = [
            step("RUN date > /d", vec![file("d", "content")], 1),
            step("RUN many", (0..30).map(|it| file(&format!("f{it}"), "time")).collect(), 30),
        ];
        let text = report(&all);
        assert!(text.contains("RUN date > /d\n  d: content\n"), "{text}");
        assert!(text.contains("  and 10 more\n") && text.contains("help: times"), "{text}");
    }
}
