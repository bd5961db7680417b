//! The name that was probably meant.

/// Returns the one of `known` that is most like `name`, if any is like it at all: at most a third
/// of its letters differ. Letter case counts half.
pub(crate) fn nearest(name: &[u8], known: impl Iterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
    let limit = 2 * name.len().div_ceil(3);
    // Distances of what is longer are beyond the limit anyway, and cost the square of the length.
    let candidates = known.take(10_000).filter(|known| known.len().abs_diff(name.len()) <= limit);
    let measured = candidates.map(|known| (distance(name, &known), known));
    // What has this very name is there and leads nowhere: no help.
    measured.filter(|(distance, _)| (1..=limit).contains(distance)).min().map(|(_, known)| known)
}

/// Levenshtein's distance in halves: 2 for another byte, 1 for another case.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).map(|index| 2 * index).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = 2 * (i + 1);
        for (j, &right) in b.iter().enumerate() {
            let change = match left == right {
                true => 0,
                false if left.eq_ignore_ascii_case(&right) => 1,
                false => 2,
            };
            let best = (diagonal + change).min(row[j] + 2).min(row[j + 1] + 2);
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names() {
        let known = ["package.json", "README.md", "src", "index.js"];
        #[rustfmt::skip]
        let cases = [
            ("pakage.json",  Some("package.json")),
            ("readme.md",    Some("README.md")),
            ("scr",          None),
            ("srcs",         Some("src")),
            ("index.ts",     Some("index.js")),
            ("nothing-like", None),
        ];
        for (name, want) in cases {
            let known = known.iter().map(|name| name.as_bytes().to_vec());
            let got = nearest(name.as_bytes(), known);
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{name}");
        }
    }
}
