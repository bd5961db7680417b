//! Mutated files against the parser, the words and the ignore rules, for as long as asked.
//!
//! `RBUILD_FUZZ_SECONDS` (default: 2) for each target, `RBUILD_FUZZ_SEED` to repeat a run. A target
//! that fails prints its input. cargo-fuzz needs a nightly compiler; this runs on every one.

#![expect(clippy::print_stderr, reason = "the input at fault, and how far a run came")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use frontend::{IgnoreRules, LowerOptions};

/// Pieces that parsers stumble over.
const PIECES: [&str; 40] = [
    "\\\n",
    "\\",
    "\"",
    "'",
    "`",
    "$",
    "${",
    "}",
    ":-",
    "##",
    "/",
    "//",
    "<<EOF",
    "<<-'E'",
    "EOF\n",
    "\n",
    "\r\n",
    "#",
    "# escape=`\n",
    "# check=skip=all\n",
    "[",
    "]",
    "[\"a\",",
    "=",
    " ",
    "\t",
    "FROM a AS b\n",
    "RUN ",
    "ONBUILD ",
    "COPY --from=b ",
    "--mount=type=cache,",
    "ENV ",
    "ARG ",
    "HEALTHCHECK ",
    "\u{feff}",
    "é",
    "\u{2028}",
    "**",
    "!",
    "\0",
];

/// Xorshift (Marsaglia): good enough to stumble about.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap_or_default()
    }

    fn place(&mut self, text: &str) -> usize {
        let mut at = self.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }

    /// Cuts, doubles, splices and sprinkles.
    fn mutate(&mut self, corpus: &[String]) -> String {
        let mut text = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(8) {
            let (a, b) = (self.place(&text), self.place(&text));
            let (from, to) = (a.min(b), a.max(b));
            match self.below(5) {
                0 => text.replace_range(from..to, ""),
                1 => {
                    let copy = text[from..to].to_owned();
                    text.insert_str(b, &copy);
                }
                2 => {
                    let other = &corpus[self.below(corpus.len())];
                    let (c, d) = (self.place(other), self.place(other));
                    text.insert_str(a, &other[c.min(d)..c.max(d)]);
                }
                _ => text.insert_str(a, PIECES[self.below(PIECES.len())]),
            }
            if text.len() > 1 << 14 {
                let end = self.place(&text[..1 << 13]);
                text.truncate(end);
            }
        }
        text
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs `target` on mutated inputs until its time is up; each input has a deadline, too.
fn fuzz(name: &str, corpus: &[String], target: impl Fn(&str)) {
    let time = Duration::from_secs(number("RBUILD_FUZZ_SECONDS", 2));
    let seed = number("RBUILD_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15).max(1);
    let mut random = Random(seed);
    let start = Instant::now();
    let mut runs = 0_u64;
    while start.elapsed() < time {
        let input = random.mutate(corpus);
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| target(&input)));
        if let Err(panic) = result {
            eprintln!("{name}, seed {seed}, run {runs}: fails on {input:?}");
            resume_unwind(panic);
        }
        // Unoptimised and beside other tests: still far beyond what 16 KiB may take.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{name}: {took:?} on {input:?}");
        runs += 1;
    }
    assert!(runs > 10, "{name}: only {runs} runs");
    eprintln!("{name}: {runs} runs, seed {seed}");
}

fn dockerfiles() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile");
    let dirs = ["ok", "err"].map(|kind| fs::read_dir(root.join(kind)).expect("the goldens"));
    let paths = dirs.into_iter().flatten().map(|entry| entry.expect("a readable entry").path());
    let files = paths.filter(|path| path.extension().is_some_and(|it| it == "Dockerfile"));
    files.map(|path| fs::read_to_string(path).expect("UTF-8")).collect()
}

#[test]
fn parser() {
    fuzz("parser", &dockerfiles(), |source| {
        let parsed = frontend::parse(source);
        for found in &parsed.diagnostics {
            assert!(source.get(found.span.start..found.span.end).is_some(), "{found:?}");
        }
        drop(frontend::dump_ast(source));
        if let Ok(formatted) = frontend::format(source) {
            let again = frontend::format(&formatted);
            assert_eq!(again.as_ref(), Ok(&formatted), "laid out twice");
        }
        if !parsed.has_errors() {
            drop(frontend::base_images(&parsed.dockerfile, &LowerOptions::default()));
        }
    });
}

#[test]
fn words() {
    let corpus = ["a $B ${C:-d} 'e' \"f\\\"\" ${B##*x} ${B//a/b} \\$", "${A:?${B}}", "a\\ b"];
    let env = ["A=".to_owned(), "B=a b".to_owned()];
    fuzz("words", &corpus.map(str::to_owned), |text| {
        let whole = frontend::process_word(text, &env);
        let words = frontend::process_words(text, &env);
        assert_eq!(whole.is_ok(), words.is_ok());
        if let Err(error) = whole {
            assert!(text.get(error.range.clone()).is_some(), "{error:?}");
        }
    });
}

#[test]
fn ignore_patterns() {
    let corpus = ["*\n!a/**/b\n# c\n", "**/x[a-z]?\\*\n", "/a/../b//c/.\n! d \n", "a\nb\n"];
    fuzz("ignore patterns", &corpus.map(str::to_owned), |text| {
        let Ok(rules) = IgnoreRules::parse(text) else { return };
        for path in ["a", "a/b", "a/b/c.txt", "./x", "", "é/\u{2028}"] {
            // A walk must enter every directory above a path that is kept.
            if !rules.is_excluded(path, false) {
                for (at, _) in path.match_indices('/').filter(|&(at, _)| at > 1) {
                    assert!(rules.may_descend(&path[..at]), "{} hides {path}", &path[..at]);
                }
            }
        }
    });
}
