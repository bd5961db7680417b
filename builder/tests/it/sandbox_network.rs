//! What a step reaches by each of the three networks, asked of real servers on this machine.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use builder::{Network, PortForward};

use crate::sandbox::{Image, finish, is_root, program, run, start};

/// A server that says `hello` to everyone, for as long as the test runs.
fn server(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello\n");
        }
    });
    address
}

/// The address of this machine that others reach: the source of packets that leave it.
fn outside_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("the machine has a route out");
    socket.local_addr().unwrap().ip()
}

/// Whether an ordinary user can have a tap device on this machine.
fn has_tap() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok()
}

#[test]
fn each_network_reaches_what_it_should() {
    let image = Image::busybox();
    let (loopback, outside) = (server([127, 0, 0, 1].into()), server(outside_address()));
    let everywhere = server([0, 0, 0, 0].into());
    let ask = |address: IpAddr, port| {
        format!("nc -w 2 {address} {port} </dev/null 2>/dev/null || echo no")
    };
    let script = [
        ask(loopback.ip(), loopback.port()),
        ask([10, 0, 2, 2].into(), loopback.port()),
        ask([10, 0, 2, 3].into(), loopback.port()),
        // The other end of the link, if there is one.
        format!(
            "g=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); \
             nc -w 2 ${{g:-127.0.0.2}} {} </dev/null 2>/dev/null || echo no",
            everywhere.port()
        ),
        ask([169, 254, 169, 254].into(), 80),
        ask(outside.ip(), outside.port()),
        "ip -o link | sed 's/^[0-9]*: //;s/[:@].*//' | sort | tr '\\n' ' '".to_owned(),
    ];
    let device = if is_root() { "eth0 lo" } else { "lo tap0" };
    #[rustfmt::skip]
    let cases = [
        ("none",    Network::None,    "no\nno\nno\nno\nno\nno\nlo".to_owned()),
        ("private", Network::Private, format!("no\nno\nno\nno\nno\nhello\n{device}")),
    ];
    for (name, network, want) in cases {
        if network == Network::Private && !is_root() && !has_tap() {
            println!("Skipped: needs /dev/net/tun");
            continue;
        }
        image.renew();
        let mut spec = image.script(&script.join("\n"));
        spec.network = network;
        assert_eq!(run(&spec).text(), want, "{name}");
    }
    image.renew();
    let mut spec = image.script(&script.join("\n"));
    spec.network = Network::Host;
    let outcome = run(&spec);
    assert!(outcome.text().starts_with("hello\n"), "the host's loopback: {outcome:?}");
    assert_eq!(image.changes(), [""; 0]);
}

#[test]
fn names_resolve_as_on_the_host() {
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let has_private = is_root() || has_tap();
    if !has_private || !resolvers.contains("nameserver") {
        println!("Skipped: needs a resolver and /dev/net/tun");
        return;
    }
    let image = Image::busybox();
    // Any answer will do, also that there is no such name: a resolver was reached.
    let mut spec = image.script("nslookup deb.debian.org 2>&1 | grep -c -E 'Server:|Address:'");
    spec.network = Network::Private;
    let outcome = run(&spec);
    assert_ne!(outcome.stdout.trim(), "0", "{outcome:?}");
}

#[test]
fn loopback_of_its_own_works() {
    let image = Image::busybox();
    let script = "nc -l -p 80 -e echo inside & sleep 0.3; nc 127.0.0.1 80 </dev/null";
    assert_eq!(run(&image.script(script)).text(), "inside");
}

#[test]
fn ports_lead_inside() {
    if !is_root() && !has_tap() {
        println!("Skipped: needs /dev/net/tun");
        return;
    }
    let image = Image::busybox();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(host) = free.local_addr().unwrap() else {
        unreachable!("IPv4 was asked for")
    };
    drop(free);
    let mut spec = image.script("nc -l -p 3000 -e echo served");
    spec.network = Network::Private;
    spec.port_forwards = vec![PortForward { host, port: 3000 }];
    let mut command = Command::new(program());
    command.arg(if is_root() { "run" } else { "rootless" });
    let child = start(command, &spec);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut answer = String::new();
    while answer.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        if let Ok(mut stream) = TcpStream::connect(host) {
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let _ = stream.read_to_string(&mut answer);
        }
    }
    assert_eq!(answer, "served\n");
    assert_eq!(finish(child).code, Some(0));
}

#[test]
fn without_a_helper_there_is_no_private_network() {
    if !is_root() {
        println!("Skipped: needs root to hide slirp4netns");
        return;
    }
    let image = Image::busybox();
    let mut spec = image.script("true");
    spec.network = Network::Private;
    let hide = "for p in $(which -a slirp4netns iptables-restore nft); do
        mount --bind /dev/null $p; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", hide, "sh"]).arg(program()).arg("run");
    let outcome = finish(start(command, &spec));
    assert_eq!(outcome.kind, "host");
    let message = outcome.message();
    assert!(message.contains("no private network: install slirp4netns"), "{message}");
    assert!(message.contains("--network=none"), "{message}");
}
