//! apk, and the package managers of rpm: dnf, yum, microdnf, tdnf and zypper.

use crate::check::command::{Arguments, Program};
use crate::check::rule::{Origin, Rule};
use crate::check::script::{Joint, ScriptWord};

use super::run::RunView;
use super::{Practice, Remark, StageState};

const APK_NO_CACHE: &str = "ApkNoCache";
const APK_UPGRADE: &str = "ApkUpgrade";
const CLEAN_RPM_CACHE: &str = "CleanRpmCache";
const PIN_APK_PACKAGES: &str = "PinApkPackages";
const PIN_RPM_PACKAGES: &str = "PinRpmPackages";
const RPM_ASSUME_YES: &str = "RpmAssumeYes";
const RPM_UPGRADE: &str = "RpmUpgrade";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: APK_NO_CACHE,
        aliases: &["DL3019"],
        origin: Origin::Practice,
        summary: "`apk add` has `--no-cache`",
        why: "With `--no-cache` apk fetches its index, uses it, and leaves nothing of it in the \
              layer; `apk update` and deleting /var/cache/apk are then not needed.",
        before: "FROM alpine:3.20\nRUN apk add curl=8.9.1-r2\n",
        after: "FROM alpine:3.20\nRUN apk add --no-cache curl=8.9.1-r2\n",
        is_mendable: true,
    },
    Rule {
        name: APK_UPGRADE,
        aliases: &["DL3017"],
        origin: Origin::Practice,
        summary: "The base image is not upgraded by `apk upgrade`",
        why: "What it upgrades depends on the day, and the old files stay in the layers below. Take \
              a newer base image.",
        before: "FROM alpine:3.20\nRUN apk upgrade\n",
        after: "FROM alpine:3.20.3\n",
        is_mendable: false,
    },
    Rule {
        name: CLEAN_RPM_CACHE,
        aliases: &["DL3032", "DL3036", "DL3040"],
        origin: Origin::Practice,
        summary: "A RUN that installs by dnf, yum or zypper cleans their caches",
        why: "Metadata and packages stay in /var/cache otherwise: tens to hundreds of megabytes that \
              only the RUN that made them can keep out of its layer.",
        before: "FROM fedora:41\nRUN dnf install -y nginx-1.26.2\n",
        after: "FROM fedora:41\nRUN dnf install -y nginx-1.26.2 && dnf clean all\n",
        is_mendable: true,
    },
    Rule {
        name: PIN_APK_PACKAGES,
        aliases: &["DL3018"],
        origin: Origin::Practice,
        summary: "Packages of apk have a version",
        why: "Without one the build takes what the repository has that day. `name=1.2.3-r0` is \
              exact, `name~=1.2` takes later builds of the same release.",
        before: "FROM alpine:3.20\nRUN apk add --no-cache curl\n",
        after: "FROM alpine:3.20\nRUN apk add --no-cache curl~=8.9\n",
        is_mendable: false,
    },
    Rule {
        name: PIN_RPM_PACKAGES,
        aliases: &["DL3033", "DL3037", "DL3041"],
        origin: Origin::Practice,
        summary: "Packages of dnf, yum and zypper have a version",
        why: "Without one the build takes what the repository has that day, and the cache keeps what \
              it had some other day.",
        before: "FROM fedora:41\nRUN dnf install -y nginx && dnf clean all\n",
        after: "FROM fedora:41\nRUN dnf install -y nginx-1.26.2 && dnf clean all\n",
        is_mendable: false,
    },
    Rule {
        name: RPM_ASSUME_YES,
        aliases: &["DL3030", "DL3034", "DL3038"],
        origin: Origin::Practice,
        summary: "dnf, yum and zypper install with `-y`",
        why: "They ask before they install. A build has nobody to answer, so it ends there.",
        before: "FROM fedora:41\nRUN dnf install nginx-1.26.2 && dnf clean all\n",
        after: "FROM fedora:41\nRUN dnf install -y nginx-1.26.2 && dnf clean all\n",
        is_mendable: true,
    },
    Rule {
        name: RPM_UPGRADE,
        aliases: &["DL3031", "DL3035", "DL3039"],
        origin: Origin::Practice,
        summary: "The base image is not upgraded by dnf, yum or zypper",
        why: "What they upgrade depends on the day, and the old files stay in the layers below. Take \
              a newer base image.",
        before: "FROM fedora:41\nRUN dnf upgrade -y && dnf clean all\n",
        after: "FROM fedora:42\n",
        is_mendable: false,
    },
];

const APK_WITH_VALUE: [&str; 8] =
    ["-t", "--virtual", "-X", "--repository", "-p", "--root", "--arch", "--keys-dir"];

const RPM_WITH_VALUE: [&str; 12] = [
    "-c",
    "--config",
    "-x",
    "--exclude",
    "--enablerepo",
    "--disablerepo",
    "--repo",
    "--releasever",
    "--installroot",
    "-r",
    "-t",
    "--setopt",
];

impl Practice<'_> {
    pub(super) fn system_packages(&mut self, state: &StageState, view: &RunView<'_>) {
        let mut installs: Option<(&'static str, &ScriptWord)> = None;
        let mut cleans = false;
        let mut apk: Vec<(Program<'_>, Arguments<'_>)> = Vec::new();
        let mut deletes_apk_cache = false;
        for (command, program) in view.programs() {
            let deletes = |dir: &str| {
                program.name == "rm"
                    && program.arguments.iter().any(|word| word.text.starts_with(dir))
            };
            deletes_apk_cache |= deletes("/var/cache/apk");
            cleans |= ["/var/cache/dnf", "/var/cache/yum", "/var/cache/zypp", "/var/cache/libdnf"]
                .iter()
                .any(|dir| deletes(dir))
                || deletes("/var/cache/*");
            if program.name == "apk" {
                apk.push((program, program.split(&APK_WITH_VALUE)));
                continue;
            }
            let Some(tool) = rpm_tool(program.name) else { continue };
            let arguments = program.split(&RPM_WITH_VALUE);
            let Some(subcommand) = arguments.subcommand() else { continue };
            match subcommand.text.as_str() {
                "install" | "in" | "localinstall" | "groupinstall" | "reinstall" => {
                    let is_answered = command.joint == Joint::Pipe;
                    self.rpm_install(view, tool, program, &arguments, is_answered);
                    installs.get_or_insert((tool, subcommand));
                    cleans = false;
                }
                "update" | "upgrade" | "dist-upgrade" | "dup" | "distro-sync"
                    if arguments.others.len() == 1
                        && !(tool == "zypper" && subcommand.text == "update") =>
                {
                    let message = "what this upgrades depends on the day of the build";
                    let remark = Remark::new(RPM_UPGRADE, view.span(subcommand), message);
                    self.say(&view.statement.comments, remark.help("take a newer base image"));
                }
                "clean" | "cc" => cleans = true,
                _ => {}
            }
        }
        for (program, arguments) in apk {
            self.apk(view, program, &arguments, deletes_apk_cache);
        }
        self.rpm_cache(state, view, installs.filter(|_| !cleans));
    }

    fn apk(
        &mut self,
        view: &RunView<'_>,
        program: Program<'_>,
        arguments: &Arguments<'_>,
        deletes_cache: bool,
    ) {
        let comments = &view.statement.comments;
        let Some(subcommand) = arguments.subcommand() else { return };
        match subcommand.text.as_str() {
            "upgrade" => {
                let message = "what this upgrades depends on the day of the build";
                let remark = Remark::new(APK_UPGRADE, view.span(subcommand), message);
                self.say(comments, remark.help("take a newer base image"));
            }
            "add" => {
                let is_mounted = view.mounts(&["/var/cache/apk", "/etc/apk/cache"]);
                if !arguments.has(&["--no-cache"]) && !deletes_cache && !is_mounted {
                    let edits = view.insert_behind(subcommand, " --no-cache");
                    let message = "apk leaves its index in the layer, or finds none";
                    let span = view.span(subcommand);
                    let remark = Remark::new(APK_NO_CACHE, span, message).edits(edits);
                    self.say(comments, remark.help("add `--no-cache`"));
                }
                let is_free = |word: &&ScriptWord| {
                    let text = word.text.as_str();
                    !text.contains(['=', '~', '<', '>', '/', '@', '$'])
                        && !text.starts_with(['.', '!'])
                        && !word.has_extension("apk")
                };
                let packages = arguments.plain_operands().filter(is_free);
                if !program.is_fed {
                    let help = "write `NAME=VERSION` or `NAME~=VERSION`";
                    self.unpinned(view, PIN_APK_PACKAGES, packages, help);
                }
            }
            _ => {}
        }
    }

    fn rpm_install(
        &mut self,
        view: &RunView<'_>,
        tool: &str,
        program: Program<'_>,
        arguments: &Arguments<'_>,
        is_answered: bool,
    ) {
        let Some(subcommand) = arguments.subcommand() else { return };
        let says_yes = arguments.has(&[
            "-y",
            "--assumeyes",
            "--non-interactive",
            "-n",
            "--no-confirm",
            "--nodocs-y",
        ]);
        if !says_yes && !is_answered {
            let message = format!("{} asks a question that nobody answers", program.name);
            let edits = view.insert_behind(subcommand, " -y");
            let remark = Remark::new(RPM_ASSUME_YES, view.span(subcommand), message).edits(edits);
            self.say(&view.statement.comments, remark.help("add `-y`"));
        }
        let is_free = |word: &&ScriptWord| {
            let text = word.text.as_str();
            let has_version = text
                .match_indices('-')
                .any(|(at, _)| text[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
            let is_other = text.contains(['/', '@', '=', '<', '>', '$', '*'])
                || word.has_extension("rpm")
                || subcommand.text == "groupinstall";
            !is_other && (tool == "zypper" || !has_version)
        };
        if !program.is_fed {
            let help = match tool {
                "zypper" => "write `NAME=VERSION`",
                _ => "write `NAME-VERSION`",
            };
            let packages = arguments.plain_operands().filter(is_free);
            self.unpinned(view, PIN_RPM_PACKAGES, packages, help);
        }
    }

    fn rpm_cache(
        &mut self,
        state: &StageState,
        view: &RunView<'_>,
        left: Option<(&'static str, &ScriptWord)>,
    ) {
        let Some((tool, install)) = left.filter(|_| state.is_kept) else { return };
        if view.mounts_like(&["/var/cache", "/var/lib/dnf"]) {
            return;
        }
        let command = match tool {
            "zypper" => "zypper clean --all".to_owned(),
            tool => format!("{tool} clean all"),
        };
        let message = format!("{tool}'s caches stay in the layer");
        let help = format!("end this RUN with `{command}`");
        let remark =
            Remark::new(CLEAN_RPM_CACHE, view.span(install), message).edits(view.append(&command));
        self.say(&view.statement.comments, remark.help(&help));
    }
}

fn rpm_tool(name: &str) -> Option<&'static str> {
    ["dnf", "yum", "microdnf", "tdnf", "zypper"].into_iter().find(|tool| *tool == name)
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn packages() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 21] = [
            ("apk cache",        APK_NO_CACHE, "RUN apk add a=1\n",                           &["add"]),
            ("apk no cache",     APK_NO_CACHE, "RUN apk --no-cache add a=1\n",                &[]),
            ("apk cache gone",   APK_NO_CACHE, "RUN apk add a && rm -rf /var/cache/apk/*\n",  &[]),
            ("apk mounted",      APK_NO_CACHE, "RUN --mount=type=cache,target=/var/cache/apk apk add a\n", &[]),
            ("apk virtual",      PIN_APK_PACKAGES, "RUN apk add -t .build a b=1\n",           &["a"]),
            ("apk virtual long", PIN_APK_PACKAGES, "RUN apk add --virtual=.build b~1 $X\n",   &[]),
            ("apk file",         PIN_APK_PACKAGES, "RUN apk add /tmp/a.apk\n",                &[]),
            ("apk upgrade",      APK_UPGRADE, "RUN apk update && apk upgrade\n",              &["upgrade"]),
            ("dnf no -y",        RPM_ASSUME_YES, "RUN dnf install a\n",                       &["install"]),
            ("yum -y",           RPM_ASSUME_YES, "RUN yum -y install a\n",                    &[]),
            ("zypper -n",        RPM_ASSUME_YES, "RUN zypper -n in a\n",                      &[]),
            ("dnf pinned",       PIN_RPM_PACKAGES, "RUN dnf install -y a-1.2 b-c-3\n",        &[]),
            ("dnf free",         PIN_RPM_PACKAGES, "RUN dnf install -y a-b\n",                &["a-b"]),
            ("dnf others",       PIN_RPM_PACKAGES, "RUN dnf install -y @x ./y.rpm http://z/z\n", &[]),
            ("zypper pinned",    PIN_RPM_PACKAGES, "RUN zypper -n in a=1 b-2\n",              &["b-2"]),
            ("cache left",       CLEAN_RPM_CACHE, "RUN microdnf install -y a\n",              &["install"]),
            ("cache cleaned",    CLEAN_RPM_CACHE, "RUN yum install -y a && yum clean all\n",  &[]),
            ("cache deleted",    CLEAN_RPM_CACHE, "RUN yum install -y a && rm -rf /var/cache/yum\n", &[]),
            ("cleaned too soon", CLEAN_RPM_CACHE, "RUN dnf clean all && dnf install -y a\n",  &["install"]),
            ("upgrade",          RPM_UPGRADE, "RUN dnf -y upgrade && yum update -y\n",        &["upgrade", "update"]),
            ("upgrade of one",   RPM_UPGRADE, "RUN dnf -y upgrade a\n",                       &[]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(&format!("FROM a:1\n{source}"), rule), want, "{name}");
        }
    }
}
