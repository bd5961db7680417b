//! What a [`Builder`] tells of images' contents, and its indexes.

use super::{ImageContents, ImageDiff, ImageError, contents_of, diff, index, parse_name, resolved};
use crate::blocking;
use crate::builder::Builder;
use crate::export::Annotations;
use crate::progress::Events;

impl Builder {
    /// Tells what an image's layers hold, and what of it nobody sees.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], and when a layer cannot be had.
    pub async fn contents(&self, name: &str, events: &Events) -> Result<ImageContents, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let image = resolved(&inner.store, name)?;
        inner.sources.fetch_layers(&image, events).await?;
        let store = inner.store.clone();
        blocking::run(move || contents_of(&store, &image)).await
    }

    /// Tells what differs between two images.
    ///
    /// # Errors
    ///
    /// As [`Builder::contents`].
    pub async fn diff(
        &self,
        before: &str,
        after: &str,
        events: &Events,
    ) -> Result<ImageDiff, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        let images = [before, after].map(|name| resolved(&inner.store, name));
        let [first, second] = images;
        let (first, second) = (first?, second?);
        for image in [&first, &second] {
            inner.sources.fetch_layers(image, events).await?;
        }
        let store = inner.store.clone();
        let names = [before.to_owned(), after.to_owned()];
        blocking::run(move || diff(&store, [&names[0], &names[1]], [&first, &second])).await
    }

    /// Puts images of several platforms under one name; returns the digest of their index.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::inspect`], for each of `sources`.
    pub fn create_index(
        &self,
        name: &str,
        sources: &[String],
        annotations: &Annotations,
    ) -> Result<String, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        index::create(&inner.store, &parse_name(name)?, sources, annotations)
    }

    /// Adds annotations to an index; returns its new digest. Blocking.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotAnIndex`], and as [`Builder::inspect`].
    pub fn annotate_index(
        &self,
        name: &str,
        annotations: &Annotations,
    ) -> Result<String, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        index::annotate(&inner.store, &parse_name(name)?, annotations)
    }

    /// Returns the document of an index. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Builder::annotate_index`].
    pub fn index_document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let inner = self.leased().map_err(ImageError::store)?;
        index::document(&inner.store, &parse_name(name)?)
    }
}
