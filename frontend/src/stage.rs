//! From instructions to stages: the public entry of parsing, and what only the whole file shows.

use std::collections::{BTreeMap, HashSet};

use crate::ast::{Dockerfile, Instruction, Stage, Statement};
use crate::check::{self, CheckOptions, Checks};
use crate::instruction::{Typed, Typing};
use crate::lines::Lines;
use crate::syntax::{self, Keyword, Raw};
use crate::{Diagnostic, Severity, Span, diagnostic, directive};

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
    let mut out = Vec::new();
    let mut directives = directive::parse(&mut lines, &mut out);
    match CheckOptions::of_build_args(build_args) {
        Ok(None) => {}
        Ok(Some(options)) => directives.check = options,
        Err(key) => {
            let message = format!("invalid check option `{key}` in {}", check::BUILD_ARG);
            out.push(Diagnostic::error(Span::default(), message));
        }
    }
    directives.check.skip.extend(check::global_skips(source));
    let instructions = syntax::parse(&mut lines, directives.escape, &mut out);
    let any_fault = !out.is_empty();
    let mut checks = Checks::new(&directives.check, out);
    if instructions.is_empty() && !any_fault {
        checks.out.push(
            Diagnostic::error(Span::new(0, 0), "the file has no instructions")
                .with_help("it begins with `FROM IMAGE`"),
        );
    }
    check_casing(&instructions, &mut checks);
    let (globals, stages) = assemble(instructions, directives.escape, &mut checks);
    check_stage_names(&stages, &mut checks);
    let mut diagnostics = checks.out;
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    let diagnostics = diagnostic::bounded(diagnostics);
    Parsed { dockerfile: Dockerfile { directives, globals, stages }, diagnostics }
}

fn assemble(
    instructions: Vec<Raw>,
    escape: char,
    checks: &mut Checks<'_>,
) -> (Vec<Statement>, Vec<Stage>) {
    let mut globals = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    // A FROM with a fault still opens a stage: what follows is not to be blamed for it.
    let mut is_open = false;
    let mut any = false;
    for raw in instructions {
        any = true;
        let is_from = raw.known == Some(Keyword::From);
        let (span, keyword) = (raw.keyword.span, raw.keyword.text.to_uppercase());
        if let Some(line) = raw.empty_line {
            let message = "Empty continuation line";
            if let Some(warning) =
                checks.warn(&raw.comments, check::NO_EMPTY_CONTINUATION, line, message)
            {
                warning.help = Some("remove it; later versions will refuse it".to_owned());
            }
        }
        let typed = Typing { checks, escape }.instruction(raw);
        is_open |= is_from;
        match typed {
            Some(Typed::From(from)) => stages.push(Stage { from: *from, statements: Vec::new() }),
            Some(Typed::Statement(statement)) => match stages.last_mut() {
                Some(stage) => stage.statements.push(*statement),
                None if matches!(statement.instruction, Instruction::Arg(_)) => {
                    globals.push(*statement);
                }
                None if is_open => {}
                None => checks.out.push(
                    Diagnostic::error(span, format!("{keyword} stands before the first FROM"))
                        .with_help("only ARG may stand there"),
                ),
            },
            None => {}
        }
    }
    if any && !is_open && checks.out.iter().all(|d| d.severity != Severity::Error) {
        let end = globals.last().map_or(0, |statement: &Statement| statement.span.end);
        checks.out.push(
            Diagnostic::error(Span::new(end, end), "the file has no stage to build")
                .with_help("add `FROM IMAGE`"),
        );
    }
    (globals, stages)
}

/// Speaks of keywords that are not written as most of the file's are.
fn check_casing(instructions: &[Raw], checks: &mut Checks<'_>) {
    // Global ARGs are no part of it, as in BuildKit.
    let first = instructions.iter().position(|raw| raw.known == Some(Keyword::From));
    let known = || {
        let counted = instructions.iter().skip(first.unwrap_or(instructions.len()));
        counted.filter(|raw| raw.known.is_some())
    };
    let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let is_upper = |text: &str| !text.bytes().any(|byte| byte.is_ascii_lowercase());
    let wants_lower = check::wants_lower_case(known().map(|raw| raw.keyword.text.as_str()));
    for raw in known() {
        let text = &raw.keyword.text;
        if if wants_lower { is_lower(text) } else { is_upper(text) } {
            continue;
        }
        let case = if wants_lower { "lowercase" } else { "uppercase" };
        let message =
            format!("Command '{text}' should match the case of the command majority ({case})");
        let rule = check::CONSISTENT_INSTRUCTION_CASING;
        checks.warn(&raw.comments, rule, raw.keyword.span, message);
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
