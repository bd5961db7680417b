//! Speed of the parser: on a file as projects have them, beside dockerfile-parser, and on hostile
//! files of the greatest size, each one shape repeated.
//!
//! `cargo bench -p frontend`, or `cargo bench -p frontend -- NAME` for some of the hostile files
//! alone; a run that misses an aim fails.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use frontend::LowerOptions;

/// The greatest file that is read, in bytes.
const LARGEST: usize = 1 << 20;

/// What any file of that size may take, to parse and to lower.
const LIMIT: Duration = Duration::from_millis(100);

/// A file as projects have them, without what dockerfile-parser refuses.
const ORDINARY: &str = r#"# The service
FROM node:20-bookworm AS build
WORKDIR /src
COPY package.json package-lock.json ./
ENV NODE_ENV=production CI="true" GREETING='hello world'
RUN apt-get update && apt-get install -y --no-install-recommends \
      ca-certificates curl git \
    # for native modules
      python3 make g++ \
 && rm -rf /var/lib/apt/lists/*
RUN npm ci --ignore-scripts
COPY . .
RUN npm run build
FROM node:20-bookworm-slim
COPY --from=build /src/dist /app
WORKDIR /app
ARG VERSION=dev
LABEL org.opencontainers.image.version=$VERSION
EXPOSE 3000
USER node
ENTRYPOINT ["node", "server.js"]
CMD ["--port", "3000"]
"#;

/// What a hostile file repeats: its name, the unit (`@` is its number), and what stands before.
const SHAPES: &[(&str, &str, &str)] = &[
    ("FROM", "FROM scratch\n", ""),
    ("named stages", "FROM scratch AS b\n", ""),
    ("stages of each other", "FROM b AS b\n", "FROM scratch AS b\n"),
    ("RUN", "RUN a\n", "FROM scratch\n"),
    ("RUN in exec form", "RUN [\"a\"]\n", "FROM scratch\n"),
    ("heredocs", "RUN <<A\nA\n", "FROM scratch\n"),
    ("heredocs on one line", "<<A ", "FROM scratch\nRUN "),
    ("open heredocs", "RUN <<A\n", "FROM scratch\n"),
    ("COPY", "COPY a b\n", "FROM scratch\n"),
    ("COPY of stages", "COPY --from=0 a b\n", "FROM scratch\nFROM scratch\n"),
    ("ADD", "ADD a b\n", "FROM scratch\n"),
    ("ENV", "ENV A=$A\n", "FROM scratch\n"),
    ("ENV, old form", "ENV A b\n", "FROM scratch\n"),
    ("one ENV", "A=$A ", "FROM scratch\nENV "),
    ("ARG", "ARG A\n", "FROM scratch\n"),
    ("global ARG", "ARG A=$A\n", ""),
    ("LABEL", "LABEL a=b\n", "FROM scratch\n"),
    ("one LABEL", "a=b ", "FROM scratch\nLABEL "),
    ("ONBUILD", "ONBUILD RUN x\n", "FROM scratch\n"),
    ("USER", "USER a\n", "FROM scratch\n"),
    ("WORKDIR", "WORKDIR a\n", "FROM scratch\n"),
    ("EXPOSE", "EXPOSE 1\n", "FROM scratch\n"),
    ("one EXPOSE", "1 ", "FROM scratch\nEXPOSE "),
    ("VOLUME", "VOLUME a\n", "FROM scratch\n"),
    ("CMD", "CMD a\n", "FROM scratch\n"),
    ("CMD in exec form", "CMD []\n", "FROM scratch\n"),
    ("SHELL", "SHELL [\"a\"]\n", "FROM scratch\n"),
    ("HEALTHCHECK", "HEALTHCHECK NONE\n", "FROM scratch\n"),
    ("STOPSIGNAL", "STOPSIGNAL 1\n", "FROM scratch\n"),
    ("MAINTAINER", "MAINTAINER a\n", "FROM scratch\n"),
    ("unknown flags", "RUN --x=1 a\n", "FROM scratch\n"),
    ("unknown flags of one RUN", "--x ", "FROM scratch\nRUN "),
    ("mounts", "RUN --mount=type=cache,target=/a a\n", "FROM scratch\n"),
    ("mounts of one RUN", "--mount=target=/a ", "FROM scratch\nRUN "),
    ("unknown instructions", "RUM a\n", "FROM scratch\n"),
    ("unknown letters", "a\n", ""),
    ("keywords alone", "RUN\n", "FROM scratch\n"),
    ("mixed case", "Run a\n", "FROM scratch\n"),
    ("brackets", "[", "FROM scratch\nRUN "),
    ("brackets of instructions", "RUN [\n", "FROM scratch\n"),
    ("nested JSON", "RUN [[]]\n", "FROM scratch\n"),
    ("a JSON array", "\"a\",", "FROM scratch\nCMD ["),
    ("braces", "${a:-", "FROM scratch\nENV a="),
    ("bad substitutions", "USER ${}\n", "FROM scratch\n"),
    ("quotes", "ENV a='b\n", "FROM scratch\n"),
    ("continuations", "x \\\n", "FROM scratch\nRUN "),
    ("empty continuations", "RUN a \\\n\n\n", "FROM scratch\n"),
    ("comments", "# a\n", "FROM scratch\n"),
    ("comments above", "#a\nRUN a\n", "FROM scratch\n"),
    ("pragmas", "# check=skip=a\nUSER a\n", "FROM scratch\n"),
    ("directives", "# escape=`\n", ""),
    ("blank lines", "\n", "FROM scratch\n"),
    ("letters", "a", "FROM scratch\nRUN "),
    ("many ENV and RUN", "ENV A@=b\nRUN a\n", "FROM scratch\n"),
    ("many ARG and RUN", "ARG A@=b\nRUN a\n", "FROM scratch\n"),
    ("many global ARG", "ARG A@=b\n", ""),
    ("many LABEL", "LABEL l@=b\n", "FROM scratch\n"),
    ("many VOLUME", "VOLUME /v@\n", "FROM scratch\n"),
    ("many EXPOSE", "EXPOSE @\n", "FROM scratch\n"),
    ("many WORKDIR", "WORKDIR /d@\nRUN a\n", "FROM scratch\n"),
    ("many unset variables", "USER $v@\n", "FROM scratch\n"),
    ("many stages that copy", "FROM scratch AS s@\nCOPY --from=a x y\n", "FROM scratch AS a\n"),
    ("a stage of many", "FROM scratch AS s@\nCOPY x y\n", "FROM scratch AS a\n"),
    ("many stages on one", "FROM a AS s@\nRUN x\n", "FROM scratch AS a\nENV B=c\n"),
];

/// Returns the best of some runs, as time on the processor: what else runs hardly matters then.
fn best(runs: usize, mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let start = on_processor();
        run();
        on_processor().saturating_sub(start)
    };
    (0..runs).map(|_| once(&mut run)).min().unwrap_or_default()
}

/// How long this thread has run: the first number of `schedstat` (proc(5)), in nanoseconds.
fn on_processor() -> Duration {
    // What is counted is brought up to date when the thread gives way.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(first.expect("a number"))
}

/// Repeats `unit` up to the greatest size; what stands on one line is continued before it is too
/// long.
fn repeated(before: &str, unit: &str) -> String {
    let count = (LARGEST - before.len()) / unit.len();
    if unit.contains('@') {
        let mut text = before.to_owned();
        for number in 1.. {
            let next = unit.replace('@', &number.to_string());
            if text.len() + next.len() > LARGEST {
                break;
            }
            text.push_str(&next);
        }
        return text;
    }
    if unit.contains('\n') {
        return before.to_owned() + &unit.repeat(count);
    }
    let line = unit.repeat((1 << 15) / unit.len()) + "\\\n";
    before.to_owned() + &line.repeat((LARGEST - before.len()) / line.len())
}

/// Lowers what has no error; no shape has another base than `scratch`.
fn lower(parsed: &frontend::Parsed) {
    let options = LowerOptions::default();
    let bases = BTreeMap::new();
    drop(black_box(frontend::lower(&parsed.dockerfile, &options, &bases)));
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn main() {
    let speed = |text: &str, took: Duration| text.len() as f64 / 1e6 / took.as_secs_f64();
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted));
    let mut missed = Vec::new();
    for &(name, unit, before) in SHAPES.iter().filter(|(name, ..)| is_wanted(name)) {
        let text = repeated(before, unit);
        let took = best(5, || drop(black_box(frontend::parse(black_box(&text)))));
        let parsed = frontend::parse(&text);
        let lowered = if parsed.has_errors() { Duration::ZERO } else { best(3, || lower(&parsed)) };
        println!("{name:>26}: parse {took:>12?}, lower {lowered:>12?}");
        if took > LIMIT {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "1 MiB must parse in under {LIMIT:?}: {missed:?}");
    if wanted.is_some() {
        return;
    }
    let large = ORDINARY.repeat(LARGEST / ORDINARY.len());
    let ours = best(15, || drop(black_box(frontend::parse(black_box(&large)))));
    let theirs =
        best(15, || drop(black_box(dockerfile_parser::Dockerfile::parse(black_box(&large)))));
    println!("ordinary, 1 MiB: {ours:?}, {:.1} MB/s", speed(&large, ours));
    println!("dockerfile-parser: {theirs:?}, {:.1} MB/s", speed(&large, theirs));
    assert!(ours < LIMIT, "1 MiB must parse in under {LIMIT:?}");
    assert!(ours * 2 < theirs, "the aim is twice the speed of dockerfile-parser");
}
