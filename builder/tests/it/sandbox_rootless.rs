//! The same as an ordinary user: with a range of subordinate ids, and with a single id.
//!
//! The user exists only in a private mount namespace, over whose `/etc` small files are bound.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use builder::{MountSource, Network, SandboxSpec};

use crate::sandbox::{Image, Outcome, finish, is_root, mount, start};

/// An id that no user of this machine has.
const USER: u32 = 54_321;

/// The first of its subordinate ids.
const FIRST: u32 = 1_900_000;

/// Runs `spec` as [`USER`]; with `has_range`, its ids are in `/etc/subuid`.
fn run_as_user(image: &Image, spec: &SandboxSpec, has_range: bool) -> Outcome {
    let dir = image.dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in walkdir::WalkDir::new(dir) {
        std::os::unix::fs::lchown(entry.unwrap().path(), Some(USER), Some(USER)).unwrap();
    }
    // Build directories may be closed to other users.
    let program = dir.join("program");
    fs::copy(crate::sandbox::program(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let range = if has_range { format!("tester:{FIRST}:65536\n") } else { String::new() };
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let files = [
        ("passwd", format!("{passwd}tester:x:{USER}:{USER}::/:/bin/sh\n")),
        ("subuid", range.clone()),
        ("subgid", range),
    ];
    for (name, text) in &files {
        fs::write(dir.join(name), text).unwrap();
    }
    let script = "cd $1; for f in passwd subuid subgid; do mount --bind $f /etc/$f; done
        rm -f tun; mknod tun c 10 200; chmod 666 tun; mount --bind tun /dev/net/tun; cd /
        exec setpriv --reuid $2 --regid $2 --clear-groups $1/program rootless";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-e", "-c", script, "sh"]).arg(dir).arg(USER.to_string());
    finish(start(command, spec))
}

/// Gives cgroups to user $2, runs the sandbox's tests of $1 as that user in them, and takes them
/// away.
const AS_USER: &str = r#"
    cd $1; for f in passwd subuid subgid; do mount --bind $f /etc/$f; done
    mknod tun c 10 200; chmod 666 tun; mount --bind tun /dev/net/tun
    name=rbuild-test-$$; dirs=; leaves=
    give() { mkdir -p $1/$name$2; dirs="$1/$name $dirs"; leaves="$leaves $1/$name$2"; }
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        give /sys/fs/cgroup /leaf
        for c in memory pids cpu cpuset; do echo +$c > /sys/fs/cgroup/$name/cgroup.subtree_control; done
    else
        for c in memory pids cpu cpuacct cpuset blkio; do
            own=$(grep ":$c:" /proc/self/cgroup | cut -d: -f3)
            give /sys/fs/cgroup/$c$own
            if [ $c = cpuset ]; then
                for f in cpus mems; do
                    cat /sys/fs/cgroup/$c$own/cpuset.$f > /sys/fs/cgroup/$c$own/$name/cpuset.$f
                done
            fi
        done
    fi
    chown -R $2 $dirs
    TMPDIR=$1/tmp HOME=$1/tmp SANDBOX_PROGRAM=$1/program SANDBOX_CGROUPS=1 sh -c '
        for leaf in $3; do echo $$ > $leaf/cgroup.procs; done
        exec setpriv --reuid $2 --regid $2 --clear-groups $1/tests sandbox --test-threads 2
    ' sh $1 $2 "$leaves" && code=0 || code=$?
    sleep 0.2; find $dirs -depth -type d -exec rmdir {} \; ; exit $code
"#;

/// Everything that holds for root holds for a user: the same tests once more, as one.
#[test]
fn all_of_it_as_a_user() {
    if !can_change_user() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::copy(std::env::current_exe().unwrap(), path("tests")).unwrap();
    fs::copy(crate::sandbox::program(), path("program")).unwrap();
    fs::create_dir(path("tmp")).unwrap();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(path("passwd"), format!("{passwd}tester:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
    for name in ["subuid", "subgid"] {
        fs::write(path(name), format!("tester:{FIRST}:65536\n")).unwrap();
    }
    for name in ["", "tests", "program", "tmp"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(path(name), Some(USER), Some(USER)).unwrap();
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-e", "-c", AS_USER, "sh"]).arg(dir.path()).arg(USER.to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("test sandbox_limits::a_memory_hog_is_killed_and_named ... ok"),
        "{said}"
    );
}

/// Whether this test can change users; says so if not.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn can_change_user() -> bool {
    if !is_root() {
        println!("Skipped: needs root to become another user");
    }
    is_root()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn a_range_gives_users_and_groups() {
    if !can_change_user() {
        return;
    }
    let image = Image::busybox();
    let script =
        "id -u; touch /mine /theirs; chown 33:44 /theirs; mkdir /gone; rmdir /gone; rm /bin/cat;
        mount | grep -c ' / '; stat -c %u:%g /theirs; ls /sys/class/net; cat /proc/keys";
    let mut spec = image.script(script);
    let outcome = run_as_user(&image, &spec, true);
    assert_eq!(outcome.mapping.as_deref(), Some("Ranges"), "{outcome:?}");
    assert_eq!(outcome.text(), "0\n1\n33:44\nlo");
    assert_eq!(owner(&image.upper("mine")), (USER, USER));
    assert_eq!(owner(&image.upper("theirs")), (FIRST + 32, FIRST + 43));
    assert_eq!(image.changes(), ["bin", "bin/cat", "mine", "theirs"]);
    assert_eq!(fs::metadata(image.upper("bin/cat")).unwrap().rdev(), 0, "a whiteout");

    image.renew();
    (spec.uid, spec.gid, spec.groups) = (1000, 1000, vec![27]);
    spec.args = ["id"].map(str::to_owned).to_vec();
    let outcome = run_as_user(&image, &spec, true);
    assert_eq!(outcome.text(), "uid=1000 gid=1000 groups=27");

    image.renew();
    spec.uid = 70_000;
    let outcome = run_as_user(&image, &spec, true);
    assert_eq!(outcome.kind, "user");
    assert!(outcome.message().contains("cannot become user 70000"), "{outcome:?}");
}

#[test]
fn a_single_id_is_root_and_says_what_is_missing() {
    if !can_change_user() {
        return;
    }
    let image = Image::busybox();
    let mut spec = image.script("id -u; touch /mine; chown 33 /mine 2>/dev/null || echo refused");
    let outcome = run_as_user(&image, &spec, false);
    assert_eq!(outcome.text(), "0\nrefused");
    let mapping = outcome.mapping.unwrap();
    assert!(mapping.contains("/etc/subuid gives user tester no range"), "{mapping}");
    assert_eq!(owner(&image.upper("mine")), (USER, USER));

    image.renew();
    (spec.uid, spec.gid) = (1000, 1000);
    let outcome = run_as_user(&image, &spec, false);
    assert_eq!(outcome.kind, "user");
    let message = outcome.message();
    assert!(message.contains("cannot become user 1000") && message.contains("uidmap"), "{message}");
}

#[test]
fn a_user_has_a_private_network() {
    if !can_change_user() {
        return;
    }
    let image = Image::busybox();
    for (network, want) in [(Network::Private, "lo\ntap0"), (Network::None, "lo")] {
        image.renew();
        let mut spec = image.script("ls /sys/class/net");
        spec.network = network;
        assert_eq!(run_as_user(&image, &spec, true).text(), want, "{network:?}");
    }
    image.renew();
    let mut spec = image.script("ls /sys/class/net | wc -l");
    spec.network = Network::Host;
    let outside = fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(run_as_user(&image, &spec, false).text(), outside.to_string(), "the host's network");
}

#[test]
fn what_the_user_cannot_read_stays_out_of_reach() {
    if !can_change_user() {
        return;
    }
    let image = Image::busybox();
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("f"), "").unwrap();
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut spec = image.script("true");
    let root = secret.path().to_owned();
    let source =
        MountSource::Bind { root, path: "f".to_owned(), writable: true, is_recursive: false };
    spec.mounts = vec![mount("/probe", source)];
    let outcome = run_as_user(&image, &spec, true);
    assert!(outcome.message().contains("Permission denied"), "{outcome:?}");
}
