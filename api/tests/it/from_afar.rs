//! Builds by a service, of which a user expects what a build here gives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use super::service::Service;
use super::{command, text};

/// A directory with a context, a service with a store of its own, and a store for builds here.
struct Two {
    dir: tempfile::TempDir,
    service: Service,
}

impl Two {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("it is below")).expect("writable");
            std::fs::write(path, text).expect("writable");
        }
        let service = Service::start(dir.path(), &format!("unix://{}/s", dir.path().display()));
        Self { dir, service }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, host: bool, args: &[&str]) -> Output {
        let host: &[&str] = if host { &["--host", &self.service.address] } else { &[] };
        let mut command = command(self.path(), &[host, args].concat());
        command.env("RBUILD_STORE", self.path().join("own")).env("SOURCE_DATE_EPOCH", "1");
        command.output().expect("rbuild starts")
    }

    #[track_caller]
    fn far(&self, args: &[&str]) -> String {
        let output = self.run(true, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    fn near(&self, args: &[&str]) -> String {
        let output = self.run(false, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Answers as a builder of this machine on the service's store does.
    #[track_caller]
    fn same(&self, args: &[&str]) -> String {
        let (far, near) = (self.run(true, args), super::rbuild(self.path(), args));
        assert_eq!(text(&far.stderr), text(&near.stderr), "{args:?}");
        assert_eq!(text(&far.stdout), text(&near.stdout), "{args:?}");
        assert_eq!(far.status.code(), Some(0), "{args:?}");
        text(&far.stdout)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], want: &str) {
        let output = self.run(true, args);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(want), "{args:?}: {said}");
    }
}

/// What lies below a directory: names, and what they hold.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.expect("readable");
        let name =
            entry.path().strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
        let content = match entry.file_type() {
            kind if kind.is_dir() => b"directory".to_vec(),
            kind if kind.is_symlink() => std::fs::read_link(entry.path())
                .expect("a link")
                .as_os_str()
                .as_encoded_bytes()
                .to_vec(),
            kind if kind.is_file() => std::fs::read(entry.path()).expect("readable"),
            _ => b"other".to_vec(),
        };
        found.insert(name, content);
    }
    found
}

const STAGES: &str = "FROM scratch AS one\nCOPY a /one/a\nFROM scratch AS two\nARG TARGETARCH\n\
                      COPY --from=one /one /from\nCOPY b /$TARGETARCH\n";

#[test]
fn outputs_of_every_kind_come_here() {
    let two = Two::new(&[("c/Dockerfile", STAGES), ("c/a", "1"), ("c/b", "2")]);
    let both = ["--platform", "linux/amd64,linux/arm64"];
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str); 7] = [
        ("docker",      &["-t", "x:1"],          "type=docker,dest="),
        ("oci",         &["-t", "x:1"],          "type=oci,compression=zstd,annotation.k=v,dest="),
        ("index",       &[&["-t", "x:1"], &both[..]].concat(), "type=oci,annotation-index.k=v,dest="),
        ("named",       &[],                     "type=oci,name=y:2,dest="),
        ("tar",         &[],                     "type=tar,dest="),
        ("local",       &[],                     "type=local,dest="),
        ("local split", &both,                   "type=local,dest="),
    ];
    for (name, options, output) in cases {
        let build = |place: &str| {
            let output = format!("{output}{place} {name}");
            let args = [&["build", "-q", "-o", &output], options, &["c"]].concat();
            args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>()
        };
        let args = build("far");
        two.far(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let args = build("near");
        two.near(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let place = |place: &str| two.path().join(format!("{place} {name}"));
        if name == "tar" {
            // Files that are in no image keep the times at which they were made.
            let untar = |place: &Path| {
                let dir = tempfile::tempdir().unwrap();
                let mut tar = std::process::Command::new("tar");
                tar.arg("xf").arg(place).arg("-C").arg(dir.path());
                assert!(tar.status().unwrap().success());
                tree(dir.path())
            };
            assert_eq!(untar(&place("far")), untar(&place("near")), "{name}");
        } else if place("near").is_dir() {
            assert_eq!(tree(&place("far")), tree(&place("near")), "{name}");
        } else {
            let (far, near) =
                (std::fs::read(place("far")).unwrap(), std::fs::read(place("near")).unwrap());
            assert!(far == near, "{name}: {} and {} bytes", far.len(), near.len());
        }
    }
    let output = two.run(true, &["build", "-o", "-", "c"]);
    assert!(output.stdout == std::fs::read(two.path().join("far tar")).unwrap());

    // What is there under other names stays, and no link leads out.
    std::fs::write(two.path().join("far local/mine"), "kept").unwrap();
    std::fs::remove_dir_all(two.path().join("far local/from")).unwrap();
    std::os::unix::fs::symlink(two.path().join("c"), two.path().join("far local/from")).unwrap();
    let said = two.run(true, &["build", "-o", "far local", "c"]);
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains("directory far local"), "{}", text(&said.stderr));
    assert_eq!(std::fs::read(two.path().join("far local/mine")).unwrap(), b"kept");
    assert_eq!(std::fs::read(two.path().join("far local/from/a")).unwrap(), b"1");
    assert_eq!(std::fs::read(two.path().join("c/a")).unwrap(), b"1");

    // Nothing is left at the service.
    two.refused(&["build", "-o", "type=tar,dest=no/such/dir.tar", "c"], "no/such/dir.tar");
    let files = tree(two.path());
    let left = files.keys().filter(|name| name.contains("/tmp/") && name.ends_with("/0"));
    assert_eq!(left.count(), 1, "that of the build whose result could not be taken");
}

#[test]
fn targets_platforms_and_annotations_are_as_here() {
    let two = Two::new(&[("c/Dockerfile", STAGES), ("c/a", "1"), ("c/b", "2")]);
    let args = [
        "build",
        "-q",
        "--platform",
        "linux/amd64",
        "--platform",
        "linux/arm64",
        "--target",
        "one=one:1",
        "--target",
        "two=two:1",
        "--annotation",
        "index:a=b",
        "--annotation",
        "manifest[linux/arm64]:c=d",
        "--squash",
        "--iidfile",
        "iid",
        "--metadata-file",
        "meta",
        "c",
    ];
    let results = |run: &dyn Fn(&[&str]) -> String| {
        let id = run(&args);
        let read = |name: &str| std::fs::read_to_string(two.path().join(name)).unwrap();
        assert_eq!(read("iid"), id.trim());
        (id, read("meta"), run(&["index", "inspect", "one:1"]), run(&["index", "inspect", "two:1"]))
    };
    let far = results(&|args| two.far(args));
    let near = results(&|args| two.near(args));
    assert_eq!(far, near);
    assert!(far.2.contains(r#""a": "b""#), "{}", far.2);
}

#[test]
fn named_contexts_and_caches_of_this_machine_are_sent() {
    let dockerfile = "FROM base\nCOPY --from=dir . /dir/\nCOPY --from=other . /other/\n";
    let two = Two::new(&[
        ("c/Dockerfile", dockerfile),
        ("base/Dockerfile", "FROM scratch\nCOPY f /base\n"),
        ("base/f", "of a layout"),
        ("dir/.dockerignore", "left\n"),
        ("dir/kept", "1"),
        ("dir/left", "2"),
        ("dir/Dockerfile.dockerignore", "kept\n"),
    ]);
    two.near(&["build", "-q", "-o", "type=oci,name=base:v1,dest=base.tar", "base"]);
    std::fs::create_dir(two.path().join("layout")).unwrap();
    let mut untar = std::process::Command::new("tar");
    untar.args(["xf", "base.tar", "-C", "layout"]).current_dir(two.path());
    assert!(untar.status().unwrap().success());
    std::fs::create_dir(two.path().join("empty")).unwrap();
    let build = |place: &str, more: &[&str]| {
        let output = format!("type=local,dest={place}");
        let contexts = [
            "--build-context",
            "base=oci-layout://layout:v1",
            "--build-context",
            "dir=dir",
            "--build-context",
            "other=empty",
        ];
        let all = [&["build", "--progress", "plain", "-o", &output], &contexts[..], more, &["c"]];
        all.concat().iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>()
    };
    let run = |host: bool, args: Vec<String>| {
        let output = two.run(host, &args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let said = run(true, build("far", &["--cache-to", "type=local,dest=cache,mode=max,tag=far"]));
    assert!(said.contains("loading dir") && said.contains("loading layout"), "{said}");
    assert!(said.contains("cache cache (far): "), "{said}");
    run(false, build("near", &["--cache-to", "type=local,dest=cache,mode=max,tag=near"]));
    assert_eq!(tree(&two.path().join("far")), tree(&two.path().join("near")));
    assert!(two.path().join("far/dir/kept").exists() && !two.path().join("far/dir/left").exists());
    let index = std::fs::read_to_string(two.path().join("cache/index.json")).unwrap();
    assert!(index.contains(r#""far""#) && index.contains(r#""near""#), "{index}");

    // Each takes from the cache what the other made.
    two.far(&["prune", "--all"]);
    let said = run(true, build("again", &["--cache-from", "type=local,src=cache,tag=near"]));
    assert!(said.contains("CACHED"), "{said}");
    std::fs::remove_dir_all(two.path().join("own")).unwrap();
    let said = run(false, build("again", &["--cache-from", "type=local,src=cache,tag=far"]));
    assert!(said.contains("CACHED"), "{said}");
    run(true, build("again", &["--cache-from", "type=local,src=no/such/cache"]));

    two.refused(&["build", "--build-context", "x=nowhere", "c"], "nowhere");
    two.refused(&["build", "--build-context", "x=c/Dockerfile", "c"], "is not a directory");
    two.refused(&["build", "--build-context", "x=ftp://a/b", "c"], "`ftp://` is not supported");
    for option in [["--cache-to", "type=local,dest=x"], ["-o", "x"]] {
        two.refused(&[&["build", "--detach"], &option[..], &["c"]].concat(), "--detach");
    }
}

#[test]
fn what_a_client_names_is_never_a_path_of_the_service() {
    use std::io::{Read as _, Write as _};
    let two = Two::new(&[("c/Dockerfile", STAGES)]);
    let ask = |method: &str, path: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(two.path().join("s")).unwrap();
        let head = "Host: x\r\nContent-Type: application/x-tar\r\nContent-Length: 0\r\n";
        write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    #[rustfmt::skip]
    let cases = [
        ("buildcontexts", r#"{"x":"/etc"}"#,                 "400"),
        ("buildcontexts", r#"{"x":"context:///etc"}"#,       "404"),
        ("buildcontexts", r#"{"x":"oci-layout:///etc"}"#,    "404"),
        ("buildcontexts", r#"{"x":"context://"}"#,           "404"),
        ("cachefrom",     r#"["type=local,src=/etc"]"#,      "404"),
        ("ssh",           r#"{"default":"/run/agent.sock"}"#, "404"),
        ("context",       "../x",                            "404"),
    ];
    for (name, value, want) in cases {
        let answer = ask("POST", &format!("/v1/builds?{name}={}", encode(value)));
        assert!(answer.starts_with(&format!("HTTP/1.0 {want}")), "{name}={value}: {answer}");
    }
    for output in ["type=tar,dest=/etc/rbuild-was-here", "/etc/rbuild-was-here"] {
        let answer = ask("POST", &format!("/v1/builds?output={}", encode(output)));
        assert!(answer.starts_with("HTTP/1.0 201"), "{answer}");
    }
    assert!(!Path::new("/etc/rbuild-was-here").exists());
    assert!(ask("GET", "/v1/builds/0a1b2c3d/output?number=0").starts_with("HTTP/1.0 404"));
    assert!(ask("POST", "/v1/agents/0a1b").starts_with("HTTP/1.0 404"));
    let announced = ask("POST", "/v1/agents");
    let id = announced.split('"').nth(3).unwrap();
    assert!(ask("POST", &format!("/v1/agents/{id}")).starts_with("HTTP/1.0 400"), "no upgrade");
}

/// Every command that there is: what it does with `--host`.
#[test]
fn the_whole_list_of_commands() {
    let two = Two::new(&[("c/Dockerfile", STAGES), ("c/a", "1"), ("c/b", "2"), ("f", "rootfs")]);
    commands_about_images(&two);
    commands_about_builds_and_the_store(&two);
    commands_that_ask_no_service(&two);
}

fn commands_about_images(two: &Two) {
    two.far(&["build", "-q", "-t", "x:1", "c"]);
    two.far(&["build", "-q", "-t", "y:1", "--platform", "linux/arm64", "c"]);

    // Images.
    two.far(&["tag", "x:1", "x:2"]);
    for args in [
        &["images", "--digests"][..],
        &["images", "--format", "json", "--no-trunc", "--filter", "reference=x"],
        &["history", "x:2"],
        &["inspect", "x:2", "y:1"],
        &["image", "tree", "--all", "x:2"],
        &["image", "tree", "--format", "json", "x:2"],
        &["image", "diff", "x:2", "y:1"],
        &["image", "diff", "--format", "json", "x:2", "y:1"],
    ] {
        assert!(!two.same(args).is_empty(), "{args:?}");
    }
    for format in ["docker", "oci"] {
        let far_file = format!("far.{format}");
        two.far(&["save", "--format", format, "-o", &far_file, "x:1"]);
        let near = super::rbuild(two.path(), &["save", "--format", format, "-o", "near", "x:1"]);
        assert_eq!(near.status.code(), Some(0), "{near:?}");
        let read = |name: &str| std::fs::read(two.path().join(name)).expect("it works");
        assert!(read(&far_file) == read("near"), "{format}");
    }
    two.far(&["rmi", "x:1", "x:2"]);
    assert_eq!(two.far(&["load", "-i", "far.oci"]), "Loaded image: x:1\n");
    let mut tar = std::process::Command::new("tar");
    assert!(
        tar.args(["cf", "rootfs.tar", "f"])
            .current_dir(two.path())
            .status()
            .expect("it works")
            .success()
    );
    assert!(two.far(&["import", "rootfs.tar", "z:1"]).starts_with("sha256:"));

    // Indexes.
    let digest = two.far(&["index", "create", "i:1", "x:1", "y:1", "--annotation", "k=v"]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_ne!(two.far(&["index", "annotate", "i:1", "--annotation", "l=w"]), digest);
    assert!(two.same(&["index", "inspect", "i:1"]).contains(r#""l": "w""#));
    two.refused(&["index", "annotate", "x:1", "--annotation", "l=w"], "x:1");
    two.refused(&["index", "create", "i:1", "nothing:1"], "nothing:1");
}

fn commands_about_builds_and_the_store(two: &Two) {
    // Builds.
    let id = two.far(&["builds", "ls", "-q"]).lines().next().expect("it works").to_owned();
    for args in [
        &["builds", "ls"][..],
        &["builds", "show", &id],
        &["builds", "logs", &id],
        &["explain", &id],
    ] {
        two.same(args);
    }
    two.far(&["attach", &id]);
    assert_eq!(two.far(&["builds", "rm", &id]).trim(), id);

    // The store.
    assert_eq!(two.same(&["store", "check"]), "The store is sound\n");
    two.far(&["store", "check", "--repair"]);
    // A service at work has files of its own that count.
    assert!(two.far(&["du"]).contains("4 image names and 4 cache records"));
    two.far(&["du", "--verbose"]);
    two.same(&["prune", "--dry-run"]);
    two.far(&["prune", "--all"]);
    two.far(&["image", "prune", "--all"]);
    assert_eq!(two.far(&["images", "-q"]), "");
}

fn commands_that_ask_no_service(two: &Two) {
    // What needs no builder does not ask the service.
    two.far(&["check", "--rules", "buildkit", "c"]);
    two.far(&["build", "--check", "c"]);
    assert!(two.far(&["build", "--call", "targets", "c"]).contains("two (default)"));
    two.far(&["context", "ls", "c"]);
    two.far(&["fmt", "c/Dockerfile"]);
    two.far(&["debug", "dump-ast", "c/Dockerfile"]);
    two.far(&["completions", "bash"]);
    two.far(&["man"]);
    assert!(two.far(&["version"]).contains("service at unix://"));

    // What is asked of a registry is asked by the service.
    for args in [
        &["pull", "127.0.0.1:1/x"][..],
        &["push", "127.0.0.1:1/x"],
        &["push", "x:1", "127.0.0.1:1/y"],
        &["image", "referrers", "127.0.0.1:1/x"],
    ] {
        let said = text(&two.run(true, args).stderr);
        assert!(!said.contains("--host") && said.contains("127.0.0.1:1"), "{args:?}: {said}");
    }

    // What can only be done elsewhere says why, and where.
    #[rustfmt::skip]
    let refused: [(&[&str], &str, &str); 7] = [
        (&["run", "x:1"],                   "the command gets this terminal",       "save NAME | rbuild load"),
        (&["shell", "--step", "1"],         "entered where its files are",          "on the machine of the service"),
        (&["serve"],                        "of the machine that it runs on",       "start it"),
        (&["explain", "--dry-run", "c"],    "in the store of this machine",         "rbuild --host URL explain"),
        (&["verify", "c"],                  "two builds of one machine",            "on the machine of the service"),
        (&["doctor"],                       "looks at this machine",                "on the machine of the service"),
        (&["build", "--jobs", "1", "c"],    "--jobs cannot be used with --host",    "`rbuild serve`"),
    ];
    for (args, why, instead) in refused {
        two.refused(args, why);
        two.refused(args, instead);
    }
}
