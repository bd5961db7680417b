//! What a step's sandbox costs, from start to end of `true`, beside OCI runtimes.
//!
//! `cargo bench -p builder --bench sandbox [-- ROUNDS]` as root runs everything; as another user,
//! what that user can. Medians and minima of wall time in milliseconds: a machine that does other
//! work shows in the medians first. Below each sandbox stands where its time went, beside the runtimes
//! what the same sandbox without a network takes of theirs, as root.

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "a benchmark may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use builder::{Control, HELPER_ARG, Network, OverlayDirs, Sandbox, SandboxSpec};

/// Rounds of each kind.
const ROUNDS: usize = 100;

/// Between two rounds, as between two steps of a build: there a layer is digested and committed, and
/// what was made ahead for one step is made for the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Parts that take less are told together.
const SMALL: Duration = Duration::from_micros(40);

/// The user that stands for "not root": it owns nothing and has no subordinate ids.
const USER: u32 = 65_534;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [HELPER_ARG, ..] => return builder::helper_main(),
        ["sandbox", network, rounds, dir] => sandbox(network, rounds.parse().unwrap(), dir),
        [] => all(ROUNDS),
        [rounds] => all(rounds.parse().unwrap()),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// Measures everything, each kind in a process of its own.
fn all(rounds: usize) {
    let dir = tempfile::tempdir().unwrap();
    image(&dir.path().join("image"));
    let is_root = nix::unistd::geteuid().is_root();
    println!(
        "{rounds} rounds of `true`; milliseconds of wall time, median (minimum), and medians of the parts"
    );
    let mut own = None;
    for network in ["none", "private"] {
        if is_root {
            let times = measure_self("rbuild, root", network, rounds, dir.path(), None);
            own = own.or(times);
        }
        let user = is_root.then_some(USER);
        measure_self("rbuild, user", network, rounds, dir.path(), user);
    }
    if is_root {
        for runtime in ["runc", "crun"] {
            oci(runtime, rounds.min(30), dir.path(), own);
        }
    }
}

/// A median and a minimum, in milliseconds.
type Times = (f64, f64);

/// Only `/bin` with busybox and what `true` needs.
fn image(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.iter().find(|path| path.exists());
    let busybox = busybox.expect("install busybox (Debian: apt-get install busybox-static)");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/true")).unwrap();
}

fn measure_self(
    name: &str,
    network: &str,
    rounds: usize,
    dir: &Path,
    user: Option<u32>,
) -> Option<Times> {
    // Build directories may be closed to other users.
    let program = dir.join("program");
    if !program.exists() {
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    }
    let own = dir.join(format!("own-{}", user.unwrap_or(0)));
    fs::create_dir_all(&own).unwrap();
    let mut command = Command::new(program);
    if let Some(user) = user {
        std::os::unix::fs::chown(&own, Some(user), Some(user)).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir, open).unwrap();
        command.uid(user).gid(user);
    }
    command
        .args(["sandbox", network, &rounds.to_string()])
        .arg(own)
        .env("IMAGE", dir.join("image"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim() {
        "" => println!("{name}, --network={network}: {}", String::from_utf8_lossy(&output.stderr)),
        text => println!("{name}, --network={network}: {text}"),
    }
    // As `summary` writes them.
    let (median, rest) = text.split_once(" (")?;
    Some((median.parse().ok()?, rest.split_once(')')?.0.parse().ok()?))
}

/// Runs `true` in sandboxes of this process, each on a new layer, and prints what it took.
fn sandbox(network: &str, rounds: usize, dir: &str) {
    if !nix::unistd::geteuid().is_root() {
        builder::enter_user_namespace().unwrap();
    }
    let image = PathBuf::from(std::env::var_os("IMAGE").unwrap());
    let reach = if network == "none" { Network::None } else { Network::Private };
    let sandbox = Sandbox::open().unwrap().for_steps(vec![reach; rounds + 1]);
    let mut times = Vec::with_capacity(rounds);
    let mut parts = Parts::default();
    let mut first = Duration::ZERO;
    for round in 0..=rounds {
        std::thread::sleep(PAUSE);
        let layer = Path::new(dir).join(format!("{network}-{round}"));
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let mut spec = SandboxSpec::new(vec![image.clone()], vec!["/bin/true".to_owned()]);
        spec.network = reach;
        spec.scratch = Some(OverlayDirs { upper, work });
        let since = Instant::now();
        let ran = sandbox.run_timed(&spec, &mut |_, _| {}, &mut || Control::Continue);
        let time = since.elapsed();
        let (ended, its_parts) = ran.unwrap();
        assert_eq!(ended.code(), 0);
        if round == 0 {
            first = time;
        } else {
            times.push(time);
            parts.add(its_parts);
        }
    }
    println!("{}; the first took {}", summary(times), millis(first));
    parts.print();
}

/// Runs `true` by an OCI runtime on an equal bundle, with namespaces of its own and no network.
fn oci(runtime: &str, rounds: usize, dir: &Path, own: Option<Times>) {
    let bundle = dir.join(runtime);
    fs::create_dir_all(&bundle).unwrap();
    symlink(dir.join("image"), bundle.join("rootfs")).unwrap();
    let spec = Command::new(runtime).args(["spec", "--bundle"]).arg(&bundle).output();
    let is_there = spec.is_ok_and(|output| output.status.success());
    if !is_there {
        println!("{runtime}: not installed");
        return;
    }
    let file = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["root"] = serde_json::json!({ "path": dir.join("image"), "readonly": true });
    fs::write(&file, config.to_string()).unwrap();
    let mut times = Vec::new();
    for round in 0..rounds {
        std::thread::sleep(PAUSE);
        let name = format!("bench-{}-{round}", std::process::id());
        let since = Instant::now();
        let output = Command::new(runtime)
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(name)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if !output.status.success() {
            println!("{runtime}: {}", String::from_utf8_lossy(&output.stderr).trim());
            return;
        }
        times.push(since.elapsed());
    }
    times.sort_unstable();
    let (median, minimum) = (times[times.len() / 2], times[0]);
    let of = |own: f64, its: Duration| format!("{:.2}", own / (its.as_secs_f64() * 1000.0));
    let share = own.map_or_else(String::new, |(own_median, own_minimum)| {
        format!("; rbuild takes {} ({}) of it", of(own_median, median), of(own_minimum, minimum))
    });
    println!("{runtime} run: {}{share}", summary(times));
}

/// Where the time of many rounds went.
#[derive(Default)]
struct Parts(Vec<(String, Vec<Duration>)>);

impl Parts {
    fn add(&mut self, round: Vec<(String, Duration)>) {
        for (index, (name, time)) in round.into_iter().enumerate() {
            match self.0.get_mut(index) {
                Some((known, times)) if *known == name => times.push(time),
                // A part that some rounds lack.
                Some(_) => {}
                None => self.0.push((name, vec![time])),
            }
        }
    }

    /// Prints what counts, and the rest as one.
    fn print(self) {
        let mut rest = Vec::new();
        for (name, mut times) in self.0 {
            times.sort_unstable();
            let median = times[times.len() / 2];
            if median < SMALL {
                rest.push(median);
            } else {
                println!("    {:>6}  {name}", millis(median));
            }
        }
        println!("    {:>6}  {} smaller parts", millis(rest.iter().sum()), rest.len());
    }
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    format!("{} ({})", millis(times[times.len() / 2]), millis(times[0]))
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}
