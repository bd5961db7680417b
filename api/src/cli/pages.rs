//! What is made of the command line's own description: completions and manual pages.

use std::path::{Path, PathBuf};

use builder::ErrorKind;
use clap::CommandFactory as _;

use super::args::Cli;
use super::print;
use crate::fault::Fault;

/// Prints the script that completes commands in `shell`.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rbuild", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the manual page, or writes one a command to `dir`.
pub(super) fn manual(dir: Option<PathBuf>) -> Result<(), Fault> {
    let command = Cli::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| Fault::of(ErrorKind::Host, &error))?;
        return print(&String::from_utf8_lossy(&page));
    };
    write_pages(command, &dir).map_err(|error| Fault::file("write manual pages to", &dir, &error))
}

fn write_pages(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}
