//! What one layer does to the tree below it: a list of paths with their states.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::state::State;
use crate::layer::{TarEntry, Told};
use crate::rootfs::{Dir, fd_xattrs};

/// Paths with their states, parents before what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(super) paths: Vec<(Arc<[u8]>, State)>,
    /// Where the first names of hard links stand in `paths`.
    firsts: HashMap<Vec<u8>, usize>,
}

impl Changes {
    /// Adds the root directory itself, of which a layer's archive says nothing.
    pub(super) fn push_root(&mut self, upper: &Path) -> io::Result<()> {
        let dir = Dir::open(upper)?;
        let (metadata, xattrs) = (dir.metadata()?, fd_xattrs(&dir)?);
        if let Some(entry) = TarEntry::of(Vec::new(), &metadata, Vec::new(), xattrs) {
            self.paths.push((Arc::default(), State::of(&entry, None)));
        }
        Ok(())
    }

    /// Adds what a layer tells of itself.
    pub(super) fn push(&mut self, told: &Told<'_>) {
        match told {
            Told::Entry(entry, content) => {
                self.paths.push((entry.path.as_slice().into(), State::of(entry, *content)));
            }
            Told::Link { path, first } => {
                let at = self
                    .firsts
                    .get(*first)
                    .copied()
                    .or_else(|| self.paths.iter().rposition(|(path, _)| **path == **first));
                if let Some(at) = at {
                    self.firsts.insert(first.to_vec(), at);
                    let state = State::link(first, &self.paths[at].1);
                    self.paths.push(((*path).into(), state));
                }
            }
            Told::Deleted(path) => self.paths.push(((*path).into(), State::gone())),
            Told::Opaque => {
                if let Some((_, dir)) = self.paths.last_mut() {
                    *dir = dir.clone().with_opaque(true);
                }
            }
        }
    }

    /// Appends this to `out`: each path and each state after its length (4 bytes, little-endian).
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for (path, state) in &self.paths {
            for part in [path, state.bytes()] {
                let length = u32::try_from(part.len()).expect("paths are bounded by PATH_MAX");
                out.extend(length.to_le_bytes());
                out.extend(part);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Self::default();
        while !bytes.is_empty() {
            let path = take(&mut bytes)?.into();
            let state = State::from_bytes(take(&mut bytes)?);
            changes.paths.push((path, state));
        }
        Some(changes)
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(4)?;
    let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (part, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}
