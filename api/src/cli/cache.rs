//! The options on caches that are shared with other machines.

use builder::{CacheFrom, CacheTo};
use clap::Args;

/// Where results of others come from, and where one's own go.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CacheArgs {
    /// Cache of others to look steps up in: a name, type=registry,ref=NAME or
    /// `type=local,src=DIR[,tag=TAG][,digest=DIGEST]`; with require-signed=true only entries signed
    /// by a trusted key (repeatable)
    #[arg(long = "cache-from", value_name = "SPEC", value_parser = CacheFrom::parse)]
    from: Vec<CacheFrom>,
    /// Cache to add results to: type=registry,ref=NAME, type=local,dest=DIR[,tag=TAG] or
    /// type=inline; mode=min|max|auto, compression=gzip|zstd|uncompressed,
    /// compression-level, force-compression, image-manifest, oci-mediatypes, ignore-error (repeatable)
    #[arg(long = "cache-to", value_name = "SPEC", value_parser = CacheTo::parse)]
    to: Vec<CacheTo>,
    /// Part of these caches, such as a branch: all parts named are read, the first is written
    /// (repeatable)
    #[arg(long = "cache-scope", value_name = "NAME")]
    scopes: Vec<String>,
}

impl CacheArgs {
    /// Puts what was asked for into `request`.
    pub(crate) fn apply(&self, request: &mut builder::BuildRequest) {
        request.cache_from.clone_from(&self.from);
        request.cache_to.clone_from(&self.to);
        request.cache_scopes.clone_from(&self.scopes);
    }
}
