//! Check rules: their names, the `# check=` options, and the filter every warning passes.
//!
//! BuildKit's rules (docs.docker.com, "Build checks") speak in every build: those that need only
//! the text in [`crate::parse`], those that need values in [`crate::lower()`]. Their names and
//! messages are BuildKit's to the letter, because other programs read them.

mod buildkit;
mod command;
mod fix;
mod index;
mod lint;
mod practice;
mod pragma;
mod prove;
mod rule;
mod script;
mod suggest;
mod targets;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::diagnostic::Remarks;
use crate::{Diagnostic, Severity, Span};

pub use fix::{Edit, Mended, fix};
pub use lint::{CheckRequest, Checked, Finding, check, lint};
pub(crate) use pragma::global_skips;
pub use rule::{Origin, Rule, RuleSet, UnknownRule, rule, rules};
pub(crate) use suggest::did_you_mean;
pub(crate) use targets::description;
pub use targets::{Target, targets};

pub(crate) const CONSISTENT_INSTRUCTION_CASING: &str = "ConsistentInstructionCasing";
pub(crate) const COPY_IGNORED_FILE: &str = "CopyIgnoredFile";
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

/// The build argument that takes the place of the file's `check` directive.
pub(crate) const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

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

    /// The options of the build argument [`BUILD_ARG`], `None` where it is not given.
    ///
    /// # Errors
    ///
    /// The option that cannot be understood.
    pub(crate) fn of_build_args(
        build_args: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, String> {
        build_args.get(BUILD_ARG).map(|text| Self::parse(text)).transpose()
    }

    /// Whether `rule` may speak: experimental rules when they are woken, the others unless they
    /// are skipped (so `skip=all` leaves woken ones awake, as in BuildKit).
    pub(crate) fn speaks(&self, rule: &str) -> bool {
        let names =
            |list: &[String]| list.iter().any(|name| name == "all" || pragma::means(name, rule));
        if EXPERIMENTAL.contains(&rule) { names(&self.experimental) } else { !names(&self.skip) }
    }
}

/// Counts keywords by letter case; those of mixed case do not count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CaseMajority {
    lower: usize,
    upper: usize,
}

impl CaseMajority {
    /// Counts one more.
    pub(crate) fn add(&mut self, keyword: &str) {
        self.lower += usize::from(!keyword.bytes().any(|byte| byte.is_ascii_uppercase()));
        self.upper += usize::from(!keyword.bytes().any(|byte| byte.is_ascii_lowercase()));
    }

    /// Whether most are in lower case.
    pub(crate) fn is_lower(self) -> bool {
        self.lower > self.upper
    }
}

/// The rule whose name is nearest to one that no rule has.
fn nearest_rule(name: &str) -> Option<&'static str> {
    crate::nearest::nearest(name, rules().map(|rule| rule.name))
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
/// the instruction.
#[derive(Debug)]
pub(crate) struct Checks<'o> {
    options: &'o CheckOptions,
    /// The rules that the file's options let speak.
    awake: BTreeSet<&'static str>,
    /// What was said so far.
    pub(crate) out: Remarks,
}

impl<'o> Checks<'o> {
    pub(crate) fn new(options: &'o CheckOptions, out: Remarks) -> Self {
        let awake = rules().map(|rule| rule.name).filter(|rule| options.speaks(rule)).collect();
        Self { options, awake, out }
    }

    /// Adds a warning of `rule`, unless it is skipped.
    pub(crate) fn warn(
        &mut self,
        comments: &[String],
        rule: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> Option<&mut Diagnostic> {
        if !self.may_speak(comments, rule) {
            return None;
        }
        let mut diagnostic = Diagnostic::warning(rule, span, message);
        if self.options.error {
            diagnostic.severity = Severity::Error;
        }
        Some(self.out.add(diagnostic))
    }

    /// Whether the file's options and the comments above an instruction let `rule` speak.
    fn may_speak(&self, comments: &[String], rule: &str) -> bool {
        let is_awake = self.awake.contains(rule);
        let mut above = comments.iter().filter_map(|comment| pragma::parse(comment));
        if EXPERIMENTAL.contains(&rule) {
            is_awake || above.any(|options| options.speaks(rule))
        } else {
            is_awake && above.all(|options| options.speaks(rule))
        }
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
