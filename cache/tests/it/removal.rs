//! Deleting trees that others filled.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cache::remove_tree;
use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, mkdirat, openat};

use crate::fixture::Done;

type Fill = fn(&Path) -> Result<(), Box<dyn std::error::Error>>;

#[test]
fn every_tree_goes_and_nothing_else() -> Done {
    let cases: [(&str, Fill); 8] = [
        ("nothing there", |_| Ok(())),
        ("a file", |tree| Ok(fs::write(tree, "")?)),
        ("a link to a directory", |tree| Ok(symlink("../outside", tree)?)),
        ("links out", |tree| {
            fs::create_dir(tree)?;
            symlink("../../outside", tree.join("relative"))?;
            symlink(tree.parent().expect("it has one").join("outside"), tree.join("absolute"))?;
            Ok(fs::hard_link(
                tree.parent().expect("it has one").join("outside/file"),
                tree.join("hard"),
            )?)
        }),
        ("closed directories", |tree| {
            fs::create_dir_all(tree.join("a/b/c"))?;
            for dir in ["a/b/c", "a/b", "a"] {
                fs::set_permissions(tree.join(dir), Permissions::from_mode(0o0))?;
            }
            Ok(())
        }),
        ("many files", |tree| {
            fs::create_dir(tree)?;
            Ok((0..1100).try_for_each(|number| fs::write(tree.join(number.to_string()), ""))?)
        }),
        ("a pit deeper than any path", |tree| pit(tree, 200)),
        ("odd files", |tree| {
            fs::create_dir(tree)?;
            fs::create_dir(tree.join(".rbuild-removed-0"))?;
            fs::write(tree.join(".rbuild-removed-0/file"), "")?;
            let mkfifo = Command::new("mkfifo").arg(tree.join("fifo")).status()?;
            assert!(mkfifo.success());
            Ok(std::os::unix::net::UnixListener::bind(tree.join("socket")).map(drop)?)
        }),
    ];
    for (name, fill) in cases {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("outside"))?;
        fs::write(dir.path().join("outside/file"), "kept")?;
        let tree = dir.path().join("tree");
        fill(&tree)?;
        remove_tree(&tree).map_err(|error| format!("{name}: {error}"))?;
        assert!(fs::symlink_metadata(&tree).is_err(), "{name}");
        assert_eq!(fs::read_to_string(dir.path().join("outside/file"))?, "kept", "{name}");
    }
    Ok(())
}

/// Makes directories in each other, too many for one path.
fn pit(tree: &Path, depth: usize) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir(tree)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, tree, flags, Mode::empty())?;
    for level in 0..depth {
        // The name that the deletion itself gives to what it moves.
        let name = if level % 2 == 0 { ".rbuild-removed-0" } else { &"deeper".repeat(8) };
        mkdirat(&dir, name, Mode::RWXU)?;
        mkdirat(&dir, "sibling", Mode::RWXU)?;
        dir = openat(&dir, name, flags, Mode::empty())?;
    }
    Ok(())
}

#[test]
fn immutable_files_go_where_we_may() -> Done {
    let dir = tempfile::tempdir()?;
    let tree = dir.path().join("tree");
    fs::create_dir(&tree)?;
    fs::write(tree.join("file"), "")?;
    for path in [tree.join("file"), tree.clone()] {
        let file = fs::File::open(&path)?;
        let set = ioctl_getflags(&file)
            .and_then(|flags| ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
        if let Err(error) = set {
            println!(
                "Skipped(\"needs CAP_LINUX_IMMUTABLE and a file system with flags\"): {error}"
            );
            return Ok(());
        }
    }
    fs::remove_file(tree.join("file")).expect_err("it is immutable");
    remove_tree(&tree)?;
    assert!(!tree.exists());
    Ok(())
}

#[test]
fn a_mount_below_is_not_entered() -> Done {
    let dir = tempfile::tempdir()?;
    let outside = dir.path().join("outside");
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("mounted"))?;
    fs::create_dir(&outside)?;
    fs::write(outside.join("file"), "kept")?;
    // In a mount namespace of its own, where this test runs once more.
    let script = r#"mount --bind "$1/outside" "$1/tree/mounted" && exec "$2" --exact \
        removal::in_namespace --ignored --nocapture"#;
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe()?)
        .env("TREE", &tree)
        .output()?;
    let said = String::from_utf8_lossy(&status.stdout);
    if !said.contains("running 1 test") {
        let why = String::from_utf8_lossy(&status.stderr);
        println!("Skipped(\"needs a user or mount namespace\"): {why}");
        return Ok(());
    }
    assert!(status.status.success(), "{said}");
    assert_eq!(fs::read_to_string(outside.join("file"))?, "kept");
    Ok(())
}

#[test]
#[ignore = "the other process of a_mount_below_is_not_entered"]
fn in_namespace() {
    let tree = std::env::var_os("TREE").expect("only the other test runs this one");
    let error = remove_tree(Path::new(&tree)).expect_err("something is mounted below");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::XDEV.raw_os_error()), "{error}");
}
