//! Running a service: its queue, its limits, its manager, its configuration read anew.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{command, rbuild, text};

/// A service with a configuration, whose manager listens.
struct Managed {
    child: Child,
    manager: UnixDatagram,
    host: String,
}

impl Managed {
    fn start(dir: &Path, config: &str, args: &[&str]) -> Self {
        let socket = format!("unix://{}/s", dir.display());
        let mut command = command(dir, &["serve", "--listen", &socket]);
        command.args(args);
        Self::start_as(dir, config, &mut command, socket)
    }

    fn start_as(dir: &Path, config: &str, command: &mut Command, host: String) -> Self {
        std::fs::write(dir.join("rbuild.toml"), config).expect("it works");
        let notify = dir.join("notify");
        let manager = UnixDatagram::bind(&notify).expect("nobody has it");
        manager.set_read_timeout(Some(Duration::from_secs(30))).expect("it works");
        command.env("NOTIFY_SOCKET", notify).env("RBUILD_CONFIG", dir.join("rbuild.toml"));
        let service = Self { child: command.spawn().expect("it starts"), manager, host };
        service.hears("READY=1\nSTATUS=0 builds run, 0 wait");
        service
    }

    fn hears(&self, want: &str) {
        let mut heard = Vec::new();
        let mut buffer = [0; 200];
        loop {
            let count = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("`{want}` was not said in time ({error}), but {heard:?}");
            });
            let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if said.starts_with(want) {
                return;
            }
            heard.push(said);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it works");
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A build whose context never comes to its end: it runs until this is dropped.
fn endless(dir: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(dir.join("s")).expect("it works");
    let head = "POST /v1/builds HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n\
                Accept: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it works");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it works");
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

fn context(dir: &Path) {
    std::fs::create_dir(dir.join("context")).expect("it works");
    std::fs::write(dir.join("context/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n")
        .expect("it works");
}

#[test]
fn builds_wait_for_their_turn_and_are_told_their_place() {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let config = "[server]\nmax_builds = 2\nmax_builds_per_client = 1\nmax_queue = 2\n";
    let service = Managed::start(dir.path(), config, &[]);
    let host = ["--host", service.host.as_str()];
    let first = endless(dir.path());
    service.hears("STATUS=1 builds run, 0 wait");

    let mut waiting = command(dir.path(), &[&host[..], &["build", "context"]].concat());
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    shown.read_line(&mut line).unwrap();
    assert_eq!(line, "waiting for other builds: number 1 in the queue\n");
    let listed = rbuild(dir.path(), &[&host[..], &["builds", "ls", "-q"]].concat());
    assert_eq!(text(&listed.stdout).lines().count(), 2);

    // Docker's clients are told in their own form.
    let mut docker = UnixStream::connect(dir.path().join("s")).unwrap();
    let head = "POST /build HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    docker.write_all(head.as_bytes()).unwrap();
    let mut told = BufReader::new(docker.try_clone().unwrap());
    let mut line = String::new();
    while !line.contains("stream") {
        line.clear();
        told.read_line(&mut line).unwrap();
    }
    assert!(line.contains("number 2 in the queue"), "{line}");

    let refused = rbuild(dir.path(), &[&host[..], &["build", "context"]].concat());
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(text(&refused.stderr).contains("too many builds wait"), "{refused:?}");

    drop(first);
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0), "{rest}");
    drop((docker, told));
    service.hears("STATUS=0 builds run, 0 wait");
}

#[test]
fn a_build_that_waits_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let service = Managed::start(dir.path(), "[server]\nmax_builds = 1\n", &[]);
    let host = ["--host", service.host.as_str()];
    let _first = endless(dir.path());
    let mut waiting = command(dir.path(), &[&host[..], &["build", "context"]].concat());
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let listed = rbuild(dir.path(), &[&host[..], &["builds", "ls", "-q"]].concat());
    let id = text(&listed.stdout).lines().next().unwrap().to_owned();
    let cancelled = rbuild(dir.path(), &[&host[..], &["attach", "--cancel", &id]].concat());
    assert_eq!(cancelled.status.code(), Some(130), "{cancelled:?}");
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
}

#[test]
fn a_context_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    std::fs::write(dir.path().join("context/big"), vec![b'x'; 100_000]).unwrap();
    let service = Managed::start(dir.path(), "[server]\nmax_context = \"50k\"\n", &[]);
    let refused = rbuild(dir.path(), &["--host", &service.host, "build", "context"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("larger than the limit of 51200 bytes"), "{refused:?}");
}

#[test]
fn a_context_that_says_to_be_too_large_is_refused_by_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let _service = Managed::start(dir.path(), "[server]\nmax_context = \"50k\"\n", &[]);
    for path in ["/build", "/v1.41/build?remote=", "/v1/builds"] {
        let mut stream = UnixStream::connect(dir.path().join("s")).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n\
             Expect: 100-continue\r\nContent-Length: 60000\r\n\r\n"
        )
        .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 413"), "{path}: {line}");
    }
}

/// The rest of an endless build's context, and with it the end of the build.
fn finish(mut stream: &UnixStream) -> String {
    let tar = super::sources::tar_of(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    write!(stream, "{:x}\r\n", tar.len()).expect("it works");
    stream.write_all(&tar).and_then(|()| stream.write_all(b"\r\n0\r\n\r\n")).expect("it works");
    told(stream)
}

fn told(mut stream: &UnixStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("it works");
    rest
}

#[test]
fn builds_may_finish_when_the_service_is_asked_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Managed::start(dir.path(), "[server]\nshutdown_time = \"10m\"\n", &[]);
    let build = endless(dir.path());
    service.signal(Signal::TERM);
    service.hears("STOPPING=1");
    // Nobody else is let in meanwhile.
    while UnixStream::connect(dir.path().join("s")).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(service.child.try_wait().unwrap().is_none(), "it waits for the build");
    let told = finish(&build);
    assert!(told.contains(r#""event":"finished""#), "{told}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    assert_eq!(states(dir.path()), ["done"]);
}

#[test]
fn builds_that_take_too_long_are_cancelled_when_the_service_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Managed::start(dir.path(), "[server]\nshutdown_time = \"1s\"\n", &[]);
    let builds = [endless(dir.path()), endless(dir.path())];
    service.signal(Signal::TERM);
    service.hears("STOPPING=1");
    for build in &builds {
        let told = told(build);
        assert!(told.contains(r#""kind":"cancelled""#), "{told}");
    }
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    assert_eq!(states(dir.path()), ["cancelled", "cancelled"]);
}

/// How the builds of a store ended.
fn states(dir: &Path) -> Vec<String> {
    let listed = rbuild(dir, &["builds", "ls", "--format", "json"]);
    let state = |line: &str| {
        let build: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        build["result"]["state"].as_str().expect("every build has a state").to_owned()
    };
    text(&listed.stdout).lines().map(state).collect()
}

#[test]
fn tokens_and_limits_are_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let tokens = dir.path().join("tokens");
    let write = |name: &str| {
        std::fs::write(&tokens, format!("x read,build 0123456789abcdef-{name}\n")).unwrap();
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("old");
    let file = ["--token-file", tokens.to_str().unwrap()];
    let service = Managed::start(dir.path(), "", &file);
    let ask = |name: &str| {
        let mut command = command(dir.path(), &["--host", &service.host, "build", "context"]);
        command.env("RBUILD_TOKEN", format!("0123456789abcdef-{name}"));
        command.output().unwrap()
    };
    assert_eq!(ask("old").status.code(), Some(0));
    write("new");
    std::fs::write(dir.path().join("rbuild.toml"), "[server]\nmax_context = \"1k\"\n").unwrap();
    service.signal(Signal::HUP);
    service.hears("RELOADING=1");
    service.hears("READY=1");
    assert!(text(&ask("old").stderr).contains("a valid token is needed"));
    assert!(text(&ask("new").stderr).contains("larger than the limit of 1024 bytes"));
    // What cannot be understood changes nothing.
    std::fs::write(dir.path().join("rbuild.toml"), "[server]\nmax_contexts = 1\n").unwrap();
    service.signal(Signal::HUP);
    service.hears("RELOADING=1");
    service.hears("READY=1");
    assert!(text(&ask("new").stderr).contains("larger than the limit of 1024 bytes"));
    service.signal(Signal::TERM);
    service.hears("STOPPING=1");
}

#[test]
fn the_socket_may_be_the_managers() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve 3<&0 0</dev/null";
    let program = command(dir.path(), &[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", serve]).arg(program.get_program()).current_dir(dir.path());
    shell.env("RBUILD_STORE", dir.path().join("store"));
    shell.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let host = format!("unix://{}", socket.display());
    let service = Managed::start_as(dir.path(), "", &mut shell, host);
    let images = rbuild(dir.path(), &["--host", &service.host, "images"]);
    assert_eq!(images.status.code(), Some(0), "{images:?}");
    service.signal(Signal::TERM);
    service.hears("STOPPING=1");
    drop(service);
    assert!(socket.exists(), "it is not the service's to remove");
}

#[test]
fn logs_can_be_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut serve = command(dir.path(), &["serve", "--listen", "tcp://127.0.0.1:0"]);
    serve.env("RBUILD_LOG", "rbuild=debug").env("RBUILD_LOG_FORMAT", "json");
    let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.contains("listens on")).unwrap();
    let (_, host) = first.split_once("listens on ").unwrap();
    rbuild(dir.path(), &["--host", host, "images"]);
    let line = lines.find(|line| line.contains("/images/json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&parsed["level"], &parsed["method"]), (&"DEBUG".into(), &"GET".into()), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}
