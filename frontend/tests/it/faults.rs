//! What keeps a file from being read, and what keeps only a stage from being built: the line that
//! BuildKit draws between its parser and its lowering.

use frontend::{Diagnostic, LowerOptions, Parsed};

use crate::support::options;

#[test]
fn faults_of_the_text() {
    #[rustfmt::skip]
    let refused = [
        "", "# a comment\n", "FOO bar", "RUN x",
        "FROM", "FROM a b", "FROM a AS 1b", "FROM a AS b c", "FROM --foo=x a", "FROM --platform a",
        "FROM a\nWORKDIR", "FROM a\nUSER", "FROM a\nSTOPSIGNAL", "FROM a\nMAINTAINER",
        "FROM a\nENV", "FROM a\nENV x", "FROM a\nENV =x", "FROM a\nENV a=b c", "FROM a\nLABEL =x",
        "FROM a\nARG", "FROM a\nARG =x", "FROM a\nEXPOSE", "FROM a\nVOLUME", "FROM a\nVOLUME [\"\"]",
        "FROM a\nCOPY x", "FROM a\nADD x", "FROM a\nCOPY [\"x\"]", "FROM a\nCOPY x <<E\nE",
        "FROM a\nCOPY --chown x y", "FROM a\nCOPY --link= x y", "FROM a\nCOPY --link=1 x y",
        "FROM a\nCOPY --from=a --from=b x y", "FROM a\nCOPY --form=a x y", "FROM a\nADD --from=a x y",
        "FROM a\nMAINTAINER --boo me", "FROM a\nCMD --boo x", "FROM a\nENV --boo a=b",
        "FROM a\nHEALTHCHECK", "FROM a\nHEALTHCHECK CMD", "FROM a\nHEALTHCHECK CMD []",
        "FROM a\nHEALTHCHECK FOO x", "FROM a\nHEALTHCHECK NONE x",
        "FROM a\nHEALTHCHECK --interval=50ns CMD x", "FROM a\nHEALTHCHECK --interval=x CMD x",
        "FROM a\nHEALTHCHECK --retries=-1 CMD x", "FROM a\nHEALTHCHECK --foo=x CMD x",
        "FROM a\nSHELL", "FROM a\nSHELL []", "FROM a\nSHELL bash",
        "FROM a\nONBUILD", "FROM a\nONBUILD FROM b", "FROM a\nONBUILD MAINTAINER b",
        "FROM a\nONBUILD ONBUILD RUN x", "FROM a\nONBUILD ENV a", "FROM a\nONBUILD --x RUN x",
        "FROM a\nRUN --mount= x", "FROM a\nRUN --mount=from=$x x", "FROM a\nRUN --mount x",
        "FROM a\nRUN --mount=target=\\\"/x\\\" x", "FROM a\nRUN --network=foo x",
        "FROM a\nRUN --security=foo x", "FROM a\nRUN --device=a,b=c x", "FROM a\nRUN --foo x",
        "FROM a\nCOPY [1, 2]", "FROM a\nVOLUME [null]", "FROM a\nSHELL [{}]",
        "FROM a\nHEALTHCHECK CMD [true]",
        "FROM a\nRUN <<E\nx", "# escape=x\nFROM a", "# syntax=a\n# syntax=b\nFROM a",
        "# check=skip=all\n# check=skip=all\nFROM a",
    ];
    for source in refused {
        assert!(frontend::parse(source).text_faults().next().is_some(), "{source:?}");
    }
    let long = "x".repeat(1 << 16);
    for source in [format!("FROM a\nRUN {long}\n"), format!("FROM a\nRUN <<E\n{long}\nE\n")] {
        assert!(frontend::parse(&source).text_faults().next().is_some());
        assert!(frontend::dump_ast(&source).is_err());
    }
    let longest = format!("FROM a\n{}\n", "#".repeat((1 << 16) - 1));
    assert!(!frontend::parse(&longest).has_errors());
}

#[test]
fn faults_of_values_are_none_of_the_text() {
    #[rustfmt::skip]
    let accepted = [
        "ARG a", "# check=skp=all\nFROM a", "FROM \"a", "FROM ${a", "FROM --platform=x/y/z/w a",
        "FROM a\nENV a=\"b", "FROM a\nENV a=${b", "FROM a\nLABEL a='b", "FROM a\nARG a='b",
        "FROM a\nWORKDIR ${a", "FROM a\nUSER 'a", "FROM a\nEXPOSE x", "FROM a\nEXPOSE 70000",
        "FROM a\nSTOPSIGNAL FOO", "FROM a\nCOPY --chmod=9 x y", "FROM a\nCOPY --from=$b x y",
        "FROM a\nCOPY \"x y", "FROM a\nRUN --mount=type=foo x", "FROM a\nRUN --mount=foo=bar x",
        "FROM a\nRUN --mount=type=secret x", "FROM a\nRUN []", "FROM a\nONBUILD FOO",
        "FROM a\nONBUILD COPY x", "FROM a\nONBUILD RUN --foo x", "FROM a\nVOLUME ${",
    ];
    for source in accepted {
        let parsed = frontend::parse(source);
        assert_eq!(parsed.text_faults().next(), None, "{source:?}");
        let is_harmless = source.contains("ONBUILD") || source.contains("x/y/z/w");
        assert_eq!(parsed.has_errors(), !is_harmless, "{source:?}: {:?}", parsed.diagnostics);
    }
    #[rustfmt::skip]
    let silent = [
        "FROM a\nRUN", "FROM a\nCMD", "FROM a\nENTRYPOINT []", "FROM a\nHEALTHCHECK NONE []",
        "FROM a\nHEALTHCHECK --interval=0ms CMD x", "FROM a\nHEALTHCHECK --interval=1ms CMD x",
        "FROM a\nRUN ['a', \"b\"]", "FROM a\nRUN [\"a\"] b", "FROM a\nCOPY -- --x y",
        "FROM a\nRUN --mount=type=cache,target=$x x", "FROM a\nRUN --device=v.com/d=foo,required x",
        "FROM a\nARG --x a", "FROM a\nSTOPSIGNAL --x INT", "FROM a\nHEALTHCHECK --x NONE",
    ];
    for source in silent {
        let parsed = frontend::parse(source);
        assert!(!parsed.has_errors(), "{source:?}: {:?}", parsed.diagnostics);
    }
}

fn messages(parsed: &Parsed, options: &LowerOptions) -> Vec<String> {
    frontend::faults(parsed, options).into_iter().map(|fault: Diagnostic| fault.message).collect()
}

#[test]
fn a_stage_that_is_not_needed_may_be_wrong() {
    let source = "FROM a AS bad\nEXPOSE x\nONBUILD FOO\nFROM b AS good\nRUN y\nFROM bad AS heir\n";
    let parsed = frontend::parse(source);
    assert!(parsed.has_errors());
    let port = "`x` is no port: expected a number up to 65535";
    for (target, want) in [("good", vec![]), ("bad", vec![port]), ("heir", vec![port])] {
        let options = LowerOptions { target: Some(target.to_owned()), ..options("") };
        assert_eq!(messages(&parsed, &options), want, "{target}");
    }
    // A fault of FROM is everybody's.
    let parsed = frontend::parse("FROM ${a AS bad\nFROM b AS good\n");
    assert_eq!(messages(&parsed, &options("")).len(), 1);
}

#[test]
fn a_given_argument_needs_no_default() {
    let source = "FROM a\nARG x='y\n";
    let given = [("x".to_owned(), "1".to_owned())].into();
    assert!(frontend::parse(source).has_errors());
    assert!(!frontend::parse_with(source, &given).has_errors());
}

#[test]
fn a_trigger_that_cannot_run_fails_where_it_would_run() {
    let source = "FROM busybox AS a\nONBUILD FOO bar\nFROM a\n";
    let parsed = frontend::parse(source);
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let options = LowerOptions { target: Some("a".to_owned()), ..options(source) };
    let graph = crate::support::lower(&parsed.dockerfile, &options).expect("the stage is good");
    assert_eq!(graph.output.config.config.on_build, Some(vec!["FOO bar".to_owned()]));
    let options = LowerOptions { target: None, ..options };
    let faults = crate::support::lower(&parsed.dockerfile, &options).expect_err("a bad trigger");
    assert_eq!(faults[0].message, "the stage below leaves a trigger that cannot run: `FOO bar`");
}
