//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`, made for one step.
//!
//! They are files in memory of which changes are lost, as in Docker.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use super::child::Child;
use super::error::Fault;
use super::mount::{KERNEL, clone_of, make_dir, make_file};
use super::source::Prepared;
use super::spec::Network;
use super::target::attach_at;

/// Makes the content of one file.
type Content = fn(&Child) -> String;

/// Paths and what makes their content.
pub(super) const FILES: [(&str, Content); 3] = [
    ("/etc/resolv.conf", resolv_conf),
    ("/etc/hosts", hosts),
    ("/etc/hostname", |child| format!("{}\n", child.spec.hostname)),
];

/// Where this machine keeps its resolvers. The second one is there when the first names only the
/// local stub of systemd-resolved, which a network of its own cannot reach.
const HOST_RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The address that stands for this machine's own (docker build, "--add-host").
pub(super) const HOST_GATEWAY: &str = "host-gateway";

/// Bytes of this machine's `resolv.conf` that are read at most.
const RESOLV_CONF_BYTES: u64 = 64 << 10;

/// Mounts the files.
pub(super) fn mount_files(child: &mut Child) -> Result<(), Fault> {
    let dir = make_dir(child.scratch(), "etc", 0o700)?;
    for ((path, content), place) in FILES.iter().zip(&child.places().etc) {
        let Some(place) = place else { continue };
        let name = path.trim_start_matches("/etc/");
        let mut file = File::from(make_file(&dir, name, 0o644)?);
        file.write_all(content(child).as_bytes())?;
        let prepared = Prepared { mount: clone_of(&file, KERNEL)?, is_dir: false };
        attach_at(child.root(), &place.path, &prepared)?;
    }
    Ok(())
}

/// Writes `/etc/hosts` as Docker does.
fn hosts(child: &Child) -> String {
    let spec = &child.spec;
    let mut text = "127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::\tip6-localnet\n\
        ff00::\tip6-mcastprefix\n\
        ff02::1\tip6-allnodes\n\
        ff02::2\tip6-allrouters\n"
        .to_owned();
    let hostname = ("127.0.0.1".to_owned(), spec.hostname.clone());
    let extra = spec.extra_hosts.iter().filter_map(|(name, address)| {
        let gateway = child.gateway.map(|gateway| gateway.to_string());
        let address = if address == HOST_GATEWAY { gateway? } else { address.clone() };
        Some((address, name.clone()))
    });
    for (address, name) in std::iter::once(hostname).chain(extra) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

fn resolv_conf(child: &Child) -> String {
    let spec = &child.spec;
    let text = match spec.network {
        Network::Host => read_host(HOST_RESOLV_CONF[0]),
        Network::None => String::new(),
        Network::Private => private_resolv_conf(&HOST_RESOLV_CONF.map(read_host), child.resolver),
    };
    spec.dns.replace_in(&text)
}

/// The resolver of this machine that a private network cannot reach, if it has no other.
pub(super) fn unreachable_resolver() -> Option<Ipv4Addr> {
    let candidates = HOST_RESOLV_CONF.map(read_host);
    if candidates.iter().any(|text| text.lines().any(|line| nameserver(line).is_some())) {
        return None;
    }
    let on_loopback = candidates[0].lines().filter_map(any_nameserver).find_map(|it| match it {
        IpAddr::V4(address) if address.is_loopback() => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    // Where none is named, there may be one here (resolv.conf(5)).
    Some(on_loopback.unwrap_or(Ipv4Addr::LOCALHOST))
}

fn read_host(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        // A file that is missing, unreadable or no text names no resolver.
        drop(file.take(RESOLV_CONF_BYTES).read_to_string(&mut text));
    }
    text
}

/// Takes the first of `candidates` with a resolver that can be reached from elsewhere than this
/// machine's loopback; if none has one, names the private network's `own`.
fn private_resolv_conf(candidates: &[String], own: Option<Ipv4Addr>) -> String {
    let reachable = candidates.iter().find_map(|text| {
        let kept: Vec<&str> = text.lines().filter(|line| is_kept(line)).collect();
        kept.iter().any(|line| nameserver(line).is_some()).then(|| kept.join("\n") + "\n")
    });
    if let Some(text) = reachable {
        return text;
    }
    let options = candidates.first().map(String::as_str).unwrap_or_default();
    let server = own.map(|address| format!("nameserver {address}"));
    let kept = options.lines().filter(|line| is_kept(line));
    let lines: Vec<&str> = server.iter().map(String::as_str).chain(kept).collect();
    lines.join("\n") + "\n"
}

/// Whether a line says something to a step: comments and unreachable resolvers do not.
fn is_kept(line: &str) -> bool {
    match line.split_whitespace().next() {
        Some("nameserver") => nameserver(line).is_some(),
        Some("search" | "domain" | "options" | "sortlist") => true,
        _ => false,
    }
}

/// The resolver that a line names, if a private network reaches it: not loopback, and IPv4, which
/// is all that such a network carries.
fn nameserver(line: &str) -> Option<IpAddr> {
    any_nameserver(line).filter(|address| address.is_ipv4() && !address.is_loopback())
}

fn any_nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    words.next().filter(|word| *word == "nameserver")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::ground::Ground;
    use super::super::spec::SandboxSpec;
    use super::*;

    #[test]
    fn resolvers_on_loopback_are_replaced() {
        let upstream = "nameserver 192.0.2.1\n";
        #[rustfmt::skip]
        let cases = [
            ("reachable",   ["search a\nnameserver 192.0.2.9\n", ""],         "search a\nnameserver 192.0.2.9\n"),
            ("comments",    ["# x\nnameserver 192.0.2.9 # y\n", ""],          "nameserver 192.0.2.9 # y\n"),
            ("one of two",  ["nameserver 127.0.0.1\nnameserver 192.0.2.9", upstream], "nameserver 192.0.2.9\n"),
            ("stub",        ["nameserver 127.0.0.53\n", upstream],            upstream),
            ("loopback",    ["options ndots:2\nnameserver 127.0.0.1\n", ""],  "nameserver 10.0.2.3\noptions ndots:2\n"),
            ("ipv6",        ["nameserver 2001:db8::1\n", ""],                 "nameserver 10.0.2.3\n"),
            ("nothing",     ["", ""],                                         "nameserver 10.0.2.3\n"),
            ("not a server", ["options 192.0.2.1\n", ""],                     "nameserver 10.0.2.3\noptions 192.0.2.1\n"),
        ];
        let own = Some(Ipv4Addr::new(10, 0, 2, 3));
        for (name, candidates, want) in cases {
            assert_eq!(private_resolv_conf(&candidates.map(str::to_owned), own), want, "{name}");
        }
    }

    #[test]
    fn hosts_name_the_machine_and_the_extra_ones() {
        let mut spec = SandboxSpec::new(Vec::new(), Vec::new());
        spec.hostname = "builder".to_owned();
        let extra = [("db", "192.0.2.7"), ("me", HOST_GATEWAY)];
        spec.extra_hosts = extra.map(|(name, address)| (name.into(), address.into())).to_vec();
        let notes = rustix::fs::memfd_create("notes", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut child = Child::new(spec, Ground::default(), notes);
        child.gateway = Some(Ipv4Addr::new(192, 0, 2, 1));
        let text = hosts(&child);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("127.0.0.1\tbuilder\n192.0.2.7\tdb\n192.0.2.1\tme\n"), "{text}");
    }
}
