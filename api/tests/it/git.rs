//! ADD of git repositories, and contexts that are repositories.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::sources::{Answer, Bench, COMMIT_TIME, GitDaemon, HttpServer, Repository, serve_file};

/// A repository `app.git` below `base` with a branch, tags and a directory; returns it and its
/// commits, oldest first.
fn app(base: &Path) -> (Repository, Vec<String>) {
    let repository = Repository::make(&base.join("app.git"));
    let one = repository.commit(&[("file", "one"), ("sub/dir/inner", "inner one")]);
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "text", "v1"]);
    let two = repository.commit(&[("file", "two"), ("run.sh", "#!/bin/sh")]);
    repository.git(&["checkout", "--quiet", "-b", "other"]);
    let three = repository.commit(&[("file", "three")]);
    repository.git(&["checkout", "--quiet", "main"]);
    (repository, vec![one, two, three])
}

#[test]
fn every_form_of_reference() {
    let bench = Bench::new();
    let (_, commits) = app(&bench.path().join("git"));
    let daemon = GitDaemon::start(&bench.path().join("git"));
    let url = daemon.url("app.git");
    let [one, two, three] = commits.as_slice() else { unreachable!() };
    #[rustfmt::skip]
    let cases = [
        ("default branch",    String::new(),                         "two"),
        ("branch",            "#other".into(),                       "three"),
        ("full name",         "#refs/heads/other".into(),            "three"),
        ("tag",               "#light".into(),                       "one"),
        ("annotated tag",     "#v1".into(),                          "one"),
        ("commit",            format!("#{one}"),                     "one"),
        ("short commit",      format!("#{}", &two[..9]),             "two"),
        ("query",             "?branch=other".into(),                "three"),
        ("query tag",         "?tag=v1".into(),                      "one"),
        ("query checksum",    format!("?ref=other&checksum={}", &three[..12]), "three"),
        ("only a checksum",   format!("?checksum={one}"),            "one"),
    ];
    let mut dockerfile = "FROM scratch\n".to_owned();
    for (index, (_, form, _)) in cases.iter().enumerate() {
        writeln!(dockerfile, "ADD {url}{form} /{index}/").unwrap();
    }
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    for (index, (name, _, want)) in cases.iter().enumerate() {
        assert_eq!(built.read(&format!("{index}/file")), *want, "{name}");
    }
    assert!(!built.has("0/.git"));
    assert_eq!(built.stat("0/file"), format!("644 0:0 {COMMIT_TIME}"));
    assert_eq!(built.read("0/sub/dir/inner"), "inner one");
}

#[test]
fn a_subdirectory_is_the_root_and_git_dir_stays_when_asked() {
    let bench = Bench::new();
    let (repository, commits) = app(&bench.path().join("git"));
    repository.git(&["checkout", "--quiet", "-b", "links"]);
    std::os::unix::fs::symlink("/etc", repository.path.join("out")).unwrap();
    repository.commit(&[]);
    let daemon = GitDaemon::start(&bench.path().join("git"));
    let url = daemon.url("app.git");
    let dockerfile = format!(
        "FROM scratch\nADD {url}#main:sub/dir /sub/\nADD --keep-git-dir {url}#v1 /kept/\n\
         ADD {url}?keep-git-dir=true&subdir=sub&ref=main /both/\n"
    );
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!(built.read("sub/inner"), "inner one");
    assert_eq!(built.read("both/dir/inner"), "inner one");
    assert!(!built.has("both/.git"), "a part of a repository has none");
    assert_eq!(built.read("kept/.git/HEAD").trim(), commits[0]);
    assert!(built.read("kept/.git/config").contains(&url));
    assert!(!built.has("kept/.git/hooks") && !built.has("kept/.git/FETCH_HEAD"));

    #[rustfmt::skip]
    let cases = [
        ("#main:missing",        "has no directory `missing` at commit"),
        ("#main:file",           "has no directory `file` at commit"),
        ("#links:out",           "has no directory `out` at commit"),
        ("#main:../..",          "`../..` is no directory below the repository's root"),
        ("#main:.git",           "`.git` is no directory below the repository's root"),
        ("#mian",                "does not contain ref mian"),
        ("#--upload-pack=x",     "cannot be the name of a branch, a tag or a commit"),
        ("?ref=main&checksum=1234567", "expected checksum to match 1234567"),
    ];
    for (form, want) in cases {
        let failed = bench.dockerfile(&format!("FROM scratch\n\nADD {url}{form} /x\n"), &[]);
        failed.fails(1, &[want, "Dockerfile:3"]);
    }
    let failed = bench.dockerfile(&format!("FROM scratch\nADD {url}#mian /x\n"), &[]);
    failed.fails(1, &["did you mean `main`?"]);
}

#[test]
fn an_unchanged_commit_is_a_hit_without_a_fetch() {
    let bench = Bench::new();
    let (repository, _) = app(&bench.path().join("git"));
    let daemon = GitDaemon::start(&bench.path().join("git"));
    let dockerfile = format!("FROM scratch\nADD {} /x/\n", daemon.url("app.git"));
    bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!(bench.dockerfile(&dockerfile, &[]).ok().cached(), 1);
    // Without the mirror there is nothing to check out from: a hit needs nothing.
    fs::remove_dir_all(bench.path().join("store/cache-mounts")).unwrap();
    assert_eq!(bench.dockerfile(&dockerfile, &[]).ok().cached(), 1);
    assert_eq!(fs::read_dir(bench.path().join("store/cache-mounts")).unwrap().count(), 0);

    repository.commit(&[("file", "newer")]);
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!((built.read("x/file").as_str(), built.cached()), ("newer", 0));
    // A damaged mirror is made anew.
    let packs = std::process::Command::new("find")
        .arg(bench.path().join("store/cache-mounts"))
        .args(["-type", "f", "-path", "*objects*", "-delete"])
        .status();
    assert!(packs.unwrap().success());
    assert_eq!(bench.dockerfile(&dockerfile, &["--no-cache"]).ok().read("x/file"), "newer");
}

#[test]
fn submodules_come_along_but_nothing_of_this_machine() {
    let bench = Bench::new();
    let git = bench.path().join("git");
    let inner = Repository::make(&git.join("inner.git"));
    inner.commit(&[("inside", "module")]);
    bench.write("secret/file", "of this machine");
    let local = Repository::make(&bench.path().join("secret"));
    local.commit(&[]);
    let daemon = GitDaemon::start(&git);
    let outer = Repository::make(&git.join("outer.git"));
    outer.git(&["submodule", "--quiet", "add", &daemon.url("inner.git"), "module"]);
    outer.commit(&[("own", "1")]);
    let url = daemon.url("outer.git");
    let dockerfile = format!("FROM scratch\nADD {url} /with/\nADD {url}?submodules=0 /without/\n");
    let built = bench.dockerfile(&dockerfile, &[]).ok();
    assert_eq!(built.read("with/module/inside"), "module");
    assert!(!built.has("with/module/.git") && !built.has("with/.git"));
    assert!(built.has("without/own") && !built.has("without/module/inside"));

    let evil = Repository::make(&git.join("evil.git"));
    let path = local.path.display().to_string();
    evil.git(&["submodule", "--quiet", "add", &path, "module"]);
    evil.commit(&[]);
    let dockerfile = format!("FROM scratch\nADD {} /x/\n", daemon.url("evil.git"));
    let failed = bench.dockerfile(&dockerfile, &[]);
    failed.fails(3, &["could not fetch the submodules of", "transport 'file' not allowed"]);
}

#[test]
fn a_server_of_plain_files_with_a_password() {
    let bench = Bench::new();
    let git = bench.path().join("git");
    let (repository, commits) = app(&git);
    repository.update_server_info();
    let root = git.join("app.git/.git");
    let server = HttpServer::start(move |request| {
        if request.header("authorization") != Some("Basic dXNlcjpzM2NyM3Q=") {
            return Answer::status(401).with("WWW-Authenticate", "Basic realm=x");
        }
        let mut request = request.clone();
        request.path = request.path.replace("/app.git", "");
        serve_file(&root, &request)
    });
    let address = server.address;
    let dockerfile = format!(
        "FROM scratch\nARG PW\nADD --keep-git-dir http://user:$PW@{address}/app.git#{} /x/\n",
        &commits[0]
    );
    let built = bench.dockerfile(&dockerfile, &["--build-arg", "PW=s3cr3t"]).ok();
    assert_eq!(built.read("x/file"), "one");
    assert!(!built.said().contains("s3cr3t"), "{}", built.said());
    bench.expect_nowhere("s3cr3t|dXNlcjpzM2NyM3Q");

    let dockerfile = format!("FROM scratch\nADD http://{address}/app.git /x/\n");
    bench.dockerfile(&dockerfile, &[]).fails(3, &["could not ask `http://127.0.0.1"]);
}

#[test]
fn ssh_has_the_users_agent_and_no_settings() {
    let bench = Bench::new();
    let repository = Repository::make(&bench.path().join("git/app.git"));
    repository.commit(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "by ssh")]);
    // Stands for ssh and for the server: notes what it was told, and runs what it was asked to.
    let log = bench.path().join("log");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nfor last; do :; done\nexec sh -c \"$last\"\n",
        log.display()
    );
    let ssh = bench.write("bin/ssh", script);
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", ssh.parent().unwrap().display());
    let url = format!("git@host.example:{}/.git", repository.path.display());
    for (agent, want) in
        [(None, None), (Some("/run/my agent"), Some("IdentityAgent=\"/run/my agent\""))]
    {
        drop(fs::remove_file(&log));
        let mut build = super::command(bench.path(), &["build", "-t", "x:1", &url]);
        build.env("PATH", &path).envs(agent.map(|agent| ("SSH_AUTH_SOCK", agent)));
        let output = build.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", super::text(&output.stderr));
        let told = fs::read_to_string(&log).unwrap();
        for line in told.lines() {
            assert!(line.starts_with("-F /dev/null -o BatchMode=yes"), "{line}");
            assert!(line.contains("git@host.example git-upload-pack"), "{line}");
            assert_eq!(line.contains("IdentityAgent"), want.is_some(), "{line}");
            assert!(want.is_none_or(|want| line.contains(want)), "{line}");
        }
    }
}

#[test]
fn a_build_that_is_killed_takes_git_along() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&asked);
    let server = HttpServer::start(move |_| {
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_secs(60));
        Answer::status(404)
    });
    let bench = Bench::new();
    let url = server.url("app.git");
    let mut build = super::command(bench.path(), &["build", &url]).spawn().unwrap();
    wait_until("git asks the server", || asked.load(std::sync::atomic::Ordering::Relaxed));
    assert!(is_running(&url));
    build.kill().unwrap();
    build.wait().unwrap();
    wait_until("git has ended", || !is_running(&url));
}

/// Whether any process has `text` among its arguments.
fn is_running(text: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let mut arguments = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    arguments.any(|line| String::from_utf8_lossy(&line).contains(text))
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "not seen: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_repository_is_a_context() {
    let bench = Bench::new();
    let repository = Repository::make(&bench.path().join("git/app.git"));
    repository.commit(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("a", "1"),
        ("b.log", "2"),
        (".dockerignore", "*.log\n"),
        ("sub/other.Dockerfile", "FROM scratch\nCOPY inner /\n"),
        ("sub/inner", "3"),
    ]);
    let daemon = GitDaemon::start(&bench.path().join("git"));
    let url = daemon.url("app.git");
    let built = bench.build(&[&url]).ok();
    assert_eq!(
        built.files(),
        [".dockerignore", "Dockerfile", "a", "sub/inner", "sub/other.Dockerfile"]
    );
    assert_eq!(bench.build(&[&url]).ok().cached(), 1);

    let built = bench.build(&["-f", "other.Dockerfile", &format!("{url}#main:sub")]).ok();
    assert_eq!(built.files(), ["inner"]);
    let kept = bench.build(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url]).ok();
    assert!(kept.has(".git/HEAD"));
    assert_eq!(
        bench.build(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &url]).ok().cached(),
        1
    );

    let args = ["--build-arg", "SOURCE_DATE_EPOCH=context", "-t", "x:1", url.as_str()];
    bench.build(&args).ok();
    let inspected = super::rbuild(bench.path(), &["inspect", "x:1"]);
    assert!(super::text(&inspected.stdout).contains("2020-09-13T12:26:40Z"), "the commit's time");

    bench.build(&["-f", "nowhere", &url]).fails(1, &["open nowhere: no such file"]);
    bench.build(&[&format!("{url}#nowhere")]).fails(1, &["does not contain ref nowhere"]);
}

#[test]
fn a_repository_is_a_named_context() {
    let bench = Bench::new();
    app(&bench.path().join("git"));
    let daemon = GitDaemon::start(&bench.path().join("git"));
    let named = format!("src={}#other", daemon.url("app.git"));
    let args = ["--build-context", named.as_str()];
    let built = bench.dockerfile("FROM scratch\nCOPY --from=src /file /got\n", &args).ok();
    assert_eq!(built.files(), ["got"]);
    assert_eq!(built.read("got"), "three");
    let built = bench.dockerfile("FROM src\nCOPY Dockerfile /\n", &args).ok();
    assert_eq!(built.read("sub/dir/inner"), "inner one");
    assert!(built.has("Dockerfile"));
}
