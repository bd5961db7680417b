//! "Did you mean": the known name nearest to an unknown one.

/// Names longer than this are not compared: nobody mistypes them, and the work stays bounded.
const MAX_LENGTH: usize = 64;

/// No more names are compared, for the same reason.
const MAX_CANDIDATES: usize = 1000;

/// Returns the candidate that `text` most likely meant, ignoring letter case.
///
/// Near means at most one edit (insertion, deletion, substitution, swap of neighbours) for each
/// three letters, and at most three. Ties go to the candidate named first.
pub(crate) fn nearest<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    if text.is_empty() || text.len() > MAX_LENGTH {
        return None;
    }
    let limit = (text.len() / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
        let other: Vec<char> = candidate.to_lowercase().chars().take(MAX_LENGTH + 1).collect();
        if other.len().abs_diff(text.len()) > limit {
            continue;
        }
        let distance = distance(&text, &other);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Writes the help line for an unknown name.
pub(crate) fn did_you_mean<'c>(
    text: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(text, candidates).map(|name| format!("did you mean `{name}`?"))
}

/// Counts edits by the optimal string alignment distance: three rows of the usual table.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, &right) in b.iter().enumerate() {
            let change = last[j] + usize::from(left != right);
            row[j + 1] = change.min(row[j] + 1).min(last[j + 1] + 1);
            if i > 0 && j > 0 && left == b[j - 1] && a[i - 1] == right {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name() {
        let names = ["COPY", "RUN", "ENTRYPOINT", "CMD"];
        #[rustfmt::skip]
        let cases = [
            ("a letter missing",  "CPY",        Some("COPY")),
            ("letters swapped",   "RNU",        Some("RUN")),
            ("lower case",        "entrypont",  Some("ENTRYPOINT")),
            ("two edits",         "ENTRYPNT",   Some("ENTRYPOINT")),
            ("another word",      "INSTALL",    None),
            ("nothing",           "",           None),
        ];
        for (name, text, want) in cases {
            assert_eq!(nearest(text, names), want, "{name}");
        }
    }
}
