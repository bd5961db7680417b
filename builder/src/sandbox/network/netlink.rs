//! Just enough of rtnetlink(7) to make a pair of interfaces and their routes.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::super::error::{At as _, Fault};

/// Bytes of a `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// Every part begins at a multiple of this.
const ALIGNMENT: usize = 4;

/// What the kernel's answers fit in: an error and the request that it is about.
const ANSWER_BYTES: usize = 8 << 10;

/// `linux/veth.h`: the other end of a pair.
const VETH_INFO_PEER: u16 = 1;

/// `linux/rtnetlink.h`: the gateway is on the link, whatever the routes say.
const RTNH_F_ONLINK: u32 = 4;

/// A connection to the routing tables of one network namespace: that of the thread that opens it.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> Result<Self, Fault> {
        let (kind, flags) = (SocketType::RAW, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, None);
        Ok(Self(socket.at("netlink")?))
    }

    /// Makes a pair of virtual interfaces: `name` here, `peer` in the namespace `netns`.
    pub(super) fn add_pair(
        &self,
        name: &str,
        peer: &str,
        netns: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), Fault> {
        let link = |name: &str| interface(0, 0).attribute(libc::IFLA_IFNAME, &text(name));
        let mtu = mtu.to_ne_bytes();
        let peer = link(peer)
            .attribute(libc::IFLA_MTU, &mtu)
            .attribute(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        let peer = Part::default().attribute(VETH_INFO_PEER, &peer.0);
        let info = Part::default()
            .attribute(libc::IFLA_INFO_KIND, b"veth")
            .attribute(libc::IFLA_INFO_DATA, &peer.0);
        let body =
            link(name).attribute(libc::IFLA_MTU, &mtu).attribute(libc::IFLA_LINKINFO, &info.0);
        self.ask(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body).at(name)
    }

    /// Brings an interface up.
    pub(super) fn set_up(&self, name: &str) -> Result<(), Fault> {
        let index = self.index(name)?;
        let up = libc::IFF_UP.cast_unsigned();
        self.ask(libc::RTM_NEWLINK, 0, &interface(index, up)).at(name)
    }

    /// Gives an interface the address `address`/32.
    pub(super) fn add_address(&self, name: &str, address: Ipv4Addr) -> Result<(), Fault> {
        let index = self.index(name)?;
        let mut body = Part(vec![family(), 32, 0, 0]);
        body.0.extend(index.to_ne_bytes());
        let body = body
            .attribute(libc::IFA_LOCAL, &address.octets())
            .attribute(libc::IFA_ADDRESS, &address.octets());
        self.ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body).at(address)
    }

    /// Routes `route` as it says.
    pub(super) fn add_route(&self, route: &Route) -> Result<(), Fault> {
        let (to, length) = route.to;
        let (kind, scope, flags) = match route.way {
            Way::Link(_) => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK, 0),
            Way::Gateway(..) => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
            Way::Unreachable => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE, 0),
        };
        let mut body = Part(vec![
            family(),
            length,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            kind,
        ]);
        body.0.extend(flags.to_ne_bytes());
        if length > 0 {
            body = body.attribute(libc::RTA_DST, &to.octets());
        }
        if let Way::Gateway(gateway, _) = route.way {
            body = body.attribute(libc::RTA_GATEWAY, &gateway.octets());
        }
        if let Way::Link(name) | Way::Gateway(_, name) = route.way {
            body = body.attribute(libc::RTA_OIF, &self.index(name)?.to_ne_bytes());
        }
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.ask(libc::RTM_NEWROUTE, flags, &body).at(format_args!("route to {to}/{length}"))
    }

    fn index(&self, name: &str) -> Result<u32, Fault> {
        // Any socket of the namespace will do (netdevice(7)).
        rustix::net::netdevice::name_to_index(&self.0, name).at(name)
    }

    /// Sends one request and waits for the kernel's word on it.
    fn ask(&self, kind: u16, flags: i32, body: &Part) -> Result<(), Errno> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
        let length = u32::try_from(HEADER_BYTES + body.0.len()).map_err(|_| Errno::TOOBIG)?;
        let flags = u16::try_from(flags).map_err(|_| Errno::INVAL)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence number and port: one request is under way at a time.
        message.extend([0; 8]);
        message.extend(&body.0);
        rustix::net::send(self.0.as_fd(), &message, SendFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES];
        let (_, received) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        // `struct nlmsgerr`: a negated errno, zero for success.
        let code = answer[..received].get(HEADER_BYTES..HEADER_BYTES + 4).ok_or(Errno::BADMSG)?;
        match i32::from_ne_bytes(code.try_into().map_err(|_| Errno::BADMSG)?) {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(-code)),
        }
    }
}

/// Where packets go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    /// Network and length of its prefix.
    pub(super) to: (Ipv4Addr, u8),
    pub(super) way: Way<'a>,
}

/// How they get there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'a> {
    /// Directly, by this interface.
    Link(&'a str),
    /// By way of this address, which is at the other end of the interface.
    Gateway(Ipv4Addr, &'a str),
    /// Not at all, and the sender is told so.
    Unreachable,
}

/// A message's body, or part of one.
#[derive(Debug, Default)]
struct Part(Vec<u8>);

impl Part {
    /// Adds a `struct rtattr` with its padding.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes are names and numbers");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }
}

/// A `struct ifinfomsg`; `flags` are those to be set.
fn interface(index: u32, flags: u32) -> Part {
    let mut body = Part(vec![0; 4]);
    for number in [index, flags, flags] {
        body.0.extend(number.to_ne_bytes());
    }
    body
}

fn family() -> u8 {
    u8::try_from(libc::AF_INET).expect("address families are small numbers")
}

/// A name with the zero that ends it.
fn text(name: &str) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_not_counted_so() {
        let part = Part::default().attribute(3, b"abcde").attribute(4, &[]);
        let (length, kind) = (9_u16.to_ne_bytes(), 3_u16.to_ne_bytes());
        assert_eq!(part.0[..4], [length, kind].concat());
        assert_eq!(part.0[4..12], *b"abcde\0\0\0");
        assert_eq!(part.0[12..], [4_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat());
    }
}
