//! rbuild's own API, by sockets and by its client.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::service::Service;
use super::{rbuild, text};

/// Asks by HTTP/1.0 and returns the whole answer.
fn ask(socket: &Path, head: &str, body: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("the service listens");
    let length = body.len();
    write!(stream, "{head} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n")
        .expect("the service reads and answers");
    if length > 0 {
        let is_json = body.starts_with(b"{");
        let kind = if is_json { "application/json" } else { "application/x-tar" };
        write!(stream, "Content-Type: {kind}\r\n").expect("the service reads and answers");
    }
    stream.write_all(b"\r\n").expect("the service reads and answers");
    stream.write_all(body).expect("the service reads and answers");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the service reads and answers");
    String::from_utf8_lossy(&answer).into_owned()
}

fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

fn tar(dockerfile: &str) -> Vec<u8> {
    super::sources::tar_of(&[("Dockerfile", dockerfile), ("a", "x"), ("b", "y")])
}

#[test]
fn a_build_is_begun_looked_at_and_forgotten_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let stages = "FROM scratch AS one\nCOPY a /\nFROM scratch\nCOPY --from=one a /\nCOPY b /\n";
    let started = ask(&socket, "POST /v1/builds?t=x:1", &tar(stages));
    assert!(started.starts_with("HTTP/1.0 201"), "{started}");
    let id = body(&started)["id"].as_str().unwrap().to_owned();
    assert!(started.contains(&format!("location: /v1/builds/{id}\r\n")), "{started}");

    // Followed to its end, then read from its record.
    let live = ask(&socket, &format!("GET /v1/builds/{id}/events"), b"");
    assert!(
        live.contains("text/event-stream") && live.contains("\"event\":\"finished\""),
        "{live}"
    );
    let again = ask(&socket, &format!("GET /v1/builds/{id}/events?follow=false"), b"");
    assert_eq!(live.split_once("\r\n\r\n").unwrap().1, again.split_once("\r\n\r\n").unwrap().1);

    let ids: Vec<&str> = live.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let resume = |place: &str| {
        let head = format!("GET /v1/builds/{id}/events HTTP/1.0\r\nLast-Event-ID: {place}\r\nX: ");
        ask(&socket, &head, b"")
    };
    let rest = resume(ids[1]);
    let resumed: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(resumed, ids[2..]);
    assert!(resume(ids[ids.len() - 1]).starts_with("HTTP/1.0 204"));
    assert!(resume("3").starts_with("HTTP/1.0 400"));

    let shown = body(&ask(&socket, &format!("GET /v1/builds/{id}"), b""));
    assert_eq!(shown["result"]["state"], "done", "{shown}");
    let graph = body(&ask(&socket, &format!("GET /v1/builds/{id}/graph"), b""));
    let inputs: Vec<_> =
        graph["steps"].as_array().unwrap().iter().map(|it| it["inputs"].clone()).collect();
    let inputs = serde_json::Value::from(inputs).to_string();
    assert_eq!(inputs, "[[],[],[],[1],[3]]", "{graph}");
    let dot = ask(&socket, &format!("GET /v1/builds/{id}/graph?format=dot"), b"");
    assert!(dot.contains("s3 -> s4;"), "{dot}");

    let listed = body(&ask(&socket, "GET /v1/builds", b""));
    assert_eq!(listed["builds"][0]["id"], id.as_str());
    assert!(ask(&socket, &format!("DELETE /v1/builds/{id}"), b"").starts_with("HTTP/1.0 409"));
    assert!(
        ask(&socket, &format!("DELETE /v1/builds/{id}/record"), b"").starts_with("HTTP/1.0 204")
    );
    assert!(ask(&socket, &format!("GET /v1/builds/{id}"), b"").starts_with("HTTP/1.0 404"));
}

#[test]
fn options_may_be_json() {
    let web = super::sources::HttpServer::start(|_| {
        super::sources::Answer::ok(tar("FROM scratch\nARG V\nLABEL v=$V\nCOPY a /\n"))
    });
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let options = format!(
        r#"{{"remote":"{}","t":["j:1","j:2"],"buildargs":{{"V":"7"}},"nocache":true}}"#,
        web.url("c.tar")
    );
    let started = ask(&socket, "POST /v1/builds", options.as_bytes());
    assert!(started.starts_with("HTTP/1.0 201"), "{started}");
    let id = body(&started)["id"].as_str().unwrap().to_owned();
    let attached = rbuild(dir.path(), &["--host", &service.address, "attach", &id]);
    assert_eq!(attached.status.code(), Some(0), "{attached:?}");
    let inspected =
        text(&rbuild(dir.path(), &["--host", &service.address, "inspect", "j:2"]).stdout);
    assert!(inspected.contains(r#""v": "7""#), "{inspected}");
    #[rustfmt::skip]
    let cases = [
        ("{}",                             "`remote`"),
        ("{]",                             "it is no JSON"),
        (r#"{"remote":"x","colour":"r"}"#, "`colour`"),
    ];
    for (wrong, want) in cases {
        let refused = ask(&socket, "POST /v1/builds", wrong.as_bytes());
        assert!(refused.starts_with("HTTP/1.0 400") && refused.contains(want), "{refused}");
    }
}

#[test]
fn the_history_and_the_store_of_a_service_are_seen_from_afar() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let service = Service::start(dir.path(), &format!("unix://{}/s", dir.path().display()));
    let far = |args: &[&str]| rbuild(dir.path(), &[&["--host", &service.address], args].concat());
    let near = |args: &[&str]| rbuild(dir.path(), args);

    let started = far(&["build", "--detach", "-t", "d:1", "context"]);
    assert_eq!(started.status.code(), Some(0), "{started:?}");
    let id = text(&started.stdout).trim().to_owned();
    let attached = far(&["attach", &id[..4]]);
    assert!(text(&attached.stderr).contains("COPY Dockerfile /"), "{attached:?}");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY nothing /\n").unwrap();
    let started = far(&["build", "--detach", "context"]);
    let failed = text(&started.stdout).trim().to_owned();
    let attached = far(&["attach"]);
    assert_eq!(attached.status.code(), Some(1), "{attached:?}");
    assert!(text(&attached.stderr).contains("nothing"), "{attached:?}");

    for args in [
        &["builds", "ls", "-q"][..],
        &["builds", "show", "--format", "json", &id],
        &["builds", "show", "--format", "json", &failed],
        &["builds", "logs", "--events", &id],
        &["explain", "--json", &id],
        &["prune", "--dry-run", "--filter", "type=build"],
    ] {
        let (there, here) = (far(args), near(args));
        assert_eq!(there.status.code(), Some(0), "{args:?}: {there:?}");
        assert_eq!(text(&there.stdout), text(&here.stdout), "{args:?}");
    }
    assert_eq!(text(&far(&["builds", "rm", &failed]).stdout).trim(), failed);
    assert_eq!(text(&far(&["builds", "ls", "-q"]).stdout).trim(), id);
    let usage = text(&far(&["du", "--format", "json"]).stdout);
    assert!(usage.contains(r#""images":1"#), "{usage}");
    assert!(text(&far(&["du", "--verbose"]).stdout).contains("RECLAIMABLE"));

    let local = near(&["build", "--detach", "context"]);
    assert!(text(&local.stderr).contains("--detach needs a service"), "{local:?}");
    let missing = far(&["attach", "ffffffff"]);
    assert!(text(&missing.stderr).contains("there is no build"), "{missing:?}");
}
