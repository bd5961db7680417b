//! Proof that mending changed no more than it should: both syntax trees, held against each other.

use serde_json::Value;

use crate::Span;
use crate::ast::{Command, Dockerfile, Instruction, Stage, Statement};
use crate::ports::Ports;
use crate::words::Lexer;

use super::lint::Finding;
use super::{
    CONSISTENT_INSTRUCTION_CASING, EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING,
    JSON_ARGS_RECOMMENDED, LEGACY_KEY_VALUE_FORMAT, MAINTAINER_DEPRECATED,
    REDUNDANT_TARGET_PLATFORM,
};

/// The label for what MAINTAINER says (OCI image-spec, annotations.md).
pub(super) const AUTHORS: &str = "org.opencontainers.image.authors";

/// Whether `after` is `before` but for what the rules of `findings` speak of, at their places.
pub(super) fn is_same_but_for(
    before: &Dockerfile,
    after: &Dockerfile,
    findings: &[&Finding],
) -> bool {
    let edits = Edits::of(findings);
    before.stages.len() == after.stages.len()
        && before.directives.escape == after.directives.escape
        && same_statements(&before.globals, &after.globals, before, &edits)
        && before.stages.iter().zip(&after.stages).all(|(old, new)| {
            same_head(old, new, &edits)
                && same_statements(&old.statements, &new.statements, before, &edits)
        })
}

/// All edits in the order of the file, each with its rule.
struct Edits<'f>(Vec<(Span, &'static str, &'f str)>);

impl<'f> Edits<'f> {
    fn of(findings: &[&'f Finding]) -> Self {
        let of_finding = |finding: &&'f Finding| {
            let rule = finding.diagnostic.rule.unwrap_or_default();
            finding.edits.iter().map(move |edit| (edit.span, rule, edit.text.as_str()))
        };
        let mut edits: Vec<_> = findings.iter().flat_map(of_finding).collect();
        edits.sort_unstable();
        Self(edits)
    }

    /// The rules that edited something within `span`, with the texts that came in.
    fn within(&self, span: Span) -> Vec<(&'static str, Vec<&'f str>)> {
        let first = self.0.partition_point(|(at, ..)| at.start < span.start);
        let mut rules: Vec<(&'static str, Vec<&'f str>)> = Vec::new();
        for &(_, rule, text) in self.0[first..].iter().take_while(|(at, ..)| at.end <= span.end) {
            match rules.iter_mut().find(|(known, _)| *known == rule) {
                Some((_, texts)) => texts.push(text),
                None => rules.push((rule, vec![text])),
            }
        }
        rules
    }
}

fn same_head(old: &Stage, new: &Stage, edits: &Edits<'_>) -> bool {
    let edits = edits.within(old.from.span);
    let has = |name: &str| edits.iter().any(|(rule, _)| *rule == name);
    let (mut left, mut right) = (json(&old.from), json(&new.from));
    if has(CONSISTENT_INSTRUCTION_CASING) {
        for side in [&mut left, &mut right] {
            let upper = side["keyword"]["text"].as_str().map(str::to_uppercase);
            side["keyword"]["text"] = upper.into();
        }
    }
    if has(REDUNDANT_TARGET_PLATFORM) {
        let is_redundant = left["platform"]["text"]
            .as_str()
            .is_some_and(|text| matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}"));
        if !is_redundant || !right["platform"].is_null() {
            return false;
        }
        left["platform"] = Value::Null;
    }
    left == right
}

fn same_statements(
    old: &[Statement],
    new: &[Statement],
    before: &Dockerfile,
    edits: &Edits<'_>,
) -> bool {
    let escape = before.directives.escape;
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            let edits = edits.within(old.span);
            same_statement(old, new, &edits, escape)
        })
}

fn same_statement(
    old: &Statement,
    new: &Statement,
    edits: &[(&'static str, Vec<&str>)],
    escape: char,
) -> bool {
    let (mut left, mut right) = (json(old), json(new));
    for (rule, texts) in edits {
        let is_as_meant = match *rule {
            CONSISTENT_INSTRUCTION_CASING => true,
            LEGACY_KEY_VALUE_FORMAT => same_pairs(old, new, escape),
            MAINTAINER_DEPRECATED => is_label_of(old, new, escape),
            JSON_ARGS_RECOMMENDED => is_exec_of(old, new),
            EXPOSE_PROTO_CASING | EXPOSE_INVALID_FORMAT => same_ports(old, new),
            _ if matches!(old.instruction, Instruction::Run(_)) => {
                is_insertion(&script(old), &script(new), edits)
            }
            // What else is mended (names, empty lines) shows in no syntax tree.
            _ => texts.is_empty() || left["instruction"] == right["instruction"],
        };
        if !is_as_meant {
            return false;
        }
        for side in [&mut left, &mut right] {
            let upper = side["keyword"]["text"].as_str().map(str::to_uppercase);
            side["keyword"]["text"] = upper.into();
        }
        match *rule {
            CONSISTENT_INSTRUCTION_CASING => {}
            MAINTAINER_DEPRECATED => {
                left["keyword"] = Value::Null;
                right["keyword"] = Value::Null;
                blank(&mut left, &mut right);
            }
            LEGACY_KEY_VALUE_FORMAT
            | JSON_ARGS_RECOMMENDED
            | EXPOSE_PROTO_CASING
            | EXPOSE_INVALID_FORMAT => blank(&mut left, &mut right),
            _ => forget_script(&mut left, &mut right),
        }
    }
    left == right
}

/// Writes a node without its places, and without the copy of its text.
fn json(node: &impl serde::Serialize) -> Value {
    let mut value = serde_json::to_value(node).unwrap_or(Value::Null);
    forget_places(&mut value);
    if let Value::Object(fields) = &mut value {
        fields.remove("text");
    }
    value
}

fn forget_places(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for place in ["span", "mark", "body"] {
                fields.remove(place);
            }
            // A statement within one, of ONBUILD, has a copy of its text, too.
            if fields.contains_key("keyword") {
                fields.remove("text");
            }
            fields.values_mut().for_each(forget_places);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn blank(left: &mut Value, right: &mut Value) {
    left["instruction"] = Value::Null;
    right["instruction"] = Value::Null;
}

/// Takes the script out of a RUN; its flags stay.
fn forget_script(left: &mut Value, right: &mut Value) {
    for side in [left, right] {
        let run = &mut side["instruction"]["run"];
        if run.is_object() {
            run["command"] = Value::Null;
            run["heredocs"] = Value::Null;
        }
    }
}

fn same_pairs(old: &Statement, new: &Statement, escape: char) -> bool {
    let ((Instruction::Env(old), Instruction::Env(new))
    | (Instruction::Label(old), Instruction::Label(new))) = (&old.instruction, &new.instruction)
    else {
        return false;
    };
    let lexer = Lexer { keeps_unset: true, ..Lexer::new(escape) };
    let value = |text: &str| lexer.process(text, &()).ok().map(|expansion| expansion.text);
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            old.key.text == new.key.text && value(&old.value.text) == value(&new.value.text)
        })
}

/// What MAINTAINER's text names: quotes around all of it are no part.
pub(super) fn author(text: &str) -> &str {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.filter(|inner| !inner.contains('"')).unwrap_or(text)
}

fn is_label_of(old: &Statement, new: &Statement, escape: char) -> bool {
    let (Instruction::Maintainer(text), Instruction::Label(pairs)) =
        (&old.instruction, &new.instruction)
    else {
        return false;
    };
    let [pair] = pairs.as_slice() else { return false };
    let value = Lexer::new(escape).process(&pair.value.text, &());
    pair.key.text == AUTHORS && value.is_ok_and(|value| value.text == author(&text.text))
}

/// Splits a command that needs no shell: plain words, none of them the shell's own.
pub(super) fn plain_command(text: &str) -> Option<Vec<&str>> {
    const SHELLS_OWN: [&str; 32] = [
        ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "echo", "eval",
        "exit", "export", "fg", "for", "function", "hash", "if", "jobs", "local", "read", "return",
        "set", "shift", "source", "trap", "type", "ulimit", "umask", "until", "while",
    ];
    let is_plain = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./:=@%+,-".contains(&byte))
    };
    let mut words: Vec<&str> = text.split_whitespace().collect();
    if words.first() == Some(&"exec") {
        words.remove(0);
    }
    let first = words.first()?;
    let is_own = SHELLS_OWN.contains(first) || first.contains('=') || first.starts_with('-');
    (!is_own && words.iter().all(|word| is_plain(word))).then_some(words)
}

fn is_exec_of(old: &Statement, new: &Statement) -> bool {
    let ((Instruction::Cmd(old), Instruction::Cmd(new))
    | (Instruction::Entrypoint(old), Instruction::Entrypoint(new))) =
        (&old.instruction, &new.instruction)
    else {
        return false;
    };
    let (Command::Shell(text), Command::Exec(words)) = (old, new) else { return false };
    let want = plain_command(&text.text);
    want.is_some_and(|want| want.iter().eq(words.iter().map(|word| &word.text)))
}

fn same_ports(old: &Statement, new: &Statement) -> bool {
    let (Instruction::Expose(old), Instruction::Expose(new)) = (&old.instruction, &new.instruction)
    else {
        return false;
    };
    let ports = |text: &str| match Ports::parse(text) {
        Ok(ports) => format!("{}-{}/{}", ports.first, ports.last, ports.protocol.to_lowercase()),
        Err(_) => text.to_owned(),
    };
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| ports(&old.text) == ports(&new.text))
}

/// All that a RUN's shell is given.
fn script(statement: &Statement) -> String {
    let Instruction::Run(run) = &statement.instruction else { return String::new() };
    let mut text = match &run.command {
        Command::Shell(text) => text.text.to_string(),
        Command::Exec(_) => String::new(),
    };
    for heredoc in &run.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
    }
    text
}

/// Whether `new` is `old` with the edits' texts put in, and nothing taken out.
fn is_insertion(old: &str, new: &str, edits: &[(&'static str, Vec<&str>)]) -> bool {
    let inserted: usize = edits.iter().flat_map(|(_, texts)| texts).map(|text| text.len()).sum();
    let mut rest = new.chars();
    old.len() + inserted == new.len() && old.chars().all(|char| rest.any(|next| next == char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_need_no_shell() {
        #[rustfmt::skip]
        let cases: [(&str, &str, Option<&[&str]>); 9] = [
            ("plain",      "node server.js -p=80",  Some(&["node", "server.js", "-p=80"])),
            ("exec",       "exec  nginx",           Some(&["nginx"])),
            ("variable",   "node $FILE",            None),
            ("quotes",     "node 'a b'",            None),
            ("chain",      "a && b",                None),
            ("assignment", "A=1 b",                 None),
            ("builtin",    "cd /x",                 None),
            ("pattern",    "ls *",                  None),
            ("nothing",    "exec",                  None),
        ];
        for (name, text, want) in cases {
            assert_eq!(plain_command(text).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn insertions() {
        let edits = [("x", vec![" -y"])];
        assert!(is_insertion("apt-get install a", "apt-get install -y a", &edits));
        assert!(!is_insertion("apt-get install a", "apt-get install -y b", &edits));
        assert!(!is_insertion("apt-get install a", "apt-get install -yy a", &edits));
    }
}
