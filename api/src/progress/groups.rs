//! Collapsible groups of log lines, where the CI that shows them knows any: one a step.
//!
//! A log has one open group at most, and steps run side by side. So the group that is open takes what
//! its step says at once, and what other steps say is held until it is closed, up to a bound.

use std::collections::BTreeMap;

/// Bytes of one step that are held; what is more goes out at once, outside of its group.
const HELD_LIMIT: usize = 1 << 20;

/// Whose groups they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `::group::` (GitHub, "Workflow commands"); Gitea and Forgejo follow it.
    Github,
    /// `section_start` (GitLab, "Custom collapsible sections").
    Gitlab,
}

impl Style {
    /// Tells the CI by the variables that it sets.
    pub(super) fn of_environment() -> Option<Self> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "true");
        if is_set("GITHUB_ACTIONS") {
            Some(Self::Github)
        } else if is_set("GITLAB_CI") {
            Some(Self::Gitlab)
        } else {
            None
        }
    }

    fn begin(self, step: usize, title: &str, seconds: u64) -> String {
        match self {
            Self::Github => format!("::group::{title}\n"),
            Self::Gitlab => format!(
                "\x1b[0Ksection_start:{seconds}:rbuild_step_{step}[collapsed=true]\r\x1b[0K{title}\n"
            ),
        }
    }

    fn end(self, step: usize, seconds: u64) -> String {
        match self {
            Self::Github => "::endgroup::\n".to_owned(),
            Self::Gitlab => {
                format!("\x1b[0Ksection_end:{seconds}:rbuild_step_{step}\r\x1b[0K\n")
            }
        }
    }
}

/// What was said by a step whose group is not open.
#[derive(Debug, Default)]
struct Held {
    title: String,
    text: String,
    is_over: bool,
}

/// The groups of one log.
#[derive(Debug)]
pub(super) struct Groups {
    style: Style,
    /// Seconds since 1970.
    now: fn() -> u64,
    open: Option<usize>,
    held: BTreeMap<usize, Held>,
}

impl Groups {
    /// Makes groups of `style`; `now` gives seconds since 1970.
    pub(super) fn new(style: Style, now: fn() -> u64) -> Self {
        Self { style, now, open: None, held: BTreeMap::new() }
    }

    /// Takes what `step` says and returns what is to be written now. `is_over` where it says no more.
    pub(super) fn add(&mut self, step: usize, title: &str, text: &str, is_over: bool) -> String {
        let mut out = String::new();
        match self.open {
            Some(open) if open != step => {
                let held = self.held.entry(step).or_default();
                held.is_over |= is_over;
                if held.text.len() + text.len() > HELD_LIMIT {
                    return text.to_owned();
                }
                title.clone_into(&mut held.title);
                held.text += text;
                return out;
            }
            Some(_) => out += text,
            // A step that is over as soon as it begins needs no group.
            None if is_over => return text.to_owned(),
            None => {
                out += &self.style.begin(step, title, (self.now)());
                out += text;
                self.open = Some(step);
            }
        }
        if is_over {
            out += &self.close();
        }
        out
    }

    /// Closes the group that is open, and writes what was held until one is open again.
    fn close(&mut self) -> String {
        let mut out = String::new();
        if let Some(step) = self.open.take() {
            out += &self.style.end(step, (self.now)());
        }
        while let Some((step, Held { title, text, is_over })) = self.held.pop_first() {
            out += &self.style.begin(step, &title, (self.now)());
            out += &text;
            if !is_over {
                self.open = Some(step);
                break;
            }
            out += &self.style.end(step, (self.now)());
        }
        out
    }

    /// Closes all, for what concerns the whole build.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        while self.open.is_some() || !self.held.is_empty() {
            out += &self.close();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_is_open_and_the_rest_waits() {
        let mut groups = Groups::new(Style::Github, || 7);
        let mut out = groups.add(9, "cached", "cached\n", true);
        out += &groups.add(0, "zero", "a\n", false);
        out += &groups.add(1, "one", "b\n", false);
        out += &groups.add(2, "two", "c\n", true);
        out += &groups.add(0, "zero", "d\n", false);
        out += &groups.add(0, "zero", "e\n", true);
        out += &groups.add(1, "one", "f\n", false);
        out += &groups.finish();
        let want = "\
cached
::group::zero
a
d
e
::endgroup::
::group::one
b
f
::endgroup::
::group::two
c
::endgroup::
";
        assert_eq!(out, want);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut groups = Groups::new(Style::Gitlab, || 7);
        let begun = groups.add(0, "zero", "a\n", false);
        let want = "\x1b[0Ksection_start:7:rbuild_step_0[collapsed=true]\r\x1b[0Kzero\na\n";
        assert_eq!(begun, want);
        let much = "x".repeat(HELD_LIMIT);
        assert_eq!(groups.add(1, "one", &much, false), "");
        assert_eq!(groups.add(1, "one", "more\n", false), "more\n");
        let end = groups.finish();
        assert!(end.starts_with("\x1b[0Ksection_end:7:rbuild_step_0\r\x1b[0K\n"));
        assert!(end.ends_with("\x1b[0Ksection_end:7:rbuild_step_1\r\x1b[0K\n"));
    }
}
