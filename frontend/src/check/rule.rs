//! What a rule is, the table of all rules, and choosing among them.

use super::{buildkit, nearest_rule, practice};

/// Where a rule comes from, which decides where it speaks unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// BuildKit has it under this name: it speaks in every build and check.
    BuildKit,
    /// BuildKit has it, asleep until `experimental=` wakes it.
    Experimental,
    /// A practice: it speaks in `rbuild check`.
    Practice,
    /// A practice on which many disagree: it speaks when it is named.
    OnRequest,
}

/// One rule with all that can be told about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// As in messages and options.
    pub name: &'static str,
    /// Codes that hadolint has for it.
    pub aliases: &'static [&'static str],
    /// Where it comes from.
    pub origin: Origin,
    /// What it wants, in one sentence. BuildKit's own for its rules.
    pub summary: &'static str,
    /// Why it wants that: a paragraph.
    pub why: &'static str,
    /// A Dockerfile that it speaks of.
    pub before: &'static str,
    /// The same, mended: it is silent.
    pub after: &'static str,
    /// `rbuild check --fix` can mend it, at least where the text is plain.
    pub is_mendable: bool,
}

impl Rule {
    /// Where Docker documents a rule of BuildKit's.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        if !matches!(self.origin, Origin::BuildKit | Origin::Experimental) {
            return None;
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(self.name)))
    }
}

/// Writes `JSONArgsRecommended` as `json-args-recommended`.
fn kebab(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut text = String::with_capacity(name.len() + 4);
    for (at, char) in chars.iter().enumerate() {
        let is_start = char.is_ascii_uppercase()
            && at > 0
            && (chars[at - 1].is_ascii_lowercase()
                || chars.get(at + 1).is_some_and(char::is_ascii_lowercase));
        if is_start {
            text.push('-');
        }
        text.push(char.to_ascii_lowercase());
    }
    text
}

/// All rules: BuildKit's, then the practices by families.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    buildkit::RULES.iter().chain(practice::rules())
}

/// The rules that `name` means: one by its name, all by a code of another checker.
pub(crate) fn find(name: &str) -> impl Iterator<Item = &'static Rule> {
    rules().filter(move |rule| {
        rule.name.eq_ignore_ascii_case(name)
            || rule.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    })
}

/// Looks a rule up by its name or by another checker's code, whatever the letter case.
///
/// # Errors
///
/// [`UnknownRule`], with the nearest name.
pub fn rule(name: &str) -> Result<&'static Rule, UnknownRule> {
    find(name)
        .next()
        .ok_or_else(|| UnknownRule { name: name.to_owned(), nearest: nearest_rule(name) })
}

/// A name that no rule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{name}`")]
pub struct UnknownRule {
    /// As given.
    pub name: String,
    /// What may have been meant.
    pub nearest: Option<&'static str>,
}

/// Which rules speak in a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// BuildKit's alone.
    #[default]
    BuildKit,
    /// BuildKit's and the practices.
    All,
    /// These.
    Named(Vec<&'static str>),
}

impl RuleSet {
    /// Parses `all`, `buildkit`, or names and codes parted by commas.
    ///
    /// # Errors
    ///
    /// [`UnknownRule`] for the first name that no rule has.
    pub fn parse(text: &str) -> Result<Self, UnknownRule> {
        match text.trim().to_ascii_lowercase().as_str() {
            "all" => return Ok(Self::All),
            "buildkit" => return Ok(Self::BuildKit),
            _ => {}
        }
        let mut names = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            rule(name)?;
            names.extend(find(name).map(|rule| rule.name));
        }
        Ok(Self::Named(names))
    }

    /// Whether a rule of the set has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Named(names) => names.contains(&name),
            Self::BuildKit | Self::All => find(name).any(|rule| match rule.origin {
                Origin::BuildKit | Origin::Experimental => true,
                Origin::Practice => *self == Self::All,
                Origin::OnRequest => false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_rules() {
        for (name, want) in [
            ("StageNameCasing", "stage-name-casing"),
            ("JSONArgsRecommended", "json-args-recommended"),
            ("UndefinedArgInFrom", "undefined-arg-in-from"),
        ] {
            assert_eq!(kebab(name), want);
        }
    }

    #[test]
    fn sets() {
        let named = |names: &[&'static str]| Ok(RuleSet::Named(names.to_vec()));
        assert_eq!(RuleSet::parse("All"), Ok(RuleSet::All));
        assert_eq!(
            RuleSet::parse("dl3025, UndefinedVar"),
            named(&["JSONArgsRecommended", "UndefinedVar"])
        );
        let unknown = RuleSet::parse("UndefinedVra").unwrap_err();
        assert_eq!(unknown.nearest, Some("UndefinedVar"));
        assert!(RuleSet::BuildKit.has("UndefinedVar"));
    }

    #[test]
    fn names_and_codes_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for rule in rules() {
            assert!(seen.insert(rule.name.to_lowercase()), "{}", rule.name);
        }
    }
}
