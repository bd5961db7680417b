//! `--call`: what a Dockerfile says about itself instead of a build, in BuildKit's forms.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use builder::SourceText;
use clap::Args;
use frontend::{BaseImage, LowerOptions, Outline, OutlineMount, ResolvedBase, Span};
use serde_json::{Value, json};

use super::Format;
use crate::cli::{print, source};
use crate::fault::Fault;

/// What is asked for in place of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `check`: what BuildKit's rules say.
    Check(Format),
    /// `outline`: what a build of the target takes.
    Outline {
        /// As a document.
        json: bool,
    },
    /// `targets`: which stages there are.
    Targets {
        /// As a document.
        json: bool,
    },
}

/// Options of a build that ask for something else.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Check the Dockerfile instead of building: --call check
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Tell about the Dockerfile instead of building: check, outline (what the target takes) or
    /// targets; with ,format=json as a document
    #[arg(long, value_name = "METHOD", value_parser = method)]
    call: Option<Method>,
}

/// The value of `--call`; `build` asks for nothing else than a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Method(Option<Call>);

fn method(text: &str) -> Result<Method, String> {
    Call::parse(text).map(Method)
}

impl CallArgs {
    /// What is asked for in place of a build.
    pub(crate) fn asked(&self) -> Option<Call> {
        let called = self.call.and_then(|method| method.0);
        called.or(self.check.then_some(Call::Check(Format::Text)))
    }
}

impl Call {
    /// Parses `check|outline|targets[,format=text|json]`; `build` is no call, and `None`.
    fn parse(text: &str) -> Result<Option<Self>, String> {
        let (method, options) = text.split_once(',').unwrap_or((text, ""));
        let mut format = Format::Text;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            format = match option.split_once('=') {
                Some(("format", "text")) => Format::Text,
                Some(("format", "json")) => Format::Json,
                Some(("format", "sarif")) if method == "check" => Format::Sarif,
                _ => {
                    return Err(format!("`{option}` is no option of a call: expected format=json"));
                }
            };
        }
        let json = format == Format::Json;
        match method {
            "build" => Ok(None),
            "check" | "lint" => Ok(Some(Self::Check(format))),
            "outline" => Ok(Some(Self::Outline { json })),
            "targets" => Ok(Some(Self::Targets { json })),
            _ => Err(format!("there is no method `{method}`: expected check, outline or targets")),
        }
    }
}

/// Prints the target's arguments, secrets, ssh agents and caches.
pub(super) fn outline(
    text: &SourceText,
    options: &LowerOptions,
    bases: &BTreeMap<BaseImage, ResolvedBase>,
    json: bool,
) -> Result<ExitCode, Fault> {
    let parsed = frontend::parse_with(&text.text, &options.build_args);
    if !frontend::faults(&parsed, options).is_empty() {
        return Err(source::fault(text, &parsed.diagnostics));
    }
    let outline = frontend::outline(&parsed.dockerfile, options, bases)
        .map_err(|diagnostics| source::fault(text, &diagnostics))?;
    let told = if json { outline_json(text, &outline) } else { outline_text(&outline) };
    print(&told).map(|()| ExitCode::SUCCESS)
}

/// Prints the stages that can be built.
pub(super) fn targets(
    text: &SourceText,
    options: &LowerOptions,
    json: bool,
) -> Result<ExitCode, Fault> {
    let parsed = frontend::parse_with(&text.text, &options.build_args);
    if parsed.text_faults().next().is_some() {
        return Err(source::fault(text, &parsed.diagnostics));
    }
    let targets = frontend::targets(&parsed.dockerfile);
    if json {
        let targets: Vec<Value> = targets
            .iter()
            .map(|target| {
                let mut document = json!({
                    "base": target.base,
                    "location": location(text, target.span),
                });
                set(&mut document, "name", target.name.as_deref());
                set(&mut document, "description", Some(target.description.as_str()));
                set(&mut document, "platform", target.platform.as_deref());
                if target.is_default {
                    document["default"] = true.into();
                }
                document
            })
            .collect();
        let document = json!({ "targets": targets, "sources": [STANDARD.encode(&text.text)] });
        return print(&format!("{document:#}\n")).map(|()| ExitCode::SUCCESS);
    }
    let rows = targets.iter().map(|target| {
        let name = target.name.clone().unwrap_or_else(|| target.number.to_string());
        let mark = if target.is_default { " (default)" } else { "" };
        vec![format!("{name}{mark}"), target.description.clone()]
    });
    print(&table(&["TARGET", "DESCRIPTION"], rows.collect())).map(|()| ExitCode::SUCCESS)
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if let Some(name) = &outline.name {
        let _ = writeln!(text, "TARGET:      {name}");
        if !outline.description.is_empty() {
            let _ = writeln!(text, "DESCRIPTION: {}", outline.description);
        }
        text.push('\n');
    }
    let args = outline.args.iter().map(|arg| {
        vec![arg.name.clone(), arg.value.clone().unwrap_or_default(), arg.description.clone()]
    });
    let mounts = |list: &[OutlineMount]| -> Vec<Vec<String>> {
        let required = |is_required| if is_required { "true" } else { "" };
        list.iter().map(|m| vec![m.id.clone(), required(m.is_required).to_owned()]).collect()
    };
    let caches = outline.caches.iter().map(|cache| vec![cache.id.clone()]).collect();
    let tables = [
        (&["BUILD ARG", "VALUE", "DESCRIPTION"][..], args.collect()),
        (&["SECRET", "REQUIRED"][..], mounts(&outline.secrets)),
        (&["SSH", "REQUIRED"][..], mounts(&outline.ssh)),
        (&["CACHE"][..], caches),
    ];
    for (head, rows) in tables {
        let rows: Vec<Vec<String>> = rows;
        if !rows.is_empty() {
            text += &table(head, rows);
            text.push('\n');
        }
    }
    text
}

fn outline_json(source: &SourceText, outline: &Outline) -> String {
    let mounts = |list: &[OutlineMount], name: &str| -> Vec<Value> {
        let told = list.iter().map(|mount| {
            let mut document = json!({ "location": location(source, mount.span) });
            document[name] = mount.id.as_str().into();
            if mount.is_required {
                document["required"] = true.into();
            }
            document
        });
        told.collect()
    };
    let args: Vec<Value> = outline
        .args
        .iter()
        .map(|arg| {
            let mut document = json!({ "name": arg.name, "location": location(source, arg.span) });
            set(&mut document, "description", Some(arg.description.as_str()));
            set(&mut document, "value", arg.value.as_deref());
            document
        })
        .collect();
    let mut document = json!({ "sources": [STANDARD.encode(&source.text)] });
    set(&mut document, "name", outline.name.as_deref());
    set(&mut document, "description", Some(outline.description.as_str()));
    for (name, list) in [
        ("args", args),
        ("secrets", mounts(&outline.secrets, "name")),
        ("ssh", mounts(&outline.ssh, "name")),
        ("cache", mounts(&outline.caches, "ID")),
    ] {
        if !list.is_empty() {
            document[name] = list.into();
        }
    }
    format!("{document:#}\n")
}

/// Sets a field that BuildKit leaves out when it is empty.
fn set(document: &mut Value, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        document[name] = value.into();
    }
}

/// A place in BuildKit's form: lines from 1, columns not told.
pub(super) fn location(source: &SourceText, span: Span) -> Value {
    let end = Span::new(span.end, span.end);
    let position = |span: Span| json!({ "line": span.line_column(&source.text).0, "character": 0 });
    json!({ "ranges": [{ "start": position(span), "end": position(end) }] })
}

/// The Dockerfile in the form of BuildKit's lint result.
pub(super) fn source(source: &SourceText) -> Value {
    json!({
        "fileName": source.name,
        "language": "Dockerfile",
        "data": STANDARD.encode(&source.text),
    })
}

/// Writes rows in columns three blanks apart.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("   ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        #[rustfmt::skip]
        let cases = [
            ("build",                Ok(None)),
            ("check",                Ok(Some(Call::Check(Format::Text)))),
            ("check,format=json",    Ok(Some(Call::Check(Format::Json)))),
            ("check,format=sarif",   Ok(Some(Call::Check(Format::Sarif)))),
            ("outline,format=json",  Ok(Some(Call::Outline { json: true }))),
            ("targets",              Ok(Some(Call::Targets { json: false }))),
            ("targets,format=sarif", Err(())),
            ("check,colour=no",      Err(())),
            ("chekc",                Err(())),
        ];
        for (text, want) in cases {
            assert_eq!(Call::parse(text).map_err(drop), want, "{text}");
        }
    }
}
