//! ADD of files by URL.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2_of::sha256;

use super::sources::{Answer, Bench, HttpServer, tar_of};

/// Mon, 06 Nov 2023 07:08:09 GMT.
const MODIFIED: &str = "Mon, 06 Nov 2023 07:08:09 GMT";
const MODIFIED_SECONDS: i64 = 1_699_254_489;

mod sha2_of {
    /// Returns `sha256:<hex>`.
    pub(super) fn sha256(bytes: &[u8]) -> String {
        cache::Digest::of(bytes).to_string()
    }
}

#[test]
fn files_have_the_servers_time_and_are_for_root_alone() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/d/plain" => Answer::ok("text").with("Last-Modified", MODIFIED),
        "/d/x%20y.txt?z=/1" => Answer::ok("query"),
        "/" => Answer::ok("unnamed"),
        "/a.tar" => Answer::ok(tar_of(&[("in/side", "1")])),
        _ => Answer::status(404),
    });
    let bench = Bench::new();
    bench.write("context/local", "l");
    let url = |path: &str| server.url(path);
    let dockerfile = format!(
        "FROM scratch\nADD {plain} /renamed\nADD {plain} {query} {unnamed} local /dir/\n\
         ADD {tar} /kept/\nADD --unpack {tar} /unpacked\nADD --chmod=640 --chown=7:8 {plain} /owned\n",
        plain = url("d/plain"),
        query = url("d/x%20y.txt?z=/1"),
        unnamed = url(""),
        tar = url("a.tar"),
    );
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    let want = [
        "dir/__unnamed__",
        "dir/local",
        "dir/plain",
        "dir/x y.txt",
        "kept/a.tar",
        "owned",
        "renamed",
        "unpacked/in/side",
    ];
    assert_eq!(built.files(), want);
    assert_eq!(built.read("renamed"), "text");
    assert_eq!(built.stat("renamed"), format!("600 0:0 {MODIFIED_SECONDS}"));
    assert_eq!(built.stat("owned"), format!("640 7:8 {MODIFIED_SECONDS}"));
    assert_eq!(built.stat("dir/x y.txt"), "600 0:0 0", "without Last-Modified the time is zero");
}

#[test]
fn an_unchanged_file_is_asked_after_and_not_downloaded_again() {
    // What the server sends now, and how it names that.
    let state = std::sync::Arc::new(Mutex::new(("one".to_owned(), Some("\"v1\"".to_owned()))));
    let now = std::sync::Arc::clone(&state);
    let server = HttpServer::start(move |request| {
        let (body, tag) = now.lock().unwrap().clone();
        let is_same = request.header("if-none-match").is_some_and(|it| Some(it) == tag.as_deref())
            || (tag.is_none() && request.header("if-modified-since") == Some(MODIFIED));
        let answer = if is_same { Answer::status(304) } else { Answer::ok(body) };
        let answer = answer.with("Last-Modified", MODIFIED);
        tag.iter().fold(answer, |answer, tag| answer.with("ETag", tag))
    });
    let bench = Bench::new();
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("f"));
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!((built.read("f").as_str(), built.cached()), ("one", 0));
    assert_eq!(server.take_asked().len(), 1);

    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!((built.read("f").as_str(), built.cached()), ("one", 1));
    let asked = server.take_asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("if-none-match"), Some("\"v1\""));

    // Another name for the same bytes is downloaded, and is the same layer all the same.
    state.lock().unwrap().1 = Some("\"v2\"".to_owned());
    assert_eq!(bench.dockerfile(&dockerfile, &[]).ok().cached(), 1);

    *state.lock().unwrap() = ("two".to_owned(), None);
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!((built.read("f").as_str(), built.cached()), ("two", 0));
    server.take_asked();
    let built = bench.dockerfile(&dockerfile, &["--no-cache"]).ok();
    assert_eq!(built.read("f"), "two", "the kept bytes are used again");
    let asked = server.take_asked();
    assert_eq!(asked[0].header("if-modified-since"), Some(MODIFIED));
}

#[test]
fn a_kept_file_that_was_damaged_is_fetched_again() {
    let server = HttpServer::start(|request| match request.header("if-none-match") {
        Some(_) => Answer::status(304),
        None => Answer::ok("right").with("ETag", "\"1\""),
    });
    let bench = Bench::new();
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("f"));
    bench.dockerfile(&dockerfile, &[]).ok();
    let kept = bench.path().join("store/cache-mounts");
    let bodies = fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path().join("0/body"));
    let bodies: Vec<_> = bodies.filter(|body| body.is_file()).collect();
    assert_eq!(bodies.len(), 1);
    fs::write(&bodies[0], "wrong").unwrap();
    let built = bench.dockerfile(&dockerfile, &["--no-cache"]).ok();
    assert_eq!(built.read("f"), "right");
}

#[test]
fn a_checksum_decides() {
    let server = HttpServer::start(|_| Answer::ok("bytes"));
    let bench = Bench::new();
    let add = |sum: &str| format!("FROM scratch\nADD --checksum={sum} {} /f\n", server.url("f"));
    let right = add(&sha256(b"bytes"));
    assert_eq!(bench.dockerfile(&right, &[]).ok().read("f"), "bytes");
    server.take_asked();
    assert_eq!(bench.dockerfile(&right, &[]).ok().cached(), 1);
    assert!(server.take_asked().is_empty(), "what is known by its checksum is not asked after");

    let wrong = sha256(b"others");
    let failed = bench.dockerfile(&add(&wrong), &[]);
    let mismatch = format!("{} (expected: {wrong})", sha256(b"bytes"));
    failed.fails(1, &["digest mismatch for", &mismatch, "ADD --checksum="]);
}

#[test]
fn broken_downloads_go_on_where_they_broke() {
    let tries = AtomicUsize::new(0);
    let server = HttpServer::start(move |request| {
        let body = b"0123456789".repeat(5000);
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some(from) = range.and_then(|range| range.strip_suffix('-')) else {
            // The first of all is told to come again later.
            if tries.fetch_add(1, Ordering::Relaxed) == 0 {
                return Answer::status(503);
            }
            let cut = Some(20_000);
            return Answer { cut, ..Answer::ok(body).with("ETag", "\"1\"") };
        };
        assert_eq!(request.header("if-range"), Some("\"1\""));
        let from: usize = from.parse().unwrap();
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let cut = (from < 30_000).then_some(15_000);
        let rest = Answer::ok(&body[from..]).with("Content-Range", range);
        Answer { status: 206, cut, ..rest }
    });
    let bench = Bench::new();
    let built = bench.dockerfile(&format!("FROM scratch\nADD {} /f\n", server.url("f")), &[]).ok();
    assert_eq!(built.read("f"), "0123456789".repeat(5000));
    let asked = server.take_asked();
    let ranges: Vec<_> = asked.iter().filter_map(|request| request.header("range")).collect();
    assert_eq!(ranges, ["bytes=20000-", "bytes=35000-"]);
}

#[test]
fn failures_name_the_line() {
    let server = HttpServer::start(|request| match request.path.as_str() {
        "/loop" => Answer::status(302).with("Location", "/loop"),
        "/file" => Answer::status(302).with("Location", "file:///etc/passwd"),
        _ => Answer::status(404),
    });
    let bench = Bench::new();
    let closed = "http://127.0.0.1:1/f".to_owned();
    #[rustfmt::skip]
    let cases = [
        (server.url("gone"), 1, "the server answered 404"),
        (server.url("loop"), 3, "there are too many redirects"),
        (server.url("file"), 3, "only http and https are followed"),
        (closed,             3, "could not fetch `http://127.0.0.1:1/f`"),
    ];
    for (url, code, want) in cases {
        let failed = bench.dockerfile(&format!("FROM scratch\nENV A=1\nADD {url} /f\n"), &[]);
        failed.fails(code, &[want, "Dockerfile:3"]);
    }
}

#[test]
fn credentials_stay_with_their_server_and_out_of_sight() {
    let elsewhere = HttpServer::start(|_| Answer::ok("moved"));
    let target = elsewhere.url("moved");
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/away" => Answer::status(302).with("Location", &target),
        _ if request.header("authorization") == Some("Basic dXNlcjpzM2NyM3Q=") => Answer::ok("in"),
        _ => Answer::status(401),
    });
    let bench = Bench::new();
    let url = |path: &str| format!("http://user:$PW@{}/{path}", server.address);
    let dockerfile =
        format!("FROM scratch\nARG PW\nADD {} /here\nADD {} /away\n", url("here"), url("away"));
    let args = ["--build-arg", "PW=s3cr3t", "-t", "x:1"];
    let built = bench.dockerfile(&dockerfile, &args).ok();
    assert_eq!((built.read("here").as_str(), built.read("away").as_str()), ("in", "moved"));
    for request in elsewhere.take_asked() {
        assert_eq!(request.header("authorization"), None);
    }
    let history = super::rbuild(bench.path(), &["history", "--no-trunc", "x:1"]);
    let history = super::text(&history.stdout);
    assert!(history.contains("xxxxx:xxxxx@127.0.0.1"), "{history}");
    for shown in [built.said(), history] {
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
    bench.expect_nowhere("s3cr3t|dXNlcjpzM2NyM3Q");
    // Written out, they are in the file of the user's and in nothing that is made of it.
    let dockerfile = dockerfile.replace("$PW", "s3cr3t").replace("ARG PW\n", "");
    let built = bench.dockerfile(&dockerfile, &["-t", "x:2", "--no-cache"]).ok();
    assert!(!built.said().contains("s3cr3t"), "{}", built.said());
    let dockerfile = dockerfile.replace("/here", "/gone").replace("s3cr3t", "s3cr3t-w0ng");
    let failed = bench.dockerfile(&dockerfile, &[]);
    failed.fails(1, &["the server answered 401", "xxxx:xxxxxxxxxxx@127.0.0.1"]);
    assert!(!failed.said().contains("s3cr3t"), "{}", failed.said());
    bench.expect_nowhere("s3cr3t|dXNlcjpzM2NyM3Q");
}

#[test]
fn secrets_of_the_build_open_servers() {
    let server = HttpServer::start(|request| match request.header("authorization") {
        Some("Bearer s3cr3t-t0ken") => Answer::ok("in"),
        _ => Answer::status(401),
    });
    let bench = Bench::new();
    let token = bench.write("token", "s3cr3t-t0ken\n");
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("f"));
    bench.dockerfile(&dockerfile, &[]).fails(1, &["the server answered 401"]);
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", token.display());
    assert_eq!(bench.dockerfile(&dockerfile, &["--secret", &secret]).ok().read("f"), "in");
    let other = format!("id=HTTP_AUTH_TOKEN_127.0.0.2,src={}", token.display());
    bench.dockerfile(&dockerfile, &["--secret", &other]).fails(1, &["401"]);
}

#[test]
fn an_unused_url_is_not_fetched() {
    let server = HttpServer::start(|_| Answer::ok("x"));
    let bench = Bench::new();
    let dockerfile =
        format!("FROM scratch AS a\nADD {} /f\nFROM scratch\nCOPY Dockerfile /\n", server.url("f"));
    bench.dockerfile(&dockerfile, &[]).ok();
    assert!(server.take_asked().is_empty());
}
