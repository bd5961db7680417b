//! Findings as SARIF 2.1.0 (OASIS Standard, "Static Analysis Results Interchange Format").

use std::collections::BTreeSet;
use std::fmt::Write as _;

use builder::SourceText;
use frontend::{Checked, Finding, Origin, Rule, Severity, Span};
use serde_json::{Value, json};

/// Writes one run with all findings and the rules that they are of.
pub(super) fn write(source: &SourceText, checked: &Checked) -> String {
    let spoken: BTreeSet<&str> =
        checked.findings.iter().filter_map(|finding| finding.diagnostic.rule).collect();
    let rules: Vec<&Rule> = frontend::rules().filter(|rule| spoken.contains(rule.name)).collect();
    let results: Vec<Value> =
        checked.findings.iter().map(|finding| result(source, finding, &rules)).collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "rbuild",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|rule| descriptor(rule)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{document:#}\n")
}

fn descriptor(rule: &Rule) -> Value {
    let origin = match rule.origin {
        Origin::BuildKit | Origin::Experimental => "buildkit",
        Origin::Practice | Origin::OnRequest => "practice",
    };
    let mut document = json!({
        "id": rule.name,
        "shortDescription": { "text": rule.summary },
        "fullDescription": { "text": rule.why },
        "defaultConfiguration": { "level": "warning" },
        "properties": { "tags": [origin], "aliases": rule.aliases },
    });
    if let Some(url) = rule.url() {
        document["helpUri"] = url.into();
    }
    document
}

fn result(source: &SourceText, finding: &Finding, rules: &[&Rule]) -> Value {
    let diagnostic = &finding.diagnostic;
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let message = match &diagnostic.help {
        Some(help) => format!("{} ({help})", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let artifact = json!({ "uri": uri(&source.name) });
    let mut document = json!({
        "level": level,
        "message": { "text": message },
        "locations": [{ "physicalLocation": {
            "artifactLocation": artifact,
            "region": region(source, diagnostic.span),
        }}],
    });
    let index = diagnostic.rule.and_then(|name| rules.iter().position(|rule| rule.name == name));
    if let Some(index) = index {
        document["ruleId"] = rules[index].name.into();
        document["ruleIndex"] = index.into();
    }
    if !finding.edits.is_empty() {
        let replacements: Vec<Value> = finding
            .edits
            .iter()
            .map(|edit| {
                json!({
                    "deletedRegion": region(source, edit.span),
                    "insertedContent": { "text": edit.text },
                })
            })
            .collect();
        document["fixes"] = json!([{
            "description": { "text": "what `rbuild check --fix` does" },
            "artifactChanges": [{ "artifactLocation": artifact, "replacements": replacements }],
        }]);
    }
    document
}

/// Lines and columns from 1, columns in characters, the end just past the last one.
fn region(source: &SourceText, span: Span) -> Value {
    let (line, column) = span.line_column(&source.text);
    let (end_line, end_column) = Span::new(span.end, span.end).line_column(&source.text);
    json!({
        "startLine": line,
        "startColumn": column,
        "endLine": end_line,
        "endColumn": end_column,
    })
}

/// A path as a relative reference (RFC 3986, section 4.2): what has a meaning there is escaped.
fn uri(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
