//! Finding and executing the command.

use std::ffi::{CString, NulError};
use std::io::Read as _;

use nix::errno::Errno;
use rustix::fs::{Access, CWD, FileType, Mode, OFlags, ResolveFlags};

use super::child::Child;
use super::error::Fault;

/// Where commands are looked for when the environment has no `PATH` (Docker's default).
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a shell reports for a command that is not found, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Becomes the command. Returns only when that fails.
pub(super) fn execute(child: &mut Child) -> Result<(), Fault> {
    let spec = &child.spec;
    let name = spec.args.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Fault::refused("there is no command to execute"))?;
    let path = find(name, &spec.env)?;
    let nul = |_: NulError| Fault::refused("a NUL byte in an argument or in the environment");
    let program = CString::new(path.as_str()).map_err(nul)?;
    let args = spec.args.iter().map(|arg| CString::new(arg.as_str()));
    let args = args.collect::<Result<Vec<_>, _>>().map_err(nul)?;
    let env = spec.env.iter().map(|(key, value)| CString::new(format!("{key}={value}")));
    let mut env = env.collect::<Result<Vec<_>, _>>().map_err(nul)?;
    for variable in &spec.secret_env {
        let pair = [variable.name.as_bytes(), b"=", variable.value.bytes()].concat();
        env.push(CString::new(pair).map_err(|_| {
            Fault::refused(format!(
                "the secret for `{}` holds a NUL byte, which no environment can",
                variable.name
            ))
        })?);
    }
    let Err(errno) = nix::unistd::execve(&program, &args, &env);
    Err(match foreign_machine(&path).filter(|_| errno == Errno::ENOEXEC) {
        Some(machine) => {
            let reason = format!(
                "it is made for {machine}, and this machine has no emulator for that registered \
                 (Debian: apt-get install qemu-user-static)"
            );
            Fault::command(name, NOT_EXECUTABLE, reason)
        }
        None => explain(name, errno),
    })
}

/// The processor that a program is made for, by its ELF header (elf(5), `e_machine`).
fn foreign_machine(path: &str) -> Option<&'static str> {
    const MACHINES: [(u16, &str); 7] = [
        (3, "i386"),
        (21, "ppc64"),
        (22, "s390x"),
        (40, "arm"),
        (62, "x86-64"),
        (183, "arm64"),
        (243, "riscv64"),
    ];
    let mut header = [0; 20];
    std::fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    // The sixth byte says in which order numbers are written.
    let machine = match (&header[..4], header[5]) {
        (b"\x7fELF", 1) => u16::from_le_bytes([header[18], header[19]]),
        (b"\x7fELF", 2) => u16::from_be_bytes([header[18], header[19]]),
        _ => return None,
    };
    MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| *name)
}

/// Says in the user's terms why execve(2) refused a file that is there.
fn explain(name: &str, errno: Errno) -> Fault {
    let (code, reason) = match errno {
        Errno::ENOENT => {
            (NOT_FOUND, "its interpreter (`#!` line or dynamic linker) is not in the image")
        }
        Errno::EACCES => (NOT_EXECUTABLE, "permission denied"),
        Errno::ENOEXEC => (
            NOT_EXECUTABLE,
            "exec format error: it has no `#!` line, or is made for another processor",
        ),
        other => (NOT_EXECUTABLE, other.desc()),
    };
    Fault::command(name, code, reason)
}

/// Finds the file for `name` as execvp(3) does, as the user that will execute it.
fn find(name: &str, env: &[(String, String)]) -> Result<String, Fault> {
    let path = env.iter().find_map(|(key, value)| (key == "PATH").then_some(value.as_str()));
    let candidates: Vec<String> = if name.contains('/') {
        vec![name.to_owned()]
    } else {
        let dirs = path.unwrap_or(DEFAULT_PATH).split(':');
        dirs.map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir })).collect()
    };
    let mut exists = false;
    for candidate in candidates {
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
            Err(_) => exists = true,
        }
    }
    Err(match (exists, name.contains('/')) {
        (true, _) => Fault::command(name, NOT_EXECUTABLE, "it is no executable file"),
        (false, true) => Fault::command(name, NOT_FOUND, "no such file in the image"),
        (false, false) => Fault::command(name, NOT_FOUND, "not found in PATH"),
    })
}

/// Checks that `path` is a file that may be executed and is part of the image.
///
/// Links of procfs are refused: `/proc/self/exe` would execute the builder inside the image, with
/// the image's libraries (CVE-2019-5736).
fn check(path: &str) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(rustix::io::Errno::ACCESS);
    }
    // Real and effective user are the same by now.
    rustix::fs::access(path, Access::EXEC_OK)
}
