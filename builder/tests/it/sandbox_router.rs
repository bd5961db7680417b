//! The way out by pairs of interfaces, in a machine of its own: a network namespace that stands for
//! the host, beside one that stands for the world and knows no way to a step's address.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use builder::{Network, SandboxSpec};

use crate::sandbox::{Image, is_root, program};

/// Makes the two, with Docker's policy for what is forwarded, and runs `$1` in the first.
const MACHINE: &str = r#"
set -e
[ "${INSIDE:-}" ] || { export INSIDE=1; exec unshare -n -m -p --fork --kill-child --mount-proc sh -c "$0" "$0" "$@"; }
mount -t sysfs none /sys
unshare -n sleep 100 & world=$!

while [ "$(readlink /proc/$world/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
echo 0 > /proc/sys/net/ipv4/ip_forward
ip link set lo up
ip link add up0 mtu 1400 type veth peer name world0
ip link set world0 netns $world
ip addr add 192.0.2.2/24 dev up0; ip link set up0 up; ip route add default via 192.0.2.1
nsenter -t $world -n sh -ec '
    ip link set lo up; ip addr add 192.0.2.1/24 dev world0; ip link set world0 up
    ip addr add 198.51.100.7/32 dev lo; ip addr add 169.254.169.254/32 dev lo'
nsenter -t $world -n busybox nc -ll -p 7777 -e echo world &
busybox nc -ll -p 8888 -e echo host &
iptables -P FORWARD DROP
before=$(iptables-save | grep -E '^-A|RBUILD' || true)
sh -ec "$1"
# The janitor may outlive its builder by a moment.
for i in $(seq 40); do
    after=$(iptables-save | grep -E '^-A|RBUILD' || true)
    [ "$before" = "$after" ] && [ "$(cat /proc/sys/net/ipv4/conf/up0/forwarding)" = 0 ] && break
    sleep 0.05
done
[ "$before" = "$after" ] || { echo "rules are left: $after"; exit 1; }
[ "$(cat /proc/sys/net/ipv4/conf/up0/forwarding)" = 0 ] || { echo "still forwards"; exit 1; }
"#;

/// Runs `script` in such a machine with `spec` in the file `$SANDBOX_SPEC`; returns what it wrote.
fn in_machine(image: &Image, spec: &SandboxSpec, script: &str) -> String {
    let file = image.dir.path().join("spec");
    std::fs::write(&file, serde_json::to_vec(spec).unwrap()).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", MACHINE, MACHINE, script]).env("SANDBOX_SPEC", file);
    command.env("PROGRAM", program()).env("DIR", image.dir.path()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Whether such a machine can be made; says so if not.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn can_make_machines() -> bool {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let can = is_root() && is_there("iptables");
    if !can {
        println!("Skipped: needs root and iptables");
    }
    can
}

#[test]
fn steps_reach_the_world_and_nothing_is_left_behind() {
    if !can_make_machines() {
        return;
    }
    let image = Image::busybox();
    let ask = |address: &str, port: u32| {
        format!("nc -w 2 {address} {port} </dev/null 2>/dev/null || echo no;")
    };
    let script = [
        ask("198.51.100.7", 7777),
        ask("169.254.169.254", 7777),
        ask("$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')", 8888),
        ask("192.0.2.2", 8888),
        "ip -o link show eth0 | grep -o 'mtu [0-9]*'; cat /etc/hosts | tail -1".to_owned(),
    ];
    let mut spec = image.script(&script.concat());
    spec.network = Network::Private;
    spec.extra_hosts = vec![("me".to_owned(), "host-gateway".to_owned())];
    let text = in_machine(&image, &spec, "$PROGRAM run");
    // This machine's own address is as reachable as it is for others; its rules decide.
    let want = r#""stdout":"world\nno\nno\nhost\nmtu 1400\n192.0.2.2\tme\n""#;
    assert!(text.contains(want), "{text}");
}

#[test]
fn kill_leaves_no_rule() {
    if !can_make_machines() {
        return;
    }
    let image = Image::busybox();
    let mut spec = image.script("sleep 50");
    spec.network = Network::Private;
    let script = r"
        $PROGRAM run & p=$!
        for i in $(seq 100); do iptables -S | grep -q RBUILD && ip link | grep -q ' rb' && break; sleep 0.05; done
        kill -9 $p; wait $p || true
        for i in $(seq 100); do iptables -S | grep -q RBUILD || ip link | grep -q ' rb' || break; sleep 0.05; done
        sleep 0.2; ip -o link | grep -c ' rb' || true";
    assert_eq!(in_machine(&image, &spec, script).trim(), "0");
    // Killed together with what cleans up: the next builder does it.
    image.renew();
    let script = r#"
        $PROGRAM run & p=$!
        for i in $(seq 100); do iptables -S | grep -q RBUILD && break; sleep 0.05; done
        children=$(grep -lE "^PPid:[[:space:]]$p\$" /proc/[0-9]*/status | tr -cd '0-9\n')
        kill -9 $children $p; wait $p || true
        iptables -S | grep -q RBUILD && echo left
        echo '{}' > $DIR/none; SANDBOX_SPEC=$DIR/next $PROGRAM run | grep -o '"code":0'"#;
    let mut next = image.script("true");
    next.network = Network::Private;
    next.scratch = None;
    let mut file = std::fs::File::create(image.dir.path().join("next")).unwrap();
    file.write_all(&serde_json::to_vec(&next).unwrap()).unwrap();
    assert_eq!(in_machine(&image, &spec, script).trim(), "left\n\"code\":0");
}

#[test]
fn a_resolver_on_loopback_is_reached() {
    if !can_make_machines() {
        return;
    }
    let image = Image::busybox();
    let mut spec =
        image.script("cat /etc/resolv.conf; nslookup db.test | tail -3 | grep -o '192[0-9.]*'");
    spec.network = Network::Private;
    let script = r"
        echo 'nameserver 127.0.0.1' > $DIR/resolv.conf; mount --bind $DIR/resolv.conf /etc/resolv.conf
        $PROGRAM names 127.0.0.1:53 192.0.2.99 &
        sleep 0.3; $PROGRAM run";
    let text = in_machine(&image, &spec, script);
    assert!(text.contains("nameserver 10.213."), "{text}");
    assert!(text.contains("192.0.2.99"), "{text}");
}
