//! Caches that machines share: two stores stand for two machines.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::embedded::image_id;
use crate::support::{Ran, command, context, docker_registry, rbuild, run};

const DOCKERFILE: &str = "\
FROM scratch AS base
COPY busybox /bin/sh
FROM base AS build
COPY src /src
RUN read random < /proc/sys/kernel/random/uuid; echo $random > /out
FROM base
COPY --from=build /out /out
RUN read random < /proc/sys/kernel/random/uuid; echo $random > /stamp
COPY late /late
";

/// A context whose steps never give the same twice.
fn steps() -> tempfile::TempDir {
    let dir = context(&[("Dockerfile", DOCKERFILE), ("src", "1"), ("late", "1")]);
    fs::copy("/bin/busybox", dir.path().join("busybox")).expect("busybox is installed");
    dir
}

/// A machine that has built nothing.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn build(&self, context: &Path, options: &[&str]) -> Ran {
        let line = [&["build", "--progress", "plain", "-t", "app"], options].concat();
        run(rbuild(self.0.path(), &line).arg(context))
    }

    fn id(&self) -> String {
        image_id(self.0.path(), "app")
    }
}

/// How many RUN steps were executed.
fn executed(ran: &Ran) -> usize {
    ran.stderr.lines().filter(|line| line.contains("] RUN") && !line.ends_with("CACHED")).count()
}

#[track_caller]
fn restores(context: &Path, to: &str, from: &str, runs: usize) -> Machine {
    let first = Machine::new();
    first.build(context, &["--cache-to", to]).ok();
    let second = Machine::new();
    let ran = second.build(context, &["--cache-from", from]).ok();
    assert_eq!(executed(&ran), runs, "{from}: {}", ran.stderr);
    // What a cache leaves out is made again, at another time.
    if !to.contains("mode=auto") {
        assert_eq!(first.id(), second.id(), "{from}: {}", ran.stderr);
    }
    second
}

#[test]
fn another_machine_runs_nothing_again() {
    let (_registry, port, _dir) = docker_registry();
    let (context, dir) = (steps(), tempfile::tempdir().unwrap());
    let name = |tag: &str| format!("127.0.0.1:{port}/cache:{tag}");
    for options in [
        "mode=max",
        "mode=max,image-manifest=false",
        "mode=max,compression=zstd,compression-level=7",
        "mode=max,compression=uncompressed",
        "mode=max,image-manifest=false,oci-mediatypes=false",
        "mode=auto",
        "mode=min",
    ] {
        let name = name(&options.replace([',', '='], "-"));
        restores(context.path(), &format!("type=registry,ref={name},{options}"), &name, 0);
    }
    let place = dir.path().join("cache");
    let (to, from) = (
        format!("type=local,dest={}", place.display()),
        format!("type=local,src={}", place.display()),
    );
    let second = restores(context.path(), &format!("{to},mode=max"), &from, 0);
    // Who knows layouts reads it.
    run(&mut command("skopeo", &["inspect", "--raw", &format!("oci:{}:latest", place.display())]))
        .ok()
        .says("vnd.rbuild.cache.index.v1+json");

    // What is changed is made, on layers that come now, and nothing else is.
    fs::write(context.path().join("late"), "2").unwrap();
    let ran = second.build(context.path(), &["--cache-from", &from]).ok();
    assert_eq!(executed(&ran), 0, "{}", ran.stderr);
    fs::write(context.path().join("src"), "2").unwrap();
    let ran = second.build(context.path(), &["--cache-from", &from]).ok();
    assert!(executed(&ran) > 0, "{}", ran.stderr);
    // What was brought here is found without the cache.
    fs::write(context.path().join("src"), "1").unwrap();
    fs::write(context.path().join("late"), "3").unwrap();
    let ran = second.build(context.path(), &[]).ok();
    assert_eq!(executed(&ran), 0, "{}", ran.stderr);
}

#[test]
fn an_image_carries_its_own_cache() {
    let (_registry, port, _dir) = docker_registry();
    let (context, first) = (steps(), Machine::new());
    let name = format!("127.0.0.1:{port}/app:1");
    first.build(context.path(), &["--cache-to", "type=inline", "-t", &name]).ok();
    let id = first.id();
    first.build(context.path(), &["--cache-to", "type=inline"]).ok();
    assert_eq!(first.id(), id, "what it carries is a function of the image");
    run(&mut rbuild(first.0.path(), &["push", &name])).ok();
    let second = Machine::new();
    let ran = second.build(context.path(), &["--cache-from", &name]).ok();
    assert_eq!(executed(&ran), 0, "{}", ran.stderr);
    // An image is not replaced by a cache.
    let to = format!("type=registry,ref={name}");
    second.build(context.path(), &["--cache-to", &to]).fails_with(1).says("is an image");
    second.build(context.path(), &["--cache-to", &format!("{to},ignore-error=true")]).ok();
}

#[test]
fn scopes_are_read_together_and_written_apart() {
    let (context, dir) = (steps(), tempfile::tempdir().unwrap());
    let to = format!("type=local,dest={},mode=max", dir.path().display());
    let from = format!("type=local,src={}", dir.path().display());
    let main = Machine::new();
    main.build(context.path(), &["--cache-to", &to, "--cache-scope", "main"]).ok();
    fs::write(context.path().join("late"), "2").unwrap();
    let branch = Machine::new();
    let scopes = ["--cache-scope", "feature/x", "--cache-scope", "main"];
    let options =
        [&["--cache-to", to.as_str(), "--cache-from", from.as_str()][..], &scopes].concat();
    let ran = branch.build(context.path(), &options).ok();
    assert_eq!(executed(&ran), 0, "{}", ran.stderr);
    let alone = Machine::new();
    let ran = alone.build(context.path(), &["--cache-from", &from]).ok();
    assert_eq!(executed(&ran), 2, "no scope is another one: {}", ran.stderr);
}

#[test]
fn writers_that_race_lose_nothing() {
    let (_registry, port, _dir) = docker_registry();
    let local = tempfile::tempdir().unwrap();
    let name = format!("127.0.0.1:{port}/cache:raced");
    let contexts: Vec<_> = (0..4)
        .map(|number| {
            let text = format!("FROM scratch\nCOPY a /{number}\nWORKDIR /w{number}\n");
            context(&[("Dockerfile", &text), ("a", "a")])
        })
        .collect();
    let machines: Vec<_> = contexts.iter().map(|_| Machine::new()).collect();
    let caches = [
        (format!("type=registry,ref={name},mode=max"), name.clone()),
        (
            format!("type=local,dest={},mode=max", local.path().display()),
            format!("type=local,src={}", local.path().display()),
        ),
    ];
    for (to, from) in caches {
        let running: Vec<_> = machines
            .iter()
            .zip(&contexts)
            .map(|(machine, context)| {
                rbuild(machine.0.path(), &["build", "--cache-to", &to])
                    .arg(context.path())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for mut child in running {
            assert!(child.wait().unwrap().success());
        }
        let ran = Machine::new().build(contexts[0].path(), &["--cache-from", &from]).ok();
        assert!(ran.stderr.contains(": 8 of 8 results can be used"), "{}", ran.stderr);
    }
}

/// A name, what is done to a cache, and what is said of it.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

fn blobs(cache: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(cache.join("blobs/sha256")).unwrap();
    blobs.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn what_is_damaged_is_a_miss() {
    let (context, first) = (steps(), Machine::new());
    let dir = tempfile::tempdir().unwrap();
    let cache = |name: &str| dir.path().join(name);
    let from = |name: &str| format!("type=local,src={}", cache(name).display());
    let whole = cache("whole");
    first
        .build(
            context.path(),
            &["--cache-to", &format!("type=local,dest={},mode=max", whole.display())],
        )
        .ok();
    let manifest = |cache: &Path| {
        let text = fs::read_to_string(cache.join("index.json")).unwrap();
        let start = text.find("sha256:").unwrap() + 7;
        cache.join("blobs/sha256").join(&text[start..start + 64])
    };
    #[rustfmt::skip]
    let cases: [Damage; 6] = [
        ("no layers", &|cache| {
            let manifest = manifest(cache);
            let text = fs::read_to_string(&manifest).unwrap();
            let start = text.find("\"config\":{\"digest\":\"sha256:").unwrap() + 27;
            let config = text[start..start + 64].to_owned();
            for blob in blobs(cache) {
                if blob != manifest && !blob.ends_with(&config) {
                    fs::remove_file(blob).unwrap();
                }
            }
        }, "does not give"),
        ("flipped", &|cache| {
            for blob in blobs(cache) {
                let mut bytes = fs::read(&blob).unwrap();
                let (is_layer, middle) = (bytes.starts_with(&[0x1f, 0x8b]), bytes.len() / 2);
                if is_layer {
                    bytes[middle] ^= 0x10;
                    fs::write(&blob, bytes).unwrap();
                }
            }
        }, "does not give"),
        ("torn index", &|cache| fs::write(cache.join("index.json"), "{\"manif").unwrap(), "0 of 0 results"),
        ("torn manifest", &|cache| fs::write(manifest(cache), "{").unwrap(), "is not used"),
        ("another version", &|cache| {
            let path = manifest(cache);
            let text = fs::read_to_string(&path).unwrap().replace("index.v1+json", "index.v9+json");
            replace_manifest(cache, &path, &text);
        }, "of another version"),
        ("nothing", &|cache| fs::remove_dir_all(cache).unwrap(), "0 of 0 results"),
    ];
    for (name, damage, said) in cases {
        run(&mut command("cp", &["-a", whole.to_str().unwrap(), cache(name).to_str().unwrap()]))
            .ok();
        damage(&cache(name));
        let machine = Machine::new();
        let ran = machine.build(context.path(), &["--cache-from", &from(name)]).ok().says(said);
        assert_eq!(executed(&ran), 2, "{name}: {}", ran.stderr);
        run(&mut rbuild(machine.0.path(), &["store", "check"])).ok();
    }
}

/// Puts another manifest in the place of the one at `path`, under a digest of its own.
fn replace_manifest(cache: &Path, path: &Path, text: &str) {
    let new = path.with_file_name("new");
    fs::write(&new, text).unwrap();
    let sum = run(&mut command("sha256sum", &[new.to_str().unwrap()])).ok().stdout;
    let (old, digest) = (path.file_name().unwrap().to_str().unwrap(), &sum[..64]);
    fs::rename(&new, path.with_file_name(digest)).unwrap();
    let index = cache.join("index.json");
    let listed = fs::read_to_string(&index).unwrap();
    let size = |name: &str| fs::metadata(path.with_file_name(name)).unwrap().len();
    let listed = listed
        .replace(old, digest)
        .replace(&format!("\"size\":{}", size(old)), &format!("\"size\":{}", size(digest)));
    fs::write(index, listed).unwrap();
}

#[test]
fn a_cache_that_lies_about_a_layer_is_found_out() {
    let (context, dir) = (steps(), tempfile::tempdir().unwrap());
    let to = format!("type=local,dest={},mode=max", dir.path().display());
    Machine::new().build(context.path(), &["--cache-to", &to]).ok();
    // Two layers change places: every blob is what its digest says, and none is what it is for.
    let path = blobs(dir.path())
        .into_iter()
        .find(|path| fs::read(path).unwrap().starts_with(b"{\"version\":1"))
        .unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let blobs: Vec<String> = text
        .match_indices("\"blob\":{\"mediaType\":")
        .map(|(at, _)| text[at..].split('}').next().unwrap().to_owned())
        .collect();
    let first = blobs.first().unwrap();
    let lie = blobs.iter().fold(text.clone(), |text, blob| text.replace(blob, first));
    assert_ne!(lie, text);
    let new = path.with_file_name("new");
    fs::write(&new, &lie).unwrap();
    let sum = run(&mut command("sha256sum", &[new.to_str().unwrap()])).ok().stdout;
    fs::rename(&new, path.with_file_name(&sum[..64])).unwrap();
    let old = path.file_name().unwrap().to_str().unwrap().to_owned();
    let manifest = {
        let listed = fs::read_to_string(dir.path().join("index.json")).unwrap();
        let start = listed.find("sha256:").unwrap() + 7;
        dir.path().join("blobs/sha256").join(&listed[start..start + 64])
    };
    let text = fs::read_to_string(&manifest).unwrap().replace(&old, &sum[..64]);
    replace_manifest(dir.path(), &manifest, &text);

    let machine = Machine::new();
    let from = format!("type=local,src={}", dir.path().display());
    let ran = machine.build(context.path(), &["--cache-from", &from]).ok().says("does not give");
    assert!(executed(&ran) > 0, "{}", ran.stderr);
    run(&mut rbuild(machine.0.path(), &["store", "check"])).ok();
    run(&mut rbuild(machine.0.path(), &["run", "--network", "none", "app", "cat", "/late"]))
        .says("");
}

#[test]
fn what_a_failed_build_finished_is_there_for_the_next() {
    let (_registry, port, _dir) = docker_registry();
    let (context, dir) = (steps(), tempfile::tempdir().unwrap());
    let dockerfile = context.path().join("Dockerfile");
    let places = [
        (
            format!("type=local,dest={},mode=max", dir.path().display()),
            format!("type=local,src={}", dir.path().display()),
        ),
        (
            format!("type=registry,ref=127.0.0.1:{port}/cache:x,mode=max"),
            format!("127.0.0.1:{port}/cache:x"),
        ),
    ];
    for (to, from) in places {
        let broken = DOCKERFILE.replace("COPY late /late", "RUN echo; exit 7");
        fs::write(&dockerfile, broken).unwrap();
        let ran = Machine::new().build(context.path(), &["--cache-to", &to]);
        ran.fails_with(1).says("results are there").says("code 7");
        fs::write(&dockerfile, DOCKERFILE).unwrap();
        let ran = Machine::new().build(context.path(), &["--cache-from", &from]).ok();
        assert_eq!(executed(&ran), 0, "{from}: {}", ran.stderr);
    }
    // A cache that cannot be written does not hide why the build failed.
    fs::write(&dockerfile, "FROM scratch\nCOPY busybox /bin/sh\nRUN exit 7\n").unwrap();
    let ran = Machine::new().build(context.path(), &["--cache-to", "127.0.0.1:1/cache:x"]);
    ran.fails_with(1).says("is not written").says("code 7");
}

#[test]
fn unsigned_results_can_be_refused() {
    let (context, dir) = (steps(), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).display().to_string();
    for name in ["ours", "theirs"] {
        let key = path(&format!("{name}.key"));
        run(&mut command("openssl", &["genpkey", "-algorithm", "ed25519", "-out", &key])).ok();
        let public = path(&format!("{name}.pub"));
        run(&mut command("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public])).ok();
        fs::write(path(name), format!("[cache]\nsign_key = \"{name}.key\"\n")).unwrap();
    }
    fs::write(path("reader"), "[cache]\ntrusted_keys = [\"ours.pub\"]\n").unwrap();
    let build = |config: &str, options: &[&str]| {
        let machine = Machine::new();
        let line = [&["build", "--progress", "plain", "-t", "app"], options].concat();
        let mut command = rbuild(machine.0.path(), &line);
        run(command.arg(context.path()).env("RBUILD_CONFIG", path(config))).ok()
    };
    for (writer, runs) in [("ours", 0), ("theirs", 2), ("reader", 2)] {
        let cache = path(&format!("{writer}.cache"));
        build(writer, &["--cache-to", &format!("type=local,dest={cache},mode=max")]);
        let from = format!("type=local,src={cache}");
        let ran = build("reader", &["--cache-from", &format!("{from},require-signed=true")]);
        assert_eq!(executed(&ran), runs, "{writer}: {}", ran.stderr);
        assert_eq!(executed(&build("reader", &["--cache-from", &from])), 0, "{writer}");
    }
}
