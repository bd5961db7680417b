//! The program `git`, told everything by us and nothing by this machine's configuration.
//!
//! Invariants: no configuration of the system or of a user is read; no hook, no filter and no
//! credential helper runs; nobody is prompted; only the protocols named here are spoken; options
//! never come from a URL, a reference or a path; git and its helpers end with the build.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::error::GitError;

/// What may be spoken to a server. `file` and `ext` would reach this machine.
pub(super) const REMOTE_PROTOCOLS: &str = "https:http:git:ssh";

/// What may be spoken between two directories of the store.
pub(super) const LOCAL_PROTOCOLS: &str = "file";

/// Configuration of every run. Times are seconds, speeds bytes a second.
const CONFIG: [(&str, &str); 13] = [
    // Keys of the machine's are not the user's: without an agent there are none.
    ("core.sshCommand", SSH),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("init.defaultBranch", "main"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("advice.detachedHead", "false"),
    ("safe.directory", "*"),
];

/// Variables of ours that git needs: ways through the network, and whom TLS trusts.
const PASSED_ON: [&str; 12] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// Bytes of git's answer that are read, and of its complaints that are kept.
const OUTPUT_LIMIT: u64 = 64 << 20;
const ERROR_LIMIT: usize = 64 << 10;

/// One run of git.
#[derive(Debug)]
pub(super) struct Git<'a> {
    /// For error texts: what is done, and to which repository.
    action: &'static str,
    url: &'a str,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    config: Vec<(String, String)>,
    dir: Option<&'a Path>,
    protocols: &'static str,
    limit: Duration,
}

impl<'a> Git<'a> {
    /// A run that does `action` for the repository at `url` within `limit`.
    pub(super) fn new(action: &'static str, url: &'a str, limit: Duration) -> Self {
        let (args, env, config) = (Vec::new(), Vec::new(), Vec::new());
        Self { action, url, args, env, config, dir: None, protocols: REMOTE_PROTOCOLS, limit }
    }

    /// Adds arguments.
    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Works on the repository at `path`.
    pub(super) fn git_dir(mut self, path: &Path) -> Self {
        self.env.push(("GIT_DIR", path.into()));
        self
    }

    /// Works in the checkout at `path`.
    pub(super) fn work_tree(mut self, path: &'a Path) -> Self {
        self.env.push(("GIT_WORK_TREE", path.into()));
        self.dir = Some(path);
        self
    }

    /// Runs in `path`.
    pub(super) fn dir(mut self, path: &'a Path) -> Self {
        self.dir = Some(path);
        self
    }

    /// Sets a variable.
    pub(super) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Sets an option; it is in the environment, where no other user sees it.
    pub(super) fn config(mut self, options: &[(String, String)]) -> Self {
        self.config.extend_from_slice(options);
        self
    }

    /// Speaks to directories of this machine in place of servers.
    pub(super) fn local(mut self) -> Self {
        self.protocols = LOCAL_PROTOCOLS;
        self
    }

    fn command(&self) -> Command {
        // Modes of a checkout must not depend on whoever started us.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SHELL, "git"]).args(&self.args);
        command.env_clear();
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        if std::env::var_os("GIT_SSL_CAINFO").is_none()
            && let Some(file) = std::env::var_os("SSL_CERT_FILE")
        {
            command.env("GIT_SSL_CAINFO", file);
        }
        let fixed = [
            ("HOME", "/dev/null"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "false"),
            ("GIT_ALLOW_PROTOCOL", self.protocols),
        ];
        command.envs(fixed);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let own = CONFIG.iter().map(|&(name, value)| (name, value));
        let given = self.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut count = 0;
        for (name, value) in own.chain(given) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command.current_dir(self.dir.unwrap_or(Path::new("/")));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs it to its end and returns what it wrote.
    pub(super) async fn run(self) -> Result<Vec<u8>, GitError> {
        let mut child = self.command().spawn().map_err(GitError::Spawn)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Group);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let read = tokio::join!(read(stdout), read_tail(stderr));
            (child.wait().await, read.0, read.1)
        };
        let Ok((status, output, complaints)) = tokio::time::timeout(self.limit, work).await else {
            let (action, url) = (self.action, self.url.to_owned());
            return Err(GitError::Timeout { action, url, seconds: self.limit.as_secs() });
        };
        // It was waited for: from here on its number may be somebody else's.
        std::mem::forget(group);
        let status = status.map_err(GitError::Spawn)?;
        if status.success() {
            return output.map_err(GitError::Spawn);
        }
        // 127 is the shell's word for a program that is not there.
        if status.code() == Some(127) {
            return Err(GitError::NotInstalled);
        }
        let message = message(&complaints);
        Err(GitError::Failed { action: self.action, url: self.url.to_owned(), message })
    }
}

/// What becomes git: with the mode of files that it should have, and where the kernel allows it in a
/// PID namespace that ends with this process, so that a build that is killed leaves neither git nor
/// its helpers behind. setpriv(1) and unshare(1) are of util-linux.
const SHELL: &str = r#"umask 022
if setpriv --pdeathsig KILL unshare --pid --fork true 2>/dev/null; then
  exec setpriv --pdeathsig KILL unshare --pid --fork --kill-child=KILL git "$@"
fi
exec git "$@""#;

/// No configuration, no prompt, known hosts only, and no key but an agent's.
pub(super) const SSH: &str = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
                   -o IdentityFile=/dev/null -o ClearAllForwardings=yes";

/// git and its helpers, ended with this.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever has ended already is no fault.
        let _ = killpg(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(pipe) = pipe else { return Ok(bytes) };
    pipe.take(OUTPUT_LIMIT + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > OUTPUT_LIMIT {
        let text = format!("git wrote more than {OUTPUT_LIMIT} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Reads to the end and keeps the last bytes.
async fn read_tail(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut tail = Vec::new();
    let Some(mut pipe) = pipe else { return tail };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..count]);
        if tail.len() > 2 * ERROR_LIMIT {
            tail.drain(..tail.len() - ERROR_LIMIT);
        }
    }
    tail
}

/// Picks what a person needs of git's complaints: the lines that are marked as such, else the last.
fn message(complaints: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaints);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let marked = ["fatal:", "error:", "remote:", "ERROR:"];
    let mut told: Vec<&str> = lines
        .iter()
        .filter(|line| marked.iter().any(|mark| line.starts_with(mark)))
        .copied()
        .take(4)
        .collect();
    if told.is_empty() {
        told.extend(lines.last());
    }
    if told.is_empty() {
        return "git gave no reason".to_owned();
    }
    let told = told.into_iter().map(|line| line.strip_prefix("fatal: ").unwrap_or(line));
    told.collect::<Vec<_>>().join("; ").chars().take(600).collect()
}

/// Whether `text` is free of what a terminal, a shell or git could take for something else.
pub(super) fn is_plain(text: &str) -> bool {
    !text.starts_with('-') && !text.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        #[rustfmt::skip]
        let cases = [
            ("",                                              "git gave no reason"),
            ("something\n",                                   "something"),
            ("Cloning\nfatal: repository 'x' not found\n",    "repository 'x' not found"),
            ("remote: no\nfatal: y\nnoise\n",                 "remote: no; y"),
        ];
        for (text, want) in cases {
            assert_eq!(message(text.as_bytes()), want);
        }
    }

    #[tokio::test]
    async fn settings_of_this_machine_do_not_count() {
        let limit = Duration::from_secs(20);
        let output = Git::new("ask", "x", limit).args(["config", "--list", "--show-origin"]).run();
        let output = String::from_utf8(output.await.unwrap()).unwrap();
        for line in output.lines() {
            assert!(line.starts_with("command line:"), "{line}");
        }
        assert!(output.contains("core.hookspath=/dev/null"), "{output}");
        let refused = Git::new("ask", "x", limit).args(["ls-remote", "--", "file:///tmp/x"]).run();
        let text = refused.await.unwrap_err().to_string();
        assert!(text.contains("transport 'file' not allowed"), "{text}");
    }
}
