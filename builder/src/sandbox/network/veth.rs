//! A network of its own by a pair of interfaces (veth(4)) and address translation, for root.
//!
//! Each step has a pair to itself, and no bridge: it shares no link with another step. Whatever is
//! made for it ends with its network namespace.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::error::{At as _, Fault};
use super::janitor::{self, Janitor};
use super::netlink::{Netlink, Route, Way};
use super::plan::Plan;

/// The step's end of the pair, as in Docker.
const INSIDE: &str = "eth0";

/// Link-local addresses, at one of which clouds hand out credentials, and none of which is routed.
const LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);

/// How many names of interfaces are tried.
const NAME_TRIES: u32 = 100;

/// One builder's way out of all its networks.
#[derive(Debug)]
pub(super) struct Router {
    plan: Plan,
    mtu: u32,
    next: AtomicU32,
    /// Takes the rules away when dropped.
    _janitor: Janitor,
    _lock: File,
}

impl Router {
    /// Takes addresses and puts the firewall in order; `program` is this program. `resolver` is
    /// one on loopback that steps shall reach.
    pub(super) fn open(program: &OwnedFd, resolver: Option<Ipv4Addr>) -> Result<Self, Fault> {
        let (plan, lock) = Plan::take(resolver)?;
        let janitor = Janitor::start(program, &plan, &lock)?;
        Ok(Self { mtu: plan.mtu(), plan, next: AtomicU32::new(0), _janitor: janitor, _lock: lock })
    }

    /// Where steps find the resolver, if one had to be made reachable.
    pub(super) fn resolver(&self) -> Option<Ipv4Addr> {
        self.plan.resolver.map(|_| self.plan.gateway())
    }

    /// Connects the network namespace `netns`. Called in this machine's.
    pub(super) fn connect(&self, netns: &OwnedFd) -> Result<Ipv4Addr, Fault> {
        let outside = Netlink::open()?;
        let mut tries = 0;
        let (number, name) = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}{number}", self.plan.interfaces());
            match outside.add_pair(&name, INSIDE, netns.as_fd(), self.mtu) {
                // The kernel is still at work on what a builder that was killed has left.
                Err(fault) if fault.errno() == libc::EEXIST && tries < NAME_TRIES => tries += 1,
                result => break result.map(|()| (number, name))?,
            }
        };
        // Addresses 2 to 254 in turn: one comes again when its last user is long gone.
        let address = self.plan.address(u8::try_from(number % 253).unwrap_or_default() + 2);
        // Before it is up: no address of the other family, by which services here could be reached.
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        match fs::write(&ipv6, "1") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.at(ipv6)?,
        }
        janitor::set_sysctl(&name, "1")?;
        outside.add_address(&name, self.plan.gateway())?;
        outside.set_up(&name)?;
        outside.add_route(&Route { to: (address, 32), way: Way::Link(&name) })?;
        Ok(address)
    }

    /// Sets up the step's end. Called inside the namespace.
    pub(super) fn configure(&self, inside: &Netlink, address: Ipv4Addr) -> Result<(), Fault> {
        inside.add_address(INSIDE, address)?;
        inside.set_up(INSIDE)?;
        let way = Way::Gateway(self.plan.gateway(), INSIDE);
        inside.add_route(&Route { to: (Ipv4Addr::UNSPECIFIED, 0), way })?;
        forbid_link_local(inside)
    }
}

/// Has what is sent to link-local addresses fail at once.
pub(super) fn forbid_link_local(inside: &Netlink) -> Result<(), Fault> {
    inside.add_route(&Route { to: LINK_LOCAL, way: Way::Unreachable })
}
