//! One group: every case built by all, the outcomes held against what the cases say.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::archive::Image;
use crate::case::{self, Case, Relation};
use crate::compare;
use crate::peers::{Outcome, Peer, World};

/// Cases of a group that build at once; groups run beside each other as well.
const AT_ONCE: usize = 2;

/// A failure shows no more than this of what a builder said, in bytes.
const SAID_LIMIT: usize = 2000;

/// Names one case only: `copy/a-directory`, or the beginning of such names.
const FILTER: &str = "DIFFERENTIAL";

/// What all builders made of one case.
type Outcomes = Vec<(Peer, Outcome)>;

/// Agreements and comparisons with one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    good: usize,
    all: usize,
}

impl Count {
    fn add(&mut self, is_good: bool) {
        self.all += 1;
        self.good += usize::from(is_good);
    }
}

/// Checks all cases of a group and panics with every deviation.
pub(crate) fn check(group: &str) {
    let filter = std::env::var(FILTER).unwrap_or_default();
    let mut cases = case::load(group);
    cases.retain(|case| format!("{group}/{}", case.name).starts_with(&filter));
    if cases.is_empty() {
        return;
    }
    let world = World::get();
    let dir = world.directory(group);
    let outcomes = build_all(world, group, &dir, &cases);
    let images = save_all(world, group, &dir, &cases, &outcomes);
    let mut failures = String::new();
    let mut stated = Count::default();
    let mut counts =
        BTreeMap::from([("buildkit", Count::default()), ("classic", Count::default())]);
    for (case, outcomes) in cases.iter().zip(&outcomes) {
        let ours = images.get(&(Peer::Rbuild, case.name.clone()));
        let fault = check_stated(case, &outcomes[0].1, ours, &world.base);
        if case.is_stated() {
            stated.add(fault.is_empty());
        }
        report(&mut failures, group, case, "rbuild", &fault);
        for (peer, outcome) in &outcomes[1..] {
            let theirs = images.get(&(*peer, case.name.clone()));
            let fault =
                check_peer(relation(case, *peer), *peer, (&outcomes[0].1, ours), (outcome, theirs));
            let name = peer_name(*peer);
            counts.entry(name).or_default().add(fault.is_empty());
            report(&mut failures, group, case, name, &fault);
        }
    }
    let mut line = format!("{group}: {} cases", cases.len());
    for (name, Count { good, all }) in counts.into_iter().chain([("stated", stated)]) {
        write!(line, ", {name} {good}/{all}").expect("a string takes all");
    }
    // Not `println!`: the line is shown although the test passes. A closed stream is no failure.
    drop(writeln!(std::io::stderr(), "{line}"));
    assert!(failures.is_empty(), "{line}\n{failures}");
}

fn report(failures: &mut String, group: &str, case: &Case, peer: &str, fault: &str) {
    if !fault.is_empty() {
        write!(failures, "\n{group}/{}: {peer}: {fault}", case.name).expect("a string takes all");
    }
}

fn peer_name(peer: Peer) -> &'static str {
    match peer {
        Peer::Rbuild => "rbuild",
        Peer::Buildkit => "buildkit",
        Peer::Classic => "classic",
        Peer::Buildah => "buildah",
    }
}

fn relation(case: &Case, peer: Peer) -> &Relation {
    match peer {
        Peer::Rbuild => &Relation::Same,
        Peer::Buildkit => &case.buildkit,
        Peer::Classic => &case.classic,
        Peer::Buildah => &case.buildah,
    }
}

/// Builds every case by every builder that it asks for; rbuild's outcome comes first.
fn build_all(world: &World, group: &str, dir: &Path, cases: &[Case]) -> Vec<Outcomes> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    let outcomes = build(world, group, dir, case);
                    done.lock().expect("no builder panics").insert(index, outcomes);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no builder panics");
    (0..cases.len()).map(|index| done.remove(&index).expect("every case was built")).collect()
}

fn build(world: &World, group: &str, dir: &Path, case: &Case) -> Outcomes {
    let context = context(dir, case);
    [Peer::Rbuild, Peer::Buildkit, Peer::Classic, Peer::Buildah]
        .into_iter()
        .filter(|peer| *relation(case, *peer) != Relation::Skipped)
        .map(|peer| (peer, world.build(peer, &case.args, &context, &tag(group, case, peer))))
        .collect()
}

fn tag(group: &str, case: &Case, peer: Peer) -> String {
    format!("{}/{}:{}", group.replace('_', "-"), case.name, peer_name(peer))
}

/// Writes the case's context.
fn context(dir: &Path, case: &Case) -> PathBuf {
    let context = dir.join(&case.name);
    std::fs::create_dir_all(&context).expect("writable");
    for (path, text) in &case.files {
        let path = context.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a parent")).expect("writable");
        std::fs::write(path, text).expect("writable");
    }
    for line in &case.setup {
        let mut shell = Command::new("sh");
        let status = shell.args(["-euc", line]).current_dir(&context).status();
        assert!(status.is_ok_and(|status| status.success()), "{}: setup `{line}`", case.name);
    }
    context
}

/// Reads all images that were built.
fn save_all(
    world: &World,
    group: &str,
    dir: &Path,
    cases: &[Case],
    outcomes: &[Outcomes],
) -> HashMap<(Peer, String), Image> {
    let mut all = HashMap::new();
    for peer in [Peer::Rbuild, Peer::Buildkit, Peer::Classic, Peer::Buildah] {
        let is_built = |outcomes: &Outcomes| {
            outcomes.iter().any(|(p, outcome)| *p == peer && matches!(outcome, Outcome::Built))
        };
        let built: Vec<&Case> = cases
            .iter()
            .zip(outcomes)
            .filter(|(_, outcomes)| is_built(outcomes))
            .map(|(case, _)| case)
            .collect();
        let tags: Vec<String> = built.iter().map(|case| tag(group, case, peer)).collect();
        let path = dir.join(format!("{}.tar", peer_name(peer)));
        let mut images = world.save(peer, &tags, &path);
        for (case, tag) in built.into_iter().zip(tags) {
            let image = images.remove(&tag).unwrap_or_else(|| panic!("{tag} was not saved"));
            all.insert((peer, case.name.clone()), image);
        }
    }
    all
}

/// Holds rbuild's own outcome against what the case states.
fn check_stated(
    case: &Case,
    outcome: &Outcome,
    image: Option<&Image>,
    base: &BTreeMap<String, String>,
) -> String {
    match (outcome, image) {
        (Outcome::Failed(said), _) => {
            if !case.fails {
                return format!("it should build\n{}", tail(said));
            }
            let missing = case.says.iter().filter(|text| !said.contains(*text));
            missing
                .map(|text| format!("`{text}` was not said in\n{}", tail(said)))
                .collect::<Vec<_>>()
                .concat()
        }
        (Outcome::Built, _) if case.fails => "it should not build\n".to_owned(),
        (Outcome::Built, Some(image)) => {
            let unmet = compare::unmet(&case.want, image, base);
            if unmet.is_empty() { unmet } else { format!("it is not what is stated\n{unmet}") }
        }
        (Outcome::Built, None) => "it was not saved\n".to_owned(),
    }
}

/// Holds a peer's outcome against rbuild's and the relation that the case gives.
fn check_peer(
    relation: &Relation,
    peer: Peer,
    (our_outcome, ours): (&Outcome, Option<&Image>),
    (their_outcome, theirs): (&Outcome, Option<&Image>),
) -> String {
    use Outcome::{Built, Failed};
    match (relation, our_outcome, their_outcome) {
        (Relation::Refuses, Built, Failed(_))
        | (Relation::Accepts, Failed(_), Built)
        | (Relation::Same, Failed(_), Failed(_))
        | (Relation::Skipped, ..) => String::new(),
        (Relation::Same | Relation::Differs(_), Built, Built) => {
            let (Some(ours), Some(theirs)) = (ours, theirs) else {
                return "an image is missing\n".to_owned();
            };
            let mut found = compare::differences(ours, theirs, peer);
            let mut fault = String::new();
            if let Relation::Differs(parts) = relation {
                for part in parts {
                    if found.remove(part).is_none() {
                        writeln!(fault, "it no longer differs in {part:?}")
                            .expect("a string takes all");
                    }
                }
            }
            for (part, text) in found {
                write!(fault, "it differs in {part:?}\n{text}").expect("a string takes all");
            }
            fault
        }
        (_, _, Failed(said)) => format!("the peer does not build it\n{}", tail(said)),
        (_, Failed(_), Built) => "the peer builds it\n".to_owned(),
        (_, Built, Built) => "both build it\n".to_owned(),
    }
}

/// The end of what was said.
fn tail(said: &str) -> &str {
    let start = said.len().saturating_sub(SAID_LIMIT);
    let start = (start..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(said.len());
    &said[start..]
}
