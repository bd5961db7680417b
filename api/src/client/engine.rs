//! What a docker engine has, so that only the rest is sent to it.

use axum::http::Method;
use serde_json::Value;

use super::Client;
use crate::fault::Fault;

/// Images of an engine that are looked at; with more, a layer may be sent that is there.
const IMAGES_LIMIT: usize = 1000;

impl Client {
    /// Returns the layers of each image of the engine, base first, as `sha256:<hex>` of their tars.
    pub(crate) async fn stacks(&self) -> Result<Vec<Vec<String>>, Fault> {
        let images: Vec<Value> = self.json(Method::GET, "/images/json?all=1").await?;
        let mut stacks = Vec::new();
        for image in images.iter().take(IMAGES_LIMIT) {
            let Some(id) = image["Id"].as_str() else { continue };
            // One that is gone by now has no layers that count.
            let Ok(image) = self.inspect(id, None).await else { continue };
            let layers = image["RootFS"]["Layers"].as_array();
            let layers = layers.into_iter().flatten().filter_map(Value::as_str);
            stacks.push(layers.map(str::to_owned).collect());
        }
        Ok(stacks)
    }

    /// Tells whether the engine keeps images in containerd, which wants every layer of an archive.
    pub(crate) async fn keeps_blobs(&self) -> Result<bool, Fault> {
        let info: Value = self.json(Method::GET, "/info").await?;
        Ok(info["DriverStatus"].to_string().contains("io.containerd.snapshotter"))
    }
}
