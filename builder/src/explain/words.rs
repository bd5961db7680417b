//! Says in one line what differs.

use std::fmt::Write as _;

use cache::{Change, FileChanges, Named};

/// The component that names a base image.
pub(super) const MANIFEST: &str = "manifest";

/// Files named in a line; the data has more.
const SHOWN_FILES: usize = 3;

/// Changes told in a line; the data has all.
const SHOWN_CHANGES: usize = 3;

/// Characters of a value in a line.
const SHOWN_VALUE: usize = 60;

/// Hex digits of a digest in a line.
const SHOWN_DIGEST: usize = 12;

/// What is known of the instruction that is spoken of.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// On one line.
    pub(super) text: &'a str,
    /// As it stood in the earlier build.
    pub(super) earlier: Option<&'a str>,
    /// All instructions of its stage.
    pub(super) stage: Vec<&'a str>,
}

/// Whether a component stands for another step's result.
pub(super) fn is_input(name: &str) -> bool {
    input_number(name).is_some()
}

/// Returns which input a component stands for.
pub(super) fn input_number(name: &str) -> Option<usize> {
    index(name, "inputs")?.parse().ok()
}

/// Returns `X` of `name[X]`.
fn index<'a>(component: &'a str, name: &str) -> Option<&'a str> {
    component.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')
}

/// Tells `changes` in one line that begins with the instruction.
pub(super) fn line(view: &View<'_>, changes: &[Change], files: Option<&FileChanges>) -> String {
    let mut parts = Vec::new();
    if let Some(files) = files {
        parts.extend(file_parts(files, source(view.text)));
    }
    parts.extend(argument_part(view, changes));
    for change in changes {
        parts.extend(part(view, change, files.is_some()));
    }
    let more = parts.len().saturating_sub(SHOWN_CHANGES);
    parts.truncate(SHOWN_CHANGES);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    format!("{}: {}", subject(view.text), parts.join(", "))
}

/// Shortens an instruction to what names it: `COPY src`, `RUN`, `FROM node:14`.
fn subject(text: &str) -> String {
    let mut words = text.split_whitespace();
    let instruction = words.next().unwrap_or("step").to_ascii_uppercase();
    if matches!(instruction.as_str(), "RUN" | "WORKDIR") {
        return instruction;
    }
    let name = words.find(|word| !word.starts_with("--")).unwrap_or_default();
    format!("{instruction} {}", clip(name)).trim_end().to_owned()
}

/// Returns the one directory that an instruction copies: names below it are told without it.
fn source(text: &str) -> Option<&str> {
    let words: Vec<&str> =
        text.split_whitespace().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [source, _] = words.as_slice() else { return None };
    Some(source.trim_start_matches("./").trim_matches('/'))
}

fn file_parts(files: &FileChanges, below: Option<&str>) -> Vec<String> {
    let mut parts = Vec::new();
    for (named, what) in
        [(&files.changed, "changed"), (&files.added, "added"), (&files.removed, "removed")]
    {
        if named.count > 0 {
            parts.push(format!("{} {what} ({})", count(named.count, "file"), names(named, below)));
        }
    }
    if files.modes.count > 0 {
        let what = count(files.modes.count, "mode change");
        parts.push(format!("{what} ({})", names(&files.modes, below)));
    }
    parts
}

fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn names(named: &Named, below: Option<&str>) -> String {
    let short = |name: &String| {
        let rest = below.and_then(|below| name.strip_prefix(below)?.strip_prefix('/'));
        rest.unwrap_or(name).to_owned()
    };
    let mut text = named.names.iter().take(SHOWN_FILES).map(short).collect::<Vec<_>>().join(", ");
    if named.count > SHOWN_FILES {
        let _ = write!(text, ", ...");
    }
    text
}

/// Tells the arguments of a RUN as one change.
fn argument_part(view: &View<'_>, changes: &[Change]) -> Option<String> {
    let arguments: Vec<&Change> =
        changes.iter().filter(|change| index(&change.name, "arguments").is_some()).collect();
    let join = |side: fn(&Change) -> Option<&String>| {
        let words = arguments.iter().filter_map(|&it| side(it).map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    };
    let (before, after) = (join(|it| it.before.as_ref()), join(|it| it.after.as_ref()));
    // The same text in the file runs with other arguments only when the shell before it changed.
    let what = if view.earlier == Some(view.text) { "SHELL" } else { "command" };
    (!arguments.is_empty()).then(|| format!("{what} {} -> {}", quoted(&before), quoted(&after)))
}

fn part(view: &View<'_>, change: &Change, has_files: bool) -> Option<String> {
    let Change { name, before, after } = change;
    let values = || match (before, after) {
        (Some(before), Some(after)) => format!("{} -> {}", quoted(before), quoted(after)),
        (None, Some(after)) => format!("{} is new", quoted(after)),
        (Some(before), None) => format!("{} is gone", quoted(before)),
        (None, None) => String::new(),
    };
    if is_input(name) || index(name, "arguments").is_some() {
        return None;
    }
    if let Some(variable) = index(name, "env") {
        let what = variable_kind(view, variable);
        return Some(format!("{what} {variable}: {}", values()));
    }
    if index(name, "mounts").is_some() {
        return Some(mount_part(before.as_deref(), after.as_deref()));
    }
    if let Some(file) = index(name, "files") {
        return Some(format!("heredoc {file} changed"));
    }
    Some(match name.as_str() {
        "content" if has_files => return None,
        "content" => "its files changed".to_owned(),
        "ignore file" => "the ignore file changed".to_owned(),
        MANIFEST => {
            let plain = |value: &Option<String>| value.as_deref().map(clip).unwrap_or_default();
            format!("digest {} -> {}", plain(before), plain(after))
        }
        "cwd" => format!("working directory {}", values()),
        "owner" => format!("--chown {}", values()),
        "mode" => format!("--chmod {}", values()),
        "destination is dir" | "parents" | "insecure" => format!("{name} changed"),
        _ => {
            let what = name.split('[').next().unwrap_or(name);
            format!("{what} {}", values())
        }
    })
}

/// An ENV instruction of the stage wins over an ARG, as it does for the command.
fn variable_kind(view: &View<'_>, variable: &str) -> &'static str {
    let sets = |instruction: &str| {
        view.stage.iter().any(|text| {
            is_instruction(text, instruction)
                && text
                    .split_whitespace()
                    .skip(1)
                    .any(|word| word.split('=').next().is_some_and(|name| name == variable))
        })
    };
    match (sets("ENV"), sets("ARG")) {
        (true, _) => "ENV",
        (false, true) => "build arg",
        (false, false) => "variable",
    }
}

fn is_instruction(text: &str, instruction: &str) -> bool {
    text.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case(instruction))
}

/// Mounts are texts of words and quoted words; of a secret its id is what people know it by.
fn mount_part(before: Option<&str>, after: Option<&str>) -> String {
    let kind = |mount: &str| mount.split(' ').next().unwrap_or_default().to_owned();
    let id = |mount: &str| mount.split('"').nth(3).unwrap_or_default().to_owned();
    match (before, after) {
        (Some(before), Some(after)) if kind(before) == kind(after) && id(before) != id(after) => {
            let what = if kind(after) == "bind" { "source" } else { "id" };
            format!("{} {what} \"{}\" -> \"{}\"", kind(after), id(before), id(after))
        }
        (Some(_), Some(after)) => format!("{} mount changed", kind(after)),
        (None, Some(after)) => format!("{} mount is new", kind(after)),
        (Some(before), None) => format!("{} mount is gone", kind(before)),
        (None, None) => String::new(),
    }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", clip(value))
}

/// Shortens digests to what tells them apart, and other texts at their end.
fn clip(value: &str) -> String {
    if let Some(hex) = value.strip_prefix("sha256:")
        && hex.len() == 64
    {
        return format!("sha256:{}..", &hex[..SHOWN_DIGEST]);
    }
    if value.chars().count() <= SHOWN_VALUE {
        return value.to_owned();
    }
    value.chars().take(SHOWN_VALUE).chain("...".chars()).collect()
}

/// Says `seconds` in the largest unit that is whole.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, before: &str, after: &str) -> Change {
        let value = |text: &str| (text != "-").then(|| text.to_owned());
        Change { name: name.into(), before: value(before), after: value(after) }
    }

    #[test]
    fn each_kind_of_change_has_its_words() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let (a, b) = (digest("a"), digest("b"));
        let run = "RUN npm test";
        let secret = |id: &str| format!(r#"secret "/run/secrets/{id}" "{id}" "" true 400 0 0"#);
        #[rustfmt::skip]
        let cases = [
            ("RUN npm test",        change("env[V]", "1", "2"),                      r#"RUN: build arg V: "1" -> "2""#),
            ("RUN npm test",        change("env[E]", "1", "2"),                      r#"RUN: ENV E: "1" -> "2""#),
            ("RUN npm test",        change("env[OLD]", "1", "2"),                    r#"RUN: ENV OLD: "1" -> "2""#),
            ("RUN npm test",        change("env[PATH]", "-", "/bin"),                r#"RUN: variable PATH: "/bin" is new"#),
            ("RUN npm test",        change("env[PATH]", "/bin", "-"),                r#"RUN: variable PATH: "/bin" is gone"#),
            ("RUN npm test",        change("arguments[0]", "/bin/sh", "/bin/bash"),  r#"RUN: SHELL "/bin/sh" -> "/bin/bash""#),
            ("RUN npm ci",          change("arguments[2]", "npm test", "npm ci"),    r#"RUN: command "npm test" -> "npm ci""#),
            ("RUN npm test",        change("platform", "linux/amd64", "linux/arm64"), r#"RUN: platform "linux/amd64" -> "linux/arm64""#),
            ("RUN npm test",        change("cwd", "/a", "/b"),                       r#"RUN: working directory "/a" -> "/b""#),
            ("RUN npm test",        change("user", "", "me"),                        r#"RUN: user "" -> "me""#),
            ("RUN npm test",        change("network", "default", "none"),            r#"RUN: network "default" -> "none""#),
            ("RUN npm test",        change("mounts[0]", &secret("one"), &secret("two")), r#"RUN: secret id "one" -> "two""#),
            ("RUN npm test",        change("mounts[0]", "-", &secret("one")),        "RUN: secret mount is new"),
            ("RUN npm test",        change("files[EOF]", "x", "y"),                  "RUN: heredoc EOF changed"),
            ("FROM node:14",        change("manifest", &a, &b),                      "FROM node:14: digest sha256:aaaaaaaaaaaa.. -> sha256:bbbbbbbbbbbb.."),
            ("COPY --chmod=1 a /b", change("mode", "1", "2"),                        r#"COPY a: --chmod "1" -> "2""#),
            ("COPY a /b",           change("destination", "/a", "/b"),               r#"COPY a: destination "/a" -> "/b""#),
            ("COPY a /b",           change("content", &a, &b),                       "COPY a: its files changed"),
        ];
        for (text, change, want) in cases {
            let stage = vec!["FROM x", "ARG V=1", "ENV D=4 E=1", "ENV OLD 5", text];
            let view = View { text, earlier: Some(run), stage };
            assert_eq!(line(&view, &[change], None), want);
        }
    }

    #[test]
    fn files_are_named_below_their_source() {
        let named = |names: &[&str]| Named {
            count: names.len(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let files = FileChanges {
            changed: named(&["src/a.js", "src/b.js"]),
            removed: named(&["src/1", "src/2", "src/3", "src/4"]),
            modes: named(&["src/x"]),
            ..FileChanges::default()
        };
        let view = |text| View { text, earlier: None, stage: Vec::new() };
        #[rustfmt::skip]
        let cases = [
            ("COPY src /src", "COPY src: 2 files changed (a.js, b.js), 4 files removed (1, 2, 3, ...), 1 mode change (x)"),
            ("COPY . .",      "COPY .: 2 files changed (src/a.js, src/b.js), 4 files removed (src/1, src/2, src/3, ...), 1 mode change (src/x)"),
        ];
        for (text, want) in cases {
            assert_eq!(line(&view(text), &[], Some(&files)), want);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let view = View { text: "RUN x", earlier: None, stage: Vec::new() };
        let changes: Vec<Change> =
            (0..5).map(|number| change(&format!("env[V{number}]"), "1", "2")).collect();
        let told = line(&view, &changes, None);
        assert!(told.ends_with(r#"variable V2: "1" -> "2", 2 more"#), "{told}");
        assert_eq!(clip(&"x".repeat(100)).len(), SHOWN_VALUE + 3);
    }

    #[test]
    fn spans_are_told_in_one_unit() {
        #[rustfmt::skip]
        let cases = [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (172_800, "2 days")];
        for (seconds, want) in cases {
            assert_eq!(span(seconds), want);
        }
    }
}
