//! What a reference means at a server: the answer of `git ls-remote`, read as BuildKit does.

use super::command::is_plain;
use super::error::GitError;

/// Longest name of a reference, bytes.
const MAX_NAME: usize = 1024;

/// A reference found at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// In hex.
    pub(super) commit: String,
    /// In full (`refs/heads/main`); `None` for a commit that was named by its id.
    pub(super) name: Option<String>,
}

/// Checks that `reference` can be nothing but a name or a commit (git-check-ref-format(1); what an
/// option, a pattern or a refspec could be is refused).
pub(super) fn check_reference(reference: &str) -> Result<(), GitError> {
    let is_bad = reference.is_empty()
        || reference.len() > MAX_NAME
        || !is_plain(reference)
        || reference.contains(['~', '^', ':', '?', '*', '[', ' ', '+', '"', '\''])
        || ["..", "//", "@{"].iter().any(|part| reference.contains(part))
        || reference.starts_with('/')
        || reference.ends_with(['/', '.'])
        || reference.split('/').any(|part| part.starts_with('.') || is_lock(part))
        || reference == "@";
    if is_bad {
        return Err(GitError::Reference { reference: reference.chars().take(200).collect() });
    }
    Ok(())
}

/// Whether git takes a file of this name for a lock.
fn is_lock(name: &str) -> bool {
    name.as_bytes().ends_with(b".lock")
}

/// Whether `text` is the id of a commit: SHA-1 or SHA-256 in lowercase hex.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// Whether `text` may begin the id of a commit.
pub(super) fn is_abbreviation(text: &str) -> bool {
    (7..64).contains(&text.len()) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the names that `git ls-remote` is asked for.
pub(super) fn patterns(reference: Option<&str>) -> Vec<String> {
    let Some(reference) = reference else { return vec!["HEAD".to_owned()] };
    let names = candidates(reference);
    // The commit of an annotated tag is told under the tag's name with this behind it.
    let peeled: Vec<String> = names.iter().map(|name| format!("{name}^{{}}")).collect();
    names.into_iter().chain(peeled).collect()
}

/// In the order of preference: what was written, then branches, then tags.
fn candidates(reference: &str) -> Vec<String> {
    let mut names = Vec::new();
    let full = |prefix: &str| format!("{prefix}{}", reference.trim_start_matches(prefix));
    if reference == "HEAD" || reference.starts_with("refs/") {
        names.push(reference.to_owned());
    }
    for prefix in ["refs/", "refs/heads/", "refs/tags/"] {
        let name = full(prefix);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Finds `reference` in the answer.
pub(super) fn find(answer: &str, reference: Option<&str>) -> Option<Found> {
    let lines: Vec<(&str, &str)> = answer
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(id, _)| is_commit(id))
        .collect();
    let id_of = |name: &str| lines.iter().find(|(_, found)| *found == name).map(|(id, _)| *id);
    let Some(reference) = reference else {
        let symbolic = answer.lines().find_map(|line| {
            let (target, name) = line.strip_prefix("ref: ")?.split_once('\t')?;
            (name == "HEAD").then(|| target.to_owned())
        });
        let commit = id_of("HEAD")?.to_owned();
        return Some(Found { commit, name: Some(symbolic.unwrap_or_else(|| "HEAD".to_owned())) });
    };
    candidates(reference).into_iter().find_map(|name| {
        let id = id_of(&format!("{name}^{{}}")).or_else(|| id_of(&name))?;
        Some(Found { commit: id.to_owned(), name: Some(name) })
    })
}

/// Returns the short names of all branches and tags in an answer.
pub(super) fn short_names(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().filter_map(|line| {
        let name = line.split_once('\t')?.1;
        let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"))?;
        (!short.ends_with("^{}")).then_some(short)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_are_none() {
        #[rustfmt::skip]
        let bad = [
            "", "-x", "--upload-pack=x", "a b", "a..b", "a~1", "a^{}", "a:b", "a*", "a[", "+a", "/a", "a/",
            "a//b", "a@{1}", "@", ".a", "a/.b", "a.lock", "a\nb", "a\\b", "a.", "a'b",
        ];
        for reference in bad {
            assert!(check_reference(reference).is_err(), "{reference}");
        }
        for reference in ["main", "v1.2.3", "refs/pull/7/head", "feature/a-b_c", "HEAD", "a@b", "ü"]
        {
            assert!(check_reference(reference).is_ok(), "{reference}");
        }
    }

    #[test]
    fn names_are_found_as_buildkit_finds_them() {
        let id = |digit: &str| digit.repeat(40);
        let answer = format!(
            "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/heads/both\n\
             {c}\trefs/tags/both\n{d}\trefs/tags/v1\n{e}\trefs/tags/v1^{{}}\n{c}\trefs/heads/x/main\n\
             {d}\trefs/pull/1/head\nnonsense\n",
            a = id("a"),
            b = id("b"),
            c = id("c"),
            d = id("d"),
            e = id("e"),
        );
        #[rustfmt::skip]
        let cases = [
            (None,                     Some(("a", "refs/heads/main"))),
            (Some("main"),             Some(("a", "refs/heads/main"))),
            (Some("both"),             Some(("b", "refs/heads/both"))),
            (Some("refs/tags/both"),   Some(("c", "refs/tags/both"))),
            (Some("tags/both"),        Some(("c", "refs/tags/both"))),
            (Some("heads/both"),       Some(("b", "refs/heads/both"))),
            (Some("v1"),               Some(("e", "refs/tags/v1"))),
            (Some("pull/1/head"),      Some(("d", "refs/pull/1/head"))),
            (Some("refs/pull/1/head"), Some(("d", "refs/pull/1/head"))),
            (Some("missing"),          None),
        ];
        for (reference, want) in cases {
            let want =
                want.map(|(digit, name)| Found { commit: id(digit), name: Some(name.into()) });
            assert_eq!(find(&answer, reference), want, "{reference:?}");
        }
        let short: Vec<&str> = short_names(&answer).collect();
        assert_eq!(short, ["main", "both", "both", "v1", "x/main"]);
    }

    #[test]
    fn commits_and_their_beginnings() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert!(is_commit(id) && is_abbreviation(&id[..7]) && !is_abbreviation(&id[..6]));
        assert!(!is_commit(&id[..39]) && !is_commit(&id.to_uppercase()));
    }
}
