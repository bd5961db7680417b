use super::*;

fn excluded(patterns: &[&str], path: &str) -> bool {
    IgnoreRules::from_patterns(patterns).expect("the cases are patterns").is_excluded(path, false)
}

#[test]
fn single_patterns() {
    #[rustfmt::skip]
    let cases = [
        ("**", "file", true), ("**/", "dir/file", true), ("**/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true), ("**/dir", "dir/file", true), ("**/dir", "a/dir", true),
        ("**/dir2/*", "dir/dir2/file", true), ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**file", "file", true), ("**file", "dir/dir/file", true), ("**file", "dir/afile", true),
        ("**/file*txt", "dir/dir/file.txt", true), ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true), ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false), ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false), ("a[b-d]e", "ace", true), ("a[^b-d]e", "aze", true),
        (".*", ".foo", true), (".*", "foo", false), ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true), ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false), ("**/.foo", "bar.foo", false), ("a(b)c/def", "a(b)c/def", true),
        ("docs/", "docs/a", true), ("./docs", "docs", true), ("docs", "docs2", false),
        ("*", "a/b", true), ("*/temp*", "somedir/temporary.txt", true), ("*/temp*", "temp", false),
        ("a\\*b", "a*b", true), (".", "a", false), ("", "a", false),
    ];
    for (pattern, path, want) in cases {
        assert_eq!(excluded(&[pattern], path), want, "{pattern} on {path}");
    }
}

#[test]
fn the_last_match_decides() {
    #[rustfmt::skip]
    let cases: [(&[&str], &str, bool); 9] = [
        (&["docs", "!docs/README.md"],                          "docs/README.md",       false),
        (&["docs", "!docs/README.md"],                          "docs/other",           true),
        (&["!docs/README.md", "docs"],                          "docs/README.md",       true),
        (&["**", "!util/docker/web"],                           "util/docker/web/foo",  false),
        (&["**", "!util/docker/web", "util/docker/web/foo"],    "util/docker/web/foo",  true),
        (&["*.md", "!README*.md", "README-secret.md"],          "README-secret.md",     true),
        (&["*.md", "!README*.md", "README-secret.md"],          "README.md",            false),
        (&["*", "!**/*.txt"],                                   "a/b.txt",              false),
        (&["  docs  ", " !docs/a "],                            "docs/a",               false),
    ];
    for (patterns, path, want) in cases {
        assert_eq!(excluded(patterns, path), want, "{patterns:?} on {path}");
    }
}

#[test]
fn files() {
    let text =
        "\u{feff}# comment\n/rooted\n  spaced  \n\n #not a comment\n!/rooted/kept\r\n! other\n";
    let rules = IgnoreRules::parse(text).expect("a good file");
    #[rustfmt::skip]
    let cases = [
        ("rooted/a", Some((2, true))), ("spaced", Some((3, true))), ("#not a comment", Some((5, true))),
        ("rooted/kept", Some((6, false))), ("other", Some((7, false))), ("free", None),
    ];
    for (path, want) in cases {
        let got = rules.explain(path).map(|reason| (reason.line, reason.excluded));
        assert_eq!(got, want, "{path}");
    }
}

#[test]
fn malformed_files() {
    for (text, line) in [("a\n!\n", 2), ("[", 1), ("a\nb\n[a-", 3), ("\\", 1)] {
        assert_eq!(IgnoreRules::parse(text).map_err(|error| error.line), Err(line), "{text}");
    }
}

#[test]
fn walks_enter_what_may_hold_something() {
    #[rustfmt::skip]
    let cases: [(&[&str], &str, bool); 11] = [
        (&["docs"],                         "docs",     false),
        (&["docs"],                         "src",      true),
        (&["docs", "!docs/a/b"],            "docs",     true),
        (&["docs", "!docs/a/b"],            "docs/a",   true),
        (&["docs", "!docs/a/b"],            "docs/c",   false),
        (&["!docs/a", "docs"],              "docs",     false),
        (&["*", "!**/*.txt"],               "docs",     true),
        (&["docs", "!docs/*.md"],           "docs",     true),
        (&["docs", "!src/*.md"],            "docs",     false),
        (&["docs", "!docs/a/**"],           "docs/a/b", true),
        (&["node_modules", "!docs"],        "node_modules", false),
    ];
    for (patterns, dir, want) in cases {
        let rules = IgnoreRules::from_patterns(patterns).expect("the cases are patterns");
        assert_eq!(rules.may_descend(dir), want, "{patterns:?} on {dir}");
    }
}

#[test]
fn cleaning() {
    #[rustfmt::skip]
    let cases = [
        ("a/b", "a/b"), ("a//b/", "a/b"), ("./a", "a"), ("a/./b", "a/b"), ("a/../b", "b"),
        ("../a", "../a"), ("/../a", "/a"), ("/", "/"), ("", "."), ("a/..", "."), ("../../a", "../../a"),
    ];
    for (path, want) in cases {
        assert_eq!(clean(path), want, "{path}");
    }
}
