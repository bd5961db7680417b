//! Builds of a service that are ended in each of their phases, in each of the ways to do so:
//! nothing is left behind, and the store is whole.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cache::Digest;

use crate::engine::engine;
use crate::support::{command, rbuild, run};
use crate::wire::{self, TAR};

/// How long a build that was ended may take to be gone (SECURITY: 15 seconds).
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a phase may take to come.
const START: Duration = Duration::from_secs(60);

/// A registry with one image, whose layer never comes, and which never takes a blob.
struct Stalled {
    address: String,
    /// Connections that wait for what never comes.
    waiting: Arc<AtomicUsize>,
}

impl Stalled {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound").to_string();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&waiting);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || answer(&client, &counted));
            }
        });
        Self { address, waiting }
    }
}

/// Answers requests until one comes that never gets an answer.
fn answer(client: &TcpStream, waiting: &AtomicUsize) {
    let layer = Digest::of(b"never sent").to_string();
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{layer}\"]}}}}"
    );
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
         \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
         \"digest\":\"{}\",\"size\":{}}},\"layers\":[{{\
         \"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\
         \"digest\":\"{layer}\",\"size\":1000000}}]}}",
        Digest::of(config.as_bytes()),
        config.len()
    );
    let mut reader = BufReader::new(client.try_clone().expect("it is open"));
    let mut writer = client;
    loop {
        let (mut first, mut line) = (String::new(), String::from("."));
        if reader.read_line(&mut first).unwrap_or_default() == 0 {
            return;
        }
        while !line.trim().is_empty() {
            line.clear();
            if reader.read_line(&mut line).unwrap_or_default() == 0 {
                return;
            }
        }
        let (method, path) = first.split_once(' ').unwrap_or_default();
        let path = path.split(' ').next().unwrap_or_default();
        let (status, kind, body) = match (method, path) {
            (_, "/v2/") => ("200 OK", "application/json", "{}"),
            ("GET" | "HEAD", "/v2/base/manifests/1") => {
                ("200 OK", "application/vnd.oci.image.manifest.v1+json", manifest.as_str())
            }
            ("GET", path) if path.ends_with(&Digest::of(config.as_bytes()).to_string()) => {
                ("200 OK", "application/octet-stream", config.as_str())
            }
            ("GET", path) if path.ends_with(&layer) => {
                waiting.fetch_add(1, Ordering::SeqCst);
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun";
                drop(writer.write_all(head.as_bytes()));
                // Until the other side goes away.
                drop(reader.read_to_end(&mut Vec::new()));
                waiting.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            ("POST" | "PUT" | "PATCH", _) => {
                waiting.fetch_add(1, Ordering::SeqCst);
                drop(reader.read_to_end(&mut Vec::new()));
                waiting.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            _ => ("404 Not Found", "application/json", "{\"errors\":[]}"),
        };
        let length = body.len();
        let body = if method == "HEAD" { "" } else { body };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n");
        let text = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        if writer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// How far a build is let come before it is ended.
struct Phase {
    name: &'static str,
    /// `REG` is the registry that stalls.
    dockerfile: &'static str,
    query: &'static str,
    /// How much of the context arrives.
    context: Context,
    reached: Reached,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Whole,
    /// Its first half, and then nothing.
    Half,
}

/// What tells that a phase is reached.
#[derive(Clone, Copy)]
enum Reached {
    /// The build is known.
    Begun,
    /// The registry is waited for.
    Waits,
    /// This was shown.
    Shown(&'static str),
}

#[rustfmt::skip]
const PHASES: [Phase; 5] = [
    Phase { name: "upload", dockerfile: "FROM busybox\nCOPY a /\n", query: "",
        context: Context::Half, reached: Reached::Begun },
    Phase { name: "pull", dockerfile: "FROM REG/base:1\nRUN true\n", query: "",
        context: Context::Whole, reached: Reached::Waits },
    Phase { name: "run", dockerfile: "FROM busybox\nRUN echo star''ted; sleep 7531\n", query: "",
        context: Context::Whole, reached: Reached::Shown("started") },
    Phase { name: "seal", dockerfile: "FROM busybox\nRUN head -c 1500000000 /dev/zero >/big; echo writ''ten\n", query: "",
        context: Context::Whole, reached: Reached::Shown("written") },
    Phase { name: "push", dockerfile: "FROM busybox\nRUN head -c 100000 /dev/urandom >/x\n", query: "&cacheto=%5B%22type%3Dregistry,ref%3DREG/c:1,mode%3Dmax%22%5D",
        context: Context::Whole, reached: Reached::Waits },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The client goes away.
    Leave,
    /// `DELETE /v1/builds/{id}`
    Delete,
    /// `POST /build/cancel?id=`
    Cancel,
}

/// A service and where it is.
struct World {
    socket: PathBuf,
    store: PathBuf,
    process: u32,
    registry: Stalled,
}

impl World {
    fn newest(&self) -> Option<serde_json::Value> {
        let listed = wire::ask(&self.socket, "GET /v1/builds?limit=1", &[], b"").json();
        listed["builds"].get(0).cloned()
    }

    fn begin(&self, phase: &Phase) -> UnixStream {
        let fill = |text: &str| text.replace("REG", &self.registry.address);
        let tar = wire::tar(&[("Dockerfile", &fill(phase.dockerfile)), ("a", &"a".repeat(5000))]);
        let sent = if phase.context == Context::Half { tar.len() / 2 } else { tar.len() };
        let length = format!("Content-Length: {}", tar.len());
        let request = format!("POST /build?nocache=1&buildid=mine{}", fill(phase.query));
        wire::open(&self.socket, &request, &[TAR, &length], &tar[..sent])
    }

    /// Waits until the build is where it shall be; returns its id.
    fn reach(&self, phase: &Phase, before: &str, stream: &mut UnixStream) -> String {
        let (since, mut seen) = (Instant::now(), Vec::new());
        loop {
            let newest = self.newest().unwrap_or_default();
            let id = newest["id"].as_str().unwrap_or_default().to_owned();
            let is_there = match phase.reached {
                Reached::Begun => true,
                Reached::Waits => self.registry.waiting.load(Ordering::SeqCst) > 0,
                Reached::Shown(text) => String::from_utf8_lossy(&seen).contains(text),
            };
            if is_there && id != before && !id.is_empty() {
                return id;
            }
            let shown = || String::from_utf8_lossy(&seen).into_owned();
            assert!(since.elapsed() < START, "{} never came: {}", phase.name, shown());
            wire::read_some(stream, &mut seen);
        }
    }

    /// Everything that a build could leave behind.
    fn traces(&self) -> BTreeSet<String> {
        let mut traces = BTreeSet::new();
        let mounts = format!("/proc/{}/mountinfo", self.process);
        let mounts = std::fs::read_to_string(mounts).expect("the service lives");
        // Others mount and unmount beside this test.
        let store = self.store.display().to_string();
        traces.extend(mounts.lines().filter(|line| line.contains(&store)).map(str::to_owned));
        traces.insert(format!("{} processes", descendants(self.process).len()));
        let own = format!("rbuild-{}-*", self.process);
        let find = ["/sys/fs/cgroup", "-name", own.as_str()];
        let cgroups = run(&mut command("find", &find)).stdout;
        traces.insert(format!("{} cgroups", cgroups.lines().count()));
        for entry in walkdir::WalkDir::new(self.store.join("tmp")).into_iter().flatten() {
            traces.insert(entry.path().display().to_string());
        }
        traces.insert(format!("{} wait", self.registry.waiting.load(Ordering::SeqCst)));
        traces
    }
}

/// All processes that come from `process`.
fn descendants(process: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = all.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let (mut found, mut at) = (vec![process], 0);
    while let Some(&next) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == next).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let since = Instant::now();
    loop {
        match ask() {
            Ok(got) => return got,
            Err(last) => assert!(since.elapsed() < PATIENCE, "{what}: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn end(world: &World, way: Way, id: &str, stream: UnixStream) -> Option<UnixStream> {
    match way {
        Way::Leave => {
            drop(stream);
            None
        }
        Way::Delete => {
            let ended = wire::ask(&world.socket, &format!("DELETE /v1/builds/{id}"), &[], b"");
            assert_eq!(ended.status, 202, "{ended:?}");
            Some(stream)
        }
        Way::Cancel => {
            let ended = wire::ask(&world.socket, "POST /build/cancel?id=mine", &[], b"");
            assert_eq!(ended.status, 200, "{ended:?}");
            Some(stream)
        }
    }
}

#[test]
fn nothing_is_left_of_a_build_that_is_ended_in_any_phase() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = engine(dir.path());
    let world = World {
        socket: dir.path().join("rbuild.sock"),
        store: dir.path().join("store"),
        process: server.id(),
        registry: Stalled::start(),
    };
    let good = wire::tar(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    assert_eq!(wire::ask(&world.socket, "POST /build", &[TAR], &good).status, 200);
    let id_of = |build: &serde_json::Value| build["id"].as_str().unwrap_or_default().to_owned();
    let mut last = world.newest().as_ref().map(id_of).expect("the build is remembered");
    let mut clean = world.traces();
    until("the pool is filled", || {
        let before = std::mem::replace(&mut clean, world.traces());
        if before == clean { Ok(()) } else { Err(format!("{clean:?}")) }
    });

    for phase in &PHASES {
        for way in [Way::Leave, Way::Delete, Way::Cancel] {
            let name = format!("{} ended by {way:?}", phase.name);
            let mut stream = world.begin(phase);
            let id = world.reach(phase, &last, &mut stream);
            let stream = end(&world, way, &id, stream);
            let state = until(&name, || {
                let shown = wire::ask(&world.socket, &format!("GET /v1/builds/{id}"), &[], b"");
                let state = shown.json()["result"]["state"].as_str().unwrap_or_default().to_owned();
                if state == "running" { Err(state) } else { Ok(state) }
            });
            // Who leaves in the middle of a context has it broken off, which no build survives.
            let is_cut = way == Way::Leave && phase.context == Context::Half;
            assert_eq!(state, if is_cut { "failed" } else { "cancelled" }, "{name}");
            if let Some(stream) = stream {
                let told = wire::rest(stream);
                let told = String::from_utf8_lossy(&told);
                assert!(told.contains("cancelled"), "{name} is told as: {told}");
            }
            until(&name, || {
                let now = world.traces();
                let left: Vec<_> = now.symmetric_difference(&clean).collect();
                if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
            });
            last = id;
        }
    }
    let metrics = wire::ask(&world.socket, "GET /metrics", &[], b"");
    assert!(metrics.body.contains("rbuild_builds_running 0"), "{}", metrics.body);
    run(&mut rbuild(&world.store, &["store", "check"])).ok();
    assert_eq!(wire::ask(&world.socket, "POST /build", &[TAR], &good).status, 200);
}
