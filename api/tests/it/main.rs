//! The program as its users meet it: what it prints, what it returns, how service and client talk.

mod architecture;
mod check;
mod command;
mod context_list;
mod contexts;
mod debug;
mod dockerfile;
mod fmt;
mod from_afar;
mod git;
mod http;
mod native;
mod operation;
mod sent;
mod service;
mod sources;

use std::path::Path;
use std::process::{Command, Output};

/// Runs `rbuild` with a store of its own in `dir`, no settings from outside, and no input.
fn rbuild(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("rbuild starts")
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("rbuild"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir)
        .env("RBUILD_STORE", dir.join("store"))
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .args(args);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("rbuild writes UTF-8")
}
