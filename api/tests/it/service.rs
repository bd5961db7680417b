//! A service of this program, and clients of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::sources::{Answer, HttpServer, tar_of};
use super::{command, rbuild, text};

/// A running service; killed if a test forgets to end it.
pub(super) struct Service {
    child: Child,
    pub(super) address: String,
}

impl Service {
    pub(super) fn start(dir: &Path, listen: &str) -> Self {
        // A log that nobody reads any more once the address is known must not end the service.
        let mut child = command(dir, &["serve", "--listen", listen])
            .env("RBUILD_LOG", "debug")
            .stderr(Stdio::piped())
            .spawn()
            .expect("rbuild starts");
        let stderr = child.stderr.take().expect("standard error is piped");
        let address = BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.trim().strip_prefix("rbuild listens on ")?.to_owned()))
            .expect("the service says where it listens");
        Self { child, address }
    }

    /// Asks it to end, and returns its exit code and how long it took.
    fn end(mut self) -> (Option<i32>, Duration) {
        let since = Instant::now();
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        (self.child.wait().expect("it is ours to wait for").code(), since.elapsed())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Ended already, most of the time.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_socket_is_for_owner_and_group_and_goes_with_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/rbuild.sock");
    let listen = format!("unix://{}", socket.display());
    let service = Service::start(dir.path(), &listen);
    assert_eq!(service.address, listen);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o660);

    let second = rbuild(dir.path(), &["serve", "--listen", &listen]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another service listens"), "{second:?}");

    let images = rbuild(dir.path(), &["--host", &listen, "images", "-q"]);
    assert_eq!((images.status.code(), images.stdout), (Some(0), Vec::new()));
    let version = text(&rbuild(dir.path(), &["version", "--host", &listen]).stdout);
    assert!(version.contains("Docker API 1.52"), "{version}");
    let missing = rbuild(dir.path(), &["--host", &listen, "history", "a/b:1"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("a/b:1"), "{missing:?}");

    let (code, took) = service.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!socket.exists());
}

#[test]
fn a_socket_left_behind_is_replaced_and_another_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    drop(service);
    let file = dir.path().join("precious");
    std::fs::write(&file, "x").unwrap();
    let output = rbuild(dir.path(), &["serve", "--listen", &format!("unix://{}", file.display())]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn a_port_is_filled_in_and_pages_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), "tcp://127.0.0.1:0");
    let authority = service.address.strip_prefix("tcp://").unwrap();
    let ask = |host: &str, more: &str| {
        let mut stream = TcpStream::connect(authority).unwrap();
        write!(stream, "GET /_ping HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask(authority, "").starts_with("HTTP/1.1 200"), "{}", ask(authority, ""));
    assert!(ask("evil.example", "").starts_with("HTTP/1.1 403"));
    assert!(ask(authority, "Origin: http://evil.example\r\n").starts_with("HTTP/1.1 403"));
    let images = rbuild(dir.path(), &["images", "--host", &service.address]);
    assert_eq!(images.status.code(), Some(0), "{images:?}");
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn an_idle_connection_does_not_hold_the_end_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let _idle = UnixStream::connect(&socket).unwrap();
    let mut half = UnixStream::connect(&socket).unwrap();
    half.write_all(b"GET /_ping HT").unwrap();
    // The service must have seen the half before it is told to end.
    std::thread::sleep(Duration::from_millis(300));
    let (code, took) = service.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn what_is_built_here_and_there_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("file"), "content").unwrap();
    std::fs::write(context.join("left.log"), "").unwrap();
    std::fs::write(context.join(".dockerignore"), "*.log\n").unwrap();
    let dockerfile = dir.path().join("elsewhere");
    std::fs::write(&dockerfile, "FROM scratch\nCOPY . /\nCMD [\"/file\"]\n").unwrap();
    let service = Service::start(dir.path(), &format!("unix://{}/s", dir.path().display()));

    let build = |host: &[&str]| {
        let args = [host, &["-q", "-t", "same:1", "-f", "elsewhere", "context"]].concat();
        let output = rbuild(dir.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let there = build(&["--host", &service.address]);
    assert!(there.starts_with("sha256:"), "{there}");
    assert_eq!(build(&[]), there);

    let host = ["--host", service.address.as_str()];
    let ask = |args: &[&str]| rbuild(dir.path(), &[&host[..], args].concat());
    assert!(text(&ask(&["images"]).stdout).contains("same"));
    assert!(text(&ask(&["history", "same:1"]).stdout).contains("COPY . /"));
    assert!(text(&ask(&["inspect", "same:1"]).stdout).contains(there.trim()));
    assert_eq!(ask(&["tag", "same:1", "other:2"]).status.code(), Some(0));
    assert_eq!(ask(&["save", "same:1", "-o", "saved.tar"]).status.code(), Some(0));
    assert!(text(&ask(&["rmi", "same:1"]).stdout).contains("Untagged: same:1"));
    let loaded = ask(&["load", "-i", "saved.tar"]);
    assert!(text(&loaded.stdout).contains("Loaded image: same:1"), "{loaded:?}");
}

#[test]
fn a_faulty_dockerfile_is_a_status_for_docker_and_a_report_for_our_client() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("context")).unwrap();
    std::fs::write(dir.path().join("context/Dockerfile"), "FROM scratch\nCPOY a b\n").unwrap();
    let service = Service::start(dir.path(), &format!("unix://{}/s", dir.path().display()));
    let output = rbuild(dir.path(), &["--host", &service.address, "build", "context"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("Dockerfile:2:1") && errors.contains("^^^^"), "{errors}");

    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all("", dir.path().join("context")).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut stream = UnixStream::connect(dir.path().join("s")).unwrap();
    let length = tar.len();
    write!(
        stream,
        "POST /build HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&tar).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("{\"message\":\"Dockerfile:2:1: "), "{answer}");
}

#[test]
fn a_service_fetches_what_remote_names() {
    let archive = tar_of(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "of a URL")]);
    let web = HttpServer::start(move |request| match request.path.as_str() {
        "/c.tar" => Answer::ok(archive.clone()),
        "/Dockerfile" => Answer::ok("FROM scratch\nCOPY context /\n"),
        _ => Answer::status(404),
    });
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(dir.path(), "tcp://127.0.0.1:0");
    for (index, path) in ["c.tar", "Dockerfile"].into_iter().enumerate() {
        let tag = format!("x:{index}");
        let args = ["--host", &service.address, "-t", &tag, &web.url(path)];
        let output = rbuild(dir.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let gone = rbuild(dir.path(), &["--host", &service.address, &web.url("gone")]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("the server answered 404"), "{gone:?}");
    std::fs::write(dir.path().join("f"), "FROM scratch\n").unwrap();
    let args = ["--host", &service.address, "-f", "-", &web.url("c.tar")];
    let mut refused = command(dir.path(), &args);
    let refused = refused.stdin(std::fs::File::open(dir.path().join("f")).unwrap()).output();
    assert!(text(&refused.unwrap().stderr).contains("cannot be used with --host and a context"));

    // What curl sends: no body and no type of one.
    let authority = service.address.strip_prefix("tcp://").unwrap();
    let query = format!("/build?remote={}&t=x:curl", web.url("c.tar"));
    let mut stream = TcpStream::connect(authority).unwrap();
    write!(stream, "POST {query} HTTP/1.0\r\nHost: {authority}\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("Successfully tagged x:curl"), "{answer}");
    let images = text(&rbuild(dir.path(), &["--host", &service.address, "images"]).stdout);
    assert!(images.contains("curl"), "{images}");
}

#[test]
fn a_refusal_reaches_a_client_that_still_sends() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("rbuild.sock");
    let _service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    for _ in 0..20 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let head =
            "POST /v1.50/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(5));
            stream.write_all(&[b'x'; 1000]).expect("the service reads the rest");
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 501"), "{line}");
    }
}
