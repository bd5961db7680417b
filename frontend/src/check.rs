//! Check rules: their names, the `# check=` options, and the filter every warning passes.
//!
//! The rules are BuildKit's (docs.docker.com, "Build checks"). Those that need only the text run
//! in [`crate::parse`], those that need values run in [`crate::lower()`]. `CopyIgnoredFile` needs
//! the ignore file and is not decided here.

use serde::Serialize;

use crate::{Diagnostic, Severity, Span};

pub(crate) const CONSISTENT_INSTRUCTION_CASING: &str = "ConsistentInstructionCasing";
pub(crate) const DUPLICATE_STAGE_NAME: &str = "DuplicateStageName";
pub(crate) const EXPOSE_INVALID_FORMAT: &str = "ExposeInvalidFormat";
pub(crate) const EXPOSE_PROTO_CASING: &str = "ExposeProtoCasing";
pub(crate) const FROM_AS_CASING: &str = "FromAsCasing";
pub(crate) const FROM_PLATFORM_FLAG_CONST: &str = "FromPlatformFlagConstDisallowed";
pub(crate) const INVALID_BASE_IMAGE_PLATFORM: &str = "InvalidBaseImagePlatform";
pub(crate) const INVALID_DEFAULT_ARG_IN_FROM: &str = "InvalidDefaultArgInFrom";
pub(crate) const INVALID_DEFINITION_DESCRIPTION: &str = "InvalidDefinitionDescription";
pub(crate) const JSON_ARGS_RECOMMENDED: &str = "JSONArgsRecommended";
pub(crate) const LEGACY_KEY_VALUE_FORMAT: &str = "LegacyKeyValueFormat";
pub(crate) const MAINTAINER_DEPRECATED: &str = "MaintainerDeprecated";
pub(crate) const MULTIPLE_INSTRUCTIONS: &str = "MultipleInstructionsDisallowed";
pub(crate) const NO_EMPTY_CONTINUATION: &str = "NoEmptyContinuation";
pub(crate) const REDUNDANT_TARGET_PLATFORM: &str = "RedundantTargetPlatform";
pub(crate) const RESERVED_STAGE_NAME: &str = "ReservedStageName";
pub(crate) const SECRETS_IN_ARG_OR_ENV: &str = "SecretsUsedInArgOrEnv";
pub(crate) const STAGE_NAME_CASING: &str = "StageNameCasing";
pub(crate) const UNDEFINED_ARG_IN_FROM: &str = "UndefinedArgInFrom";
pub(crate) const UNDEFINED_VAR: &str = "UndefinedVar";
pub(crate) const WORKDIR_RELATIVE_PATH: &str = "WorkdirRelativePath";

/// Rules that speak only when asked for by `experimental=`.
const EXPERIMENTAL: [&str; 1] = [INVALID_DEFINITION_DESCRIPTION];

/// `# check=skip=RULE,RULE;error=true;experimental=RULE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckOptions {
    /// Rules that stay silent; `all` silences every rule.
    pub skip: Vec<String>,
    /// Experimental rules that speak; `all` wakes every one.
    pub experimental: Vec<String>,
    /// Warnings of rules fail the build.
    pub error: bool,
}

impl CheckOptions {
    /// Parses the value of a `check` directive.
    ///
    /// # Errors
    ///
    /// The option that cannot be understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| part.trim().to_owned())?;
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key.trim() {
                "skip" => options.skip = names(),
                "experimental" => options.experimental = names(),
                "error" => {
                    options.error =
                        parse_bool(value.trim()).ok_or_else(|| part.trim().to_owned())?;
                }
                other => return Err(other.to_owned()),
            }
        }
        Ok(options)
    }

    fn speaks(&self, rule: &str) -> bool {
        let names = |list: &[String], rule: &str| {
            list.iter().any(|name| name == "all" || name.eq_ignore_ascii_case(rule))
        };
        let awake = !EXPERIMENTAL.contains(&rule) || names(&self.experimental, rule);
        awake && !names(&self.skip, rule)
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Collects diagnostics; warnings of rules pass the options of the file and of the comments above
/// the instruction (`# check=skip=RULE`).
#[derive(Debug)]
pub(crate) struct Checks<'o> {
    options: &'o CheckOptions,
    /// What was said so far.
    pub(crate) out: Vec<Diagnostic>,
}

impl<'o> Checks<'o> {
    pub(crate) fn new(options: &'o CheckOptions, out: Vec<Diagnostic>) -> Self {
        Self { options, out }
    }

    /// Adds a warning of `rule`, unless it is skipped.
    pub(crate) fn warn(
        &mut self,
        comments: &[String],
        rule: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> Option<&mut Diagnostic> {
        let skipped_here = comments
            .iter()
            .filter_map(|comment| comment.strip_prefix("check="))
            .filter_map(|text| CheckOptions::parse(text).ok())
            .any(|options| !options.skip.is_empty() && !options.speaks(rule));
        if skipped_here || !self.options.speaks(rule) {
            return None;
        }
        let mut diagnostic = Diagnostic::warning(rule, span, message);
        if self.options.error {
            diagnostic.severity = Severity::Error;
        }
        self.out.push(diagnostic);
        self.out.last_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let options = |skip: &[&str], error| {
            let skip = skip.iter().map(ToString::to_string).collect();
            Ok(CheckOptions { skip, error, ..CheckOptions::default() })
        };
        #[rustfmt::skip]
        let cases = [
            ("skip all",    "skip=all",                        options(&["all"], false)),
            ("skip two",    "skip=A, B;error=true",            options(&["A", "B"], true)),
            ("only error",  "error=1",                         options(&[], true)),
            ("bad bool",    "error=yes",                       Err("error=yes".to_owned())),
            ("bad key",     "skipp=all",                       Err("skipp".to_owned())),
            ("no value",    "skip",                            Err("skip".to_owned())),
        ];
        for (name, text, want) in cases {
            assert_eq!(CheckOptions::parse(text), want, "{name}");
        }
    }
}
