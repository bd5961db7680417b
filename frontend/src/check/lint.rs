//! Checking a whole file: every rule, on every stage that the target can mean.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::Dockerfile;
use crate::{
    BaseImage, Diagnostic, IgnoreRules, LowerOptions, Platform, ResolvedBase, Severity, lower,
    parse_with,
};

use super::fix::{self, Edit};
use super::index::FileIndex;
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
    /// The 1-based line that BuildKit reports: its instruction's.
    pub line: usize,
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
    let mut parsed = parse_with(source, &request.options.build_args);
    let has_target = request.options.target.as_deref().is_some_and(|target| !target.is_empty());
    if has_target && lower::faults(&parsed, request.options).is_empty() {
        parsed.diagnostics.retain(|said| !said.is_fault());
    }
    let dockerfile = parsed.dockerfile;
    let is_whole = !parsed.diagnostics.iter().any(Diagnostic::is_fault);
    let mut said = parsed.diagnostics;
    if is_whole {
        said.extend(lower::diagnose(&dockerfile, request.options, request.bases));
    }
    let index = FileIndex::new(source, &dockerfile);
    let mender = fix::Mender::new(&index, &dockerfile);
    let mut remarks: Vec<(Diagnostic, Vec<Edit>)> = said
        .into_iter()
        .map(|diagnostic| {
            let edits = mender.mend(&diagnostic);
            (diagnostic, edits)
        })
        .collect();
    if is_whole && *request.rules != RuleSet::BuildKit {
        remarks.extend(practice::check(source, &dockerfile, request.options));
    }
    let mut findings: Vec<Finding> = remarks
        .into_iter()
        .map(|(diagnostic, edits)| {
            let line = reported_line(&index, &diagnostic);
            Finding { diagnostic, edits, line }
        })
        .collect();
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
    let findings = check(source, &request).findings;
    let mut found: Vec<(&'static str, usize)> = findings
        .iter()
        .filter_map(|finding| Some((finding.diagnostic.rule?, finding.line)))
        .collect();
    found.sort_unstable();
    let fault = findings.iter().map(|finding| &finding.diagnostic).find(|said| said.is_fault());
    match fault {
        Some(fault) if found.is_empty() => Err(fault.message.clone()),
        _ => Ok(found),
    }
}

/// The line that BuildKit reports: the first of the instruction, but its last for an empty line
/// within it.
fn reported_line(index: &FileIndex<'_>, diagnostic: &Diagnostic) -> usize {
    let Some(place) = index.instruction(diagnostic.span.start) else {
        return index.line(diagnostic.span.start);
    };
    if diagnostic.rule != Some(NO_EMPTY_CONTINUATION) {
        return index.line(place.span.start);
    }
    let end = index.end_of_lines(place.span);
    index.line(index.source()[..end].trim_end_matches(['\r', '\n']).len())
}

impl Diagnostic {
    /// Whether it keeps the file from being built by itself, not because rules are errors.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.severity == Severity::Error && self.rule.is_none()
    }
}
