//! The builders: how each is called, and the images that all of them start from.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::archive::{self, Image};
use crate::{case, daemon};

/// The rbuild under test.
const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// One that builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    Rbuild,
    Buildkit,
    Classic,
    Buildah,
}

/// What came of one build.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The image has the name that was asked for.
    Built,
    /// What was said.
    Failed(String),
}

/// The builders' common ground.
#[derive(Debug)]
pub(crate) struct World {
    dir: PathBuf,
    docker: String,
    /// The files of busybox.
    pub(crate) base: BTreeMap<String, String>,
}

impl World {
    /// Starts the builders once in a process, with the same base images for all.
    pub(crate) fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            // The directory outlives the tests, which end in no order: it is emptied next time.
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("differential");
            if dir.exists() {
                std::fs::remove_dir_all(&dir).expect("the leftovers of the last run go");
            }
            std::fs::create_dir_all(dir.join("settings"))
                .expect("the target directory is writable");
            std::fs::write(dir.join("settings/config.json"), "{}").expect("writable");
            let docker = daemon::start(&dir);
            let mut world = Self { dir, docker, base: BTreeMap::new() };
            world.load_bases();
            world
        })
    }

    /// A directory for the contexts of `group`.
    pub(crate) fn directory(&self, group: &str) -> PathBuf {
        let path = self.dir.join("work").join(group);
        std::fs::create_dir_all(&path).expect("writable");
        path
    }

    /// Makes busybox out of packages and the images of `bases` on top, all by rbuild, and hands
    /// them to the others.
    fn load_bases(&mut self) {
        let make = case::directory().join("../bases/make.sh");
        let mut command = self.environment(Command::new(make));
        ok(command.arg("busybox").env("RBUILD", RBUILD));
        let mut names = vec!["busybox".to_owned()];
        let entries = std::fs::read_dir(case::directory().join("bases")).expect("bases are there");
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let mut command = self.environment(Command::new(RBUILD));
            command.args(["build", "--network", "none", "-t", &name]).arg(&path);
            ok(&mut command);
            names.push(name);
        }
        let path = self.dir.join("bases.tar");
        let mut images = self.save(Peer::Rbuild, &names, &path);
        self.base = images.remove("busybox:latest").expect("busybox was saved").tree;
        ok(self.docker_command().args(["load", "-q", "-i"]).arg(&path));
        for name in names {
            let source = format!("docker-archive:{}:{name}:latest", path.display());
            ok(self.buildah_command().args(["pull", "-q", &source]));
        }
    }

    /// Builds the context in `dir` as `name`.
    pub(crate) fn build(&self, peer: Peer, args: &[String], dir: &Path, name: &str) -> Outcome {
        let mut command = match peer {
            Peer::Rbuild => {
                let mut command = self.environment(Command::new(RBUILD));
                command.args(["build", "--progress", "plain", "--network", "none"]);
                command
            }
            Peer::Buildkit | Peer::Classic => {
                let mut command = self.docker_command();
                command.env("DOCKER_BUILDKIT", if peer == Peer::Buildkit { "1" } else { "0" });
                command.args(["build", "--network", "none"]);
                if peer == Peer::Buildkit {
                    command.args(["--progress", "plain"]);
                }
                command
            }
            Peer::Buildah => {
                let mut command = self.buildah_command();
                command.args(["build", "--isolation", "chroot", "--layers", "--format", "docker"]);
                command.arg("--identity-label=false");
                command
            }
        };
        command.arg("-t").arg(name).args(args).arg(".").current_dir(dir);
        let output = command.stdin(Stdio::null()).output().expect("a builder can be started");
        if output.status.success() {
            return Outcome::Built;
        }
        Outcome::Failed(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Reads the images of these names, by way of an archive at `path`.
    pub(crate) fn save(&self, peer: Peer, names: &[String], path: &Path) -> HashMap<String, Image> {
        if names.is_empty() {
            return HashMap::new();
        }
        let mut command = match peer {
            Peer::Rbuild => self.environment(Command::new(RBUILD)),
            Peer::Buildkit | Peer::Classic => self.docker_command(),
            Peer::Buildah => return self.save_buildah(names, path),
        };
        ok(command.args(["save", "-o"]).arg(path).args(names));
        archive::read(path)
    }

    /// buildah writes one image an archive.
    fn save_buildah(&self, names: &[String], path: &Path) -> HashMap<String, Image> {
        let mut images = HashMap::new();
        for name in names {
            drop(std::fs::remove_file(path));
            let target = format!("docker-archive:{}:{name}", path.display());
            ok(self.buildah_command().args(["push", "-q", &format!("localhost/{name}"), &target]));
            let read = archive::read(path).into_values().next();
            images.insert(name.clone(), read.expect("the archive holds the image"));
        }
        images
    }

    /// Frees a command of the caller's settings.
    fn environment(&self, mut command: Command) -> Command {
        for name in ["RBUILD_HOST", "RBUILD_CONFIG", "RBUILD_CA_CERT", "DOCKER_CONTEXT"] {
            command.env_remove(name);
        }
        command.env("RBUILD_STORE", self.dir.join("store"));
        command.env("DOCKER_HOST", &self.docker).env("DOCKER_CONFIG", self.dir.join("settings"));
        command
    }

    fn docker_command(&self) -> Command {
        self.environment(Command::new("/usr/bin/docker"))
    }

    fn buildah_command(&self) -> Command {
        let mut command = self.environment(Command::new("buildah"));
        let root = self.dir.join("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(root.join("root"));
        command.arg("--runroot").arg(root.join("run"));
        command
    }
}

/// Runs a command that has to succeed.
#[track_caller]
fn ok(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
}
