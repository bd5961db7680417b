//! FROM.

use smol_str::{SmolStr, StrExt};

use crate::ast::{StageHead, Word};
use crate::check;
use crate::flags::{Known, Takes};
use crate::syntax::Raw;

use super::{Typing, take_words};

/// `after` is buildah's: stages that must be finished first though nothing of them is used.
const FLAGS: Known = &[("platform", Takes::Value), ("after", Takes::Values)];

impl Typing<'_, '_> {
    pub(super) fn from(&mut self, mut raw: Raw) -> Option<StageHead> {
        let mut flags = self.flags(&raw, FLAGS);
        let platform = flags.value("platform");
        let after = flags.values("after");
        let (base, name) = match take_words(&mut raw.arguments).as_slice() {
            [base] => (base.clone(), None),
            [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
                let name = self.stage_name(&raw, keyword, name)?;
                (base.clone(), Some(name))
            }
            [] => {
                self.error(raw.span, "FROM needs an image").help =
                    Some("write `FROM IMAGE` or `FROM IMAGE AS NAME`".to_owned());
                return None;
            }
            [_, rest @ ..] => {
                let span = rest[0].span.join(rest[rest.len() - 1].span);
                self.error(span, "FROM takes an image and, behind AS, a name").help =
                    Some("write `FROM IMAGE` or `FROM IMAGE AS NAME`".to_owned());
                return None;
            }
        };
        self.check_word(&base);
        self.check_words(&platform);
        let Raw { keyword, span, text, comments, .. } = raw;
        Some(StageHead { base, name, platform, after, keyword, span, text, comments })
    }

    fn stage_name(&mut self, raw: &Raw, keyword: &Word, name: &Word) -> Option<Word> {
        let lower: SmolStr = name.text.to_lowercase_smolstr();
        let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
            && lower
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if !valid {
            self.error(name.span, format!("`{}` cannot be the name of a stage", name.text)).help =
                Some("a name begins with a letter and has letters, digits, `-`, `_`, `.`".into());
            return None;
        }
        if lower != name.text {
            let message = format!("Stage name '{}' should be lowercase", name.text);
            let rule = check::STAGE_NAME_CASING;
            if let Some(warning) = self.checks.warn(&raw.comments, rule, name.span, message) {
                warning.help = Some(format!("write `{lower}`"));
            }
        }
        if !same_case(&raw.keyword.text, &keyword.text) {
            let (from, keyword_text) = (&raw.keyword.text, &keyword.text);
            let message = format!("'{keyword_text}' and '{from}' keywords' casing do not match");
            self.checks.warn(&raw.comments, check::FROM_AS_CASING, keyword.span, message);
        }
        self.describe("FROM", &raw.comments, &[&lower], raw.span);
        Some(Word { text: lower, span: name.span })
    }
}

/// Whether AS follows the case of FROM; a FROM of mixed case sets no example.
fn same_case(from: &str, keyword: &str) -> bool {
    if from == from.to_lowercase() {
        keyword == keyword.to_lowercase()
    } else if from == from.to_uppercase() {
        keyword == keyword.to_uppercase()
    } else {
        true
    }
}
