//! Findings as a document: the form of BuildKit's lint result, with our own fields beside its.

use builder::SourceText;
use frontend::{Checked, Finding, Span};
use serde_json::{Value, json};

use super::call;

/// Writes all findings. A fault that keeps the file from being built is `buildError`; the others
/// are `warnings`, errors by `error=true` included.
pub(super) fn write(source: &SourceText, checked: &Checked) -> String {
    let said = || checked.findings.iter().map(|finding| (&finding.diagnostic, finding));
    let warnings: Vec<Value> = said()
        .filter(|(diagnostic, _)| !diagnostic.is_fault())
        .map(|(_, finding)| {
            let mut document = remark(source, finding);
            document["fixable"] = (!finding.edits.is_empty()).into();
            document
        })
        .collect();
    let faults: Vec<Value> = said()
        .filter(|(diagnostic, _)| diagnostic.is_fault())
        .map(|(diagnostic, _)| {
            json!({
                "message": diagnostic.message,
                "location": call::location(source, diagnostic.span),
            })
        })
        .collect();
    let mut document = json!({ "warnings": warnings, "sources": [call::source(source)] });
    if let Some(first) = faults.first() {
        document["buildError"] = first.clone();
        document["errors"] = faults.into();
    }
    format!("{document:#}\n")
}

fn remark(source: &SourceText, finding: &Finding) -> Value {
    let (diagnostic, reported) = (&finding.diagnostic, finding.line);
    let rule = diagnostic.rule.and_then(|name| frontend::rule(name).ok());
    let (line, column) = diagnostic.span.line_column(&source.text);
    let last = Span::new(diagnostic.span.end, diagnostic.span.end).line_column(&source.text).0;
    let position = |line: usize| json!({ "line": line, "character": 0 });
    let mut document = json!({
        "ruleName": diagnostic.rule.unwrap_or("Deprecated"),
        "detail": diagnostic.message,
        "location": {
            "ranges": [{ "start": position(reported), "end": position(last.max(reported)) }],
        },
        "severity": diagnostic.severity,
        "line": line,
        "column": column,
    });
    if let Some(rule) = rule {
        document["description"] = rule.summary.into();
        document["aliases"] = json!(rule.aliases);
        if let Some(url) = rule.url() {
            document["url"] = url.into();
        }
    }
    if let Some(help) = &diagnostic.help {
        document["help"] = help.as_str().into();
    }
    document
}
