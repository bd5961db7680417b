//! What variables an instruction sees: the stage's environment and its build arguments.
//!
//! ENV wins over ARG of the same name, whichever stands first and even over `--build-arg`
//! (Dockerfile reference, "Using ARG variables"). An ARG without value is declared, but absent.

use std::collections::{BTreeMap, HashMap};

use crate::Platform;
use crate::ast::{ArgDeclaration, Instruction, Statement};
use crate::words::Variables;

/// Arguments for the builder, not for commands.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Proxy variables, in upper and lower case: need no ARG (Dockerfile reference, "Predefined
/// ARGs").
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Bytes that a variable takes beside its name and value.
const ENTRY: usize = 64;

/// Environment and arguments of a stage at one point.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    env: Vec<(String, String)>,
    places: HashMap<String, usize>,
    args: BTreeMap<String, Option<String>>,
    /// Names of arguments in the order of their first declaration.
    declared: Vec<String>,
    bytes: usize,
}

impl Scope {
    /// Takes over an image's environment.
    pub(super) fn from_env(env: &[String]) -> Self {
        let mut scope = Self::default();
        for entry in env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            scope.set_env(name, value.to_owned());
        }
        scope
    }

    /// Sets a variable; one that is set already keeps its place.
    pub(super) fn set_env(&mut self, name: &str, value: String) {
        if let Some(&place) = self.places.get(name) {
            self.bytes += value.len();
            let before = std::mem::replace(&mut self.env[place].1, value);
            self.bytes -= before.len();
        } else {
            self.bytes += ENTRY + name.len() + value.len();
            self.places.insert(name.to_owned(), self.env.len());
            self.env.push((name.to_owned(), value));
        }
    }

    /// Declares an argument; without a value it keeps the one that it has from the stage below.
    pub(super) fn set_arg(&mut self, name: &str, value: Option<String>) {
        self.bytes += value.as_ref().map_or(0, String::len);
        if let Some(known) = self.args.get_mut(name) {
            if let Some(before) = value.and_then(|value| known.replace(value)) {
                self.bytes -= before.len();
            }
        } else {
            self.bytes += ENTRY + name.len();
            self.args.insert(name.to_owned(), value);
            self.declared.push(name.to_owned());
        }
    }

    /// Whether an ARG or an ENV named it.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.args.contains_key(name) || self.places.contains_key(name)
    }

    /// All names, for "did you mean".
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().chain(self.args.keys()).map(String::as_str)
    }

    /// Names of the declared arguments, in order.
    pub(super) fn arguments(&self) -> &[String] {
        &self.declared
    }

    /// The value of an argument, whatever ENV says.
    pub(super) fn argument(&self, name: &str) -> Option<&str> {
        self.args.get(name)?.as_deref()
    }

    /// Roughly the bytes that [`Self::run_env`] makes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The environment as an image's config keeps it.
    pub(super) fn config_env(&self) -> Vec<String> {
        self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The environment of a command.
    pub(super) fn run_env(&self) -> BTreeMap<String, String> {
        let args = self.args.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let args = args.filter(|(name, _)| !NOT_IN_ENVIRONMENT.contains(&name.as_str()));
        let env = self.env.iter().map(|(name, value)| (name, value));
        args.chain(env).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

impl Variables for Scope {
    fn value(&self, name: &str) -> Option<&str> {
        if let Some(&place) = self.places.get(name) {
            return Some(&self.env[place].1);
        }
        self.args.get(name)?.as_deref().filter(|_| !NOT_IN_ENVIRONMENT.contains(&name))
    }
}

/// The arguments that a statement declares.
pub(super) fn declared(statement: &Statement) -> &[ArgDeclaration] {
    match &statement.instruction {
        Instruction::Arg(declarations) => declarations,
        _ => &[],
    }
}

/// Whether `--build-arg` of this name is meant for the builder itself.
pub(super) fn is_predefined(name: &str) -> bool {
    let is_platform = ["TARGET", "BUILD"].iter().any(|prefix| {
        let rest = name.strip_prefix(prefix).unwrap_or_default();
        ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE"].contains(&rest)
    });
    is_platform
        || super::builder_args::is_known(name)
        || name == "SOURCE_DATE_EPOCH"
        || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// The arguments that are there without ARG in FROM, and after a bare ARG in a stage.
pub(super) fn platform_arguments(
    target: &Platform,
    build: &Platform,
    target_stage: &str,
) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let mut set = |name: &str, value: String| values.insert(format!("{prefix}{name}"), value);
        set("PLATFORM", platform.to_string());
        set("OS", platform.os.clone());
        set("OSVERSION", String::new());
        set("ARCH", platform.architecture.clone());
        set("VARIANT", platform.variant.clone().unwrap_or_default());
    }
    values.insert("TARGETSTAGE".to_owned(), target_stage.to_owned());
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_wins_over_arg() {
        let mut scope = Scope::from_env(&["A=image".to_owned(), "PATH=/bin".to_owned()]);
        scope.set_arg("A", Some("arg".to_owned()));
        scope.set_arg("B", Some("arg".to_owned()));
        scope.set_arg("C", None);
        assert_eq!(scope.value("A"), Some("image"));
        assert_eq!(scope.value("B"), Some("arg"));
        assert_eq!(scope.value("C"), None);
        scope.set_arg("B", None);
        assert_eq!(scope.value("B"), Some("arg"), "declared again without value");
        scope.set_env("B", "env".to_owned());
        scope.set_env("A", "new".to_owned());
        assert_eq!(scope.config_env(), ["A=new", "PATH=/bin", "B=env"]);
        let env = scope.run_env();
        assert_eq!(env.get("B").map(String::as_str), Some("env"));
        assert!(!env.contains_key("C"), "an argument without value is absent");
    }

    #[test]
    fn predefined_arguments() {
        for name in ["http_proxy", "NO_PROXY", "TARGETARCH", "BUILDKIT_INLINE_CACHE", "BUILDOS"] {
            assert!(is_predefined(name), "{name}");
        }
        for name in ["VERSION", "TARGET", "BUILDER"] {
            assert!(!is_predefined(name), "{name}");
        }
    }
}
