//! What is refused once the work is known and before any of it is done.

use frontend::{BuildGraph, Op, Output};

use super::error::BuildError;
use crate::entitlement::Entitlement;
use crate::op::RunSettings;
use crate::secret::{Search, Secrets};

/// Refuses steps that may not do what they ask for, cached or not, and an image whose config holds
/// a secret.
pub(super) fn check(
    graph: &BuildGraph,
    settings: &RunSettings,
    secrets: &Secrets,
) -> Result<(), BuildError> {
    for vertex in &graph.vertices {
        if let Op::Run(op) = &vertex.op {
            settings.grants.check_run(op, settings.network).map_err(|refused| {
                BuildError::Request { help: Some(refused.help()), what: refused.to_string() }
            })?;
        }
    }
    check_config(graph, settings, secrets)
}

/// Searches what the build adds to config and history. An ARG or ENV may hold what was meant to be
/// a secret.
fn check_config(
    graph: &BuildGraph,
    settings: &RunSettings,
    secrets: &Secrets,
) -> Result<(), BuildError> {
    if secrets.is_empty() {
        return Ok(());
    }
    let search = Search::new(secrets);
    graph.outputs().try_for_each(|output| check_output(output, &search, settings))
}

fn check_output(
    output: &Output,
    search: &Search,
    settings: &RunSettings,
) -> Result<(), BuildError> {
    let history = output.history.iter().enumerate();
    let in_history = history.map(|(index, step)| {
        (step.created_by.as_str(), format!("entry {} of the image's history", index + 1))
    });
    let config = &output.config.config;
    let env = config.env.iter().flatten();
    let env = env.map(|pair| {
        let name = pair.split_once('=').map_or("", |(name, _)| name);
        (pair.as_str(), format!("the variable `{name}` of the image's config"))
    });
    let labels = config.labels.iter().flatten();
    let labels = labels
        .map(|(name, value)| (value.as_str(), format!("the label `{name}` of the image's config")));
    let leak = in_history
        .chain(env)
        .chain(labels)
        .find_map(|(text, place)| search.text(text.as_bytes(), &place));
    match leak {
        Some(leak) if settings.grants.check(Entitlement::SecretLeak, "").is_err() => {
            Err(BuildError::Request {
                what: leak.to_string(),
                help: Some("if the image may hold the value, add `--allow secret.leak`".to_owned()),
            })
        }
        _ => Ok(()),
    }
}
