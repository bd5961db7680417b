//! A thousand edits of a context, each followed by a build: never a stale image, never a miss for
//! files that were there before.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, FileTimes, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use builder::{
    Annotations, BuildRequest, Builder, BuilderConfig, ContextInput, DockerfileInput, Events,
    Finished, RegistryConfig,
};
use frontend::RunNetwork;
use tokio_util::sync::CancellationToken;

/// Numbers that only look random (xorshift64*), so that a failure can be made again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).expect("31 bits fit") % end
    }
}

pub(crate) fn open(root: &Path) -> Builder {
    Builder::open(BuilderConfig {
        root: root.to_owned(),
        parallel_steps: NonZeroUsize::MIN,
        limits: builder::Limits::default(),
        allow: builder::Entitlements::default(),
        no_new_privs: false,
        cdi_dirs: Vec::new(),
        gc: cache::GcPolicy::default(),
        telemetry: None,
        history: builder::HistoryLimits::default(),
        registries: RegistryConfig::default(),
        cache: builder::CacheConfig::default(),
    })
    .expect("a new store opens")
}

pub(crate) fn request(context: &Path) -> BuildRequest {
    BuildRequest {
        context: ContextInput::Directory(context.to_owned()),
        named_contexts: BTreeMap::new(),
        dockerfile: DockerfileInput::Inline("FROM scratch\nCOPY . /\n".to_owned()),
        ignore_file: None,
        tags: Vec::new(),
        target: None,
        build_args: BTreeMap::new(),
        labels: BTreeMap::new(),
        more_targets: Vec::new(),
        platforms: Vec::new(),
        annotations: Annotations::default(),
        network: RunNetwork::None,
        extra_hosts: Vec::new(),
        dns: builder::Dns::default(),
        limits: builder::Limits::default(),
        allow: builder::Entitlements::default(),
        no_new_privs: false,
        secrets: builder::Secrets::new(),
        ssh: builder::SshAgents::default(),
        squash: false,
        no_cache: false,
        no_cache_filter: Vec::new(),
        cache_ttl: None,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        cache_scopes: Vec::new(),
        pull: false,
        outputs: Vec::new(),
        ca_certs: Vec::new(),
        credentials: BTreeMap::new(),
        trace_parent: None,
    }
}

fn build(runtime: &tokio::runtime::Runtime, builder: &Builder, context: &Path) -> Finished {
    let (events, mut seen) = Events::channel();
    let work = builder.build(request(context), events, CancellationToken::new());
    runtime.block_on(async {
        let drain = async { while seen.recv().await.is_some() {} };
        let (built, ()) = tokio::join!(work, drain);
        built.expect("a copy onto nothing works")
    })
}

/// All that an image can hold of a context: names, kinds, modes, contents, and which are one file.
fn state(root: &Path) -> Vec<String> {
    let mut state = Vec::new();
    let mut first_names: HashMap<u64, PathBuf> = HashMap::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name().min_depth(1) {
        let entry = entry.expect("the context can be read");
        let (path, data) = (entry.path(), entry.metadata().expect("it is there"));
        let name = path.strip_prefix(root).expect("it lies below").to_owned();
        let content = if data.is_symlink() {
            format!("-> {}", fs::read_link(path).expect("a link").display())
        } else if data.is_dir() {
            format!("dir {:o}", data.mode())
        } else {
            let first = first_names.entry(data.ino()).or_insert_with(|| name.clone());
            let content = fs::read_to_string(path).expect("it can be read");
            format!("{:o} {} {content}", data.mode(), first.display())
        };
        state.push(format!("{} {content}", name.display()));
    }
    state
}

fn set_times(path: &Path, time: SystemTime) {
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::options().write(true).open(path).expect("a file").set_times(times).expect("settable");
}

/// Changes something, or only seems to.
fn edit(random: &mut Random, dir: &Path) {
    let names = ["a", "b", "c", "sub/a", "sub/b"];
    let (one, two) = (dir.join(names[random.below(5)]), dir.join(names[random.below(5)]));
    let text = ["one", "two", "six"][random.below(3)];
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|data| data.is_file());
    match random.below(14) {
        0 | 1 if is_file(&one) => fs::write(&one, text).expect("writable"),
        // Same size, times set back: `touch -r`.
        2 | 3 if is_file(&one) => {
            let before = fs::metadata(&one).expect("it is there").modified().expect("it has one");
            fs::write(&one, text).expect("writable");
            set_times(&one, before);
        }
        // A clock that was set back, or ahead.
        4 if is_file(&one) => {
            fs::write(&one, text).expect("writable");
            set_times(&one, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        }
        5 if is_file(&one) => set_times(&one, SystemTime::now() + Duration::from_secs(3600)),
        6 if is_file(&one) && is_file(&two) && one != two => {
            let aside = dir.join("aside");
            fs::rename(&one, &aside).expect("it is there");
            fs::rename(&two, &one).expect("it is there");
            fs::rename(&aside, &two).expect("it is there");
        }
        7 if is_file(&one) && one != two => {
            drop(fs::remove_file(&two));
            fs::hard_link(&one, &two).expect("the same file system");
        }
        8 if is_file(&one) => {
            let mode = [0o644, 0o600, 0o755][random.below(3)];
            fs::set_permissions(&one, Permissions::from_mode(mode)).expect("ours");
        }
        9 => {
            drop(fs::remove_file(&one));
            symlink(["a", "b"][random.below(2)], &one).expect("nothing is there");
        }
        10 => drop(fs::remove_file(&one)),
        // Owners of a context count for nothing.
        11 if is_file(&one) => drop(chown(&one, Some(1234), Some(1234))),
        // A file in the place of another, as editors save.
        12 => {
            let new = dir.join("new");
            fs::write(&new, text).expect("writable");
            fs::rename(&new, &one).expect("the same file system");
        }
        // Written through a second name outside of the context.
        13 if is_file(&one) => {
            let outside = dir.with_extension("outside");
            fs::hard_link(&one, &outside).expect("the same file system");
            fs::write(&outside, text).expect("writable");
            fs::remove_file(&outside).expect("it is there");
        }
        _ => {
            drop(fs::remove_file(&one));
            fs::write(&one, text).expect("writable");
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new place");
    let done = std::process::Command::new("cp")
        .arg("-R")
        .arg("-d")
        .arg("--preserve=mode,links")
        .arg(format!("{}/.", from.display()))
        .arg(to)
        .status()
        .expect("cp is there");
    assert!(done.success());
}

#[test]
fn edits_are_seen_and_seeming_edits_are_not() {
    // Every build ends with a flush, which costs nothing in memory.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let scratch = tempfile::tempdir_in(place).expect("room for a test");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads");
    let builder = open(&scratch.path().join("store"));
    let dir = scratch.path().join("context");
    fs::create_dir_all(dir.join("sub")).expect("writable");
    for name in ["a", "b", "c", "sub/a", "sub/b"] {
        fs::write(dir.join(name), "one").expect("writable");
    }
    let mut random = Random(0x00c0_ffee);
    let mut known: HashMap<Vec<String>, String> = HashMap::new();
    let mut states_of: HashMap<String, Vec<String>> = HashMap::new();
    let (mut hits, mut misses) = (0, 0);
    for round in 0..1000 {
        for _ in 0..random.below(3) {
            edit(&mut random, &dir);
        }
        // Now and then what was read may settle, so that not all is read again.
        if round % 50 == 0 {
            std::thread::sleep(Duration::from_millis(60));
        }
        // Now and then from a fresh copy at another place.
        let elsewhere = scratch.path().join(format!("clone-{round}"));
        let context = if round % 20 == 19 {
            copy_tree(&dir, &elsewhere);
            &elsewhere
        } else {
            &dir
        };
        let state = state(context);
        let built = build(&runtime, &builder, context);
        if let Some(image) = known.get(&state) {
            assert_eq!(built.cached, (1, 1), "round {round}: a needless miss for {state:#?}");
            assert_eq!(*image, built.image_id, "round {round}: another image of {state:#?}");
            hits += 1;
        } else {
            assert_eq!(built.cached, (0, 1), "round {round}: a stale hit for {state:#?}");
            if let Some(other) = states_of.get(&built.image_id) {
                panic!("round {round}: {state:#?} got the image of {other:#?}");
            }
            misses += 1;
        }
        states_of.insert(built.image_id.clone(), state.clone());
        known.insert(state, built.image_id);
        drop(fs::remove_dir_all(&elsewhere));
    }
    assert!(hits > 100 && misses > 100, "{hits} hits and {misses} misses show nothing");
}
