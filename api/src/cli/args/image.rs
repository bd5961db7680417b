//! Arguments of the commands about images: listing, naming, moving.

use std::path::PathBuf;

use builder::Compression;
use clap::{Args, Subcommand, ValueEnum};
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
    /// Only images with reference=PATTERN, label=NAME[=VALUE], dangling=true|false, before=NAME,
    /// since=NAME, until=24h (repeatable: all must hold)
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<(String, String)>,
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
    /// Of images for several platforms, that for this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(crate) platform: Option<Platform>,
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
    /// Of images for several platforms, that for this one alone [default: all that are here]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(crate) platform: Option<Platform>,
    /// How layers that were built here are compressed: gzip, zstd, estargz, uncompressed
    /// [default: gzip]
    #[arg(long, value_name = "NAME", value_parser = compression)]
    pub(crate) compression: Option<Compression>,
    /// Level of the compression: gzip and estargz 0 to 12, zstd 0 to 22
    #[arg(long, value_name = "NUMBER", requires = "compression")]
    pub(crate) compression_level: Option<u8>,
    /// Compress layers that came from elsewhere anew too
    #[arg(long, requires = "compression")]
    pub(crate) force_compression: bool,
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
    /// Of images for several platforms, that for this one [default: all that are here; this
    /// machine's for docker]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(crate) platform: Option<Platform>,
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

/// Make an image of one layer out of the tar of a root filesystem
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Tar, plain or compressed; `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name of the image [default: none, it is found by its ID]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Instruction on the image's config, such as `CMD ["sh"]` (repeatable)
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Comment of the history's one entry
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    pub(crate) message: String,
    /// What it is for, such as linux/arm64 [default: this machine]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(crate) platform: Option<Platform>,
}

/// What can be done about images beside the commands of their own.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Tree(ImageTreeArgs),
    Diff(ImageDiffArgs),
    Referrers(ImageReferrersArgs),
    Prune(ImagePruneArgs),
}

/// Show the files of an image by layer, and the bytes that upper layers hide
#[derive(Debug, Args)]
pub(crate) struct ImageTreeArgs {
    /// Name or ID
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// All files, in the order of the layer, and not the largest alone
    #[arg(short, long)]
    pub(crate) all: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Show what differs between two images: config, packages (dpkg, apk, npm, Python), files, sizes
#[derive(Debug, Args)]
pub(crate) struct ImageDiffArgs {
    /// Name or ID
    #[arg(value_name = "BEFORE")]
    pub(crate) before: String,
    /// Name or ID
    #[arg(value_name = "AFTER")]
    pub(crate) after: String,
    /// All files, by path, and not the largest changes alone
    #[arg(short, long)]
    pub(crate) all: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Ask the registry what refers to an image: signatures, SBOMs, attestations
#[derive(Debug, Args)]
pub(crate) struct ImageReferrersArgs {
    /// Name at the registry, with a tag or digest
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Only those of this type, such as application/spdx+json
    #[arg(long, value_name = "TYPE")]
    pub(crate) artifact_type: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// Remove images without a name, and free what only they need
#[derive(Debug, Args)]
pub(crate) struct ImagePruneArgs {
    /// Also those with names
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only until=24h (made before), label=NAME[=VALUE], label!=NAME (repeatable: all must hold)
    #[arg(long, value_name = "NAME=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<(String, String)>,
    /// Ask nothing; always so, and accepted for habit's sake
    #[arg(short, long)]
    pub(crate) force: bool,
}

fn compression(text: &str) -> Result<Compression, String> {
    Compression::parse(text).ok_or_else(|| {
        let known = Compression::ALL.map(Compression::name).join(", ");
        format!("there is no compression `{text}`; there are {known}")
    })
}

/// Parses `name=value`, and `name!=value` under the name `name!`.
fn filter(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
