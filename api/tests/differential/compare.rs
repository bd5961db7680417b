//! Where two images differ, and whether one is what its case states.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::archive::{Entry, Image};
use crate::case::{Part, Want};
use crate::peers::Peer;

/// The fields of the config that a Dockerfile decides.
const FIELDS: &[&str] = &[
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Where buildah leaves the mount points of a RUN.
const BUILDAH_MOUNTS: &[&str] = &["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run"];

/// The fields beside `config` that are compared.
const OUTER_FIELDS: &[&str] = &["architecture", "author", "os", "variant"];

/// Says where `theirs` differs from `ours`, part by part.
pub(crate) fn differences(ours: &Image, theirs: &Image, peer: Peer) -> BTreeMap<Part, String> {
    let mut found = BTreeMap::new();
    let (our_config, mut their_config) = (config_lines(&ours.config), config_lines(&theirs.config));
    if peer != Peer::Buildkit {
        // A mark for Windows that only BuildKit writes on Linux too, a value that the others do not
        // inherit, and the root, which is where they start from scratch without saying so.
        for (field, value) in
            [("ArgsEscaped", None), ("author", None), ("WorkingDir", Some("\"/\""))]
        {
            if let Some(line) = our_config.get(field)
                && value.is_none_or(|value| line == value)
            {
                their_config.entry(field.to_owned()).or_insert_with(|| line.clone());
            }
        }
    }
    found.insert(Part::Config, lines_apart(&our_config, &their_config));
    let mut their_tree = theirs.tree.clone();
    if peer == Peer::Buildah {
        // What it mounts for RUN stays behind.
        their_tree.retain(|path, _| {
            ours.tree.contains_key(path) || !BUILDAH_MOUNTS.contains(&path.as_str())
        });
    }
    found.insert(Part::Tree, lines_apart(&ours.tree, &their_tree));
    // The other builders have words of their own for their steps.
    if peer == Peer::Buildkit {
        found.insert(Part::History, histories_apart(&ours.history(), &theirs.history()));
    }
    found.retain(|_, text| !text.is_empty());
    found
}

/// Lines by their key that are not the same on both sides.
fn lines_apart(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> String {
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let show = |line: Option<&String>| line.map_or("(none)".to_owned(), Clone::clone);
    keys.into_iter()
        .map(|key| (key, ours.get(key), theirs.get(key)))
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(key, ours, theirs)| {
            format!("  {key}\n    ours   {}\n    theirs {}\n", show(ours), show(theirs))
        })
        .collect::<Vec<_>>()
        .concat()
}

/// The config as lines; what is empty is as good as absent, as it is for every reader in Go.
fn config_lines(config: &Value) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let inner = FIELDS.iter().map(|field| (*field, &config["config"][field]));
    for (field, value) in inner.chain(OUTER_FIELDS.iter().map(|field| (*field, &config[field]))) {
        if !is_empty(value) {
            lines.insert(field.to_owned(), value.to_string());
        }
    }
    lines
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}

fn histories_apart(ours: &[Entry], theirs: &[Entry]) -> String {
    let show = |entry: Option<&Entry>| entry.map_or("(none)".to_owned(), |e| format!("{e:?}"));
    (0..ours.len().max(theirs.len()))
        .map(|at| (ours.get(at), theirs.get(at)))
        .filter(|pair| !matches!(pair, (Some(ours), Some(theirs)) if is_same_entry(ours, theirs)))
        .map(|(ours, theirs)| format!("    ours   {}\n    theirs {}\n", show(ours), show(theirs)))
        .collect::<Vec<_>>()
        .concat()
}

/// Compares entries. The values of build arguments are in BuildKit's history but not in ours,
/// where they could leak a secret.
fn is_same_entry(ours: &Entry, theirs: &Entry) -> bool {
    let is_same = |ours: &str, theirs: &str| {
        ours == theirs
            || is_without_values(ours, theirs)
            || is_argument(ours, theirs)
            || are_same_ports(ours, theirs)
            || are_same_without_flags(ours, theirs)
            // Old versions of BuildKit print a pointer of Go; the config tells the check.
            || ours.starts_with("HEALTHCHECK {") && theirs.starts_with("HEALTHCHECK &{")
    };
    is_same(&ours.created_by, &theirs.created_by)
        && Entry { created_by: String::new(), ..ours.clone() }
            == Entry { created_by: String::new(), ..theirs.clone() }
}

/// Whether `RUN |2 A B /bin/sh ...` is `RUN |2 A=x B=y /bin/sh ...` without its values.
fn is_without_values(ours: &str, theirs: &str) -> bool {
    let split = |text: &str| -> Option<(usize, String)> {
        let (count, rest) = text.strip_prefix("RUN |")?.split_once(' ')?;
        Some((count.parse().ok()?, rest.to_owned()))
    };
    let (Some((ours_count, ours)), Some((theirs_count, theirs))) = (split(ours), split(theirs))
    else {
        return false;
    };
    let mut names: Vec<&str> = ours.splitn(ours_count + 1, ' ').collect();
    let Some(command) = names.pop() else { return false };
    let mut rest = theirs.as_str();
    let is_in_order = names.iter().all(|name| {
        let mark = format!("{name}=");
        let found = rest.find(&mark);
        rest = &rest[found.map_or(0, |at| at + mark.len())..];
        found.is_some()
    });
    ours_count == theirs_count && is_in_order && rest.ends_with(&format!(" {command}"))
}

/// Whether `ARG A B=1` is `ARG A=given B=1` without the value.
fn is_argument(ours: &str, theirs: &str) -> bool {
    let mut rest = theirs;
    let mut words = ours.split(' ').peekable();
    if !ours.starts_with("ARG ") {
        return false;
    }
    while let Some(word) = words.next() {
        let Some(after) = rest.strip_prefix(word) else { return false };
        let mut end = 0;
        if after.starts_with('=') && !word.contains('=') {
            let next = words.peek().map(|next| format!(" {next}"));
            end = next.map_or(Some(after.len()), |next| after.find(&next)).unwrap_or(after.len());
        }
        rest = &after[end..];
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
    rest.is_empty()
}

/// Whether both expose the same; old versions of BuildKit print the ports as a map of Go.
fn are_same_ports(ours: &str, theirs: &str) -> bool {
    let list = |text: &str| -> Option<BTreeSet<String>> {
        let (_, list) = text.strip_prefix("EXPOSE ")?.strip_suffix(']')?.split_once('[')?;
        Some(list.split(' ').map(|port| port.trim_end_matches(":{}").to_owned()).collect())
    };
    theirs.starts_with("EXPOSE map[") && list(ours) == list(theirs)
}

/// Whether both copy the same; old versions of BuildKit leave `--chown` and `--chmod` out.
fn are_same_without_flags(ours: &str, theirs: &str) -> bool {
    let is_flag = |word: &&str| word.starts_with("--chown=") || word.starts_with("--chmod=");
    let words: Vec<&str> = ours.split(' ').filter(|word| !is_flag(word)).collect();
    (ours.starts_with("COPY ") || ours.starts_with("ADD ")) && words.join(" ") == theirs
}

/// Says where `image` is not what is stated; `base` is the tree that is not repeated in cases.
pub(crate) fn unmet(want: &Want, image: &Image, base: &BTreeMap<String, String>) -> String {
    let mut found = String::new();
    if let Some(text) = &want.config {
        found.push_str(&config_unmet(text, &image.config));
    }
    if let Some(text) = &want.tree {
        found.push_str(&text_unmet("tree", text, &tree_text(&image.tree, base)));
    }
    if let Some(text) = &want.history {
        let history = image.history();
        let base = history.iter().position(|entry| entry.created_by.starts_with("CMD [\"sh\"]"));
        let above = &history[base.map_or(0, |at| at + 1)..];
        let line = |entry: &Entry| {
            format!("{}{}\n", if entry.is_empty { "- " } else { "" }, entry.created_by)
        };
        found.push_str(&text_unmet("history", text, &above.iter().map(line).collect::<String>()));
    }
    found
}

fn config_unmet(text: &str, config: &Value) -> String {
    let fields: Map<String, Value> = match serde_json::from_str(text) {
        Ok(fields) => fields,
        Err(error) => return format!("the wanted config is no JSON: {error}\n"),
    };
    let value_of = |field: &str| {
        if OUTER_FIELDS.contains(&field) { &config[field] } else { &config["config"][field] }
    };
    fields
        .iter()
        .map(|(field, want)| (field, want, value_of(field)))
        .filter(|(_, want, got)| want != got && !(is_empty(want) && is_empty(got)))
        .map(|(field, want, got)| format!("  {field}\n    wanted {want}\n    got    {got}\n"))
        .collect::<Vec<_>>()
        .concat()
}

fn text_unmet(what: &str, want: &str, got: &str) -> String {
    if want == got {
        return String::new();
    }
    format!("  {what} wanted\n{want}  {what} got\n{got}")
}

/// The files that are not in `base`, and those of `base` that are gone.
fn tree_text(tree: &BTreeMap<String, String>, base: &BTreeMap<String, String>) -> String {
    // An image that is not made from busybox holds nothing of it: all its files are its own.
    let is_based = tree.contains_key("/bin/busybox");
    let changed = tree.iter().filter(|(path, line)| !is_based || base.get(*path) != Some(line));
    let mut lines: Vec<(&str, String)> =
        changed.map(|(path, line)| (path.as_str(), format!("{path} {line}\n"))).collect();
    let gone = base.keys().filter(|path| is_based && !tree.contains_key(*path));
    lines.extend(gone.map(|path| (path.as_str(), format!("{path} gone\n"))));
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

#[test]
fn values_of_arguments_do_not_count() {
    #[rustfmt::skip]
    let cases = [
        ("RUN |1 A /bin/sh -c x # buildkit",   "RUN |1 A=b c /bin/sh -c x # buildkit",   true),
        ("RUN |2 A B /bin/sh -c x # buildkit", "RUN |2 A=1 B=2 /bin/sh -c x # buildkit", true),
        ("RUN |2 B A /bin/sh -c x # buildkit", "RUN |2 A=1 B=2 /bin/sh -c x # buildkit", false),
        ("RUN |1 A /bin/sh -c y # buildkit",   "RUN |1 A=b /bin/sh -c x # buildkit",     false),
        ("RUN |1 A /bin/sh -c x # buildkit",   "RUN |2 A=b /bin/sh -c x # buildkit",     false),
    ];
    for (ours, theirs, want) in cases {
        assert_eq!(is_without_values(ours, theirs), want, "{ours} and {theirs}");
    }
    #[rustfmt::skip]
    let arguments = [
        ("ARG A",       "ARG A=secret",         true),
        ("ARG A B=1 C", "ARG A=x y B=1 C=z",    true),
        ("ARG A=1",     "ARG A=1=2",            false),
        ("ARG A B",     "ARG B=1 A=2",          false),
        ("ARG A",       "ARG A=1 B=2",          true),
        ("ENV A",       "ENV A=1",              false),
    ];
    for (ours, theirs, want) in arguments {
        assert_eq!(is_argument(ours, theirs), want, "{ours} and {theirs}");
    }
}
