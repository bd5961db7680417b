//! The name that a rule's message suggests, by BuildKit's measure.
//!
//! It differs from [`crate::nearest`]: other programs compare these messages to the letter.

/// Names this many edits away, or more, are not suggested.
const TOO_FAR: usize = 3;

/// Longer names are not compared.
const MAX_LENGTH: usize = 64;

/// No more names are compared, so that the work stays bounded.
const MAX_CANDIDATES: usize = 1000;

/// Returns ` (did you mean PREFIXname?)` for the candidate nearest to `name`, or nothing.
pub(crate) fn did_you_mean<'c>(
    name: &str,
    prefix: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> String {
    nearest(name, candidates)
        .map_or_else(String::new, |found| format!(" (did you mean {prefix}{found}?)"))
}

/// Counts insertions, deletions and substitutions; letter case counts. Of equally near names the
/// first in alphabetical order is taken.
fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if name.len() > MAX_LENGTH {
        return None;
    }
    let mut candidates: Vec<&str> = candidates.into_iter().take(MAX_CANDIDATES).collect();
    candidates.sort_unstable();
    let near = candidates.iter().filter_map(|candidate| {
        let differs = candidate.len().abs_diff(name.len());
        if differs >= TOO_FAR || candidate.len() > MAX_LENGTH {
            return None;
        }
        Some((distance(name, candidate), *candidate)).filter(|&(edits, _)| edits < TOO_FAR)
    });
    near.min_by_key(|&(edits, _)| edits).map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, left) in a.chars().enumerate() {
        let mut next = vec![row + 1; b.len() + 1];
        for (column, &right) in b.iter().enumerate() {
            let change = last[column] + usize::from(left != right);
            next[column + 1] = change.min(next[column] + 1).min(last[column + 1] + 1);
        }
        last = next;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let names = ["PATH", "DIR_ASSETS", "DIR_CONFIG", "foo"];
        #[rustfmt::skip]
        let cases = [
            ("letter missing",   "DIR_ASSET",  Some("DIR_ASSETS")),
            ("letters swapped",  "PAHT",       Some("PATH")),
            ("case counts",      "FOO",        None),
            ("three edits",      "bar",        None),
        ];
        for (name, text, want) in cases {
            assert_eq!(nearest(text, names), want, "{name}");
        }
        assert_eq!(did_you_mean("PAHT", "$", names), " (did you mean $PATH?)");
        assert_eq!(did_you_mean("X", "$", []), "");
    }
}
