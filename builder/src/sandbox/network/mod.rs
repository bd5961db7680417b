//! Networks: a namespace for each step, without a way out or with one, made before it is needed.
//!
//! The way out is as root by a pair of interfaces and address translation ([`veth`]), otherwise, or where this
//! machine refuses that, by slirp4netns ([`slirp`]). Either way this machine's loopback and
//! link-local addresses are out of reach, and all ends with the builder.
//!
//! A namespace serves one step and no other. A few are kept ready, so that no step waits.

mod dns;
mod firewall;
mod forward;
mod janitor;
mod netlink;
mod plan;
mod slirp;
mod veth;

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::forward::Forwards;
pub(super) use self::janitor::{JANITOR_ARG, run as run_janitor};
use self::netlink::Netlink;
use self::slirp::Slirp;
use self::veth::Router;
use super::error::{At as _, Fault, SandboxError};
use super::etc;
use super::pool::LULL;
use super::run::HELPER_ARG;
use super::spec::{Network as Reach, PortForward};
use super::sys;

/// Namespaces kept ready at most. Steps side by side take one each, and making one takes milliseconds.
const READY: usize = 2;

/// Names the program that is missing and how to get it.
const MISSING: &str = "install slirp4netns (Debian: apt-get install slirp4netns), or \
    choose --network=none or --network=host";

/// Where programs are looked for beside `PATH`, which daemons often lack.
const PLACES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];

/// Finds a program of this machine, never of an image.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PLACES.iter().map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// The address of this machine that others know it by, which steps reach too (`host-gateway`).
pub(super) fn own_address() -> Option<Ipv4Addr> {
    // Nothing is sent: to connect a datagram socket only looks up the way there (TEST-NET-1).
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        std::net::SocketAddr::V4(address) => Some(*address.ip()),
        std::net::SocketAddr::V6(_) => None,
    }
}

/// A network that can be used, for one step; ends when dropped.
#[derive(Debug)]
pub(super) struct Network {
    /// The network namespace.
    pub(super) netns: OwnedFd,
    /// Where the step finds a resolver, if not where this machine does.
    pub(super) resolver: Option<Ipv4Addr>,
    /// The step's address.
    address: Ipv4Addr,
    forwards: Option<Forwards>,
    way_out: WayOut,
}

impl Network {
    /// Closes the ports of this machine that lead into it; the rest may end later.
    pub(super) fn close_ports(&mut self) {
        self.forwards = None;
    }
}

/// What lives as long as the network.
#[derive(Debug)]
enum WayOut {
    None,
    Pair(#[expect(dead_code, reason = "held for what its end does")] Arc<Router>),
    Slirp(#[expect(dead_code, reason = "held for what its end does")] Slirp),
}

/// Makes networks.
#[derive(Debug)]
pub(super) struct Networks {
    /// This program, to be run as the janitor.
    program: Arc<OwnedFd>,
    /// Those without a way out.
    closed: Mutex<Stock>,
    private: Mutex<Stock>,
}

/// What is ready of one kind.
#[derive(Debug, Default)]
struct Stock {
    /// How they are made, once that is known.
    backend: Option<Backend>,
    ready: Vec<Network>,
    /// Steps that are going to be run and have not begun.
    expected: usize,
    /// Whether somebody is at work on more.
    is_filling: bool,
}

#[derive(Clone, Debug)]
enum Backend {
    Closed,
    Veth(Arc<Router>),
    Slirp(PathBuf),
}

impl Networks {
    pub(super) fn new(program: Arc<OwnedFd>) -> Arc<Self> {
        let closed = Stock { backend: Some(Backend::Closed), ..Stock::default() };
        Arc::new(Self { program, closed: Mutex::new(closed), private: Mutex::default() })
    }

    /// Hands out a network, ready-made if there is one, and leads `ports` into it; none for
    /// [`Reach::Host`]. The step that asks may have been expected.
    pub(super) fn take(
        self: &Arc<Self>,
        reach: Reach,
        ports: &[PortForward],
        is_expected: bool,
    ) -> Result<Option<Network>, SandboxError> {
        let step = match reach {
            Reach::Host => return Ok(None),
            Reach::None => "new namespaces",
            Reach::Private => "private network",
        };
        let take = || -> Result<Network, Fault> {
            let backend = self.backend(reach);
            let ready = self.stock(reach).take(is_expected);
            let backend = backend?;
            let mut network = ready.map_or_else(|| backend.make(), Ok)?;
            if !ports.is_empty() {
                let (netns, address) = (&network.netns, network.address);
                network.forwards = Some(Forwards::open(ports, netns, address)?);
            }
            self.refill(reach);
            Ok(network)
        };
        take().map(Some).map_err(|fault| SandboxError::reported(step.to_owned(), fault))
    }

    /// Has networks made for `count` more steps.
    pub(super) fn expect(self: &Arc<Self>, reach: Reach, count: usize) {
        self.stock(reach).expected += count;
        self.refill(reach);
    }

    /// Takes back that one step is expected; a network that nobody will take ends.
    pub(super) fn forget(&self, reach: Reach) {
        let surplus = {
            let mut stock = self.stock(reach);
            stock.expected = stock.expected.saturating_sub(1);
            if stock.ready.len() > stock.enough() { stock.ready.pop() } else { None }
        };
        drop(surplus);
    }

    /// Makes a network to see whether that can be done, and tells of what kind it is.
    pub(super) fn attempt(self: &Arc<Self>) -> Result<String, SandboxError> {
        let network = self.take(Reach::Private, &[], false)?;
        Ok(match network.map(|network| network.way_out) {
            Some(WayOut::Pair(_)) => "a pair of interfaces, and address translation",
            Some(WayOut::Slirp(_)) => "by slirp4netns",
            Some(WayOut::None) | None => "none",
        }
        .to_owned())
    }

    fn stock(&self, reach: Reach) -> MutexGuard<'_, Stock> {
        let stock = if reach == Reach::Private { &self.private } else { &self.closed };
        stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how networks are made, which may mean to make a first one.
    fn backend(&self, reach: Reach) -> Result<Backend, Fault> {
        let mut stock = self.stock(reach);
        if let Some(backend) = &stock.backend {
            return Ok(backend.clone());
        }
        let (backend, first) = Backend::choose(&self.program)?;
        stock.ready.push(first);
        Ok(stock.backend.insert(backend).clone())
    }

    /// Makes further ones, beside the step that begins now.
    fn refill(self: &Arc<Self>, reach: Reach) {
        let mut stock = self.stock(reach);
        if stock.is_filling || stock.has_enough() {
            return;
        }
        let networks = Arc::downgrade(self);
        let pause = if stock.ready.is_empty() { Duration::ZERO } else { LULL };
        let fill = move || {
            std::thread::sleep(pause);
            while Self::add_one(&networks, reach) {}
        };
        let started = std::thread::Builder::new().name("networks".to_owned()).spawn(fill);
        // Without a thread the next step makes its own.
        stock.is_filling = started.is_ok();
    }

    /// Makes one more; false when there are enough, or nobody wants them.
    fn add_one(networks: &Weak<Self>, reach: Reach) -> bool {
        let wanted = networks.upgrade().and_then(|networks| networks.wanted(reach));
        let Some(backend) = wanted else { return false };
        let made = backend.make().ok();
        networks.upgrade().is_some_and(|networks| {
            let mut stock = networks.stock(reach);
            stock.is_filling = made.is_some() && !stock.has_enough();
            if stock.is_filling {
                stock.ready.extend(made);
            }
            stock.is_filling
        })
    }

    /// How to make another one, if there are too few. A step that needs one will tell why there is
    /// none.
    fn wanted(&self, reach: Reach) -> Option<Backend> {
        let backend = self.backend(reach).ok();
        let mut stock = self.stock(reach);
        let wanted = backend.filter(|_| !stock.has_enough());
        stock.is_filling = wanted.is_some();
        wanted
    }
}

impl Stock {
    /// Networks that are to be ready.
    fn enough(&self) -> usize {
        READY.min(self.expected)
    }

    fn has_enough(&self) -> bool {
        self.ready.len() >= self.enough()
    }

    /// Takes one that is ready, for a step that may have been expected.
    fn take(&mut self, is_expected: bool) -> Option<Network> {
        self.expected = self.expected.saturating_sub(usize::from(is_expected));
        self.ready.pop()
    }
}

impl Backend {
    /// A pair of interfaces where this machine allows it, otherwise slirp4netns; with a first
    /// network, since only making one tells.
    fn choose(program: &OwnedFd) -> Result<(Self, Network), Fault> {
        let made = Router::open(program, etc::unreachable_resolver())
            .map(|router| Self::Veth(Arc::new(router)))
            .and_then(|backend| backend.make().map(|first| (backend, first)));
        let refusal = match made {
            Ok(made) => return Ok(made),
            Err(fault) => fault,
        };
        tracing::debug!(?refusal, "no pairs of interfaces; slirp4netns is used");
        let program = find_program("slirp4netns").ok_or_else(|| Fault::network(MISSING))?;
        let backend = Self::Slirp(program);
        let first = backend.make()?;
        Ok((backend, first))
    }

    fn make(&self) -> Result<Network, Fault> {
        let netns = new_namespace()?;
        match self {
            Self::Closed => Ok(Network {
                netns,
                resolver: None,
                address: Ipv4Addr::LOCALHOST,
                forwards: None,
                way_out: WayOut::None,
            }),
            Self::Veth(router) => {
                let address = router.connect(&netns)?;
                in_namespace(&netns, || router.configure(&Netlink::open()?, address))?;
                let (resolver, way_out) = (router.resolver(), WayOut::Pair(Arc::clone(router)));
                Ok(Network { netns, resolver, address, forwards: None, way_out })
            }
            Self::Slirp(program) => {
                let resolver = etc::unreachable_resolver().map(|_| slirp::RESOLVER);
                let slirp = Slirp::start(program, &netns, resolver.is_some())?;
                in_namespace(&netns, || veth::forbid_link_local(&Netlink::open()?))?;
                let (address, way_out) = (slirp::ADDRESS, WayOut::Slirp(slirp));
                Ok(Network { netns, resolver, address, forwards: None, way_out })
            }
        }
    }
}

/// Makes a network namespace, in which only loopback is up, by a thread that ends with it: in a user
/// namespace there is no way back to this machine's.
fn new_namespace() -> Result<OwnedFd, Fault> {
    let make = || -> Result<OwnedFd, Fault> {
        unshare(CloneFlags::CLONE_NEWNET).at("network namespace")?;
        bring_loopback_up()?;
        Ok(File::open("/proc/thread-self/ns/net").at("network namespace")?.into())
    };
    in_thread(make)
}

/// Brings `lo` up. Ahead of the step: networks that end hold the kernel's lock for milliseconds.
fn bring_loopback_up() -> Result<(), Fault> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sys::bring_loopback_up(socket).at("loopback")
}

/// Does something inside a network namespace.
fn in_namespace<T: Send>(
    netns: &OwnedFd,
    work: impl FnOnce() -> Result<T, Fault> + Send,
) -> Result<T, Fault> {
    in_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).at("network namespace")?;
        work()
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work).at("thread")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
