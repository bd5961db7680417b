//! Which addresses and names one builder's networks have: a block of 254 addresses that no other
//! builder of this machine uses.
//!
//! ```text
//! /run/rbuild/net/NS/N                locked by the builder that owns block N in the network
//!                                     namespace NS, and by its janitor; holds the janitor's notes
//!                                     while its rules are in place
//! /run/rbuild/net/NS/forwarding-DEV   locked by all whose steps need DEV to forward packets
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::super::error::{At as _, Fault};

/// Gone with a reboot, as are the rules.
const DIR: &str = "/run/rbuild/net";

/// Second bytes of networks `10.x.0.0/16`, tried until one has no route yet.
const CANDIDATES: [u8; 6] = [213, 219, 227, 233, 241, 251];

/// What all interfaces made by any builder begin with.
pub(super) const PREFIX: &str = "rb";

/// One builder's block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Second and third byte of its addresses; the third names interfaces and rules too.
    pub(super) network: u8,
    pub(super) block: u8,
    /// The interface with the default route, if there is one.
    pub(super) uplink: Option<String>,
    /// Addresses of resolvers on this machine's loopback that steps reach through the gateway.
    pub(super) resolver: Option<Ipv4Addr>,
}

impl Plan {
    /// Takes a block; it is free again when the file is closed everywhere.
    pub(super) fn take(resolver: Option<Ipv4Addr>) -> Result<(Self, File), Fault> {
        let routes = fs::read_to_string("/proc/net/route").at("/proc/net/route")?;
        let network = CANDIDATES.into_iter().find(|byte| !is_routed(&routes, *byte));
        let network = network.ok_or_else(|| Fault::network("no private addresses are free"))?;
        let uplink = uplink(&routes);
        let dir = dir();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).at(dir.display())?;
        for block in 0..=u8::MAX {
            if let Some(lock) = lock(&block_file(block))? {
                return Ok((Self { network, block, uplink, resolver }, lock));
            }
        }
        Err(Fault::network("all blocks of private addresses are taken"))
    }

    /// This machine's end of every pair, as steps see it.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// One of the block's addresses.
    pub(super) fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.network, self.block, number)
    }

    /// What the builder's interfaces begin with, and no other builder's do.
    pub(super) fn interfaces(&self) -> String {
        format!("{PREFIX}{}-", self.block)
    }

    /// Packets that pass the uplink uncut.
    pub(super) fn mtu(&self) -> u32 {
        const USUAL: u32 = 1500;
        let file = self.uplink.as_ref().map(|name| format!("/sys/class/net/{name}/mtu"));
        file.and_then(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).unwrap_or(USUAL)
    }
}

/// Where the builders of this network namespace tell each other which blocks are taken.
fn dir() -> PathBuf {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino());
    Path::new(DIR).join(namespace.to_string())
}

/// The lock and the notes of a block.
pub(super) fn block_file(block: u8) -> PathBuf {
    dir().join(block.to_string())
}

/// Where the notes on an interface's forwarding are.
pub(super) fn forwarding_file(interface: &str) -> PathBuf {
    dir().join(format!("forwarding-{interface}"))
}

/// Opens and locks a file; `None` if somebody else holds it.
pub(super) fn lock(path: &Path) -> Result<Option<File>, Fault> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.at(path.display())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).at(path.display()),
    }
}

/// One line of `/proc/net/route` (`proc_pid_net(5)`): interface, destination, mask.
fn rows(routes: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Addresses are numbers as the processor sees them.
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let host = |index: usize| number(index).map(u32::from_be);
        Some((*fields.first()?, host(1)?, host(7)?))
    })
}

/// Whether a route other than the default one leads into `10.x.0.0/16`; one of ours does not count.
fn is_routed(routes: &str, byte: u8) -> bool {
    const MASK: u32 = 0xffff_0000;
    let network = u32::from(Ipv4Addr::new(10, byte, 0, 0));
    rows(routes).any(|(interface, to, mask)| {
        let common = mask & MASK;
        mask != 0 && to & common == network & common && !interface.starts_with(PREFIX)
    })
}

/// The interface of the default route.
fn uplink(routes: &str) -> Option<String> {
    rows(routes).find(|(_, to, mask)| *to == 0 && *mask == 0).map(|(name, ..)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
vpn\t0000DB0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
wide\t0000F00A\t00000000\t0001\t0\t0\t0\t0000F0FF\t0\t0\t0
rb3-1\t0203D50A\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_that_have_a_route_are_left_alone() {
        #[rustfmt::skip]
        let cases = [
            ("free",        227, false),
            ("exactly",     219, true),
            ("in a larger", 241, true),
            ("ours",        213, false),
        ];
        for (name, byte, want) in cases {
            assert_eq!(is_routed(ROUTES, byte), want, "{name}");
        }
        assert!(is_routed("head\nx\t0000000A\t0\t1\t0\t0\t0\t000000FF\n", 213), "a whole 10/8");
        assert_eq!(uplink(ROUTES).as_deref(), Some("eth0"));
        assert_eq!(uplink("head\n"), None);
    }
}
