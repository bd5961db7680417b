//! `du`, `prune`, `store check`.

use std::process::ExitCode;

use builder::{ErrorKind, blocking};
use cache::{PruneError, PruneOptions};

use super::args::{CheckArgs, ListFormat, PruneArgs, UsageArgs};
use super::{open_local, print};
use crate::config::Settings;
use crate::fault::{Fault, exit_code};
use crate::format::{printable, size, table};

/// `rbuild du`.
pub(super) async fn usage(args: UsageArgs, settings: Settings) -> Result<(), Fault> {
    let root = settings.builder.root.clone();
    let builder = open_local(settings, "du").await?;
    let usage = blocking::run(move || builder.usage().map_err(Fault::from)).await?;
    if args.format == ListFormat::Json {
        let text = serde_json::to_string(&usage).expect("numbers are JSON");
        return print(&(text + "\n"));
    }
    let rows = [
        ["pulled layers, manifests, configs".to_owned(), size(usage.content)],
        ["unpacked and built layers".to_owned(), size(usage.snapshots)],
        ["records, names, work in progress".to_owned(), size(usage.metadata)],
        ["total".to_owned(), size(usage.total())],
    ];
    let (images, records) = (usage.images, usage.records);
    let store = root.display();
    print(&table(["CONTENT", "SIZE"], &rows))?;
    print(&format!("\n{images} image names and {records} cache records in {store}\n"))
}

/// `rbuild prune`.
pub(super) async fn prune(args: PruneArgs, settings: Settings) -> Result<(), Fault> {
    let builder = open_local(settings, "prune").await?;
    let options = PruneOptions { all: args.all, dry_run: args.dry_run };
    let pruned = blocking::run(move || builder.prune(options)).await.map_err(|error| {
        let kind = match error {
            PruneError::InUse => ErrorKind::User,
            PruneError::Io(_) => ErrorKind::Host,
        };
        Fault::of(kind, &error)
    })?;
    let verb = if args.dry_run { "Would delete" } else { "Deleted" };
    print(&format!("{verb} {} items, {}\n", pruned.items, size(pruned.bytes)))
}

/// `rbuild store check`.
pub(super) async fn check(args: CheckArgs, settings: Settings) -> Result<ExitCode, Fault> {
    let builder = open_local(settings, "store check").await?;
    let repair = args.repair;
    let faults = blocking::run(move || builder.check(repair).map_err(Fault::from)).await?;
    let lines = faults.iter().map(|fault| printable(fault) + "\n");
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
