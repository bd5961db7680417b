//! COPY and ADD.

use crate::ast::{Statement, Transfer, TransferSource, Word};
use crate::check::rule::{Origin, Rule};
use crate::git_url::parse_git_source;

use super::{Practice, Remark, StageState};

const COPY_FROM_UNKNOWN: &str = "CopyFromUnknown";
const RELATIVE_COPY_DESTINATION: &str = "RelativeCopyDestination";
const USE_ADD_FOR_ARCHIVES: &str = "UseAddForArchives";
const USE_COPY: &str = "UseCopy";

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: COPY_FROM_UNKNOWN,
        aliases: &["DL3022"],
        origin: Origin::Practice,
        summary: "`COPY --from` names a stage of the file, or an image with its version",
        why: "A name that is no stage is taken for an image and fetched from a registry. If it was \
              meant for a stage, a slip of the pen copies from a stranger's image.",
        before: "FROM alpine:3.20 AS builder\nFROM alpine:3.20\nCOPY --from=bulider /out /out\n",
        after: "FROM alpine:3.20 AS builder\nFROM alpine:3.20\nCOPY --from=builder /out /out\n",
        is_mendable: false,
    },
    Rule {
        name: RELATIVE_COPY_DESTINATION,
        aliases: &["DL3045"],
        origin: Origin::Practice,
        summary: "A relative destination of COPY has a WORKDIR above it",
        why: "Without a WORKDIR in the file the files land in the base image's working directory, \
              which its next version may change.",
        before: "FROM alpine:3.20\nCOPY app.conf etc/\n",
        after: "FROM alpine:3.20\nWORKDIR /srv\nCOPY app.conf etc/\n",
        is_mendable: false,
    },
    Rule {
        name: USE_ADD_FOR_ARCHIVES,
        aliases: &["DL3010"],
        origin: Origin::Practice,
        summary: "Archives of the context are unpacked by ADD",
        why: "COPY and a RUN that unpacks keep the archive in one layer and its files in another. \
              ADD unpacks on the way, so the archive itself never enters the image.",
        before: "FROM alpine:3.20\nCOPY app.tar.gz /tmp/\nRUN tar -xzf /tmp/app.tar.gz -C /srv\n",
        after: "FROM alpine:3.20\nADD app.tar.gz /srv/\n",
        is_mendable: false,
    },
    Rule {
        name: USE_COPY,
        aliases: &["DL3020"],
        origin: Origin::Practice,
        summary: "Files and directories are brought in by COPY, not ADD",
        why: "ADD also fetches URLs and unpacks whatever turns out to be an archive. COPY does one \
              thing, and the reader need not wonder.",
        before: "FROM alpine:3.20\nADD app.conf /etc/\n",
        after: "FROM alpine:3.20\nCOPY app.conf /etc/\n",
        is_mendable: false,
    },
];

/// Names of files that ADD unpacks.
const ARCHIVES: [&str; 13] = [
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
    ".gz", ".bz2", ".xz",
];

/// Archives of a stage that are watched for being unpacked.
const MAX_ARCHIVES: usize = 256;

impl Practice<'_> {
    pub(super) fn add(&mut self, statement: &Statement, transfer: &Transfer) {
        let for_add = transfer.checksum.is_some()
            || transfer.keep_git_dir.is_some()
            || transfer.unpack.is_some();
        let paths: Option<Vec<&Word>> = transfer
            .sources
            .iter()
            .map(|source| match source {
                TransferSource::Path(word) if is_local_file(&word.text) => Some(word),
                TransferSource::Path(_) | TransferSource::Heredoc(_) => None,
            })
            .collect();
        let Some(paths) = paths.filter(|paths| !for_add && !paths.is_empty()) else { return };
        let remark = Remark::new(
            USE_COPY,
            statement.keyword.span,
            format!("`{}` is neither an archive nor a URL", paths[0].text),
        );
        self.say(&statement.comments, remark.help("use COPY"));
    }

    pub(super) fn copy(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        transfer: &Transfer,
    ) {
        self.copy_from(state, statement, transfer);
        let destination = &transfer.destination;
        let text = destination.text.trim_matches(['"', '\'']);
        let is_absolute = text.starts_with(['/', '\\', '$']) || text.get(1..2) == Some(":");
        if !state.has_workdir && !is_absolute {
            let message = format!("where `{text}` lies is the base image's choice");
            self.say(
                &statement.comments,
                Remark::new(RELATIVE_COPY_DESTINATION, destination.span, message)
                    .help("add a WORKDIR above, or begin the destination with `/`"),
            );
        }
        if transfer.from.is_none() {
            for source in &transfer.sources {
                let TransferSource::Path(word) = source else { continue };
                if state.archives.len() < MAX_ARCHIVES
                    && is_archive(&word.text)
                    && !word.text.contains(['$', '*', '?', '['])
                {
                    let name = word.text.rsplit('/').next().unwrap_or_default().to_owned();
                    state.archives.push((name, word.span, statement.comments.clone()));
                }
            }
        }
    }

    fn copy_from(&mut self, state: &StageState, statement: &Statement, transfer: &Transfer) {
        let Some(from) = &transfer.from else { return };
        let known = self.names.get(&from.text).is_some()
            || from.text.parse::<usize>().is_ok()
            || self.options.named_contexts.contains_key(from.text.as_str())
            || from.text.contains([':', '@', '$'])
            || from.text == "scratch";
        if known {
            return;
        }
        let names = self.dockerfile.stages[..state.index].iter().filter_map(|stage| stage.name());
        let nearest = crate::nearest::did_you_mean(&from.text, names);
        let message = format!("`{}` is no stage above, so it is fetched as an image", from.text);
        let help = nearest.as_deref().unwrap_or("give an image its tag, or name a stage above");
        self.say(
            &statement.comments,
            Remark::new(COPY_FROM_UNKNOWN, from.span, message).help(help),
        );
    }

    /// Speaks of an archive that was copied, when a command unpacks it.
    pub(super) fn unpacked(&mut self, state: &mut StageState, words: &[&str]) {
        let is_unpacked = |name: &str| words.iter().any(|word| word.ends_with(name));
        let (unpacked, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.archives)
            .into_iter()
            .partition(|(name, ..)| is_unpacked(name));
        state.archives = rest;
        for (name, span, comments) in unpacked {
            let message = format!("`{name}` is copied first and unpacked by a command later");
            self.say(
                &comments,
                Remark::new(USE_ADD_FOR_ARCHIVES, span, message).help("let ADD unpack it"),
            );
        }
    }
}

fn is_archive(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ARCHIVES.iter().any(|ending| lower.ends_with(ending))
}

/// Whether a source is certainly neither an archive nor something that is fetched.
fn is_local_file(path: &str) -> bool {
    let is_remote = path.contains("://")
        || path.starts_with("git@")
        || !matches!(parse_git_source(path), Ok(None));
    !is_remote && !is_archive(path) && !path.contains('$') && !path.ends_with('*')
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    #[test]
    fn transfers() {
        #[rustfmt::skip]
        let cases: [(&str, &str, &str, &[&str]); 15] = [
            ("a file",          USE_COPY, "FROM a:1\nADD x /x\n",                            &["ADD"]),
            ("an archive",      USE_COPY, "FROM a:1\nADD x.tar.gz /x\n",                     &[]),
            ("a URL",           USE_COPY, "FROM a:1\nADD https://example.org/x /x\n",        &[]),
            ("git",             USE_COPY, "FROM a:1\nADD git@example.org:a/b.git /x\n",      &[]),
            ("some of each",    USE_COPY, "FROM a:1\nADD x y.tar /x/\n",                     &[]),
            ("a variable",      USE_COPY, "FROM a:1\nARG X\nADD $X /x\n",                    &[]),
            ("relative",        RELATIVE_COPY_DESTINATION, "FROM a:1\nCOPY x y\n",           &["y"]),
            ("absolute",        RELATIVE_COPY_DESTINATION, "FROM a:1\nCOPY x /y\n",          &[]),
            ("below WORKDIR",   RELATIVE_COPY_DESTINATION, "FROM a:1 AS b\nWORKDIR /x\nFROM b\nCOPY x y\n", &[]),
            ("windows",         RELATIVE_COPY_DESTINATION, "FROM a:1\nCOPY x C:/y\n",        &[]),
            ("misspelt",        COPY_FROM_UNKNOWN, "FROM a:1 AS b\nFROM a:1\nCOPY --from=c /x /y\n", &["c"]),
            ("by number",       COPY_FROM_UNKNOWN, "FROM a:1 AS b\nFROM a:1\nCOPY --from=0 /x /y\n", &[]),
            ("tagged image",    COPY_FROM_UNKNOWN, "FROM a:1\nCOPY --from=busybox:1 /x /y\n", &[]),
            ("unpacked later",  USE_ADD_FOR_ARCHIVES, "FROM a:1\nCOPY x.tgz /tmp/\nRUN cd /tmp && tar xf x.tgz\n", &["x.tgz"]),
            ("not unpacked",    USE_ADD_FOR_ARCHIVES, "FROM a:1\nCOPY x.tgz /tmp/\nRUN tar cf y /tmp/x.tgz\n", &[]),
        ];
        for (name, rule, source, want) in cases {
            assert_eq!(said(source, rule), want, "{name}");
        }
    }
}
