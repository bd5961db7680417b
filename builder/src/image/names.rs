//! From what a user calls an image to its record, and the changes of names.

use cache::{ImageRecord, Store};
use frontend::{Platform, Reference};

use crate::error::ErrorKind;
use crate::source::{ResolvedImage, Target, named, read_target};

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// What is asked for takes away a part of the sandbox, and is not allowed.
    #[error("{what}")]
    NotAllowed {
        /// What is missing, and what to do.
        what: String,
    },
    /// Neither a name nor an ID in the store.
    #[error("no such image: {name}")]
    NotFound {
        /// As asked for.
        name: String,
    },
    /// The name is here for other platforms only.
    #[error(
        "image with reference {name} was found but does not provide the specified platform \
         ({wanted}); it is here for {}", .offered.join(", ")
    )]
    Platform {
        /// As asked for.
        name: String,
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        offered: Vec<String>,
    },
    /// The prefix of an ID fits several images.
    #[error("`{name}` is short for several images")]
    Ambiguous {
        /// As asked for.
        name: String,
    },
    /// The name breaks the grammar of references.
    #[error(transparent)]
    Name(#[from] frontend::ReferenceError),
    /// An image with several tags is not removed by its ID unless forced.
    #[error("`{name}` has several tags ({}); remove them one by one, or use --force", .tags.join(", "))]
    Tagged {
        /// As asked for.
        name: String,
        /// The tags that stand in the way.
        tags: Vec<String>,
    },
    /// One image where several platforms' are needed.
    #[error("`{name}` is an image and not an index of several")]
    NotAnIndex {
        /// As asked for.
        name: String,
    },
    /// A document of the image is missing or broken in the store.
    #[error("the store's copy of `{name}` is damaged: {what}")]
    Damaged {
        /// As asked for.
        name: String,
        /// What is missing or broken.
        what: String,
    },
    /// A registry, or what it sent, is at fault.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// An archive could not be written, or a registry did not take the image.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
    /// An archive could not be taken in.
    #[error(transparent)]
    Load(#[from] crate::export::LoadError),
    /// Neither ENTRYPOINT nor CMD, and no command was given.
    #[error("`{name}` has no command: give one")]
    NoCommand {
        /// As asked for.
        name: String,
    },
    /// More is asked for than the builder allows.
    #[error(transparent)]
    Limit(#[from] crate::limits::LimitError),
    /// The image's command could not be started.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// The image's files cannot be read.
    #[error(transparent)]
    Root(#[from] crate::rootfs::RootError),
    /// The image's user cannot be looked up.
    #[error(transparent)]
    User(#[from] crate::rootfs::UserError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ImageError {
    /// Wraps any error of the store.
    pub(crate) fn store(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Store(Box::new(error))
    }

    /// Tells who must act.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAllowed { .. }
            | Self::NotFound { .. }
            | Self::Platform { .. }
            | Self::Ambiguous { .. }
            | Self::NotAnIndex { .. }
            | Self::Name(_)
            | Self::Tagged { .. }
            | Self::NoCommand { .. }
            | Self::Limit(_)
            | Self::User(_) => ErrorKind::User,
            Self::Damaged { .. } | Self::Root(_) | Self::Store(_) => ErrorKind::Host,
            Self::Source(error) => error.kind(),
            Self::Export(error) => error.kind(),
            Self::Load(error) => error.kind(),
            Self::Sandbox(error) => error.kind(),
        }
    }
}

/// What removing an image took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone, in familiar form.
    pub untagged: Vec<String>,
    /// Image IDs that are gone.
    pub deleted: Vec<String>,
}

/// Parses a name as users write it.
pub(crate) fn parse_name(name: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse_normalized(name)?;
    Ok(reference.with_default_tag())
}

/// Finds the records that `name` stands for: one for a tag, all tags of the image for an ID or a
/// prefix of one. Names win over IDs, as in Docker.
pub(crate) fn find(store: &Store, name: &str) -> Result<Vec<ImageRecord>, ImageError> {
    if let Ok(reference) = parse_name(name)
        && let Some(record) = named(store, &reference).map_err(ImageError::store)?
    {
        return Ok(vec![record]);
    }
    let not_found = || ImageError::NotFound { name: name.to_owned() };
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if hex.len() < 3 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(not_found());
    }
    let records = store.images().find_by_id(hex).map_err(ImageError::store)?;
    let first = records.first().ok_or_else(not_found)?;
    if records.iter().any(|record| record.config != first.config) {
        return Err(ImageError::Ambiguous { name: name.to_owned() });
    }
    Ok(records)
}

/// Reads the image that `name` stands for: of several platforms, this machine's.
pub(crate) fn resolved(store: &Store, name: &str) -> Result<ResolvedImage, ImageError> {
    Ok(target(store, name)?.image_for(&Platform::host()).clone())
}

/// Reads all that `name` stands for.
pub(crate) fn target(store: &Store, name: &str) -> Result<Target, ImageError> {
    let records = find(store, name)?;
    let record = records.first().ok_or(ImageError::NotFound { name: name.to_owned() })?;
    let reference = record.reference.clone().unwrap_or_else(|| record.manifest.digest.to_string());
    read_target(store, &reference, &record.manifest)?.ok_or_else(|| ImageError::Damaged {
        name: name.to_owned(),
        what: "its manifest or config is missing".to_owned(),
    })
}

/// Picks the image of `target`, which is called `name`, for `wanted`.
pub(crate) fn of_platform<'a>(
    target: &'a Target,
    name: &str,
    wanted: &Platform,
) -> Result<&'a ResolvedImage, ImageError> {
    target.exactly_for(wanted).ok_or_else(|| ImageError::Platform {
        name: name.to_owned(),
        wanted: wanted.clone(),
        offered: target.images.iter().map(|image| image.platform().to_string()).collect(),
    })
}

/// Gives the image `source` the further name `target`.
pub(crate) fn tag(store: &Store, source: &str, target: &str) -> Result<(), ImageError> {
    let records = find(store, source)?;
    let record = records.first().ok_or(ImageError::NotFound { name: source.to_owned() })?;
    let reference = parse_name(target)?;
    let record = ImageRecord { reference: Some(reference.to_string()), ..record.clone() };
    store.images().put(&record).map_err(ImageError::store)
}

/// Takes a name away, and the image with its last name. Its layers stay as cache until pruned.
pub(crate) fn remove(store: &Store, name: &str, force: bool) -> Result<Removed, ImageError> {
    let records = find(store, name)?;
    let tags: Vec<String> = records.iter().filter_map(|r| r.reference.clone()).collect();
    if tags.len() > 1 && !force {
        let tags = tags.iter().map(|tag| familiar(tag)).collect();
        return Err(ImageError::Tagged { name: name.to_owned(), tags });
    }
    let mut removed = Removed::default();
    for record in &records {
        match &record.reference {
            Some(reference) => {
                store.images().remove(reference).map_err(ImageError::store)?;
                removed.untagged.push(familiar(reference));
            }
            None => {
                store.images().remove_untagged(&record.config).map_err(ImageError::store)?;
            }
        }
    }
    if let Some(record) = records.first() {
        let id = record.config;
        let left = store.images().find_by_id(&id.hex()).map_err(ImageError::store)?;
        if left.is_empty() {
            removed.deleted.push(id.to_string());
        }
    }
    Ok(removed)
}

/// Writes a stored reference the way people do (`app-node:1`).
pub(crate) fn familiar(reference: &str) -> String {
    Reference::parse_normalized(reference)
        .map_or_else(|_| reference.to_owned(), |reference| reference.familiar())
}
