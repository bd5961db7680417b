//! The example built by an ordinary user, with and without subordinate IDs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{RBUILD, Ran, bases, ca_arguments, command, rbuild, run, scratch, testdata};

/// A user's home with rbuild, the example and node:14 in it.
struct Home {
    user: &'static str,
    dir: PathBuf,
}

impl Home {
    /// Makes the user if there is none, and fills the home.
    fn of(user: &'static str, has_subordinate_ids: bool) -> Self {
        if run(&mut command("id", &[user])).code != Some(0) {
            run(&mut command("useradd", &["--create-home", "--shell", "/bin/sh", user])).ok();
        }
        let range = if has_subordinate_ids { "--add-subuids" } else { "--del-subuids" };
        let group_range = if has_subordinate_ids { "--add-subgids" } else { "--del-subgids" };
        let subuid = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
        let has_some = subuid.lines().any(|line| line.starts_with(&format!("{user}:")));
        if has_some != has_subordinate_ids {
            let span = subuid
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{user}:")))
                .and_then(|rest| rest.split_once(':'))
                .and_then(|(start, count)| {
                    Some((start.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
                })
                .map_or("700000-765535".to_owned(), |(start, count)| {
                    format!("{start}-{}", start + count - 1)
                });
            run(&mut command("usermod", &[range, &span, group_range, &span, user])).ok();
        }
        let dir = PathBuf::from("/home").join(user);
        std::fs::copy(RBUILD, dir.join("rbuild")).expect("the home is writable");
        run(command("cp", &["-rT"]).arg(testdata().join("app-node")).arg(dir.join("app-node")))
            .ok();
        run(command("chown", &["-R", user]).arg(dir.join("app-node"))).ok();
        let base = node_archive();
        std::fs::copy(base, dir.join("node.tar")).expect("the home is writable");
        std::fs::set_permissions(dir.join("node.tar"), std::fs::Permissions::from_mode(0o644))
            .expect("the file is ours");
        run(command("rm", &["-rf"]).arg(dir.join("store"))).ok();
        Self { user, dir }
    }

    /// An rbuild command run as the user in its home.
    fn rbuild(&self, args: &[&str]) -> Command {
        let mut command = command("setpriv", &["--reuid", self.user, "--regid", self.user]);
        command.args(["--init-groups", "--"]).arg(self.dir.join("rbuild")).args(args);
        command.current_dir(&self.dir).env("HOME", &self.dir).env_remove("XDG_RUNTIME_DIR");
        command.env("RBUILD_STORE", self.dir.join("store"));
        command
    }

    #[track_caller]
    fn builds_the_example(&self) {
        run(&mut self.rbuild(&["load", "-i", "node.tar"])).ok();
        let build = |extra: &[&str]| {
            let mut build = self.rbuild(&["--progress", "plain", "-t", "app-node:1"]);
            run(build.args(ca_arguments()).args(extra).arg("app-node"))
        };
        build(&[]).ok().says("[5/5] ENTRYPOINT npm start");
        build(&[]).ok().says("CACHED");
        let archive = self.dir.join("app.tar");
        run(self.rbuild(&["save", "app-node:1", "-o"]).arg(&archive)).ok();
        let target = format!("oci-archive:{}", archive.display());
        run(&mut command("skopeo", &["inspect", "--config", &target])).ok().says("npm start");
        self.enters_a_failed_step();
    }

    #[track_caller]
    fn enters_a_failed_step(&self) {
        let dockerfile = "FROM node:14\nRUN echo half > /half; id -u; exit 7\n";
        std::fs::write(self.dir.join("Failing"), dockerfile).expect("the home is writable");
        let ran = run(&mut self.rbuild(&["--network", "none", "-f", "Failing", "app-node"]));
        ran.fails_with(1).says("rbuild shell ");
        let ran = run(&mut self.rbuild(&["shell", "-c", "cat /half; id -u"])).ok();
        assert_eq!(ran.stdout, "half\n0\n");
    }
}

impl Home {
    /// Builds one RUN step with the secret `t`.
    fn run_step(&self, step: &str, secret: &str) -> Ran {
        let dockerfile = format!("FROM node:14\nRUN --mount=type=secret,id=t,env=T {step}\n");
        std::fs::write(self.dir.join("Step"), dockerfile).expect("the home is writable");
        let mut build = self.rbuild(&["--network", "none", "--no-cache", "-f", "Step"]);
        build.args(["--progress", "plain", "--secret", "id=t,env=E2E_SECRET", "app-node"]);
        run(build.env("E2E_SECRET", secret))
    }

    #[track_caller]
    fn keeps_secrets_and_all_output(&self) {
        let canary = "canary-of-a-user-9c1185a5c5e9fc54";
        self.run_step("echo \"got $T.\"", canary).ok().says("got ***.");
        let leaks =
            ["echo $T > /l", "echo $T | base64 > /l", "touch /$T", "cat /proc/1/environ > /l"];
        for leak in leaks {
            self.run_step(leak, canary).fails_with(1).says("secret `t` is in");
        }
        let store = self.dir.join("store");
        let found = run(&mut command("grep", &["-rlF", canary, store.to_str().expect("UTF-8")]));
        assert_eq!(found.stdout, "", "the value is nowhere in the store");

        let bytes = 200 << 20;
        self.run_step(
            &format!("yes 0123456789abcdef | head -c {bytes}; setsid sleep 300 &"),
            canary,
        )
        .ok();
        let log = run(&mut self.rbuild(&["builds", "logs"])).ok().stdout;
        assert_eq!(log.len(), bytes);
        let line = "0123456789abcdef\n";
        assert!(log.as_bytes().chunks(line.len()).all(|part| line.as_bytes().starts_with(part)));
        let left = run(&mut command("pgrep", &["-u", self.user, "-x", "sleep"]));
        assert_eq!(left.stdout, "", "what the step started has ended with it");
    }
}

/// `node:14` as an OCI archive.
fn node_archive() -> &'static Path {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let file = scratch().join("node.tar");
        run(rbuild(bases(), &["save", "node:14", "-o"]).arg(&file)).ok();
        file
    })
}

#[test]
fn with_subordinate_ids() {
    let home = Home::of("rbuild-range", true);
    home.builds_the_example();
    home.keeps_secrets_and_all_output();
}

#[test]
fn with_a_single_id() {
    let home = Home::of("rbuild-single", false);
    home.builds_the_example();
    let step = "true && test \"$(stat -c %u /etc/shadow)\" = 0";
    let said = home.run_step(step, "a secret that nobody uses").ok().stderr;
    assert_eq!(said.matches("there is one user id here").count(), 1, "{said}");
    assert!(said.contains("usermod --add-subuids"), "{said}");
}
