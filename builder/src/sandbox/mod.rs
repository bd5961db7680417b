//! RUN: a command in namespaces of its own, on an overlay of an image's layers.
//!
//! Invariants: nothing of this machine is in reach but what the spec names; what is made for a
//! step exists only in namespaces and memory that end with it, so nothing is undone and kill -9
//! leaves nothing; the builder's own process mounts nothing and runs no code between fork and
//! exec. When [`Sandbox::run`] returns, no process of the step is left.
//!
//! One kernel topic a file; the order of things is the list in `child.rs`.

mod beneath;
mod ca_bundle;
mod cgroup;
mod child;
mod console;
mod dev;
mod devices;
mod error;
mod etc;
mod exec;
mod forecast;
mod ground;
mod helper;
mod identity;
mod init;
mod kernel_fs;
mod leftovers;
mod mount;
mod namespace;
mod network;
mod pool;
pub(crate) mod probe;
mod root;
mod run;
mod seccomp;
mod source;
mod spec;
mod step;
mod stub;
mod sys;
mod target;
mod terminal;
mod timeline;
mod uppers;
mod view;
mod wire;

pub(crate) use console::terminal_size;
pub use error::SandboxError;
pub(crate) use exec::DEFAULT_PATH;
pub use helper::helper_main;
pub use run::{Control, Ended, Exit, HELPER_ARG, Sandbox};
pub use spec::{
    DeviceNode, Dns, MountSource, Network, OverlayDirs, PortForward, SandboxMount, SandboxSpec,
    SecretVariable, StdioMode,
};
