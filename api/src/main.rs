//! The `rbuild` command: command line, HTTP service and client around one builder.
//!
//! Invariants: everything that can be refused is refused before work begins. The embedded builder,
//! the service and the client show the same events by the same code. Nothing here knows how an
//! image is built.

#![forbid(unsafe_code)]

mod address;
mod cli;
mod client;
mod config;
mod fault;
mod format;
mod ignore_file;
mod limits;
mod manifest;
mod pipe;
mod progress;
mod registries;
mod report;
mod sent_secrets;
mod server;
mod signals;
mod story;
mod systemd;
mod telemetry;
mod temporary;
mod tls;
mod upkeep;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The sandbox re-executes this program; its helper is single-threaded and must stay so.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == builder::HELPER_ARG) {
        return builder::helper_main();
    }
    builder::limit_heaps();
    cli::main()
}
