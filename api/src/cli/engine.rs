//! The same questions to the builder of this process or to a service.

use std::collections::BTreeMap;

use builder::{Builder, blocking};
use frontend::Platform;
use serde_json::Value;

use crate::client::Client;
use crate::config::Settings;
use crate::fault::Fault;
use crate::server;
use crate::wire::{self, HistoryItem, ImageItem, RemovedItem};

/// Names and values of filters, as typed.
type Filters = [(String, String)];

/// Writes filters as services read them.
fn filters_json(filters: &Filters) -> String {
    let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in filters {
        map.entry(name).or_default().push(value);
    }
    serde_json::to_string(&map).expect("texts are JSON")
}

fn fault(error: &server::ApiError) -> Fault {
    Fault::of(error.kind(), error)
}

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
            let client = Client::open(address, &settings.client).await?;
            let client = client
                .remembering(settings.builder.root.clone())
                .with_credentials(settings.builder.registries.auth_file.clone());
            return Ok(Self::Remote(client));
        }
        let config = settings.builder.clone();
        Ok(Self::Local(blocking::run(move || Builder::open(config)).await?))
    }

    /// Lists the images that pass `filters`, newest first.
    pub(super) async fn images(&self, filters: &Filters) -> Result<Vec<ImageItem>, Fault> {
        let filters = filters_json(filters);
        match self {
            Self::Remote(client) => client.images(&filters).await,
            Self::Local(builder) => {
                let builder = builder.clone();
                let images = blocking::run(move || {
                    server::list_images(&builder, Some(&filters)).map_err(|error| fault(&error))
                });
                Ok(images.await?.into_iter().map(ImageItem::from).collect())
            }
        }
    }

    /// Removes the images that pass `filters`; returns what went, and the bytes freed.
    pub(super) async fn prune_images(
        &self,
        filters: &Filters,
    ) -> Result<(Vec<RemovedItem>, u64), Fault> {
        let filters = filters_json(filters);
        match self {
            Self::Remote(client) => client.prune_images(&filters).await,
            Self::Local(builder) => {
                let builder = builder.clone();
                blocking::run(move || {
                    server::prune_images(&builder, Some(&filters)).map_err(|error| fault(&error))
                })
                .await
            }
        }
    }

    /// Returns the document that `inspect` prints.
    pub(super) async fn inspect(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Value, Fault> {
        match self {
            Self::Remote(client) => client.inspect(name, platform).await,
            Self::Local(builder) => {
                let (builder, name) = (builder.clone(), name.to_owned());
                let platform = platform.cloned();
                let image = blocking::run(move || match platform {
                    None => builder.inspect(&name),
                    Some(platform) => builder.inspect_for(&name, &platform),
                });
                let image = image.await?;
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
