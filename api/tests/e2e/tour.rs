//! The docker command line's tour of `rbuild serve` beside the same tour of Docker's daemon: the
//! same exit codes, and the same text but for what [`ROWS`] says is meant to differ.
//!
//! Both sides' transcript is left as `tour.txt` among the tests' big files.

use std::fmt::Write as _;
use std::path::Path;

use crate::docker::start_dockerd;
use crate::engine::{docker, engine};
use crate::support::{Ran, bases, docker_registry, guarded_registry, rbuild, run, scratch};

/// How the two sides compare. The reason stands where they are meant to differ.
#[derive(Clone, Copy)]
enum Want {
    Same,
    /// The same lines, which the daemon has in no order.
    SameLines,
    /// The exit code is the same and the text is not.
    Words(&'static str),
    /// The daemon can do it and rbuild refuses.
    Refused(&'static str),
}

use Want::{Refused, Same, SameLines, Words};

const EARLY: &str = "faults are found before anything runs, and told with their place";
const SWARM: &str = "rbuild says that it has no swarms, the daemon how to get one";
const LIST: &str = "rbuild names the parameter that it refuses";

/// What is run, in this order. `CTX` is the context, `DIR` a directory of each side, `REG` a
/// registry, `SHUT` one that wants a password.
#[rustfmt::skip]
const ROWS: &[(&str, Want)] = &[
    ("build CTX", Same),
    ("build CTX", Same),
    ("build -t tour:first --target first CTX", Same),
    ("build -t tour:1 --build-arg WHO=me CTX",
        Words("a COPY is found again although what lies below it has changed")),
    ("build -t tour:l --label a=b CTX", Words("a label of the command line is no step of the file")),
    ("build --build-arg UNUSED=1 CTX", Words("an unused argument is told first, with its place")),
    ("build -q -t tour:q CTX", Same),
    ("build --no-cache -t tour:2 -t tour:3 CTX", Same),
    ("build --iidfile DIR/iid CTX", Same),
    ("build -f CTX/many -t tour:many CTX", Same),
    ("build -f CTX/fails CTX", Same),
    ("build -f CTX/fails-list CTX", Same),
    ("build -q -f CTX/fails CTX", Words("a quiet build that fails tells its last lines alone")),
    ("build --target none CTX", Words(EARLY)),
    ("build -f CTX/faulty CTX", Words(EARLY)),
    ("build -f CTX/empty CTX", Words(EARLY)),
    ("build -f CTX/absent-file CTX", Words(EARLY)),
    ("build -f CTX/absent-base CTX", Words(EARLY)),
    ("build -f CTX/missing CTX", Same),
    ("build CTX/nowhere", Same),
    ("build -t BAD CTX", Same),
    ("build --squash CTX", Same),
    ("build --memory 500m --ulimit nofile=1000:2000 --add-host a:1.2.3.4 --shm-size 64m -f CTX/fails CTX", Same),
    ("build --platform linux/amd64 -f CTX/fails CTX", Same),
    ("build --platform bad/arch/x/y CTX", Words(LIST)),

    ("images", Same),
    ("images tour", Same),
    ("images -q tour:1", Same),
    ("images --format {{.Repository}}:{{.Tag}}", Same),
    ("images --filter label=of=tour --format {{.Tag}}", Same),
    ("images --filter reference=tour:* --format {{.Tag}}", Same),
    ("images --filter since=busybox --format {{.Tag}}", Same),
    ("images --filter bad=1", Words(LIST)),
    ("images -a", Words("there are no images of single steps")),
    ("images --digests busybox", Words("a loaded image has a digest")),

    ("history tour:1", Words("rbuild writes history as BuildKit does")),
    ("history none:1", Same),
    ("history none", Same),
    ("inspect -f {{.Config.Labels}} tour:1", Same),
    ("inspect -f {{json_.Config.Cmd}} tour:1", Same),
    ("inspect -f {{.Os}}/{{.Architecture}} tour:1", Same),
    ("inspect -f {{.Nope}} tour:1", Same),
    ("inspect tour:1", Words("the answer has the form of a newer API, without `Container`")),
    ("inspect nothing", Same),
    ("image inspect nothing", Words("this old daemon says it twice")),
    ("inspect --type container nothing", Same),

    ("tag tour:1 other/tour:3", Same),
    ("tag nothing:1 x:1", Same),
    ("tag tour:1 BAD", Same),
    ("save -o DIR/saved.tar tour:1 tour:2", Same),
    ("save -o DIR/nothing.tar nothing:1", Words("rbuild says which image is not here")),
    ("rmi other/tour:3", Same),
    ("rmi nothing", Same),
    ("rmi tour:1 tour:2 tour:3", Words("there are no images of single steps to delete")),
    ("load -i DIR/saved.tar", SameLines),
    ("load -i CTX/a", Words("rbuild tells what is wrong with the archive")),
    ("import CTX/a x:1", Words("rbuild tells what is wrong with the archive")),

    ("tag tour:1 REG/tour:1", Same),
    ("tag tour:2 REG/tour:2", Same),
    ("push REG/tour:1", Same),
    ("push REG/tour:1", Same),
    ("push REG/none:1", Same),
    ("push -a REG/tour", Same),
    ("rmi tour:1 tour:2", Same),
    ("rmi -f REG/tour:1 REG/tour:2", Same),
    ("pull REG/tour:1", Same),
    ("pull REG/tour:1", Same),
    ("pull -q REG/tour:1", Same),
    ("pull -a REG/tour", Words("all tags are told before the first layer moves")),
    ("images REG/tour --format {{.Tag}}", Same),
    ("pull REG/tour:none", Words("rbuild tells the registry's own words")),
    ("pull -a REG/nothing", Words("rbuild tells the registry's own words")),
    ("pull BAD", Same),

    ("login -u me -p bad SHUT", Words("rbuild tells the registry's own words")),
    ("push SHUT/tour:1", Same),
    ("login -u me -p right SHUT", Same),
    ("logout SHUT", Same),

    ("system df --format {{.Type}}", Same),
    ("system df", Words("steps are kept in the build cache, not as images")),
    ("ps", Same),
    ("ps -q", Same),
    ("container ls", Same),
    ("container inspect nothing", Same),
    ("rm nothing", Same),
    ("logs nothing", Same),
    ("volume ls", Same),
    ("volume inspect nothing", Same),
    ("network inspect nothing", Same),
    ("plugin ls", Same),
    ("node ls", Words(SWARM)),
    ("service ls", Words(SWARM)),
    ("stack ls", Words(SWARM)),
    ("secret ls", Words(SWARM)),
    ("container start nothing", Same),
    ("container stop nothing", Same),
    ("network rm nothing", Same),
    ("volume rm nothing", Same),
    ("network create net", Refused("rbuild has no networks")),
    ("volume create vol", Refused("rbuild has no volumes")),
    ("version --format {{.Server.Experimental}}", Same),
    ("version --format {{.Server.Os}}/{{.Server.Arch}}", Same),
    ("info --format {{.OSType}}/{{.Architecture}}/{{.Swarm.LocalNodeState}}", Same),
    ("run --rm --network none busybox true", Refused("rbuild runs no containers")),
    ("build -f CTX/fails-shell CTX", Same),
    ("container prune -f", Words("a failed RUN leaves no container behind")),
    ("image prune -f", Words("there are no images of single steps to delete")),
    ("builder prune -f", Same),
    ("builder prune -a -f", Same),
];

/// Files of the context.
const FILES: [(&str, &str); 10] = [
    (
        "Dockerfile",
        "FROM busybox AS first\nARG WHO=nobody\nLABEL of=tour\nRUN echo hello $WHO\n\
         FROM first AS second\nCOPY a /\nENV A=b\nCMD [\"sh\"]\n",
    ),
    ("a", "a\n"),
    ("empty", ""),
    (
        "many",
        "FROM busybox\nWORKDIR /x\nUSER 1000\nEXPOSE 80\nVOLUME /v\nENTRYPOINT [\"a\"]\n\
         HEALTHCHECK CMD true\nSTOPSIGNAL 9\nONBUILD RUN true\nSHELL [\"/bin/sh\",\"-c\"]\n\
         RUN echo err >&2\n",
    ),
    ("fails", "FROM busybox\nRUN echo told; exit 3\n"),
    ("fails-list", "FROM busybox\nRUN [\"sh\", \"-c\", \"exit 4\"]\n"),
    ("fails-shell", "FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false\n"),
    ("faulty", "FROM busybox\nRUM true\n"),
    ("absent-file", "FROM busybox\nCOPY nothere /\n"),
    ("absent-base", "FROM 127.0.0.1:9/none:1\n"),
];

/// One engine, with what the other one has too.
struct Side {
    url: String,
    /// What the names in [`ROWS`] stand for; `DIR` first.
    places: Vec<(&'static str, String)>,
}

impl Side {
    fn run(&self, line: &str) -> Ran {
        let places = &self.places;
        let line = places.iter().fold(line.to_owned(), |it, (name, place)| it.replace(name, place));
        // A blank within an argument is written `_` before a dot.
        let args: Vec<String> = line.split(' ').map(|word| word.replace("_.", " .")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = run(&mut docker(&self.url, Path::new(&places[0].1), &args));
        let normal = |text: &str| normal(text, places, args[0]);
        Ran { stdout: normal(&ran.stdout), stderr: normal(&ran.stderr), code: ran.code }
    }
}

/// Replaces what must differ between two engines: ids, sizes, moments, and the names of places.
/// Dropped are the rows of layers under way, which depend on what each has; the containers that the
/// daemon makes for every instruction and rbuild for RUN alone; and what the client says about its
/// own old builder.
fn normal(text: &str, places: &[(&str, String)], verb: &str) -> String {
    let mut text =
        places.iter().fold(text.to_owned(), |text, (name, place)| text.replace(place, name));
    let replaced = [
        (r"\b[0-9a-f]{64}\b", "LONG"),
        (r"\b[0-9a-f]{12}\b", "SHORT"),
        (r"\b[0-9.]+ ?[kMG]?B\b", "SIZE"),
        (r"size: \d+", "size: SIZE"),
        (r"(\d+ \w+|About an? \w+|Less than a second) ago", "AGO"),
        (r" {2,}", "  "),
    ];
    for (pattern, with) in replaced {
        let pattern = regex::Regex::new(pattern).expect("the pattern is one");
        text = pattern.replace_all(&text, with).into_owned();
    }
    let is_dropped = |line: &str| {
        line.starts_with("SHORT: ")
            || line.starts_with(" ---> Running in ")
            || line.starts_with("Removing intermediate container ")
            || line.starts_with("Untagged: ") && line.contains("@sha256:")
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_dropped(line)).collect();
    if verb == "images" {
        // Images of one second have no order.
        lines.sort_unstable();
    }
    lines.join("\n")
}

fn transcript(text: &mut String, row: &str, sides: [&Ran; 2]) {
    for (name, ran) in ["dockerd", "rbuild"].iter().zip(sides) {
        let code = ran.code.unwrap_or(-1);
        writeln!(text, "$ docker {row}\n[{name}: {code}]\n{}\n{}\n", ran.stdout, ran.stderr)
            .expect("writing to a string works");
    }
}

#[test]
fn the_tour_is_that_of_dockers_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, ours) = engine(dir.path());
    // The bridge and the firewall belong to the other tests' daemon; squashing is an experiment.
    let options = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--experimental"];
    let theirs = start_dockerd(&options);
    let context = dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    for (name, text) in FILES {
        std::fs::write(context.join(name), text).unwrap();
    }
    let (_shut, shut, _dirs) = guarded_registry("me", "right");
    let mut registries = Vec::new();
    let [theirs, ours] = [("theirs", theirs), ("ours", ours)].map(|(name, url)| {
        let (server, port, data) = docker_registry();
        registries.push((server, data));
        let own = dir.path().join(name);
        std::fs::create_dir(&own).unwrap();
        let places = vec![
            ("DIR", own.display().to_string()),
            ("CTX", context.display().to_string()),
            ("REG", format!("127.0.0.1:{port}")),
            ("SHUT", format!("127.0.0.1:{shut}")),
        ];
        Side { url, places }
    });
    let busybox = dir.path().join("busybox.tar");
    run(rbuild(bases(), &["save", "busybox", "-o"]).arg(&busybox)).ok();
    run(docker(&theirs.url, dir.path(), &["load", "-i"]).arg(&busybox)).ok();

    let (mut told, mut faults) = (String::new(), String::new());
    for &(row, want) in ROWS {
        let (a, b) = (theirs.run(row), ours.run(row));
        transcript(&mut told, row, [&a, &b]);
        let is_code = a.code == b.code;
        let is_text = (&a.stdout, &a.stderr) == (&b.stdout, &b.stderr);
        let is_wanted = match want {
            Same => is_code && is_text,
            SameLines => is_code && sorted(&a.stdout) == sorted(&b.stdout) && a.stderr == b.stderr,
            Words(_) => is_code && !is_text,
            Refused(_) => a.code == Some(0) && b.code != Some(0),
        };
        if !is_wanted {
            if let Words(why) | Refused(why) = want {
                writeln!(faults, "this should differ, as {why}:").unwrap();
            }
            transcript(&mut faults, row, [&a, &b]);
        }
    }
    std::fs::write(scratch().join("tour.txt"), told).unwrap();
    assert!(faults.is_empty(), "not as in Docker:\n{faults}");
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}
