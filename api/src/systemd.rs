//! What systemd hands to a service and wants to hear from it: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use crate::config::Environment;

/// Where a service's manager listens, if there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Manager {
    /// The manager that `NOTIFY_SOCKET` names. One that cannot be reached is none: a service works
    /// without it.
    pub(crate) fn of(environment: &Environment) -> Self {
        let socket = environment.path("NOTIFY_SOCKET").and_then(|path| {
            let connected = open(&path);
            connected.inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET is of no use")).ok()
        });
        Self { socket }
    }

    /// Whether there is one.
    pub(crate) const fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Says that requests are answered.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// Says that the configuration is read anew; [`Manager::ready`] follows.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Says that the service ends.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=Ending");
    }

    /// Says what the service is at.
    pub(crate) fn status(&self, status: &str) {
        self.say(&format!("STATUS={status}"));
    }

    fn say(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, "the service's manager does not listen");
        }
    }
}

fn open(path: &Path) -> io::Result<(UnixDatagram, SocketAddr)> {
    let bytes = path.as_os_str().as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    Ok((UnixDatagram::unbound()?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let environment = Environment::new(true, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let manager = Manager::of(&environment);
        manager.ready("2 builds");
        manager.reloading();
        manager.stopping();
        let hear = || {
            let mut buffer = [0; 200];
            let count = listener.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        assert_eq!(hear(), "READY=1\nSTATUS=2 builds");
        let reloading = hear();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(hear(), "STOPPING=1\nSTATUS=Ending");
    }

    #[test]
    fn nobody_needs_to_listen() {
        let none = Manager::of(&Environment::new(true, &[]));
        assert!(!none.is_there());
        none.ready("");
        Manager::of(&Environment::new(true, &[("NOTIFY_SOCKET", "/nowhere/notify")])).ready("");
    }
}
