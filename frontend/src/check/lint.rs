//! Checking a whole file: every rule, on every stage that the target can mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Dockerfile, Stage, Statement};
use crate::lines::Lines;
use crate::{
    BaseImage, Diagnostic, IgnoreRules, LowerOptions, Platform, ResolvedBase, Severity, Span,
    lower, parse_with,
};

use super::fix::{self, Edit};
use super::{NO_EMPTY_CONTINUATION, RuleSet, practice};

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
    pub findings: Vec<Finding>,
}

/// One remark, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is said.
    pub diagnostic: Diagnostic,
    /// Replacements that mend it; empty where a person must decide.
    pub edits: Vec<Edit>,
}

impl Checked {
    /// Whether the file cannot be built, whatever its rules say.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.findings.iter().any(|finding| finding.diagnostic.is_fault())
    }
}

/// Checks a Dockerfile as far as its text, the options and the known bases tell.
#[must_use]
pub fn check(source: &str, request: &CheckRequest<'_>) -> Checked {
    let parsed = parse_with(source, &request.options.build_args);
    let dockerfile = parsed.dockerfile;
    let is_whole = !parsed.diagnostics.iter().any(Diagnostic::is_fault);
    let mut said = parsed.diagnostics;
    if is_whole {
        said.extend(lower::diagnose(&dockerfile, request.options, request.bases));
    }
    let mut findings: Vec<Finding> = said
        .into_iter()
        .map(|diagnostic| {
            let edits = fix::mend(source, &dockerfile, &diagnostic);
            Finding { diagnostic, edits }
        })
        .collect();
    if is_whole && *request.rules != RuleSet::BuildKit {
        findings.extend(practice::check(source, &dockerfile, request.options));
    }
    let mut seen = BTreeSet::new();
    findings.retain(|Finding { diagnostic, .. }| {
        let speaks = diagnostic.rule.is_none_or(|rule| request.rules.has(rule));
        speaks && seen.insert((diagnostic.span, diagnostic.rule, diagnostic.message.clone()))
    });
    findings.sort_by_key(|finding| (finding.diagnostic.span.start, finding.diagnostic.span.end));
    Checked { dockerfile, findings }
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
    let Checked { dockerfile, findings } = check(source, &request);
    let said = || findings.iter().map(|finding| &finding.diagnostic);
    let mut found: Vec<(&'static str, usize)> = said()
        .filter_map(|diagnostic| {
            Some((diagnostic.rule?, reported_line(source, &dockerfile, diagnostic)))
        })
        .collect();
    found.sort_unstable();
    let fault = said().find(|diagnostic| diagnostic.is_fault());
    match fault {
        Some(fault) if found.is_empty() => Err(fault.message.clone()),
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

/// The statement of a stage that covers the offset `at`.
pub(super) fn statement_at(dockerfile: &Dockerfile, at: usize) -> Option<(&Stage, &Statement)> {
    let statements = dockerfile
        .stages
        .iter()
        .flat_map(|stage| stage.statements.iter().map(move |statement| (stage, statement)));
    let mut statements = statements;
    statements.find(|(_, statement)| statement.span.start <= at && at <= statement.span.end)
}

impl Diagnostic {
    /// Whether it keeps the file from being built by itself, not because rules are errors.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.severity == Severity::Error && self.rule.is_none()
    }
}
