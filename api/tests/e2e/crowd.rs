//! Five hundred requests at once, good and bad: each gets a status, and the service goes on.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Barrier};

use crate::engine::engine;
use crate::support::{rbuild, run};
use crate::wire::{self, Answer, TAR};

const CROWD: usize = 500;

/// Connections that never say what they want.
const SILENT: usize = 10;

/// Resident memory that the service may ever have had: it holds no context and no answer whole.
const MOST_MEMORY: u64 = 512 << 20;

/// A request, what it may be answered by, and what it sends.
struct Kind {
    name: &'static str,
    /// A full queue is an answer, too; a build that waits has its 200 before its fault is found.
    statuses: &'static [u16],
    send: fn(&Path, usize) -> UnixStream,
}

fn build(socket: &Path, query: &str, context: &[u8]) -> UnixStream {
    let length = format!("Content-Length: {}", context.len());
    wire::open(socket, &format!("POST /build?{query}"), &[TAR, &length], context)
}

#[rustfmt::skip]
const KINDS: [Kind; 14] = [
    Kind { name: "ping", statuses: &[200], send: |socket, _| wire::open(socket, "GET /_ping", &[], b"") },
    Kind { name: "images", statuses: &[200], send: |socket, _| wire::open(socket, "GET /v1.41/images/json", &[], b"") },
    Kind { name: "builds", statuses: &[200], send: |socket, _| wire::open(socket, "GET /v1/builds", &[], b"") },
    Kind { name: "usage", statuses: &[200], send: |socket, _| wire::open(socket, "GET /system/df", &[], b"") },
    Kind { name: "metrics", statuses: &[200], send: |socket, _| wire::open(socket, "GET /metrics", &[], b"") },
    Kind { name: "a build", statuses: &[200, 503], send: |socket, number| {
        let file = format!("FROM busybox\nCOPY a /{}\n", number % 7);
        build(socket, "t=crowd", &wire::tar(&[("Dockerfile", &file), ("a", "a")]))
    } },
    Kind { name: "a RUN", statuses: &[200, 503], send: |socket, number| {
        build(socket, "", &wire::tar(&[("Dockerfile", &format!("FROM busybox\nRUN : {}\n", number % 20))]))
    } },
    Kind { name: "a faulty file", statuses: &[400, 200, 503], send: |socket, _| {
        build(socket, "", &wire::tar(&[("Dockerfile", "FROM busybox\nRUM x\n")]))
    } },
    Kind { name: "no tar", statuses: &[400, 200, 503], send: |socket, _| build(socket, "", &[b'x'; 4096]) },
    Kind { name: "half a tar", statuses: &[400, 200, 503], send: |socket, _| {
        let tar = wire::tar(&[("Dockerfile", "FROM busybox\nCOPY a /\n"), ("a", &"a".repeat(9000))]);
        build(socket, "", &tar[..3000])
    } },
    Kind { name: "an upload cut short", statuses: &[400, 200, 503], send: |socket, _| {
        let stream = wire::open(socket, "POST /build", &[TAR, "Content-Length: 100000"], &[b'x'; 1000]);
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        stream
    } },
    Kind { name: "no route", statuses: &[404], send: |socket, _| wire::open(socket, "GET /../../etc/passwd", &[], b"") },
    Kind { name: "a head too large", statuses: &[431], send: |socket, _| {
        wire::open(socket, "GET /_ping", &[&format!("X: {}", "x".repeat(1_000_000))], b"")
    } },
    Kind { name: "no HTTP", statuses: &[400], send: |socket, _| {
        let mut stream = UnixStream::connect(socket).expect("the service listens");
        drop(stream.write_all(b"\x16\x03\x01 hello\r\n\r\n"));
        stream
    } },
];

#[test]
fn five_hundred_requests_at_once_get_a_status_each() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = engine(dir.path());
    let socket = dir.path().join("rbuild.sock");
    let mut silent: Vec<_> = (0..SILENT).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for stream in &mut silent[..SILENT / 2] {
        stream.write_all(b"POST /build HTTP/1.1\r\nHost: ").unwrap();
    }
    let start = Arc::new(Barrier::new(CROWD));
    let threads: Vec<_> = (0..CROWD)
        .map(|number| {
            let (start, socket) = (Arc::clone(&start), socket.clone());
            std::thread::spawn(move || {
                let kind = &KINDS[number % KINDS.len()];
                start.wait();
                let bytes = wire::rest((kind.send)(&socket, number));
                (kind, Answer::parse(&bytes))
            })
        })
        .collect();
    for thread in threads {
        let (kind, answer) = thread.join().unwrap();
        let Some(answer) = answer else { panic!("{} got no answer", kind.name) };
        assert!(kind.statuses.contains(&answer.status), "{}: {answer:?}", kind.name);
        let is_bad = kind.statuses.contains(&400) && kind.statuses.contains(&200);
        let is_told = answer.status != 200 || answer.body.contains("errorDetail");
        assert!(is_told || !is_bad, "{}: {answer:?}", kind.name);
        let is_error = answer.status >= 400 && ![400, 431].contains(&answer.status);
        assert!(!is_error || answer.json()["message"].is_string(), "{}: {answer:?}", kind.name);
    }
    drop(silent);

    assert_eq!(wire::ask(&socket, "GET /_ping", &[], b"").status, 200);
    let listed = wire::ask(&socket, "GET /v1/builds", &[], b"").json();
    for build in listed["builds"].as_array().unwrap() {
        assert_ne!(build["result"]["state"], "running", "{build}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes * 1024 < MOST_MEMORY, "{kibibytes} KiB");
    run(&mut rbuild(&dir.path().join("store"), &["store", "check"])).ok();
}
