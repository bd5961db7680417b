//! From instructions to stages: the public entry of parsing, and what only the whole file shows.

use std::collections::{BTreeMap, HashSet};

use crate::ast::{Dockerfile, Instruction, Stage, Statement, Word};
use crate::check::{self, CheckOptions, Checks};
use crate::diagnostic::Remarks;
use crate::instruction::{Typed, Typing};
use crate::lines::Lines;
use crate::syntax::{Instructions, Keyword, Raw};
use crate::{Diagnostic, Extent, Severity, Span, directive};

/// Names that mean something else than a stage in `--from`.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// A parsed file with all that is to be said about it.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// What could be understood.
    pub dockerfile: Dockerfile,
    /// Errors and warnings, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether the file cannot be built.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// What is wrong with the text itself, whatever is built of it: what BuildKit's parser and
    /// the reading of its instructions refuse.
    pub fn text_faults(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|said| said.is_fault() && said.extent == Extent::Text)
    }
}

/// Parses a Dockerfile (Dockerfile reference, syntax 1.26) and finds every fault in one pass.
///
/// Never panics and takes time in proportion to the length of `source`.
#[must_use]
pub fn parse(source: &str) -> Parsed {
    parse_with(source, &BTreeMap::new())
}

/// Parses a Dockerfile for a build with arguments: `BUILDKIT_DOCKERFILE_CHECK` takes the place of
/// its `check` directive. See [`parse`].
#[must_use]
pub fn parse_with(source: &str, build_args: &BTreeMap<String, String>) -> Parsed {
    let mut lines = Lines::new(source);
    let mut out = Remarks::default();
    let mut directives = directive::parse(&mut lines, &mut out);
    match CheckOptions::of_build_args(build_args) {
        Ok(None) => {}
        Ok(Some(options)) => directives.check = options,
        Err(key) => {
            let message = format!("invalid check option `{key}` in {}", check::BUILD_ARG);
            out.push(Diagnostic::error(Span::default(), message).within(Extent::File));
        }
    }
    directives.check.skip.extend(check::global_skips(source));
    let mut checks = Checks::new(&directives.check, out);
    let mut instructions = Instructions::new(&mut lines, directives.escape);
    let (globals, stages) = assemble(&mut instructions, directives.escape, build_args, &mut checks);
    lines.check_length(&mut checks.out);
    check_stage_names(&stages, &mut checks);
    let diagnostics = checks.out.finish();
    Parsed { dockerfile: Dockerfile { directives, globals, stages }, diagnostics }
}

fn assemble(
    instructions: &mut Instructions<'_, '_>,
    escape: char,
    build_args: &BTreeMap<String, String>,
    checks: &mut Checks<'_>,
) -> (Vec<Statement>, Vec<Stage>) {
    let mut globals = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut casing = Casing::default();
    // A FROM with a fault still opens a stage: what follows is not to be blamed for it.
    let mut is_open = false;
    let mut any = false;
    while let Some(raw) = instructions.next(&mut checks.out) {
        any = true;
        is_open |= raw.known == Some(Keyword::From);
        if is_open {
            casing.add(&raw);
        }
        if let Some(line) = raw.empty_line {
            let message = "Empty continuation line";
            if let Some(warning) =
                checks.warn(&raw.comments, check::NO_EMPTY_CONTINUATION, line, message)
            {
                warning.help = Some("remove it; later versions will refuse it".to_owned());
            }
        }
        let is_from = raw.known == Some(Keyword::From);
        let first = checks.out.len();
        let typed = (Typing { checks, escape, build_args }).instruction(raw);
        if let Some(stage) = stages.len().checked_sub(1).filter(|_| !is_from) {
            let said = checks.out.said_since(first).iter_mut();
            for fault in said.filter(|said| said.extent == Extent::File) {
                fault.extent = Extent::Stage(stage);
            }
        }
        match typed {
            Some(Typed::From(from)) => stages.push(Stage { from, statements: Vec::new() }),
            Some(Typed::Statement(statement)) => match stages.last_mut() {
                Some(stage) => stage.statements.push(statement),
                None if matches!(statement.instruction, Instruction::Arg(_)) => {
                    globals.push(statement);
                }
                None if is_open => {}
                None => {
                    let keyword = statement.keyword;
                    let name = keyword.text.to_uppercase();
                    checks.out.push(
                        Diagnostic::error(
                            keyword.span,
                            format!("{name} stands before the first FROM"),
                        )
                        .with_help("only ARG may stand there"),
                    );
                }
            },
            None => {}
        }
    }
    casing.check(checks);
    if !is_open && !checks.out.has_errors() {
        checks.out.push(if any {
            let end = globals.last().map_or(0, |statement: &Statement| statement.span.end);
            Diagnostic::error(Span::new(end, end), "the file has no stage to build")
                .within(Extent::File)
                .with_help("add `FROM IMAGE`")
        } else {
            Diagnostic::error(Span::new(0, 0), "the file has no instructions")
                .with_help("it begins with `FROM IMAGE`")
        });
    }
    (globals, stages)
}

/// The letter case of a file's keywords; global ARGs are no part of it, as in BuildKit.
#[derive(Debug, Default)]
struct Casing {
    majority: check::CaseMajority,
    /// Keywords that would be wrong in a file of lower case, and in one of upper case.
    wrong: [Vec<OddKeyword>; 2],
}

/// A keyword, with the comments above its instruction.
type OddKeyword = (Word, Vec<String>);

impl Casing {
    fn add(&mut self, raw: &Raw) {
        if raw.known.is_none() {
            return;
        }
        self.majority.add(&raw.keyword.text);
        let text = raw.keyword.text.as_bytes();
        let has =
            [text.iter().any(u8::is_ascii_uppercase), text.iter().any(u8::is_ascii_lowercase)];
        for (wrong, is_wrong) in self.wrong.iter_mut().zip(has) {
            if is_wrong {
                wrong.push((raw.keyword.clone(), raw.comments.clone()));
            }
        }
    }

    /// Speaks of keywords that are not written as most of the file's are.
    fn check(self, checks: &mut Checks<'_>) {
        let Self { majority, wrong: [in_lower, in_upper] } = self;
        let (wrong, case) =
            if majority.is_lower() { (in_lower, "lowercase") } else { (in_upper, "uppercase") };
        for (Word { text, span }, comments) in wrong {
            let message =
                format!("Command '{text}' should match the case of the command majority ({case})");
            checks.warn(&comments, check::CONSISTENT_INSTRUCTION_CASING, span, message);
        }
    }
}

fn check_stage_names(stages: &[Stage], checks: &mut Checks<'_>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for stage in stages {
        let Some(name) = &stage.from.name else { continue };
        let comments = &stage.from.comments;
        if RESERVED.contains(&name.text.as_str()) {
            let name_text = &name.text;
            let message = format!(
                "Stage name should not use the same name as reserved stage \"{name_text}\""
            );
            checks.warn(comments, check::RESERVED_STAGE_NAME, name.span, message);
        }
        if !seen.insert(&name.text) {
            let name_text = &name.text;
            let message =
                format!("Duplicate stage name \"{name_text}\", stage names should be unique");
            checks.warn(comments, check::DUPLICATE_STAGE_NAME, name.span, message);
        }
    }
}
