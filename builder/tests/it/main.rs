//! The crate's integration tests, in one binary.

mod cache_faults;
mod edits;
mod layer;
mod layer_compress;
mod layer_copy;
mod layer_hostile;
mod layer_root;
mod layer_squash;
mod layer_tree;
mod registry;
mod registry_faults;
mod registry_referrers;
mod registry_support;
mod registry_tls;
mod registry_traffic;
mod sandbox;
mod sandbox_ca;
mod sandbox_escapes;
mod sandbox_isolation;
mod sandbox_layer;
mod sandbox_life;
mod sandbox_limits;
mod sandbox_network;
mod sandbox_probe;
mod sandbox_rootless;
mod sandbox_router;
