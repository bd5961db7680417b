//! What a build of a target takes from outside (`--call=outline`): arguments, secrets, ssh agents,
//! caches.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{ArgDeclaration, Dockerfile, Statement};
use crate::check::description;
use crate::instruction::Anything;
use crate::words::Lexer;
use crate::{Diagnostic, MountKind, Op, Span};

use super::stage::Lowering;
use super::{BaseImage, LowerOptions, ResolvedBase, lower_for, scope};

/// What a target takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, `None` where it has none.
    pub name: Option<String>,
    /// What a comment above its FROM says of it.
    pub description: String,
    /// In the order of the file.
    pub args: Vec<OutlineArg>,
    /// `RUN --mount=type=secret`, in the order of the file.
    pub secrets: Vec<OutlineMount>,
    /// `RUN --mount=type=ssh`, in the order of the file.
    pub ssh: Vec<OutlineMount>,
    /// `RUN --mount=type=cache`, in the order of the file.
    pub caches: Vec<OutlineMount>,
}

/// An argument of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// As in `--build-arg`.
    pub name: String,
    /// What a comment above it says of it.
    pub description: String,
    /// The value that it has in this build.
    pub value: Option<String>,
    /// The ARG that gives it its value.
    pub span: Span,
}

/// Something that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    /// As in `--secret id=` or `--ssh`; of a cache, the name that it is kept under.
    pub id: String,
    /// The step fails without it.
    pub is_required: bool,
    /// The RUN.
    pub span: Span,
}

/// Lists what a build of the target takes. Bases that are not known are taken to set nothing.
///
/// # Errors
///
/// Every fault found, with the warnings.
pub fn outline(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseImage, ResolvedBase>,
) -> Result<Outline, Vec<Diagnostic>> {
    lower_for(dockerfile, options, bases, false, |lowering, reached| {
        if lowering.checks.out.iter().any(Diagnostic::is_fault) {
            return Err(lowering.checks.out.finish());
        }
        Ok(of_stages(dockerfile, &lowering, reached))
    })?
}

fn of_stages(dockerfile: &Dockerfile, lowering: &Lowering<'_, '_>, reached: &[usize]) -> Outline {
    let head = &dockerfile.stages[lowering.plan.target].from;
    let name = head.name.as_ref().map(|name| name.text.clone());
    let told = name.as_deref().map(|name| description(&head.comments, name));
    let mut outline = Outline {
        description: told.unwrap_or_default(),
        name: name.map(String::from),
        args: arguments(dockerfile, lowering, reached),
        ..Outline::default()
    };
    for step in &lowering.steps {
        let Some(Op::Run(run)) = step.vertex.map(|id| lowering.vertices.op(id)) else { continue };
        for mount in &run.mounts {
            let mut add = |list: fn(&mut Outline) -> &mut Vec<OutlineMount>, id: &str, required| {
                let list = list(&mut outline);
                if !list.iter().any(|known| known.id == id) {
                    let id = id.to_owned();
                    list.push(OutlineMount { id, is_required: required, span: step.span });
                }
            };
            match &mount.kind {
                MountKind::Secret { id, required, .. } => add(|o| &mut o.secrets, id, *required),
                MountKind::Ssh { id, required, .. } => add(|o| &mut o.ssh, id, *required),
                MountKind::Cache { id, .. } => add(|o| &mut o.caches, id, false),
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
    }
    outline
}

/// The ARGs of the stages, and of those before the first FROM what these and their FROMs use.
fn arguments(
    dockerfile: &Dockerfile,
    lowering: &Lowering<'_, '_>,
    reached: &[usize],
) -> Vec<OutlineArg> {
    let globals: BTreeMap<&str, (&Statement, &ArgDeclaration)> = dockerfile
        .globals
        .iter()
        .flat_map(|statement| {
            let declared = scope::declared(statement).iter();
            declared.map(move |arg| (arg.name.text.as_str(), (statement, arg)))
        })
        .collect();
    let mut found: BTreeMap<(usize, String), OutlineArg> = BTreeMap::new();
    let mut wanted: Vec<String> = Vec::new();
    for &index in reached {
        let stage = &dockerfile.stages[index];
        let words = [Some(&stage.from.base), stage.from.platform.as_ref()];
        wanted.extend(words.into_iter().flatten().flat_map(|word| names_in(&word.text)));
        let Some(result) = lowering.results.get(&index) else { continue };
        for statement in &stage.statements {
            for arg in scope::declared(statement) {
                let name = arg.name.text.as_str();
                if arg.default.is_none() && globals.contains_key(name) {
                    wanted.push(name.to_owned());
                    continue;
                }
                let value = result.scope.argument(name).map(str::to_owned);
                let key = (statement.span.start, name.to_owned());
                found.insert(key, told(statement, name, value));
            }
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let Some((statement, arg)) = globals.get(name.as_str()).copied() else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        wanted.extend(arg.default.iter().flat_map(|default| names_in(&default.text)));
        let value = lowering.plan.globals.get(&name).cloned();
        found.insert((statement.span.start, name.clone()), told(statement, &name, value));
    }
    found.into_values().collect()
}

fn told(statement: &Statement, name: &str, value: Option<String>) -> OutlineArg {
    OutlineArg {
        name: name.to_owned(),
        description: description(&statement.comments, name),
        value,
        span: statement.span,
    }
}

/// The variables that a word uses.
fn names_in(text: &str) -> BTreeSet<String> {
    let lexer = Lexer::new('\\');
    // Modifiers provide for variables that are not set, so each is looked up as set, too.
    let unset = lexer.process(text, &()).map(|word| word.unmatched).unwrap_or_default();
    let set = lexer.process(text, &Anything).map(|word| word.matched).unwrap_or_default();
    set.into_iter().chain(unset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
# VERSION which release
ARG VERSION=3.20
ARG REPO=docker.io/library
ARG IMAGE=$REPO/alpine
ARG UNUSED=1
FROM other AS unreached
ARG NOT_THIS
FROM $IMAGE:${VERSION:-1} AS base
# MODE how
# fast
ARG MODE=fast
RUN --mount=type=secret,id=token,required=true --mount=type=cache,target=/c true
# app the program
FROM base AS app
ARG VERSION
ARG TOKEN_FILE
RUN --mount=type=ssh --mount=type=secret,id=token true
";

    #[test]
    fn what_a_target_takes() {
        let dockerfile = crate::parse(SOURCE).dockerfile;
        let options = LowerOptions {
            build_args: BTreeMap::from([("TOKEN_FILE".to_owned(), "/t".to_owned())]),
            ..LowerOptions::default()
        };
        let found = outline(&dockerfile, &options, &BTreeMap::new()).unwrap();
        assert_eq!(
            (found.name.as_deref(), found.description.as_str()),
            (Some("app"), "the program")
        );
        let args: Vec<String> = found
            .args
            .iter()
            .map(|arg| {
                let line = arg.span.line_column(SOURCE).0;
                format!("{line} {} {:?} {}", arg.name, arg.value.as_deref(), arg.description)
            })
            .collect();
        assert_eq!(
            args,
            [
                r#"2 VERSION Some("3.20") which release"#,
                r#"3 REPO Some("docker.io/library") "#,
                r#"4 IMAGE Some("docker.io/library/alpine") "#,
                r#"11 MODE Some("fast") how"#,
                r#"16 TOKEN_FILE Some("/t") "#,
            ]
        );
        let mounts = |list: &[OutlineMount]| -> Vec<(String, bool)> {
            list.iter().map(|mount| (mount.id.clone(), mount.is_required)).collect()
        };
        assert_eq!(mounts(&found.secrets), [("token".to_owned(), true)]);
        assert_eq!(mounts(&found.ssh), [("default".to_owned(), false)]);
        assert_eq!(mounts(&found.caches), [("/c".to_owned(), false)]);
        assert!(
            outline(&crate::parse("FROM a:b:c\n").dockerfile, &options, &BTreeMap::new()).is_err()
        );
    }
}
