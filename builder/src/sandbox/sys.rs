//! The system calls that no safe wrapper offers. No other file of the workspace but `heap.rs` has unsafe
//! code.

#![expect(unsafe_code, reason = "each block is one system call that nix and rustix lack")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};
use rustix::mount::MountAttrFlags;

/// Forks a single-threaded helper; `None` in the child (fork(2)).
///
/// Helpers are re-executed and small, so this costs a fraction of what a fork of the builder would.
pub(super) fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: helpers never start a thread, so no lock is held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Forks as [`fork`] does, into a new PID namespace whose first process the child is; the parent gets
/// a descriptor of it (clone(2), `CLONE_NEWPID`, `CLONE_PIDFD`).
///
/// Not by unshare(2), which a process can do but once.
pub(super) fn fork_into_pid_namespace() -> nix::Result<Option<OwnedFd>> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    let none = std::ptr::null_mut::<libc::c_int>();
    // SAFETY: without a stack and `CLONE_VM` this is a fork, of a process that has never started a
    // thread; the kernel writes one descriptor to `pidfd`, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) };
    if Errno::result(result)? == 0 {
        return Ok(None);
    }
    // SAFETY: the call succeeded in the parent, so `pidfd` is a new descriptor that nobody else has.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Has the kernel reap children that end, which nobody waits for (sigaction(2), `SIGCHLD`).
pub(super) fn reap_children_unasked() -> nix::Result<()> {
    // SAFETY: to ignore a signal installs no code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map(drop)
}

/// Changes the attributes of the mount at `mount`, of all below it too if `recursive`
/// (`mount_setattr(2)`); `attributes` are set, none is cleared.
pub(super) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    recursive: bool,
) -> nix::Result<()> {
    let attr = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a literal, `attr` outlives the call, and its exact size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Marks every descriptor from `first` up close-on-exec (`close_range(2)`): execve closes them.
pub(super) fn close_from_on_exec(first: libc::c_uint) -> nix::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call takes integers by value and closes nothing before execve does.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    Errno::result(result).map(drop)
}

/// Gives every signal its default action (`rt_sigaction(2)`): ignored ones would survive execve.
///
/// Not by libc, which keeps 32 and 33 for itself although they can be inherited as ignored.
pub(super) fn reset_signals() {
    const SIGNALS: libc::c_int = 64;
    // The kernel's `struct sigaction`: handler (0 is the default), flags, restorer, mask.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: `default` is a whole structure of zeros that outlives the call, and installs no
        // code of ours. SIGKILL and SIGSTOP cannot be changed and fail harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Installs a system call filter (seccomp(2)); needs `CAP_SYS_ADMIN` in this user namespace.
pub(super) fn set_filter(program: &[libc::sock_filter]) -> nix::Result<()> {
    let len = program.len().try_into().map_err(|_| Errno::EINVAL)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `filter` describes `program`, which outlives the call; the kernel copies and checks
    // it, and writes to neither.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    Errno::result(result).map(drop)
}

/// Leaves the session keyring of whoever started the builder for a new one (keyctl(2)).
pub(super) fn join_new_session_keyring() -> nix::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for a new keyring without one; no other memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    Errno::result(result).map(drop)
}

/// Brings the interface `lo` of this network namespace up (netdevice(7), `SIOCSIFFLAGS`).
pub(super) fn bring_loopback_up(socket: impl AsFd) -> nix::Result<()> {
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING);
    let flags = flags.map_err(|_| Errno::EINVAL)?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: `request` is a whole `ifreq`, as SIOCSIFFLAGS reads, and outlives the call.
    let result = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
