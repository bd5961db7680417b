use super::*;

#[test]
fn words_with_variables() {
    let env = ["HOME=/home".to_owned(), "EMPTY=".to_owned(), "P=a/b.tar.gz".to_owned()];
    #[rustfmt::skip]
    let cases = [
        ("plain",                 "hello",                 Some("hello")),
        ("inner blanks stay",     "a  b",                  Some("a  b")),
        ("single quotes",         "he'll $HOME'o",         Some("hell $HOMEo")),
        ("double quotes",         "\"a $HOME\"",           Some("a /home")),
        ("mixed quotes",          "a\"'b'\"c",             Some("a'b'c")),
        ("escaped quote",         "he\\'llo",              Some("he'llo")),
        ("escape in single",      "'a\\'b'",               None),
        ("escape in double",      "\"a\\tb\\\"\\\\\\$\"",  Some("a\\tb\"\\$")),
        ("bare escape",           "abc\\tdef",             Some("abctdef")),
        ("escaped dollar",        "\\$HOME",               Some("$HOME")),
        ("escape at the end",     "a\\",                   Some("a")),
        ("open single",           "a'b",                   None),
        ("open double",           "a\"b",                  None),
        ("name ends",             "$HOME-x",               Some("/home-x")),
        ("braces",                "${HOME}x",              Some("/homex")),
        ("unset",                 "$NOPE",                 Some("")),
        ("positional",            "$1$10",                 Some("")),
        ("special",               "$@$*$#$$$!$?$-$0",      Some("")),
        ("dollar and dot",        "$.",                    Some("$.")),
        ("dollar alone",          "a$",                    Some("a$")),
        ("positional default",    "${1:-x}",               Some("x")),
        ("no name",               "${}",                   None),
        ("no name, dot",          "${.}",                  None),
        ("assignment",            "${x:=y}",               None),
        ("open brace",            "${HOME",                None),
        ("open modifier",         "${HOME:-x",             None),
        ("doubled brace",         "${{x}}",                None),
        (":- unset",              "${x:-y}",               Some("y")),
        (":- empty",              "${EMPTY:-y}",           Some("y")),
        ("- empty",               "${EMPTY-y}",            Some("")),
        ("- unset",               "${x-y}",                Some("y")),
        (":+ set",                "${HOME:+y}",            Some("y")),
        (":+ empty",              "${EMPTY:+y}",           Some("")),
        ("+ empty",               "${EMPTY+y}",            Some("y")),
        (":? set",                "${HOME:?no}",           Some("/home")),
        (":? unset",              "${x:?no}",              None),
        (":? empty",              "${EMPTY:?no}",          None),
        ("? empty",               "${EMPTY?no}",           Some("")),
        ("nested",                "${a:-${b:-${HOME}}}",   Some("/home")),
        ("quotes in default",     "${a:-'x y'}",           Some("x y")),
        ("# shortest",            "${P#*/}",               Some("b.tar.gz")),
        ("% shortest",            "${P%.*}",               Some("a/b.tar")),
        ("%% longest",            "${P%%.*}",              Some("a/b")),
        ("/ first",               "${P/a/x}",              Some("x/b.tar.gz")),
        ("// all",                "${P//a/x}",             Some("x/b.txr.gz")),
        ("/ without second",      "${P/a}",                None),
        ("escaped slash",         "${P/\\//-}",            Some("a-b.tar.gz")),
        ("non-ascii",             "é$HOMEü",               Some("é")),
        ("non-ascii braces",      "é${HOME}ü",             Some("é/homeü")),
    ];
    for (name, text, want) in cases {
        let got = process_word(text, &env);
        assert_eq!(got.as_deref().ok(), want, "{name}: {got:?}");
    }
}

#[test]
fn splitting() {
    let env = ["TWO= a  b ".to_owned(), "ONE=x".to_owned()];
    #[rustfmt::skip]
    let cases: [(&str, &[&str]); 10] = [
        ("hello  world",       &["hello", "world"]),
        ("$TWO",               &["a", "b"]),
        ("x${TWO}y",           &["x", "a", "b", "y"]),
        ("\"$TWO\"",           &[" a  b "]),
        ("'a b'c",             &["a bc"]),
        ("a\\ b",              &["a b"]),
        ("\"\"",               &[]),
        ("$ONE$ONE",           &["xx"]),
        ("  ",                 &[]),
        ("a << b",             &["a", "<< b"]),
    ];
    for (text, want) in cases {
        assert_eq!(process_words(text, &env).expect("the cases are words"), want, "{text}");
    }
}

#[test]
fn backtick_escapes() {
    let lexer = Lexer::new('`');
    let got = lexer.process("a`$b\\c `\"", &()).expect("a word");
    assert_eq!(got.text, "a$b\\c \"");
}

#[test]
fn what_was_used() {
    let mut env = std::collections::BTreeMap::new();
    env.insert("A".to_owned(), "1".to_owned());
    let got = Lexer::new('\\').process("$A ${B} ${C:-x} ${D#x} $1", &env).expect("a word");
    assert_eq!(got.matched.into_iter().collect::<Vec<_>>(), ["A"]);
    assert_eq!(got.unmatched.into_iter().collect::<Vec<_>>(), ["B", "D"]);
}

#[test]
fn growth_and_depth_are_bounded() {
    let env = [format!("A={}", "x".repeat(1 << 19))];
    assert!(process_word("$A$A", &env).is_ok());
    assert!(process_word("$A$A$A", &env).is_err());
    assert!(process_word(&"${a:-".repeat(100_000), &[]).is_err());
    assert!(process_word(&("${a:-".repeat(50) + &"}".repeat(50)), &[]).is_ok());
}

#[test]
fn faults_have_a_place() {
    let error = process_word("abc ${x:?gone} d", &[]).expect_err("x is not set");
    assert_eq!((error.range, error.message.as_str()), (4..14, "x: gone"));
}
