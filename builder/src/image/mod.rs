//! Images of the local store: naming them, looking at them, taking them away.

mod ask;
pub(crate) mod assemble;
mod compare;
mod contents;
mod details;
pub(crate) mod index;
mod names;
mod packages;

use cache::Store;

pub use compare::{Compared, FileChange, ImageDiff, ValueChange};
pub use contents::{ImageContents, LayerContents, LayerFile, PathChange, Wasted};
pub use details::{HistoryRow, ImageDetails, ImageSummary};
pub use names::{ImageError, Removed};

pub(crate) use details::{details, history, summaries, unpacked_size};
pub(crate) use names::{find, of_platform, parse_name, remove, resolved, tag, target};

use contents::Reading;

use crate::source::ResolvedImage;

/// Reads what the layers of `image` hold; their bytes are here. Blocking.
pub(crate) fn contents_of(
    store: &Store,
    image: &ResolvedImage,
) -> Result<ImageContents, ImageError> {
    Ok(Reading::of(store, image)?.contents())
}

/// Compares two images whose layers are here. Blocking.
pub(crate) fn diff(
    store: &Store,
    names: [&str; 2],
    images: [&ResolvedImage; 2],
) -> Result<ImageDiff, ImageError> {
    let readings = [Reading::of(store, images[0])?, Reading::of(store, images[1])?];
    Ok(compare::compare(names, images, &readings))
}
