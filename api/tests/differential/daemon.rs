//! A dockerd of our own, that no other program sees and that ends with this process.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long dockerd may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What runs in the new namespaces: the daemon's data lives in memory and goes with it. It has no
/// network, and no RUN of a case needs one.
const SCRIPT: &str = "mount -t tmpfs -o size=4g differential \"$1\" && ip link set lo up && \
    exec dockerd --host \"unix://$2\" --data-root \"$1/data\" --exec-root \"$1/exec\" \
    --pidfile \"$1/pid\" --bridge none --iptables=false --storage-driver overlay2";

/// Starts the daemon, which leaves its log in `dir`, and returns its address.
pub(crate) fn start(dir: &Path) -> String {
    let socket = dir.join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let data = dir.join("docker");
    std::fs::create_dir(&data).expect("writable");
    let log_path = dir.join("dockerd.log");
    let log = File::create(&log_path).expect("writable");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]);
    command
        .args(["--kill-child", "--mount-proc", "sh", "-c", SCRIPT, "sh"])
        .arg(&data)
        .arg(&socket);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let (ready, wait) = mpsc::channel();
    let address = host.clone();
    // The daemon is tied to the thread that starts it: this one lives as long as the process.
    std::thread::spawn(move || {
        let mut child = command.spawn().expect("setpriv can be started");
        let answer = wait_until_it_answers(&mut child, &address);
        drop(ready.send(answer));
        loop {
            std::thread::park();
        }
    });
    let answer = wait.recv().expect("the starter answers");
    if let Err(fault) = answer {
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        panic!("{fault}\n{log}");
    }
    host
}

fn wait_until_it_answers(child: &mut Child, host: &str) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let mut version = Command::new("/usr/bin/docker");
        version.args(["--host", host, "version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if version.status().is_ok_and(|status| status.success()) {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("dockerd ended with {status} before it answered"));
        }
        if since.elapsed() > START_LIMIT {
            return Err("dockerd does not answer".to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
