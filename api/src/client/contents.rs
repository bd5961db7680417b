//! What a service tells about its images beyond Docker's API, and about the health of its store.

use axum::http::Method;
use builder::{Annotations, ImageContents, ImageDiff, Referrer};
use cache::CheckReport;
use serde::Deserialize;
use serde_json::Value;

use super::{Client, Payload};
use crate::fault::Fault;
use crate::format::printable;

/// The answer to what makes an index.
#[derive(Debug, Deserialize)]
struct Indexed {
    digest: String,
}

impl Client {
    /// Tells what an image's layers hold, and what of it nobody sees.
    pub(crate) async fn contents(&self, name: &str) -> Result<ImageContents, Fault> {
        self.json(Method::GET, &path("/v1/images/tree", [("name", name)])).await
    }

    /// Tells what differs between two images.
    pub(crate) async fn diff(&self, before: &str, after: &str) -> Result<ImageDiff, Fault> {
        let path = path("/v1/images/diff", [("before", before), ("after", after)]);
        self.json(Method::GET, &path).await
    }

    /// Lists what refers to an image at its registry.
    pub(crate) async fn referrers(
        &self,
        name: &str,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Fault> {
        #[derive(Deserialize)]
        struct Referrers {
            referrers: Vec<Referrer>,
        }
        let kind = artifact_type.map(|kind| ("type", kind));
        let path = path("/v1/images/referrers", [("name", name)].into_iter().chain(kind));
        let auth = self.registry_auth(name).await;
        let answer = self.send_with(Method::GET, &path, Payload::Nothing, auth.as_slice()).await?;
        Ok(answer.document::<Referrers>().await?.referrers)
    }

    /// Returns the document of an index.
    pub(crate) async fn index_document(&self, name: &str) -> Result<Value, Fault> {
        self.json(Method::GET, &path("/v1/indexes", [("name", name)])).await
    }

    /// Puts images under one name; returns the digest of their index.
    pub(crate) async fn create_index(
        &self,
        name: &str,
        sources: &[String],
        annotations: &Annotations,
    ) -> Result<String, Fault> {
        let sources = sources.iter().map(|source| ("source", source.clone()));
        let name = ("name", name.to_owned());
        let path = path("/v1/indexes", [name].into_iter().chain(sources).chain(told(annotations)));
        let Indexed { digest } = self.json(Method::POST, &path).await?;
        Ok(printable(&digest))
    }

    /// Adds annotations to an index; returns its new digest.
    pub(crate) async fn annotate_index(
        &self,
        name: &str,
        annotations: &Annotations,
    ) -> Result<String, Fault> {
        let name = ("name", name.to_owned());
        let path = path("/v1/indexes/annotate", [name].into_iter().chain(told(annotations)));
        let Indexed { digest } = self.json(Method::POST, &path).await?;
        Ok(printable(&digest))
    }

    /// Has the service read its whole store, and remove what is damaged if asked to.
    pub(crate) async fn check_store(&self, repair: bool) -> Result<CheckReport, Fault> {
        let repair = if repair { "true" } else { "false" };
        self.json(Method::POST, &path("/v1/store/check", [("repair", repair)])).await
    }
}

fn told(annotations: &Annotations) -> impl Iterator<Item = (&'static str, String)> {
    annotations.flags().map(|flag| ("annotation", flag))
}

fn path<T: AsRef<str>>(path: &str, pairs: impl IntoIterator<Item = (&'static str, T)>) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    for (name, value) in pairs {
        query.append_pair(name, value.as_ref());
    }
    query.finish()
}
