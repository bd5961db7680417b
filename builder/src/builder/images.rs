//! What is done to images once they are: moved, named, told of.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use frontend::{Platform, Reference};

use super::{Builder, Inner};
use crate::export::{
    self, ArchiveDest, ArchiveKind, ExportImage, ImageForm, ImportOptions, PushForm,
};
use crate::image::{self, HistoryRow, ImageDetails, ImageError, ImageSummary, Removed};
use crate::progress::Events;
use crate::registry::{Referrer, RegistryError};
use crate::request::Credentials;
use crate::source::{Distribution, Target};
use crate::verify::{self, StepDifference};

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The name in full.
    pub reference: String,
    /// `sha256:<hex>` of what the name points to at the registry.
    pub digest: String,
    /// Whether all of it was here before.
    pub up_to_date: bool,
}

/// What a push left at the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The name in full.
    pub reference: String,
    /// `sha256:<hex>` of the manifest.
    pub digest: String,
    /// Size of the manifest in bytes.
    pub size: u64,
}

/// How an image is pushed.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// The name that it gets; `None` is its own.
    pub destination: Option<String>,
    /// The one image of several to push; `None` is all that are here.
    pub platform: Option<Platform>,
    /// The form that it gets.
    pub form: ImageForm,
}

impl Builder {
    /// Fetches an image from its registry, or makes sure that it is the registry's newest.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not give the image.
    pub async fn pull(
        &self,
        name: &str,
        platform: Option<Platform>,
        credentials: &BTreeMap<String, Credentials>,
        events: &Events,
    ) -> Result<Pulled, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = image::parse_name(name)?;
        let platform = platform.unwrap_or_else(Platform::host);
        let sources = inner.sources_with(credentials);
        let (image, up_to_date) = sources.pull(&reference, &platform, events).await?;
        let (reference, digest) = (reference.to_string(), image.target.digest.to_string());
        Ok(Pulled { reference, digest, up_to_date })
    }

    /// Lists all tags that the registry has of a repository, each as a name that can be pulled.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not know it.
    pub async fn tags(
        &self,
        repository: &str,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Vec<String>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = Reference::parse_normalized(repository)?;
        let tags = inner.sources_with(credentials).tags(&reference).await?;
        let names =
            tags.iter().map(|tag| Reference::parse_normalized(&format!("{repository}:{tag}")));
        let names = names.map(|name| name.map(|name| name.familiar()));
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// Pushes an image to the registry that the name of `options`, or else its own, tells.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the image is not here, or the registry does not take it.
    pub async fn push(
        &self,
        name: &str,
        options: &PushOptions,
        credentials: &BTreeMap<String, Credentials>,
        events: &Events,
    ) -> Result<Pushed, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let target = target_for(&inner, name, options.platform.as_ref())?;
        let reference = image::parse_name(options.destination.as_deref().unwrap_or(name))?;
        let sources = inner.sources_with(credentials);
        let form = PushForm { image: options.form.clone(), by_digest: false };
        let manifest = export::push_target(&sources, &target, &reference, &form, events).await?;
        let (reference, digest) = (reference.to_string(), manifest.digest.to_string());
        Ok(Pushed { reference, digest, size: manifest.size })
    }

    /// Lists the images, newest first. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::summaries(&inner.store)
    }

    /// Tells everything of one image, by name, ID or a prefix of the ID. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotFound`] and what else can be wrong with a name or a document.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::details(&inner.store, name, None)
    }

    /// As [`Builder::inspect`], of the image for one platform of those that a name stands for.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::Platform`] when none is for it, and as [`Builder::inspect`].
    pub fn inspect_for(&self, name: &str, platform: &Platform) -> Result<ImageDetails, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::details(&inner.store, name, Some(platform))
    }

    /// Tells an image's history, newest entry first. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`].
    pub fn history(&self, name: &str) -> Result<Vec<HistoryRow>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::history(&inner.store, name)
    }

    /// Tells what differs between two images of one Dockerfile, by the step that made it; of
    /// several platforms between those of each. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], and when a layer is not here.
    pub fn differences(
        &self,
        first: &str,
        second: &str,
    ) -> Result<Vec<StepDifference>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let (a, b) = (image::target(&inner.store, first)?, image::target(&inner.store, second)?);
        let mut found = Vec::new();
        for (a, b) in a.images.iter().zip(&b.images) {
            found.extend(verify::differences(&inner.store, a, b)?);
        }
        Ok(found)
    }

    /// Forgets an image, by its ID, unless it has a name. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the store cannot be written.
    pub fn forget_untagged(&self, id: &str) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let Ok(id) = cache::Digest::parse(id) else { return Ok(()) };
        inner.store.images().remove_untagged(&id).map(drop).map_err(ImageError::store)
    }

    /// Gives an image a further name. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], for either name.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::tag(&inner.store, source, target)
    }

    /// Takes a name away, and the image with its last name. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::Tagged`] when an ID stands for several names and `force` is not set.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        image::remove(&inner.store, name, force)
    }

    /// Writes images as one archive to `out`. Of several platforms' images those for `platform`
    /// are written; without one all that are here, or this machine's where the archive holds one.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when an image is not here, or the archive cannot be written.
    pub async fn save(
        &self,
        names: &[String],
        kind: ArchiveKind,
        platform: Option<&Platform>,
        out: Box<dyn Write + Send>,
        events: &Events,
    ) -> Result<(), ImageError> {
        self.save_to(names, kind, platform, ArchiveDest::Stream(out), events).await
    }

    /// Writes images as one archive to a file, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`Builder::save`].
    pub async fn save_file(
        &self,
        names: &[String],
        kind: ArchiveKind,
        platform: Option<&Platform>,
        path: std::path::PathBuf,
        events: &Events,
    ) -> Result<(), ImageError> {
        self.save_to(names, kind, platform, ArchiveDest::File(path), events).await
    }

    /// Writes images as one archive for a docker engine that has the layers of `stacks` already:
    /// of each image the layers, base first, as `sha256:<hex>` of their tars.
    ///
    /// # Errors
    ///
    /// As [`Builder::save`].
    pub async fn save_missing(
        &self,
        names: &[String],
        stacks: &[Vec<String>],
        out: Box<dyn Write + Send>,
        events: &Events,
    ) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let images = export_images(&inner, names, ArchiveKind::Docker, None)?;
        Ok(export::export_missing(&inner.sources, images, stacks, out, events).await?)
    }

    async fn save_to(
        &self,
        names: &[String],
        kind: ArchiveKind,
        platform: Option<&Platform>,
        dest: ArchiveDest,
        events: &Events,
    ) -> Result<(), ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let images = export_images(&inner, names, kind, platform)?;
        Ok(export::export(&inner.sources, images, kind, dest, events).await?)
    }

    /// Takes in the images of an archive; returns their names, or IDs where they have none.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when it is no archive of images, or damaged.
    pub async fn load(&self, archive: Box<dyn Read + Send>) -> Result<Vec<String>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        Ok(export::load(&inner.store, archive, &Platform::host()).await?)
    }

    /// Makes an image of one layer out of a tar of a root filesystem; returns its ID.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when it is no tar, or a change cannot be made.
    pub async fn import(
        &self,
        archive: Box<dyn Read + Send>,
        options: ImportOptions,
    ) -> Result<String, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        Ok(export::import(&inner.store, archive, options).await?)
    }

    /// Asks the registry at `host` whether it takes `credentials`; returns the token that is to be
    /// kept in the password's place, where it gives one.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] when it says no, or cannot be asked.
    pub async fn login(
        &self,
        host: &str,
        credentials: Credentials,
    ) -> Result<Option<String>, RegistryError> {
        let credentials = BTreeMap::from([(host.to_owned(), credentials)]);
        self.inner.sources.registry().with_credentials(credentials).login(host).await
    }

    /// Asks the registry what a name points to, without fetching the image.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not know it.
    pub async fn distribution(
        &self,
        name: &str,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Distribution, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = image::parse_name(name)?;
        Ok(inner.sources_with(credentials).distribution(&reference).await?)
    }

    /// Asks the registry what refers to an image: signatures, SBOMs, attestations; all, or only
    /// those of `artifact_type`.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the name is none, or the registry does not know it.
    pub async fn referrers(
        &self,
        name: &str,
        artifact_type: Option<&str>,
        credentials: &BTreeMap<String, Credentials>,
    ) -> Result<Vec<Referrer>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let reference = image::parse_name(name)?;
        Ok(inner.sources_with(credentials).referrers(&reference, artifact_type).await?)
    }
}

/// Finds what `name` stands for: of several platforms' images that for `platform`, if one is given.
fn target_for(
    inner: &Inner,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Target, ImageError> {
    let target = image::target(&inner.store, name)?;
    let Some(platform) = platform else { return Ok(target) };
    Ok(image::of_platform(&target, name, platform)?.clone().into())
}

/// Finds the images that are written to an archive, several names of one together.
fn export_images(
    inner: &Inner,
    names: &[String],
    kind: ArchiveKind,
    platform: Option<&Platform>,
) -> Result<Vec<ExportImage>, ImageError> {
    let mut images: Vec<ExportImage> = Vec::with_capacity(names.len());
    for name in names {
        let mut target = target_for(inner, name, platform)?;
        if kind == ArchiveKind::Docker {
            target = target.image_for(&Platform::host()).clone().into();
        }
        let reference = image::find(&inner.store, name)?
            .into_iter()
            .find_map(|record| record.reference)
            .and_then(|reference| image::parse_name(&reference).ok());
        match images.iter_mut().find(|known| known.target.descriptor == target.descriptor) {
            Some(known) => known.names.extend(reference),
            None => images.push(ExportImage { target, names: reference.into_iter().collect() }),
        }
    }
    Ok(images)
}
