//! The arrows between the crates: `api -> builder -> {frontend, cache}` and no other, and nothing
//! asynchronous below the builder.

use std::path::Path;

/// What each crate may depend on of the others, and what it must not depend on at all.
const CRATES: [(&str, &[&str], &[&str]); 4] = [
    ("frontend", &[], &["tokio", "axum", "reqwest", "rustix", "nix", "libc"]),
    ("cache", &[], &["tokio", "axum", "reqwest", "libc"]),
    ("builder", &["cache", "frontend"], &["axum", "clap"]),
    ("api", &["builder", "cache", "frontend"], &["nix", "libc"]),
];

#[test]
fn dependencies_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, allowed, banned) in CRATES {
        let manifest = std::fs::read_to_string(root.join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        for (other, ..) in CRATES {
            let is_allowed = allowed.contains(&other);
            assert!(is_allowed || !dependencies.contains_key(other), "{name} -> {other}");
        }
        for banned in banned {
            assert!(!dependencies.contains_key(*banned), "{name} must do without {banned}");
        }
    }
}

#[test]
fn unsafe_code_has_two_homes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut homes = Vec::new();
    for (name, ..) in CRATES {
        let mut directories = vec![root.join(name).join("src")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if std::fs::read_to_string(&path).unwrap().contains("unsafe {") {
                    homes.push(path.strip_prefix(&root).unwrap().to_owned());
                }
            }
        }
    }
    homes.sort();
    assert_eq!(homes, ["builder/src/heap.rs", "builder/src/sandbox/sys.rs"].map(Path::new));
}
