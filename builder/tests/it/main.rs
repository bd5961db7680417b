//! The crate's integration tests: one binary, real files, the real kernel.

mod sandbox;
mod sandbox_ca;
mod sandbox_isolation;
mod sandbox_layer;
mod sandbox_life;
mod sandbox_network;
mod sandbox_rootless;
