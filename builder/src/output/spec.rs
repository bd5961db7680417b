//! `-o`: what is written where, in the words of BuildKit's exporters.

use std::fmt;
use std::path::PathBuf;

use frontend::Reference;

use crate::export::{ImageForm, MediaTypes};
use crate::layer::Compression;

/// One output of a build, beside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that BuildKit has")]
pub struct OutputSpec {
    /// What is written.
    pub kind: OutputKind,
    /// Where to.
    pub dest: OutputDest,
    /// What that is called where it goes on from there; `None` is by its path.
    pub shown: Option<String>,
    /// Names for the image in place of the build's own.
    pub names: Vec<Reference>,
    /// The form that the image gets.
    pub form: ImageForm,
    /// Of an image: sends it to the registries that its names tell.
    pub push: bool,
    /// Pushes without a tag.
    pub by_digest: bool,
    /// Of an image: gives it its names in the store.
    pub store: bool,
    /// Of an image: makes sure that its files are unpacked.
    pub unpack: bool,
    /// Of a tree: a directory for each platform; `None` where there are several.
    pub platform_split: Option<bool>,
}

/// The `type=` of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// An image in the store, and at registries.
    Image,
    /// An OCI image layout in a tar.
    Oci,
    /// What `docker load` reads; without a destination the image goes into a docker engine.
    Docker,
    /// The root filesystem as a directory.
    Local,
    /// The root filesystem as a tar.
    Tar,
    /// Nothing: the steps are made and cached.
    CacheOnly,
}

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputDest {
    /// Where its kind goes by itself: the store, a registry, a docker engine.
    Own,
    /// Standard output.
    Stdout,
    /// A file or a directory.
    Path(PathBuf),
}

/// What an output of each kind may be told, as BuildKit documents it.
const IMAGE: &str = "name, push, push-by-digest, registry.insecure, dangling-name-prefix, \
                     name-canonical, store, unpack";
const FORM: &str = "compression, compression-level, force-compression, oci-mediatypes, rewrite-timestamp, annotation.*";
const ARCHIVE: &str = "name, dest, tar";
const TREE: &str = "dest, platform-split";

impl OutputSpec {
    /// An output of this kind, nothing said of it.
    #[must_use]
    pub fn new(kind: OutputKind, dest: OutputDest) -> Self {
        Self {
            kind,
            dest,
            shown: None,
            names: Vec::new(),
            form: ImageForm::default(),
            push: false,
            by_digest: false,
            store: true,
            unpack: false,
            platform_split: None,
        }
    }

    /// Parses `type=T,NAME=VALUE...`, a directory, or `-` for a tar on standard output. As in a
    /// line of CSV, a field that holds commas stands in double quotes.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::new(OutputKind::Tar, OutputDest::Stdout));
        }
        if !text.contains('=') {
            return Ok(Self::new(OutputKind::Local, OutputDest::Path(text.into())));
        }
        let fields = fields(text)?;
        let pair = |field: &String| {
            let pair =
                field.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            pair.ok_or_else(|| format!("`{field}` has no value"))
        };
        let pairs: Vec<_> = fields.iter().map(pair).collect::<Result<_, _>>()?;
        let kind = pairs.iter().rev().find(|(name, _)| name == "type").map(|(_, value)| value);
        let kind =
            kind.ok_or("`type` is missing: image, registry, oci, docker, local, tar or cacheonly")?;
        let mut spec = Self::of_kind(kind)?;
        for (name, value) in &pairs {
            spec.set(name, value)?;
        }
        spec.checked()
    }

    fn of_kind(text: &str) -> Result<Self, String> {
        let kind = match text {
            "image" | "registry" => OutputKind::Image,
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "cacheonly" => OutputKind::CacheOnly,
            _ => {
                return Err(format!(
                    "there is no type `{text}`; the types are image, registry, oci, docker, local, \
                     tar and cacheonly"
                ));
            }
        };
        let mut spec = Self::new(kind, OutputDest::Own);
        spec.push = text == "registry";
        Ok(spec)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let has_dest = !matches!(self.kind, OutputKind::Image | OutputKind::CacheOnly);
        let is_tree = matches!(self.kind, OutputKind::Local | OutputKind::Tar);
        let is_image = self.kind == OutputKind::Image;
        let has_form = !is_tree && self.kind != OutputKind::CacheOnly;
        match name {
            "type" => {}
            "dest" if has_dest => self.dest = dest(value)?,
            "platform-split" if is_tree => self.platform_split = Some(switch(name, value)?),
            "push" if is_image => self.push = switch(name, value)?,
            "push-by-digest" if is_image => self.by_digest = switch(name, value)?,
            "store" if is_image => self.store = switch(name, value)?,
            "unpack" if is_image => self.unpack = switch(name, value)?,
            // Every image of the store is found by `name@digest`.
            "name-canonical" if is_image => drop(switch(name, value)?),
            "registry.insecure" if is_image => {
                if switch(name, value)? {
                    return Err("`registry.insecure`: name the registry under `insecure` in the \
                                configuration"
                        .to_owned());
                }
            }
            "dangling-name-prefix" if is_image => {
                return Err("`dangling-name-prefix` is not supported: an image without a name is \
                            found by its ID"
                    .to_owned());
            }
            "tar" if has_form && !is_image => {
                if !switch(name, value)? {
                    return Err("`tar=false` is not supported: unpack the archive".to_owned());
                }
            }
            _ if has_form => self.set_form(name, value)?,
            _ => return Err(self.unknown(name)),
        }
        Ok(())
    }

    fn set_form(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "name" => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    let parsed = Reference::parse_normalized(name);
                    let parsed = parsed.map_err(|error| format!("`{name}`: {error}"))?;
                    if parsed.digest.is_some() {
                        return Err(format!("`{name}` holds a digest, which only the result has"));
                    }
                    self.names.push(parsed);
                }
            }
            "compression" => {
                let known = || Compression::ALL.map(Compression::name).join(", ");
                let parsed = Compression::parse(value);
                let parsed = parsed.ok_or_else(|| {
                    format!("there is no compression `{value}`; there are {}", known())
                })?;
                self.form.compression = Some(parsed);
            }
            "compression-level" => {
                let level =
                    value.parse().map_err(|_| format!("`{value}` is no compression level"))?;
                self.form.level = Some(level);
            }
            "force-compression" => self.form.force = switch(name, value)?,
            "oci-mediatypes" => {
                let is_oci = switch(name, value)?;
                self.form.types = Some(if is_oci { MediaTypes::Oci } else { MediaTypes::Docker });
            }
            // So every layer that is built leaves; those of a base are their makers', as for BuildKit.
            "rewrite-timestamp" => {
                if !switch(name, value)? {
                    return Err(
                        "`rewrite-timestamp=false` is not supported: nothing in a layer is \
                                younger than SOURCE_DATE_EPOCH, the context's commit or the base"
                            .to_owned(),
                    );
                }
            }
            _ if self.form.annotations.add_attribute(name, value)? => {}
            _ => return Err(self.unknown(name)),
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> String {
        let known = match self.kind {
            OutputKind::Image => format!("{IMAGE}, {FORM}"),
            OutputKind::Oci | OutputKind::Docker => format!("{ARCHIVE}, {FORM}"),
            OutputKind::Local | OutputKind::Tar => TREE.to_owned(),
            OutputKind::CacheOnly => return format!("`type=cacheonly` has no option `{name}`"),
        };
        format!("there is no option `{name}`; the options are type, {known}")
    }

    /// Checks what hangs together.
    fn checked(self) -> Result<Self, String> {
        self.form.check()?;
        let tagged = self.names.iter().find(|name| name.tag.is_some());
        if let Some(name) = tagged.filter(|_| self.by_digest) {
            let name = name.familiar();
            return Err(format!("`push-by-digest` and the tag of `{name}` contradict each other"));
        }
        match (self.kind, &self.dest) {
            (OutputKind::Oci | OutputKind::Local | OutputKind::Tar, OutputDest::Own) => {
                Err("`dest` is missing: a path, or `-` for standard output".to_owned())
            }
            (OutputKind::Local, OutputDest::Stdout) => {
                Err("a directory cannot go to standard output".to_owned())
            }
            (OutputKind::Oci, _) if self.form.types == Some(MediaTypes::Docker) => {
                Err("an OCI image layout holds OCI media types".to_owned())
            }
            (OutputKind::Docker, _) if !self.is_plain_for_docker() => {
                Err("an archive for docker holds plain layers and no annotations; write type=oci"
                    .to_owned())
            }
            _ => Ok(self),
        }
    }

    /// Returns what is set, by name, in the order of the documentation.
    fn fields(&self) -> Vec<String> {
        let mut fields = vec![format!("type={}", self.kind.name())];
        match &self.dest {
            OutputDest::Own => {}
            OutputDest::Stdout => fields.push("dest=-".to_owned()),
            OutputDest::Path(path) => fields.push(format!("dest={}", path.display())),
        }
        if !self.names.is_empty() {
            let names: Vec<_> = self.names.iter().map(Reference::familiar).collect();
            fields.push(format!("name={}", names.join(",")));
        }
        let default = Self::new(self.kind, OutputDest::Own);
        for (name, value, default) in [
            ("push", self.push, default.push),
            ("push-by-digest", self.by_digest, default.by_digest),
            ("store", self.store, default.store),
            ("unpack", self.unpack, default.unpack),
            ("force-compression", self.form.force, default.form.force),
        ] {
            if value != default {
                fields.push(format!("{name}={value}"));
            }
        }
        let split = self.platform_split;
        fields.extend(split.map(|is_split| format!("platform-split={is_split}")));
        fields.extend(self.form.compression.map(|it| format!("compression={it}")));
        fields.extend(self.form.level.map(|level| format!("compression-level={level}")));
        let types = self.form.types.map(|types| types == MediaTypes::Oci);
        fields.extend(types.map(|is_oci| format!("oci-mediatypes={is_oci}")));
        let annotations = self.form.annotations.attributes();
        fields.extend(annotations.map(|(name, value)| format!("{name}={value}")));
        fields
    }

    fn is_plain_for_docker(&self) -> bool {
        matches!(self.form.compression, None | Some(Compression::Uncompressed))
            && self.form.annotations.is_empty()
    }
}

impl fmt::Display for OutputSpec {
    /// Writes what [`OutputSpec::parse`] reads back as this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, field) in self.fields().into_iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if field.contains([',', '"']) {
                write!(f, "{comma}\"{}\"", field.replace('"', "\"\""))?;
            } else {
                write!(f, "{comma}{field}")?;
            }
        }
        Ok(())
    }
}

impl OutputKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Local => "local",
            Self::Tar => "tar",
            Self::CacheOnly => "cacheonly",
        }
    }
}

fn dest(value: &str) -> Result<OutputDest, String> {
    match value {
        "" => Err("`dest` is empty".to_owned()),
        "-" => Ok(OutputDest::Stdout),
        path => Ok(OutputDest::Path(path.into())),
    }
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{name}` is true or false, not `{value}`")),
    }
}

/// Splits at commas outside of double quotes; a quote within quotes is doubled (RFC 4180).
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let (mut letters, mut is_quoted) = (text.chars().peekable(), false);
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("there is always one");
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            ',' if !is_quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if is_quoted { Err("a quote is not closed".to_owned()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_understood() {
        let parse = |text: &str| OutputSpec::parse(text).unwrap();
        let spec = parse(
            "type=image,\"name=reg.io/a,b:1\",push=true,compression=zstd,compression-level=9,\
             force-compression=true,oci-mediatypes=true,annotation.a=b,annotation-index.c=d",
        );
        let names: Vec<_> = spec.names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["reg.io/a", "b:1"]);
        assert!(spec.push && spec.form.force && spec.store);
        assert_eq!(spec.form.compression, Some(Compression::Zstd));
        assert_eq!(spec.form.level, Some(9));
        assert_eq!(spec.form.annotations.of_index(), Some("c"));
        assert!(parse("type=registry,name=a,rewrite-timestamp=true").push);
        assert_eq!(parse("type=docker").dest, OutputDest::Own);
        assert_eq!(parse("out").dest, OutputDest::Path("out".into()));
        assert_eq!(parse("-").kind, OutputKind::Tar);
        assert_eq!(parse("type=cacheonly").kind, OutputKind::CacheOnly);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "type=registry,name=reg.io:5000/a,compression=zstd,compression-level=9,oci-mediatypes=true",
            "type=image,\"name=a:1,b/c\",push=true,force-compression=true,store=false,unpack=true",
            "type=image,name=a,push-by-digest=true,\"annotation.k=v, \"\"w\"\"\",annotation-index.a:b=c=d",
            "type=image,annotation-manifest-descriptor[linux/arm/v7].x.y=z,oci-mediatypes=false",
            "type=oci,\"dest=a,b.tar\"",
            "type=docker,dest=-",
            "type=docker",
            "type=local,dest=out/dir,platform-split=false",
            "out",
            "-",
            "type=cacheonly",
        ] {
            let spec = OutputSpec::parse(text).unwrap();
            assert_eq!(OutputSpec::parse(&spec.to_string()).unwrap(), spec, "{text}: {spec}");
        }
    }

    #[test]
    fn mistakes_in_outputs_are_named() {
        #[rustfmt::skip]
        let cases = [
            ("type=zip,dest=x",                                "there is no type `zip`"),
            ("dest=x",                                         "`type` is missing"),
            ("type=oci",                                       "`dest` is missing"),
            ("type=oci,dest=",                                 "`dest` is empty"),
            ("type=local,dest=-",                              "cannot go to standard output"),
            ("type=oci,dest=x,push=true",                      "there is no option `push`"),
            ("type=local,dest=x,compression=gzip",             "there is no option `compression`"),
            ("type=image,compression=lz4",                     "there is no compression `lz4`"),
            ("type=image,compression=gzip,compression-level=13", "levels 0 to 12"),
            ("type=image,rewrite-timestamp=false",             "`rewrite-timestamp=false` is not supported"),
            ("type=local,dest=x,rewrite-timestamp=true",       "there is no option `rewrite-timestamp`"),
            ("type=image,push=yes",                            "true or false"),
            ("type=image,name=A",                              "`A`"),
            ("type=image,name=a:1,push-by-digest=true",        "contradict"),
            ("type=image,registry.insecure=true",              "`insecure` in the configuration"),
            ("type=docker,dest=x,compression=zstd",            "write type=oci"),
            ("type=image,\"name=a",                            "not closed"),
            ("type=cacheonly,dest=x",                          "has no option `dest`"),
        ];
        for (text, want) in cases {
            let found = OutputSpec::parse(text).unwrap_err();
            assert!(found.contains(want), "{text}: {found}");
        }
    }
}
