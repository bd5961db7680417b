//! What an image is made of and what it says about itself.

use std::collections::BTreeSet;

use crate::Reference;
use crate::ast::{Pair, Stage, StageHead, Statement};
use crate::check::rule::{Origin, Rule};
use crate::words::Lexer;

use super::{Practice, Remark, StageState};

const INVALID_LABEL_KEY: &str = "InvalidLabelKey";
const LAST_USER_ROOT: &str = "LastUserRoot";
const MISSING_HEALTHCHECK: &str = "MissingHealthcheck";
const NO_LATEST_TAG: &str = "NoLatestTag";
const PIN_BASE_IMAGE: &str = "PinBaseImage";
const SELF_REFERENCE_IN_ENV: &str = "SelfReferenceInEnv";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: INVALID_LABEL_KEY,
        aliases: &["DL3048"],
        origin: Origin::Practice,
        summary: "Keys of labels are lower-case words, joined by single dots and hyphens",
        why: "Tools filter labels by their keys. Keys of lower-case letters, digits, dots and \
              hyphens pass through all of them; the namespaces `com.docker`, `io.docker` and \
              `org.dockerproject` are Docker's own.",
        before: "FROM alpine:3.20\nLABEL Build__Date=\"2026-01-01\"\n",
        after: "FROM alpine:3.20\nLABEL org.example.build-date=\"2026-01-01\"\n",
        is_mendable: false,
    },
    Rule {
        name: LAST_USER_ROOT,
        aliases: &["DL3002"],
        origin: Origin::Practice,
        summary: "The last USER of the image is not root",
        why: "The program of the container runs as the last USER. As root, whoever breaks into the \
              program has the rights to change all of the container, and is one mistake of the \
              kernel away from the host.",
        before: "FROM alpine:3.20\nUSER app\nUSER root\nCMD [\"httpd\", \"-f\"]\n",
        after: "FROM alpine:3.20\nUSER root\nUSER app\nCMD [\"httpd\", \"-f\"]\n",
        is_mendable: false,
    },
    Rule {
        name: MISSING_HEALTHCHECK,
        aliases: &["DL3057"],
        origin: Origin::OnRequest,
        summary: "The image has a HEALTHCHECK",
        why: "Docker and Swarm restart or replace a container that hangs only if they can ask it. \
              Kubernetes has probes of its own and does not read it: ask for this rule by name.",
        before: "FROM alpine:3.20\nCMD [\"httpd\", \"-f\"]\n",
        after: "FROM alpine:3.20\nHEALTHCHECK CMD wget -q -O /dev/null http://127.0.0.1/\nCMD [\"httpd\", \"-f\"]\n",
        is_mendable: false,
    },
    Rule {
        name: NO_LATEST_TAG,
        aliases: &["DL3007"],
        origin: Origin::Practice,
        summary: "Base images have another tag than `latest`",
        why: "`latest` is whatever was pushed last: the same file builds something else tomorrow, \
              and what worked before cannot be built again.",
        before: "FROM alpine:latest\n",
        after: "FROM alpine:3.20\n",
        is_mendable: false,
    },
    Rule {
        name: PIN_BASE_IMAGE,
        aliases: &["DL3006"],
        origin: Origin::Practice,
        summary: "Base images have a tag or a digest",
        why: "Without a tag the image is `latest`: whatever was pushed last. Name the version that \
              the file was written for, or its digest to get the same bytes for ever.",
        before: "FROM alpine\n",
        after: "FROM alpine:3.20\n",
        is_mendable: false,
    },
    Rule {
        name: SELF_REFERENCE_IN_ENV,
        aliases: &["DL3044"],
        origin: Origin::Practice,
        summary: "A value of ENV does not use a variable that the same ENV sets",
        why: "All values of one instruction are read before any is set, so the variable still has \
              its old value there, or none.",
        before: "FROM alpine:3.20\nENV HOME_DIR=/srv DATA_DIR=$HOME_DIR/data\n",
        after: "FROM alpine:3.20\nENV HOME_DIR=/srv\nENV DATA_DIR=$HOME_DIR/data\n",
        is_mendable: false,
    },
];

/// Namespaces of label keys that are not for users (Docker's documentation, "Object labels").
const RESERVED_KEYS: [&str; 3] = ["com.docker.", "io.docker.", "org.dockerproject."];

impl Practice<'_> {
    /// Looks at a base that is no stage of the file.
    pub(super) fn base_image(&mut self, stage: &Stage) {
        let base = &stage.from.base;
        let named = self.options.named_contexts.contains_key(base.text.as_str());
        if base.text.contains('$') || base.text == "scratch" || named {
            return;
        }
        let Ok(reference) = Reference::parse_normalized(&base.text) else { return };
        if reference.digest.is_some() {
            return;
        }
        let remark = match reference.tag.as_deref() {
            None => Remark::new(
                PIN_BASE_IMAGE,
                base.span,
                format!("`{}` names no version: it is whatever was pushed last", base.text),
            )
            .help("add the tag that the file was written for"),
            Some("latest") => Remark::new(
                NO_LATEST_TAG,
                base.span,
                format!("`{}` is another image whenever one is pushed", base.text),
            )
            .help("name the version that the file was written for"),
            Some(_) => return,
        };
        self.say(&stage.from.comments, remark);
    }

    pub(super) fn env(&mut self, statement: &Statement, pairs: &[Pair]) {
        let set: BTreeSet<&str> = pairs.iter().map(|pair| pair.key.text.as_str()).collect();
        let lexer = Lexer::new(self.dockerfile.directives.escape);
        for pair in pairs {
            let Ok(expansion) = lexer.process(&pair.value.text, &()) else { continue };
            let own = expansion.unmatched.iter().find(|name| {
                set.contains(name.as_str()) && **name != pair.key.text && !self.set.contains(*name)
            });
            if let Some(name) = own {
                let message = format!("`${name}` is set by this ENV, and not yet here");
                self.say(
                    &statement.comments,
                    Remark::new(SELF_REFERENCE_IN_ENV, pair.value.span, message)
                        .help("set it by an ENV of its own, above"),
                );
            }
        }
    }

    pub(super) fn labels(&mut self, statement: &Statement, pairs: &[Pair]) {
        let lexer = Lexer::new(self.dockerfile.directives.escape);
        for pair in pairs {
            if pair.key.text.contains('$') {
                continue;
            }
            let Ok(key) = lexer.process(&pair.key.text, &()) else { continue };
            let Some(fault) = fault_of_key(&key.text) else { continue };
            let message = format!("the key `{}` {fault}", key.text);
            self.say(&statement.comments, Remark::new(INVALID_LABEL_KEY, pair.key.span, message));
        }
    }

    /// Looks at the stage that is built, as a whole.
    pub(super) fn end_of_image(&mut self, state: &StageState, head: &StageHead) {
        if let Some((user, span, comments)) = &state.user {
            let name = user.split(':').next().unwrap_or_default();
            if matches!(name, "root" | "0") {
                let message = "the image's program runs as root";
                self.say(
                    comments,
                    Remark::new(LAST_USER_ROOT, *span, message)
                        .help("end with a USER that can do no more than the program needs"),
                );
            }
        }
        if !state.has_healthcheck {
            let message = "the image tells nobody how to ask whether it works";
            let remark = Remark::new(MISSING_HEALTHCHECK, head.span, message)
                .help("add HEALTHCHECK CMD ..., or HEALTHCHECK NONE");
            self.say(&head.comments, remark);
        }
    }
}

fn fault_of_key(key: &str) -> Option<&'static str> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = key.as_bytes();
    if RESERVED_KEYS.iter().any(|reserved| key.starts_with(reserved)) {
        return Some("lies in a namespace of Docker's own");
    }
    if !bytes.iter().all(|&byte| is_word(byte) || matches!(byte, b'.' | b'-')) {
        return Some("has other characters than lower-case letters, digits, `.` and `-`");
    }
    let ends = [bytes.first(), bytes.last()];
    if !ends.iter().all(|end| end.is_some_and(|&byte| is_word(byte))) {
        return Some("begins or ends with a separator");
    }
    let doubled = bytes.windows(2).any(|pair| pair.iter().all(|&byte| !is_word(byte)));
    doubled.then_some("has two separators in a row")
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn images() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 14] = [
            ("untagged",           PIN_BASE_IMAGE,  "FROM a/b\n",                                &["a/b"]),
            ("registry port",      PIN_BASE_IMAGE,  "FROM r:5000/a\n",                           &["r:5000/a"]),
            ("digest",             PIN_BASE_IMAGE,  &format!("FROM a@sha256:{}\n", "a".repeat(64)), &[]),
            ("variable",           PIN_BASE_IMAGE,  "ARG X=a\nFROM $X\n",                        &[]),
            ("a stage",            PIN_BASE_IMAGE,  "FROM scratch AS x\nFROM X\n",               &[]),
            ("latest",             NO_LATEST_TAG,   "FROM a:latest\n",                           &["a:latest"]),
            ("root at last",       LAST_USER_ROOT,  "FROM a:1\nUSER x\nUSER root:root\n",        &["root:root"]),
            ("root in between",    LAST_USER_ROOT,  "FROM a:1\nUSER 0\nUSER x\n",                &[]),
            ("root in a builder",  LAST_USER_ROOT,  "FROM a:1 AS b\nUSER 0\nFROM a:1\n",         &[]),
            ("root from a stage",  LAST_USER_ROOT,  "FROM a:1 AS b\nUSER 0\nFROM b\n",           &["0"]),
            ("health of stages",   MISSING_HEALTHCHECK, "FROM a:1\nHEALTHCHECK NONE\n",          &[]),
            ("own variable",       SELF_REFERENCE_IN_ENV, "FROM a:1\nENV A=1 B=$A\n",            &["$A"]),
            ("set before",         SELF_REFERENCE_IN_ENV, "FROM a:1\nENV A=1\nENV A=2 B=$A\n",   &[]),
            ("PATH itself",        SELF_REFERENCE_IN_ENV, "FROM a:1\nENV PATH=/x:$PATH\n",       &[]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(source, rule), want, "{name}");
        }
    }

    #[test]
    fn keys_of_labels() {
        for key in ["a", "org.example.build-date", "a1.b2", "org.opencontainers.image.title"] {
            assert_eq!(fault_of_key(key), None, "{key}");
        }
        for key in ["A", "a_b", "a..b", ".a", "a-", "com.docker.x", "a b", ""] {
            assert!(fault_of_key(key).is_some(), "{key}");
        }
    }
}
