//! The whole path on real parts: real base images, a real npm install, Debian's docker-registry,
//! dockerd and skopeo. `testdata/test.sh` installs what these tests need; they must run as root
//! (they drop to an ordinary user themselves) and fail where something is missing.

mod access;
mod attached;
mod authorities;
mod builds;
mod cache;
mod cancelled;
mod ci;
mod classic;
mod clients;
mod container;
mod crowd;
mod devices;
mod docker;
mod embedded;
mod emulated;
mod engine;
mod explain;
mod failures;
mod images;
mod mounts;
mod no_overlay;
mod output;
mod outputs;
mod registry;
mod reproduce;
mod rootless;
mod run;
mod sandbox;
mod secrets;
mod served;
mod shell;
mod solve;
mod squash;
mod ssh;
mod store;
mod support;
mod telemetry;
mod tour;
mod wire;
