//! The store from outside: real files, real locks, real processes.

mod builds;
mod cache_mounts;
mod checks;
mod content;
mod fixture;
mod gc;
mod images;
mod index;
mod layers;
mod opening;
mod processes;
mod properties;
mod removal;
mod snapshots;
