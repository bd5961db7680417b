//! The form that an image gets on its way out.

use super::annotation::Annotations;
use crate::layer::Compression;

/// What is asked of an image that leaves. The default changes what it must: layers built here
/// become gzip, all else stays as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageForm {
    /// Of the layers built here.
    pub compression: Option<Compression>,
    /// Within [`Compression::levels`]; `None` is the compression's own.
    pub level: Option<u8>,
    /// Compresses layers of bases anew too, where they are in another form.
    pub force: bool,
    /// Which media types the documents have; `None` keeps those of an image that stays as it is.
    pub types: Option<MediaTypes>,
    /// For manifests and indexes.
    pub annotations: Annotations,
}

/// Whose media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTypes {
    /// `application/vnd.oci.image...`.
    Oci,
    /// `application/vnd.docker...`; they know no annotations.
    Docker,
}

impl ImageForm {
    /// Tells what is wrong with the level, if anything is.
    ///
    /// # Errors
    ///
    /// What the user should read: the levels that there are.
    pub fn check(&self) -> Result<(), String> {
        let compression = self.compression.unwrap_or_default();
        let levels = compression.levels();
        match self.level.filter(|level| !levels.contains(level)) {
            None => Ok(()),
            Some(level) => {
                let (from, to) = (levels.start(), levels.end());
                Err(format!("{compression} has levels {from} to {to}, not {level}"))
            }
        }
    }

    /// As it is, with OCI documents: what an image layout must hold.
    #[must_use]
    pub fn as_oci(mut self) -> Self {
        self.types = Some(MediaTypes::Oci);
        self
    }
}
