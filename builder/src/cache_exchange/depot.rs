//! What every place that keeps a cache can do.

use std::fmt;

use cache::{Descriptor, Digest};
use futures_util::future::BoxFuture;

use super::entry::CacheIndex;
use super::error::ExchangeError;
use crate::registry::Repository;

/// What an operation of a depot gives.
pub(crate) type Doing<'a, T> = BoxFuture<'a, Result<T, ExchangeError>>;

/// A cache as it was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) index: CacheIndex,
    /// Names this state of it; `None` where there was nothing yet.
    pub(crate) version: Option<Digest>,
    /// Why its entries cannot be read, if so: they are of another version, or damaged.
    pub(crate) fault: Option<String>,
    /// Whether it is an image, which no cache is put in the place of.
    pub(crate) is_image: bool,
}

/// A place that keeps one cache: blobs, and an index of entries that name them.
///
/// Nothing that comes out of it is believed: a blob enters the store under its own digest only.
pub(crate) trait Depot: fmt::Debug + Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Reads the index. A place without one is an empty cache.
    fn load(&self) -> Doing<'_, Found>;

    /// Brings a blob into the store.
    fn fetch<'a>(&'a self, blob: &'a Descriptor, moved: &'a (dyn Fn(u64) + Sync)) -> Doing<'a, ()>;

    /// Brings a blob of the store here; `sources` are repositories that may have it. Returns
    /// whether bytes had to move.
    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        sources: &'a [Repository],
        moved: &'a (dyn Fn(u64) + Sync),
    ) -> Doing<'a, bool>;

    /// Whether the blob is here already.
    fn has<'a>(&'a self, blob: &'a Descriptor) -> Doing<'a, bool>;

    /// Puts `index` in the place of the state `seen`; false where somebody else was faster.
    fn replace<'a>(&'a self, index: &'a CacheIndex, seen: Option<Digest>) -> Doing<'a, bool>;

    /// Whether [`Depot::replace`] notices everybody who was faster. Where it does not, its caller
    /// looks again afterwards.
    fn is_exact(&self) -> bool;
}
