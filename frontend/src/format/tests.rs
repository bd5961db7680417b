use super::*;

#[test]
fn laid_out() {
    #[rustfmt::skip]
    let cases = [
        ("keywords",             "from a as B\nrun x\n",                        "FROM a AS B\nRUN x\n"),
        ("blanks",               "  FROM   a\t AS  b  \n",                      "FROM a AS b\n"),
        ("last line end",        "FROM a",                                      "FROM a\n"),
        ("empty lines",          "\n\nFROM a\n\n\n\nRUN x\n\n\n",               "FROM a\n\nRUN x\n"),
        ("between stages",       "FROM a\nFROM b\n# c\nFROM c\n",               "FROM a\n\nFROM b\n\n# c\nFROM c\n"),
        ("stage under comments", "FROM a\n# x\n\n# c\nFROM c\n",                "FROM a\n# x\n\n# c\nFROM c\n"),
        ("global arguments",     "ARG a\nFROM $a\n",                            "ARG a\nFROM $a\n"),
        ("comments",             "   # a \n\nFROM a\n  #b\n",                   "# a\n\nFROM a\n#b\n"),
        ("directives",           "#SYNTAX = x\n#escape=`\nFROM a\n",            "# syntax=x\n# escape=`\nFROM a\n"),
        ("no directive",         "\n# escape=`\nFROM a\n",                      "\n# escape=`\nFROM a\n"),
        ("byte order mark",      "\u{feff}FROM a\n",                            "FROM a\n"),
        ("carriage returns",     "FROM a\r\nENV a=b \\\r\n c=d\r\n",            "FROM a\r\nENV a=b \\\r\n    c=d\r\n"),
        ("flags",                "FROM a\nCOPY   --from=x   --link  a   b\n",   "FROM a\nCOPY --from=x --link a b\n"),
        ("quoted flag",          "FROM a\nCOPY --chown=\"a b\"  c d\n",         "FROM a\nCOPY --chown=\"a b\" c d\n"),
        ("continued words",      "FROM a\nENV a=b\\\n \\\n\n# c\n   c='d  e'\n",  "FROM a\nENV a=b \\\n    # c\n    c='d  e'\n"),
        ("split word",           "FROM a\nCOPY a\\\nb c\n",                     "FROM a\nCOPY a\\\nb c\n"),
        ("command as written",   "FROM a\nRUN   a  \\  \n   b   c \\\n\n # x  \n  d\n", "FROM a\nRUN a  \\\n   b   c \\\n # x\n  d\n"),
        ("command below",        "FROM a\nRUN \\\n  a \\\n  b\n",               "FROM a\nRUN \\\n  a \\\n  b\n"),
        ("one line below",       "FROM a\nRUN \\\n  a\n",                     "FROM a\nRUN \\\n    a\n"),
        ("exec form",            "FROM a\nCMD  [ \"a\",\"b\" ,  \"\\\"\" ]\n",    "FROM a\nCMD [\"a\", \"b\", \"\\\"\"]\n"),
        ("empty exec form",      "FROM a\nCMD  [  ]\n",                         "FROM a\nCMD []\n"),
        ("long exec form",       "FROM a\nCMD [ \\\n  \"a\" \\ \n]\n",          "FROM a\nCMD [ \\\n  \"a\" \\\n]\n"),
        ("bracket in a flag",    "FROM a\nCOPY --exclude=[a]  [\"b\",\"c\"]\n", "FROM a\nCOPY --exclude=[a] [\"b\", \"c\"]\n"),
        ("health check",         "FROM a\nhealthcheck --retries=1   cmd  a  b\n", "FROM a\nHEALTHCHECK --retries=1 CMD a  b\n"),
        ("no health check",      "FROM a\nhealthcheck none\n",                  "FROM a\nHEALTHCHECK NONE\n"),
        ("health exec",          "FROM a\nHEALTHCHECK CMD [\"a\",\"b\"]\n",     "FROM a\nHEALTHCHECK CMD [\"a\", \"b\"]\n"),
        ("old form",             "FROM a\nENV  a   b  c\n",                     "FROM a\nENV a b  c\n"),
        ("trigger as kept",      "FROM a\nonbuild   run  x  y\n",               "FROM a\nONBUILD run  x  y\n"),
        ("heredoc",              "FROM a\nrun   <<E  \n  x  \n\nE\nCMD x\n",    "FROM a\nRUN <<E\n  x  \n\nE\nCMD x\n"),
        ("heredocs of copy",     "FROM a\ncopy  <<a   <<b  /x\n1\na\n2\nb",     "FROM a\nCOPY <<a <<b /x\n1\na\n2\nb\n"),
        ("open continuation",    "FROM a\nRUN x \\\n# c\n",                     "FROM a\nRUN x\n# c\n"),
        ("label",                "FROM a\nlabel a=  b=c\n",                     "FROM a\nLABEL a= b=c\n"),
        ("argument comments",    "FROM a\n # a it is\nARG   a\n",               "FROM a\n# a it is\nARG a\n"),
    ];
    for (name, source, want) in cases {
        assert_eq!(format(source).as_deref(), Ok(want), "{name}");
        assert_eq!(format(want).as_deref(), Ok(want), "{name}: twice");
    }
}

#[test]
fn a_file_with_errors_is_refused() {
    let errors = format("FROM a\nCPOY a b\nRUN x").expect_err("there is an error");
    assert_eq!(errors.len(), 1);
}

#[test]
fn what_cannot_be_laid_out_stays() {
    // The comment is part of the instruction that the mark before it begins.
    let source = "FROM a\n\\\n# a comment\n  RUN   x\n";
    let formatted = format(source).expect("a good file");
    assert_eq!(format(&formatted).as_deref(), Ok(formatted.as_str()));
    // Without the mark above them the comments would be directives, and wrong ones.
    let source = "\\\n# escape=#`\n# escape=\\\nFROM busybox\n";
    assert_eq!(format(source).as_deref(), Ok(source));
}
