//! Contexts that a service keeps: what is sent, and what comes of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::service::Service;
use super::{command, text};

/// Counts what clients send on its way to a service.
struct Meter {
    address: String,
    sent: Arc<AtomicU64>,
}

impl Meter {
    fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = format!("tcp://{}", listener.local_addr().expect("it is bound"));
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let service = UnixStream::connect(&socket).expect("the service listens");
                let count = Arc::clone(&count);
                let (from, to) =
                    (client.try_clone().expect("open"), service.try_clone().expect("open"));
                std::thread::spawn(move || pass(from, to, &count));
                std::thread::spawn(move || {
                    pass(&service, &client, &AtomicU64::new(0));
                    drop(client.shutdown(Shutdown::Both));
                });
            }
        });
        Self { address, sent }
    }

    fn take(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

fn pass(mut from: impl Read, mut to: impl Write, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::SeqCst);
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

const DOCKERFILE: &str = "FROM scratch\nCOPY . /all/\n";

fn context(dir: &Path) -> PathBuf {
    let context = dir.join("context");
    std::fs::create_dir_all(context.join("sub/deeper")).unwrap_or_default();
    for at in 0..20_u8 {
        let file = context.join(format!("sub/f{at}"));
        std::fs::write(file, vec![at; 100_000]).expect("writable");
    }
    std::fs::write(context.join("sub/deeper/x"), "x").expect("writable");
    std::os::unix::fs::symlink("f1", context.join("sub/link")).expect("writable");
    std::fs::write(context.join("Dockerfile"), DOCKERFILE).expect("writable");
    std::fs::write(context.join(".dockerignore"), "*.log\n").expect("writable");
    std::fs::write(context.join("left.log"), "out").expect("writable");
    context
}

/// Builds with a store of the client's own; returns the image's ID.
fn build(dir: &Path, host: Option<&str>) -> String {
    let host: Vec<&str> = host.iter().flat_map(|host| ["--host", host]).collect();
    let args = ["build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=1", "context"];
    let mut command = command(dir, &[&host[..], &args].concat());
    command.env("RBUILD_STORE", dir.join("own"));
    let output = command.output().expect("rbuild starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn touch(dir: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    let dir = std::fs::File::open(dir).expect("it is there");
    dir.set_modified(time).expect("it is ours");
}

#[test]
fn only_what_changed_is_sent_and_the_image_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(dir.path());
    let socket = dir.path().join("s");
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let meter = Meter::start(socket.clone());
    let there = || build(dir.path(), Some(&meter.address));
    let here = || build(dir.path(), None);

    // The time of the directory itself shows in the layer.
    touch(&context);
    assert_eq!(there(), here());
    assert!(meter.take() > 2_000_000);
    let first = there();
    assert!(meter.take() < 20_000, "nothing has changed");
    std::fs::write(context.join("sub/f3"), "changed").unwrap();
    let second = there();
    assert!(meter.take() < 20_000, "one small file has changed");
    assert_ne!(first, second);
    assert_eq!(second, here());

    // Everything that a name can become.
    let passwd = std::fs::read("/etc/passwd").unwrap();
    std::fs::remove_dir_all(context.join("sub/deeper")).unwrap();
    std::os::unix::fs::symlink("/etc", context.join("sub/deeper")).unwrap();
    std::fs::remove_file(context.join("sub/link")).unwrap();
    std::fs::create_dir(context.join("sub/link")).unwrap();
    std::fs::write(context.join("sub/link/passwd"), "not the host's").unwrap();
    std::fs::remove_file(context.join("sub/f4")).unwrap();
    std::fs::rename(context.join("sub/f5"), context.join("sub/f6")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4711);
    std::fs::set_permissions(context.join("sub/f7"), mode).unwrap();
    assert_eq!(there(), here());
    std::fs::remove_file(context.join("sub/deeper")).unwrap();
    std::fs::create_dir(context.join("sub/deeper")).unwrap();
    std::fs::write(context.join("sub/deeper/passwd"), "below what was a link").unwrap();
    assert_eq!(there(), here());
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd, "no link was followed");

    // The kept files are the store's to remove.
    let du = super::rbuild(dir.path(), &["--host", &service.address, "du", "--verbose"]);
    assert!(text(&du.stdout).contains("context "), "{du:?}");
    super::rbuild(dir.path(), &["--host", &service.address, "prune", "--filter", "type=mount"]);
    meter.take();
    assert_eq!(there(), here());
    assert!(meter.take() > 1_000_000);
}

#[test]
fn two_builds_of_one_context_at_once_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    context(dir.path());
    let socket = dir.path().join("s");
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let ids: Vec<String> = std::thread::scope(|scope| {
        let build = || scope.spawn(|| build(dir.path(), Some(&service.address)));
        let running = [build(), build(), build()];
        running.map(|it| it.join().unwrap()).into()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn what_is_sent_must_be_what_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let ask = |head: &str, body: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let length = body.len();
        write!(stream, "{head} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let digest = cache::Digest::of(b"right");
    let list = format!("rbuild context 1\0f 644 0 5 {}\0Dockerfile\0\0", digest.hex());
    let packed = zstd::encode_all(list.as_bytes(), 1).unwrap();
    let announce = |name: &str| {
        let answer = ask(&format!("POST /v1/contexts?name={name}"), &packed);
        assert!(answer.starts_with("HTTP/1.0 201"), "{answer}");
        let body: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["missing"], serde_json::json!([0]));
        body["id"].as_str().unwrap().to_owned()
    };
    #[rustfmt::skip]
    let cases: [(&[u8], &str); 3] = [
        (b"wrong",  "its digest differs"),
        (b"rig",    "less was sent"),
        (b"right!", "more was sent"),
    ];
    for (content, want) in cases {
        let answer = ask(
            &format!("PUT /v1/contexts/{}", announce(want.split_once(' ').unwrap().0)),
            content,
        );
        assert!(answer.starts_with("HTTP/1.0 400") && answer.contains(want), "{answer}");
    }
    let id = announce("early");
    let early = ask(&format!("POST /v1/builds?context={id}"), b"");
    assert!(early.starts_with("HTTP/1.0 409"), "{early}");
    assert!(ask("PUT /v1/contexts/0a1b", b"").starts_with("HTTP/1.0 404"));
    assert!(ask("POST /v1/builds?context=0a1b", b"").starts_with("HTTP/1.0 404"));
    assert!(ask("POST /v1/contexts?name=x", b"no list").starts_with("HTTP/1.0 400"));
    drop(service);
}
