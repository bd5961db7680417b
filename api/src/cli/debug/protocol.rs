//! `rbuild debug protocol`: the language's parts answer one question a line, so that tables of
//! other implementations can be held against them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use frontend::{Diagnostic, IgnoreRules, Severity};
use serde::Deserialize;
use serde_json::{Value, json};

/// One question.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
enum Question {
    /// Quotes and variables of one word.
    Word {
        text: String,
        #[serde(default)]
        env: Vec<String>,
    },
    /// The same, split at unquoted blanks.
    Words {
        text: String,
        #[serde(default)]
        env: Vec<String>,
    },
    /// Whether patterns of an ignore file leave a path out.
    Ignore { patterns: Vec<String>, path: String },
    /// The syntax tree as BuildKit's parser dumps it.
    DumpAst { dockerfile: String },
    /// Stages and instructions alone.
    Check { dockerfile: String },
    /// The build checks.
    Lint {
        dockerfile: String,
        #[serde(default)]
        dockerignore: String,
        #[serde(default)]
        args: BTreeMap<String, String>,
        #[serde(default)]
        target: Option<String>,
    },
}

/// Answers until `input` ends; each answer is flushed, so that the other side can wait for it.
pub(super) fn serve(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    for line in input.split(b'\n') {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        writeln!(output, "{}", answer(&line))?;
        output.flush()?;
    }
    Ok(())
}

fn answer(line: &[u8]) -> Value {
    let question = match serde_json::from_slice(line) {
        Ok(question) => question,
        Err(error) => return json!({ "error": format!("no question: {error}") }),
    };
    respond(question).unwrap_or_else(|error| json!({ "error": error }))
}

fn respond(question: Question) -> Result<Value, String> {
    match question {
        Question::Word { text, env } => frontend::process_word(&text, &env)
            .map(|word| json!({ "word": word }))
            .map_err(|error| error.to_string()),
        Question::Words { text, env } => frontend::process_words(&text, &env)
            .map(|words| json!({ "words": words }))
            .map_err(|error| error.to_string()),
        Question::Ignore { patterns, path } => IgnoreRules::from_patterns(&patterns)
            .map(|rules| json!({ "match": rules.is_excluded(&path, false) }))
            .map_err(|error| error.to_string()),
        Question::DumpAst { dockerfile } => frontend::dump_ast(&dockerfile)
            .map(|ast| json!({ "ast": ast }))
            .map_err(|faults| errors(&dockerfile, &faults)),
        Question::Check { dockerfile } => {
            let parsed = frontend::parse(&dockerfile);
            let faults: Vec<_> = parsed.text_faults().cloned().collect();
            if !faults.is_empty() {
                return Err(errors(&dockerfile, &faults));
            }
            // What the grammar refuses is refused here too, even where a build is milder.
            frontend::dump_ast(&dockerfile)
                .map(|_| json!({}))
                .map_err(|faults| errors(&dockerfile, &faults))
        }
        Question::Lint { dockerfile, dockerignore, args, target } => {
            frontend::lint(&dockerfile, &dockerignore, &args, target.as_deref())
                .map(|found| json!({ "lint": found }))
        }
    }
}

/// Writes all errors on one line, each with its own.
fn errors(source: &str, diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
    let text = |error: &Diagnostic| {
        format!("line {}: {}", error.span.line_column(source).0, error.message)
    };
    errors.map(text).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
