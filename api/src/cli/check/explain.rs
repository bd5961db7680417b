//! Rules as they are told: the list, and one of them with its reason and an example.

use frontend::{Origin, Rule, UnknownRule};
use serde_json::{Value, json};

use super::Format;
use crate::fault::Fault;

/// Width of the text in columns.
const WIDTH: usize = 80;

/// Codes of hadolint for what is no rule here but always an error.
const ALWAYS_ERRORS: [(&str, &str); 5] = [
    ("DL3011", "a port beyond 65535 in EXPOSE"),
    ("DL3021", "several sources of COPY with a destination that does not end in `/`"),
    ("DL3023", "a COPY --from its own stage"),
    ("DL3043", "ONBUILD, FROM or MAINTAINER within ONBUILD"),
    ("DL3061", "an instruction other than ARG before the first FROM"),
];

/// Writes a rule's reason and example.
pub(super) fn explain(name: &str) -> Result<String, Fault> {
    let error = ALWAYS_ERRORS.iter().find(|(code, _)| code.eq_ignore_ascii_case(name));
    if let Some((code, what)) = error {
        return Ok(format!(
            "{code}\n\n{}",
            wrap(&format!(
                "{what} is no matter of rules: the file cannot be built, and every check and build \
             says so."
            ))
        ));
    }
    let rule = frontend::rule(name).map_err(|error| {
        Fault::user(unknown(&error)).with_help("`rbuild check --list` names them all")
    })?;
    let codes = match rule.aliases {
        [] => String::new(),
        aliases => format!(" ({})", aliases.join(", ")),
    };
    let mut text = format!("{}{codes}\n\n", rule.name);
    text += &wrap(rule.summary);
    text.push('\n');
    text += &wrap(rule.why);
    text = text + "\nBefore:\n" + &indent(rule.before) + "\nAfter:\n" + &indent(rule.after);
    let notes = [
        match rule.origin {
            Origin::BuildKit => "BuildKit's rule: it speaks in builds, too.",
            Origin::Experimental => {
                "BuildKit's rule, asleep until `# check=experimental=` wakes it."
            }
            Origin::Practice => "A practice: it speaks in `rbuild check` only.",
            Origin::OnRequest => "It speaks only when named by `--rules`.",
        },
        if rule.is_mendable {
            "`rbuild check --fix` mends it where the text leaves no doubt."
        } else {
            ""
        },
    ];
    text.push('\n');
    for note in notes.iter().filter(|note| !note.is_empty()) {
        text += &wrap(note);
    }
    Ok(text)
}

/// Writes all rules, one a line.
pub(super) fn list(format: Format) -> Result<String, Fault> {
    let mut rules: Vec<&Rule> = frontend::rules().collect();
    rules.sort_by_key(|rule| (is_practice(rule), rule.name));
    match format {
        Format::Text => {
            let width = rules.iter().map(|rule| rule.name.len()).max().unwrap_or_default();
            let lines = rules.iter().map(|rule| {
                let kind = if is_practice(rule) { "practice" } else { "buildkit" };
                let codes = rule.aliases.join(",");
                format!("{:width$}  {kind}  {codes:22}  {}\n", rule.name, rule.summary)
            });
            Ok(lines.collect())
        }
        Format::Json => {
            let rules: Vec<Value> = rules
                .iter()
                .map(|rule| {
                    json!({
                        "name": rule.name,
                        "aliases": rule.aliases,
                        "origin": if is_practice(rule) { "practice" } else { "buildkit" },
                        "summary": rule.summary,
                        "why": rule.why,
                        "fixable": rule.is_mendable,
                        "experimental": rule.origin == Origin::Experimental,
                        "onRequest": rule.origin == Origin::OnRequest,
                    })
                })
                .collect();
            Ok(format!("{:#}\n", Value::from(rules)))
        }
        Format::Sarif => Err(Fault::user("the list of rules is printed as text or json")),
    }
}

/// Tells of a name that no rule has.
pub(super) fn unknown(error: &UnknownRule) -> String {
    match error.nearest {
        Some(nearest) => format!("{error}; did you mean `{nearest}`?"),
        None => error.to_string(),
    }
}

fn is_practice(rule: &Rule) -> bool {
    matches!(rule.origin, Origin::Practice | Origin::OnRequest)
}

fn indent(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

/// Breaks a text into lines.
pub(super) fn wrap(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            lines.push('\n');
            width = 0;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines.push('\n');
    lines
}
