//! Which repository, on which registry, and which of its manifests.

use std::fmt;

use cache::Digest;

/// The registry that names without a host belong to.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// A repository: registry host and path (`docker.io` and `library/node`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// Host and optional port, as in the reference.
    pub registry: String,
    /// Path within the registry.
    pub name: String,
}

impl Repository {
    /// Names a repository; both parts come from a checked reference.
    pub fn new(registry: impl Into<String>, name: impl Into<String>) -> Self {
        Self { registry: registry.into(), name: name.into() }
    }

    /// Reads what `Display` wrote: `docker.io/library/node`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (registry, name) = text.split_once('/')?;
        (!registry.is_empty() && !name.is_empty()).then(|| Self::new(registry, name))
    }

    /// Returns the name as people write it: `node`, `grafana/grafana`, `quay.io/x/y`.
    #[must_use]
    pub fn familiar(&self) -> String {
        if self.registry == DOCKER_HUB {
            self.name.strip_prefix("library/").unwrap_or(&self.name).to_owned()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// One manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManifestName {
    /// By tag.
    Tag(String),
    /// By digest.
    Digest(Digest),
}

impl ManifestName {
    /// Returns `repository:tag` or `repository@digest` as people write it.
    pub(super) fn familiar(&self, repository: &Repository) -> String {
        match self {
            Self::Tag(tag) => format!("{}:{tag}", repository.familiar()),
            Self::Digest(digest) => format!("{}@{digest}", repository.familiar()),
        }
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}
