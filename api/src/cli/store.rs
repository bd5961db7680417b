//! `du`, `prune`, `store check`.

use std::process::ExitCode;

use builder::{ErrorKind, blocking};
use cache::{PruneOptions, StoreError, Sum, Usage};
use serde_json::json;

use super::args::{CheckArgs, ListFormat, PruneArgs, UsageArgs};
use super::{open_local, print};
use crate::config::Settings;
use crate::fault::{Fault, exit_code};
use crate::format::{printable, size, table};

/// `rbuild du`.
pub(super) async fn usage(args: UsageArgs, settings: Settings) -> Result<(), Fault> {
    let root = settings.builder.root.clone();
    let builder = open_local(settings, "du").await?;
    let usage = blocking::run(move || builder.usage().map_err(|error| store_fault(&error))).await?;
    if args.format == ListFormat::Json {
        return print(&(usage_json(&usage).to_string() + "\n"));
    }
    let row = |what: &str, sum: Sum| [what.to_owned(), sum.count.to_string(), size(sum.bytes)];
    let rows = [
        row("pulled layers, manifests, configs", usage.blobs),
        row("unpacked and built layers", usage.snapshots),
        row("cache mounts", usage.cache_mounts),
        ["everything".to_owned(), String::new(), size(usage.bytes)],
        ["of it prune --all frees".to_owned(), String::new(), size(usage.reclaimable)],
    ];
    let (images, records) = (usage.images, usage.records);
    let store = root.display();
    print(&table(["CONTENT", "COUNT", "SIZE"], &rows))?;
    print(&format!("\n{images} image names and {records} cache records in {store}\n"))
}

fn usage_json(usage: &Usage) -> serde_json::Value {
    let sum = |sum: Sum| json!({ "count": sum.count, "bytes": sum.bytes });
    json!({
        "images": usage.images,
        "untagged_images": usage.untagged_images,
        "records": usage.records,
        "blobs": sum(usage.blobs),
        "snapshots": sum(usage.snapshots),
        "cache_mounts": sum(usage.cache_mounts),
        "bytes": usage.bytes,
        "reclaimable": usage.reclaimable,
    })
}

pub(super) fn store_fault(error: &StoreError) -> Fault {
    Fault::of(ErrorKind::Host, error)
}

/// `rbuild prune`.
pub(super) async fn prune(args: PruneArgs, settings: Settings) -> Result<(), Fault> {
    let builder = open_local(settings, "prune").await?;
    let options = PruneOptions { all: args.all, dry_run: args.dry_run, ..PruneOptions::default() };
    let pruned =
        blocking::run(move || builder.prune(&options).map_err(|error| store_fault(&error))).await?;
    let verb = if args.dry_run { "Would delete" } else { "Deleted" };
    print(&format!("{verb} {} items, {}\n", pruned.items, size(pruned.bytes)))
}

/// `rbuild store check`.
pub(super) async fn check(args: CheckArgs, settings: Settings) -> Result<ExitCode, Fault> {
    let builder = open_local(settings, "store check").await?;
    let repair = args.repair;
    let report =
        blocking::run(move || builder.check(repair).map_err(|error| store_fault(&error))).await?;
    let faults = report.faults;
    let lines = faults.iter().map(|fault| {
        let mut line = format!("{}: {}", fault.path.display(), fault.problem);
        if !fault.images.is_empty() {
            line = format!("{line} (needed by {})", fault.images.join(", "));
        }
        printable(&line) + "\n"
    });
    print(&lines.collect::<String>())?;
    let count = faults.len();
    let told = match (count, repair) {
        (0, _) => "The store is sound\n".to_owned(),
        (_, true) => format!("{count} faults removed: what is missing is made or fetched again\n"),
        (_, false) => format!("{count} faults: `rbuild store check --repair` removes them\n"),
    };
    print(&told)?;
    let is_sound = count == 0 || repair;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(exit_code(ErrorKind::Host)) })
}
