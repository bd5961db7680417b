//! Commands of RUN, whatever they install.

use crate::ast::Statement;
use crate::check::command::Program;
use crate::check::rule::{Origin, Rule};
use crate::check::script::{Joint, ScriptCommand};

use super::run::RunView;
use super::{Practice, Remark, StageState};

const CONSECUTIVE_RUNS: &str = "ConsecutiveRuns";
const NO_SUDO: &str = "NoSudo";
const POINTLESS_COMMAND: &str = "PointlessCommand";
const SET_PIPEFAIL: &str = "SetPipefail";
const USERADD_NO_LOG: &str = "UseraddNoLog";
const USE_SHELL: &str = "UseShell";
const USE_WORKDIR: &str = "UseWorkdir";
const WGET_AND_CURL: &str = "WgetAndCurl";
const WGET_PROGRESS: &str = "WgetProgress";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: CONSECUTIVE_RUNS,
        aliases: &["DL3059"],
        origin: Origin::Practice,
        summary: "Short RUN instructions in a row are one",
        why: "Each RUN makes a layer. Two single commands in a row are rarely worth two; what one of \
              them deletes of the other's stays in the image.",
        before: "FROM alpine:3.20\nRUN adduser -D app\nRUN mkdir /srv/app\n",
        after: "FROM alpine:3.20\nRUN adduser -D app && mkdir /srv/app\n",
        is_mendable: false,
    },
    Rule {
        name: NO_SUDO,
        aliases: &["DL3004"],
        origin: Origin::Practice,
        summary: "Commands are not run by sudo",
        why: "RUN is root unless USER says otherwise, so sudo changes nothing, or hides a USER that \
              stands in the wrong place. In the image it is one more way to become root.",
        before: "FROM debian:12\nRUN sudo mkdir /srv/app\n",
        after: "FROM debian:12\nRUN mkdir /srv/app\n",
        is_mendable: false,
    },
    Rule {
        name: POINTLESS_COMMAND,
        aliases: &["DL3001"],
        origin: Origin::Practice,
        summary: "A build runs no editors, monitors and service managers",
        why: "A build has no terminal, no other processes and nothing that goes on running when the \
              step ends, so these do nothing, or nothing that lasts.",
        before: "FROM debian:12\nRUN service nginx start\n",
        after: "FROM debian:12\nCMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
        is_mendable: false,
    },
    Rule {
        name: SET_PIPEFAIL,
        aliases: &["DL4006"],
        origin: Origin::Practice,
        summary: "A shell that runs a pipe has `pipefail` set",
        why: "A pipe ends as its last command ends. If the first one fails, say a download, the step \
              succeeds all the same, and its broken result is cached.",
        before: "FROM debian:12\nRUN curl -fsS https://example.org/a.tar | tar -x -C /srv\n",
        after: "FROM debian:12\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN curl -fsS https://example.org/a.tar | tar -x -C /srv\n",
        is_mendable: false,
    },
    Rule {
        name: USERADD_NO_LOG,
        aliases: &["DL3046"],
        origin: Origin::Practice,
        summary: "`useradd` with a large user id has `-l`",
        why: "Without it useradd writes to /var/log/lastlog and faillog at the place of the user's \
              number: sparse files whose holes become gigabytes in a layer.",
        before: "FROM debian:12\nRUN useradd -u 1234567 app\n",
        after: "FROM debian:12\nRUN useradd -l -u 1234567 app\n",
        is_mendable: true,
    },
    Rule {
        name: USE_SHELL,
        aliases: &["DL4005"],
        origin: Origin::Practice,
        summary: "The shell of RUN is changed by SHELL, not by replacing /bin/sh",
        why: "Scripts of the distribution count on its own /bin/sh. SHELL changes what RUN, CMD and \
              ENTRYPOINT use, and leaves the rest alone.",
        before: "FROM debian:12\nRUN ln -sf /bin/bash /bin/sh\n",
        after: "FROM debian:12\nSHELL [\"/bin/bash\", \"-c\"]\n",
        is_mendable: false,
    },
    Rule {
        name: USE_WORKDIR,
        aliases: &["DL3003"],
        origin: Origin::Practice,
        summary: "RUN does not begin with `cd`; WORKDIR sets the directory",
        why: "WORKDIR makes the directory, holds for the instructions below, and shows where things \
              happen. `cd` is gone when the step ends.",
        before: "FROM alpine:3.20\nRUN cd /srv/app && ./configure\n",
        after: "FROM alpine:3.20\nWORKDIR /srv/app\nRUN ./configure\n",
        is_mendable: false,
    },
    Rule {
        name: WGET_AND_CURL,
        aliases: &["DL4001"],
        origin: Origin::Practice,
        summary: "A stage uses either wget or curl",
        why: "Both do the same. Using both means installing both, with two sets of habits to review.",
        before: "FROM debian:12\nRUN wget -q https://example.org/a\nCOPY b /b\nRUN curl -fsSO https://example.org/c\n",
        after: "FROM debian:12\nRUN curl -fsSO https://example.org/a\nCOPY b /b\nRUN curl -fsSO https://example.org/c\n",
        is_mendable: false,
    },
    Rule {
        name: WGET_PROGRESS,
        aliases: &["DL3047"],
        origin: Origin::Practice,
        summary: "wget does not draw a progress bar into the log",
        why: "The bar becomes hundreds of lines in a build's log. `-nv` writes one a file, `-q` none, \
              `--progress=dot:giga` a few.",
        before: "FROM debian:12\nRUN wget https://example.org/a\n",
        after: "FROM debian:12\nRUN wget -nv https://example.org/a\n",
        is_mendable: false,
    },
];

/// Programs that make no sense in a build.
const POINTLESS: [&str; 10] =
    ["vim", "nano", "top", "htop", "ps", "free", "shutdown", "reboot", "service", "ifconfig"];

/// Commands whose failure at a pipe's head nobody waits for.
const HARMLESS: [&str; 4] = ["echo", "printf", "yes", "true"];

impl Practice<'_> {
    pub(super) fn shell_rules(&mut self, state: &mut StageState, view: &RunView<'_>) {
        let comments = &view.statement.comments;
        self.pipes(state, view);
        if let Some(first) = view.commands.first()
            && first.is_outermost
            && first.words[0].text == "cd"
            && view.commands.len() > 1
            && first.words.get(1).is_some_and(|dir| dir.is_plain)
        {
            let dir = &first.words[1].text;
            let message = format!("`cd {dir}` is gone when the step ends");
            let remark = Remark::new(USE_WORKDIR, view.span(&first.words[0]), message);
            self.say(comments, remark.help("set the directory with WORKDIR"));
        }
        for command in &view.commands {
            let word = &command.words[0];
            if word.text.rsplit('/').next() == Some("sudo") {
                let message =
                    "sudo has no use in a build, which is root unless USER says otherwise";
                self.say(comments, Remark::new(NO_SUDO, view.span(word), message));
            }
        }
        for (command, program) in view.programs() {
            self.program(state, view, command, program);
        }
    }

    fn program(
        &mut self,
        state: &mut StageState,
        view: &RunView<'_>,
        command: &ScriptCommand,
        program: Program<'_>,
    ) {
        let comments = &view.statement.comments;
        let span = view.span(program.word);
        let name = program.name;
        if POINTLESS.contains(&name) {
            let message = format!("`{name}` does nothing in a build that lasts");
            self.say(comments, Remark::new(POINTLESS_COMMAND, span, message));
        }
        let texts: Vec<&str> = program.arguments.iter().map(|word| word.text.as_str()).collect();
        match name {
            "ln" if texts.last() == Some(&"/bin/sh") => {
                let message = "replacing /bin/sh changes it for every program of the image";
                let remark = Remark::new(USE_SHELL, span, message);
                self.say(comments, remark.help(r#"write SHELL ["/bin/bash", "-c"]"#));
            }
            "useradd" => {
                let arguments = program.split(&["-u", "--uid", "-g", "-G", "-d", "-s", "-c"]);
                let is_large = arguments.options.iter().any(|(option, value)| {
                    let value = option.strip_prefix("--uid=").or(*value);
                    matches!(*option, "-u" | "--uid") && value.is_some_and(|id| id.len() > 5)
                        || option.starts_with("--uid=") && value.is_some_and(|id| id.len() > 5)
                });
                if is_large && !arguments.has(&["-l", "--no-log-init"]) {
                    let message = "a large user id makes huge sparse log files";
                    let edits = view.insert_behind(program.word, " -l");
                    let remark = Remark::new(USERADD_NO_LOG, span, message).edits(edits);
                    self.say(comments, remark.help("add `-l`"));
                }
            }
            "tar" | "unzip" if unpacks(&texts) => self.unpacked(state, &texts),
            "wget" => {
                self.fetcher(state, view, "wget", program);
                self.wget(state, view, command, program);
            }
            "curl" => self.fetcher(state, view, "curl", program),
            _ => {}
        }
    }

    fn wget(
        &mut self,
        state: &StageState,
        view: &RunView<'_>,
        command: &ScriptCommand,
        program: Program<'_>,
    ) {
        // BusyBox has no such option, and draws no bar either.
        let is_busybox = ["alpine", "busybox"].iter().any(|name| state.image.contains(name));
        let arguments = program.split(&["-O", "-o", "-a", "-P", "-U"]);
        let quiet = [
            "-q",
            "--quiet",
            "-nv",
            "--no-verbose",
            "--progress",
            "-o",
            "--output-file",
            "-a",
            "--append-output",
            "--version",
            "-V",
            "--help",
            "-h",
            "--spider",
        ];
        if is_busybox || command.is_redirected || arguments.has(&quiet) {
            return;
        }
        let message = "wget draws its progress bar into the log";
        let remark = Remark::new(WGET_PROGRESS, view.span(program.word), message);
        self.say(&view.statement.comments, remark.help("add `-nv`, `-q` or `--progress=dot:giga`"));
    }

    /// Remembers a use of curl or wget, and speaks of the second of the two.
    fn fetcher(
        &mut self,
        state: &mut StageState,
        view: &RunView<'_>,
        name: &'static str,
        program: Program<'_>,
    ) {
        let span = view.span(program.word);
        let comments = view.statement.comments.clone();
        let other = if name == "curl" { "wget" } else { "curl" };
        let is_first = !state.fetchers.contains_key(name);
        if is_first && state.fetchers.contains_key(other) {
            let message = format!("this stage uses {other} already");
            let help = format!("use {other} here, too");
            self.say(&comments, Remark::new(WGET_AND_CURL, span, message).help(&help));
        }
        state.fetchers.entry(name).or_insert((span, comments));
    }

    fn pipes(&mut self, state: &StageState, view: &RunView<'_>) {
        let from_shell = state
            .shell
            .as_ref()
            .is_some_and(|shell| shell.iter().any(|word| word.contains("pipefail")));
        if from_shell {
            return;
        }
        for (index, command) in view.commands.iter().enumerate() {
            let is_set = command.words[0].text == "set"
                && command.words.iter().any(|word| word.text.contains("pipefail"));
            if is_set {
                return;
            }
            let Some(before) = index.checked_sub(1).map(|index| &view.commands[index]) else {
                continue;
            };
            let head = before.words[0].text.as_str();
            if command.joint == Joint::Pipe && !HARMLESS.contains(&head) {
                let message = format!("if `{head}` fails, the pipe succeeds all the same");
                let remark = Remark::new(SET_PIPEFAIL, view.span(&before.words[0]), message);
                let help = r#"put SHELL ["/bin/bash", "-o", "pipefail", "-c"] above, or begin with `set -o pipefail &&` where the shell has it"#;
                self.say(&view.statement.comments, remark.help(help));
                return;
            }
        }
    }

    pub(super) fn consecutive(
        &mut self,
        statement: &Statement,
        view: &RunView<'_>,
        command: &ScriptCommand,
    ) {
        let message = "this RUN and the one above are single commands";
        let span = statement.keyword.span.join(view.span(&command.words[0]));
        let remark = Remark::new(CONSECUTIVE_RUNS, span, message);
        self.say(&statement.comments, remark.help("join them with `&&`"));
    }
}

/// Whether the arguments of tar or unzip ask to unpack.
fn unpacks(words: &[&str]) -> bool {
    let Some(first) = words.first() else { return false };
    let is_tar_mode = |word: &str| {
        let cluster = word.strip_prefix('-').unwrap_or(word);
        cluster.contains('x') && cluster.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    words.iter().any(|word| {
        *word == "--extract"
            || *word == "--get"
            || word.rsplit_once('.').is_some_and(|(_, end)| end == "zip")
    }) || is_tar_mode(first)
        || words
            .iter()
            .any(|word| word.starts_with('-') && !word.starts_with("--") && is_tar_mode(word))
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn commands() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 27] = [
            ("sudo",               NO_SUDO, "RUN a && /usr/bin/sudo -E b\n",                  &["/usr/bin/sudo"]),
            ("sudo as a word",     NO_SUDO, "RUN echo sudo; apk add sudo\n",                  &[]),
            ("cd first",           USE_WORKDIR, "RUN cd /x && make\n",                        &["cd"]),
            ("cd later",           USE_WORKDIR, "RUN a && cd /x && make\n",                   &[]),
            ("cd into a variable", USE_WORKDIR, "RUN cd $X && make\n",                        &[]),
            ("cd in a subshell",   USE_WORKDIR, "RUN (cd /x && make)\n",                      &[]),
            ("service",            POINTLESS_COMMAND, "RUN service x start\n",                &["service"]),
            ("installing vim",     POINTLESS_COMMAND, "RUN apk add vim\n",                    &[]),
            ("pipe",               SET_PIPEFAIL, "RUN curl x | sh\n",                         &["curl"]),
            ("pipe in a block",    SET_PIPEFAIL, "RUN if a | b; then c; fi\n",                &["a"]),
            ("harmless head",      SET_PIPEFAIL, "RUN echo x | tee /y\n",                     &[]),
            ("set first",          SET_PIPEFAIL, "RUN set -eux -o pipefail; a | b\n",         &[]),
            ("by SHELL",           SET_PIPEFAIL, "SHELL [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\"]\nRUN a | b\n", &[]),
            ("powershell",         SET_PIPEFAIL, "SHELL [\"powershell\", \"-Command\"]\nRUN a | b\n", &[]),
            ("or is no pipe",      SET_PIPEFAIL, "RUN a || b\n",                              &[]),
            ("in a heredoc",       SET_PIPEFAIL, "RUN <<E\na | b\nE\n",                       &["a"]),
            ("heredoc of python",  SET_PIPEFAIL, "RUN <<E\n#!/usr/bin/env python3\na | b\nE\n", &[]),
            ("large id",           USERADD_NO_LOG, "RUN useradd -m --uid=123456 a\n",         &["useradd"]),
            ("small id",           USERADD_NO_LOG, "RUN useradd -u 1000 a\n",                 &[]),
            ("replaced sh",        USE_SHELL, "RUN rm /bin/sh && ln -s /bin/bash /bin/sh\n",  &["ln"]),
            ("another link",       USE_SHELL, "RUN ln -s /bin/sh /bin/x\n",                   &[]),
            ("both",               WGET_AND_CURL, "RUN wget -q a\nRUN curl b; curl c\n",      &["curl"]),
            ("one of them",        WGET_AND_CURL, "RUN curl a\nRUN curl b\n",                 &[]),
            ("wget",               WGET_PROGRESS, "RUN wget -O x https://y\n",                &["wget"]),
            ("wget -qO-",          WGET_PROGRESS, "RUN wget -qO- https://y\n",                &[]),
            ("two RUNs",           CONSECUTIVE_RUNS, "RUN a\nRUN b\n",                        &["RUN b"]),
            ("RUNs with chains",   CONSECUTIVE_RUNS, "RUN a && b\nRUN c\nCOPY x /x\nRUN d\n", &[]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(&format!("FROM a:1\n{source}"), rule), want, "{name}");
        }
        assert!(said("FROM alpine:1\nRUN wget x\n", WGET_PROGRESS).is_empty());
    }
}
