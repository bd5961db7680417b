//! Registries to test against: Debian's docker-registry, and one of our own that lies on demand.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use builder::{Events, Patience, Registry, RegistryConfig, Sources};
use cache::{Digest, Store};
use frontend::{Platform, Reference};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Runs a program and returns its output; its failure fails the test with all it said.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("`{program}` must be installed: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Debian's docker-registry on a free port of the loopback.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) host: String,
    _directory: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts an open registry.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "")
    }

    /// Starts a registry that wants `user` and `password` for everything.
    pub(crate) fn start_protected(user: &str, password: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let auth = password_file(directory.path(), user, password);
        Self::start_in(directory, &auth)
    }

    /// Starts a registry whose configuration ends with `extra`, first of it more of `http`.
    pub(crate) fn start_in(directory: tempfile::TempDir, extra: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = directory.path().join("config.yml");
        let root = directory.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{extra}",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`docker-registry` must be installed");
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, host: format!("127.0.0.1:{port}"), _directory: directory }
    }

    /// Copies an image of an OCI layout into the registry.
    pub(crate) fn fill(
        &self,
        layout: &Path,
        tag: &str,
        repository: &str,
        credentials: Option<&str>,
    ) {
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{}/{repository}:{tag}", self.host);
        let mut arguments = vec!["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        arguments.extend(credentials.map(|text| ["--dest-creds", text]).into_iter().flatten());
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments);
    }
}

/// Returns what docker-registry's configuration says to want `user` and `password`.
pub(crate) fn password_file(directory: &Path, user: &str, password: &str) -> String {
    let file = directory.join("htpasswd");
    std::fs::write(&file, run("htpasswd", &["-Bbn", user, password])).unwrap();
    format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Makes an OCI layout by umoci with an image of two layers: busybox, and files of all sorts.
pub(crate) fn busybox_layout(directory: &Path, tag: &str) -> PathBuf {
    let layout = directory.join("layout");
    let image = format!("{}:{tag}", layout.display());
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["insert", "--image", &image, "/bin/busybox", "/bin/busybox"]);
    let etc = directory.join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("hostname"), "testee\n").unwrap();
    std::os::unix::fs::symlink("busybox", etc.join("link")).unwrap();
    run("umoci", &["insert", "--image", &image, etc.to_str().unwrap(), "/etc"]);
    run(
        "umoci",
        &["config", "--image", &image, "--config.cmd", "/bin/busybox", "--config.env", "A=b"],
    );
    layout
}

/// A store in a directory of its own, with sources on it.
pub(crate) struct Bench {
    pub(crate) sources: Sources,
    pub(crate) events: Events,
    pub(crate) directory: tempfile::TempDir,
}

impl Bench {
    /// Reaches registries as `config` says, impatiently.
    pub(crate) fn new(config: RegistryConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let patience = Patience {
            stall: Duration::from_millis(600),
            backoff: Duration::from_millis(10),
            attempts: 5,
        };
        let registry = Registry::new(config).with_patience(patience);
        let (events, receiver) = Events::channel();
        drop(receiver);
        Self { sources: Sources::new(store, registry), events, directory }
    }

    pub(crate) fn store(&self) -> &Store {
        self.sources.store()
    }

    /// Names a file beside the store.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Returns a configuration with one mirror for Docker Hub.
pub(crate) fn hub_mirror(url: &str) -> RegistryConfig {
    let mirrors = BTreeMap::from([("docker.io".to_owned(), vec![url.to_owned()])]);
    RegistryConfig { mirrors, ..RegistryConfig::default() }
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse_normalized(text).unwrap().with_default_tag()
}

pub(crate) fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

/// What a request looked like.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: axum::http::HeaderMap,
    /// Known to who answers, and not kept.
    pub(crate) body: bytes::Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// Bytes of a request that are read.
const BODY_LIMIT: usize = 64 << 20;

/// A registry of our own that answers as it is told to and remembers what it was asked.
pub(crate) struct FakeRegistry {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl FakeRegistry {
    /// Answers each request by `answer`, which also gets the number of equal requests before it.
    pub(crate) async fn start(
        answer: impl Fn(&Seen, usize) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let (answer, all) = (Arc::new(answer), Arc::clone(&seen));
        let handler = move |request: Request| {
            let (request, body) = request.into_parts();
            let request = Seen {
                method: request.method.to_string(),
                path: request.uri.path().to_owned(),
                query: request.uri.query().unwrap_or_default().to_owned(),
                headers: request.headers.clone(),
                body: bytes::Bytes::new(),
            };
            let before = {
                let mut all = all.lock().unwrap();
                let same = |old: &&Seen| old.method == request.method && old.path == request.path;
                let before = all.iter().filter(same).count();
                all.push(request.clone());
                before
            };
            let answer = Arc::clone(&answer);
            async move {
                // A registry hears a request out; who is cut off sees no answer.
                let body = axum::body::to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
                answer(&Seen { body, ..request }, before)
            }
        };
        let app = axum::Router::new().fallback(handler);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen, task }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Counts requests whose method and path hold these texts.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let seen = self.seen();
        seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A small image with all its parts in memory.
#[derive(Clone, Debug)]
pub(crate) struct TinyImage {
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl TinyImage {
    /// Makes an image of one gzipped layer that holds `file` with incompressible content.
    pub(crate) fn new(file: &str) -> Self {
        let tar = tar_of(&[(file, &noise(200_000))]);
        Self::of_layer(gzip(&tar), Digest::of(&tar))
    }

    /// Makes an image around a compressed layer and the diff_id that the config shall claim.
    pub(crate) fn of_layer(layer: Vec<u8>, diff_id: Digest) -> Self {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}]}}"#,
            Digest::of(&config), config.len(), Digest::of(&layer), layer.len()
        )
        .into_bytes();
        Self { layer, config, manifest }
    }

    /// Lists the layer's own digest as a second diff_id.
    pub(crate) fn with_another_diff_id(mut self) -> Self {
        let layer = self.layer_digest();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let described = |config: &[u8]| {
            let digest = Digest::of(config);
            format!(r#""digest":"{digest}","size":{}"#, config.len())
        };
        let config = text(&self.config).replace('[', &format!(r#"["{layer}","#)).into_bytes();
        let manifest = text(&self.manifest).replace(&described(&self.config), &described(&config));
        (self.config, self.manifest) = (config, manifest.into_bytes());
        self
    }

    pub(crate) fn layer_digest(&self) -> Digest {
        Digest::of(&self.layer)
    }

    /// Answers as an honest registry that holds this image under every name.
    pub(crate) fn answer(&self, seen: &Seen) -> Response {
        if seen.path.contains("/manifests/") {
            return document(&self.manifest, MANIFEST);
        }
        for blob in [&self.layer, &self.config] {
            if seen.path.ends_with(&Digest::of(blob).to_string()) {
                return blob_response(blob, seen.header("range"));
            }
        }
        status(404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}"#)
    }
}

/// Answers with a whole blob, or the asked range of it.
pub(crate) fn blob_response(blob: &[u8], range: Option<&str>) -> Response {
    let start = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let Some(start) = start.filter(|start| *start < blob.len()) else {
        return (axum::http::StatusCode::OK, blob.to_vec()).into_response();
    };
    let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
    let headers = [("content-range", range)];
    (axum::http::StatusCode::PARTIAL_CONTENT, headers, blob[start..].to_vec()).into_response()
}

/// Answers with a manifest or index and an honest digest.
pub(crate) fn document(bytes: &[u8], media_type: &str) -> Response {
    let digest = Digest::of(bytes).to_string();
    let headers = [("content-type", media_type.to_owned()), ("docker-content-digest", digest)];
    (headers, bytes.to_vec()).into_response()
}

pub(crate) fn status(code: u16, body: &str) -> Response {
    Response::builder().status(code).body(Body::from(body.to_owned())).unwrap()
}

/// Answers with a status and one header.
pub(crate) fn with_header(code: u16, name: &str, value: &str) -> Response {
    Response::builder().status(code).header(name, value).body(Body::empty()).unwrap()
}

/// Announces all of `bytes` and breaks off, or falls silent, after the first `sent` of them.
pub(crate) fn interrupted(bytes: &[u8], sent: usize, falls_silent: bool) -> Response {
    let start = bytes::Bytes::copy_from_slice(&bytes[..sent]);
    let stream = futures_util::stream::unfold(0, move |at| {
        let start = start.clone();
        async move {
            match at {
                0 => Some((Ok(start), 1)),
                _ if falls_silent => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    None
                }
                _ => {
                    // What was sent must be on its way before the connection is torn down.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((Err(std::io::Error::other("broken off on purpose")), 2))
                }
            }
        }
    });
    Response::builder()
        .header("content-length", bytes.len())
        .body(Body::from_stream(stream))
        .unwrap()
}

/// Makes bytes that no compressor gets smaller, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written by hand, so that paths that no honest tool writes can be tested.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Returns an error with all its causes on one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    builder::causes(error).join(": ")
}
