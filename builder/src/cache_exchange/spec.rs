//! What `--cache-from` and `--cache-to` ask for: BuildKit's options, read once and checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use cache::Digest;
use frontend::Reference;

use crate::layer::Compression;

/// Tag of a local cache that names none.
const DEFAULT_TAG: &str = "latest";

/// Longest tag of a registry (distribution-spec, "Pulling manifests").
const MAX_TAG: usize = 128;

/// Kinds of caches that other builders know and this one does not.
const FOREIGN: [&str; 3] = ["gha", "s3", "azblob"];

/// Where a cache is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// A tag of a repository.
    Registry(Reference),
    /// An OCI image layout.
    Local {
        /// Its directory.
        dir: PathBuf,
        /// What that is called where it comes from or goes to elsewhere; `None` is by its path.
        shown: Option<String>,
        /// Its entry in `index.json`.
        tag: String,
        /// This manifest and no other; only to read from.
        digest: Option<Digest>,
    },
    /// The config of the image that is built.
    Inline,
}

/// `--cache-from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFrom {
    /// Where it is.
    pub place: CachePlace,
    /// Whether entries without a signature that is trusted are left out.
    pub require_signed: bool,
}

/// Which results go into a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Those whose layers are in the image.
    Min,
    /// Those of all steps.
    Max,
    /// Those of all steps but the ones that are made again sooner than fetched.
    Auto,
}

/// `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of BuildKit's")]
pub struct CacheTo {
    /// Where it goes.
    pub place: CachePlace,
    /// What goes.
    pub mode: CacheMode,
    /// Of layers that are not compressed yet.
    pub compression: Compression,
    /// Of that compression; `None` is its default.
    pub level: Option<u8>,
    /// Compress also what is here in another form.
    pub force_compression: bool,
    /// An image manifest in the place of an index that names layers.
    pub image_manifest: bool,
    /// OCI's media types in the place of Docker's.
    pub oci_mediatypes: bool,
    /// A cache that cannot be written fails no build.
    pub ignore_error: bool,
}

/// The options of one `--cache-...`, taken one by one.
struct Fields {
    values: BTreeMap<String, String>,
}

impl CacheFrom {
    /// Reads `type=registry,ref=NAME`, or a bare NAME.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Fields::parse(text, "registry")?;
        let place = match fields.kind()?.as_str() {
            "registry" => CachePlace::Registry(fields.reference()?),
            "local" => {
                let dir = fields.needed("src", "the directory of the cache")?.into();
                let digest = fields.take("digest").map(|text| Digest::parse(&text));
                let digest = digest.transpose().map_err(|error| format!("`digest`: {error}"))?;
                CachePlace::Local { dir, shown: None, tag: fields.tag()?, digest }
            }
            "inline" => {
                return Err(
                    "an inline cache is read from its image: type=registry,ref=IMAGE".into()
                );
            }
            other => return Err(unknown_kind(other, "registry and local")),
        };
        let require_signed = fields.flag("require-signed", false)?;
        fields.end()?;
        Ok(Self { place, require_signed })
    }

    /// Returns the same cache in another scope.
    ///
    /// # Errors
    ///
    /// When the scope makes its tag too long.
    pub fn in_scope(&self, scope: &str) -> Result<Self, String> {
        Ok(Self { place: self.place.in_scope(scope)?, ..self.clone() })
    }
}

impl CacheTo {
    /// Reads `type=registry,ref=NAME,mode=max`, or a bare NAME.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Fields::parse(text, "registry")?;
        let place = match fields.kind()?.as_str() {
            "registry" => CachePlace::Registry(fields.reference()?),
            "local" => {
                let dir = fields.needed("dest", "the directory of the cache")?.into();
                CachePlace::Local { dir, shown: None, tag: fields.tag()?, digest: None }
            }
            "inline" => CachePlace::Inline,
            other => return Err(unknown_kind(other, "registry, local and inline")),
        };
        let is_inline = place == CachePlace::Inline;
        let mode = match fields.take("mode").as_deref() {
            None | Some("min") => CacheMode::Min,
            Some(_) if is_inline => return Err("an inline cache has mode=min only".into()),
            Some("max") => CacheMode::Max,
            Some("auto") => CacheMode::Auto,
            Some(other) => {
                return Err(format!("there is no mode `{other}`; the modes are min, max and auto"));
            }
        };
        let compression = fields.compression()?;
        let level = fields.level(compression)?;
        let to = Self {
            place,
            mode,
            compression,
            level,
            force_compression: fields.flag("force-compression", false)?,
            image_manifest: fields.flag("image-manifest", true)?,
            oci_mediatypes: fields.flag("oci-mediatypes", true)?,
            ignore_error: fields.flag("ignore-error", false)?,
        };
        fields.end()?;
        if to.image_manifest && !to.oci_mediatypes {
            return Err("oci-mediatypes=false needs image-manifest=false".into());
        }
        if !to.oci_mediatypes && to.compression == Compression::Zstd {
            return Err("Docker has no media type for zstd: leave oci-mediatypes=false out".into());
        }
        Ok(to)
    }

    /// Returns the same cache in another scope.
    ///
    /// # Errors
    ///
    /// When the scope makes its tag too long.
    pub fn in_scope(&self, scope: &str) -> Result<Self, String> {
        Ok(Self { place: self.place.in_scope(scope)?, ..self.clone() })
    }
}

impl fmt::Display for CacheFrom {
    /// Writes what [`CacheFrom::parse`] reads back as this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.write(f, "src")?;
        write!(f, ",require-signed={}", self.require_signed)
    }
}

impl fmt::Display for CacheTo {
    /// Writes what [`CacheTo::parse`] reads back as this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            CacheMode::Min => "min",
            CacheMode::Max => "max",
            CacheMode::Auto => "auto",
        };
        self.place.write(f, "dest")?;
        write!(f, ",mode={mode},compression={}", self.compression)?;
        if let Some(level) = self.level {
            write!(f, ",compression-level={level}")?;
        }
        for (name, value) in [
            ("force-compression", self.force_compression),
            ("image-manifest", self.image_manifest),
            ("oci-mediatypes", self.oci_mediatypes),
            ("ignore-error", self.ignore_error),
        ] {
            write!(f, ",{name}={value}")?;
        }
        Ok(())
    }
}

impl CachePlace {
    /// Whether it is a directory of the machine that builds.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, dir_name: &str) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "type=registry,ref={reference}"),
            Self::Local { dir, tag, digest, shown: _ } => {
                write!(f, "type=local,{dir_name}={},tag={tag}", dir.display())?;
                digest.map_or(Ok(()), |digest| write!(f, ",digest={digest}"))
            }
            Self::Inline => f.write_str("type=inline"),
        }
    }

    fn in_scope(&self, scope: &str) -> Result<Self, String> {
        Ok(match self {
            Self::Registry(reference) => {
                if reference.digest.is_some() {
                    let name = reference.familiar();
                    return Err(format!("`{name}` is one digest, which has no scopes"));
                }
                let reference = reference.clone().with_default_tag();
                let tag = scoped(reference.tag.as_deref().unwrap_or(DEFAULT_TAG), scope)?;
                Self::Registry(Reference { tag: Some(tag), ..reference })
            }
            Self::Local { dir, shown, tag, digest } => Self::Local {
                dir: dir.clone(),
                shown: shown.clone(),
                tag: scoped(tag, scope)?,
                digest: *digest,
            },
            Self::Inline => Self::Inline,
        })
    }
}

/// Puts a scope behind a tag. Names of branches hold what tags may not: two that differ there only
/// still get two tags.
fn scoped(tag: &str, scope: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut word: String = scope.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    if word != scope {
        word = format!("{word}-{}", &Digest::of(scope.as_bytes()).hex()[..8]);
    }
    let tag = format!("{tag}-{word}");
    if scope.is_empty() || tag.len() > MAX_TAG {
        return Err(format!("the scope `{scope}` makes no tag of 1 to {MAX_TAG} characters"));
    }
    Ok(tag)
}

fn unknown_kind(kind: &str, known: &str) -> String {
    if FOREIGN.contains(&kind) {
        return format!("caches of type `{kind}` are not supported; those that are: {known}");
    }
    format!("there is no cache of type `{kind}`; the types are {known}")
}

impl Fields {
    fn parse(text: &str, default_kind: &str) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        if !text.contains('=') {
            values.insert("type".to_owned(), default_kind.to_owned());
            values.insert("ref".to_owned(), text.to_owned());
            return Ok(Self { values });
        }
        for field in text.split(',') {
            let (name, value) =
                field.split_once('=').ok_or_else(|| format!("`{field}` has no value"))?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            if values.insert(name.clone(), value).is_some() {
                return Err(format!("`{name}` is given twice"));
            }
        }
        Ok(Self { values })
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    fn kind(&mut self) -> Result<String, String> {
        self.take("type").ok_or_else(|| "`type` is missing: registry, local or inline".to_owned())
    }

    fn needed(&mut self, name: &str, what: &str) -> Result<String, String> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("`{name}` is missing: {what}"))
    }

    fn reference(&mut self) -> Result<Reference, String> {
        let text = self.needed("ref", "the name of the cache, as of an image")?;
        let reference = Reference::parse_normalized(&text);
        Ok(reference.map_err(|error| error.to_string())?.with_default_tag())
    }

    fn tag(&mut self) -> Result<String, String> {
        let tag = self.take("tag").unwrap_or_else(|| DEFAULT_TAG.to_owned());
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(format!("`tag` has 1 to {MAX_TAG} characters"));
        }
        Ok(tag)
    }

    fn compression(&mut self) -> Result<Compression, String> {
        let Some(name) = self.take("compression") else { return Ok(Compression::default()) };
        match Compression::parse(&name) {
            // It changes the layer, and with it what its step gave.
            Some(Compression::Estargz) | None => {
                let known = "gzip, zstd and uncompressed";
                Err(format!("a cache is not compressed by `{name}`, but by {known}"))
            }
            Some(compression) => Ok(compression),
        }
    }

    fn level(&mut self, compression: Compression) -> Result<Option<u8>, String> {
        let Some(text) = self.take("compression-level") else { return Ok(None) };
        let levels = compression.levels();
        let level = text.parse().ok().filter(|level| levels.contains(level));
        level.map(Some).ok_or_else(|| {
            let (first, last) = (levels.start(), levels.end());
            format!("`compression-level` of {compression} is {first} to {last}, not `{text}`")
        })
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, String> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("`{name}` is true or false, not `{other}`")),
        }
    }

    /// Refuses what nobody took.
    fn end(self) -> Result<(), String> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("there is no option `{name}` for this type of cache")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        #[rustfmt::skip]
        let cases = [
            ("bare name",       "host:5000/a/b:c",                          Ok("host:5000/a/b:c")),
            ("registry",        "type=registry,ref=host/a",                 Ok("host/a:latest")),
            ("all options",     "type=registry,ref=h.x/a,mode=max,image-manifest=false,oci-mediatypes=false,compression=gzip,force-compression=true,ignore-error=true", Ok("h.x/a:latest")),
            ("no ref",          "type=registry",                            Err("`ref` is missing")),
            ("local",           "type=local,dest=/d",                       Ok("/d latest")),
            ("local tag",       "type=local,dest=/d,tag=x",                 Ok("/d x")),
            ("no dest",         "type=local,src=/d",                        Err("`dest` is missing")),
            ("inline",          "type=inline",                              Ok("inline")),
            ("inline max",      "type=inline,mode=max",                     Err("mode=min only")),
            ("gha",             "type=gha",                                 Err("caches of type `gha` are not supported; those that are: registry, local and inline")),
            ("s3",              "type=s3,bucket=x",                         Err("not supported")),
            ("unknown type",    "type=x",                                   Err("there is no cache of type `x`")),
            ("unknown option",  "type=inline,size=3",                       Err("no option `size`")),
            ("unknown mode",    "type=registry,ref=a,mode=most",            Err("no mode `most`")),
            ("estargz",         "type=registry,ref=a,compression=estargz",  Err("by gzip, zstd and uncompressed")),
            ("level",           "type=registry,ref=a,compression=zstd,compression-level=19", Ok("a:latest")),
            ("bad level",       "type=registry,ref=a,compression-level=13", Err("0 to 12")),
            ("twice",           "type=registry,ref=a,ref=b",                Err("given twice")),
            ("bad flag",        "type=registry,ref=a,ignore-error=yes",     Err("true or false")),
            ("bad name",        "type=registry,ref=A B",                    Err("")),
            ("docker manifest", "type=registry,ref=a,oci-mediatypes=false", Err("image-manifest=false")),
        ];
        for (name, text, want) in cases {
            let parsed = CacheTo::parse(text);
            if let Ok(to) = &parsed {
                assert_eq!(CacheTo::parse(&to.to_string()).as_ref(), Ok(to), "{name}");
            }
            let got = parsed.map(|to| match to.place {
                CachePlace::Registry(reference) => reference.familiar(),
                CachePlace::Local { dir, tag, .. } => format!("{} {tag}", dir.display()),
                CachePlace::Inline => "inline".to_owned(),
            });
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{name}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{name}: {got}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        assert!(CacheFrom::parse("type=inline").is_err());
        assert!(CacheFrom::parse("type=local,src=/d,digest=sha256:1").is_err());
        assert!(
            CacheFrom::parse("type=registry,ref=a,require-signed=true").unwrap().require_signed
        );
    }

    #[test]
    fn scopes_have_tags_of_their_own() {
        let tag = |scope: &str| {
            let scoped = CacheFrom::parse("h.x/a:c").unwrap().in_scope(scope)?;
            match scoped.place {
                CachePlace::Registry(reference) => Ok(reference.tag.unwrap_or_default()),
                other => Err(format!("{other:?}")),
            }
        };
        assert_eq!(tag("main").unwrap(), "c-main");
        assert!(tag("feature/x").unwrap().starts_with("c-feature-x-"));
        assert_ne!(tag("feature/x").unwrap(), tag("feature:x").unwrap());
        assert!(tag(&"x".repeat(200)).is_err());
        assert!(tag("").is_err());
    }
}
