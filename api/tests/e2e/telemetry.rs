//! Traces, as a collector gets them.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::support::{RBUILD, Server, bases, context, free_port, http_get, rbuild, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector of OTLP over HTTP: what it got, each as head and document.
struct Collector {
    url: String,
    got: mpsc::Receiver<(String, Value)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, got) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
                }
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.expect("a length").parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
                reader.into_inner().write_all(answer.as_bytes()).unwrap();
                if sender.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                    return;
                }
            }
        });
        Self { url, got }
    }

    /// The next request's head and the document.
    fn next(&self) -> (String, Value) {
        self.got.recv_timeout(Duration::from_secs(30)).expect("a trace comes")
    }

    /// What came so far is all.
    #[track_caller]
    fn is_empty(&self) {
        assert!(self.got.try_recv().is_err(), "one trace a build");
    }
}

fn spans(document: &Value) -> &Vec<Value> {
    document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans")
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let all = span["attributes"].as_array().expect("attributes");
    let value = all.iter().find(|it| it["key"] == name).map_or(&Value::Null, |it| &it["value"]);
    value.as_object().and_then(|value| value.values().next()).unwrap_or(&Value::Null)
}

fn nanoseconds(span: &Value, name: &str) -> u64 {
    span[name].as_str().expect("64-bit integers are texts").parse().expect("a number")
}

/// Every span is of one trace, has an id of its own, lies within the build, and is the build's child.
#[track_caller]
fn is_sound(document: &Value) {
    let spans = spans(document);
    let (build, steps) = spans.split_first().expect("the build's span");
    let is_id = |id: &Value, digits: usize| {
        id.as_str().is_some_and(|id| {
            id.len() == digits
                && id.bytes().all(|it| it.is_ascii_hexdigit())
                && id.contains(|c| c != '0')
        })
    };
    assert!(is_id(&build["traceId"], 32), "{build}");
    let mut ids: Vec<_> = spans.iter().map(|span| span["spanId"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
    let (from, to) =
        (nanoseconds(build, "startTimeUnixNano"), nanoseconds(build, "endTimeUnixNano"));
    for step in steps {
        assert!(is_id(&step["spanId"], 16), "{step}");
        assert_eq!(
            (&step["traceId"], &step["parentSpanId"]),
            (&build["traceId"], &build["spanId"])
        );
        let start = nanoseconds(step, "startTimeUnixNano");
        let end = nanoseconds(step, "endTimeUnixNano");
        assert!(from <= start && start <= end && end <= to, "{from} {step} {to}");
    }
}

/// What fails for some values of the build argument.
const PICKY: &str = "RUN case $V in m*) exit 7;; esac";

#[test]
fn each_build_is_one_trace_with_a_span_a_step() {
    let collector = Collector::start();
    // Another text each time the test runs: its steps are not in the store that tests share.
    let salt = tempfile::tempdir().unwrap();
    let salt = salt.path().display().to_string();
    let dockerfile = format!(
        "FROM busybox AS one\nARG V\nRUN echo {salt}; test -n \"$V\"\nFROM one AS two\nARG V\n{PICKY}\n"
    );
    let dir = context(&[("Dockerfile", &dockerfile)]);
    let build = |value: &str| {
        let mut build = rbuild(bases(), &["--build-arg", &format!("V={value}"), "-t", "traced:1"]);
        build
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hush")
            .env("OTEL_SERVICE_NAME", "ci")
            .env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"));
        let ran = run(build.arg(dir.path()));
        let (head, document) = collector.next();
        collector.is_empty();
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        for header in ["content-type: application/json\r\n", "authorization: bearer hush\r\n"] {
            assert!(head.contains(header), "{head}");
        }
        is_sound(&document);
        let text = document.to_string();
        assert!(!text.contains("swordfish") && !text.contains("marlin"), "{text}");
        (ran, document)
    };

    let (ran, good) = build("swordfish");
    ran.ok();
    let service = &good["resourceSpans"][0]["resource"];
    assert_eq!(attribute(service, "service.name"), "ci");
    let of_good = spans(&good);
    let names: Vec<_> = of_good.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names[1..3], ["FROM busybox AS one", "ARG V"]);
    assert_eq!((names[0], names[6], names.len()), ("build", PICKY, 7));
    let (whole, step) = (&of_good[0], &of_good[3]);
    assert_eq!((&whole["traceId"], &whole["parentSpanId"]), (&TRACE.into(), &PARENT.into()));
    assert_eq!((&whole["status"]["code"], &step["status"]["code"]), (&1.into(), &1.into()));
    assert_eq!(
        attribute(whole, "container.image.repo_tags")["values"][0]["stringValue"],
        "traced:1"
    );
    assert!(attribute(whole, "container.image.id").as_str().unwrap().starts_with("sha256:"));
    assert_eq!(attribute(step, "rbuild.step.number"), "3");
    assert_eq!(attribute(step, "rbuild.step.stage"), "one");
    assert_eq!(attribute(step, "rbuild.step.cached"), false);
    assert_eq!(attribute(step, "rbuild.step.miss"), "never built here");
    assert_eq!(attribute(step, "process.exit.code"), "0");
    let output = salt.len() + 1;
    assert_eq!(attribute(step, "rbuild.step.output.bytes"), &output.to_string());
    let peak = attribute(step, "rbuild.step.memory.peak_bytes").as_str().unwrap();
    assert!(peak.parse::<u64>().unwrap() > 0, "{peak}");

    let (ran, cached) = build("swordfish");
    ran.ok();
    let step = &spans(&cached)[3];
    assert_eq!(attribute(step, "rbuild.step.cached"), true);
    assert_eq!(attribute(step, "rbuild.step.miss"), &Value::Null);
    assert_eq!(attribute(&spans(&cached)[0], "rbuild.steps.cached"), "3");

    // What differs is named, without its values.
    let (ran, failed) = build("marlin");
    ran.fails_with(1);
    let (whole, steps) = spans(&failed).split_first().unwrap();
    let miss = attribute(&steps[2], "rbuild.step.miss").as_str().unwrap();
    assert_eq!(miss, "changed: env[V]");
    let step = steps.iter().find(|step| step["name"] == PICKY).unwrap();
    assert_eq!(attribute(step, "process.exit.code"), "7");
    assert_eq!(attribute(step, "rbuild.step.stage"), "two");
    for span in [whole, step] {
        assert_eq!(span["status"]["code"], 2, "{span}");
        assert_eq!(span["status"]["message"], "the command exited with code 7");
    }
}

#[test]
fn a_service_traces_its_builds_below_their_clients() {
    let collector = Collector::start();
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let config = dir.path().join("rbuild.toml");
    std::fs::write(&config, format!("[telemetry]\notlp = \"{}/\"\n", collector.url)).unwrap();
    let port = free_port();
    let url = format!("tcp://127.0.0.1:{port}");
    let mut serve = rbuild(bases(), &["serve", "--listen", &url]);
    serve.env("RBUILD_CONFIG", &config).stdout(std::process::Stdio::null());
    let _server = Server::start(&mut serve, || http_get(port, "/_ping").is_some());
    let build = |parent: &str| {
        let mut build = Command::new(RBUILD);
        build.args(["--host", &url, "-t", "traced:2"]).env("TRACEPARENT", parent);
        run(build.arg(dir.path())).ok();
    };
    build(&format!("00-{TRACE}-{PARENT}-01"));
    let (head, document) = collector.next();
    assert!(head.starts_with("post /v1/traces "), "{head}");
    is_sound(&document);
    let whole = &spans(&document)[0];
    assert_eq!((&whole["traceId"], &whole["parentSpanId"]), (&TRACE.into(), &PARENT.into()));

    // A trace that nobody keeps, and one that the service begins by itself.
    build(&format!("00-{TRACE}-{PARENT}-00"));
    build("nonsense");
    let (_, document) = collector.next();
    is_sound(&document);
    let whole = &spans(&document)[0];
    assert_ne!(whole["traceId"], TRACE);
    assert_eq!(whole["parentSpanId"], Value::Null);
    collector.is_empty();
}

#[test]
fn a_collector_that_is_not_there_costs_a_build_nothing() {
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    // Nobody listens to the first, and nobody answers at the second.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        let url = format!("http://127.0.0.1:{port}");
        let build = |level: &str| {
            let mut build = rbuild(bases(), &["-q", "-t", "traced:3"]);
            build.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("RBUILD_LOG", level);
            run(build.arg(dir.path())).ok()
        };
        assert_eq!(build("warn").stderr, "");
        build("builder::telemetry=debug").says("a trace could not be sent");
    }
}
