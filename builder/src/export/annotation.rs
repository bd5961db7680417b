//! Annotations of what leaves: at which document, for which platform (BuildKit, `docs/annotations.md`).

use std::collections::BTreeMap;

use frontend::Platform;

/// A key starts with this; nobody's annotation is longer than a manifest may be.
const LENGTH_LIMIT: usize = 1 << 20;

/// The document that carries an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationLevel {
    /// The image's manifest.
    Manifest,
    /// The manifest's entry in the index.
    ManifestDescriptor,
    /// The index of an image for several platforms.
    Index,
    /// The index's entry in an image layout.
    IndexDescriptor,
}

impl AnnotationLevel {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "manifest" => Self::Manifest,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index" => Self::Index,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::ManifestDescriptor => "manifest-descriptor",
            Self::Index => "index",
            Self::IndexDescriptor => "index-descriptor",
        }
    }

    const fn is_of_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Annotation {
    level: AnnotationLevel,
    /// `None` is for all.
    platform: Option<Platform>,
    key: String,
    value: String,
}

impl Annotation {
    /// `LEVEL[PLATFORM]`.
    fn place(&self) -> String {
        let platform = self.platform.as_ref().map(|platform| format!("[{platform}]"));
        self.level.name().to_owned() + &platform.unwrap_or_default()
    }
}

/// All annotations asked for; of two of one key at one place the later holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(Vec<Annotation>);

impl Annotations {
    /// Adds what `--annotation` gave: `[LEVEL[PLATFORM],...:]KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn add_flag(&mut self, text: &str) -> Result<(), String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
        // A key may hold colons itself; what is no list of levels before one belongs to the key.
        let levels = name.split_once(':').and_then(|(levels, key)| {
            let levels = split_levels(levels).map(place).collect::<Option<Result<Vec<_>, _>>>()?;
            Some((levels, key))
        });
        let (levels, key) = match levels {
            Some((levels, key)) => (levels?, key),
            None => (vec![(AnnotationLevel::Manifest, None)], name),
        };
        for (level, platform) in levels {
            self.add(level, platform, key, value)?;
        }
        Ok(())
    }

    /// Adds an attribute of an output, `annotation[-LEVEL][[PLATFORM]].KEY`; false when it is none.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn add_attribute(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let Some(rest) = name.strip_prefix("annotation") else { return Ok(false) };
        // A platform holds no dot before its bracket closes, a key may.
        let dot = rest.find(']').map_or(0, |end| end);
        let Some(dot) = rest[dot..].find('.').map(|at| at + dot) else { return Ok(false) };
        let (level, key) = (&rest[..dot], &rest[dot + 1..]);
        let level =
            level.strip_prefix('-').map_or_else(|| format!("manifest{level}"), str::to_owned);
        let Some(place) = place(&level) else { return Ok(false) };
        let (level, platform) = place?;
        self.add(level, platform, key, value)?;
        Ok(true)
    }

    /// Returns each in the form that [`Annotations::add_flag`] takes.
    pub fn flags(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|it| format!("{}:{}={}", it.place(), it.key, it.value))
    }

    /// Returns each in the form that [`Annotations::add_attribute`] takes: name and value.
    pub fn attributes(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|it| (format!("annotation-{}.{}", it.place(), it.key), it.value.as_str()))
    }

    /// Adds all of `more`.
    pub fn extend(&mut self, more: &Self) {
        self.0.extend(more.0.iter().cloned());
    }

    /// Tells whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a key that only an index can carry, if there is one.
    #[must_use]
    pub fn of_index(&self) -> Option<&str> {
        self.0.iter().find(|it| it.level.is_of_index()).map(|it| it.key.as_str())
    }

    /// Returns what a document carries; `platform` is its own, `None` that of an index.
    #[must_use]
    pub fn at(
        &self,
        level: AnnotationLevel,
        platform: Option<&Platform>,
    ) -> BTreeMap<String, String> {
        let is_meant = |it: &&Annotation| {
            it.level == level && (it.platform.is_none() || it.platform.as_ref() == platform)
        };
        self.0.iter().filter(is_meant).map(|it| (it.key.clone(), it.value.clone())).collect()
    }

    fn add(
        &mut self,
        level: AnnotationLevel,
        platform: Option<Platform>,
        key: &str,
        value: &str,
    ) -> Result<(), String> {
        if key.is_empty() {
            return Err("the annotation has no key".to_owned());
        }
        if key.len() + value.len() > LENGTH_LIMIT {
            return Err(format!("the annotation is longer than {LENGTH_LIMIT} bytes"));
        }
        if platform.is_some() && level.is_of_index() {
            return Err("an index is for all platforms: name none for its annotations".to_owned());
        }
        let (key, value) = (key.to_owned(), value.to_owned());
        self.0.push(Annotation { level, platform, key, value });
        Ok(())
    }
}

/// Splits at commas outside of brackets.
fn split_levels(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |letter| {
        match letter {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        letter == ',' && !is_inside
    })
}

/// Parses `LEVEL[PLATFORM]`; `None` when it begins with no level.
fn place(text: &str) -> Option<Result<(AnnotationLevel, Option<Platform>), String>> {
    let (level, platform) = match text.split_once('[') {
        Some((level, rest)) => (level, Some(rest.strip_suffix(']')?)),
        None => (text, None),
    };
    let level = AnnotationLevel::parse(level)?;
    let platform = platform.map(Platform::parse).transpose();
    Some(platform.map(|platform| (level, platform)).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(annotations: &Annotations) -> Vec<String> {
        let show = |it: &Annotation| {
            let platform = it.platform.as_ref().map_or_else(String::new, |it| format!("[{it}]"));
            format!("{:?}{platform} {}={}", it.level, it.key, it.value)
        };
        annotations.0.iter().map(show).collect()
    }

    #[test]
    fn flags_name_levels_and_platforms() {
        #[rustfmt::skip]
        let cases: [(&str, Result<&[&str], &str>); 9] = [
            ("a=b",                             Ok(&["Manifest a=b"])),
            ("a.b/c=d=e",                       Ok(&["Manifest a.b/c=d=e"])),
            ("index:a=b",                       Ok(&["Index a=b"])),
            ("index,manifest:a=b",              Ok(&["Index a=b", "Manifest a=b"])),
            ("manifest-descriptor[arm64]:a=b",  Ok(&["ManifestDescriptor[linux/arm64] a=b"])),
            ("odd:a=b",                         Ok(&["Manifest odd:a=b"])),
            ("a",                               Err("is not KEY=VALUE")),
            ("index[linux/amd64]:a=b",          Err("for all platforms")),
            ("manifest[a/b/c/d]:a=b",           Err("is not a platform")),
        ];
        for (text, want) in cases {
            let mut annotations = Annotations::default();
            match (annotations.add_flag(text), want) {
                (Ok(()), Ok(want)) => assert_eq!(shown(&annotations), want, "{text}"),
                (Err(found), Err(want)) => assert!(found.contains(want), "{text}: {found}"),
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn attributes_are_those_of_buildkit() {
        #[rustfmt::skip]
        let cases: [(&str, Option<&str>); 7] = [
            ("annotation.org.opencontainers.image.title", Some("Manifest org.opencontainers.image.title=v")),
            ("annotation-index.a",                        Some("Index a=v")),
            ("annotation-index-descriptor.a",             Some("IndexDescriptor a=v")),
            ("annotation-manifest[linux/arm/v7].a.b",     Some("Manifest[linux/arm/v7] a.b=v")),
            ("annotation[linux/amd64].a",                 Some("Manifest[linux/amd64] a=v")),
            ("annotation-odd.a",                          None),
            ("name",                                      None),
        ];
        for (name, want) in cases {
            let mut annotations = Annotations::default();
            assert_eq!(annotations.add_attribute(name, "v"), Ok(want.is_some()), "{name}");
            assert_eq!(shown(&annotations).first().map(String::as_str), want, "{name}");
        }
    }

    #[test]
    fn what_is_told_is_understood() {
        let mut annotations = Annotations::default();
        for text in ["a:b=c=d", "index:x=", "manifest-descriptor[linux/arm/v7]:k.l=v"] {
            annotations.add_flag(text).unwrap();
        }
        let (mut by_flag, mut by_name) = (Annotations::default(), Annotations::default());
        annotations.flags().for_each(|text| by_flag.add_flag(&text).unwrap());
        annotations
            .attributes()
            .for_each(|(name, value)| assert_eq!(by_name.add_attribute(&name, value), Ok(true)));
        assert_eq!(by_flag, annotations);
        assert_eq!(by_name, annotations);
    }

    #[test]
    fn a_document_carries_what_is_for_it() {
        let mut annotations = Annotations::default();
        for text in ["a=all", "manifest[linux/arm64]:a=arm", "index:a=index"] {
            annotations.add_flag(text).unwrap();
        }
        let at = |level, platform: &str| {
            let platform = Platform::parse(platform).unwrap();
            annotations.at(level, Some(&platform)).remove("a")
        };
        assert_eq!(at(AnnotationLevel::Manifest, "amd64").as_deref(), Some("all"));
        assert_eq!(at(AnnotationLevel::Manifest, "arm64").as_deref(), Some("arm"));
        assert_eq!(annotations.at(AnnotationLevel::Index, None)["a"], "index");
        assert_eq!(annotations.of_index(), Some("a"));
    }
}
