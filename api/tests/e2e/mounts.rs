//! Mounts of RUN where several processes are at them.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::explain::busybox_store;
use crate::support::{Ran, context, rbuild};

/// Builds each Dockerfile in a process of its own, all at once.
fn build_all(store: &Path, dockerfiles: &[String]) -> Vec<Ran> {
    let dirs: Vec<_> = dockerfiles.iter().map(|text| context(&[("Dockerfile", text)])).collect();
    let start = |dir: &tempfile::TempDir| -> Child {
        let mut build = rbuild(store, &["--progress", "plain", "--network", "none"]);
        build.arg(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        build.spawn().expect("rbuild starts")
    };
    let children: Vec<Child> = dirs.iter().map(start).collect();
    let wait = |child: Child| Ran::from(child.wait_with_output().expect("it ends"));
    children.into_iter().map(wait).collect()
}

#[test]
fn locks_of_cache_mounts_hold_across_processes() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    // Whoever comes while another is inside fails.
    let step = |sharing: &str, number: usize| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,id=m-{sharing},target=/m,sharing={sharing} \
             : {number}; mkdir /m/inside && sleep 0.2 && rmdir /m/inside && echo x >> /m/done\n"
        )
    };
    for sharing in ["locked", "private"] {
        let dockerfiles: Vec<String> = (0..4).map(|number| step(sharing, number)).collect();
        for ran in build_all(&store, &dockerfiles) {
            ran.ok();
        }
    }
    let count = "FROM busybox\nRUN --mount=type=cache,id=m-locked,target=/m echo $(wc -l < /m/done) took it\n";
    build_all(&store, &[count.to_owned()]).remove(0).ok().says("4 took it");
}

#[test]
fn a_cache_mount_is_never_seen_half_filled() {
    let stores = busybox_store();
    let store = stores.path().join("store");
    let files = 300;
    // The stage is built first, so that all fill at once.
    let stage = format!(
        "FROM busybox AS full\nRUN mkdir /full && cd /full && for i in $(seq {files}); do echo $i > $i; done\n"
    );
    build_all(&store, std::slice::from_ref(&stage)).remove(0).ok();
    let step = |number: usize| {
        format!(
            "{stage}FROM busybox\nRUN --mount=type=cache,id=filled,target=/m,from=full,source=/full \
             : {number}; test $(ls /m | wc -l) = {files} && test $(cat /m/{files}) = {files}\n"
        )
    };
    let dockerfiles: Vec<String> = (0..4).map(step).collect();
    for ran in build_all(&store, &dockerfiles) {
        ran.ok();
    }
}
