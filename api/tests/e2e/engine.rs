//! The docker command line's tour of an engine, against `rbuild serve`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{
    Server, bases, command, context, docker_registry, guarded_registry, rbuild, run,
};

/// A service on a store of its own, which holds busybox, and its URL.
pub(crate) fn engine(dir: &Path) -> (Server, String) {
    let archive = dir.join("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&archive)).ok();
    let store = dir.join("store");
    run(rbuild(&store, &["load", "-i"]).arg(&archive)).ok();
    let socket = dir.join("rbuild.sock");
    let url = format!("unix://{}", socket.display());
    let mut serve = rbuild(&store, &["serve", "--listen", &url]);
    (Server::start(serve.stdout(Stdio::null()), || socket.exists()), url)
}

/// The docker command line, with its classic builder, asking `url`.
pub(crate) fn docker(url: &str, config: &Path, args: &[&str]) -> Command {
    let mut docker = command("docker", args);
    docker.env("DOCKER_HOST", url).env("DOCKER_BUILDKIT", "0").env_remove("DOCKER_CONTEXT");
    docker.env("DOCKER_CONFIG", config);
    docker
}

#[test]
fn images_are_made_named_moved_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let docker = |args: &[&str]| docker(&url, dir.path(), args);
    let app = context(&[("Dockerfile", "FROM busybox\nLABEL of=tour\nCOPY a /\n"), ("a", "a")]);
    run(docker(&["build", "-q", "-t", "tour:1", "-t", "tour:2"]).arg(app.path()))
        .ok()
        .says("sha256:");
    run(&mut docker(&["tag", "tour:1", "other/tour:3"])).ok();
    run(&mut docker(&[
        "images",
        "--filter",
        "label=of=tour",
        "--format",
        "{{.Repository}}:{{.Tag}}",
    ]))
    .ok()
    .says("tour:1\n")
    .says("other/tour:3\n");
    run(&mut docker(&["image", "inspect", "tour:1", "--format", "{{.Config.Labels.of}}"]))
        .ok()
        .says("tour");
    run(&mut docker(&["history", "--no-trunc", "tour:1"])).ok().says("COPY a /");

    let saved = dir.path().join("saved.tar");
    run(docker(&["save", "tour:1", "tour:2", "-o"]).arg(&saved)).ok();
    for name in ["tour:1", "tour:2", "other/tour:3"] {
        run(&mut docker(&["rmi", name])).ok().says(&format!("Untagged: {name}"));
    }
    run(&mut docker(&["image", "inspect", "tour:1"])).fails_with(1).says("No such image: tour:1");
    run(docker(&["load", "-i"]).arg(&saved)).ok().says("Loaded image: tour:2");

    let (_registry, port, _data) = docker_registry();
    let remote = format!("127.0.0.1:{port}/tour");
    for tag in ["1", "2"] {
        run(&mut docker(&["tag", "tour:1", &format!("{remote}:{tag}")])).ok();
    }
    run(&mut docker(&["push", "--all-tags", &remote])).ok().says("1: digest: sha256:");
    run(&mut docker(&["rmi", &format!("{remote}:1")])).ok();
    run(&mut docker(&["pull", &format!("{remote}:1")])).ok().says("Status: ");
    run(&mut docker(&["pull", &format!("{remote}:9")])).fails_with(1);
}

#[test]
fn a_root_filesystem_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let root = context(&[("etc/motd", "hello")]);
    let tar = dir.path().join("root.tar");
    run(command("tar", &["-cf"]).arg(&tar).arg("-C").arg(root.path()).arg(".")).ok();
    let change = "CMD [\"/bin/sh\"]";
    run(docker(&url, dir.path(), &["import", "-m", "of a test", "-c", change])
        .arg(&tar)
        .arg("imported:1"))
    .ok()
    .says("sha256:");
    let format = ["inspect", "imported:1", "--format", "{{json .Config.Cmd}} {{.Comment}}"];
    run(&mut docker(&url, dir.path(), &format)).ok().says("[\"/bin/sh\"] of a test");
    let files =
        context(&[("Dockerfile", "FROM imported:1\nCOPY --from=imported:1 /etc/motd /x\n")]);
    run(docker(&url, dir.path(), &["build"]).arg(files.path())).ok();
}

#[test]
fn removal_of_containers_is_told_as_asked_and_layers_are_squashed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let docker = |args: &[&str]| docker(&url, dir.path(), args);
    let app = context(&[("Dockerfile", "FROM busybox\nRUN echo 1 > /a\nRUN rm /a\n")]);
    let build = |args: &[&str]| {
        run(docker(&[&["build", "--no-cache"], args].concat()).arg(app.path())).ok().stdout
    };
    let removing = "Removing intermediate container";
    assert_eq!(build(&[]).matches(removing).count(), 2);
    assert_eq!(build(&["--rm=false"]).matches(removing).count(), 0);
    let layers = |args: &[&str]| {
        build(&[&["-t", "squashed:1"], args].concat());
        let format = "{{len .RootFS.Layers}}";
        run(&mut docker(&["inspect", "squashed:1", "--format", format])).ok().stdout
    };
    assert_eq!([layers(&[]), layers(&["--squash"])], ["3\n", "2\n"]);
}

#[test]
fn what_is_not_here_is_told_as_an_engine_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let docker = |args: &[&str]| docker(&url, dir.path(), args);
    run(&mut docker(&["ps", "-a"])).ok().says("CONTAINER ID");
    run(&mut docker(&["network", "ls"])).ok().says("NETWORK ID");
    run(&mut docker(&["volume", "ls"])).ok().says("VOLUME NAME");
    run(&mut docker(&["inspect", "nothing"])).fails_with(1).says("No such object: nothing");
    run(&mut docker(&["run", "busybox", "true"])).fails_with(125).says("runs no containers");
    let version = run(&mut docker(&["version"])).ok().stdout;
    let (_, server) = version.split_once("Server: ").expect("the server is told");
    let mut fields = server.lines().filter_map(|line| line.split_once(':'));
    let empty = fields.find(|(name, value)| value.trim().is_empty() && name.trim() != "Engine");
    assert_eq!(empty, None, "{version}");
    for (args, want) in [
        (&["swarm", "init"][..], "swarms are not supported by rbuild"),
        (&["node", "ls"], "swarms are not supported by rbuild"),
        (&["service", "create", "busybox"], "swarms are not supported by rbuild"),
        (&["stack", "ls"], "swarms are not supported by rbuild"),
        (&["search", "busybox"], "searching a registry is not supported by rbuild"),
        (&["network", "create", "x"], "networks are not supported by rbuild"),
        (&["volume", "create", "x"], "volumes are not supported by rbuild"),
        (&["plugin", "disable", "x"], "plugins are not supported by rbuild"),
        (&["container", "start", "x"], "No such container: x"),
    ] {
        run(&mut docker(args)).fails_with(1).says(want);
    }
    run(&mut docker(&["info", "--format", "{{.OSType}}"])).ok().says("linux");
}

#[test]
fn room_is_told_and_reclaimed() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let docker = |args: &[&str]| docker(&url, dir.path(), args);
    let app = context(&[("Dockerfile", "FROM busybox\nCOPY a /\n"), ("a", "a")]);
    let id = run(docker(&["build", "-q"]).arg(app.path())).ok().stdout;
    run(&mut docker(&["system", "df"])).ok().says("Images");
    run(&mut docker(&["system", "df", "-v"])).ok().says("busybox");
    run(&mut docker(&["image", "prune", "--force"])).ok().says(id.trim());
    run(&mut docker(&["builder", "prune", "--force", "--all"])).ok().says("Total");
    run(&mut docker(&["system", "prune", "--force"])).ok().says("Total reclaimed space");
    run(&mut docker(&["images", "-q", "busybox"])).ok();
    run(&mut docker(&["image", "inspect", "busybox"])).ok();
}

#[test]
fn events_are_told_afterwards_and_as_they_happen() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let docker = |args: &[&str]| docker(&url, dir.path(), args);
    run(&mut docker(&["tag", "busybox", "told:1"])).ok();
    // The command line sends whole seconds: one from now lies after all that has happened.
    let mut listening = docker(&["events", "--since", "10m", "--until", "-2s"]);
    listening.args(["--filter", "image=told:1", "--format", "{{.Type}} {{.Action}}"]);
    let listening = listening.stdout(Stdio::piped()).spawn().expect("docker starts");
    run(&mut docker(&["rmi", "told:1"])).ok();
    let told = listening.wait_with_output().expect("docker ends by itself").stdout;
    assert_eq!(String::from_utf8_lossy(&told), "image tag\nimage untag\n");
}

#[test]
fn a_login_is_asked_of_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = engine(dir.path());
    let (_registry, port, _dirs) = guarded_registry("me", "right");
    let host = format!("127.0.0.1:{port}");
    let login = |password: &str| {
        run(&mut docker(&url, dir.path(), &["login", "-u", "me", "-p", password, &host]))
    };
    assert_ne!(login("wrong").code, Some(0));
    login("right").ok().says("Login Succeeded");
    let name = format!("{host}/private:1");
    run(&mut docker(&url, dir.path(), &["tag", "busybox", &name])).ok();
    run(&mut docker(&url, dir.path(), &["push", &name])).ok().says("digest: sha256:");
}
