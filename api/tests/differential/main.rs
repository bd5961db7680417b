//! Every Dockerfile under `testdata/differential` is built by rbuild and by its peers: docker's
//! BuildKit, docker's classic builder and, where a case asks for it, buildah. Their images must
//! have the same config, the same history and the same files.
//!
//! One file holds the cases of one group; `case` tells its format. Where the peers disagree,
//! BuildKit is right. Where rbuild differs from a peer the case says in what and why, and the test
//! fails when that difference is gone. What no peer here can build has its expectation stated.
//!
//! Needs root, dockerd, docker and buildah; `testdata/test.sh` installs them.

mod archive;
mod case;
mod compare;
mod daemon;
mod group;
mod peers;
mod tree;

use std::collections::BTreeSet;

/// One test a group, so that failures name their file.
macro_rules! groups {
    ($($name:ident),* $(,)?) => {
        const GROUPS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                group::check(stringify!($name));
            }
        )*
    };
}

groups!(
    add,
    arg,
    cmd,
    copy,
    directives,
    dockerignore,
    entrypoint,
    env,
    expose,
    from,
    healthcheck,
    heredoc,
    label,
    lines,
    maintainer,
    must_fail,
    onbuild,
    run,
    shell,
    stages,
    stopsignal,
    user,
    volume,
    workdir,
);

#[test]
fn every_group_is_tested() {
    let files = case::groups();
    let tested: BTreeSet<String> = GROUPS.iter().map(ToString::to_string).collect();
    assert_eq!(files, tested, "the files of cases and the list of groups");
    let cases: usize = files.iter().map(|group| case::load(group).len()).sum();
    assert!(cases >= 250, "only {cases} cases");
}
