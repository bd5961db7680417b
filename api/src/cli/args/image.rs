//! Arguments of the commands about images: listing, naming, moving.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use frontend::Platform;

/// How lists are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON object a line
    Json,
}

/// List images
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this repository, or this name and tag
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) name: Option<String>,
    /// Only IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole IDs
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Show how an image came about
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Name or ID
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Only IDs
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Whole instructions and IDs
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Show images in full, as a JSON array
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names or IDs
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// Fetch an image from its registry
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name, by default with tag latest
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Platform to fetch, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(crate) platform: Option<Platform>,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Send an image to a registry
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name of an image in the store
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Name to push it to [default: its own]
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Give an image a further name
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or ID
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// New name
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
}

/// Remove names, and images with their last name
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Names or IDs
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Remove an image by its ID though it has several names
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// The form of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// What `docker load` reads
    #[default]
    Docker,
    /// An OCI image layout
    Oci,
}

impl From<ArchiveFormat> for builder::ArchiveKind {
    fn from(format: ArchiveFormat) -> Self {
        match format {
            ArchiveFormat::Docker => Self::Docker,
            ArchiveFormat::Oci => Self::Oci,
        }
    }
}

/// Write images to an archive
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Names or IDs
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ArchiveFormat,
}

/// Take in the images of an archive: an OCI image layout, or one of `docker save`
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// File to read [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
