//! `image referrers`: what a registry has about an image.

use std::collections::BTreeMap;

use builder::Referrer;

use super::args::{ImageReferrersArgs, ListFormat};
use super::engine::Engine;
use super::print;
use crate::fault::Fault;
use crate::format::{printable, size, table};

/// `rbuild image referrers`.
pub(super) async fn referrers(args: ImageReferrersArgs, engine: &Engine) -> Result<(), Fault> {
    let artifact_type = args.artifact_type.as_deref();
    let found = match engine {
        Engine::Remote(client) => client.referrers(&args.name, artifact_type).await?,
        Engine::Local(builder) => {
            builder.referrers(&args.name, artifact_type, &BTreeMap::new()).await?
        }
    };
    if args.format == ListFormat::Json {
        let text = serde_json::to_string_pretty(&found).expect("texts and numbers are JSON");
        return print(&(text + "\n"));
    }
    print(&show(&found))
}

fn show(referrers: &[Referrer]) -> String {
    let row = |one: &Referrer| {
        // What has no type of its own is told by the kind of its manifest.
        let kind = one.artifact_type.as_ref().unwrap_or(&one.media_type);
        let created = one.annotations.get("org.opencontainers.image.created");
        let created = created.map(|text| printable(text)).unwrap_or_default();
        [printable(&one.digest), printable(kind), size(one.size), created]
    };
    let rows: Vec<_> = referrers.iter().map(row).collect();
    table(["DIGEST", "ARTIFACT TYPE", "SIZE", "CREATED"], &rows)
}
