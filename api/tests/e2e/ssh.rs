//! `RUN --mount=type=ssh` with OpenSSH's own agent, and its own client inside the step.

use std::path::Path;

use crate::served::serve_unix;
use crate::support::{Server, bases, command, context, rbuild, run};

/// Puts a program and its libraries into `dir`.
fn take_along(program: &str, dir: &Path) {
    let libraries = run(&mut command("ldd", &[program])).ok().stdout;
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.chain([program]) {
        let name = Path::new(path).file_name().expect("a file has a name");
        std::fs::copy(path, dir.join(name)).expect("the file can be copied");
    }
}

#[test]
fn a_step_uses_the_agents_keys_and_cannot_change_them() {
    let loader = "/ssh/ld-linux-x86-64.so.2 --library-path /ssh /ssh/ssh-add";
    let dockerfile = format!(
        "FROM busybox\nCOPY ssh /ssh\nCOPY key.pub /\n\
         RUN --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 \\\n\
           && test \"$(stat -c '%a %u:%g' $SSH_AUTH_SOCK)\" = '600 0:0' \\\n\
           && {loader} -l | grep -q ED25519 && {loader} -T /key.pub \\\n\
           && ! {loader} -D && ! {loader} -x </dev/null && {loader} -l | grep -q ED25519\n\
         RUN --mount=type=ssh,id=other,target=/agent,mode=0666,uid=7,gid=8 \\\n\
           test \"$(stat -c '%a %u:%g' /agent)\" = '666 7:8' && test \"$SSH_AUTH_SOCK\" = /agent\n\
         RUN --mount=type=ssh,id=none test ! -e /run/buildkit/ssh_agent.0\n\
         RUN test ! -e /run/buildkit -a ! -e /agent\n"
    );
    let dir = context(&[("Dockerfile", &dockerfile), ("ssh/x", "")]);
    take_along("/usr/bin/ssh-add", &dir.path().join("ssh"));
    let outside = tempfile::tempdir().unwrap();
    let (key, socket) = (outside.path().join("key"), outside.path().join("agent"));
    run(command("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).ok();
    std::fs::copy(outside.path().join("key.pub"), dir.path().join("key.pub")).unwrap();
    let mut agent = command("ssh-agent", &["-D", "-a"]);
    let _agent =
        Server::start(agent.arg(&socket).stdout(std::process::Stdio::null()), || socket.exists());
    run(command("ssh-add", &["-q"]).arg(&key).env("SSH_AUTH_SOCK", &socket)).ok();

    let other = format!("other={}", socket.display());
    let arguments = ["--no-cache", "--ssh", "default", "--ssh", &other];
    let mut build = rbuild(bases(), &arguments);
    run(build.arg(dir.path()).env("SSH_AUTH_SOCK", &socket)).ok();

    // The same by a service, which sees no more of the agent than what its client lets through.
    let (_service, url) = serve_unix(outside.path());
    let far = |more: &[&str]| {
        let mut build = rbuild(bases(), &[&["--host", &url], &arguments[..], more].concat());
        run(build.arg(dir.path()).env("SSH_AUTH_SOCK", &socket))
    };
    far(&[]).ok();
    far(&["--detach"]).fails_with(1).says("--ssh cannot be used with --detach");
    // An agent that ends is missed by its step, not by the service.
    let gone = outside.path().join("gone");
    drop(std::os::unix::net::UnixListener::bind(&gone).unwrap());
    let gone = format!("default={}", gone.display());
    let mut build = rbuild(bases(), &["--host", &url, "--no-cache", "--ssh", &gone]);
    run(build.args(["--ssh", &other]).arg(dir.path()))
        .fails_with(1)
        .says("did not answer the service");
    far(&[]).ok();

    let mut build = rbuild(bases(), &["--host", "tcp://192.0.2.1:1", "--ssh", &other]);
    run(build.arg(dir.path())).fails_with(1).says("ssh agents are not lent to tcp://192.0.2.1:1");

    // The keys are still there.
    run(command("ssh-add", &["-l"]).env("SSH_AUTH_SOCK", &socket)).ok().says("ED25519");
}

#[test]
fn a_missing_agent_is_named() {
    let dir = context(&[("Dockerfile", "FROM busybox\nRUN --mount=type=ssh,required true\n")]);
    let ran = run(rbuild(bases(), &["--no-cache"]).arg(dir.path())).fails_with(1);
    ran.says("the step needs the ssh agent `default`, which was not given").says("--ssh default");
    let mut build = rbuild(bases(), &["--ssh", "default"]);
    let ran = run(build.arg(dir.path()).env_remove("SSH_AUTH_SOCK"));
    ran.fails_with(1).says("no ssh agent is running here");
}

#[test]
fn insecure_steps_and_devices_are_had_when_allowed() {
    let dir = context(&[(
        "Dockerfile",
        "FROM busybox\n\
         RUN --security=insecure mkdir /m && mount -t tmpfs none /m && umount /m \\\n\
           && grep -q '^Seccomp:.*0$' /proc/self/status && ! grep -q a80425fb /proc/self/status\n\
         RUN --device=/dev/net/tun,required test -c /dev/net/tun\n\
         RUN --device=/dev/no-such-device test ! -e /dev/no-such-device\n\
         RUN test ! -e /dev/net -a ! -e /dev/fuse && ! mount -t tmpfs none /m 2>/dev/null\n",
    )]);
    let allow = ["--allow", "security.insecure", "--allow", "device", "--no-cache"];
    run(rbuild(bases(), &allow).arg(dir.path())).ok();
    let refused = |device: &str, want: &str| {
        let text = format!("FROM busybox\nRUN --device={device} true\n");
        let dir = context(&[("Dockerfile", &text)]);
        run(rbuild(bases(), &allow).arg(dir.path())).fails_with(1).says(want);
    };
    refused(
        "/dev/no-such-device,required",
        "RUN --device=/dev/no-such-device: this machine has no",
    );
    refused("fuse", "that is no device; a path below /dev and a CDI name");
}
