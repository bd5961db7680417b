//! Checking a whole file: every rule, on every stage that the target can mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::Dockerfile;
use crate::lines::Lines;
use crate::{
    BaseImage, Diagnostic, IgnoreRules, LowerOptions, Platform, ResolvedBase, Severity, Span,
    lower, parse_with,
};

use super::{NO_EMPTY_CONTINUATION, RuleSet};

/// What a check is made with.
#[derive(Clone, Copy, Debug)]
pub struct CheckRequest<'a> {
    /// As for a build; without a target every stage is checked, as in BuildKit.
    pub options: &'a LowerOptions,
    /// The configs of base images, as far as they are known: an unknown one is taken to set
    /// nothing but PATH.
    pub bases: &'a BTreeMap<BaseImage, ResolvedBase>,
    /// Which rules speak. Errors and deprecations always do.
    pub rules: &'a RuleSet,
}

/// A checked file.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What could be understood.
    pub dockerfile: Dockerfile,
    /// In the order of the file. With `error=true` what rules say has severity error.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Whether the file cannot be built, whatever its rules say.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_fault)
    }
}

/// Checks a Dockerfile as far as its text, the options and the known bases tell.
#[must_use]
pub fn check(source: &str, request: &CheckRequest<'_>) -> Checked {
    let parsed = parse_with(source, &request.options.build_args);
    let mut diagnostics = parsed.diagnostics;
    if !diagnostics.iter().any(Diagnostic::is_fault) {
        diagnostics.extend(lower::diagnose(&parsed.dockerfile, request.options, request.bases));
    }
    let mut seen = BTreeSet::new();
    diagnostics.retain(|diagnostic| {
        let speaks = diagnostic.rule.is_none_or(|rule| request.rules.has(rule));
        speaks && seen.insert((diagnostic.span, diagnostic.rule, diagnostic.message.clone()))
    });
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    Checked { dockerfile: parsed.dockerfile, diagnostics }
}

/// Returns what BuildKit's linter says of a Dockerfile: rule and 1-based line, sorted.
///
/// `ignore` is the text of the ignore file, empty for none. Base images are not looked up.
///
/// # Errors
///
/// The first fault, where the file has one and no rule spoke of anything.
pub fn lint(
    source: &str,
    ignore: &str,
    build_args: &BTreeMap<String, String>,
    target: Option<&str>,
) -> Result<Vec<(&'static str, usize)>, String> {
    let platform = Platform::parse("linux/amd64").unwrap_or_else(|_| Platform::host());
    let options = LowerOptions {
        target: target.map(str::to_owned),
        build_args: build_args.clone(),
        target_platform: platform.clone(),
        build_platform: platform,
        ignore: IgnoreRules::parse(ignore).map_err(|error| error.to_string())?,
        ..LowerOptions::default()
    };
    let bases = BTreeMap::new();
    let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::BuildKit };
    let Checked { dockerfile, diagnostics } = check(source, &request);
    let mut found: Vec<(&'static str, usize)> = diagnostics
        .iter()
        .filter_map(|diagnostic| {
            Some((diagnostic.rule?, reported_line(source, &dockerfile, diagnostic)))
        })
        .collect();
    found.sort_unstable();
    let fault = diagnostics.into_iter().find(Diagnostic::is_fault);
    match fault {
        Some(fault) if found.is_empty() => Err(fault.message),
        _ => Ok(found),
    }
}

/// The line that BuildKit reports: the first of the instruction, but its last for an empty line
/// within it.
#[must_use]
pub fn reported_line(source: &str, dockerfile: &Dockerfile, diagnostic: &Diagnostic) -> usize {
    let at = diagnostic.span.start;
    let own = diagnostic.span.line_column(source).0;
    let Some(span) = instruction_at(dockerfile, at) else { return own };
    if diagnostic.rule != Some(NO_EMPTY_CONTINUATION) {
        return span.line_column(source).0;
    }
    let mut lines = Lines::at(source, span.start);
    let Some(first) = lines.next_line() else { return own };
    lines.join(first, dockerfile.directives.escape);
    let end = source[..lines.position()].trim_end_matches(['\r', '\n']).len();
    Span::new(end, end).line_column(source).0
}

/// The span of the instruction that covers the offset `at`.
pub(super) fn instruction_at(dockerfile: &Dockerfile, at: usize) -> Option<Span> {
    let heads = dockerfile.stages.iter().map(|stage| stage.from.span);
    let statements = dockerfile.stages.iter().flat_map(|stage| &stage.statements);
    let statements = statements.chain(&dockerfile.globals).map(|statement| statement.span);
    heads.chain(statements).find(|span| span.start <= at && at <= span.end)
}

impl Diagnostic {
    /// Whether it keeps the file from being built by itself, not because rules are errors.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.severity == Severity::Error && self.rule.is_none()
    }
}
