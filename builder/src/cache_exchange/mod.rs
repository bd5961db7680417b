//! Shared caches: results of builds, kept where other machines find them.
//!
//! ```text
//! --cache-from  Depot::load -> Imports      entries by key; a hit's layer is fetched when needed
//! --cache-to    Exports::offer -> Depot::put    layers on their way while the build runs
//!               Exports::finish -> Depot::replace   entries, joined with what others wrote
//! ```
//!
//! Invariants: a cache can withhold results and can lie about what a step makes, which is why only
//! caches that the user names are asked, and why entries can be signed; it can do nothing else. A
//! blob enters the store under its own digest, a layer under a diff_id that was computed here, and
//! a damaged, missing or foreign cache is a miss. What a secret leaked into is never exported.

mod blob;
mod depot;
mod entry;
mod error;
mod export;
mod import;
pub(crate) mod inline;
mod layout;
mod local;
mod registry;
mod sign;
mod spec;

use std::sync::Arc;

use frontend::Platform;

pub use error::ExchangeError;
pub use layout::merge_layouts;
pub use spec::{CacheFrom, CacheMode, CachePlace, CacheTo};

pub(crate) use entry::{ByContent, Entry};
pub(crate) use export::{Exports, Offer};
pub(crate) use import::{Hit, Imports};

use self::depot::Depot;
use self::local::LocalDepot;
use self::registry::{Form, RegistryDepot};
use crate::request::BuildRequest;
use crate::source::Sources;

/// Opens the depot at `place`; an inline cache has none of its own.
fn open(
    place: &CachePlace,
    sources: &Sources,
    platform: &Platform,
    form: Form,
) -> Option<Arc<dyn Depot>> {
    match place {
        CachePlace::Registry(reference) => {
            Some(RegistryDepot::open(reference, sources, platform, form))
        }
        CachePlace::Local { dir, shown, tag, digest } => {
            let shown = shown.clone().unwrap_or_else(|| dir.display().to_string());
            Some(LocalDepot::open((dir, &shown, tag), *digest, sources.store(), form))
        }
        CachePlace::Inline => None,
    }
}

/// What a build asks of shared caches, with its scopes settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    from: Vec<CacheFrom>,
    to: Vec<CacheTo>,
    platform: Option<Platform>,
}

impl Asked {
    /// Reads `request`. A cache is read in all scopes, in their order, and written in the first.
    ///
    /// # Errors
    ///
    /// A scope that makes no tag, in words.
    pub(crate) fn of(request: &BuildRequest) -> Result<Self, String> {
        let BuildRequest { cache_from, cache_to, cache_scopes, platforms, .. } = request;
        let platform = platforms.first();
        let Some(written) = cache_scopes.first() else {
            let (from, to) = (cache_from.clone(), cache_to.clone());
            return Ok(Self { from, to, platform: platform.cloned() });
        };
        let mut from = Vec::new();
        for one in cache_from {
            for scope in cache_scopes {
                from.push(one.in_scope(scope)?);
            }
        }
        let to = cache_to.iter().map(|to| to.in_scope(written)).collect::<Result<_, _>>()?;
        Ok(Self { from, to, platform: platform.cloned() })
    }

    fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}
