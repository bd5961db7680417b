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
fn a_change_among_many_files_costs_little() {
    const FILES: usize = 12_000;
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY d0/f7 /\n").unwrap();
    for at in 0..FILES {
        let sub = context.join(format!("d{}", at / 4_000));
        if at % 4_000 == 0 {
            std::fs::create_dir(&sub).unwrap();
        }
        std::fs::write(sub.join(format!("f{at}")), format!("content {at}")).unwrap();
    }
    let socket = dir.path().join("s");
    let _service = Service::start(dir.path(), &format!("unix://{}", socket.display()));
    let meter = Meter::start(socket.clone());
    let there = || build(dir.path(), Some(&meter.address));
    let first = there();
    let all = meter.take();
    assert!(all > 400_000, "a list of {FILES} files is larger than what a change may cost: {all}");
    std::fs::write(context.join("d0/f7"), "changed").unwrap();
    assert_ne!(there(), first);
    let edited = meter.take();
    assert!(edited < 30_000, "{edited} bytes for one file");
    std::fs::write(context.join("d1/new"), "new").unwrap();
    std::fs::remove_file(context.join("d2/f8005")).unwrap();
    there();
    let moved = meter.take();
    assert!(moved < 100_000, "{moved} bytes for one file more and one less");
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

/// A service that is spoken to without a client.
struct Raw {
    _service: Service,
    dir: tempfile::TempDir,
    /// A list of one file, whose content is `right`.
    chunk: Vec<u8>,
}

impl Raw {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let service = Service::start(dir.path(), &format!("unix://{}/s", dir.path().display()));
        let digest = cache::Digest::of(b"right");
        let chunk = format!("f 644 0 5 {}\0Dockerfile\0\0", digest.hex()).into_bytes();
        Self { _service: service, dir, chunk }
    }

    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("s")).expect("it listens");
        let length = body.len();
        write!(stream, "{head} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
            .and_then(|()| stream.write_all(body))
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Announces a list of which the service has nothing; returns the context's id.
    #[track_caller]
    fn announce(&self, name: &str, chunks: &[&[u8]]) -> String {
        let answer = self.ask(&format!("POST /v1/contexts?name={name}"), &announcement(chunks));
        assert!(answer.starts_with("HTTP/1.0 201"), "{answer}");
        let all: Vec<usize> = (0..chunks.len()).collect();
        assert_eq!(body(&answer)["lacking"], serde_json::json!(all), "{answer}");
        body(&answer)["id"].as_str().expect("a text").to_owned()
    }

    fn send_list(&self, id: &str, packed: &[u8]) -> String {
        self.ask(&format!("PUT /v1/contexts/{id}/list"), packed)
    }

    /// Announces the list of one file, and sends it.
    #[track_caller]
    fn list(&self, name: &str) -> String {
        let id = self.announce(name, &[&self.chunk]);
        let answer = self.send_list(&id, &pack(&self.chunk));
        assert_eq!(body(&answer)["missing"], serde_json::json!([0]));
        id
    }
}

fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).expect("it is JSON")
}

fn announcement(chunks: &[&[u8]]) -> Vec<u8> {
    let digests = chunks.iter().map(|chunk| *cache::Digest::of(chunk).as_bytes());
    [b"rbuild context 2\0".to_vec(), digests.collect::<Vec<_>>().concat()].concat()
}

fn pack(chunk: &[u8]) -> Vec<u8> {
    let length = u32::try_from(chunk.len()).expect("it is short").to_be_bytes();
    zstd::encode_all(&[&length, chunk].concat()[..], 1).expect("it works")
}

#[test]
fn what_is_sent_must_be_what_was_told() {
    let raw = Raw::start();
    #[rustfmt::skip]
    let cases: [(&[u8], &str); 3] = [
        (b"wrong",  "its digest differs"),
        (b"rig",    "less was sent"),
        (b"right!", "more was sent"),
    ];
    for (content, want) in cases {
        let id = raw.list(want.split_once(' ').unwrap().0);
        let answer = raw.ask(&format!("PUT /v1/contexts/{id}"), content);
        assert!(answer.starts_with("HTTP/1.0 400") && answer.contains(want), "{answer}");
    }
    let id = raw.list("early");
    let early = raw.ask(&format!("POST /v1/builds?context={id}"), b"");
    assert!(early.starts_with("HTTP/1.0 409"), "{early}");
    assert!(raw.ask("PUT /v1/contexts/0a1b", b"").starts_with("HTTP/1.0 404"));
    assert!(raw.ask("POST /v1/builds?context=0a1b", b"").starts_with("HTTP/1.0 404"));
}

#[test]
fn lists_are_told_before_content_and_remembered() {
    let raw = Raw::start();
    let id = raw.announce("unlisted", &[&raw.chunk]);
    assert!(raw.ask(&format!("PUT /v1/contexts/{id}"), b"right").starts_with("HTTP/1.0 409"));
    let id = raw.list("listed");
    assert!(raw.send_list(&id, b"").starts_with("HTTP/1.0 409"));
    assert!(raw.send_list("0a1b", b"").starts_with("HTTP/1.0 404"));

    let id = raw.list("known");
    assert!(raw.ask(&format!("PUT /v1/contexts/{id}"), b"right").starts_with("HTTP/1.0 204"));
    let head =
        format!("POST /v1/builds?context={id} HTTP/1.0\r\nAccept: application/x-ndjson\r\nX: ");
    assert!(raw.ask(&head, b"").contains("unknown instruction"));
    let answer = raw.ask("POST /v1/contexts?name=known", &announcement(&[&raw.chunk]));
    assert_eq!(body(&answer)["lacking"], serde_json::json!([]), "{answer}");

    #[rustfmt::skip]
    let lists: [(&str, Vec<u8>, &str); 4] = [
        ("other",   pack(b"d 755 0 0 \0a\0\0"),      "parts of it were not sent"),
        ("plain",   b"plain".to_vec(),               "cannot be read"),
        ("cut",     pack(&raw.chunk)[..20].to_vec(), "cannot be read"),
        ("nothing", pack(b""),                       "parts of it were not sent"),
    ];
    for (name, packed, want) in lists {
        let answer = raw.send_list(&raw.announce(name, &[&raw.chunk]), &packed);
        assert!(answer.starts_with("HTTP/1.0 400") && answer.contains(want), "{name}: {answer}");
    }
    let outside = format!("f 644 0 0 {}\0../up\0\0", cache::Digest::of(b"").hex()).into_bytes();
    let answer = raw.send_list(&raw.announce("up", &[&outside]), &pack(&outside));
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("../up"), "{answer}");
    // A part may be named more than once, and the files in it may not.
    let id = raw.announce("twice", &[&raw.chunk, &raw.chunk]);
    let answer = raw.send_list(&id, &pack(&raw.chunk));
    assert!(answer.starts_with("HTTP/1.0 400") && answer.contains("Dockerfile"), "{answer}");
    assert!(raw.ask("POST /v1/contexts?name=x", b"no list").starts_with("HTTP/1.0 400"));
}
