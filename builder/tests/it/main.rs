//! The crate's integration tests, in one binary.

mod registry;
mod registry_faults;
mod registry_support;
