//! What may be typed after the commands that look after the store.

use clap::{Args, Subcommand};

use super::image::ListFormat;
use crate::limits::bytes;
use crate::upkeep::ItemFilter;

/// Show what the store holds, in bytes on disk
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Everything one by one, largest first
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// With --verbose, only type=step|image|mount|build|note|layer|blob|metadata, id=PREFIX,
    /// until=24h (not used since), reclaimable=true|false (repeatable: all must hold)
    #[arg(long, value_name = "NAME=VALUE", value_parser = ItemFilter::parse, requires = "verbose")]
    pub(crate) filter: Vec<ItemFilter>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Delete what no image needs
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also cache mounts, fetched sources, past builds, and the cache of tagged images
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only what was not used for a time, until=24h, or one kind of thing,
    /// type=step|image|mount|build|note (repeatable: all must hold)
    #[arg(long, value_name = "NAME=VALUE", value_parser = ItemFilter::parse)]
    pub(crate) filter: Vec<ItemFilter>,
    /// Stop once the store takes no more than this, what is worth least going first
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) keep_storage: Option<u64>,
    /// Only say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    Check(CheckArgs),
}

/// Read the whole store and tell what is damaged; exits 4 if anything is
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Remove what is damaged, so that it is made or fetched again
    #[arg(long)]
    pub(crate) repair: bool,
}
