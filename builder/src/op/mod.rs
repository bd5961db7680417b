//! File operations: COPY, ADD and WORKDIR on a snapshot.
//!
//! Invariants: a destination is resolved inside the target's root and a source inside its own;
//! what is selected is settled by one walk, which the content key and the copy share; nothing of a
//! path name ends as a deletion.

mod cdi;
mod changes;
mod chmod;
mod copy;
mod devices;
mod digest;
mod error;
mod mkdir;
mod mounts;
mod nearest;
mod output;
mod perform;
mod query;
mod run;
mod select;
mod settings;
mod squash;
mod taken;
mod unpack;

pub use cdi::CDI_DIRS;
pub use copy::{CopyError, CopyStats, copy};
pub use digest::selection_digest;
pub use mkdir::{MakeDirError, make_dir};
pub use select::{CopyInput, SelectError, Selection, select};
pub use settings::PROXY_NAMES;

pub(crate) use devices::DeviceRequest;
pub(crate) use error::OpError;
pub(crate) use nearest::nearest;
pub(crate) use perform::{Root, copy_onto, make_dir_in, merge, newest_file, seal};
pub(crate) use run::{Step, enter, run};
pub(crate) use settings::{Given, RecordedSettings, RunSettings};
pub(crate) use squash::{Squashed, squash};
pub(crate) use taken::{Taken, taken_from_all, taken_from_outside};
