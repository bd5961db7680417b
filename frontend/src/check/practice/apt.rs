//! apt and apt-get.

use crate::check::command::{Arguments, Program};
use crate::check::rule::{Origin, Rule};
use crate::check::script::{Joint, ScriptWord};

use super::run::RunView;
use super::{Practice, Remark, StageState};

const APT_ASSUME_YES: &str = "AptAssumeYes";
const APT_DIST_UPGRADE: &str = "AptDistUpgrade";
const APT_NO_RECOMMENDS: &str = "AptNoRecommends";
const CLEAN_APT_LISTS: &str = "CleanAptLists";
const PIN_APT_PACKAGES: &str = "PinAptPackages";
const USE_APT_GET: &str = "UseAptGet";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: APT_ASSUME_YES,
        aliases: &["DL3014"],
        origin: Origin::Practice,
        summary: "`apt-get install` has `-y`",
        why: "apt asks before it installs more than it was told to. A build has nobody to answer, so \
              it ends there.",
        before: "FROM debian:12\nRUN apt-get install --no-install-recommends curl=7.88.1-10\n",
        after: "FROM debian:12\nRUN apt-get install -y --no-install-recommends curl=7.88.1-10\n",
        is_mendable: true,
    },
    Rule {
        name: APT_DIST_UPGRADE,
        aliases: &["DL3005"],
        origin: Origin::Practice,
        summary: "The base image is not upgraded to another release",
        why: "`dist-upgrade` removes and replaces packages as it sees fit, so the result depends on \
              the day. Take a newer base image instead: it is tested as a whole, and smaller.",
        before: "FROM debian:12\nRUN apt-get dist-upgrade -y\n",
        after: "FROM debian:12.9\n",
        is_mendable: false,
    },
    Rule {
        name: APT_NO_RECOMMENDS,
        aliases: &["DL3015"],
        origin: Origin::Practice,
        summary: "`apt-get install` has `--no-install-recommends`",
        why: "By default apt adds what each package recommends: manuals, fonts, mail servers. Images \
              grow by that, and so does what may have a hole. Name what you need besides.",
        before: "FROM debian:12\nRUN apt-get install -y curl=7.88.1-10\n",
        after: "FROM debian:12\nRUN apt-get install -y --no-install-recommends curl=7.88.1-10\n",
        is_mendable: true,
    },
    Rule {
        name: CLEAN_APT_LISTS,
        aliases: &["DL3009"],
        origin: Origin::Practice,
        summary: "A RUN that fetches apt's lists deletes them, or mounts a cache there",
        why: "The lists of a Debian release are tens of megabytes and out of date within hours. Only \
              the RUN that made them can keep them out of its layer.",
        before: "FROM debian:12\nRUN apt-get update && apt-get install -y --no-install-recommends curl=7.88.1-10\n",
        after: "FROM debian:12\nRUN apt-get update && apt-get install -y --no-install-recommends curl=7.88.1-10 && rm -rf /var/lib/apt/lists/*\n",
        is_mendable: true,
    },
    Rule {
        name: PIN_APT_PACKAGES,
        aliases: &["DL3008"],
        origin: Origin::Practice,
        summary: "Packages of apt have a version",
        why: "Without one the build takes what the archive has that day, and the cache keeps what it \
              had some other day. A version makes both say the same, and an update a change of the \
              file.",
        before: "FROM debian:12\nRUN apt-get install -y --no-install-recommends curl\n",
        after: "FROM debian:12\nRUN apt-get install -y --no-install-recommends curl=7.88.1-10\n",
        is_mendable: false,
    },
    Rule {
        name: USE_APT_GET,
        aliases: &["DL3027"],
        origin: Origin::Practice,
        summary: "Scripts use apt-get, not apt",
        why: "apt is made for people: it warns on every run that its command line may change, and it \
              does.",
        before: "FROM debian:12\nRUN apt update\n",
        after: "FROM debian:12\nRUN apt-get update\n",
        is_mendable: true,
    },
];

/// Options of apt-get that take the next word as their value.
const WITH_VALUE: [&str; 8] =
    ["-o", "--option", "-c", "--config-file", "-t", "--target-release", "--default-release", "-a"];

/// Subcommands that mean the same to apt and apt-get.
const SHARED: [&str; 10] = [
    "update",
    "upgrade",
    "install",
    "remove",
    "purge",
    "autoremove",
    "clean",
    "autoclean",
    "build-dep",
    "download",
];

impl Practice<'_> {
    pub(super) fn apt(&mut self, state: &StageState, view: &RunView<'_>) {
        let comments = &view.statement.comments;
        let mut updates: Option<&ScriptWord> = None;
        let mut cleans = false;
        for (command, program) in view.programs() {
            let deletes_lists = matches!(program.name, "rm" | "find")
                && program.arguments.iter().any(|word| word.text.contains("/var/lib/apt"));
            cleans |= deletes_lists;
            if !matches!(program.name, "apt" | "apt-get" | "aptitude") {
                continue;
            }
            let arguments = program.split(&WITH_VALUE);
            let Some(subcommand) = arguments.subcommand() else { continue };
            if program.name == "apt" {
                self.use_apt_get(view, program, subcommand);
            }
            match subcommand.text.as_str() {
                "update" => {
                    updates = Some(subcommand);
                    cleans = false;
                }
                "install" => {
                    let is_answered = command.joint == Joint::Pipe;
                    let flags_end = last_flag(program, subcommand);
                    let words = (subcommand, flags_end);
                    self.apt_install(state, view, &arguments, words, is_answered);
                    self.pin_apt(view, program, &arguments);
                }
                "dist-upgrade" | "full-upgrade" => {
                    let message = "the result depends on the day of the build";
                    let remark = Remark::new(APT_DIST_UPGRADE, view.span(subcommand), message);
                    self.say(comments, remark.help("take a newer base image"));
                }
                _ => {}
            }
        }
        let Some(update) = updates.filter(|_| !cleans && state.is_kept) else { return };
        if view.mounts(&["/var/lib/apt/lists"]) {
            return;
        }
        let message = "the lists that this fetches stay in the layer";
        let command = "rm -rf /var/lib/apt/lists/*";
        let remark =
            Remark::new(CLEAN_APT_LISTS, view.span(update), message).edits(view.append(command));
        self.say(comments, remark.help("end this RUN with `rm -rf /var/lib/apt/lists/*`"));
    }

    fn use_apt_get(&mut self, view: &RunView<'_>, program: Program<'_>, subcommand: &ScriptWord) {
        let is_same = SHARED.contains(&subcommand.text.as_str()) && !program.word.is_quoted;
        let edits = if is_same { view.insert_behind(program.word, "-get") } else { Vec::new() };
        let message = "the command line of apt is for people and may change";
        let remark = Remark::new(USE_APT_GET, view.span(program.word), message).edits(edits);
        self.say(&view.statement.comments, remark.help("use apt-get"));
    }

    fn apt_install(
        &mut self,
        state: &StageState,
        view: &RunView<'_>,
        arguments: &Arguments<'_>,
        (subcommand, flags_end): (&ScriptWord, &ScriptWord),
        is_answered: bool,
    ) {
        let comments = &view.statement.comments;
        let span = view.span(subcommand);
        // Settings can also stand in an option's value, or in a file that an earlier step wrote.
        let is_set = |name: &str| {
            arguments.options.iter().any(|(option, value)| {
                option.contains(name) || value.is_some_and(|value| value.contains(name))
            })
        };
        let says_yes = arguments.has(&["-y", "--yes", "--assume-yes", "-qq", "--force-yes"])
            || arguments.options.iter().any(|(option, _)| option.starts_with("-q=2"))
            || is_answered
            || is_set("Assume-Yes")
            || state.settings.apt_says_yes;
        if !says_yes {
            let message = "apt-get asks a question that nobody answers";
            let remark = Remark::new(APT_ASSUME_YES, span, message)
                .edits(view.insert_behind(subcommand, " -y"));
            self.say(comments, remark.help("add `-y`"));
        }
        let declines = arguments.has(&["--no-install-recommends"])
            || is_set("Install-Recommends")
            || state.settings.apt_recommends
            || arguments.has(&["--install-recommends"]);
        if !declines {
            let message = "apt-get installs what the packages recommend, too";
            let edits = view.insert_behind(flags_end, " --no-install-recommends");
            let remark = Remark::new(APT_NO_RECOMMENDS, span, message).edits(edits);
            self.say(comments, remark.help("add `--no-install-recommends`"));
        }
    }

    fn pin_apt(&mut self, view: &RunView<'_>, program: Program<'_>, arguments: &Arguments<'_>) {
        if program.is_fed || arguments.has(&["--download-only"]) {
            return;
        }
        let is_free = |word: &&ScriptWord| {
            let text = word.text.as_str();
            !text.contains(['=', '/', '$'])
                && !text.ends_with(['-', '+'])
                && !word.has_extension("deb")
        };
        self.unpinned(
            view,
            PIN_APT_PACKAGES,
            arguments.plain_operands().filter(is_free),
            "write `NAME=VERSION`",
        );
    }

    /// Speaks of packages without a version, once a command.
    pub(super) fn unpinned<'w>(
        &mut self,
        view: &RunView<'_>,
        rule: &'static str,
        packages: impl Iterator<Item = &'w ScriptWord>,
        help: &str,
    ) {
        const SHOWN: usize = 3;
        let packages: Vec<&ScriptWord> = packages.collect();
        let Some(first) = packages.first() else { return };
        let names: Vec<String> =
            packages.iter().take(SHOWN).map(|word| format!("`{}`", word.text)).collect();
        let more = match packages.len().saturating_sub(SHOWN) {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let verb = if packages.len() == 1 { "has" } else { "have" };
        let message = format!("{}{more} {verb} no version", names.join(", "));
        let remark = Remark::new(rule, view.span(first), message).help(help);
        self.say(&view.statement.comments, remark);
    }
}

/// The last of the plain flags right behind `install`, or `install` itself: another can follow it.
fn last_flag<'c>(program: Program<'c>, install: &'c ScriptWord) -> &'c ScriptWord {
    let behind =
        program.arguments.iter().skip_while(|word| word.range.start <= install.range.start);
    let flags = behind.take_while(|word| {
        matches!(word.text.as_str(), "-y" | "--yes" | "--assume-yes" | "-q" | "-qq" | "-yq" | "-qy")
    });
    flags.last().unwrap_or(install)
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn apt() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 24] = [
            ("no -y",            APT_ASSUME_YES, "RUN apt-get install a\n",                   &["install"]),
            ("-yq",              APT_ASSUME_YES, "RUN apt-get -yq install a\n",               &[]),
            ("-y behind",        APT_ASSUME_YES, "RUN apt-get install a -y\n",                &[]),
            ("-qq",              APT_ASSUME_YES, "RUN apt-get install -qq a\n",               &[]),
            ("yes |",            APT_ASSUME_YES, "RUN yes | apt-get install a\n",             &[]),
            ("by option",        APT_ASSUME_YES, "RUN apt-get -o APT::Get::Assume-Yes=true install a\n", &[]),
            ("by a file",        APT_ASSUME_YES, "RUN echo 'APT::Get::Assume-Yes \"1\";' > /etc/apt/apt.conf.d/y\nRUN apt-get install a\n", &[]),
            ("recommends",       APT_NO_RECOMMENDS, "RUN apt-get install -y a\n",             &["install"]),
            ("wanted",           APT_NO_RECOMMENDS, "RUN apt-get install -y --install-recommends a\n", &[]),
            ("one of two",       PIN_APT_PACKAGES, "RUN apt-get install -y a=1 b\n",          &["b"]),
            ("release",          PIN_APT_PACKAGES, "RUN apt-get install -y a/bookworm\n",     &[]),
            ("file",             PIN_APT_PACKAGES, "RUN apt-get install -y ./a.deb\n",        &[]),
            ("variable",         PIN_APT_PACKAGES, "RUN apt-get install -y $X a=$V \"b=$V\"\n", &[]),
            ("target release",   PIN_APT_PACKAGES, "RUN apt-get -t sid install a=1\n",        &[]),
            ("two commands",     PIN_APT_PACKAGES, "RUN apt-get install a && apt-get install b\n", &["a", "b"]),
            ("behind sudo",      PIN_APT_PACKAGES, "RUN sudo apt-get install a\n",            &["a"]),
            ("xargs",            PIN_APT_PACKAGES, "RUN cat x | xargs apt-get install -y\n",  &[]),
            ("lists left",       CLEAN_APT_LISTS, "RUN apt-get update\n",                     &["update"]),
            ("lists deleted",    CLEAN_APT_LISTS, "RUN apt-get update; rm -r /var/lib/apt/lists/*\n", &[]),
            ("deleted too soon", CLEAN_APT_LISTS, "RUN rm -r /var/lib/apt/lists/* && apt-get update\n", &["update"]),
            ("cache mounted",    CLEAN_APT_LISTS, "RUN --mount=type=cache,target=/var/lib/apt apt-get update\n", &[]),
            ("in a builder",     CLEAN_APT_LISTS, "RUN apt-get update\nFROM b:1\n",           &[]),
            ("apt",              USE_APT_GET, "RUN apt install a && apt list\n",              &["apt", "apt"]),
            ("full upgrade",     APT_DIST_UPGRADE, "RUN apt-get full-upgrade\n",              &["full-upgrade"]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(&format!("FROM a:1\n{source}"), rule), want, "{name}");
        }
    }
}
