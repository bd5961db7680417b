//! What the sandbox tests share: small images, and a program that runs specs in them.
//!
//! As root the tests run as root, otherwise in a user namespace: every property holds for both.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use builder::{Network, OverlayDirs, SandboxMount, SandboxSpec, StepUsage};
use serde::Deserialize;
use tempfile::TempDir;

/// The program whose `main` can be the sandbox's helper.
pub(crate) fn program() -> PathBuf {
    // Another user may not reach the build's directories.
    let copy = std::env::var_os("SANDBOX_PROGRAM");
    copy.map_or_else(|| env!("CARGO_BIN_EXE_sandbox-program").into(), PathBuf::from)
}

/// An image in a temporary directory, and the two directories that a step writes to.
pub(crate) struct Image {
    pub dir: TempDir,
}

impl Image {
    /// Only `/bin` with busybox and a link for each of its applets.
    pub(crate) fn busybox() -> Self {
        let dir = tempfile::Builder::new().prefix("sandbox-").tempdir().unwrap();
        for name in ["lower/bin", "upper", "work"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let bin = dir.path().join("lower/bin");
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
        let busybox =
            busybox.expect("the tests need busybox (Debian: apt-get install busybox-static)");
        fs::copy(busybox, bin.join("busybox")).unwrap();
        let applets = Command::new(busybox).arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(applets).unwrap().lines().filter(|name| *name != "busybox")
        {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        Self { dir }
    }

    /// A path in the image's one layer.
    pub(crate) fn lower(&self, path: &str) -> PathBuf {
        self.dir.path().join("lower").join(path)
    }

    /// A path in what a step changed.
    pub(crate) fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    /// Writes a file of the image, with its directories.
    pub(crate) fn add(&self, path: &str, content: &str) {
        let file = self.lower(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    /// Everything that a step changed, sorted, relative.
    pub(crate) fn changes(&self) -> Vec<String> {
        let upper = self.dir.path().join("upper");
        let entries = walkdir::WalkDir::new(&upper).min_depth(1).sort_by_file_name();
        entries
            .into_iter()
            .map(|entry| {
                let entry = entry.unwrap();
                entry.path().strip_prefix(&upper).unwrap().display().to_string()
            })
            .collect()
    }

    /// A spec without network that runs `args` as root.
    pub(crate) fn spec(&self, args: &[&str]) -> SandboxSpec {
        let lowers = vec![self.dir.path().join("lower")];
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut spec = SandboxSpec::new(lowers, args);
        spec.env = vec![("PATH".to_owned(), "/bin".to_owned())];
        spec.network = Network::None;
        spec.scratch = Some(OverlayDirs {
            upper: self.dir.path().join("upper"),
            work: self.dir.path().join("work"),
        });
        spec
    }

    /// As [`Image::spec`], for a shell script.
    pub(crate) fn script(&self, script: &str) -> SandboxSpec {
        self.spec(&["sh", "-c", script])
    }

    /// Makes the work directory usable again: `volatile` overlays may be mounted but once.
    pub(crate) fn renew(&self) {
        let work = self.dir.path().join("work");
        open_up(&work);
        fs::remove_dir_all(&work).unwrap();
        fs::create_dir(&work).unwrap();
    }
}

/// Makes directories accessible that overlayfs closes to everybody.
fn open_up(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            open_up(&entry.path());
        }
    }
}

/// An ordinary user could not remove the directory otherwise.
impl Drop for Image {
    fn drop(&mut self) {
        if let Ok(work) = fs::canonicalize(self.dir.path().join("work")) {
            open_up(&work);
        }
    }
}

/// What came of a spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stdout_digest: String,
    pub stderr: String,
    pub millis: u64,
    pub kind: String,
    pub exit_code: Option<i32>,
    pub error: Vec<String>,
    pub mapping: Option<String>,
    pub usage: StepUsage,
    pub out_of_memory: bool,
}

impl Outcome {
    /// The output of a command that must have succeeded.
    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }

    /// The message of a failure, causes and all.
    pub(crate) fn message(&self) -> String {
        assert!(!self.error.is_empty(), "{self:?}");
        self.error.join(": ")
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs `spec` with the rights that the tests have.
pub(crate) fn run(spec: &SandboxSpec) -> Outcome {
    run_with(spec, &[])
}

/// As [`run`], with further arguments for the program.
pub(crate) fn run_with(spec: &SandboxSpec, args: &[&str]) -> Outcome {
    let mode = if is_root() { "run" } else { "rootless" };
    let mut command = Command::new(program());
    command.arg(mode).args(args);
    finish(start(command, spec))
}

/// Starts a command that reads `spec`.
pub(crate) fn start(mut command: Command, spec: &SandboxSpec) -> Child {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&serde_json::to_vec(spec).unwrap()).unwrap();
    child
}

/// Waits for a command and reads what came of its spec.
pub(crate) fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A mount of something on `target`.
pub(crate) fn mount(target: &str, source: builder::MountSource) -> SandboxMount {
    SandboxMount { target: target.to_owned(), source }
}
