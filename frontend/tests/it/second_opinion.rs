//! dockerfile-parser 0.9 as a second opinion: where it accepts an instruction as typed, ours must
//! agree on the words.
//!
//! It is deprecated upstream and known to misread several things; those are left out where they
//! are named below, each with its reason.

use std::fs;
use std::path::Path;

use dockerfile_parser::{Dockerfile, Instruction as Theirs, ShellOrExecExpr};
use frontend::{Command, Instruction, Statement};

fn ours(command: &Command) -> Vec<String> {
    match command {
        Command::Shell(text) => vec![text.text.split_whitespace().collect::<Vec<_>>().join(" ")],
        Command::Exec(words) => words.iter().map(|word| word.text.to_string()).collect(),
    }
}

fn theirs(expression: &ShellOrExecExpr) -> Vec<String> {
    match expression {
        ShellOrExecExpr::Shell(text) => {
            vec![text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")]
        }
        ShellOrExecExpr::Exec(words) => {
            words.as_str_vec().iter().map(ToString::to_string).collect()
        }
    }
}

/// Returns both readings of an instruction that both type.
fn readings(statement: &Statement, other: &Theirs) -> Option<(Vec<String>, Vec<String>)> {
    match (&statement.instruction, other) {
        // Flags of RUN are shell text to it.
        (Instruction::Run(run), Theirs::Run(other)) if run.mounts().is_empty() => {
            let has_flags = statement.text[3..].trim_start().starts_with("--");
            (!has_flags).then(|| (ours(&run.command), theirs(&other.expr)))
        }
        (Instruction::Cmd(command), Theirs::Cmd(other)) => {
            Some((ours(command), theirs(&other.expr)))
        }
        (Instruction::Entrypoint(command), Theirs::Entrypoint(other)) => {
            Some((ours(command), theirs(&other.expr)))
        }
        // Bare flags and the JSON form of COPY become wrong words with it.
        (Instruction::Copy(transfer), Theirs::Copy(other))
            if !statement.text.contains('[') && !transfer.link && !transfer.parents =>
        {
            let words = transfer.sources.iter().filter_map(|source| match source {
                frontend::TransferSource::Path(word) => Some(word.text.to_string()),
                frontend::TransferSource::Heredoc(_) => None,
            });
            let mine = words.chain([transfer.destination.text.to_string()]).collect();
            let sources = other.sources.iter().map(|source| source.content.clone());
            Some((mine, sources.chain([other.destination.content.clone()]).collect()))
        }
        (Instruction::Arg(declarations), Theirs::Arg(other)) if declarations.len() == 1 => {
            let mine = vec![declarations[0].name.text.to_string()];
            Some((mine, vec![other.name.content.clone()]))
        }
        (Instruction::Env(pairs), Theirs::Env(other)) => {
            let mine = pairs.iter().map(|pair| pair.key.text.to_string()).collect();
            Some((mine, other.vars.iter().map(|var| var.key.content.clone()).collect()))
        }
        _ => None,
    }
}

#[test]
fn words_agree_with_dockerfile_parser() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile/ok");
    let (mut files, mut compared) = (0, 0);
    for entry in fs::read_dir(dir).expect("the goldens are there") {
        let path = entry.expect("a readable directory").path();
        if path.extension().is_none_or(|extension| extension != "Dockerfile") {
            continue;
        }
        let source = fs::read_to_string(&path).expect("UTF-8");
        // It has no notion of the escape directive.
        if source.starts_with("# escape") {
            continue;
        }
        let Ok(other) = Dockerfile::parse(&source) else { continue };
        files += 1;
        let stages = frontend::parse(&source).dockerfile.stages;
        let statements = stages.iter().flat_map(|stage| &stage.statements);
        for (statement, other) in statements.filter_map(|mine| {
            let at = |other: &&Theirs| other.span().start == mine.span.start;
            other.instructions.iter().find(at).map(|other| (mine, other))
        }) {
            if let Some((mine, other)) = readings(statement, other) {
                assert_eq!(mine, other, "{}: {}", path.display(), statement.text);
                compared += 1;
            }
        }
    }
    assert!(files >= 15 && compared >= 30, "only {files} files and {compared} instructions");
}
