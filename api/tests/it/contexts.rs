//! Where a build's files may come from.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::sources::{Answer, Bench, HttpServer, tar_of};

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-nc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip starts");
    child.stdin.take().expect("piped").write_all(bytes).expect("gzip reads");
    child.wait_with_output().expect("gzip ends").stdout
}

#[test]
fn archives_and_dockerfiles_by_http() {
    let archive = tar_of(&[
        ("Dockerfile", COPY_ALL),
        ("x.Dockerfile", "FROM scratch\nCOPY a /only\n"),
        ("a", "1"),
        ("b", "2"),
        (".dockerignore", "b\n"),
    ]);
    let compressed = gzip(&archive);
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/c.tar" => Answer::ok(archive.clone()),
        "/c" => {
            Answer::ok(compressed.clone()).with("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT")
        }
        "/Dockerfile" => Answer::ok("FROM scratch\nCOPY context /text\n"),
        "/binary" => Answer::ok(vec![0xff; 100]),
        _ => Answer::status(404),
    });
    let bench = Bench::new();
    let want = [".dockerignore", "Dockerfile", "a", "x.Dockerfile"];
    assert_eq!(bench.build(&[&server.url("c.tar")]).ok().files(), want);
    assert_eq!(bench.build(&[&server.url("c")]).ok().cached(), 1, "the same files");
    let built = bench.build(&["-f", "x.Dockerfile", &server.url("c")]).ok();
    assert_eq!(built.files(), ["only"]);
    let built = bench.build(&[&server.url("Dockerfile")]).ok();
    assert_eq!(built.read("text"), "FROM scratch\nCOPY context /text\n");
    bench.build(&[&server.url("binary")]).fails(1, &["`context` is not valid UTF-8 at byte 0"]);
    bench.build(&[&server.url("gone")]).fails(1, &["could not load the build context", "404"]);

    for (path, want) in [("c.tar", "2017-07-14T02:40:00Z"), ("c", "2015-01-01T00:00:00Z")] {
        let url = server.url(path);
        bench.build(&["--build-arg", "SOURCE_DATE_EPOCH=context", "-t", "x:1", &url]).ok();
        let inspected = super::rbuild(bench.path(), &["inspect", "x:1"]);
        assert!(super::text(&inspected.stdout).contains(want), "{path}");
    }
}

#[test]
fn hostile_archives_are_refused() {
    let mut escape = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.as_old_mut().name[..5].copy_from_slice(b"../up");
    header.set_cksum();
    escape.append(&header, &b"x"[..]).unwrap();
    let escape = escape.into_inner().unwrap();
    let mut linked = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    linked.append_link(&mut header, "Dockerfile", "/etc/passwd").unwrap();
    let linked = linked.into_inner().unwrap();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/escape" => Answer::ok(escape.clone()),
        _ => Answer::ok(linked.clone()),
    });
    let bench = Bench::new();
    bench.build(&[&server.url("escape")]).fails(1, &["leads outside"]);
    bench.build(&[&server.url("linked")]).fails(1, &["failed to read Dockerfile"]);
    assert!(!bench.path().join("up").exists());
}

#[test]
fn the_time_of_a_directory_is_that_of_its_newest_file() {
    let bench = Bench::new();
    bench.write("context/.dockerignore", "newest\n");
    for (name, seconds) in
        [("old", 1_000_000_000), ("new", 1_400_000_000), ("newest", 1_500_000_000)]
    {
        let path = bench.write(&format!("context/{name}"), name);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
    let dockerfile = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nARG SOURCE_DATE_EPOCH\n\
                      ENV EPOCH=$SOURCE_DATE_EPOCH\nCOPY old /\n";
    bench.write("context/Dockerfile", dockerfile);
    for name in ["Dockerfile", ".dockerignore"] {
        let path = bench.path().join("context").join(name);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    bench.build(&["-t", "x:1", "context"]).ok();
    let inspected = super::rbuild(bench.path(), &["inspect", "x:1"]);
    let inspected = super::text(&inspected.stdout);
    assert!(inspected.contains("2014-05-13T16:53:20Z"), "{inspected}");
    assert!(inspected.contains("EPOCH=1400000000"), "steps see the number: {inspected}");
}

#[test]
fn named_contexts_of_every_kind() {
    let archive = gzip(&tar_of(&[("deep/file", "of an archive")]));
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/c.tgz" => Answer::ok(archive.clone()),
        "/plain" => Answer::ok("of a URL"),
        _ => Answer::status(404),
    });
    let bench = Bench::new();
    bench.write("other/file", "of a directory");
    bench.write("other/ignored", "");
    bench.write("other/.dockerignore", "ignored\n");
    bench.write("context/base", "of a layout");
    bench.dockerfile("FROM scratch\nENV IN=layout\nCOPY base /base\n", &["-t", "base:v1"]).ok();
    let saved =
        super::rbuild(bench.path(), &["save", "base:v1", "--format", "oci", "-o", "base.tar"]);
    assert!(saved.status.success(), "{}", super::text(&saved.stderr));
    std::fs::create_dir(bench.path().join("layout")).unwrap();
    let mut untar = Command::new("tar");
    untar.args(["xf", "base.tar", "-C", "layout"]).current_dir(bench.path());
    assert!(untar.status().unwrap().success());
    let contexts = [
        "dir=other".to_owned(),
        format!("archive={}", server.url("c.tgz")),
        format!("plain={}", server.url("plain")),
        format!("unused={}", server.url("gone")),
        "image=docker-image://base:v1".to_owned(),
        "layout=oci-layout://layout".to_owned(),
    ];
    let args: Vec<&str> =
        contexts.iter().flat_map(|context| ["--build-context", context.as_str()]).collect();
    let built = bench.dockerfile(
        "FROM layout\nCOPY --from=dir . /dir/\nCOPY --from=archive deep /archive/\n\
         COPY --from=plain context /plain\nCOPY --from=image /base /image\n",
        &args,
    );
    let built = built.ok();
    let want = ["archive/file", "base", "dir/.dockerignore", "dir/file", "image", "plain"];
    assert_eq!(built.files(), want);
    assert_eq!(built.read("plain"), "of a URL");

    #[rustfmt::skip]
    let cases = [
        ("oci-layout://nowhere",         "the OCI layout `nowhere` cannot be used"),
        ("oci-layout://layout:v2",       "it has no tag `v2`"),
        ("oci-layout://layout@sha256:x", "the OCI layout `layout` cannot be used"),
        ("ftp://a.b/c",                  "`ftp://` is not supported"),
        ("target:x",                     "names a target of a bake file"),
        ("nowhere",                      "the build context `nowhere` does not exist"),
    ];
    for (value, want) in cases {
        let named = format!("x={value}");
        let failed = bench.dockerfile("FROM x\n", &["--build-context", &named]);
        failed.fails(1, &[want]);
    }
}

#[test]
fn a_directory_is_a_base() {
    let bench = Bench::new();
    bench.write("rootfs/etc/os", "mine");
    let args = ["--build-context", "base=rootfs", "-t", "x:1"];
    let built = bench.dockerfile("FROM base\nCOPY Dockerfile /d\n", &args).ok();
    assert_eq!(built.files(), ["d", "etc/os"]);
    assert_eq!(bench.dockerfile("FROM base\nCOPY Dockerfile /d\n", &args).ok().cached(), 2);
}

#[test]
fn ignore_files_in_their_order() {
    let bench = Bench::new();
    bench.write("context/Dockerfile", COPY_ALL);
    for (name, content) in [("a", ""), ("b", ""), ("c", ""), ("d", "")] {
        bench.write(&format!("context/{name}"), content);
    }
    bench.write("given", "d\nD*\n.*\n");
    bench.write("context/.dockerignore", "c\nD*\n.*\n");
    assert_eq!(bench.build(&["context"]).ok().files(), ["a", "b", "d"]);
    bench.write("context/.containerignore", "b\nD*\n.*\n");
    assert_eq!(bench.build(&["context"]).ok().files(), ["a", "c", "d"]);
    bench.write("context/Dockerfile.dockerignore", "a\nD*\n.*\n");
    assert_eq!(bench.build(&["context"]).ok().files(), ["b", "c", "d"]);
    bench.write("context/Dockerfile.containerignore", "a\nb\nD*\n.*\n");
    assert_eq!(bench.build(&["context"]).ok().files(), ["c", "d"]);
    assert_eq!(bench.build(&["--ignorefile", "given", "context"]).ok().files(), ["a", "b", "c"]);
    bench.write("outside", COPY_ALL);
    bench.write("outside.dockerignore", "a\nb\n.*\nD*\n");
    assert_eq!(bench.build(&["-f", "outside", "context"]).ok().files(), ["c", "d"]);
    bench.write("outside.containerignore", "a\nb\nc\n.*\nD*\n");
    assert_eq!(bench.build(&["-f", "outside", "context"]).ok().files(), ["d"]);
    bench
        .build(&["--ignorefile", "no", "context"])
        .fails(1, &["the ignore file `no` does not exist"]);
    bench.write("given", "a[\n");
    bench.build(&["--ignorefile", "given", "context"]).fails(1, &["`given`:", "a["]);
    bench.build(&["-f", "/dev/null", "context"]).fails(1, &["`/dev/null` is not a regular file"]);
    bench.write("led/a", "");
    symlink("../outside", bench.path().join("led/Dockerfile")).expect("a link");
    let why = "failed to read Dockerfile: `Dockerfile` links to nothing in the build context, or \
               out of it: -> ../outside";
    bench.build(&["led"]).fails(1, &[why]);
}
