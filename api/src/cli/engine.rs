//! The same questions to the builder of this process or to a service.

use builder::{Builder, blocking};
use serde_json::Value;

use crate::client::Client;
use crate::config::Settings;
use crate::fault::Fault;
use crate::wire::{self, HistoryItem, ImageItem, RemovedItem};

/// Who answers.
#[derive(Clone, Debug)]
pub(super) enum Engine {
    /// This process, on its store.
    Local(Builder),
    /// A service.
    Remote(Client),
}

impl Engine {
    /// Opens what the settings name.
    pub(super) async fn open(settings: &Settings) -> Result<Self, Fault> {
        if let Some(address) = &settings.host {
            return Ok(Self::Remote(Client::open(address, &settings.client).await?));
        }
        let config = settings.builder.clone();
        Ok(Self::Local(blocking::run(move || Builder::open(config)).await?))
    }

    /// Lists the images, newest first.
    pub(super) async fn images(&self) -> Result<Vec<ImageItem>, Fault> {
        match self {
            Self::Remote(client) => client.images().await,
            Self::Local(builder) => {
                let builder = builder.clone();
                let images = blocking::run(move || builder.images().map_err(Fault::from)).await?;
                Ok(images.into_iter().map(ImageItem::from).collect())
            }
        }
    }

    /// Returns the document that `inspect` prints.
    pub(super) async fn inspect(&self, name: &str) -> Result<Value, Fault> {
        match self {
            Self::Remote(client) => client.inspect(name).await,
            Self::Local(builder) => {
                let (builder, name) = (builder.clone(), name.to_owned());
                let image =
                    blocking::run(move || builder.inspect(&name).map_err(Fault::from)).await?;
                Ok(wire::inspect(image))
            }
        }
    }

    /// Returns the history, newest entry first.
    pub(super) async fn history(&self, name: &str) -> Result<Vec<HistoryItem>, Fault> {
        match self {
            Self::Remote(client) => client.history(name).await,
            Self::Local(builder) => {
                let (builder, name) = (builder.clone(), name.to_owned());
                let rows =
                    blocking::run(move || builder.history(&name).map_err(Fault::from)).await?;
                Ok(rows.into_iter().map(HistoryItem::from).collect())
            }
        }
    }

    /// Gives `source` the further name `target`.
    pub(super) async fn tag(&self, source: String, target: String) -> Result<(), Fault> {
        match self {
            Self::Remote(client) => client.tag(&source, &target).await,
            Self::Local(builder) => {
                let builder = builder.clone();
                blocking::run(move || builder.tag(&source, &target).map_err(Fault::from)).await
            }
        }
    }

    /// Takes a name away, and the image with its last name.
    pub(super) async fn remove(&self, name: &str, force: bool) -> Result<Vec<RemovedItem>, Fault> {
        match self {
            Self::Remote(client) => client.remove(name, force).await,
            Self::Local(builder) => {
                let (builder, name) = (builder.clone(), name.to_owned());
                let removed =
                    blocking::run(move || builder.remove(&name, force).map_err(Fault::from))
                        .await?;
                Ok(wire::removed(removed))
            }
        }
    }
}
