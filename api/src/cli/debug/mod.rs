//! `rbuild debug`: how rbuild reads a Dockerfile, for people and for programs.
//!
//! Nothing here opens the store or reaches for a network.

mod dot;
mod dump;
mod protocol;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use frontend::Platform;

use super::args::named_value;
use super::source;
use crate::config::Environment;
use crate::fault::Fault;

/// The protocol, as its `--help` tells it.
const QUESTIONS: &str = r#"Questions and answers:
  {"op":"word","text":T,"env":["K=V"]}              {"word":W}
  {"op":"words","text":T,"env":["K=V"]}             {"words":[...]}
  {"op":"ignore","patterns":[...],"path":P}         {"match":BOOL}
  {"op":"dump-ast","dockerfile":T}                  {"ast":TEXT}
  {"op":"check","dockerfile":T}                     {}
  {"op":"lint","dockerfile":T,"dockerignore":T,"args":{},"target":T}
                                                    {"lint":[[RULE,LINE],...]}
  whatever fails                                    {"error":TEXT}"#;

/// What can be looked into.
#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    DumpAst(DumpAstArgs),
    DumpGraph(DumpGraphArgs),
    /// Answer questions about the language: one JSON object a line on standard input, one answer a
    /// line
    #[command(after_help = QUESTIONS)]
    Protocol,
}

/// How a syntax tree is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AstFormat {
    /// Everything, with places
    #[default]
    Json,
    /// One expression an instruction, as BuildKit's parser dumps them
    Sexp,
}

/// Print the syntax tree of a Dockerfile
#[derive(Debug, Args)]
pub(crate) struct DumpAstArgs {
    /// Dockerfile, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: AstFormat,
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Everything
    #[default]
    Json,
    /// Graphviz
    Dot,
}

/// Print the build graph of a Dockerfile
///
/// Base images are not looked up: each counts as one layer with an empty config.
#[derive(Debug, Args)]
pub(crate) struct DumpGraphArgs {
    /// Dockerfile, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: GraphFormat,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG; without a value, this environment's (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = named_value)]
    build_arg: Vec<(String, Option<String>)>,
    /// Platform to build for, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
}

impl DumpGraphArgs {
    fn build_args(&self, environment: &Environment) -> BTreeMap<String, String> {
        super::build::build_args(&self.build_arg, environment)
    }
}

/// Does what `command` says. Blocking.
pub(super) fn debug(command: &DebugCommand, environment: &Environment) -> Result<(), Fault> {
    match command {
        DebugCommand::DumpAst(args) => dump::ast(args),
        DebugCommand::DumpGraph(args) => dump::graph(args, environment),
        DebugCommand::Protocol => match protocol::serve(io::stdin().lock(), io::stdout().lock()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Fault::of(builder::ErrorKind::Host, &error))
            }
            _ => Ok(()),
        },
    }
}
