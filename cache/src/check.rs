//! Looks for damage, says which images suffer, and removes it when asked to.
//!
//! What is removed is made or fetched again by the next build that needs it. The files of a
//! snapshot are not compared here: making its layer again, and comparing the `diff_id`, is the
//! builder's.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, HashingWriter};
use crate::document::{self, Kind, Loaded};
use crate::error::{AtPath, Result};
use crate::image::ImageRecord;
use crate::index::Record;
use crate::layer::LayerRecord;
use crate::reach::Reach;
use crate::snapshot::SnapshotId;
use crate::store::Store;

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong with it: a sentence without its first capital and full stop.
    pub problem: String,
    /// References of the images that need it, or the id of one without a tag.
    pub images: Vec<String>,
    /// Whether it was removed.
    pub is_repaired: bool,
}

/// What a check looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Blobs looked at.
    pub blobs: usize,
    /// Snapshots looked at.
    pub snapshots: usize,
    /// Records of layers looked at.
    pub layers: usize,
    /// Cache records looked at.
    pub records: usize,
    /// Images looked at.
    pub images: usize,
    /// What is damaged; empty in a healthy store.
    pub faults: Vec<Fault>,
}

/// A check under way.
struct Check<'a> {
    store: &'a Store,
    repair: bool,
    report: CheckReport,
}

pub(crate) fn check(store: &Store, read_data: bool, repair: bool) -> Result<CheckReport> {
    let images = readable_images(store)?;
    // Before damage is found and removed: afterwards nobody knows what the damaged one named.
    let users = users_of_blobs(store, &images)?;
    let mut check = Check { store, repair, report: CheckReport::default() };
    check.blobs(read_data, &users)?;
    check.snapshots()?;
    check.layers()?;
    check.records()?;
    check.images()?;
    Ok(check.report)
}

impl Check<'_> {
    fn blobs(&mut self, read_data: bool, users: &HashMap<Digest, Vec<String>>) -> Result<()> {
        for path in entries(&self.store.handle().layout.blobs())? {
            self.report.blobs += 1;
            let Some(digest) = digest_of_name(&path) else {
                self.fault(&path, "its name is no digest", Vec::new())?;
                continue;
            };
            let problem = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).at("read", &path),
                Ok(data) if !data.is_file() => Some("it is no regular file".to_owned()),
                Ok(data) if data.len() == 0 && digest != Digest::of(b"") => {
                    Some("it is empty".to_owned())
                }
                Ok(_) if read_data => wrong_bytes(&path, &digest),
                Ok(_) => None,
            };
            if let Some(problem) = problem {
                let images = users.get(&digest).cloned().unwrap_or_default();
                self.fault(&path, &problem, images)?;
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        for path in entries(&self.store.handle().layout.snapshots())? {
            self.report.snapshots += 1;
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| SnapshotId::parse(name).ok()) else {
                self.fault(&path, "its name is no snapshot id", Vec::new())?;
                continue;
            };
            let problem = match self.store.snapshots().inspect(&id)? {
                None => continue,
                Some(Err(fault)) => Some(fault.to_owned()),
                Some(Ok(_)) if !path.join("fs").is_dir() => Some("it has no files".to_owned()),
                Some(Ok(meta)) => self.broken_parent(meta.parent.as_ref()),
            };
            if let Some(problem) = problem {
                self.fault(&path, &problem, Vec::new())?;
            }
        }
        Ok(())
    }

    fn broken_parent(&self, parent: Option<&SnapshotId>) -> Option<String> {
        let parent = parent?;
        let is_there = self.store.snapshots().dir(parent).join("fs").is_dir();
        (!is_there).then(|| format!("snapshot {parent} under it is gone"))
    }

    fn layers(&mut self) -> Result<()> {
        for path in self.store.layers().paths()? {
            self.report.layers += 1;
            let is_right = |layer: &LayerRecord| digest_of_name(&path) == Some(layer.diff_id.0);
            self.document(&path, Kind::Layer, is_right)?;
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        for path in self.store.index().paths()? {
            self.report.records += 1;
            let is_right = |record: &Record| digest_of_name(&path) == Some(record.key.digest());
            let Some(record) = self.document(&path, Kind::Record, is_right)? else { continue };
            if !self.store.snapshots().dir(&record.snapshot).is_dir() {
                let problem = format!("snapshot {} that it names is gone", record.snapshot);
                self.fault(&path, &problem, Vec::new())?;
            }
        }
        Ok(())
    }

    fn images(&mut self) -> Result<()> {
        for path in self.store.images().paths()? {
            self.report.images += 1;
            let image = self.document(&path, Kind::Image, |_: &ImageRecord| true)?;
            let Some(image) = image else { continue };
            let reach = Reach::of(self.store.content(), &image.manifest.digest)?;
            if let Some(missing) = reach.missing.first() {
                let problem = format!("document {missing} that it needs is gone or unreadable");
                self.fault(&path, &problem, vec![name_of(&image)])?;
            }
        }
        Ok(())
    }

    /// Reads a document, reporting it unless it is whole and right.
    fn document<T: serde::de::DeserializeOwned>(
        &mut self,
        path: &Path,
        kind: Kind,
        is_right: impl Fn(&T) -> bool,
    ) -> Result<Option<T>> {
        match document::load::<T>(kind, path)? {
            Loaded::Absent => Ok(None),
            Loaded::Whole(value) if is_right(&value) => Ok(Some(value)),
            Loaded::Whole(_) => {
                self.fault(path, "it is the record of something else", Vec::new())?;
                Ok(None)
            }
            Loaded::Damaged(fault) => {
                self.fault(path, fault, Vec::new())?;
                Ok(None)
            }
        }
    }

    fn fault(&mut self, path: &Path, problem: &str, images: Vec<String>) -> Result<()> {
        if self.repair {
            self.store.handle().session.remove_later(path)?;
        }
        let (path, problem) = (path.to_owned(), problem.to_owned());
        let is_repaired = self.repair;
        self.report.faults.push(Fault { path, problem, images, is_repaired });
        Ok(())
    }
}

/// Says how the bytes of a blob differ from what its name promises.
fn wrong_bytes(path: &Path, digest: &Digest) -> Option<String> {
    let mut hasher = HashingWriter::new(io::sink());
    match File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher)) {
        Ok(_) => {
            let found = hasher.finish().1;
            (found != *digest).then(|| format!("its bytes have digest {found}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("it cannot be read: {error}")),
    }
}

fn readable_images(store: &Store) -> Result<Vec<ImageRecord>> {
    let mut images = Vec::new();
    for path in store.images().paths()? {
        if let Loaded::Whole(image) = document::load(Kind::Image, &path)? {
            images.push(image);
        }
    }
    Ok(images)
}

fn users_of_blobs(store: &Store, images: &[ImageRecord]) -> Result<HashMap<Digest, Vec<String>>> {
    let mut users: HashMap<Digest, Vec<String>> = HashMap::new();
    for image in images {
        let reach = Reach::of(store.content(), &image.manifest.digest)?;
        for digest in reach.documents.into_iter().chain(reach.missing).chain(reach.layers) {
            users.entry(digest).or_default().push(name_of(image));
        }
    }
    Ok(users)
}

fn name_of(image: &ImageRecord) -> String {
    image.reference.clone().unwrap_or_else(|| image.config.to_string())
}

fn digest_of_name(path: &Path) -> Option<Digest> {
    Digest::parse_hex(path.file_name()?.to_str()?).ok()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    Ok(entries.at("read", dir)?.into_iter().map(|entry| entry.path()).collect())
}
