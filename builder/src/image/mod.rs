//! Images of the local store: naming them, looking at them, taking them away.

pub(crate) mod assemble;
mod details;
mod names;

pub use details::{HistoryRow, ImageDetails, ImageSummary};
pub use names::{ImageError, Removed};

pub(crate) use details::{details, history, summaries, unpacked_size};
pub(crate) use names::{find, parse_name, remove, resolved, tag, target};
