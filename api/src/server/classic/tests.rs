//! The classic stream against what Docker's daemon was seen to send.

use builder::{
    ErrorKind, OutputBytes, OutputStream, PlannedStep, SourceText, Transfer, TransferPhase,
};

use super::steps::HELD_LIMIT;
use super::*;

fn planned(texts: &[(&str, bool)]) -> Event {
    let total = texts.len();
    let step = |(index, &(text, has_work)): (usize, &(&str, bool))| PlannedStep {
        stage: None,
        number: index + 1,
        total,
        text: text.to_owned(),
        span: (0, 0),
        has_work,
        inputs: Vec::new(),
    };
    Event::Planned { steps: texts.iter().enumerate().map(step).collect() }
}

fn started(step: usize) -> Event {
    Event::StepStarted { step }
}

fn output(step: usize, bytes: &[u8]) -> Event {
    let data = OutputBytes::new(bytes.to_vec());
    Event::StepOutput { step, stream: OutputStream::Stdout, data }
}

fn executed(step: usize, id: &str) -> Event {
    let outcome = StepOutcome::Executed { reason: None };
    Event::StepFinished { step, outcome, millis: 5, id: id.to_owned() }
}

fn cached(step: usize, id: &str) -> Event {
    Event::StepFinished { step, outcome: StepOutcome::Cached, millis: 0, id: id.to_owned() }
}

fn finished() -> Event {
    Event::Finished(Finished {
        image_id: format!("sha256:{}", "f8818379ac8b".repeat(5) + "0000"),
        tags: vec!["p41/app-node:1".to_owned()],
        ..Finished::default()
    })
}

fn failure() -> Failure {
    Failure {
        kind: ErrorKind::User,
        causes: vec!["RUN npm install failed".to_owned(), "exited".to_owned()],
        help: None,
        diagnostics: Vec::new(),
        step: Some(1),
        exit_code: Some(7),
        log_tail: vec!["npm ERR!".to_owned()],
        kept_by: None,
    }
}

/// Lines without their ends, the random name of the sandbox replaced.
fn run(quiet: bool, events: &[Event]) -> Vec<String> {
    let mut classic = Classic::new(1, quiet, Removal::AfterSuccess);
    let sandbox = classic.sandbox(1);
    let text: String = events.iter().map(|event| classic.push(event)).collect();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    lines.iter().map(|line| line.replace(&sandbox, "SANDBOX")).collect()
}

const END: [&str; 3] = [
    r#"{"aux":{"ID":"sha256:f8818379ac8bf8818379ac8bf8818379ac8bf8818379ac8bf8818379ac8b0000"}}"#,
    r#"{"stream":"Successfully built f8818379ac8b\n"}"#,
    r#"{"stream":"Successfully tagged p41/app-node:1\n"}"#,
];

fn with_end<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    [lines, &END].concat()
}

#[test]
fn a_build_reads_as_in_docker() {
    let events = [
        planned(&[("FROM scratch AS base", true), ("RUN echo hello", true), ("CMD sh", false)]),
        executed(0, "aaaaaaaaaaaa"),
        started(1),
        output(1, b"hello\n"),
        executed(1, "9a4e033733e2"),
        executed(2, "9a4e033733e3"),
        finished(),
    ];
    let want = with_end(&[
        r#"{"stream":"Step 1/3 : FROM scratch AS base"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> \n"}"#,
        r#"{"stream":"Step 2/3 : RUN echo hello"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> Running in SANDBOX\n"}"#,
        r#"{"stream":"hello\n"}"#,
        r#"{"stream":"Removing intermediate container SANDBOX\n"}"#,
        r#"{"stream":" ---> 9a4e033733e2\n"}"#,
        r#"{"stream":"Step 3/3 : CMD sh"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> 9a4e033733e3\n"}"#,
    ]);
    assert_eq!(run(false, &events), want);
}

#[test]
fn a_cached_build_says_so_for_every_step_but_from() {
    let events = [
        planned(&[("FROM busybox", true), ("RUN echo hello", true), ("CMD sh", false)]),
        cached(0, "aaaaaaaaaaaa"),
        cached(1, "9a4e033733e2"),
        executed(2, "9a4e033733e3"),
        finished(),
    ];
    let want = with_end(&[
        r#"{"stream":"Step 1/3 : FROM busybox"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> aaaaaaaaaaaa\n"}"#,
        r#"{"stream":"Step 2/3 : RUN echo hello"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> Using cache\n"}"#,
        r#"{"stream":" ---> 9a4e033733e2\n"}"#,
        r#"{"stream":"Step 3/3 : CMD sh"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> Using cache\n"}"#,
        r#"{"stream":" ---> 9a4e033733e3\n"}"#,
    ]);
    assert_eq!(run(false, &events), want);
}

#[test]
fn steps_side_by_side_come_out_one_after_another() {
    let events = [
        planned(&[("FROM a", true), ("COPY a b", true), ("COPY b c", true)]),
        cached(0, "a0"),
        started(2),
        started(1),
        executed(2, "a2"),
        executed(1, "a1"),
        finished(),
    ];
    let want = with_end(&[
        r#"{"stream":"Step 1/3 : FROM a"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> a0\n"}"#,
        r#"{"stream":"Step 2/3 : COPY a b"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> a1\n"}"#,
        r#"{"stream":"Step 3/3 : COPY b c"}"#,
        r#"{"stream":"\n"}"#,
        r#"{"stream":" ---> a2\n"}"#,
    ]);
    assert_eq!(run(false, &events), want);
}

#[test]
fn what_is_held_back_is_bounded_and_never_lost() {
    let mut classic = Classic::new(1, false, Removal::AfterSuccess);
    classic.push(&planned(&[("FROM a", true), ("RUN b", true), ("RUN c", true)]));
    classic.push(&started(1));
    classic.push(&started(2));
    let chunk = vec![b'z'; 64 << 10];
    let mut got = 0;
    for _ in 0..200 {
        got += classic.push(&output(2, &chunk)).matches('z').count();
        assert!(classic.steps.held <= HELD_LIMIT + (1 << 20));
    }
    got += classic.push(&finished()).matches('z').count();
    assert_eq!(got, 200 * chunk.len());
}

#[test]
fn characters_cut_between_events_are_put_together() {
    let events = [
        planned(&[("FROM a", true), ("RUN b", true)]),
        cached(0, "a0"),
        started(1),
        output(1, b"\xc3"),
        output(1, b"\xb1 \xff\xe2\x82"),
        output(1, b"\xac"),
        output(1, b"\xc3"),
        executed(1, "a1"),
    ];
    let lines = run(false, &events).join("\n");
    for want in ["ñ \u{fffd}\"", "\"€\"", "\"\u{fffd}\""] {
        assert!(lines.contains(want), "{want} is not in {lines}");
    }
}

#[test]
fn a_failure_has_dockers_words_and_code() {
    let begun = [
        planned(&[("FROM a", true), ("RUN npm install", true)]),
        cached(0, "a0"),
        started(1),
        Event::StepFailed { step: 1, millis: 3 },
    ];
    let events = [&begun[..], &[Event::Failed(failure())]].concat();
    let want = r#"{"error":"The command '/bin/sh -c npm install' returned a non-zero code: 7","errorDetail":{"code":7,"message":"The command '/bin/sh -c npm install' returned a non-zero code: 7"}}"#;
    assert_eq!(run(false, &events).last().unwrap(), want);

    let quiet = run(true, &events);
    assert_eq!(quiet, [r#"{"stream":"npm ERR!\n"}"#, want]);
}

#[test]
fn removal_is_told_as_it_was_asked_for() {
    let begun = [planned(&[("FROM a", true), ("RUN true", true)]), cached(0, "a0"), started(1)];
    let good = [&begun[..], &[executed(1, "a1")]].concat();
    let bad = [&begun[..], &[Event::StepFailed { step: 1, millis: 3 }]].concat();
    let cases = [
        (Removal::Never, [false, false]),
        (Removal::AfterSuccess, [true, false]),
        (Removal::Always, [true, true]),
    ];
    for (removal, want) in cases {
        let told = [&good, &bad].map(|events| {
            let mut classic = Classic::new(1, false, removal);
            let text: String = events.iter().map(|event| classic.push(event)).collect();
            text.contains("Removing intermediate container")
        });
        assert_eq!(told, want, "{removal:?}");
    }
}

#[test]
fn faults_of_the_dockerfile_have_their_place() {
    let source = SourceText { name: "sub/Dockerfile".to_owned(), text: String::new() };
    let fault = SourceDiagnostic {
        is_error: true,
        rule: None,
        message: "unknown instruction `CPOY`".to_owned(),
        help: Some("did you mean `COPY`?".to_owned()),
        span: (0, 4),
        line_column: (3, 1),
    };
    let given = Failure { diagnostics: vec![fault], step: None, exit_code: None, ..failure() };
    let mut classic = Classic::new(1, false, Removal::AfterSuccess);
    assert_eq!(classic.push(&Event::Source(source)), "");
    assert_eq!(
        classic.message(&given),
        "sub/Dockerfile:3:1: unknown instruction `CPOY` (did you mean `COPY`?)"
    );
}

#[test]
fn a_quiet_build_is_one_object() {
    let events = [planned(&[("FROM a", true)]), cached(0, "a0"), finished()];
    let want =
        r#"{"stream":"sha256:f8818379ac8bf8818379ac8bf8818379ac8bf8818379ac8bf8818379ac8b0000\n"}"#;
    assert_eq!(run(true, &events), [want]);
}

#[test]
fn pulls_within_a_build_have_dockers_form() {
    let transfer = |phase| {
        let id = "4f4fb700ef54".to_owned();
        Event::Transfer(Transfer { id, phase, current: 1, total: Some(2) })
    };
    let lines = run(false, &[transfer(TransferPhase::Downloading), transfer(TransferPhase::Done)]);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(r#""status":"Downloading""#), "{lines:?}");
    assert!(lines[1].contains(r#""status":"Download complete""#), "{lines:?}");
}

#[test]
fn a_stage_upon_a_stage_shows_what_that_came_to() {
    let mut plan = planned(&[
        ("FROM a AS one", true),
        ("ENV A=b", false),
        ("FROM One AS two", false),
        ("COPY a b", true),
    ]);
    if let Event::Planned { steps } = &mut plan {
        for (step, stage) in steps.iter_mut().zip(["one", "one", "two", "two"]) {
            step.stage = Some(stage.to_owned());
        }
    }
    // What needs no work ends at once, long before the stage that it stands upon.
    let events =
        [plan, executed(2, ""), cached(0, "a0"), executed(1, "a1"), executed(3, "a3"), finished()];
    let lines = run(false, &events);
    let shown: Vec<_> = lines.iter().filter(|line| line.contains(" ---> a")).collect();

    let want = ["a0", "a1", "a1", "a3"].map(|id| format!(r#"{{"stream":" ---> {id}\n"}}"#));
    assert_eq!(shown, want.iter().collect::<Vec<_>>());
}

#[test]
fn a_stage_upon_a_cached_stage_is_cached() {
    let mut plan = planned(&[
        ("FROM a AS one", true),
        ("COPY a b", true),
        ("FROM one", false),
        ("ENV A=b", false),
    ]);
    if let Event::Planned { steps } = &mut plan {
        for (step, stage) in steps.iter_mut().zip([Some("one"), Some("one"), None, None]) {
            step.stage = stage.map(str::to_owned);
        }
    }
    let events =
        [plan, executed(2, ""), executed(3, "a3"), cached(0, "a0"), cached(1, "a1"), finished()];
    let lines = run(false, &events);
    assert_eq!(lines.iter().filter(|line| line.contains("Using cache")).count(), 2, "{lines:?}");
    assert!(lines.contains(&r#"{"stream":" ---> a3\n"}"#.to_owned()), "{lines:?}");
}

#[test]
fn a_build_that_breaks_off_says_so() {
    let mut classic = Classic::new(1, false, Removal::AfterSuccess);
    classic.push(&planned(&[("FROM a", true), ("RUN b", true)]));
    classic.push(&started(1));
    let text = classic.broken_off();
    assert!(text.contains("Step 2/2") && text.contains("this is a bug in rbuild"), "{text}");
}

#[test]
fn a_failed_command_is_told_as_it_was_run() {
    #[rustfmt::skip]
    let cases = [
        ("ENV A=b",                     "RUN npm install",      "/bin/sh -c npm install"),
        ("ENV A=b",                     r#"RUN ["npm", "ci"]"#, "npm ci"),
        (r#"SHELL ["/bin/ash", "-ec"]"#, "RUN npm ci",          "/bin/ash -ec npm ci"),
        (r#"shell ["/bin/ash", "-ec"]"#, r#"run ["npm"]"#,      "npm"),
    ];
    for (before, command, want) in cases {
        let mut plan = planned(&[(before, false), (command, true)]);
        if let Event::Planned { steps } = &mut plan {
            steps[1].span = (9, 20);
        }
        let mut classic = Classic::new(1, false, Removal::AfterSuccess);
        classic.push(&plan);
        let want = format!("The command '{want}' returned a non-zero code: 7");
        assert_eq!(classic.message(&failure()), want);
    }
}
