//! Build arguments that are meant for the builder itself (`BUILDKIT_*`), and those that nobody takes.

use std::collections::BTreeSet;

use crate::ast::Dockerfile;
use crate::check::{Checks, parse_bool};
use crate::nearest::did_you_mean;
use crate::{Diagnostic, Severity, Span, directive};

use super::{LowerOptions, scope};

/// The name of the machine that RUN sees.
pub(super) const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// Set before the ids of cache mounts.
pub(super) const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The frontend image, as `# syntax=` names it.
const SYNTAX: &str = "BUILDKIT_SYNTAX";

/// Arguments that ask for something that is not done, with what it is.
const NOT_DONE: [(&str, &str); 2] = [
    ("BUILDKIT_INLINE_CACHE", "cache records are not written into images"),
    ("BUILDKIT_MULTI_PLATFORM", "an image of one platform gets no index"),
];

/// Every argument that BuildKit's Dockerfile frontend takes (Dockerfile reference, "BuildKit
/// built-in build args"; those of scans mean nothing without a scan).
const KNOWN: [&str; 10] = [
    "BUILDKIT_BUILD_NAME",
    CACHE_NAMESPACE,
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    HOSTNAME,
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    SYNTAX,
];

/// Whether `name` is one of the builder's.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Speaks of arguments that change nothing though somebody hopes so.
pub(super) fn warn(dockerfile: &Dockerfile, options: &LowerOptions, checks: &mut Checks<'_>) {
    if let Some(name) = options.build_args.get(SYNTAX).filter(|name| *name != "dockerfile.v0") {
        checks.out.push(directive::not_fetched(name, Span::default()));
    }
    for (name, what) in NOT_DONE {
        let is_on =
            options.build_args.get(name).is_some_and(|value| parse_bool(value) == Some(true));
        if is_on {
            checks.out.push(warning(format!("the build argument `{name}` has no effect: {what}")));
        }
    }
    warn_of_unused(dockerfile, options, checks);
}

/// Speaks of `--build-arg`s that no ARG of the file takes.
fn warn_of_unused(dockerfile: &Dockerfile, options: &LowerOptions, checks: &mut Checks<'_>) {
    let stages = dockerfile.stages.iter().flat_map(|stage| &stage.statements);
    let declared: BTreeSet<&str> = dockerfile
        .globals
        .iter()
        .chain(stages)
        .flat_map(scope::declared)
        .map(|declaration| declaration.name.text.as_str())
        .collect();
    for name in options.build_args.keys() {
        if declared.contains(name.as_str()) || scope::is_predefined(name) {
            continue;
        }
        let near = did_you_mean(name, declared.iter().copied().chain(KNOWN));
        let help = near.unwrap_or_else(|| format!("declare it: `ARG {name}`"));
        let message = format!("no ARG takes the build argument `{name}`");
        checks.out.push(warning(message).with_help(help));
    }
}

fn warning(message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, ..Diagnostic::error(Span::default(), message) }
}
