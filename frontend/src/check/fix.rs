//! Mending what rules speak of, where the text leaves no doubt.
//!
//! Every fix is a list of replacements of spans; all else stays byte for byte. After each round
//! the result is parsed again and held against the file before ([`super::prove`]): what would
//! change more than its rule speaks of is not done.

use std::collections::BTreeMap;

use crate::ast::{Command, Dockerfile, Instruction, Stage, Statement, Word};
use crate::lines::Lines;
use crate::ports::Ports;
use crate::{Diagnostic, Span};

use super::index::FileIndex;
use super::lint::{CheckRequest, Checked, Finding, check};
use super::{
    CONSISTENT_INSTRUCTION_CASING, EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, FROM_AS_CASING,
    JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT, MAINTAINER_DEPRECATED, NO_EMPTY_CONTINUATION,
    REDUNDANT_TARGET_PLATFORM, STAGE_NAME_CASING,
};
use super::{CaseMajority, prove};

/// One replacement of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced; empty for an insertion.
    pub span: Span,
    /// What comes in its place.
    pub text: String,
}

/// A file after mending.
#[derive(Clone, Debug)]
pub struct Mended {
    /// The new text; the old one where nothing was mended.
    pub text: String,
    /// The rules that were mended, one entry for each place.
    pub mended: Vec<&'static str>,
    /// What is left to say about the new text.
    pub left: Checked,
}

/// Mending one thing can lay another open (`apt` becomes `apt-get`, which then needs `-y`).
const MAX_ROUNDS: usize = 8;

/// Findings that are tried one by one when all together fail: each try reads the file again.
const MAX_ALONE: usize = 32;

/// Mends all that can be mended of what `request` makes rules say.
#[must_use]
pub fn fix(source: &str, request: &CheckRequest<'_>) -> Mended {
    let mut text = source.to_owned();
    let mut mended = Vec::new();
    let mut left = check(&text, request);
    for _ in 0..MAX_ROUNDS {
        if left.has_faults() {
            break;
        }
        let Some((next, rules, after)) = round(&text, &left, request) else { break };
        text = next;
        mended.extend(rules);
        left = after;
    }
    Mended { text, mended, left }
}

/// Makes all edits that do not touch each other; alone, those that do more than they should
/// together. `None` when nothing can be done.
fn round(
    text: &str,
    checked: &Checked,
    request: &CheckRequest<'_>,
) -> Option<(String, Vec<&'static str>, Checked)> {
    let mut chosen: Vec<&Finding> = Vec::new();
    // Spans that are taken, none of which touches another: from start to end.
    let mut taken: BTreeMap<usize, usize> = BTreeMap::new();
    for finding in checked.findings.iter().filter(|finding| !finding.edits.is_empty()) {
        let touches = |edit: &Edit| {
            let before = taken.range(..=edit.span.end).next_back();
            before.is_some_and(|(_, &end)| edit.span.start <= end)
        };
        if !finding.edits.iter().any(touches) {
            taken.extend(finding.edits.iter().map(|edit| (edit.span.start, edit.span.end)));
            chosen.push(finding);
        }
    }
    let attempt = |findings: &[&Finding]| {
        let edits: Vec<&Edit> = findings.iter().flat_map(|finding| &finding.edits).collect();
        let next = apply(text, &edits);
        let after = check(&next, request);
        let is_proven = !after.has_faults()
            && prove::is_same_but_for(&checked.dockerfile, &after.dockerfile, findings);
        let rules = findings.iter().filter_map(|finding| finding.diagnostic.rule).collect();
        is_proven.then_some((next, rules, after))
    };
    if chosen.is_empty() {
        return None;
    }
    let alone = || chosen.iter().take(MAX_ALONE).find_map(|finding| attempt(&[finding]));
    attempt(&chosen).or_else(alone)
}

/// Applies edits that do not overlap.
fn apply(text: &str, edits: &[&Edit]) -> String {
    let mut edits = edits.to_vec();
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut result = String::with_capacity(text.len() + 64);
    let mut at = 0;
    for edit in edits {
        result.push_str(&text[at..edit.span.start]);
        result.push_str(&edit.text);
        at = edit.span.end;
    }
    result + &text[at..]
}

/// Finds what mends BuildKit's rules.
#[derive(Debug)]
pub(super) struct Mender<'a> {
    index: &'a FileIndex<'a>,
    escape: char,
    wants_lower: bool,
}

impl<'a> Mender<'a> {
    pub(super) fn new(index: &'a FileIndex<'a>, dockerfile: &Dockerfile) -> Self {
        let mut majority = CaseMajority::default();
        keywords(dockerfile).for_each(|keyword| majority.add(keyword));
        let wants_lower = majority.is_lower();
        Self { index, escape: dockerfile.directives.escape, wants_lower }
    }

    /// Returns what mends a diagnostic, nothing where a person must decide.
    pub(super) fn mend(&self, diagnostic: &Diagnostic) -> Vec<Edit> {
        let (Some(rule), span) = (diagnostic.rule, diagnostic.span) else { return Vec::new() };
        let source = self.index.source();
        let Some(text) = source.get(span.start..span.end) else { return Vec::new() };
        let replace = |new: String| vec![Edit { span, text: new }];
        let place = self.index.instruction(span.start);
        let edits = match rule {
            CONSISTENT_INSTRUCTION_CASING if self.wants_lower => {
                Some(replace(text.to_ascii_lowercase()))
            }
            CONSISTENT_INSTRUCTION_CASING => Some(replace(text.to_ascii_uppercase())),
            STAGE_NAME_CASING => Some(replace(text.to_lowercase())),
            FROM_AS_CASING => place.and_then(|place| place.stage).map(|stage| {
                let is_lower = starts_lower(&stage.from.keyword.text);
                replace(if is_lower {
                    text.to_ascii_lowercase()
                } else {
                    text.to_ascii_uppercase()
                })
            }),
            EXPOSE_PROTO_CASING => {
                let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, ""));
                let is_plain = !text.contains('$');
                is_plain.then(|| replace(format!("{ports}/{}", protocol.to_ascii_lowercase())))
            }
            EXPOSE_INVALID_FORMAT => {
                let is_plain = !text.contains('$') && Ports::parse(text).is_ok();
                let port = text.rsplit(':').next().unwrap_or(text);
                is_plain.then(|| replace(port.to_owned()))
            }
            REDUNDANT_TARGET_PLATFORM => without_platform(source, span),
            NO_EMPTY_CONTINUATION => place.map(|place| self.empty_lines(place.span, span)),
            rule => place.and_then(|place| {
                of_statement(rule, self.escape, place.stage?, place.statement?, span)
            }),
        };
        edits.unwrap_or_default()
    }

    /// Removes the empty lines of a continued instruction, from `first` on.
    fn empty_lines(&self, instruction: Span, first: Span) -> Vec<Edit> {
        let end = self.index.end_of_lines(instruction);
        let mut lines = Lines::at(self.index.source(), first.start);
        let mut edits = Vec::new();
        while lines.position() < end {
            let Some(line) = lines.next_line() else { break };
            if line.text.trim().is_empty() {
                let span = Span::new(line.start, lines.position());
                edits.push(Edit { span, text: String::new() });
            }
        }
        edits
    }
}

fn starts_lower(keyword: &str) -> bool {
    keyword.starts_with(|c: char| c.is_ascii_lowercase())
}

fn of_statement(
    rule: &str,
    escape: char,
    stage: &Stage,
    statement: &Statement,
    span: Span,
) -> Option<Vec<Edit>> {
    match (&statement.instruction, rule) {
        (Instruction::Env(pairs) | Instruction::Label(pairs), LEGACY_KEY_VALUE_FORMAT) => {
            let pair = pairs.iter().find(|pair| pair.key.span.start == span.start)?;
            legacy_pair(&pair.key, &pair.value, escape)
        }
        (Instruction::Maintainer(author), MAINTAINER_DEPRECATED) => {
            maintainer(statement, author, escape)
        }
        (Instruction::Cmd(command) | Instruction::Entrypoint(command), JSON_ARGS_RECOMMENDED) => {
            exec_form(stage, statement, command)
        }
        _ => None,
    }
}

/// The keywords of all instructions from the first FROM on, as written.
fn keywords(dockerfile: &Dockerfile) -> impl Iterator<Item = &str> {
    dockerfile.stages.iter().flat_map(|stage| {
        let statements = stage.statements.iter().map(|statement| statement.keyword.text.as_str());
        std::iter::once(stage.from.keyword.text.as_str()).chain(statements)
    })
}

fn is_exact(word: &Word) -> bool {
    word.span.end - word.span.start == word.text.len()
}

/// Removes `--platform=VALUE` and the blanks behind it.
fn without_platform(source: &str, value: Span) -> Option<Vec<Edit>> {
    let start = source[..value.start].strip_suffix("--platform=")?.len();
    let rest = &source[value.end..];
    let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let span = Span::new(start, value.end + blanks);
    (blanks > 0).then(|| vec![Edit { span, text: String::new() }])
}

/// Writes `name value` as `name=value`, quoted where the value needs it and that is exact.
fn legacy_pair(key: &Word, value: &Word, escape: char) -> Option<Vec<Edit>> {
    if !is_exact(key) || !is_exact(value) || value.span.start < key.span.end {
        return None;
    }
    let has_blank = value.text.contains(char::is_whitespace);
    let has_quote = value.text.contains(['"', '\'', escape]);
    let quote = match (has_blank, has_quote) {
        (false, _) => "",
        (true, false) => "\"",
        (true, true) => return None,
    };
    let gap = Span::new(key.span.end, value.span.start);
    let end = Span::new(value.span.end, value.span.end);
    let mut edits = vec![Edit { span: gap, text: format!("={quote}") }];
    if has_blank {
        edits.push(Edit { span: end, text: quote.to_owned() });
    }
    Some(edits)
}

/// Writes MAINTAINER as the label of the image-spec (OCI image-spec, annotations.md).
fn maintainer(statement: &Statement, author: &Word, escape: char) -> Option<Vec<Edit>> {
    if !is_exact(author) {
        return None;
    }
    let keyword = if starts_lower(&statement.keyword.text) { "label" } else { "LABEL" };
    let mut value = String::new();
    for char in prove::author(&author.text).chars() {
        if char == '"' || char == '$' || char == escape {
            value.push(escape);
        }
        value.push(char);
    }
    let label = format!("{}=\"{value}\"", prove::AUTHORS);
    Some(vec![
        Edit { span: statement.keyword.span, text: keyword.to_owned() },
        Edit { span: author.span, text: label },
    ])
}

/// Writes a command as a JSON array, where its shell does nothing but start it, and where no other
/// of CMD and ENTRYPOINT of the stage would change its meaning by that.
fn exec_form(stage: &Stage, statement: &Statement, command: &Command) -> Option<Vec<Edit>> {
    let Command::Shell(text) = command else { return None };
    let is_alone = !stage.statements.iter().any(|other| {
        let is_command =
            matches!(other.instruction, Instruction::Cmd(_) | Instruction::Entrypoint(_));
        is_command && other.span != statement.span
    });
    if !is_alone || !is_exact(text) {
        return None;
    }
    let words = prove::plain_command(&text.text)?;
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let json = format!("[{}]", quoted.join(", "));
    Some(vec![Edit { span: text.span, text: json }])
}
