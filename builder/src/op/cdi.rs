//! CDI (Container Device Interface): what the maker of a device says that a container needs for it.
//!
//! ```text
//! /etc/cdi/NAME.json   {"cdiVersion": "0.6.0", "kind": "vendor.com/class",
//!                       "devices": [{"name": "one", "containerEdits": {...}}]}
//! ```
//!
//! Source: the interface's SPEC.md, of 0.3.0 to 0.8.0 and 1.x. What a spec asks for beyond these
//! structs is refused by name when its device is wanted, never left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

/// Where specs are looked for unless the configuration says otherwise; those of a later directory
/// win (`BuildKit` looks in the same places).
pub const CDI_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// Bytes of one spec, and specs of one directory, that are read.
const SPEC_BYTES: u64 = 4 << 20;
const SPECS: usize = 256;

/// Names a group of devices of one kind (`BuildKit`).
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<SpecDevice>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecDevice {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// What is done to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    /// `NAME=VALUE`.
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<EditNode>,
    pub(super) mounts: Vec<EditMount>,
    pub(super) hooks: Vec<EditHook>,
    #[serde(alias = "additionalGIDs")]
    pub(super) additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EditNode {
    /// In the container.
    pub(super) path: String,
    /// On this machine, if elsewhere.
    pub(super) host_path: Option<String>,
    /// `b` or `c`, and the numbers: what the node must be.
    pub(super) r#type: Option<String>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) file_mode: Option<u32>,
    /// Some of `rwm`.
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EditMount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) r#type: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// A program that is to be run on this machine; only its name is of interest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EditHook {
    pub(super) hook_name: String,
    pub(super) path: String,
}

/// The devices of this machine.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// By full name, `vendor.com/class=name`.
    devices: BTreeMap<String, Found>,
    /// What could not be read, and why.
    faults: Vec<String>,
}

#[derive(Debug)]
struct Found {
    file: PathBuf,
    /// Of the whole file, and of the device.
    edits: [Arc<Edits>; 2],
    class: Option<String>,
}

impl Catalog {
    /// Reads all specs in `dirs`, of which later ones win.
    pub(super) fn read(dirs: &[PathBuf]) -> Self {
        let mut catalog = Self::default();
        for dir in dirs {
            let mut own = Self::default();
            for path in files(dir) {
                if let Err(fault) = own.add_file(&path) {
                    own.faults.push(format!("`{}`: {fault}", path.display()));
                }
            }
            catalog.devices.extend(own.devices);
            catalog.faults.extend(own.faults);
        }
        catalog
    }

    fn add_file(&mut self, path: &Path) -> Result<(), String> {
        if path.extension().is_some_and(|extension| extension != "json") {
            return Err("YAML is not read; write it as JSON".to_owned());
        }
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(SPEC_BYTES + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > SPEC_BYTES {
            return Err(format!("it is larger than {SPEC_BYTES} bytes"));
        }
        let spec: Spec = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if !matches!(spec.cdi_version.split('.').next(), Some("0" | "1")) {
            return Err(format!("its version {} is not known", spec.cdi_version));
        }
        if !is_kind(&spec.kind) {
            return Err(format!("`{}` is no kind of devices", spec.kind));
        }
        let shared = Arc::new(spec.container_edits);
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            let mut annotations = spec.annotations.clone();
            annotations.extend(device.annotations);
            let found = Found {
                file: path.to_owned(),
                edits: [Arc::clone(&shared), Arc::new(device.container_edits)],
                class: annotations.remove(CLASS),
            };
            if let Some(other) = self.devices.insert(name.clone(), found) {
                self.devices.remove(&name);
                return Err(format!("`{name}` is in `{}` too", other.file.display()));
            }
        }
        Ok(())
    }

    /// Returns what is done for `request`, each edit once; none if there is no such device.
    ///
    /// `KIND=NAME` is one device or all of a class, `KIND` the first and `KIND=*` all of a kind.
    pub(super) fn find(&self, request: &str) -> Vec<Arc<Edits>> {
        let (kind, name) = request.split_once('=').unwrap_or((request, ""));
        let of_kind = || {
            let first = format!("{kind}=");
            let range = self.devices.range(first.clone()..);
            range.take_while(move |(name, _)| name.starts_with(&first)).map(|(_, found)| found)
        };
        let found: Vec<&Found> = match (name, self.devices.get(request)) {
            (_, Some(found)) => vec![found],
            ("", None) => of_kind().take(1).collect(),
            ("*", None) => of_kind().collect(),
            (class, None) => of_kind().filter(|it| it.class.as_deref() == Some(class)).collect(),
        };
        let mut edits: Vec<Arc<Edits>> = Vec::new();
        for edit in found.into_iter().flat_map(|found| &found.edits) {
            if !edits.iter().any(|known| Arc::ptr_eq(known, edit)) {
                edits.push(Arc::clone(edit));
            }
        }
        edits
    }

    /// Tells what could not be read: what is wanted may be there.
    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }
}

/// The files of a directory that should be specs, by name; none if there is no such directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(SPECS);
    let is_spec = |path: &PathBuf| {
        let extension = path.extension().and_then(|it| it.to_str());
        matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_spec).collect();
    files.sort_unstable();
    files
}

/// Whether `text` is `VENDOR/CLASS` (SPEC.md, "Kind").
pub(super) fn is_kind(text: &str) -> bool {
    let is_word = |word: &str, others: &str| {
        let is_inner = |char: char| char.is_ascii_alphanumeric() || others.contains(char);
        let is_outer = |char: Option<char>| char.is_some_and(|it| it.is_ascii_alphanumeric());
        word.chars().all(is_inner) && is_outer(word.chars().next()) && is_outer(word.chars().last())
    };
    text.split_once('/').is_some_and(|(vendor, class)| {
        vendor.len() <= 253 && is_word(vendor, "-_.") && class.len() <= 63 && is_word(class, "-_.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, devices: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "devices": [{devices}],
                "containerEdits": {{"env": ["OF={kind}"]}}}}"#
        )
    }

    fn device(name: &str) -> String {
        format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["NAME={name}"]}}}}"#)
    }

    #[test]
    fn devices_are_found_by_name_kind_and_class() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let classed = r#"{"name": "z", "annotations": {"org.mobyproject.buildkit.device.class": "fast"},
            "containerEdits": {"env": ["NAME=z"]}}"#;
        let one = spec("v.com/a", &[device("x"), device("y"), classed.to_owned()].join(","));
        fs::write(low.path().join("one.json"), one).unwrap();
        fs::write(low.path().join("two.json"), spec("v.com/ab", &device("x"))).unwrap();
        fs::write(low.path().join("not-a-spec.txt"), "").unwrap();
        let other = spec("v.com/a", r#"{"name": "y", "containerEdits": {"env": ["NAME=above"]}}"#);
        fs::write(high.path().join("one.json"), other).unwrap();
        let dirs = [low.path().to_owned(), PathBuf::from("/nowhere"), high.path().to_owned()];
        let catalog = Catalog::read(&dirs);
        assert_eq!(catalog.faults(), [""; 0]);
        #[rustfmt::skip]
        let cases: [(&str, &[&str]); 8] = [
            ("v.com/a=x",    &["OF=v.com/a", "NAME=x"]),
            ("v.com/a=y",    &["OF=v.com/a", "NAME=above"]),
            ("v.com/a",      &["OF=v.com/a", "NAME=x"]),
            ("v.com/a=*",    &["OF=v.com/a", "NAME=x", "OF=v.com/a", "NAME=above", "NAME=z"]),
            ("v.com/a=fast", &["OF=v.com/a", "NAME=z"]),
            ("v.com/a=w",    &[]),
            ("v.com/ab",     &["OF=v.com/ab", "NAME=x"]),
            ("w.com/a",      &[]),
        ];
        for (request, want) in cases {
            let edits = catalog.find(request);
            let got: Vec<&str> = edits.iter().flat_map(|it| &it.env).map(String::as_str).collect();
            assert_eq!(got, want, "{request}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let good = spec("v.com/a", &device("x"));
        #[rustfmt::skip]
        let cases = [
            ("a.yaml", String::new(),                         "YAML is not read"),
            ("a.json", "{".to_owned(),                        "EOF"),
            ("a.json", good.replace("0.6.0", "2.0.0"),        "version 2.0.0"),
            ("a.json", good.replace("v.com/a\", ", "v\", "),  "`v` is no kind"),
            ("a.json", good.replace("\"env\"", "\"netDevices\""), "unknown field `netDevices`"),
            ("b.json", good.clone(),                          "`v.com/a=x` is in"),
        ];
        for (name, text, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            if name == "b.json" {
                fs::write(dir.path().join("a.json"), &good).unwrap();
            }
            fs::write(dir.path().join(name), text).unwrap();
            let catalog = Catalog::read(&[dir.path().to_owned()]);
            assert!(catalog.faults()[0].contains(want), "{name}: {:?}", catalog.faults());
            assert!(catalog.find("v.com/a=x").is_empty(), "{want}");
        }
    }

    #[test]
    fn kinds() {
        for good in ["vendor.com/foo", "foo.bar.baz/foo-bar123.B_az"] {
            assert!(is_kind(good), "{good}");
        }
        for bad in ["foo", "vendor.com/foo/", "vendor.com/foo/bar", "/foo", "v/", "v/-a", "../a"] {
            assert!(!is_kind(bad), "{bad}");
        }
    }
}
