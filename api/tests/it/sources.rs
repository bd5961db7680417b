//! What the tests of sources share: an HTTP server, git repositories and who serves them, and
//! builds whose result is a directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{command, text};

/// A request, as far as the tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// By lowercase name.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer; the length is told unless it is `cut`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body that are sent before the connection breaks.
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn send(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("a string takes everything");
        }
        write!(head, "Content-Length: {}\r\n\r\n", self.body.len()).expect("a string, too");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len())])
    }
}

/// A server on loopback that remembers what it was asked. It ends with the test process.
#[derive(Clone, Debug)]
pub(crate) struct HttpServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl HttpServer {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    log.lock().expect("no holder panics").push(request.clone());
                    // A client that has left needs no answer.
                    drop(answer(&request).send(&stream));
                });
            }
        });
        Self { address, asked }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Takes what was asked since the last call.
    pub(crate) fn take_asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().expect("no holder panics"))
    }
}

pub(crate) fn serve_file(root: &Path, request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap_or_default();
    match fs::read(root.join(path.trim_start_matches('/'))) {
        Ok(bytes) => Answer::ok(bytes),
        Err(_) => Answer::status(404),
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    Some(Request { path, headers })
}

/// A work directory: contexts, a store and results.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    builds: std::cell::Cell<u32>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, builds: std::cell::Cell::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below the work directory.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("writable");
        fs::write(&path, content).expect("writable");
        path
    }

    /// Panics if a file of the store holds what `pattern` (grep -E) matches.
    #[track_caller]
    pub(crate) fn expect_nowhere(&self, pattern: &str) {
        let mut grep = Command::new("grep");
        let found = grep.args(["-rlaE", pattern]).arg(self.path().join("store")).output();
        assert_eq!(text(&found.expect("grep starts").stdout), "", "found in the store");
    }

    /// Builds with `args` and returns how it went and where the root is.
    pub(crate) fn build(&self, args: &[&str]) -> Built {
        self.builds.set(self.builds.get() + 1);
        let root = self.path().join(format!("root-{}", self.builds.get()));
        let output = format!("type=local,dest={}", root.display());
        let mut all = vec!["build", "--progress", "plain", "-o", &output];
        all.extend(args);
        Built { output: command(self.path(), &all).output().expect("rbuild starts"), root }
    }

    /// Builds `dockerfile` with the context `context`, made if it is not there.
    pub(crate) fn dockerfile(&self, dockerfile: &str, args: &[&str]) -> Built {
        self.write("context/Dockerfile", dockerfile);
        let mut all = args.to_vec();
        all.push("context");
        self.build(&all)
    }
}

/// A build that has ended.
#[derive(Debug)]
pub(crate) struct Built {
    output: Output,
    root: PathBuf,
}

impl Built {
    pub(crate) fn said(&self) -> String {
        format!("{}{}", text(&self.output.stdout), text(&self.output.stderr))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.output.status.code(), Some(0), "{}", self.said());
        self
    }

    /// Panics unless the build failed with `code` and said all of `texts`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.said());
        for text in texts {
            assert!(self.said().contains(text), "`{text}` was not said:\n{}", self.said());
        }
    }

    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.root.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    /// Returns `mode owner:group seconds` of a file.
    #[track_caller]
    pub(crate) fn stat(&self, path: &str) -> String {
        let metadata = fs::symlink_metadata(self.root.join(path)).expect("the file is there");
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        format!("{mode:o} {uid}:{gid} {}", metadata.mtime())
    }

    /// Counts steps that came out of the cache.
    pub(crate) fn cached(&self) -> usize {
        self.said().matches("CACHED").count()
    }

    /// Returns the names of all files, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).expect("readable") {
                let path = entry.expect("readable").path();
                if path.symlink_metadata().expect("there").is_dir() {
                    walk(root, &path, found);
                } else {
                    let name = path.strip_prefix(root).expect("below").display().to_string();
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.root, &self.root, &mut found);
        found.sort();
        found
    }
}

/// A git repository of a test.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
}

/// The time of every commit, seconds since 1970.
pub(crate) const COMMIT_TIME: i64 = 1_600_000_000;

impl Repository {
    /// Makes `path` a repository with the branch `main`.
    pub(crate) fn make(path: &Path) -> Self {
        fs::create_dir_all(path).expect("writable");
        let repository = Self { path: path.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository
    }

    #[track_caller]
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let date = format!("{COMMIT_TIME} +0000");
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .output()
            .expect("git starts");
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// Commits `files` and returns the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.path.join(path);
            fs::create_dir_all(path.parent().expect("a file has a parent")).expect("writable");
            fs::write(path, content).expect("writable");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "text"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Makes what a server of plain files needs.
    pub(crate) fn update_server_info(&self) {
        self.git(&["update-server-info"]);
    }
}

/// `git daemon` for the repositories below a directory, ended when dropped.
#[derive(Debug)]
pub(crate) struct GitDaemon {
    child: Child,
    port: u16,
}

impl GitDaemon {
    pub(crate) fn start(base: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let port = free.expect("loopback has free ports").port();
        let child = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .args([format!("--port={port}"), format!("--base-path={}", base.display())])
            .arg(base)
            .env("HOME", "/dev/null")
            .stderr(std::process::Stdio::null())
            .process_group(0)
            .spawn()
            .expect("git daemon starts");
        let daemon = Self { child, port };
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "git daemon does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        // The daemon is the leader of a group with its children.
        drop(Command::new("kill").args(["--", &format!("-{}", self.child.id())]).status());
        drop(self.child.wait());
    }
}

/// Returns a tar of (name, content).
pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_500_000_000);
        builder.append_data(&mut header, name, content.as_bytes()).expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}
