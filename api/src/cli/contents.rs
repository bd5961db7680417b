//! `image tree`, `image diff`: what images hold, and what differs between two.

use builder::{Events, FileChange, ImageContents, ImageDiff, PathChange, ValueChange};

use super::args::{ImageDiffArgs, ImageTreeArgs, ListFormat};
use super::engine::Engine;
use super::{print, transfer};
use crate::fault::Fault;
use crate::format::{ellipsis, printable, size};

/// Columns of an instruction.
const STEP_WIDTH: usize = 60;
/// Files of a layer, and wasted paths, that are shown unasked.
const SHOWN: usize = 10;

/// `rbuild image tree`.
pub(super) async fn tree(args: ImageTreeArgs, engine: &Engine) -> Result<(), Fault> {
    let contents = match engine {
        Engine::Remote(client) => client.contents(&args.name).await?,
        Engine::Local(builder) => {
            let work = async |events: &Events| builder.contents(&args.name, events).await;
            transfer::with_progress(true, work).await?
        }
    };
    if args.format == ListFormat::Json {
        return print(&(json(&contents) + "\n"));
    }
    print(&show_tree(&contents, args.all))
}

/// `rbuild image diff`: exits as it does whether or not the two differ.
pub(super) async fn diff(args: ImageDiffArgs, engine: &Engine) -> Result<(), Fault> {
    let found = match engine {
        Engine::Remote(client) => client.diff(&args.before, &args.after).await?,
        Engine::Local(builder) => {
            let work =
                async |events: &Events| builder.diff(&args.before, &args.after, events).await;
            transfer::with_progress(true, work).await?
        }
    };
    if args.format == ListFormat::Json {
        return print(&(json(&found) + "\n"));
    }
    print(&show_diff(&found, args.all))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("texts and numbers are JSON")
}

fn show_tree(contents: &ImageContents, all: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (number, layer) in contents.layers.iter().enumerate() {
        let step = ellipsis(&printable(&layer.created_by), STEP_WIDTH);
        let (count, bytes) = (layer.files.len(), size(layer.bytes));
        lines.push(format!("{}  {bytes}  {count} files  {step}\n", number + 1));
        let mut files: Vec<_> = layer.files.iter().collect();
        if !all {
            files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        }
        let shown = if all { files.len() } else { SHOWN };
        for file in files.iter().take(shown) {
            let (mark, path) = (mark(file.change), printable(&file.path));
            lines.push(format!("   {mark} {:>8}  {path}\n", size(file.bytes)));
        }
        lines.push(left_out(files.len(), shown));
    }
    let per_mille = contents.efficiency();
    lines.push(format!(
        "\n{} of {} wasted, efficiency {}.{} %\n",
        size(contents.wasted_bytes),
        size(contents.bytes),
        per_mille / 10,
        per_mille % 10
    ));
    let shown = if all { contents.wasted.len() } else { SHOWN };
    for wasted in contents.wasted.iter().take(shown) {
        let (bytes, path) = (size(wasted.bytes), printable(&wasted.path));
        lines.push(format!("   {bytes:>8}  {} x  {path}\n", wasted.copies));
    }
    lines.push(left_out(contents.wasted.len(), shown));
    lines.concat()
}

fn show_diff(diff: &ImageDiff, all: bool) -> String {
    let (before, after) = (&diff.before, &diff.after);
    let mut lines = vec![format!(
        "{}  {} in {} layers\n{}  {} in {} layers\n{} layers shared\n",
        printable(&before.name),
        size(before.bytes),
        before.layers,
        printable(&after.name),
        size(after.bytes),
        after.layers,
        diff.shared_layers
    )];
    for (title, changes) in [("config", &diff.config), ("packages", &diff.packages)] {
        if changes.is_empty() {
            continue;
        }
        lines.push(format!("\n{title}\n"));
        lines.extend(changes.iter().map(show_value));
    }
    if !diff.files.is_empty() {
        lines.push("\nfiles\n".to_owned());
        let mut files: Vec<&FileChange> = diff.files.iter().collect();
        if !all {
            files.sort_by_key(|file| std::cmp::Reverse(file.before.abs_diff(file.after)));
        }
        let shown = if all { files.len() } else { 3 * SHOWN };
        for file in files.iter().take(shown) {
            let (mark, path) = (mark(file.change), printable(&file.path));
            let sizes = match file.change {
                PathChange::Added => size(file.after),
                PathChange::Removed => size(file.before),
                PathChange::Changed => format!("{} -> {}", size(file.before), size(file.after)),
            };
            lines.push(format!("   {mark} {path}  {sizes}\n"));
        }
        lines.push(left_out(files.len(), shown));
    }
    if diff.is_empty() {
        lines.push("\nnothing differs but times and layers\n".to_owned());
    }
    lines.concat()
}

fn show_value(change: &ValueChange) -> String {
    let what = printable(&change.what);
    let shown = |text: &String| ellipsis(&printable(text), STEP_WIDTH);
    match (&change.before, &change.after) {
        (Some(before), Some(after)) => {
            format!("   M {what}: {} -> {}\n", shown(before), shown(after))
        }
        (None, Some(after)) => format!("   A {what}: {}\n", shown(after)),
        (Some(before), None) => format!("   D {what}: {}\n", shown(before)),
        (None, None) => String::new(),
    }
}

/// The letters of `git diff --name-status`.
const fn mark(change: PathChange) -> char {
    match change {
        PathChange::Added => 'A',
        PathChange::Changed => 'M',
        PathChange::Removed => 'D',
    }
}

fn left_out(all: usize, shown: usize) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!("   ... and {more} more: --all\n"),
    }
}
