//! Directories that a build names beside its main context: they are sent first, and go by the ids
//! that the service gives them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::{CacheFrom, CachePlace, Events, blocking};

use super::Client;
use super::context::RemoteContext;
use crate::fault::Fault;
use crate::server::{SENT, SENT_LAYOUT};

impl Client {
    /// Sends the named contexts that are directories of this machine; returns what the service is
    /// told of all.
    pub(super) async fn send_named(
        &self,
        contexts: BTreeMap<String, String>,
        events: &Events,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let mut told = BTreeMap::new();
        for (name, value) in contexts {
            let value = if let Some(layout) = value.strip_prefix(SENT_LAYOUT) {
                let (dir, rest) = split_layout(layout);
                let id = self.send_plain(dir.into(), events).await?;
                format!("{SENT_LAYOUT}{id}{rest}")
            } else if builder::is_directory_context(&value) {
                let root = PathBuf::from(value);
                let context = blocking::run(move || RemoteContext::named(&root)).await?;
                SENT.to_owned() + &self.send_directory(context, &name, events).await?
            } else {
                value
            };
            told.insert(name, value);
        }
        Ok(told)
    }

    /// Sends the caches that are directories of this machine; one that is not there is empty.
    pub(super) async fn send_caches(
        &self,
        caches: Vec<CacheFrom>,
        events: &Events,
    ) -> Result<Vec<CacheFrom>, Fault> {
        let mut told = Vec::new();
        for mut from in caches {
            if let CachePlace::Local { dir, .. } = &mut from.place {
                if !dir.exists() {
                    continue;
                }
                *dir = self.send_plain(dir.clone(), events).await?.into();
            }
            told.push(from);
        }
        Ok(told)
    }

    /// Sends a directory with all that is in it.
    async fn send_plain(&self, root: PathBuf, events: &Events) -> Result<String, Fault> {
        let shown = root.display().to_string();
        let context = blocking::run(move || RemoteContext::plain(root)).await?;
        self.send_directory(context, &shown, events).await
    }
}

/// Splits `DIR[:TAG|@DIGEST]` before what is not the directory; a colon before a slash belongs to it.
fn split_layout(text: &str) -> (&Path, &str) {
    let end = text.rfind('@').unwrap_or(text.len());
    let end = match text[..end].rfind(':') {
        Some(at) if at > 0 && !text[at..end].contains('/') => at,
        _ => end,
    };
    (Path::new(&text[..end]), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_split_behind_their_directory() {
        for (text, want) in [
            ("dir", ("dir", "")),
            ("dir:v1", ("dir", ":v1")),
            ("/a:b/c", ("/a:b/c", "")),
            ("/a:b/c:v1", ("/a:b/c", ":v1")),
            ("dir@sha256:01", ("dir", "@sha256:01")),
            ("dir:v1@sha256:01", ("dir", ":v1@sha256:01")),
        ] {
            assert_eq!(split_layout(text), (Path::new(want.0), want.1), "{text}");
        }
    }
}
