//! Packages that an image's files tell of: of dpkg, apk, npm and Python.

use std::collections::BTreeMap;

/// Packages by the file that tells of them, so that they go with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Packages(BTreeMap<String, Vec<Package>>);

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    /// `deb`, `apk`, `npm`, `python`.
    pub(super) manager: &'static str,
    pub(super) name: String,
    pub(super) version: String,
}

/// How a file tells of packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    Dpkg,
    Apk,
    Npm,
    Python,
}

/// Whether the file at `path` tells of packages.
pub(super) fn is_listing(path: &str) -> bool {
    Listing::of(path).is_some()
}

impl Listing {
    fn of(path: &str) -> Option<Self> {
        if path == "var/lib/dpkg/status" || path.starts_with("var/lib/dpkg/status.d/") {
            return Some(Self::Dpkg);
        }
        if matches!(path, "lib/apk/db/installed" | "usr/lib/apk/db/installed") {
            return Some(Self::Apk);
        }
        if path.ends_with(".dist-info/METADATA") {
            return Some(Self::Python);
        }
        // `node_modules/name/package.json`, not what lies deeper in the package.
        let dir = path.strip_suffix("/package.json")?;
        let inside = dir.rsplit_once("node_modules/")?.1;
        let parts = inside.split('/').count();
        (parts == 1 + usize::from(inside.starts_with('@'))).then_some(Self::Npm)
    }
}

impl Packages {
    /// Reads what the file at `path` tells.
    pub(super) fn read(&mut self, path: &str, bytes: &[u8]) {
        let Some(listing) = Listing::of(path) else { return };
        let text = String::from_utf8_lossy(bytes);
        let packages = match listing {
            Listing::Dpkg => paragraphs(&text).filter_map(deb).collect(),
            Listing::Apk => paragraphs(&text).filter_map(apk).collect(),
            Listing::Npm => npm(&text).into_iter().collect(),
            Listing::Python => python(&text).into_iter().collect(),
        };
        self.0.insert(path.to_owned(), packages);
    }

    /// Forgets what the file at `path` told.
    pub(super) fn forget(&mut self, path: &str) {
        self.0.remove(path);
    }

    /// Returns all versions by manager and name.
    pub(super) fn versions(&self) -> BTreeMap<(&'static str, String), String> {
        let mut all: BTreeMap<(&'static str, String), Vec<String>> = BTreeMap::new();
        for package in self.0.values().flatten() {
            let key = (package.manager, package.name.clone());
            let versions = all.entry(key).or_default();
            if !versions.contains(&package.version) {
                versions.push(package.version.clone());
            }
        }
        let joined = all.into_iter().map(|(key, mut versions)| {
            versions.sort();
            (key, versions.join(", "))
        });
        joined.collect()
    }
}

fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").filter(|text| !text.trim().is_empty())
}

/// Returns the value of a field that stands at the beginning of a line.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()))
}

fn deb(paragraph: &str) -> Option<Package> {
    // One that was removed leaves its configuration, and its paragraph.
    let is_there = field(paragraph, "Status:").is_none_or(|status| status.ends_with(" installed"));
    let (name, version) = (field(paragraph, "Package:")?, field(paragraph, "Version:")?);
    is_there.then(|| package("deb", name, version))
}

fn apk(paragraph: &str) -> Option<Package> {
    Some(package("apk", field(paragraph, "P:")?, field(paragraph, "V:")?))
}

fn npm(text: &str) -> Option<Package> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(package("npm", value.get("name")?.as_str()?, value.get("version")?.as_str()?))
}

fn python(text: &str) -> Option<Package> {
    let head = text.split("\n\n").next()?;
    Some(package("python", field(head, "Name:")?, field(head, "Version:")?))
}

fn package(manager: &'static str, name: &str, version: &str) -> Package {
    Package { manager, name: name.to_owned(), version: version.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_where_they_are_listed() {
        #[rustfmt::skip]
        let cases: [(&str, &str, Option<&str>); 9] = [
            ("var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1-2\nDescription: x\n Version: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n", Some("deb a 1-2")),
            ("var/lib/dpkg/status.d/base", "Package: base\nVersion: 3\n", Some("deb base 3")),
            ("lib/apk/db/installed", "C:Q1\nP:musl\nV:1.2-r0\nA:x86_64\n\n", Some("apk musl 1.2-r0")),
            ("app/node_modules/x/package.json", r#"{"name":"x","version":"1.0.0"}"#, Some("npm x 1.0.0")),
            ("node_modules/@s/x/package.json", r#"{"name":"@s/x","version":"2"}"#, Some("npm @s/x 2")),
            ("node_modules/x/test/package.json", r#"{"name":"t","version":"1"}"#, None),
            ("node_modules/x/package.json", "not json", None),
            ("usr/lib/python3/dist-packages/p-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: p\nVersion: 1\n\nName: no\n", Some("python p 1")),
            ("package.json", r#"{"name":"own","version":"1"}"#, None),
        ];
        for (path, text, want) in cases {
            let mut packages = Packages::default();
            packages.read(path, text.as_bytes());
            let got: Vec<String> = packages
                .versions()
                .into_iter()
                .map(|((manager, name), version)| format!("{manager} {name} {version}"))
                .collect();
            assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{path}");
            packages.forget(path);
            assert!(packages.versions().is_empty(), "{path}");
        }
    }
}
