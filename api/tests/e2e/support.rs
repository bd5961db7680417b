//! What the tests share: a store with base images, programs run to their end, servers that end
//! with the test process.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The rbuild under test.
pub(crate) const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A program's end with its texts.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Panics with everything the program said unless it ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics with everything the program said unless it ended with `code`.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless standard output or standard error holds `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "`{text}` was not said\nstdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ran {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
        .into()
}

/// A command that runs `program` with `args`.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// An rbuild command on `store`, free of the caller's settings.
pub(crate) fn rbuild(store: &Path, args: &[&str]) -> Command {
    let mut command = command(RBUILD, args);
    for name in ["RBUILD_HOST", "RBUILD_CONFIG", "RBUILD_CA_CERT", "DOCKER_CONFIG"] {
        command.env_remove(name);
    }
    command.env("RBUILD_STORE", store);
    command
}

/// The arguments that pass a private certificate authority of this network on to RUN steps.
pub(crate) fn ca_arguments() -> Vec<String> {
    std::env::var("SSL_CERT_FILE")
        .map_or_else(|_| Vec::new(), |file| vec!["--ca-cert".to_owned(), file])
}

/// The workspace's `testdata`.
pub(crate) fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata")
        .canonicalize()
        .expect("testdata exists")
}

/// A directory for the tests' big files; it survives test runs.
pub(crate) fn scratch() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
    std::fs::create_dir_all(&path).expect("the target directory is writable");
    path
}

/// A store that holds busybox, debian:bookworm-slim and node:14, made by rbuild from packages.
pub(crate) fn bases() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = scratch().join("store");
        run(command(testdata().join("bases/make.sh").to_str().expect("UTF-8 path"), &[])
            .env("RBUILD", RBUILD)
            .env("RBUILD_STORE", &store))
        .ok();
        store
    })
}

/// A context directory with the files given as (name, text).
pub(crate) fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a parent")).expect("writable");
        std::fs::write(path, text).expect("writable");
    }
    dir
}

/// A server that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` and waits until `answers` says yes.
    pub(crate) fn start(command: &mut Command, mut answers: impl FnMut() -> bool) -> Self {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let mut server = Self { child };
        let since = Instant::now();
        while !answers() {
            if let Some(status) = server.child.try_wait().expect("a child can be waited for") {
                panic!("{command:?} ended with {status} before it answered");
            }
            assert!(since.elapsed() < START_LIMIT, "{command:?} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Server {
    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has free ports")
        .port()
}

/// Fetches `path` by HTTP/1.0 and returns the whole answer, or nothing.
pub(crate) fn http_get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Waits until `http://127.0.0.1:port/` answers 200 with the example's page.
#[track_caller]
pub(crate) fn expect_page(port: u16) {
    let since = Instant::now();
    let mut last = None;
    while since.elapsed() < START_LIMIT {
        last = http_get(port, "/");
        if let Some(answer) = &last
            && answer.starts_with("HTTP/1.1 200")
            && answer.contains("Eu amo Docker!")
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the page never came; last answer: {last:?}");
}

/// Debian's docker-registry on a free port.
pub(crate) fn docker_registry() -> (Server, u16, tempfile::TempDir) {
    let port = free_port();
    let (server, dir) = docker_registry_with(port, "", || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 200 "))
    });
    (server, port, dir)
}

/// The same, for `user` with `password` alone. The directories are its users, which it reads when
/// it is asked, and its data.
pub(crate) fn guarded_registry(
    user: &str,
    password: &str,
) -> (Server, u16, [tempfile::TempDir; 2]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let users = dir.path().join("users");
    run(command("htpasswd", &["-Bbc"]).arg(&users).args([user, password])).ok();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
    let port = free_port();
    let (server, data) = docker_registry_with(port, &auth, || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 401 "))
    });
    (server, port, [dir, data])
}

/// Debian's docker-registry on `port`, with `more` lines in its configuration.
pub(crate) fn docker_registry_with(
    port: u16,
    more: &str,
    answers: impl FnMut() -> bool,
) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = String::new();
    write!(
        config,
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n{more}",
        dir.path().join("data").display()
    )
    .expect("writing to a string works");
    let file = dir.path().join("config.yml");
    std::fs::write(&file, config).expect("writable");
    let server = Server::start(
        command("docker-registry", &["serve"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
        answers,
    );
    (server, dir)
}
