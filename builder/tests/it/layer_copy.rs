//! COPY, ADD and WORKDIR, rule by rule.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use builder::{
    CopyInput, LayeredRoot, MakeDirError, Rules, copy, make_dir, select, selection_digest,
};
use frontend::{CopyMode, CopyOp, CopySource, IgnoreRules, MakeDirOp, Unpack};
use tempfile::{TempDir, tempdir};

use super::layer::archive;
use super::layer_tree::{list, make, read, run, set_times, set_xattr};

const CONTEXT: &[&str] = &[
    "0600 1000:1000 app.js = app",
    "0755 run.sh = run",
    "[odd].txt = odd",
    "0700 src/",
    "src/a.js = a",
    "src/lib/b.js = b",
    "src/lib/b.txt = text",
    "src/link -> a.js",
    "docs/a.md = doc",
    "docs/deep/b.md = doc",
    "to-src -> src",
    "to-app -> /app.js",
    "out -> ../../../../etc",
    "ignored/x = no",
    "ignored/kept = yes",
    "secret = no",
    "many/one = 1",
    "many/two links many/one",
    "pipe fifo",
];

const STAGE: &[&str] = &[
    "0750 7:8 opt/tool/",
    "4755 7:8 opt/tool/bin = tool",
    "opt/tool/null device",
    "opt/tool/pipe fifo",
    "opt/self -> tool",
];

const ROOT: &[&str] = &[
    "0711 5:5 srv/",
    "srv/old = old",
    "0700 srv/lib/",
    "srv/a.js/",
    "etc/passwd = root:x:0:0::/root:/bin/sh",
    "bin -> usr/bin",
    "0755 usr/bin/",
    "file = file",
    "dangling -> /made/by/link",
];

/// What lies around a copy.
struct Bench {
    dir: TempDir,
    context: LayeredRoot,
    rules: Rules,
    stage: LayeredRoot,
    root: LayeredRoot,
    upper: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempdir().unwrap();
        let part = |name: &str, lines: &[&str]| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            make(&path, lines);
            set_times(&path, 1_000);
            path
        };
        let context = part("context", CONTEXT);
        let archive = archive(&[("x/y", "packed"), ("l", "-> x/y"), ("dev", "char 1:3")]);
        fs::write(context.join("pack.tar"), &archive).unwrap();
        fs::write(context.join("pack.misnamed"), run("gzip", &["-c"], &archive)).unwrap();
        fs::write(context.join("empty.tar"), vec![0; 10240]).unwrap();
        fs::write(context.join("broken.tar.gz"), b"\x1f\x8b\x08broken").unwrap();
        let stage = part("stage", STAGE);
        let root = part("root", ROOT);
        let passwd = "root:x:0:0::/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        let rules = IgnoreRules::parse("secret\nignored\n!ignored/kept\n").unwrap();
        let rules = Rules::from(rules);
        Self {
            context: LayeredRoot::open_plain(context).unwrap(),
            rules,
            stage: LayeredRoot::open(&[stage]).unwrap(),
            root: LayeredRoot::open(&[root]).unwrap(),
            upper: part("upper", &[]),
            dir,
        }
    }

    fn inputs(&self) -> [CopyInput<'_>; 3] {
        let Self { context, rules, stage, root, .. } = self;
        [CopyInput::Root(root), CopyInput::Context { root: context, rules }, CopyInput::Root(stage)]
    }

    fn run(&self, line: &str) -> Result<Vec<String>, String> {
        let op = parse(line);
        let inputs = self.inputs();
        let words = |error: &dyn std::error::Error| builder::causes(error).join(": ");
        let selection = select(&op, &inputs).map_err(|error| words(&error))?;
        copy(&op, &selection, &inputs, &self.root, &self.upper).map_err(|error| words(&error))?;
        Ok(list(&self.upper))
    }

    fn digest(&self, line: &str) -> cache::Digest {
        let op = parse(line);
        let selection = select(&op, &self.inputs()).unwrap();
        selection_digest(&selection, &self.inputs()).unwrap()
    }
}

/// Reads the words of an instruction, lowered as the frontend would: `--from` is the stage.
fn parse(line: &str) -> CopyOp {
    let mut words: Vec<&str> = line.split(' ').collect();
    let mut op = CopyOp {
        sources: Vec::new(),
        destination: String::new(),
        destination_is_dir: false,
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        unpack: Unpack::Never,
    };
    if words.remove(0) == "ADD" {
        op.unpack = Unpack::Archives;
    }
    let mut input = 1;
    while let Some(flag) = words[0].strip_prefix("--") {
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("from", _) => input = 2,
            ("chown", owner) => op.owner = Some(owner.to_owned()),
            ("chmod", mode) => {
                op.mode = Some(match u32::from_str_radix(mode, 8) {
                    Ok(mode) => CopyMode::Octal(mode),
                    Err(_) => CopyMode::Symbolic(mode.to_owned()),
                });
            }
            ("exclude", pattern) => op.exclude.push(pattern.to_owned()),
            ("parents", _) => op.parents = true,
            (other, _) => panic!("no flag {other}"),
        }
        words.remove(0);
    }
    let destination = words.pop().unwrap();
    op.destination_is_dir = destination.ends_with('/') || words.len() > 1;
    op.destination = format!("/{}", destination.trim_matches('/'));
    for word in words {
        op.sources.push(match word.strip_prefix("<<") {
            Some(name) => {
                CopySource::Inline { name: name.to_owned(), content: "inline\n".to_owned() }
            }
            None => CopySource::Path {
                input,
                path: if word == "." { String::new() } else { word.to_owned() },
                wildcard: true,
            },
        });
    }
    op
}

fn check(cases: &[(&str, Result<&[&str], &str>)]) {
    for (line, want) in cases {
        let got = Bench::new().run(line);
        let want = want.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(got, want.map_err(str::to_owned), "{line}");
    }
}

#[test]
fn where_files_go() {
    #[rustfmt::skip]
    check(&[
        ("COPY app.js /renamed",          Ok(&["0600 0:0 renamed = app"])),
        ("COPY app.js /new/dir/",         Ok(&["0755 0:0 new/", "0755 0:0 new/dir/", "0600 0:0 new/dir/app.js = app"])),
        ("COPY app.js /new/name",         Ok(&["0755 0:0 new/", "0600 0:0 new/name = app"])),
        ("COPY app.js /srv",              Ok(&["0711 5:5 srv/", "0600 0:0 srv/app.js = app"])),
        ("COPY app.js /srv/old",          Ok(&["0711 5:5 srv/", "0600 0:0 srv/old = app"])),
        ("COPY app.js run.sh /srv/",      Ok(&["0711 5:5 srv/", "0600 0:0 srv/app.js = app", "0755 0:0 srv/run.sh = run"])),
        ("COPY app.js /bin/",             Ok(&["0755 0:0 usr/", "0755 0:0 usr/bin/", "0600 0:0 usr/bin/app.js = app"])),
        ("COPY app.js /bin/tool",         Ok(&["0755 0:0 usr/", "0755 0:0 usr/bin/", "0600 0:0 usr/bin/tool = app"])),
        ("COPY app.js /dangling",         Ok(&["0755 0:0 made/", "0755 0:0 made/by/", "0600 0:0 made/by/link = app"])),
        ("COPY app.js /../../x",          Ok(&["0600 0:0 x = app"])),
        ("COPY src /new",                 Ok(&["0755 0:0 new/", "0644 0:0 new/a.js = a", "0755 0:0 new/lib/", "0644 0:0 new/lib/b.js = b", "0644 0:0 new/lib/b.txt = text", "0777 0:0 new/link -> a.js"])),
        ("COPY src/lib /srv/",            Ok(&["0711 5:5 srv/", "0644 0:0 srv/b.js = b", "0644 0:0 srv/b.txt = text"])),
        ("COPY docs /srv/lib",            Ok(&["0711 5:5 srv/", "0700 0:0 srv/lib/", "0644 0:0 srv/lib/a.md = doc", "0755 0:0 srv/lib/deep/", "0644 0:0 srv/lib/deep/b.md = doc"])),
        ("COPY many /d",                  Ok(&["0755 0:0 d/", "0644 0:0 d/one = 1", "0644 0:0 d/two = 1 (d/one)"])),
        ("COPY many/one many/two /d/",    Ok(&["0755 0:0 d/", "0644 0:0 d/one = 1", "0644 0:0 d/two = 1"])),
        ("COPY pipe /p",                  Ok(&["0700 0:0 p fifo"])),
        ("COPY <<EOF /etc/motd",          Ok(&["0755 0:0 etc/", "0644 0:0 etc/motd = inline\n"])),
        ("COPY <<one app.js <<two /d/",   Ok(&["0755 0:0 d/", "0600 0:0 d/app.js = app", "0644 0:0 d/one = inline\n", "0644 0:0 d/two = inline\n"])),
        ("COPY src /srv",                 Err("cannot replace to directory /srv/a.js with file")),
        ("COPY app.js /file/x",           Err("could not resolve the destination: `/file` is not a directory")),
        ("COPY app.js /file/",            Err("could not resolve the destination: `/file` is not a directory")),
        ("COPY src /file",                Err("cannot copy to non-directory: /file")),
        ("COPY run.sh /srv/.wh.old",      Err("`/srv/.wh.old` cannot be the destination: its name is reserved for deletions in layers")),
    ]);
}

#[test]
fn what_sources_select() {
    #[rustfmt::skip]
    check(&[
        ("COPY *.js /d/",                 Ok(&["0755 0:0 d/", "0600 0:0 d/app.js = app"])),
        ("COPY src/*/b.* /d/",            Ok(&["0755 0:0 d/", "0644 0:0 d/b.js = b", "0644 0:0 d/b.txt = text"])),
        ("COPY d?cs /d",                  Ok(&["0755 0:0 d/", "0644 0:0 d/a.md = doc", "0755 0:0 d/deep/", "0644 0:0 d/deep/b.md = doc"])),
        ("COPY [[]odd].txt /d/",          Ok(&["0755 0:0 d/", "0644 0:0 d/[odd].txt = odd"])),
        ("COPY \\[odd].txt /d/",          Ok(&["0755 0:0 d/", "0644 0:0 d/[odd].txt = odd"])),
        ("COPY no*thing /d/",             Ok(&[])),
        ("COPY to-app /d/",               Ok(&["0755 0:0 d/", "0600 0:0 d/to-app = app"])),
        ("COPY to-src/a.js /d/",          Ok(&["0755 0:0 d/", "0644 0:0 d/a.js = a"])),
        ("COPY to-src/lib /d",            Ok(&["0755 0:0 d/", "0644 0:0 d/b.js = b", "0644 0:0 d/b.txt = text"])),
        ("COPY src/link /l",              Ok(&["0644 0:0 l = a"])),
        ("COPY ignored /d",               Ok(&["0755 0:0 d/", "0644 0:0 d/kept = yes"])),
        ("COPY ign* /d/",                 Ok(&["0755 0:0 d/", "0644 0:0 d/kept = yes"])),
        ("COPY s*cret /d/",               Ok(&[])),
        ("COPY ap.js /d/",                Err("\"/ap.js\": not found (did you mean \"/app.js\"?)")),
        ("COPY src/lib/b.j /d/",          Err("\"/src/lib/b.j\": not found (did you mean \"/src/lib/b.js\"?)")),
        ("COPY nothing-like-it /d/",      Err("\"/nothing-like-it\": not found")),
        ("COPY secret /d/",               Err("\"/secret\": not found (excluded by the ignore file)")),
        ("COPY ignored/x /d/",            Err("\"/ignored/x\": not found (excluded by the ignore file)")),
        ("COPY out/passwd /d/",           Err("\"/out/passwd\": not found")),
        ("COPY out /d/",                  Err("\"/out\": not found")),
        ("COPY a[ /d/",                   Err("syntax error in pattern `a[`")),
    ]);
}

#[test]
fn flags() {
    #[rustfmt::skip]
    check(&[
        ("COPY --chown=node app.js /n/d/", Ok(&["0755 1000:1001 n/", "0755 1000:1001 n/d/", "0600 1000:1001 n/d/app.js = app"])),
        ("COPY --chown=55 many /d",        Ok(&["0755 55:55 d/", "0644 55:55 d/one = 1", "0644 55:55 d/two = 1 (d/one)"])),
        ("COPY --chown=nobody app.js /d/", Err("invalid --chown: unknown user `nobody`: no such entry in /etc/passwd of the image")),
        ("COPY --chmod=640 src/lib /d",    Ok(&["0640 0:0 d/", "0640 0:0 d/b.js = b", "0640 0:0 d/b.txt = text"])),
        ("COPY --chmod=u=rwX,go=rX src /d", Ok(&["0755 0:0 d/", "0644 0:0 d/a.js = a", "0755 0:0 d/lib/", "0644 0:0 d/lib/b.js = b", "0644 0:0 d/lib/b.txt = text", "0777 0:0 d/link -> a.js"])),
        ("COPY --chmod=4755 app.js /a",    Ok(&["4755 0:0 a = app"])),
        ("COPY --chmod=600 <<EOF /a",      Ok(&["0600 0:0 a = inline\n"])),
        ("COPY --exclude=**/*.txt src /d", Ok(&["0755 0:0 d/", "0644 0:0 d/a.js = a", "0755 0:0 d/lib/", "0644 0:0 d/lib/b.js = b", "0777 0:0 d/link -> a.js"])),
        ("COPY --exclude=lib --exclude=!lib/b.txt src /d", Ok(&["0755 0:0 d/", "0644 0:0 d/a.js = a", "0755 0:0 d/lib/", "0644 0:0 d/lib/b.txt = text", "0777 0:0 d/link -> a.js"])),
        ("COPY --exclude=* docs /d",       Ok(&["0755 0:0 d/"])),
        ("COPY --parents src/lib/b.js /d/", Ok(&["0755 0:0 d/", "0700 0:0 d/src/", "0755 0:0 d/src/lib/", "0644 0:0 d/src/lib/b.js = b"])),
        ("COPY --parents src/./lib/b.js /d/", Ok(&["0755 0:0 d/", "0755 0:0 d/lib/", "0644 0:0 d/lib/b.js = b"])),
        ("COPY --parents s*/./l*/*.txt /d/", Ok(&["0755 0:0 d/", "0755 0:0 d/lib/", "0644 0:0 d/lib/b.txt = text"])),
        ("COPY --parents **/*.md /d/",     Ok(&["0755 0:0 d/", "0755 0:0 d/docs/", "0644 0:0 d/docs/a.md = doc", "0755 0:0 d/docs/deep/", "0644 0:0 d/docs/deep/b.md = doc"])),
        ("COPY --parents docs /d/",        Ok(&["0755 0:0 d/", "0755 0:0 d/docs/", "0644 0:0 d/docs/a.md = doc", "0755 0:0 d/docs/deep/", "0644 0:0 d/docs/deep/b.md = doc"])),
        ("COPY --parents no* /d/",         Ok(&["0755 0:0 d/"])),
        ("COPY --parents src/none /d/",    Err("\"/src/none\": not found")),
    ]);
}

#[test]
fn excluded_files_named_by_a_wildcard() {
    let bench = Bench::new();
    let got = bench.run("COPY --exclude=*.js --exclude=*.tar* --exclude=pack* *.* /d/").unwrap();
    assert_eq!(got, ["0755 0:0 d/", "0644 0:0 d/[odd].txt = odd", "0755 0:0 d/run.sh = run"]);
}

#[test]
fn from_a_stage() {
    let device = rustix::fs::makedev(1, 3);
    #[rustfmt::skip]
    check(&[
        ("COPY --from=s opt /d", Ok(&[
            "0755 0:0 d/", "0777 0:0 d/self -> tool", "0750 7:8 d/tool/", "4755 7:8 d/tool/bin = tool",
            &format!("0700 0:0 d/tool/null device {device}"), "0700 0:0 d/tool/pipe fifo",
        ])),
        ("COPY --from=s opt/self/bin /b",           Ok(&["4755 7:8 b = tool"])),
        ("COPY --from=s --chown=0 opt/tool/bin /b", Ok(&["4755 0:0 b = tool"])),
    ]);
}

#[test]
fn add_unpacks_what_is_an_archive() {
    #[rustfmt::skip]
    check(&[
        ("ADD pack.tar /d/",                Ok(&["0755 0:0 d/", "0777 0:0 d/l -> x/y", "0755 0:0 d/x/", "0644 0:0 d/x/y = packed"])),
        ("ADD pack.misnamed /d",            Ok(&["0755 0:0 d/", "0777 0:0 d/l -> x/y", "0755 0:0 d/x/", "0644 0:0 d/x/y = packed"])),
        ("ADD --chown=5:6 pack.tar /srv",   Ok(&["0711 5:5 srv/", "0777 5:6 srv/l -> x/y", "0755 5:6 srv/x/", "0644 5:6 srv/x/y = packed"])),
        ("ADD app.js pack.tar /d/",         Ok(&["0755 0:0 d/", "0600 0:0 d/app.js = app", "0777 0:0 d/l -> x/y", "0755 0:0 d/x/", "0644 0:0 d/x/y = packed"])),
        ("ADD broken.tar.gz /d/",           Ok(&["0755 0:0 d/", "0644 0:0 d/broken.tar.gz = \u{1f}\u{fffd}\u{8}broken"])),
        ("ADD src/lib /d",                  Ok(&["0755 0:0 d/", "0644 0:0 d/b.js = b", "0644 0:0 d/b.txt = text"])),
        ("ADD pack.tar /file",              Err("could not resolve the destination: `/file` is not a directory")),
    ]);
    let bench = Bench::new();
    assert!(bench.run("ADD empty.tar /d/").unwrap()[1].starts_with("0644 0:0 d/empty.tar = "));
    let bench = Bench::new();
    assert!(bench.run("COPY pack.tar /d/").unwrap()[1].starts_with("0644 0:0 d/pack.tar = "));
}

#[test]
fn add_of_a_hostile_archive_stays_in_the_destination() {
    let bench = Bench::new();
    let host = tempdir().unwrap();
    let target = format!("-> {}", host.path().display());
    let context = bench.dir.path().join("context");
    fs::write(context.join("h.tar"), archive(&[("l", &target), ("l/x", "new")])).unwrap();
    bench.run("ADD h.tar /d/").unwrap();
    assert_eq!(list(host.path()), Vec::<String>::new());
    let inside = bench.upper.join("d").join(host.path().strip_prefix("/").unwrap()).join("x");
    assert_eq!(fs::read(inside).unwrap(), b"new", "an absolute link means the destination");
    fs::write(context.join("w.tar"), archive(&[(".wh.bin", "")])).unwrap();
    let error = bench.run("ADD w.tar /").unwrap_err();
    assert!(error.ends_with("`/.wh.bin` has a name that is reserved for deletions in layers"));
}

#[test]
fn a_link_in_an_archive_replaces_a_directory_of_the_base() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    let tar = archive(&[("srv", "-> usr"), ("usr", "dir"), ("file", "dir"), ("file/x", "y")]);
    fs::write(context.join("l.tar"), tar).unwrap();
    let got = bench.run("ADD l.tar /").unwrap();
    assert_eq!(
        got,
        ["0644 0:0 file/", "0644 0:0 file/x = y", "0777 0:0 srv -> usr", "0644 0:0 usr/"]
    );
}

#[test]
fn times_and_attributes_travel() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    set_xattr(&context.join("src/a.js"), "user.test", b"value");
    set_xattr(&context.join("src/lib"), "user.test", b"dir");
    bench.run("COPY src /srv/new").unwrap();
    let tree = read(&bench.upper, true);
    let time = |path: &str| tree[Path::new(path)].mtime;
    assert_eq!(time("srv/new/a.js"), Some(1_000));
    assert_eq!(time("srv/new/lib"), Some(1_000));
    assert_eq!(time("srv/new/link"), Some(1_000));
    assert_eq!(time("srv/new"), Some(1_000), "the destination takes the source's time");
    assert!(time("srv") > Some(1_600_000_000), "what was changed says so");
    assert_eq!(tree[Path::new("srv/new/a.js")].xattr.as_deref(), Some(&b"value"[..]));
    assert_eq!(tree[Path::new("srv/new/lib")].xattr.as_deref(), Some(&b"dir"[..]));
}

#[test]
fn capabilities_survive_a_copy_from_a_stage() {
    let bench = Bench::new();
    let tool = bench.dir.path().join("stage/opt/tool/bin");
    run("setcap", &["cap_net_raw+ep", tool.to_str().unwrap()], b"");
    bench.run("COPY --from=s opt/tool/bin /b").unwrap();
    let copied = bench.upper.join("b");
    let shown = run("getcap", &[copied.to_str().unwrap()], b"");
    assert!(String::from_utf8(shown).unwrap().trim_end().ends_with("cap_net_raw=ep"));
}

#[test]
fn a_context_may_not_hold_devices_or_deletions() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    make(&context, &["bad/null device"]);
    assert_eq!(
        bench.run("COPY bad /d").unwrap_err(),
        "`/bad/null` is a device, which a build context may not hold"
    );
    fs::remove_file(context.join("bad/null")).unwrap();
    make(&context, &["bad/.wh.etc = x"]);
    assert_eq!(
        bench.run("COPY bad /d").unwrap_err(),
        "`/bad/.wh.etc` cannot be copied: its name is reserved for deletions in layers"
    );
}

/// What is done to the context, and how.
type Change<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn the_key_is_the_content() {
    let line = "COPY src app.js /d/";
    let key = || Bench::new().digest(line);
    let with = |change: &dyn Fn(&Path)| {
        let bench = Bench::new();
        change(&bench.dir.path().join("context"));
        bench.digest(line)
    };
    assert_eq!(key(), key(), "the place and the inodes do not enter");
    #[rustfmt::skip]
    let same: [Change; 5] = [
        ("times",              &|context| set_times(context, 5)),
        ("owners",             &|context| std::os::unix::fs::chown(context.join("app.js"), Some(9), Some(9)).unwrap()),
        ("files beside",       &|context| fs::write(context.join("other"), "x").unwrap()),
        ("ignored files",      &|context| fs::write(context.join("secret"), "x").unwrap()),
        ("the source's mode",  &|context| make(context, &["0755 src/"])),
    ];
    for (name, change) in same {
        assert_eq!(with(change), key(), "{name} must not enter");
    }
    #[rustfmt::skip]
    let other: [Change; 8] = [
        ("content",       &|context| fs::write(context.join("src/a.js"), "A").unwrap()),
        ("a mode",        &|context| make(context, &["0640 src/a.js = a"])),
        ("a directory's mode", &|context| make(context, &["0700 src/lib/"])),
        ("a new file",    &|context| fs::write(context.join("src/new"), "").unwrap()),
        ("a name",        &|context| fs::rename(context.join("src/a.js"), context.join("src/c.js")).unwrap()),
        ("a link",        &|context| { fs::remove_file(context.join("src/link")).unwrap(); make(context, &["src/link -> b"]); }),
        ("a hard link",   &|context| { fs::remove_file(context.join("src/lib/b.js")).unwrap(); fs::write(context.join("src/a.js"), "b").unwrap(); make(context, &["src/lib/b.js links src/a.js"]); }),
        ("an attribute",  &|context| set_xattr(&context.join("src/a.js"), "user.test", b"x")),
    ];
    for (name, change) in other {
        assert_ne!(with(change), key(), "{name} must enter");
    }
}

#[test]
fn many_files_hash_alike_on_several_threads() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    for index in 0..40_u8 {
        fs::write(context.join(format!("many/{index}")), vec![index; 60_000]).unwrap();
    }
    let first = bench.digest("COPY many /d");
    for _ in 0..5 {
        assert_eq!(bench.digest("COPY many /d"), first);
    }
    fs::write(context.join("many/39"), vec![0; 60_000]).unwrap();
    assert_ne!(bench.digest("COPY many /d"), first);
}

#[test]
fn a_file_that_changes_is_noticed() {
    let bench = Bench::new();
    let op = parse("COPY app.js /d/");
    let selection = select(&op, &bench.inputs()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(bench.dir.path().join("context/app.js"), "APP").unwrap();
    let error = selection_digest(&selection, &bench.inputs()).unwrap_err();
    assert_eq!(error.to_string(), "`/app.js` changed while it was read");
    let error = copy(&op, &selection, &bench.inputs(), &bench.root, &bench.upper).unwrap_err();
    assert_eq!(error.to_string(), "`/app.js` changed while it was read");
}

#[test]
fn directories_for_workdir() {
    #[rustfmt::skip]
    let cases: [(&str, Result<bool, &str>, &[&str]); 7] = [
        ("/app/src",     Ok(true),  &["0755 0:0 app/", "0755 0:0 app/src/"]),
        ("/srv",         Ok(false), &[]),
        ("/",            Ok(false), &[]),
        ("/srv/new",     Ok(true),  &["0711 5:5 srv/", "0755 0:0 srv/new/"]),
        ("/bin/x",       Ok(true),  &["0755 0:0 usr/", "0755 0:0 usr/bin/", "0755 0:0 usr/bin/x/"]),
        ("/file",        Err("mkdir /file: not a directory"), &[]),
        ("/file/x",      Err("mkdir /file: not a directory"), &[]),
    ];
    for (path, want, tree) in cases {
        let bench = Bench::new();
        let op = MakeDirOp { path: path.to_owned(), owner: String::new() };
        let got = make_dir(&op, &bench.root, &bench.upper).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned), "{path}");
        assert_eq!(list(&bench.upper), tree, "{path}");
    }
    let bench = Bench::new();
    let op = MakeDirOp { path: "/srv/mine".to_owned(), owner: "node".to_owned() };
    make_dir(&op, &bench.root, &bench.upper).unwrap();
    assert_eq!(list(&bench.upper), ["0711 5:5 srv/", "0755 1000:1001 srv/mine/"]);
    let op = MakeDirOp { path: "/mine".to_owned(), owner: "nobody".to_owned() };
    assert!(matches!(make_dir(&op, &bench.root, &bench.upper), Err(MakeDirError::Owner(_))));
    let op = MakeDirOp { path: "/a/.wh.b".to_owned(), owner: String::new() };
    let error = make_dir(&op, &bench.root, &bench.upper).unwrap_err();
    assert!(matches!(error, MakeDirError::Reserved { .. }));
}

#[test]
fn holes_and_large_files_are_copied() {
    let bench = Bench::new();
    let file = fs::File::create(bench.dir.path().join("context/hole")).unwrap();
    file.set_len(1 << 30).unwrap();
    let op = parse("COPY hole /hole");
    let selection = select(&op, &bench.inputs()).unwrap();
    copy(&op, &selection, &bench.inputs(), &bench.root, &bench.upper).unwrap();
    let metadata = fs::metadata(bench.upper.join("hole")).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (1 << 30, 0));
}
