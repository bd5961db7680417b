//! Package managers of languages: pip, npm, yarn, gem and go.

use crate::check::command::Program;
use crate::check::rule::{Origin, Rule};
use crate::check::script::ScriptWord;

use super::run::RunView;
use super::{Practice, Remark, StageState};

const CLEAN_YARN_CACHE: &str = "CleanYarnCache";
const PIN_GEMS: &str = "PinGems";
const PIN_GO_TOOLS: &str = "PinGoTools";
const PIN_NPM_PACKAGES: &str = "PinNpmPackages";
const PIN_PIP_PACKAGES: &str = "PinPipPackages";
const PIP_NO_CACHE: &str = "PipNoCache";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: CLEAN_YARN_CACHE,
        aliases: &["DL3060"],
        origin: Origin::Practice,
        summary: "A RUN with `yarn install` cleans yarn's cache, or mounts one",
        why: "yarn keeps a copy of every package beside node_modules. In a layer it is only weight.",
        before: "FROM node:22\nRUN yarn install --frozen-lockfile\n",
        after: "FROM node:22\nRUN yarn install --frozen-lockfile && yarn cache clean\n",
        is_mendable: true,
    },
    Rule {
        name: PIN_GEMS,
        aliases: &["DL3028"],
        origin: Origin::Practice,
        summary: "`gem install` has a version for each gem",
        why: "Without one the build takes what was published last, and two builds of one file differ.",
        before: "FROM ruby:3.3\nRUN gem install rake\n",
        after: "FROM ruby:3.3\nRUN gem install rake:13.2.1\n",
        is_mendable: false,
    },
    Rule {
        name: PIN_GO_TOOLS,
        aliases: &["DL3062"],
        origin: Origin::Practice,
        summary: "`go install` has a version for each program",
        why: "`@latest` is what was tagged last: two builds of one file differ.",
        before: "FROM golang:1.23\nRUN go install example.org/tool@latest\n",
        after: "FROM golang:1.23\nRUN go install example.org/tool@v1.4.2\n",
        is_mendable: false,
    },
    Rule {
        name: PIN_NPM_PACKAGES,
        aliases: &["DL3016"],
        origin: Origin::Practice,
        summary: "`npm install NAME` has a version",
        why: "Without one the build takes what was published last, and two builds of one file \
              differ. `npm ci` takes everything from the lock file.",
        before: "FROM node:22\nRUN npm install -g pnpm\n",
        after: "FROM node:22\nRUN npm install -g pnpm@9.12.0\n",
        is_mendable: false,
    },
    Rule {
        name: PIN_PIP_PACKAGES,
        aliases: &["DL3013"],
        origin: Origin::Practice,
        summary: "`pip install` has a version for each package, or a requirements file",
        why: "Without one the build takes what was published last, and two builds of one file differ.",
        before: "FROM python:3.13\nRUN pip install --no-cache-dir flask\n",
        after: "FROM python:3.13\nRUN pip install --no-cache-dir flask==3.0.3\n",
        is_mendable: false,
    },
    Rule {
        name: PIP_NO_CACHE,
        aliases: &["DL3042"],
        origin: Origin::Practice,
        summary: "`pip install` keeps no cache in the layer",
        why: "pip keeps every package that it fetched or built in /root/.cache. In a layer it is only \
              weight; in a cache mount it saves the next build.",
        before: "FROM python:3.13\nRUN pip install -r requirements.txt\n",
        after: "FROM python:3.13\nRUN pip install --no-cache-dir -r requirements.txt\n",
        is_mendable: true,
    },
];

const PIP_WITH_VALUE: [&str; 18] = [
    "-r",
    "--requirement",
    "-c",
    "--constraint",
    "-e",
    "--editable",
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "-t",
    "--target",
    "--prefix",
    "--root",
    "--trusted-host",
    "--platform",
    "--python-version",
];

const NPM_WITH_VALUE: [&str; 8] = [
    "--prefix",
    "--registry",
    "-w",
    "--workspace",
    "--tag",
    "--cache",
    "--loglevel",
    "--userconfig",
];

impl Practice<'_> {
    pub(super) fn language_packages(&mut self, state: &StageState, view: &RunView<'_>) {
        let mut yarn: Option<&ScriptWord> = None;
        for (_, program) in view.programs() {
            if let Some(program) = as_pip(program) {
                self.pip(state, view, program);
                continue;
            }
            match program.name {
                "npm" => self.npm(view, program),
                "gem" => self.gem(view, program),
                "go" => self.go(view, program),
                "yarn" => {
                    let arguments = program.split(&["--cwd", "--cache-folder"]);
                    let words: Vec<&str> =
                        arguments.others.iter().map(|word| word.text.as_str()).collect();
                    match words.as_slice() {
                        [] if arguments.has(&["--version", "-v", "--help"]) => {}
                        [] | ["install", ..] => yarn = Some(program.word),
                        ["cache", "clean", ..] => yarn = None,
                        _ => {}
                    }
                }
                "rm" if program.arguments.iter().any(|word| word.text.contains("yarn")) => {
                    yarn = None;
                }
                _ => {}
            }
        }
        if let Some(word) = yarn.filter(|_| state.is_kept)
            && !view.mounts_like(&["yarn", ".cache"])
        {
            let message = "yarn's cache stays in the layer";
            let remark = Remark::new(CLEAN_YARN_CACHE, view.span(word), message)
                .edits(view.append("yarn cache clean"));
            let help = "end this RUN with `yarn cache clean`, or mount a cache";
            self.say(&view.statement.comments, remark.help(help));
        }
    }

    fn pip(&mut self, state: &StageState, view: &RunView<'_>, program: Program<'_>) {
        let arguments = program.split(&PIP_WITH_VALUE);
        let Some(install) = arguments.subcommand().filter(|word| word.text == "install") else {
            return;
        };
        let is_set = state.settings.pip_no_cache || view.mounts_like(&["pip", ".cache"]);
        if !arguments.has(&["--no-cache-dir", "--cache-dir"]) && !is_set && state.is_kept {
            let message = "pip's cache stays in the layer";
            let remark = Remark::new(PIP_NO_CACHE, view.span(install), message)
                .edits(view.insert_behind(install, " --no-cache-dir"));
            let help = "add `--no-cache-dir`, or mount a cache";
            self.say(&view.statement.comments, remark.help(help));
        }
        // Constraints pin from outside.
        if program.is_fed || arguments.has(&["-c", "--constraint"]) {
            return;
        }
        let is_free = |word: &&ScriptWord| {
            let text = word.text.as_str();
            let is_file = text.starts_with('.') || text.contains('/') || word.has_extension("whl");
            !is_file && !text.contains(['=', '<', '>', '~', '!', '@', '$', ':'])
        };
        let packages = arguments.plain_operands().filter(is_free);
        self.unpinned(view, PIN_PIP_PACKAGES, packages, "write `NAME==VERSION`");
    }

    fn npm(&mut self, view: &RunView<'_>, program: Program<'_>) {
        let arguments = program.split(&NPM_WITH_VALUE);
        let Some(subcommand) = arguments.subcommand() else { return };
        if !["install", "i", "add"].contains(&subcommand.text.as_str()) || program.is_fed {
            return;
        }
        let is_free = |word: &&ScriptWord| {
            let text = word.text.as_str();
            let name = text.strip_prefix('@').unwrap_or(text);
            let is_scoped = name.len() < text.len();
            let is_other = text.starts_with('.')
                || word.has_extension("tgz")
                || text.contains([':', '$'])
                || text.contains('/') && !is_scoped;
            !is_other && !name.contains('@')
        };
        let packages = arguments.plain_operands().filter(is_free);
        self.unpinned(view, PIN_NPM_PACKAGES, packages, "write `NAME@VERSION`");
    }

    fn gem(&mut self, view: &RunView<'_>, program: Program<'_>) {
        let arguments = program.split(&["-v", "--version", "-i", "-n", "--source", "-s"]);
        let subcommand = arguments.subcommand().map(|word| word.text.as_str());
        let has_version = arguments.has(&["-v", "--version", "-g", "--file"]);
        if !matches!(subcommand, Some("install" | "i")) || has_version || program.is_fed {
            return;
        }
        let is_free =
            |word: &&ScriptWord| !word.text.contains([':', '/', '$']) && !word.has_extension("gem");
        // Options for the build of a gem stand behind `--`.
        let end = program.arguments.iter().find(|word| word.text == "--");
        let end = end.map_or(usize::MAX, |word| word.range.start);
        let operands = arguments.plain_operands().filter(|word| word.range.start < end);
        self.unpinned(view, PIN_GEMS, operands.filter(is_free), "write `NAME:VERSION`");
    }

    fn go(&mut self, view: &RunView<'_>, program: Program<'_>) {
        let arguments = program.split(&["-ldflags", "-tags", "-gcflags", "-o", "-C", "-mod"]);
        if arguments.subcommand().is_none_or(|word| word.text != "install") {
            return;
        }
        let is_free = |word: &&ScriptWord| {
            // Only a path with a domain comes from elsewhere.
            let host = word.text.split('/').next().unwrap_or_default();
            let is_remote =
                host.contains('.') && !host.starts_with('.') && !word.text.contains('$');
            let version = word.text.split_once('@').map(|(_, version)| version);
            is_remote && matches!(version, Some("latest"))
        };
        let packages = arguments.plain_operands().filter(is_free);
        self.unpinned(view, PIN_GO_TOOLS, packages, "write `PATH@VERSION`");
    }
}

/// Reads `pip`, `pip3.12` and `python -m pip`.
fn as_pip(program: Program<'_>) -> Option<Program<'_>> {
    let is = |name: &str, stem: &str| {
        name.strip_prefix(stem)
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    };
    if is(program.name, "pip") {
        return Some(program);
    }
    let [flag, module, rest @ ..] = program.arguments else { return None };
    let runs_pip = is(program.name, "python") && flag.text == "-m" && module.text == "pip";
    runs_pip.then_some(Program { arguments: rest, ..program })
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn packages() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 29] = [
            ("pip free",           PIN_PIP_PACKAGES, "RUN pip install a b==1\n",              &["a"]),
            ("python -m pip",      PIN_PIP_PACKAGES, "RUN python3 -m pip install a\n",        &["a"]),
            ("pip3.12",            PIN_PIP_PACKAGES, "RUN pip3.12 install 'a>=1'\n",          &[]),
            ("requirements",       PIN_PIP_PACKAGES, "RUN pip install -r a -e . ./b c.whl\n", &[]),
            ("constraints",        PIN_PIP_PACKAGES, "RUN pip install -c c.txt a\n",          &[]),
            ("index",              PIN_PIP_PACKAGES, "RUN pip install -i https://x/y a==1\n", &[]),
            ("git",                PIN_PIP_PACKAGES, "RUN pip install git+https://x/y@1\n",   &[]),
            ("pip list",           PIN_PIP_PACKAGES, "RUN pip list && pipx install a\n",      &[]),
            ("pip cache",          PIP_NO_CACHE, "RUN pip install a==1\n",                    &["install"]),
            ("no cache",           PIP_NO_CACHE, "RUN pip install --no-cache-dir a==1\n",     &[]),
            ("cache by ENV",       PIP_NO_CACHE, "ENV PIP_NO_CACHE_DIR=1\nRUN pip install a\n", &[]),
            ("cache mounted",      PIP_NO_CACHE, "RUN --mount=type=cache,target=/root/.cache/pip pip install a\n", &[]),
            ("cache in a builder", PIP_NO_CACHE, "RUN pip install a\nFROM b:1\n",             &[]),
            ("npm free",           PIN_NPM_PACKAGES, "RUN npm install -g a @b/c @b/d@1\n",    &["a"]),
            ("npm pinned",         PIN_NPM_PACKAGES, "RUN npm i a@1 @b/c@2\n",                &[]),
            ("npm alone",          PIN_NPM_PACKAGES, "RUN npm install && npm ci\n",           &[]),
            ("npm others",         PIN_NPM_PACKAGES, "RUN npm install ./a b.tgz c/d git+ssh://e\n", &[]),
            ("npm prefix",         PIN_NPM_PACKAGES, "RUN npm install --prefix /x a@1\n",     &[]),
            ("gem free",           PIN_GEMS, "RUN gem install a b:1\n",                       &["a"]),
            ("gem -v",             PIN_GEMS, "RUN gem install a -v 1\n",                      &[]),
            ("gem build options",  PIN_GEMS, "RUN gem install a:1 -- --with b\n",             &[]),
            ("go latest",          PIN_GO_TOOLS, "RUN go install example.org/a@latest\n",     &["example.org/a@latest"]),
            ("go here",            PIN_GO_TOOLS, "RUN go install ./... example.org/mine\n",   &[]),
            ("go pinned",          PIN_GO_TOOLS, "RUN go install -ldflags '-s -w' x.org/a@v1\n", &[]),
            ("yarn",               CLEAN_YARN_CACHE, "RUN yarn\n",                            &["yarn"]),
            ("yarn cleaned",       CLEAN_YARN_CACHE, "RUN yarn install && yarn cache clean\n", &[]),
            ("yarn mounted",       CLEAN_YARN_CACHE, "RUN --mount=type=cache,target=/usr/local/share/.cache yarn\n", &[]),
            ("yarn build",         CLEAN_YARN_CACHE, "RUN yarn build\n",                      &[]),
            ("yarn in a builder",  CLEAN_YARN_CACHE, "RUN yarn\nFROM b:1\n",                  &[]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(&format!("FROM a:1\n{source}"), rule), want, "{name}");
        }
    }
}
