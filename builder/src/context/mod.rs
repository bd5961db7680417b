//! Build contexts: what of a directory counts, and directories made of a client's archive.

mod known;
mod root;
mod tar;

use std::fmt;

use frontend::IgnoreRules;

pub use root::FileRootError;
pub use tar::{ContextError, unpack_context};

pub(crate) use known::KnownFiles;
pub(crate) use root::FileRoot;
pub(crate) use tar::open_archive;

/// What ignore rules say about one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the context.
    Keep,
    /// Not part of it, but something below it may be.
    Skip,
    /// Not part of it, nor is anything below it.
    Prune,
}

/// The rule type behind [`Rules`].
type Decide = dyn Fn(&[u8], bool) -> Verdict + Send + Sync;

/// Ignore rules: what a path, relative to the context and without leading slash, is to it. The
/// flag says whether it is a directory. Rules know their own way with parents: a path is asked
/// about after all directories above it were not pruned.
pub struct Rules {
    decide: Box<Decide>,
    /// The patterns behind it, where there are some.
    patterns: Option<Vec<String>>,
}

impl Rules {
    /// Takes any function for rules.
    pub fn new(decide: impl Fn(&[u8], bool) -> Verdict + Send + Sync + 'static) -> Self {
        Self { decide: Box::new(decide), patterns: None }
    }

    /// Everything counts.
    #[must_use]
    pub fn keep_all() -> Self {
        Self::new(|_, _| Verdict::Keep)
    }

    /// Returns the patterns of an ignore file that the rules were made of.
    #[must_use]
    pub fn patterns(&self) -> Option<&[String]> {
        self.patterns.as_deref()
    }

    /// Asks about one path; the context's root always counts.
    #[must_use]
    pub fn verdict(&self, path: &[u8], is_dir: bool) -> Verdict {
        if path.is_empty() { Verdict::Keep } else { (self.decide)(path, is_dir) }
    }
}

impl From<IgnoreRules> for Rules {
    fn from(rules: IgnoreRules) -> Self {
        let patterns = rules.patterns().map(str::to_owned).collect();
        let decide = Self::new(move |path, is_dir| {
            if !rules.is_excluded(path, is_dir) {
                Verdict::Keep
            } else if is_dir && rules.may_descend(path) {
                Verdict::Skip
            } else {
                Verdict::Prune
            }
        });
        Self { patterns: Some(patterns), ..decide }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}
