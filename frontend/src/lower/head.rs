//! What the words of FROM mean: global arguments, and platforms.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Dockerfile, Stage, StageHead, Word};
use crate::check::{self, Checks};
use crate::nearest::nearest;
use crate::words::Expansion;
use crate::{Diagnostic, Platform, Reference};

use super::plan::Plan;
use super::scope;

impl Plan<'_> {
    /// Evaluates the ARGs before the first FROM; returns what they were without `--build-arg`.
    pub(super) fn read_globals(
        &mut self,
        dockerfile: &Dockerfile,
        checks: &mut Checks<'_>,
    ) -> BTreeMap<String, String> {
        let mut defaults = self.globals.clone();
        for declaration in dockerfile.globals.iter().flat_map(scope::declared) {
            if self.budget.get().is_spent() {
                break;
            }
            let name = &declaration.name.text;
            let given = self.options.build_args.get(name.as_str()).cloned();
            if let Some(default) = &declaration.default {
                if let Ok(value) = self.expand(default, &defaults) {
                    defaults.insert(name.to_string(), value.text);
                }
                if given.is_none() {
                    match self.expand(default, &self.globals) {
                        Ok(value) => {
                            self.globals.insert(name.to_string(), value.text);
                        }
                        Err(diagnostic) => checks.out.push(*diagnostic),
                    }
                }
            }
            if let Some(given) = given {
                self.globals.insert(name.to_string(), given);
            }
        }
        defaults
    }

    pub(super) fn check_default_base(
        &self,
        stage: &Stage,
        defaults: &BTreeMap<String, String>,
        checks: &mut Checks<'_>,
    ) {
        let base = &stage.from.base;
        if !base.text.contains('$') {
            return;
        }
        let Ok(value) = self.expand(base, defaults) else { return };
        if Reference::parse_normalized(&value.text).is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                base.text
            );
            let rule = check::INVALID_DEFAULT_ARG_IN_FROM;
            checks.warn(&stage.from.comments, rule, base.span, message);
        }
    }

    /// Expands a word of FROM with the global arguments.
    pub(super) fn expand_head(
        &self,
        head: &StageHead,
        word: &Word,
        checks: &mut Checks<'_>,
    ) -> Option<Expansion> {
        let expansion = match self.expand(word, &self.globals) {
            Ok(expansion) => expansion,
            Err(diagnostic) => {
                checks.out.push(*diagnostic);
                return None;
            }
        };
        for name in &expansion.unmatched {
            if self.declared.contains(name.as_str()) {
                continue;
            }
            let known = self.globals.keys().map(String::as_str);
            let hint = check::did_you_mean(name, "", known.chain(self.declared.iter().copied()));
            let message = format!("FROM argument '{name}' is not declared{hint}");
            checks.warn(&head.comments, check::UNDEFINED_ARG_IN_FROM, word.span, message);
        }
        Some(expansion)
    }

    /// Says how a variable of FROM that is not set can get its value.
    pub(super) fn how_to_set(&self, expansion: &Expansion) -> Option<String> {
        let name = expansion.unmatched.first()?;
        if self.without_default.contains(name.as_str()) {
            return Some(format!("give `--build-arg {name}=VALUE`, or its ARG a default"));
        }
        let names = self.globals.keys().map(String::as_str);
        Some(match nearest(name, names.chain(self.without_default.iter().copied())) {
            Some(near) => format!("did you mean `${near}`?"),
            None => format!("declare it before the first FROM: `ARG {name}=VALUE`"),
        })
    }

    pub(super) fn platform(&self, head: &StageHead, checks: &mut Checks<'_>) -> Option<Platform> {
        let word = head.platform.as_ref()?;
        let expansion = self.expand_head(head, word, checks)?;
        let text = &expansion.text;
        if text.is_empty() {
            let mut error = Diagnostic::error(word.span, format!("`{}` is blank", word.text));
            error.help = self.how_to_set(&expansion);
            checks.out.push(error);
            return None;
        }
        let platform = match Platform::parse(text) {
            Ok(platform) => platform,
            Err(error) => {
                checks.out.push(Diagnostic::error(word.span, error.to_string()));
                return None;
            }
        };
        let is_only_target = expansion.matched.len() == 1
            && expansion.unmatched.is_empty()
            && expansion.matched.contains("TARGETPLATFORM")
            && Some(text) == self.globals.get("TARGETPLATFORM");
        if is_only_target {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                word.text
            );
            let rule = check::REDUNDANT_TARGET_PLATFORM;
            checks.warn(&head.comments, rule, word.span, message);
        }
        let is_constant = expansion.matched.is_empty() && expansion.unmatched.is_empty();
        let name = head.name.as_ref().map_or("", |name| name.text.as_str());
        if is_constant && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value \"{text}\"");
            let rule = check::FROM_PLATFORM_FLAG_CONST;
            if let Some(warning) = checks.warn(&head.comments, rule, word.span, message) {
                warning.help = Some("use a variable, or name the stage after it".to_owned());
            }
        }
        Some(platform)
    }
}

/// Names the ARGs before the first FROM that have no default.
pub(super) fn without_default(dockerfile: &Dockerfile) -> BTreeSet<&str> {
    let declared = dockerfile.globals.iter().flat_map(scope::declared);
    let bare = declared.filter(|declaration| declaration.default.is_none());
    bare.map(|declaration| declaration.name.text.as_str()).collect()
}
