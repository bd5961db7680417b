//! What tests re-execute as the sandbox's helper, and run as another user or to be killed.
//!
//! `sandbox-program run|rootless [cancel|SIGNAL MILLISECONDS]` reads a spec as JSON from standard
//! input or the file `$SANDBOX_SPEC`, runs it (cancelling or sending the signal after that time) and writes what came of it.
//! `sandbox-program run|rootless mount DIR` runs it in one sandbox before, while and after memory is
//! mounted on a directory, and writes what came of each.
//! `sandbox-program run|rootless expect COUNT` runs it as the first of so many steps, and writes how
//! many processes wait for the others.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use builder::{Control, HELPER_ARG, OutputStream, Sandbox, SandboxSpec};
use cache::Digest;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (mode, request) = match args[..] {
        [HELPER_ARG, ..] => return builder::helper_main(),
        ["names", address, answer] => return serve_names(address, answer),
        [mode, request, after] => (mode, Some((request, after))),
        [mode] => (mode, None),
        _ => return ExitCode::from(2),
    };
    let mapping = match mode {
        "run" => Ok(None),
        "rootless" => builder::enter_user_namespace().map(Some),
        _ => return ExitCode::from(2),
    };
    let outcome = match mapping {
        Ok(_) if matches!(request, Some(("mount", _))) => {
            let dir = request.map(|(_, dir)| dir).unwrap_or_default();
            run_around_mount(Path::new(dir), mode == "run")
        }
        Ok(_) if matches!(request, Some(("expect", _))) => {
            let count = request.and_then(|(_, count)| count.parse().ok()).expect("a number");
            run_first_of(count)
        }
        Ok(mapping) => {
            let mut outcome = run(request);
            outcome["mapping"] = mapping.map(|mapping| format!("{mapping:?}")).into();
            outcome
        }
        Err(error) => json!({ "error": builder::causes(&error) }),
    };
    let is_written = serde_json::to_writer(io::stdout(), &outcome).is_ok();
    if is_written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Answers every question for a name with one address (RFC 1035, sections 4.1 and 4.2.1).
fn serve_names(address: &str, answer: &str) -> ExitCode {
    let answer: std::net::Ipv4Addr = answer.parse().expect("an address");
    let socket = std::net::UdpSocket::bind(address).expect("a free port");
    let mut bytes = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let mut reply = bytes[..length].to_vec();
        // An answer, to one question, by one record.
        reply[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        // The name of the question, type A, class IN, a minute, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(answer.octets());
        drop(socket.send_to(&reply, from));
    }
    ExitCode::FAILURE
}

/// Runs the spec on standard input with and without memory, which holds a file, on `dir`.
fn run_around_mount(dir: &Path, is_root: bool) -> Value {
    if is_root {
        // Whoever enters a user namespace has mounts of its own.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
        let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", flags).expect("the namespace is new");
    }
    let spec = read_spec().expect("a spec");
    let sandbox = Sandbox::open().expect("a sandbox").for_steps(vec![spec.network; 4]);
    let run = || {
        let mut stdout = Vec::new();
        let mut output = |_: OutputStream, bytes: &[u8]| stdout.extend_from_slice(bytes);
        sandbox.run(&spec, &mut output, &mut || Control::Continue).expect("it runs");
        // What is prepared for the next step is prepared by now.
        std::thread::sleep(Duration::from_millis(300));
        String::from_utf8_lossy(&stdout).into_owned()
    };
    let before = run();
    rustix::mount::mount("none", dir, "tmpfs", MountFlags::empty(), None).expect("memory");
    std::fs::write(dir.join("file"), "above").expect("a file");
    let (during, again) = (run(), run());
    rustix::mount::unmount(dir, UnmountFlags::empty()).expect("nothing holds it");
    let after = run();
    let stdout = [before, during, again, after].join(" ");
    json!({ "stdout": stdout })
}

/// Runs the spec on standard input as the first of `count` steps.
fn run_first_of(count: usize) -> Value {
    let spec = read_spec().expect("a spec");
    let sandbox = Sandbox::open().expect("a sandbox").for_steps(vec![spec.network; count]);
    sandbox.run(&spec, &mut |_, _| {}, &mut || Control::Continue).expect("it runs");
    // What is prepared for the next step is prepared by now, and what is left of this one is gone.
    std::thread::sleep(Duration::from_millis(300));
    json!({ "stdout": descendants(std::process::id()).to_string() })
}

/// Counts the processes that come from `parent`.
fn descendants(parent: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: String = children.collect();
    children.split_whitespace().map(|child| 1 + descendants(child.parse().expect("an id"))).sum()
}

fn read_spec() -> serde_json::Result<SandboxSpec> {
    // A step that inherits standard input has its spec in a file.
    let text = match std::env::var_os("SANDBOX_SPEC") {
        Some(file) => std::fs::read_to_string(file),
        None => io::read_to_string(io::stdin()),
    };
    text.map_err(serde_json::Error::io).and_then(|text| serde_json::from_str(&text))
}

/// Runs the spec on standard input.
fn run(request: Option<(&str, &str)>) -> Value {
    let spec = match read_spec() {
        Ok(spec) => spec,
        Err(error) => return json!({ "error": [error.to_string()] }),
    };
    let started = Instant::now();
    let mut request = request.map(|(what, after)| {
        let after = Duration::from_millis(after.parse().expect("milliseconds"));
        let what = what.parse().map_or(Control::Cancel, Control::Signal);
        (what, after)
    });
    let mut control = || match request {
        Some((what, after)) if started.elapsed() > after => {
            if what != Control::Cancel {
                request = None;
            }
            what
        }
        _ => Control::Continue,
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = |stream, bytes: &[u8]| match stream {
        OutputStream::Stdout => stdout.extend_from_slice(bytes),
        OutputStream::Stderr => stderr.extend_from_slice(bytes),
    };
    let result = Sandbox::open().and_then(|sandbox| sandbox.run(&spec, &mut output, &mut control));
    let millis = u64::try_from(started.elapsed().as_millis()).expect("a test ends");
    let digest = Digest::of(&stdout).to_string();
    stdout.truncate(1 << 20);
    let mut outcome = json!({
        "stdout": String::from_utf8_lossy(&stdout),
        "stdout_digest": digest,
        "stderr": String::from_utf8_lossy(&stderr),
        "millis": millis,
    });
    match result {
        Ok(ended) => {
            outcome["code"] = ended.code().into();
            outcome["usage"] = json!(ended.usage);
            outcome["out_of_memory"] = ended.is_out_of_memory().into();
        }
        Err(error) => {
            outcome["kind"] = json!(error.kind());
            outcome["exit_code"] = error.exit_code().into();
            outcome["error"] = json!(builder::causes(&error));
        }
    }
    outcome
}
