//! ONBUILD triggers that come with a base image.

use std::collections::BTreeMap;

use crate::ast::Statement;
use crate::check::{CheckOptions, Checks};
use crate::diagnostic::Remarks;
use crate::instruction::{Typed, Typing};
use crate::{Diagnostic, Severity, syntax};

use super::plan::{Plan, Source};
use super::{BaseImage, ResolvedBase};

/// Reads the triggers of the bases of `reached` that were not read before; true when any was
/// found, since it can reach further stages and images.
pub(super) fn inherit(
    plan: &mut Plan<'_>,
    reached: &[usize],
    bases: &BTreeMap<BaseImage, ResolvedBase>,
    checks: &mut Checks<'_>,
) -> bool {
    let build_args = &plan.options.build_args;
    let mut any = false;
    for &index in reached {
        let stage = &mut plan.stages[index];
        if std::mem::replace(&mut stage.is_inherited, true) {
            continue;
        }
        let Source::Image(image) = &stage.base else { continue };
        let base = bases.get(image);
        let triggers = base.and_then(|base| base.config.config.on_build.as_deref());
        let span = stage.head.base.span;
        for text in triggers.unwrap_or_default() {
            match parse(text, build_args) {
                Ok(statement) => stage.triggers.push(statement),
                Err(fault) => {
                    let message = format!("the base's trigger `{}`: {fault}", first_line(text));
                    checks.out.push(Diagnostic::error(span, message));
                }
            }
        }
        any |= !stage.triggers.is_empty();
        let triggers = plan.stages[index].triggers.clone();
        for from in triggers.iter().flat_map(super::reach::references_of) {
            if let Err(mut diagnostic) = plan.resolve(index, from) {
                diagnostic.span = span;
                checks.out.push(*diagnostic);
            }
        }
    }
    any
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Parses one trigger; it must be one instruction that may be a trigger.
fn parse(text: &str, build_args: &BTreeMap<String, String>) -> Result<Statement, String> {
    let mut out = Remarks::default();
    let raw = syntax::parse_trigger(text, &mut out);
    let options = CheckOptions::default();
    let mut checks = Checks::new(&options, out);
    let mut typed = Vec::new();
    for raw in raw {
        let mut typing = Typing { checks: &mut checks, escape: '\\', build_args };
        typed.extend(typing.instruction(raw));
    }
    let fault = checks.out.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
    if let Some(fault) = fault {
        return Err(fault.message.clone());
    }
    match (typed.pop(), typed.is_empty()) {
        (Some(Typed::Statement(statement)), true) => Ok(statement),
        _ => Err("it must be one instruction, and not FROM".to_owned()),
    }
}
