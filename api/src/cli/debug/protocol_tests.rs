use super::*;

#[test]
fn questions_and_answers() {
    #[rustfmt::skip]
    let cases = [
        ("word",            r#"{"op":"word","text":"a $B 'c'","env":["B=x"]}"#,   r#"{"word":"a x c"}"#),
        ("word, no env",    r#"{"op":"word","text":"he\\$PWD"}"#,                 r#"{"word":"he$PWD"}"#),
        ("bad word",        r#"{"op":"word","text":"he'llo"}"#,                   r#"{"error":"the single quote is never closed"}"#),
        ("words",           r#"{"op":"words","text":"a $B","env":["B=x y"]}"#,    r#"{"words":["a","x","y"]}"#),
        ("ignored",         r#"{"op":"ignore","patterns":["*","!a"],"path":"b/c"}"#, r#"{"match":true}"#),
        ("brought back",    r#"{"op":"ignore","patterns":["*","!a"],"path":"a"}"#, r#"{"match":false}"#),
        ("bad pattern",     r#"{"op":"ignore","patterns":["["],"path":"a"}"#,     r#"{"error":"line 1: `[` is no pattern"}"#),
        ("ast",             r#"{"op":"dump-ast","dockerfile":"FROM a AS b\nCMD [\"x\"]"}"#, r#"{"ast":"(from \"a\" \"AS\" \"b\")\n(cmd \"x\")\n"}"#),
        ("no ast",          r#"{"op":"dump-ast","dockerfile":"ENV a"}"#,          r#"{"error":"line 1: ENV needs a value for `a`"}"#),
        ("check",           r#"{"op":"check","dockerfile":"FROM a"}"#,            "{}"),
        ("bad check",       r#"{"op":"check","dockerfile":"FROM a\nCOPPY a b\nADD x"}"#, r#"{"error":"line 2: unknown instruction `COPPY`; line 3: ADD needs a destination behind the source"}"#),
        ("quotes later",    r#"{"op":"check","dockerfile":"FROM a\nENV a=\"b\nEXPOSE x"}"#, "{}"),
        ("no strings",      r#"{"op":"check","dockerfile":"FROM a\nCMD [\"a\", 1]"}"#, r#"{"error":"line 2: the exec form holds something else than strings"}"#),
        ("lint",            r#"{"op":"lint","dockerfile":"FROM a as b\nMAINTAINER x","dockerignore":"","args":{},"target":"b"}"#, r#"{"lint":[["FromAsCasing",1],["MaintainerDeprecated",2]]}"#),
        ("lint of all",     r#"{"op":"lint","dockerfile":"FROM a\nCMD x\nFROM a\nCMD y"}"#, r#"{"lint":[["JSONArgsRecommended",2],["JSONArgsRecommended",4]]}"#),
        ("bad lint",        r#"{"op":"lint","dockerfile":"FROM"}"#,               r#"{"error":"FROM needs an image"}"#),
    ];
    for (name, question, want) in cases {
        assert_eq!(answer(question.as_bytes()).to_string(), want, "{name}");
    }
}

#[test]
fn what_is_no_question_is_an_error_and_not_the_end() {
    let mut output = Vec::new();
    let input = b"no json\n{\"op\":\"nothing\"}\n\xff\n\n{\"op\":\"word\",\"text\":\"a\"}\n";
    serve(input.as_slice(), &mut output).expect("a Vec takes all");
    let output = String::from_utf8(output).expect("JSON is UTF-8");
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers.len(), 4, "{output}");
    assert!(answers[..3].iter().all(|answer| answer.starts_with("{\"error\":")), "{output}");
    assert_eq!(answers[3], r#"{"word":"a"}"#);
}
