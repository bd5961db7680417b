//! Private networks: a network namespace for each step, with a way out, made before it is needed.
//!
//! As root by a pair of interfaces and address translation ([`veth`]), otherwise, or where this
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
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sched::{CloneFlags, setns, unshare};

use self::forward::Forwards;
pub(super) use self::janitor::{JANITOR_ARG, run as run_janitor};
use self::netlink::Netlink;
use self::slirp::Slirp;
use self::veth::Router;
use super::error::{At as _, Fault};
use super::etc;
use super::run::HELPER_ARG;
use super::spec::PortForward;

/// Namespaces kept ready. Steps side by side take one each, and making one takes milliseconds.
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

/// What lives as long as the network.
#[derive(Debug)]
enum WayOut {
    Pair(#[expect(dead_code, reason = "held for what its end does")] Arc<Router>),
    Slirp(#[expect(dead_code, reason = "held for what its end does")] Slirp),
}

/// Makes networks.
#[derive(Debug)]
pub(super) struct Networks {
    /// This program, to be run as the janitor.
    program: Arc<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    backend: Option<Backend>,
    ready: Vec<Network>,
    /// Whether somebody is at work on more.
    is_filling: bool,
}

#[derive(Clone, Debug)]
enum Backend {
    Veth(Arc<Router>),
    Slirp(PathBuf),
}

impl Networks {
    pub(super) fn new(program: Arc<OwnedFd>) -> Arc<Self> {
        Arc::new(Self { program, state: Mutex::default() })
    }

    /// Hands out a network, ready-made if there is one, and leads `ports` into it.
    pub(super) fn take(self: &Arc<Self>, ports: &[PortForward]) -> Result<Network, Fault> {
        let (backend, ready) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(backend) = &state.backend {
                (backend.clone(), state.ready.pop())
            } else {
                let (backend, first) = Backend::choose(&self.program)?;
                (state.backend.insert(backend).clone(), Some(first))
            }
        };
        let mut network = ready.map_or_else(|| backend.make(), Ok)?;
        network.forwards = Some(Forwards::open(ports, &network.netns, network.address)?);
        self.refill(backend);
        Ok(network)
    }

    /// Makes a network to see whether that can be done, and tells of what kind it is.
    pub(super) fn attempt(self: &Arc<Self>) -> Result<String, Fault> {
        let network = self.take(&[])?;
        Ok(match network.way_out {
            WayOut::Pair(_) => "a pair of interfaces, and address translation".to_owned(),
            WayOut::Slirp(_) => "by slirp4netns".to_owned(),
        })
    }

    /// Makes further ones, beside the step that begins now.
    fn refill(self: &Arc<Self>, backend: Backend) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut state.is_filling, true) {
            return;
        }
        let networks = Arc::downgrade(self);
        let fill = move || while Self::add_one(&networks, &backend) {};
        let started = std::thread::Builder::new().name("networks".to_owned()).spawn(fill);
        // Without a thread the next step makes its own.
        state.is_filling = started.is_ok();
    }

    /// Makes one more; false when there are enough, or nobody wants them.
    fn add_one(networks: &Weak<Self>, backend: &Backend) -> bool {
        let with_state = |change: &mut dyn FnMut(&mut State) -> bool| {
            networks.upgrade().is_some_and(|networks| {
                let mut state = networks.state.lock().unwrap_or_else(PoisonError::into_inner);
                let goes_on = change(&mut state);
                state.is_filling = goes_on;
                goes_on
            })
        };
        if !with_state(&mut |state| state.ready.len() < READY) {
            return false;
        }
        // A step that needs one will tell why there is none.
        let mut made = backend.make().ok();
        with_state(&mut |state| match made.take() {
            Some(network) => {
                state.ready.push(network);
                true
            }
            None => false,
        })
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

/// Makes a network namespace by a thread that ends with it: in a user namespace there is no way
/// back to this machine's.
fn new_namespace() -> Result<OwnedFd, Fault> {
    let make = || -> Result<OwnedFd, Fault> {
        unshare(CloneFlags::CLONE_NEWNET).at("network namespace")?;
        Ok(File::open("/proc/thread-self/ns/net").at("network namespace")?.into())
    };
    in_thread(make)
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
