//! The difference of two texts in the unified form.

use similar::TextDiff;

/// Lines shown around a change.
const CONTEXT: usize = 3;

/// Writes what turns `old` into `new`, so that `patch -p1` takes it; nothing where they are equal.
pub(super) fn unified(name: &str, old: &str, new: &str) -> String {
    let name = name.trim_start_matches('/');
    let (from, to) = (format!("a/{name}"), format!("b/{name}"));
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT).header(&from, &to).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_with_their_surroundings() {
        assert_eq!(unified("D", "a\nb\n", "a\nb\n"), "");
        let want = "--- a/D\n+++ b/D\n@@ -1,2 +1,2 @@\n-from a\n+FROM a\n RUN b\n";
        assert_eq!(unified("/D", "from a\nRUN b\n", "FROM a\nRUN b\n"), want);
    }
}
