//! The syntax tree: what a Dockerfile says, before any variable is expanded.
//!
//! Invariant: texts are as written (quotes, escapes and variables live in them); every part keeps
//! its place in the source.

use std::ops::Range;

use serde::Serialize;
use smol_str::SmolStr;

use crate::Span;
use crate::directive::Directives;

/// A piece of text with its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Word {
    /// As written, continuations joined. Most words are short, and short ones live in place.
    pub text: SmolStr,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// Returns the place of `range` of the text, or of the whole word where it cannot be told
    /// (the word crosses a continuation or lost quotes).
    pub(crate) fn part(&self, range: Range<usize>) -> Span {
        let exact = self.span.end - self.span.start == self.text.len();
        if exact && range.start <= range.end && range.end <= self.text.len() {
            Span::new(self.span.start + range.start, self.span.start + range.end)
        } else {
            self.span
        }
    }
}

/// A parsed file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// What the head of the file says about the rest.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`.
    pub globals: Vec<Statement>,
    /// At least one in a file without errors.
    pub stages: Vec<Stage>,
}

/// One `FROM` and the instructions below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// The head of the stage.
    pub from: StageHead,
    /// The instructions below, in order.
    pub statements: Vec<Statement>,
}

impl Stage {
    /// Returns the stage's name in lower case.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(|name| name.text.as_str())
    }
}

/// `FROM base AS name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageHead {
    /// Image, earlier stage or `scratch`, variables live.
    pub base: Word,
    /// The stage's name, lower-cased.
    pub name: Option<Word>,
    /// `--platform`, variables live.
    pub platform: Option<Word>,
    /// `--after`: earlier stages, by name or number, in the order written.
    pub after: Vec<Word>,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole instruction.
    pub span: Span,
    /// The instruction on one line.
    pub text: SmolStr,
    /// Comment lines directly above, without `#`.
    pub comments: Vec<String>,
}

/// One instruction with what surrounds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// What it does.
    pub instruction: Instruction,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole instruction, heredocs included.
    pub span: Span,
    /// The instruction on one line, without heredoc bodies.
    pub text: SmolStr,
    /// Comment lines directly above, without `#`.
    pub comments: Vec<String>,
}

/// An instruction other than `FROM`. Closed: match it without a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Instruction {
    /// `ADD`.
    Add(Box<Transfer>),
    /// `ARG`.
    Arg(Vec<ArgDeclaration>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Box<Transfer>),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`.
    Env(Vec<Pair>),
    /// `EXPOSE`.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Box<HealthcheckSpec>),
    /// `LABEL`.
    Label(Vec<Pair>),
    /// `MAINTAINER`.
    Maintainer(Word),
    /// `ONBUILD`.
    Onbuild(Onbuild),
    /// `RUN`.
    Run(Run),
    /// `SHELL`.
    Shell(Vec<Word>),
    /// `STOPSIGNAL`.
    Stopsignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// `name=value` of ENV and LABEL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Left of the sign.
    pub key: Word,
    /// Right of the sign.
    pub value: Word,
    /// False for the old form `ENV name value`.
    pub has_equals: bool,
}

/// `name[=default]` of ARG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArgDeclaration {
    /// The argument's name.
    pub name: Word,
    /// Its default.
    pub default: Option<Word>,
}

/// Shell form or exec form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Text for the shell.
    Shell(Word),
    /// An argument vector.
    Exec(Vec<Word>),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// In the order written.
    pub heredocs: Vec<Heredoc>,
    /// `None` without flags: most have none, and a file can have very many instructions.
    pub flags: Option<Box<RunFlags>>,
}

impl Run {
    /// `--mount`, in the order written.
    #[must_use]
    pub fn mounts(&self) -> &[MountFlag] {
        self.flags.as_ref().map_or(&[], |flags| &flags.mounts)
    }

    /// `--network`.
    #[must_use]
    pub fn network(&self) -> Option<&Word> {
        self.flags.as_ref()?.network.as_ref()
    }

    /// `--security`.
    #[must_use]
    pub fn security(&self) -> Option<&Word> {
        self.flags.as_ref()?.security.as_ref()
    }

    /// `--device`, in the order written.
    #[must_use]
    pub fn devices(&self) -> &[Word] {
        self.flags.as_ref().map_or(&[], |flags| &flags.devices)
    }
}

/// The flags of `RUN`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunFlags {
    /// `--mount`, in the order written.
    pub mounts: Vec<MountFlag>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device`, in the order written.
    pub devices: Vec<Word>,
}

/// `--mount=key=value,...` with its values not yet expanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountFlag {
    /// The fields, in order.
    pub fields: Vec<MountField>,
    /// The flag's value.
    pub span: Span,
}

/// One field of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountField {
    /// Lower-cased.
    pub key: Word,
    /// `None` for a bare `ro`, `rw` or `required`.
    pub value: Option<Word>,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transfer {
    /// In the order written.
    pub sources: Vec<TransferSource>,
    /// Where to.
    pub destination: Word,
    /// `--from` of COPY: stage, number, image or named context.
    pub from: Option<Word>,
    /// `--chown`.
    pub owner: Option<Word>,
    /// `--chmod`.
    pub mode: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` of COPY.
    pub parents: bool,
    /// `--exclude`, in the order written.
    pub exclude: Vec<Word>,
    /// `--keep-git-dir` of ADD.
    pub keep_git_dir: Option<bool>,
    /// `--checksum` of ADD.
    pub checksum: Option<Word>,
    /// `--unpack` of ADD.
    pub unpack: Option<bool>,
}

/// One source of a COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferSource {
    /// Path, pattern or URL.
    Path(Word),
    /// An inline file.
    Heredoc(Heredoc),
}

/// A heredoc with its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// The delimiter without quotes; also the file's name.
    pub name: String,
    /// The delimiter was not quoted: variables in the body are expanded.
    pub expands: bool,
    /// `<<-`: leading tabs are dropped.
    pub chomps: bool,
    /// The body as written, line ends included.
    pub content: String,
    /// The mark (`<<EOF`).
    pub mark: Span,
    /// The body.
    pub body: Span,
}

impl Heredoc {
    /// Returns the body as the command gets it.
    #[must_use]
    pub fn chomped(&self) -> String {
        if !self.chomps {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `HEALTHCHECK`; durations in nanoseconds, 0 inherits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthcheckSpec {
    /// `None` for `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    /// `--interval`.
    pub interval: i64,
    /// `--timeout`.
    pub timeout: i64,
    /// `--start-period`.
    pub start_period: i64,
    /// `--start-interval`.
    pub start_interval: i64,
    /// `--retries`.
    pub retries: i64,
}

/// `ONBUILD`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Onbuild {
    /// The trigger's text, heredocs included, as the config keeps it.
    pub expression: String,
    /// The trigger, parsed; `None` where no build could run it: it is kept, and fails on top of
    /// the image.
    pub trigger: Option<Box<Statement>>,
}
