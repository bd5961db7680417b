//! `du`, `prune`, `store check`.

use std::process::ExitCode;

use builder::{ErrorKind, blocking};
use cache::{Item, ItemKind, PruneOptions, StoreError, Sum};
use serde_json::json;

use super::args::{CheckArgs, ListFormat, PruneArgs, UsageArgs};
use super::engine::Engine;
use super::print;
use crate::config::Settings;
use crate::fault::{Fault, exit_code};
use crate::format::{ago, ellipsis, now, printable, size, table};
use crate::upkeep::ItemFilter;

/// Characters of a title in a list.
const TITLE_WIDTH: usize = 60;

/// `rbuild du`.
pub(super) async fn usage(args: &UsageArgs, settings: &Settings) -> Result<(), Fault> {
    let (root, usage, items) = match Engine::open(settings).await? {
        Engine::Remote(client) => {
            let answer = client.store(args.verbose).await?;
            (printable(&answer.root), answer.usage, answer.items)
        }
        Engine::Local(builder) => {
            let is_verbose = args.verbose;
            let (usage, items) = blocking::run(move || {
                let items = if is_verbose { builder.items()? } else { Vec::new() };
                Ok((builder.usage()?, items))
            })
            .await
            .map_err(|error: StoreError| store_fault(&error))?;
            (settings.builder.root.display().to_string(), usage, items)
        }
    };
    if args.verbose {
        return print(&listing(&items, args));
    }
    if args.format == ListFormat::Json {
        return print(&(json!(usage).to_string() + "\n"));
    }
    let row = |what: &str, sum: Sum| [what.to_owned(), sum.count.to_string(), size(sum.bytes)];
    let alone = |what: &str, bytes| [what.to_owned(), String::new(), size(bytes)];
    let rows = [
        row("pulled layers, manifests, configs", usage.blobs),
        row("unpacked and built layers", usage.snapshots),
        row("cache mounts and fetched sources", usage.cache_mounts),
        row("past builds", usage.builds),
        alone("cache records, tags, directories", usage.metadata),
        alone("everything", usage.bytes),
        alone("of it prune --all frees", usage.reclaimable),
    ];
    let (images, records) = (usage.images, usage.records);
    print(&table(["CONTENT", "COUNT", "SIZE"], &rows))?;
    print(&format!("\n{images} image names and {records} cache records in {root}\n"))
}

/// Lists what passes the filters.
fn listing(items: &[Item], args: &UsageArgs) -> String {
    let now = now();
    let seconds = u64::try_from(now).unwrap_or_default();
    let wanted = |item: &&Item| args.filter.iter().all(|filter| filter.admits(item, seconds));
    let items = items.iter().filter(wanted);
    if args.format == ListFormat::Json {
        return items.map(|item| json!(item).to_string() + "\n").collect();
    }
    let rows: Vec<[String; 6]> = items
        .map(|item| {
            let used = item.last_used.and_then(|used| i64::try_from(used).ok());
            [
                ellipsis(&item.id, ID_WIDTH),
                json!(item.kind).as_str().unwrap_or_default().to_owned(),
                size(item.bytes),
                used.map(|used| ago(used, now)).unwrap_or_default(),
                if item.is_reclaimable { "yes" } else { "no" }.to_owned(),
                ellipsis(&printable(&item.title), TITLE_WIDTH),
            ]
        })
        .collect();
    table(["ID", "TYPE", "SIZE", "LAST USED", "RECLAIMABLE", "WHAT"], &rows)
}

/// Characters of an id in a list.
const ID_WIDTH: usize = 20;

pub(super) fn store_fault(error: &StoreError) -> Fault {
    Fault::of(ErrorKind::Host, error)
}

/// `rbuild prune`.
pub(super) async fn prune(args: &PruneArgs, settings: &Settings) -> Result<(), Fault> {
    let options = prune_options(args)?;
    let pruned = match Engine::open(settings).await? {
        Engine::Remote(client) => client.prune(&options).await?,
        Engine::Local(builder) => {
            let pruned = blocking::run(move || builder.prune(&options)).await;
            pruned.map_err(|error| store_fault(&error))?
        }
    };
    let verb = if args.dry_run { "Would delete" } else { "Deleted" };
    print(&format!("{verb} {} items, {}\n", pruned.items, size(pruned.bytes)))
}

fn prune_options(args: &PruneArgs) -> Result<PruneOptions, Fault> {
    let mut options = PruneOptions {
        all: args.all,
        keep_bytes: args.keep_storage,
        dry_run: args.dry_run,
        ..PruneOptions::default()
    };
    for filter in &args.filter {
        match filter {
            ItemFilter::Unused(age) => options.older_than = Some(*age),
            ItemFilter::Kind(ItemKind::Layer | ItemKind::Blob | ItemKind::Metadata) => {
                let what = "layers, blobs and metadata go with what they belong to";
                return Err(Fault::user(what).with_help("name step, image, mount, build or note"));
            }
            ItemFilter::Kind(kind) => options.only = Some(*kind),
            ItemFilter::Id(_) | ItemFilter::Reclaimable(_) => {
                return Err(Fault::user("prune filters by until= and type= only"));
            }
        }
    }
    Ok(options)
}

/// `rbuild store check`.
pub(super) async fn check(args: CheckArgs, settings: Settings) -> Result<ExitCode, Fault> {
    let repair = args.repair;
    let report = match Engine::open(&settings).await? {
        Engine::Remote(client) => client.check_store(repair).await?,
        Engine::Local(builder) => {
            let checked = blocking::run(move || builder.check(repair)).await;
            checked.map_err(|error| store_fault(&error))?
        }
    };
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
