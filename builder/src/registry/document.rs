//! Manifests and indexes: hostile JSON to checked values (OCI image-spec manifest.md and
//! image-index.md; Docker image manifest version 2, schema 2).
//!
//! Invariant: what a document is follows from its media type, and the content must agree; one
//! that is both manifest and index is refused (CVE-2021-41190).

use std::collections::BTreeMap;

use cache::{Descriptor, Digest, DigestError};
use frontend::Platform;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde_json::Value;

/// Media type of an OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image config.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed OCI layer.
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a gzipped OCI layer.
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a zstd OCI layer.
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// What media types of layers that registries do not pass on begin with.
const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// The same for Docker's.
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Media type of a manifest of Docker's (schema 2).
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of an index of Docker's.
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a config in a manifest of Docker's.
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What we ask for, best first.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Image(Manifest),
    /// One image a platform.
    Index(Vec<IndexEntry>),
}

/// The part of a manifest that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The image config.
    pub(crate) config: Descriptor,
    /// Base first.
    pub(crate) layers: Vec<Descriptor>,
    /// What is noted of each of `layers`, as far as anything is.
    pub(crate) annotations: Vec<BTreeMap<String, String>>,
}

/// One image of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// The manifest, or a further index.
    pub(crate) descriptor: Descriptor,
    /// What it is for, where the index says so.
    pub(crate) platform: Option<Platform>,
    /// Annotations of the entry (`org.opencontainers.image.ref.name`), sorted.
    pub(crate) annotations: Vec<(String, String)>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not of the form that its media type promises.
    #[error("it does not have the form of `{media_type}`")]
    Form {
        /// What it should have been.
        media_type: String,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// Another kind of document.
    #[error("the media type `{0}` is not that of an image manifest or index")]
    MediaType(String),
    /// The oldest format, which no current tool writes.
    #[error("it has the format of Docker before 2016 (schema 1), which is no longer supported")]
    SchemaOne,
    /// The header and the document say different things.
    #[error("it was announced as `{announced}` but calls itself `{own}`")]
    Disagrees {
        /// From the header or descriptor.
        announced: String,
        /// From the document.
        own: String,
    },
    /// Layers and manifests in one document.
    #[error("it is both a manifest and an index")]
    Ambiguous,
    /// Something that is not a container image: a chart, a signature.
    #[error("it is not a container image: its config has media type `{0}`")]
    NotAnImage(String),
    /// A layer of a kind that cannot be unpacked.
    #[error("layer `{digest}` has media type `{media_type}`, which is not supported")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
    /// A digest of another algorithm, or malformed.
    #[error("`{text}` cannot be used as a digest")]
    Digest {
        /// As written.
        text: String,
        /// Why.
        source: DigestError,
    },
    /// No image for the platform.
    #[error("no image for platform {wanted}; there are {offered}")]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What the index has.
        offered: String,
    },
}

impl Document {
    /// Parses `bytes`, announced as `announced` (a `Content-Type` header or a descriptor's media
    /// type, parameters allowed; `None` or a generic JSON type leaves it to the document).
    pub(crate) fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        let announced = announced.map(bare_media_type).filter(|text| !is_generic(text));
        let announced = announced.map(Kind::of).transpose()?;
        let form = |source| DocumentError::Form {
            media_type: announced.map_or("a manifest or index", |kind| kind.media_type).to_owned(),
            source,
        };
        let value: Value = serde_json::from_slice(bytes).map_err(form)?;
        let own = value.get("mediaType").and_then(Value::as_str);
        if let (Some(announced), Some(own)) = (announced, own)
            && announced.media_type != own
        {
            let (announced, own) = (announced.media_type.to_owned(), own.to_owned());
            return Err(DocumentError::Disagrees { announced, own });
        }
        if value.get("layers").is_some() && value.get("manifests").is_some() {
            return Err(DocumentError::Ambiguous);
        }
        let kind = match (announced, own) {
            (Some(kind), _) => kind,
            (None, Some(own)) => Kind::of(own)?,
            (None, None) => return Err(DocumentError::MediaType(String::new())),
        };
        if kind.is_index {
            serde_json::from_value(value).map_err(form).and_then(|raw| index(&raw))
        } else {
            serde_json::from_value(value).map_err(form).and_then(|raw| image(&raw))
        }
    }
}

/// What a media type says about a document.
#[derive(Clone, Copy)]
struct Kind {
    media_type: &'static str,
    is_index: bool,
}

impl Kind {
    fn of(media_type: &str) -> Result<Self, DocumentError> {
        const KINDS: [(&str, bool); 4] = [
            (OCI_MANIFEST, false),
            (DOCKER_MANIFEST, false),
            (OCI_INDEX, true),
            (DOCKER_LIST, true),
        ];
        let known = KINDS.into_iter().find(|(known, _)| *known == media_type);
        match known {
            Some((media_type, is_index)) => Ok(Self { media_type, is_index }),
            None if media_type.contains("manifest.v1+") && media_type.contains("docker") => {
                Err(DocumentError::SchemaOne)
            }
            None => Err(DocumentError::MediaType(media_type.to_owned())),
        }
    }
}

/// Tells whether a media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Returns the media type of a document that carries it, for those that came without a header.
pub(crate) fn own_media_type(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    if let Some(own) = value.get("mediaType").and_then(Value::as_str) {
        return Some(own.to_owned());
    }
    // image-spec makes the field optional in OCI documents; the members tell them apart.
    let guess = if value.get("manifests").is_some() { OCI_INDEX } else { OCI_MANIFEST };
    Some(guess.to_owned())
}

/// Cuts the parameters off a `Content-Type`.
pub(super) fn bare_media_type(text: &str) -> &str {
    text.split(';').next().unwrap_or(text).trim()
}

fn is_generic(media_type: &str) -> bool {
    matches!(media_type, "" | "application/json" | "application/octet-stream" | "text/plain")
}

fn image(raw: &ImageManifest) -> Result<Document, DocumentError> {
    let config = checked(raw.config())?;
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return Err(DocumentError::NotAnImage(config.media_type));
    }
    let layers: Vec<_> = raw.layers().iter().map(checked).collect::<Result<_, _>>()?;
    let odd = layers.iter().find(|layer| !is_layer(&layer.media_type));
    if let Some(Descriptor { media_type, digest, .. }) = odd {
        let media_type = media_type.clone();
        return Err(DocumentError::LayerType { digest: *digest, media_type });
    }
    let noted = raw.layers().iter().map(|layer| layer.annotations().iter().flatten());
    let noted = noted.map(|all| all.map(|(key, value)| (key.clone(), value.clone())));
    let annotations = noted.map(Iterator::collect).collect();
    Ok(Document::Image(Manifest { config, layers, annotations }))
}

fn index(raw: &ImageIndex) -> Result<Document, DocumentError> {
    let entries = raw.manifests().iter().map(|entry| {
        let platform = entry.platform().as_ref().and_then(|raw| {
            let variant = raw.variant().as_deref().map(|text| format!("/{text}"));
            let text =
                format!("{}/{}{}", raw.os(), raw.architecture(), variant.unwrap_or_default());
            // A platform that we cannot name is one that nobody asks for: `unknown/unknown`.
            Platform::parse(&text).ok()
        });
        let mut annotations: Vec<_> =
            entry.annotations().clone().unwrap_or_default().into_iter().collect();
        annotations.sort();
        Ok(IndexEntry { descriptor: checked(entry)?, platform, annotations })
    });
    entries.collect::<Result<_, _>>().map(Document::Index)
}

fn checked(raw: &oci_spec::image::Descriptor) -> Result<Descriptor, DocumentError> {
    let text = raw.digest().as_ref();
    let digest = Digest::parse(text)
        .map_err(|source| DocumentError::Digest { text: text.to_owned(), source })?;
    Ok(Descriptor { media_type: raw.media_type().to_string(), digest, size: raw.size() })
}

/// Whether a layer is one that registries leave to the places that its manifest names: its licence
/// forbids to pass it on (OCI image-spec, layer.md, "Non-Distributable Layers").
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with(OCI_FOREIGN) || media_type.starts_with(DOCKER_FOREIGN)
}

/// Layers that are tars, whatever their compression; the bytes themselves say which that is.
fn is_layer(media_type: &str) -> bool {
    let docker = "application/vnd.docker.image.rootfs.";
    matches!(media_type, OCI_LAYER | OCI_LAYER_GZIP | OCI_LAYER_ZSTD)
        || is_foreign(media_type)
        || media_type.strip_prefix(docker).is_some_and(|rest| rest.starts_with("diff.tar"))
}

/// Gives a layer of Docker's the media type that OCI has for the same bytes. A foreign layer becomes
/// one as any other, as for BuildKit: what names it anew does not say where else it can be had.
pub(crate) fn oci_layer(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar" => OCI_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => OCI_LAYER_ZSTD,
        other if is_foreign(other) => match other.rsplit(['.', '+']).next() {
            Some("gzip") => OCI_LAYER_GZIP,
            Some("zstd") => OCI_LAYER_ZSTD,
            _ => OCI_LAYER,
        },
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), digest: layer.digest, size: layer.size }
}

/// Returns the media type that Docker has for a layer of OCI's type.
pub(crate) fn docker_layer(media_type: &str) -> String {
    let docker = match media_type {
        OCI_LAYER => "application/vnd.docker.image.rootfs.diff.tar",
        OCI_LAYER_GZIP => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        OCI_LAYER_ZSTD => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        other => other,
    };
    docker.to_owned()
}

/// Picks the entry for `wanted`: the best of what such a machine can run.
pub(crate) fn pick<'a>(
    entries: &'a [IndexEntry],
    wanted: &Platform,
) -> Result<&'a IndexEntry, DocumentError> {
    let named = acceptable(wanted).into_iter().find_map(|platform| {
        entries.iter().find(|entry| entry.platform.as_ref() == Some(&platform))
    });
    // Tools that write an index around one image leave the platform out.
    let only = match entries {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    named.or(only).ok_or_else(|| {
        let offered: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(ToString::to_string)
            .collect();
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        DocumentError::Platform { wanted: wanted.clone(), offered }
    })
}

/// Returns the platforms whose images run on `wanted`, best first (containerd `platforms.Only`).
pub(crate) fn acceptable(wanted: &Platform) -> Vec<Platform> {
    let on = |architecture: &str, variant: Option<&str>| Platform {
        os: wanted.os.clone(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
    };
    let below = |architecture: &str, ladder: &[&str], from: &str| -> Vec<Platform> {
        let start = ladder.iter().position(|&step| step == from).unwrap_or(ladder.len());
        ladder[start..].iter().map(|&step| on(architecture, Some(step))).collect()
    };
    let mut platforms = vec![wanted.clone()];
    match (wanted.architecture.as_str(), wanted.variant.as_deref()) {
        ("amd64", variant) => {
            platforms.extend(below("amd64", &["v4", "v3", "v2"], variant.unwrap_or_default()));
            platforms.extend([on("amd64", None), on("386", None)]);
        }
        ("arm64", _) => {
            platforms.push(on("arm64", None));
            platforms.extend(below("arm", &["v8", "v7", "v6", "v5"], "v8"));
        }
        ("arm", variant) => {
            platforms.extend(below("arm", &["v8", "v7", "v6", "v5"], variant.unwrap_or("v7")));
            platforms.push(on("arm", None));
        }
        _ => {}
    }
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    proptest::proptest! {
        #[test]
        fn no_document_panics(
            text in r#"\{"(schemaVersion|mediaType|layers|manifests|config)":[\[\]{}":,a-z0-9]*\}"#,
            kind in 0..4_usize,
        ) {
            let kinds = [None, Some(OCI_MANIFEST), Some(OCI_INDEX), Some("text/plain; x")];
            drop(Document::parse(text.as_bytes(), kinds[kind]));
            own_media_type(text.as_bytes());
        }
    }

    fn manifest(config_type: &str, layer_type: &str, extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{DIGEST}","size":2}},
               "layers":[{{"mediaType":"{layer_type}","digest":"{DIGEST}","size":9}}]{extra}}}"#
        )
    }

    #[test]
    fn documents() {
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{DIGEST}","size":2}}]}}"#
        );
        let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let own = format!(r#","mediaType":"{OCI_MANIFEST}""#);
        let longer = format!("sha512:{}", "0".repeat(128));
        let sha512 = manifest(OCI_CONFIG, OCI_LAYER, "").replace(DIGEST, &longer);
        #[rustfmt::skip]
        let cases = [
            ("oci",              manifest(OCI_CONFIG, OCI_LAYER_GZIP, ""),       Some(OCI_MANIFEST),    "image"),
            ("parameters",       manifest(OCI_CONFIG, OCI_LAYER_ZSTD, ""),
                                 Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),     "image"),
            ("docker",           manifest(DOCKER_CONFIG, docker_layer, ""),      Some(DOCKER_MANIFEST), "image"),
            ("own type",         manifest(OCI_CONFIG, OCI_LAYER, &own),          None,                  "image"),
            ("own and generic",  manifest(OCI_CONFIG, OCI_LAYER, &own),          Some("text/plain"),    "image"),
            ("index",            index.clone(),                                  Some(OCI_INDEX),       "index"),
            ("no type at all",   manifest(OCI_CONFIG, OCI_LAYER, ""),            None,                  "not that of an image"),
            ("types disagree",   manifest(OCI_CONFIG, OCI_LAYER, &own),          Some(DOCKER_MANIFEST), "calls itself"),
            ("both",             manifest(OCI_CONFIG, OCI_LAYER, r#","manifests":[]"#), Some(OCI_MANIFEST), "both"),
            ("index as image",   index,                                          Some(OCI_MANIFEST),    "form"),
            ("image as index",   manifest(OCI_CONFIG, OCI_LAYER, ""),            Some(OCI_INDEX),       "form"),
            ("a chart",          manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER, ""), Some(OCI_MANIFEST), "not a container"),
            ("odd layer",        manifest(OCI_CONFIG, "application/x-odd", ""),  Some(OCI_MANIFEST),    "not supported"),
            ("sha512",           sha512,                                         Some(OCI_MANIFEST),    "cannot be used as a digest"),
            ("schema 1",         "{}".into(), Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"),
            ("not json",         "<html>".into(),                                Some(OCI_MANIFEST),    "form"),
            ("array",            "[]".into(),                                    Some(OCI_MANIFEST),    "form"),
            ("deep",             "[".repeat(100_000),                            Some(OCI_MANIFEST),    "form"),
        ];
        for (name, text, announced, want) in cases {
            let got = match Document::parse(text.as_bytes(), announced) {
                Ok(Document::Image(_)) => "image".to_owned(),
                Ok(Document::Index(_)) => "index".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(want), "{name}: {got}");
        }
    }

    #[test]
    fn layers_have_a_name_of_ocis() {
        #[rustfmt::skip]
        let cases = [
            ("application/vnd.docker.image.rootfs.diff.tar.gzip",             OCI_LAYER_GZIP, false),
            ("application/vnd.docker.image.rootfs.diff.tar",                  OCI_LAYER,      false),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",     OCI_LAYER_GZIP, true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar",       OCI_LAYER,      true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",  OCI_LAYER_GZIP, true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",  OCI_LAYER_ZSTD, true),
            (OCI_LAYER_ZSTD,                                                  OCI_LAYER_ZSTD, false),
        ];
        for (name, want, is_odd) in cases {
            let layer =
                Descriptor { media_type: name.to_owned(), digest: Digest::of(b""), size: 0 };
            assert_eq!(oci_layer(&layer).media_type, want, "{name}");
            assert_eq!(is_foreign(name), is_odd, "{name}");
            assert!(is_layer(name), "{name}");
        }
    }

    #[test]
    fn platforms_are_picked_as_containerd_does() {
        #[rustfmt::skip]
        let cases = [
            ("exact",            "linux/amd64",    vec!["linux/arm64", "linux/amd64"],       Some(1)),
            ("arm64 is v8",      "linux/arm64",    vec!["linux/arm64/v8"],                   Some(0)),
            ("arm64 runs arm",   "linux/arm64",    vec!["linux/arm/v6", "linux/arm/v7"],     Some(1)),
            ("v6 not v7",        "linux/arm/v6",   vec!["linux/arm/v7"],                     None),
            ("v7 takes v6",      "linux/arm/v7",   vec!["linux/arm/v5", "linux/arm/v6"],     Some(1)),
            ("amd64 v3 falls",   "linux/amd64/v3", vec!["linux/amd64", "linux/amd64/v2"],    Some(1)),
            ("plain not v2",     "linux/amd64",    vec!["linux/amd64/v2"],                   None),
            ("386 on amd64",     "linux/amd64",    vec!["linux/386"],                        Some(0)),
            ("another os",       "linux/amd64",    vec!["windows/amd64"],                    None),
            ("attestation",      "linux/amd64",    vec!["?", "linux/amd64"],                 Some(1)),
            ("one without",      "linux/amd64",    vec!["?"],                                Some(0)),
            ("two without",      "linux/amd64",    vec!["?", "?"],                           None),
        ];
        for (name, wanted, offered, want) in cases {
            let entries: Vec<_> = offered
                .iter()
                .enumerate()
                .map(|(at, text)| IndexEntry {
                    descriptor: Descriptor {
                        media_type: OCI_MANIFEST.into(),
                        digest: Digest::of(b""),
                        size: at as u64,
                    },
                    platform: Platform::parse(text).ok(),
                    annotations: Vec::new(),
                })
                .collect();
            let got = pick(&entries, &Platform::parse(wanted).unwrap()).ok();
            assert_eq!(got.map(|entry| entry.descriptor.size), want, "{name}");
        }
    }
}
