//! What tests re-execute as the sandbox's helper, and run as another user or to be killed.
//!
//! `sandbox-program run|rootless` reads a spec as JSON, runs it and writes what came of it as JSON.

use std::io::{self, Read as _};
use std::process::ExitCode;

use builder::{Control, HELPER_ARG, OutputStream, Sandbox, SandboxSpec};

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    if command == HELPER_ARG {
        return builder::helper_main();
    }
    let mapping = match command.as_str() {
        "run" => Ok(None),
        "rootless" => builder::enter_user_namespace().map(Some),
        _ => return ExitCode::from(2),
    };
    let outcome = match mapping {
        Ok(mapping) => {
            let mut outcome = run();
            outcome["mapping"] = mapping.map(|mapping| format!("{mapping:?}")).into();
            outcome
        }
        Err(error) => serde_json::json!({ "error": builder::causes(&error) }),
    };
    if serde_json::to_writer(io::stdout(), &outcome).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the spec on standard input.
fn run() -> serde_json::Value {
    let mut text = String::new();
    let spec = io::stdin().read_to_string(&mut text).map_err(serde_json::Error::io);
    let spec: SandboxSpec = match spec.and_then(|_| serde_json::from_str(&text)) {
        Ok(spec) => spec,
        Err(error) => return serde_json::json!({ "error": [error.to_string()] }),
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = |stream, bytes: &[u8]| match stream {
        OutputStream::Stdout => stdout.extend_from_slice(bytes),
        OutputStream::Stderr => stderr.extend_from_slice(bytes),
    };
    let result = Sandbox::open()
        .and_then(|sandbox| sandbox.run(&spec, &mut output, &mut || Control::Continue));
    let (code, error) = match result {
        Ok(exit) => (Some(exit.code()), None),
        Err(error) => (None, Some(builder::causes(&error))),
    };
    serde_json::json!({
        "code": code,
        "error": error,
        "stdout": String::from_utf8_lossy(&stdout),
        "stderr": String::from_utf8_lossy(&stderr),
    })
}
