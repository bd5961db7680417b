//! A limit on what variables may grow to.

/// Bytes that expansions, environments and histories of one lowering may take together.
///
/// Variables that hold variables double a text with each line; a Dockerfile of a kilobyte could
/// ask for all memory there is. Real files stay below a thousandth of this.
pub(super) const LIMIT: usize = 256 << 20;

/// What is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: LIMIT }
    }
}

impl Budget {
    /// Takes `bytes`; false when there are not so many left.
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
