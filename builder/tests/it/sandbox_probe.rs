//! One probe that looks around and tries to break out, run here and by Docker: what Docker keeps
//! from a container is kept from a step, and both see the same.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sandbox::{Image, is_root, run};

/// Writes `name value` lines. What is tried and must fail writes `name refused`.
const PROBE: &str = r#"
    for f in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Groups SigIgn; do
        echo "$f $(sed -n "s/^$f:[[:space:]]*//p" /proc/self/status)"
    done
    echo "devices $(ls /dev | grep -v -E '^(console|core)$' | tr '\n' ' ')"
    echo "environment $(env | grep -v -E '^(PATH|HOME|HOSTNAME|PWD|SHLVL|OLDPWD)=' | wc -l)"
    echo "first $$"
    echo "links $(ls /sys/class/net | tr '\n' ' ')"
    echo "abstract $(grep -c '@' /proc/net/unix)"
    echo "keys $(cat /proc/keys 2>/dev/null | wc -l)"
    echo "umask $(umask)"
    echo "cwd $(pwd)"
    try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name allowed"; else echo "$name refused"; fi; }
    into() { echo "$2" > "$1"; }
    try mount mount -t tmpfs none /mnt
    try bind mount -o bind / /mnt
    try remount mount -o remount,rw /sys
    try unmask umount /proc/kcore
    try userns unshare -U true
    try netns unshare -n true
    try pidns unshare -p true
    try setns nsenter -t 1 -m true
    try chroot chroot / true
    try mknod mknod /tmp-disk b 7 0
    try disk cat /tmp-disk
    try sysctl into /proc/sys/kernel/domainname x
    try core_pattern into /proc/sys/kernel/core_pattern '|/x'
    try sysrq into /proc/sysrq-trigger h
    try uevent into /sys/kernel/uevent_helper /x
    try hostname hostname x
    try time date -s 2001-01-01
    try reboot reboot -f
    try swap swapon /tmp-disk
    try module insmod /x
    try promisc ip link set lo promisc on
    try address ip addr add 192.0.2.1/32 dev lo
    try raw ping -c 1 -W 1 127.0.0.1
    try chown chown 33:33 /tmp-disk
    try nice nice -n -5 true
    try dmesg dmesg
    try kcore head -c 1 /proc/kcore
    try firmware ls /sys/firmware/acpi
    try tiocsti sh -c 'echo x > /dev/tty'
    try release_agent mkdir /sys/fs/cgroup/x
"#;

/// The probe's lines, by name.
fn lines(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(n, v)| (n, v.trim())).collect()
}

/// What a step may do or sees, whatever Docker of this machine does.
#[rustfmt::skip]
const WANT: [(&str, &str); 20] = [
    ("CapPrm", "00000000a80425fb"), ("CapBnd", "00000000a80425fb"), ("CapInh", "0000000000000000"),
    ("Seccomp", "2"), ("environment", "0"), ("first", "1"), ("abstract", "0"),
    ("keys", "0"), ("mount", "refused"), ("bind", "refused"), ("unmask", "refused"),
    ("userns", "refused"), ("setns", "refused"), ("disk", "refused"), ("sysctl", "refused"),
    ("core_pattern", "refused"), ("sysrq", "refused"), ("hostname", "refused"),
    ("promisc", "refused"), ("release_agent", "refused"),
];

/// Names whose value differs for a reason: Docker names root's own group once more, and has a
/// signal ignored that its runtime uses.
const MAY_DIFFER: [&str; 2] = ["Groups", "SigIgn"];

#[test]
fn a_step_sees_and_may_what_a_container_does() {
    let image = Image::busybox();
    let outcome = run(&image.script(PROBE));
    let ours = lines(outcome.text());
    for (name, want) in WANT {
        let got = ours.iter().find(|(it, _)| *it == name);
        assert_eq!(got, Some(&(name, want)), "{outcome:?}");
    }
    let Some(docker) = Docker::start() else { return };
    let theirs = docker.run(&image, PROBE);
    let theirs = lines(&theirs);
    assert_eq!(ours.len(), theirs.len(), "{ours:?} {theirs:?}");
    let differences: Vec<_> = ours
        .iter()
        .zip(&theirs)
        // A container of this machine's Docker may be allowed what today's is not.
        .filter(|(our, their)| our != their && (our.1, their.1) != ("refused", "allowed"))
        .filter(|(our, _)| !MAY_DIFFER.contains(&our.0))
        .collect();
    assert!(differences.is_empty(), "ours and theirs: {differences:?}");
}

/// A Docker daemon of the test's own, without a network.
struct Docker {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    /// Starts it; says so if that cannot be done.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn start() -> Option<Self> {
        let is_there = is_root() && Path::new("/usr/sbin/dockerd").exists();
        if !is_there {
            println!("Skipped: the comparison needs root and dockerd");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let daemon = Command::new("/usr/sbin/dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false"])
            .arg(format!("--host=unix://{}", path("socket")))
            .arg(format!("--data-root={}", path("data")))
            .arg(format!("--exec-root={}", path("exec")))
            .arg(format!("--pidfile={}", path("pid")))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let docker = Self { daemon, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !docker.client(&["version"]).output().unwrap().status.success() {
            let log = std::fs::read_to_string(docker.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "{log}");
            sleep(Duration::from_millis(100));
        }
        Some(docker)
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/docker");
        command.env("DOCKER_HOST", format!("unix://{}/socket", self.dir.path().display()));
        command.args(args);
        command
    }

    /// Runs `script` in a container of `image`.
    fn run(&self, image: &Image, script: &str) -> String {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(image.lower(""))
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut import = self.client(&["import", "-", "probe"]);
        let output = import.stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(output.status.success() && tar.wait().unwrap().success(), "{output:?}");
        let args =
            ["run", "--rm", "--network=none", "-e", "PATH=/bin", "probe", "sh", "-c", script];
        let output = self.client(&args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.daemon.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        drop(self.daemon.wait());
        // The daemon leaves mounts of its own behind.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let mut ours: Vec<&str> = mounts.split(' ').filter(|it| it.starts_with(&dir)).collect();
        ours.reverse();
        for mount in ours {
            drop(Command::new("umount").args(["-l", mount]).output());
        }
    }
}
