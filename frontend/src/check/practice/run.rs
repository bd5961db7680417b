//! RUN as its rules see it: the commands of its script, and where they stand in the file.

use crate::Span;
use crate::ast::{Command, Run, Statement};
use crate::check::command::Program;
use crate::check::fix::Edit;
use crate::check::script::{self, Joint, ScriptCommand, ScriptWord};
use crate::lines::{Lines, Logical};

use super::{Practice, Settings, StageState};

/// A RUN in shell form, split into its commands.
pub(super) struct RunView<'a> {
    pub(super) statement: &'a Statement,
    run: &'a Run,
    pub(super) commands: Vec<ScriptCommand>,
    place: Place<'a>,
}

/// Where a script stands.
enum Place<'a> {
    /// On the instruction's line, continuations joined, from this offset on.
    Line(Box<Logical<'a>>, usize),
    /// In a heredoc whose body begins at this offset of the file.
    Body(usize),
}

impl<'a> RunView<'a> {
    /// Looks at a RUN; `None` where its script is none for a shell.
    fn new(source: &'a str, escape: char, statement: &'a Statement, run: &'a Run) -> Option<Self> {
        let Command::Shell(text) = &run.command else { return None };
        if let [heredoc] = run.heredocs.as_slice() {
            let mark = source.get(heredoc.mark.start..heredoc.mark.end)?;
            if text.text == mark {
                let body = source.get(heredoc.body.start..heredoc.body.end)?;
                if !is_for_shell(body) {
                    return None;
                }
                let commands = script::split(body);
                return Some(Self {
                    statement,
                    run,
                    commands,
                    place: Place::Body(heredoc.body.start),
                });
            }
        }
        let mut lines = Lines::at(source, statement.span.start);
        let first = lines.next_line()?;
        let logical = lines.join(first, escape);
        let whole = logical.trim(0..logical.text.len());
        let start = whole.end.checked_sub(text.text.len())?;
        if logical.text.get(start..whole.end)? != text.text {
            return None;
        }
        let commands = script::split(&text.text);
        Some(Self { statement, run, commands, place: Place::Line(Box::new(logical), start) })
    }

    /// The commands with what they run, looked through wrappers.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&ScriptCommand, Program<'_>)> {
        self.commands.iter().filter_map(|command| Some((command, Program::of(command)?)))
    }

    /// Where a word stands in the file.
    pub(super) fn span(&self, word: &ScriptWord) -> Span {
        match &self.place {
            Place::Line(logical, start) => {
                logical.span(start + word.range.start..start + word.range.end)
            }
            Place::Body(start) => Span::new(start + word.range.start, start + word.range.end),
        }
    }

    /// Writes `text` directly behind a word.
    pub(super) fn insert_behind(&self, word: &ScriptWord, text: &str) -> Vec<Edit> {
        let end = self.span(word).end;
        vec![Edit { span: Span::new(end, end), text: text.to_owned() }]
    }

    /// Adds `&& command` at the script's end, where the script is one chain of `&&`.
    pub(super) fn append(&self, command: &str) -> Vec<Edit> {
        let is_chain = self.commands.iter().enumerate().all(|(index, command)| {
            command.is_outermost && (index == 0 || command.joint == Joint::And)
        });
        let last = self.commands.last().filter(|last| is_chain && !last.is_redirected);
        match (last.and_then(|last| last.words.last()), &self.place) {
            (Some(word), Place::Line(logical, start))
                if logical.trim(0..logical.text.len()).end == start + word.range.end =>
            {
                self.insert_behind(word, &format!(" && {command}"))
            }
            _ => Vec::new(),
        }
    }

    /// Whether a cache or tmpfs is mounted at one of `paths`, or at a directory above.
    pub(super) fn mounts(&self, paths: &[&str]) -> bool {
        self.mount_targets().any(|target| {
            let target = target.trim_end_matches('/');
            paths.iter().any(|path| {
                path.strip_prefix(target)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        })
    }

    /// Whether the target of a cache or tmpfs mount has one of `parts` in it.
    pub(super) fn mounts_like(&self, parts: &[&str]) -> bool {
        self.mount_targets().any(|target| parts.iter().any(|part| target.contains(part)))
    }

    fn mount_targets(&self) -> impl Iterator<Item = &str> {
        self.run.mounts().iter().filter_map(|mount| {
            let value = |names: &[&str]| {
                let field = mount.fields.iter().find(|f| names.contains(&f.key.text.as_str()))?;
                field.value.as_ref().map(|value| value.text.as_str())
            };
            let keeps_out = matches!(value(&["type"]), Some("cache" | "tmpfs"));
            value(&["target", "dst", "destination"]).filter(|_| keeps_out)
        })
    }

    /// Flags as far as they keep two RUNs from being one.
    fn flags(&self) -> String {
        let run = self.run;
        format!(
            "{:?} {:?} {:?} {:?}",
            run.mounts().len(),
            run.network(),
            run.security(),
            run.devices()
        )
    }
}

impl Settings {
    /// Looks for settings that a script writes into the files of apt and pip.
    fn read(&mut self, script: &str) {
        self.apt_says_yes |= script.contains("Assume-Yes");
        self.apt_recommends |= script.contains("Install-Recommends");
        self.pip_no_cache |= script.contains("no-cache-dir = ");
    }
}

impl Practice<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        run: &Run,
        last_run: Option<&str>,
    ) {
        if let Command::Shell(text) = &run.command {
            state.settings.read(&text.text);
        }
        for heredoc in &run.heredocs {
            state.settings.read(&heredoc.content);
        }
        if !state.has_posix_shell() {
            return;
        }
        let escape = self.dockerfile.directives.escape;
        let Some(view) = RunView::new(self.source, escape, statement, run) else { return };
        self.shell_rules(state, &view);
        self.apt(state, &view);
        self.system_packages(state, &view);
        self.language_packages(state, &view);
        if let [command] = view.commands.as_slice()
            && matches!(view.place, Place::Line(..))
            && run.mounts().is_empty()
        {
            let flags = view.flags();
            if last_run == Some(flags.as_str()) {
                self.consecutive(statement, &view, command);
            }
            state.last_run = Some(flags);
        }
    }
}

/// Whether a heredoc's body is for a shell: it names none, or one.
fn is_for_shell(body: &str) -> bool {
    let Some(line) = body.trim_start().strip_prefix("#!") else { return true };
    let line = line.lines().next().unwrap_or_default();
    let mut words = line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    let name = words.find(|word| *word != "env" && !word.starts_with('-'));
    matches!(name, Some("sh" | "bash" | "dash" | "ash"))
}
