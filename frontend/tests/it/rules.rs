//! Every rule, held against what `rbuild check --explain` shows of it, and mending.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use frontend::{
    BaseImage, CheckRequest, IgnoreRules, LowerOptions, Mended, Origin, Platform, ResolvedBase,
    Rule, RuleSet,
};

use crate::lint::cases;
use crate::support::{options, resolve};

/// What the explanations presume: an ignore file, and an image for another processor.
fn presumed() -> (LowerOptions, BTreeMap<BaseImage, ResolvedBase>) {
    let options = LowerOptions {
        ignore: IgnoreRules::parse("*.log\n").expect("a pattern"),
        build_args: BTreeMap::from([("TAG".to_owned(), "3.20".to_owned())]),
        ..options("")
    };
    let platform = Platform::parse("linux/amd64").expect("a platform");
    let image = BaseImage { reference: "docker.io/example/arm64-only:1".to_owned(), platform };
    let mut base = resolve(&image);
    "arm64".clone_into(&mut base.config.architecture);
    (options, BTreeMap::from([(image, base)]))
}

fn speaks(rule: &Rule, source: &str) -> bool {
    let (options, bases) = presumed();
    let rules = RuleSet::Named(vec![rule.name]);
    let request = CheckRequest { options: &options, bases: &bases, rules: &rules };
    let checked = frontend::check(source, &request);
    assert!(!checked.has_faults(), "{}: {:?}", rule.name, checked.findings);
    checked.findings.iter().any(|finding| finding.diagnostic.rule == Some(rule.name))
}

fn mend(rule: &Rule, source: &str) -> Mended {
    let (options, bases) = presumed();
    let rules = RuleSet::Named(vec![rule.name]);
    frontend::fix(source, &CheckRequest { options: &options, bases: &bases, rules: &rules })
}

#[test]
fn every_explanation_is_true() {
    let mut count = BTreeMap::<&str, usize>::new();
    for rule in frontend::rules() {
        assert!(speaks(rule, rule.before), "{} does not speak of its example", rule.name);
        assert!(!speaks(rule, rule.after), "{} speaks of its mended example", rule.name);
        assert!(rule.why.ends_with('.') && rule.why.len() > 40, "{}", rule.name);
        assert!(!rule.why.contains("://"), "{} needs no link", rule.name);
        let is_buildkit = matches!(rule.origin, Origin::BuildKit | Origin::Experimental);
        *count.entry(if is_buildkit { "buildkit" } else { "practice" }).or_default() += 1;
        assert_eq!(rule.url().is_some(), is_buildkit);
    }
    assert_eq!(count["buildkit"], 22);
    assert!(count["practice"] >= 35, "{count:?}");
}

#[test]
fn what_is_said_to_be_mendable_is_mended() {
    for rule in frontend::rules() {
        let mended = mend(rule, rule.before);
        assert_eq!(!mended.mended.is_empty(), rule.is_mendable, "{}", rule.name);
        if rule.is_mendable {
            assert_eq!(mended.text, rule.after, "{}", rule.name);
            let mut left = mended.left.findings.iter();
            assert!(left.all(|finding| finding.diagnostic.rule.is_none()), "{}", rule.name);
        }
    }
}

#[test]
fn mending() {
    let text = include_str!("../../../testdata/check/fix.txt");
    let cases = cases(text);
    assert!(cases.len() >= 15, "only {} cases", cases.len());
    let mut failures = String::new();
    for case in &cases {
        let options = case.lower_options();
        let bases = BTreeMap::new();
        let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::All };
        let mended = frontend::fix(&case.dockerfile, &request);
        if mended.text.trim_end() != case.want {
            let _ = writeln!(failures, "== {}\n-- got\n{}", case.name, mended.text);
        }
        let again = frontend::fix(&mended.text, &request);
        assert_eq!(again.text, mended.text, "{} is mended at once", case.name);
        assert!(again.mended.is_empty(), "{}", case.name);
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Names and codes of the rules are in other people's comments and settings.
#[test]
fn codes_of_hadolint() {
    #[rustfmt::skip]
    let known = [
        "DL3000", "DL3001", "DL3002", "DL3003", "DL3004", "DL3005", "DL3006", "DL3007", "DL3008",
        "DL3009", "DL3010", "DL3012", "DL3013", "DL3014", "DL3015", "DL3016", "DL3017", "DL3018",
        "DL3019", "DL3020", "DL3022", "DL3024", "DL3025", "DL3027", "DL3028", "DL3029", "DL3030",
        "DL3031", "DL3032", "DL3033", "DL3034", "DL3035", "DL3036", "DL3037", "DL3038", "DL3039",
        "DL3040", "DL3041", "DL3042", "DL3044", "DL3045", "DL3046", "DL3047", "DL3048", "DL3057",
        "DL3059", "DL3060", "DL3062", "DL4000", "DL4001", "DL4003", "DL4004", "DL4005", "DL4006",
    ];
    for code in known {
        assert!(frontend::rule(code).is_ok(), "{code}");
    }
}

/// Texts that look like Dockerfiles, with whatever between.
fn dockerfiles() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;

    let line = prop_oneof![
        "(FROM|from|From) [a-z$:{}]{1,8}( (as|AS) [a-zA-Z]{1,4})?",
        "(RUN|run) (apt|apt-get|apk|pip|dnf|yarn|cd|a)( (install|add|-y|update|&&|;|'|\"|\\$\\(|<<E|x|\\\\)){0,7}",
        "(ENV|LABEL|env) [a-zA-Z$]{1,5}[ =][a-z \"'$\\\\]{0,8}",
        "(CMD|ENTRYPOINT) [a-z \\[\\]\",$]{0,12}",
        "(EXPOSE|MAINTAINER|WORKDIR|USER|COPY|ADD) [a-zA-Z0-9:/$ .\"]{0,12}",
        "# (check=skip=all|hadolint ignore=DL3008|escape=`|.{0,8})",
        "[ \\t]{0,3}",
        "E",
        "\\PC{0,12}",
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just(" \\\n"), Just("\\\n\n")];
    prop::collection::vec((line, end), 0..14).prop_map(|lines| {
        lines.into_iter().fold(String::new(), |text, (line, end)| text + &line + end)
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    /// Checking never panics and spans lie in the text; mending keeps a good file good, comes to
    /// an end, and leaves what is mended alone.
    #[test]
    fn any_text_is_checked_and_mended(source in dockerfiles()) {
        let (options, bases) = presumed();
        let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::All };
        let checked = frontend::check(&source, &request);
        for finding in &checked.findings {
            let spans = finding.edits.iter().map(|edit| edit.span).chain([finding.diagnostic.span]);
            for span in spans {
                proptest::prop_assert!(source.get(span.start..span.end).is_some(), "{span:?}");
            }
        }
        let mended = frontend::fix(&source, &request);
        proptest::prop_assert_eq!(mended.left.has_faults(), checked.has_faults());
        if mended.mended.is_empty() {
            proptest::prop_assert_eq!(&mended.text, &source);
        }
        let again = frontend::fix(&mended.text, &request);
        proptest::prop_assert_eq!(again.text, mended.text);
    }
}

/// A file can have as many findings as lines; none of them may cost a look at all the others.
#[test]
fn large_files_are_checked_in_proportion() {
    let time = |lines: usize| {
        let mut source = "FROM a:1 AS s0\n".to_owned();
        for line in 0..lines {
            let _ = writeln!(source, "ENV A b\nFROM a:1 as s{}\nCMD x", line + 1);
        }
        let (options, bases) = presumed();
        let request = CheckRequest { options: &options, bases: &bases, rules: &RuleSet::All };
        let since = std::time::Instant::now();
        let mended = frontend::fix(&source, &request);
        assert_eq!(mended.mended.len(), 3 * lines);
        since.elapsed()
    };
    // The best of some runs: whatever else the machine does comes and goes.
    let best = |lines| (0..4).map(|_| time(lines)).min().unwrap_or_default();
    let (small, large) = (best(100), best(1000));
    assert!(large < 60 * small, "{small:?} for 100 lines, {large:?} for 1000");
}
