//! BuildKit's rules, held against `testdata/check/buildkit.txt`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use frontend::{CheckRequest, IgnoreRules, LowerOptions, RuleSet};

use crate::support::options;

/// One case: name, options, Dockerfile, what is said.
pub(crate) struct Case<'t> {
    pub(crate) name: &'t str,
    pub(crate) options: Vec<(&'t str, &'t str)>,
    pub(crate) dockerfile: String,
    pub(crate) want: String,
}

/// Splits a file of cases; what stands before the first is a comment.
pub(crate) fn cases(text: &str) -> Vec<Case<'_>> {
    let cases = text.split("\n=== ").skip(1).map(|case| {
        let mut parts = case.split("\n---\n");
        let head = parts.next().expect("a head");
        let dockerfile = parts.next().expect("a Dockerfile");
        let want = parts.next().unwrap_or_default();
        let mut head = head.lines();
        let name = head.next().expect("a name");
        let options = head.map(|line| line.split_once(' ').expect("an option and its value"));
        Case {
            name,
            options: options.collect(),
            dockerfile: format!("{dockerfile}\n"),
            want: want.trim_end().to_owned(),
        }
    });
    cases.collect()
}

impl Case<'_> {
    pub(crate) fn values<'c>(&'c self, option: &'c str) -> impl Iterator<Item = &'c str> {
        self.options.iter().filter(move |(name, _)| *name == option).map(|(_, value)| *value)
    }

    pub(crate) fn ignore(&self) -> String {
        self.values("ignore").fold(String::new(), |text, pattern| text + pattern + "\n")
    }

    pub(crate) fn arguments(&self) -> BTreeMap<String, String> {
        let pairs = self.values("arg").map(|arg| arg.split_once('=').expect("NAME=VALUE"));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(crate) fn lower_options(&self) -> LowerOptions {
        LowerOptions {
            target: self.values("target").next().map(str::to_owned),
            build_args: self.arguments(),
            ignore: IgnoreRules::parse(&self.ignore()).expect("patterns"),
            ..options("")
        }
    }
}

#[test]
fn buildkit_rules() {
    let text = include_str!("../../../testdata/check/buildkit.txt");
    let cases = cases(text);
    assert!(cases.len() >= 45, "only {} cases", cases.len());
    let mut failures = String::new();
    for case in &cases {
        let options = case.lower_options();
        let bases = BTreeMap::new();
        let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::BuildKit };
        let source = &case.dockerfile;
        let checked = frontend::check(source, &request);
        let mut lines: Vec<(usize, String)> = checked
            .findings
            .iter()
            .filter_map(|finding| {
                let (line, said) = (finding.line, &finding.diagnostic);
                Some((line, format!("{line} {}: {}", said.rule?, said.message)))
            })
            .collect();
        lines.sort_by_key(|(line, _)| *line);
        let mut got: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        let fault =
            checked.findings.iter().map(|found| &found.diagnostic).find(|said| said.is_fault());
        if got.is_empty() {
            got.extend(fault.map(|fault| format!("fault: {}", fault.message)));
        }
        let got = got.join("\n");
        if got != case.want {
            let _ = write!(failures, "== {}\n-- got\n{got}\n-- want\n{}\n", case.name, case.want);
        }
        // The compact form agrees with the long one.
        let target = options.target.as_deref();
        let compact = frontend::lint(source, &case.ignore(), &case.arguments(), target);
        let mut want: Vec<(String, usize)> = case
            .want
            .lines()
            .filter_map(|line| {
                let (line, rest) = line.split_once(' ')?;
                let (rule, _) = rest.split_once(':')?;
                Some((rule.to_owned(), line.parse().ok()?))
            })
            .collect();
        want.sort();
        match compact {
            Ok(got) => {
                let got: Vec<(String, usize)> =
                    got.into_iter().map(|(rule, line)| (rule.to_owned(), line)).collect();
                assert_eq!(got, want, "{}", case.name);
            }
            Err(fault) => assert_eq!(case.want, format!("fault: {fault}"), "{}", case.name),
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn error_makes_errors_of_what_rules_say() {
    let source = "# check=error=true\nFROM scratch as base\nCOPY $x .\n";
    let (options, bases) = (options(""), BTreeMap::new());
    let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::BuildKit };
    let checked = frontend::check(source, &request);
    assert_eq!(checked.findings.len(), 2);
    let is_error =
        |found: &frontend::Finding| found.diagnostic.severity == frontend::Severity::Error;
    assert!(checked.findings.iter().all(is_error));
    assert!(!checked.has_faults());
}
