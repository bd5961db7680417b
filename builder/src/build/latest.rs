//! The time that stands for every later one in what a build makes.
//!
//! `SOURCE_DATE_EPOCH` is it where it is given. Else a context that is checked out from git gives
//! the time of its commit, or of a base that is younger; it is asked for only when a layer is made.
//! A step that is found in the cache keeps the times that it was made with, unless the epoch is
//! given and is another one. Where there is neither, times stay as they are.

use std::path::PathBuf;

use cache::{Record, Store};
use tokio::sync::OnceCell;

use crate::op::{self, OpError};
use crate::source::checkout_time;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Latest {
    epoch: Option<i64>,
    /// The context, where it may be a checkout.
    context: Option<PathBuf>,
    known: Option<i64>,
    /// When the youngest base was made.
    base: Option<i64>,
    found: OnceCell<Option<i64>>,
}

impl Latest {
    /// `known` is the context's own time, where it came with one.
    pub(super) fn new(
        epoch: Option<i64>,
        context: Option<PathBuf>,
        known: Option<i64>,
        base: Option<i64>,
    ) -> Self {
        Self { epoch, context, known, base, found: OnceCell::new() }
    }

    /// Returns it for a layer that is made now, in seconds since 1970.
    pub(super) async fn for_new(&self) -> Option<i64> {
        if self.epoch.is_some() {
            return self.epoch;
        }
        let ask = async || {
            let time = match (self.known, &self.context) {
                (Some(known), _) => Some(known),
                (None, Some(context)) => checkout_time(context).await,
                (None, None) => None,
            };
            time.map(|time| time.max(self.base.unwrap_or(time)))
        };
        *self.found.get_or_init(ask).await
    }

    /// Brings the layer of `record` to the epoch, if one is given. Blocking.
    pub(super) fn settle(&self, store: &Store, record: Record) -> Result<Record, OpError> {
        let (Some(_), true) = (self.epoch, record.latest != self.epoch) else { return Ok(record) };
        // One whose files are elsewhere is what others made of it.
        if store.snapshots().get(&record.snapshot).map_err(OpError::store)?.is_none() {
            return Ok(record);
        }
        let (diff_id, size, _) = op::seal(store, &record.snapshot, self.epoch, None)?;
        let record = Record { diff_id, size, latest: self.epoch, ..record };
        store.index().put(&record).map_err(OpError::store)?;
        Ok(record)
    }
}
