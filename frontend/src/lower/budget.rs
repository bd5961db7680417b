//! A limit on what variables may grow to.

/// Bytes that expansions, environments and histories of one lowering may take together.
///
/// Variables that hold variables double a text with each line; a Dockerfile of a kilobyte could
/// ask for all memory there is. Real files stay below a thousandth of this.
pub(super) const LIMIT: usize = 64 << 20;

/// What is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    left: usize,
    is_spent: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: LIMIT, is_spent: false }
    }
}

impl Budget {
    /// Takes `bytes`; false when there are not so many left.
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else {
            self.is_spent = true;
            return false;
        };
        self.left = left;
        true
    }

    /// Whether more was asked for than there was: nothing is to be gained by going on.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }
}
