//! What the stages refer to, and so which of them the target reaches.

use std::collections::BTreeSet;

use crate::ast::{Instruction, Statement, Word};
use crate::check::Checks;
use crate::nearest::did_you_mean;
use crate::{Diagnostic, Span};

use super::BaseImage;
use super::plan::{Plan, Source};

impl Plan<'_> {
    /// Resolves the name in a `--from` or a mount's `from` of the stage `index`.
    pub(super) fn resolve(&self, index: usize, from: &Word) -> Result<Source, Box<Diagnostic>> {
        let text = from.text.as_str();
        let lower = text.to_lowercase();
        let number = text.parse::<usize>().ok().filter(|_| !text.starts_with('+'));
        let earlier = self.named_below(&lower, index);
        if let Some(stage) = earlier.or(number.filter(|&number| number < index)) {
            return Ok(Source::Stage(stage));
        }
        let error = |message: String| Box::new(Diagnostic::error(from.span, message));
        if self.names[index] == Some(lower.as_str()) || number == Some(index) {
            return Err(error(format!("stage `{text}` cannot copy from itself")));
        }
        let is_below = self.by_name.contains_key(lower.as_str());
        if is_below || number.is_some_and(|number| number < self.names.len()) {
            let message = format!("stage `{text}` stands below; it must stand above its use");
            return Err(error(message));
        }
        if number.is_some() {
            let message = format!("there is no stage {text}; this one is stage {index}");
            return Err(error(message));
        }
        self.image_source(text, &self.options.target_platform, from.span).map_err(|mut fault| {
            let names = self.names[..index].iter().flatten().copied();
            fault.help = fault.help.take().or_else(|| did_you_mean(text, names));
            fault
        })
    }

    /// The stages that the stage `index` waits for (`FROM --after`).
    pub(super) fn after(&self, index: usize) -> Vec<usize> {
        let Some(stage) = self.stages.get(index) else { return Vec::new() };
        stage.head.after.iter().filter_map(|word| self.resolve_stage(index, word).ok()).collect()
    }

    /// Resolves a name or number that must be an earlier stage's.
    fn resolve_stage(&self, index: usize, word: &Word) -> Result<usize, Box<Diagnostic>> {
        let names = self.names[..index].iter().flatten().copied();
        let known = self.named_below(&word.text.to_lowercase(), index).is_some()
            || word.text.parse::<usize>().is_ok();
        match self.resolve(index, word) {
            Ok(Source::Stage(stage)) => Ok(stage),
            Err(fault) if known || self.by_name.contains_key(word.text.to_lowercase().as_str()) => {
                Err(fault)
            }
            _ => {
                let message = format!("`--after` names no stage above: `{}`", word.text);
                let mut error = Diagnostic::error(word.span, message);
                error.help = did_you_mean(&word.text, names);
                Err(Box::new(error))
            }
        }
    }

    pub(super) fn check_references(&self, checks: &mut Checks<'_>) {
        for index in 0..self.stages.len() {
            for from in self.references(index) {
                if let Err(diagnostic) = self.resolve(index, from) {
                    checks.out.push(*diagnostic);
                }
            }
            for stage in &self.stages[index].head.after {
                if let Err(diagnostic) = self.resolve_stage(index, stage) {
                    checks.out.push(*diagnostic);
                }
            }
        }
    }

    /// The `from`s of a stage's instructions, those of triggers that it inherits included.
    fn references(&self, index: usize) -> Vec<&Word> {
        let stage = &self.stages[index];
        let inherited = match stage.base {
            Source::Stage(base) => onbuild_triggers(self.stages[base].statements),
            _ => Vec::new(),
        };
        let statements = stage.triggers.iter().chain(inherited).chain(stage.statements);
        statements.flat_map(references_of).collect()
    }

    /// The stages that the target needs, in the order of the file.
    pub(super) fn reached(&self) -> Vec<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !reached.insert(index) {
                continue;
            }
            if let Some(Source::Stage(base)) = self.stages.get(index).map(|stage| &stage.base) {
                open.push(*base);
            }
            for from in self.references(index) {
                if let Ok(Source::Stage(stage)) = self.resolve(index, from) {
                    open.push(stage);
                }
            }
            open.extend(self.after(index));
        }
        reached.into_iter().collect()
    }

    /// The images that the stages `reached` need.
    pub(super) fn images(&self, reached: &[usize]) -> BTreeSet<BaseImage> {
        let mut images = BTreeSet::new();
        for &index in reached {
            let sources = self.references(index).into_iter();
            let sources = sources.filter_map(|from| self.resolve(index, from).ok());
            let base = self.stages[index].base.clone();
            images.extend(sources.chain([base]).filter_map(|source| match source {
                Source::Image(image) => Some(image),
                Source::Scratch | Source::Stage(_) | Source::Context(_) | Source::Git(_) => None,
            }));
        }
        images
    }

    /// Where the stage `index` names `image`, if it does.
    pub(super) fn span_of(&self, index: usize, image: &BaseImage) -> Option<Span> {
        let is_meant = |source: &Source| matches!(source, Source::Image(base) if base == image);
        let stage = self.stages.get(index)?;
        if is_meant(&stage.base) {
            return Some(stage.head.base.span);
        }
        let mut references = self.references(index).into_iter();
        let found = references.find(|from| self.resolve(index, from).is_ok_and(|s| is_meant(&s)));
        found.map(|from| from.span)
    }
}

/// The triggers that ONBUILD instructions of a stage leave to stages on it.
pub(super) fn onbuild_triggers(statements: &[Statement]) -> Vec<&Statement> {
    statements
        .iter()
        .filter_map(|statement| match &statement.instruction {
            Instruction::Onbuild(onbuild) => onbuild.trigger.as_deref(),
            _ => None,
        })
        .collect()
}

pub(super) fn references_of(statement: &Statement) -> Vec<&Word> {
    match &statement.instruction {
        Instruction::Copy(transfer) => transfer.from.iter().collect(),
        Instruction::Run(run) => run.mounts().iter().filter_map(|mount| mount.from()).collect(),
        _ => Vec::new(),
    }
}
