//! Images without builds: credentials, imports, lists, clearing out.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{
    Ran, Server, command, context, docker_registry_with, free_port, guarded_registry, http_get,
    rbuild, run,
};

/// Runs `rbuild` with `given` on its standard input.
fn fed(command: &mut Command, given: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who does not want it closes it.
    drop(child.stdin.take().unwrap().write_all(given));
    child.wait_with_output().unwrap().into()
}

#[test]
fn credentials_are_checked_kept_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, port, _dirs) = guarded_registry("me", "p:w");
    let host = format!("127.0.0.1:{port}");
    let store = dir.path().join("store");
    let at = |args: &[&str]| {
        let mut command = rbuild(&store, args);
        command.env("DOCKER_CONFIG", dir.path().join("docker"));
        command
    };
    let login = ["login", "-u", "me", "--password-stdin", &host];
    let context = context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let name = format!("{host}/x:1");
    run(at(&["-q", "-t", &name]).arg(context.path())).ok();

    fed(&mut at(&login), b"wrong\n").fails_with(1).says("401");
    run(&mut at(&["push", &name])).fails_with(1).says("denied");
    fed(&mut at(&login), b"p:w\n").ok().says("unencrypted").says("Login Succeeded");
    run(&mut at(&["push", &name])).ok();
    // Docker reads what was kept.
    let text = fs::read_to_string(dir.path().join("docker/config.json")).unwrap();
    assert!(text.contains(&host) && !text.contains("p:w"), "{text}");
    run(&mut at(&["logout", &host])).ok().says("Removed");
    run(&mut at(&["logout", &host])).ok().says("Not logged in");
    run(&mut at(&["push", "-q", &name])).fails_with(1);

    // A helper is given it, and the file is not.
    let kept = dir.path().join("kept");
    let helper = dir.path().join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nkept={}\ncase $1 in\nstore) cat > $kept;;\nget) cat $kept 2>/dev/null || {{ echo \
         credentials not found in native keychain; exit 1; }};;\nerase) rm $kept;;\nesac\n",
        kept.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("docker/config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    fed(at(&login).env("PATH", &path), b"p:w").ok().says("docker-credential-test");
    run(at(&["push", &name]).env("PATH", &path)).ok();
    run(at(&["logout", &host]).env("PATH", &path)).ok().says("Removed");
    assert!(!kept.exists());

    let line = ["login", &host];
    run(&mut at(&line)).fails_with(1).says("--password-stdin");
}

#[test]
fn a_service_uses_the_credentials_of_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let (_registry, port, _dirs) = guarded_registry("me", "p:w");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let socket = dir.path().join("socket");
    let url = format!("unix://{}", socket.display());
    let mut serve = rbuild(&there, &["serve", "--listen", &url]);
    serve.env("DOCKER_CONFIG", dir.path().join("none")).stderr(Stdio::null());
    let _server = Server::start(&mut serve, || socket.exists());
    let host = format!("127.0.0.1:{port}");
    let at = |args: &[&str]| {
        let mut command = rbuild(&here, args);
        command.env("DOCKER_CONFIG", dir.path().join("docker")).env("RBUILD_HOST", &url);
        command
    };
    let name = format!("{host}/x:1");
    let base = context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let meta = dir.path().join("meta");
    let build = || {
        let mut build = at(&["-q", "--push", "-t", &name, "--metadata-file"]);
        run(build.arg(&meta).arg(base.path()))
    };
    build().fails_with(1).says("denied");
    let login = ["login", "-u", "me", "--password-stdin", &host];
    fed(&mut at(&login), b"p:w\n").ok();
    build().ok();
    let told = fs::read_to_string(&meta).unwrap();
    assert!(told.contains("containerimage.descriptor") && told.contains(&name), "{told}");

    // Each asks the registry, which gives nothing without.
    let digest = run(&mut at(&["push", &name])).ok().stdout;
    assert!(told.contains(digest.trim()) && digest.starts_with("sha256:"), "{digest}");
    run(&mut at(&["image", "referrers", &name])).ok();
    run(&mut at(&["rmi", &name])).ok();
    run(&mut at(&["prune", "--all"])).ok();
    let derived = context(&[("Dockerfile", &format!("FROM {name}\nLABEL a=b\n"))]);
    run(at(&["-q"]).arg(derived.path())).ok();
    run(&mut at(&["prune", "--all"])).ok();
    run(&mut at(&["pull", &name])).ok();
    run(&mut at(&["logout", &host])).ok();
    run(&mut at(&["push", &name])).fails_with(3).says("denied");
}

/// Makes the tar of a root filesystem with one file.
fn root_tar(dir: &Path) -> Vec<u8> {
    fs::create_dir_all(dir.join("root/etc")).unwrap();
    fs::write(dir.join("root/etc/hostname"), "imported\n").unwrap();
    let root = dir.join("root");
    let made = Command::new("tar").args(["-c", "-C", root.to_str().unwrap(), "."]).output();
    made.unwrap().stdout
}

#[test]
fn images_are_imported_listed_and_cleared_out_here_and_there() {
    let dir = tempfile::tempdir().unwrap();
    let tar = root_tar(dir.path());
    let socket = dir.path().join("socket");
    let url = format!("unix://{}", socket.display());
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let _server =
        Server::start(rbuild(&there, &["serve", "--listen", &url]).stderr(Stdio::null()), || {
            socket.exists()
        });
    for host in [None, Some(&url)] {
        let at = |args: &[&str]| {
            let mut command = rbuild(&here, args);
            host.map(|url| command.env("RBUILD_HOST", url));
            command
        };
        let import = ["import", "-c", r#"CMD ["/bin/sh"]"#, "-c", "LABEL k=v", "-", "imported:1"];
        let id = fed(&mut at(&import), &tar).ok().stdout;
        run(&mut at(&["inspect", id.trim()])).ok().says("/bin/sh").says("imported:1");
        fed(&mut at(&["import", "-"]), &tar).ok();
        fed(&mut at(&["import", "-", "x"]), b"no tar at all").fails_with(1);
        let count = |filter: &str| {
            let listed = run(&mut at(&["images", "-q", "--filter", filter])).ok().stdout;
            listed.lines().count()
        };
        assert_eq!(count("reference=import*"), 1);
        assert_eq!(count("dangling=true"), 1);
        assert_eq!(count("label=k=v"), 1);
        assert_eq!(count("label=k=w"), 0);
        assert_eq!(count("before=imported:1"), 0);
        run(&mut at(&["images", "--filter", "colour=red"])).fails_with(1).says("colour");
        run(&mut at(&["image", "prune"])).ok().says("Deleted:").says("Total reclaimed space");
        assert_eq!(count("dangling=true"), 0);
        run(&mut at(&["image", "prune", "-a", "--filter", "label!=k"])).ok();
        assert_eq!(count("reference=imported"), 1);
        run(&mut at(&["image", "prune", "-a"])).ok().says("Untagged: imported:1");
        assert_eq!(count("reference=imported"), 0);
    }
}

/// Builds `text` over `files` as `name` for `platform`.
fn build(store: &Path, name: &str, platform: &str, text: &str, files: &[(&str, &str)]) {
    let files = [&[("Dockerfile", text)], files].concat();
    let context = context(&files);
    run(rbuild(store, &["-q", "-t", name, "--platform", platform]).arg(context.path())).ok();
}

#[test]
fn images_are_looked_into_and_compared() {
    let store = tempfile::tempdir().unwrap();
    let dockerfile = "FROM scratch\nENV A=1 B=1\nCOPY big /big\nCOPY small /big\nCOPY status /var/lib/dpkg/status\nCOPY package.json /app/node_modules/x/\n";
    let status = |version: &str| {
        format!("Package: openssl\nStatus: install ok installed\nVersion: {version}\n\n")
    };
    let npm = |version: &str| format!(r#"{{"name":"x","version":"{version}"}}"#);
    let files = |big: &str, version: &str| {
        [
            ("big".to_owned(), big.to_owned()),
            ("small".to_owned(), "s".to_owned()),
            ("status".to_owned(), status(version)),
            ("package.json".to_owned(), npm(version)),
        ]
    };
    let (one, two) = (files(&"x".repeat(9999), "1.0"), files(&"x".repeat(9999), "2.0"));
    let borrowed = |files: &[(String, String); 4]| -> Vec<(&'static str, &'static str)> {
        let leak = |text: &String| -> &'static str { Box::leak(text.clone().into_boxed_str()) };
        files.iter().map(|(name, text)| (leak(name), leak(text))).collect()
    };
    build(store.path(), "a", "linux/amd64", dockerfile, &borrowed(&one));
    build(store.path(), "b", "linux/amd64", &dockerfile.replace("B=1", "B=2"), &borrowed(&two));

    let tree = run(&mut rbuild(store.path(), &["image", "tree", "a"])).ok();
    for text in ["COPY big /big", "M       1B  big", "10kB of", "2 x  big"] {
        assert!(tree.stdout.contains(text), "`{text}`: {}", tree.stdout);
    }
    let json = run(&mut rbuild(store.path(), &["image", "tree", "--format", "json", "a"])).ok();
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["wasted_bytes"], 9999);

    let diff = run(&mut rbuild(store.path(), &["image", "diff", "a", "b"])).ok();
    for text in [
        "2 layers shared",
        "M Env B: 1 -> 2",
        "M deb openssl: 1.0 -> 2.0",
        "M npm x: 1.0 -> 2.0",
        "M var/lib/dpkg/status",
    ] {
        assert!(diff.stdout.contains(text), "`{text}`: {}", diff.stdout);
    }
    assert!(!diff.stdout.contains("Env A"), "{}", diff.stdout);
    run(&mut rbuild(store.path(), &["image", "diff", "a", "a"])).ok().says("nothing differs");
    let json =
        run(&mut rbuild(store.path(), &["image", "diff", "--format", "json", "a", "b"])).ok();
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["files"].as_array().map(Vec::len), Some(2), "{value}");
}

#[test]
fn platforms_are_joined_under_one_name() {
    let store = tempfile::tempdir().unwrap();
    let port = free_port();
    let (_registry, _data) = docker_registry_with(port, "", || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 200 "))
    });
    for (name, platform) in [("x:amd", "linux/amd64"), ("x:arm", "linux/arm64")] {
        build(store.path(), name, platform, "FROM scratch\nCOPY a /\n", &[("a", name)]);
    }
    let at = |args: &[&str]| run(&mut rbuild(store.path(), args));
    let name = format!("127.0.0.1:{port}/x:all");
    let create = ["index", "create", &name, "x:amd", "x:arm", "--annotation", "a=b"];
    let digest = at(&create).ok().stdout;
    at(&["index", "inspect", &name]).ok().says("arm64").says(r#""a": "b""#);
    at(&["index", "annotate", &name, "--annotation", "manifest-descriptor[linux/arm64]:k=v"]).ok();
    at(&["index", "inspect", &name]).ok().says(r#""a": "b""#).says(r#""k": "v""#);
    at(&["index", "annotate", &name, "--annotation", "manifest:k=v"]).fails_with(1);
    at(&["index", "inspect", "x:amd"]).fails_with(1).says("not an index");
    at(&["index", "create", "y", "nobody"]).fails_with(1).says("nobody");
    assert!(digest.starts_with("sha256:"), "{digest}");
    at(&["push", &name]).ok();
    let reference = format!("docker://{name}");
    for architecture in ["amd64", "arm64"] {
        let inspect =
            ["inspect", "--tls-verify=false", "--override-arch", architecture, &reference];
        run(&mut command("skopeo", &inspect)).ok().says(architecture);
    }
}

#[test]
fn what_was_pulled_for_two_platforms_is_told_pushed_and_saved_for_each() {
    let store = tempfile::tempdir().unwrap();
    let port = free_port();
    let (_registry, _data) = docker_registry_with(port, "", || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 200 "))
    });
    let at = |args: &[&str]| run(&mut rbuild(store.path(), args));
    let name = format!("127.0.0.1:{port}/x:all");
    let dir = context(&[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"),
        ("a", "a"),
    ]);
    run(rbuild(store.path(), &["-t", &name, "--platform", "amd64,arm64", "--push"]).arg(dir.path()))
        .ok();
    at(&["image", "prune", "-a"]).ok();
    at(&["pull", "--platform", "linux/arm64", &name]).ok();
    at(&["inspect", &name]).ok().says(r#""Architecture": "arm64""#);
    at(&["inspect", "--platform", "linux/amd64", &name]).fails_with(1).says("here for linux/arm64");
    at(&["pull", "--platform", "linux/amd64", &name]).ok();

    let socket = store.path().join("socket");
    let url = format!("unix://{}", socket.display());
    let mut serve = rbuild(store.path(), &["serve", "--listen", &url]);
    let _server = Server::start(serve.stderr(Stdio::null()), || socket.exists());
    for host in [None, Some(&url)] {
        let at = |args: &[&str]| {
            let mut command = rbuild(store.path(), args);
            host.map(|url| command.env("RBUILD_HOST", url));
            run(&mut command)
        };
        for platform in ["amd64", "arm64"] {
            let wanted = format!("linux/{platform}");
            let said = format!(r#""Architecture": "{platform}""#);
            at(&["inspect", "--platform", &wanted, &name]).ok().says(&said);
            let saved = store.path().join(format!("{platform}.tar"));
            at(&["save", "--platform", &wanted, "-o", saved.to_str().unwrap(), &name]).ok();
            let archive = format!("docker-archive:{}", saved.display());
            run(&mut command("skopeo", &["inspect", &archive])).ok().says(&said);
        }
        at(&["inspect", "--platform", "linux/s390x", &name]).fails_with(1).says("s390x");
        at(&["push", "--platform", "linux/arm64", &name]).ok();
        let reference = format!("docker://{name}");
        let raw = ["inspect", "--raw", "--tls-verify=false", &reference];
        let one = run(&mut command("skopeo", &raw)).ok().stdout;
        assert!(one.contains("layers") && !one.contains("manifests"), "{one}");
        at(&["push", &name]).ok();
        run(&mut command("skopeo", &raw)).ok().says("manifests").says("arm64").says("amd64");
    }
}

#[test]
fn a_push_compresses_as_it_is_told() {
    let store = tempfile::tempdir().unwrap();
    let port = free_port();
    let (_registry, _data) = docker_registry_with(port, "", || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 200 "))
    });
    let at = |args: &[&str]| run(&mut rbuild(store.path(), args));
    build(store.path(), "base", "linux/amd64", "FROM scratch\nCOPY a /\n", &[("a", "a")]);
    let base = format!("127.0.0.1:{port}/base:1");
    at(&["push", "base", &base]).ok();
    // What was pulled has come as gzip.
    let other = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| run(&mut rbuild(other.path(), args));
    let text = format!("FROM {base}\nCOPY b /\n");
    build(other.path(), "above", "linux/amd64", &text, &[("b", "b")]);
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("own",      &[],                                               &["gzip", "gzip"]),
        ("zstd",     &["--compression", "zstd"],                        &["gzip", "zstd"]),
        ("all",      &["--compression", "zstd", "--force-compression"], &["zstd", "zstd"]),
        ("level",    &["--compression", "gzip", "--compression-level", "9"], &["gzip", "gzip"]),
    ];
    for (tag, options, want) in cases {
        let name = format!("127.0.0.1:{port}/above:{tag}");
        at(&[&["push", "above", &name], options].concat()).ok();
        let reference = format!("docker://{name}");
        let raw = ["inspect", "--raw", "--tls-verify=false", &reference];
        let raw = run(&mut command("skopeo", &raw)).ok().stdout;
        let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
        let layers = raw["layers"].as_array().unwrap().iter();
        let kinds: Vec<_> = layers.map(|it| it["mediaType"].as_str().unwrap()).collect();
        assert!(
            kinds.len() == want.len()
                && kinds.iter().zip(want).all(|(is, want)| is.ends_with(want)),
            "{tag}: {kinds:?}"
        );
    }
    at(&["push", "--compression", "lz4", "above"]).fails_with(2).says("there is no compression");
    at(&["push", "--compression", "gzip", "--compression-level", "13", "above"])
        .fails_with(1)
        .says("gzip has levels 0 to 12, not 13");
}

#[test]
fn a_service_pushes_to_another_name_and_compresses_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("rbuild.sock");
    let host = format!("unix://{}", socket.display());
    let mut serve = rbuild(dir.path(), &["serve", "--listen", &host]);
    let _server = Server::start(&mut serve, || socket.exists());
    let port = free_port();
    let (_registry, _data) = docker_registry_with(port, "", || {
        http_get(port, "/v2/").is_some_and(|answer| answer.contains(" 200 "))
    });
    let at = |args: &[&str]| run(rbuild(dir.path(), args).env("RBUILD_HOST", &host));
    let context = context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    at(&["-q", "-t", "here:1", context.path().to_str().unwrap()]).ok();
    let id = at(&["images", "-q", "--no-trunc", "here:1"]).ok().stdout;
    for (tag, source) in [("by-name", "here:1"), ("by-id", id.trim())] {
        let name = format!("127.0.0.1:{port}/there:{tag}");
        let digest = at(&["push", "--compression", "zstd", source, &name]).ok().stdout;
        let reference = format!("docker://{name}");
        let inspect =
            |raw| run(&mut command("skopeo", &["inspect", "--tls-verify=false", raw, &reference]));
        inspect("--no-tags").ok().says(digest.trim());
        inspect("--raw").ok().says("tar+zstd");
    }
    at(&["push", "--compression", "gzip", "--compression-level", "13", "here:1"])
        .fails_with(1)
        .says("gzip has levels 0 to 12, not 13");
}

#[test]
fn a_digest_finds_what_only_a_tag_names() {
    let store = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| rbuild(store.path(), args);
    let base = context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    run(at(&["-q", "-t", "nowhere.example/base:1"]).arg(base.path())).ok();
    let listed = run(&mut at(&["images", "--digests", "--format", "json"])).ok().stdout;
    let row: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let digest = row["Digest"].as_str().unwrap();
    let pinned = format!("nowhere.example/base@{digest}");
    run(&mut at(&["inspect", &pinned])).ok();
    // The registry cannot be reached: the build knows the image itself.
    let above = context(&[("Dockerfile", &format!("FROM {pinned}\nCOPY Dockerfile /b\n"))]);
    run(at(&["-t", "above"]).arg(above.path())).ok();
    let other = format!("elsewhere.example/base@{digest}");
    run(&mut at(&["inspect", &other])).fails_with(1).says("no such image");
}
