//! What is sent, read back.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn sent(input: ContextInput, dockerfile: DockerfileInput) -> Vec<u8> {
    let context = RemoteContext::open(input, dockerfile, None).unwrap();
    let mut bytes = Vec::new();
    write_tar(context, &mut bytes).unwrap();
    bytes
}

/// Returns `kind mode path[ -> target]` of each entry.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        let link = entry.link_name().unwrap();
        let target = link.map_or_else(String::new, |target| format!(" -> {}", target.display()));
        let path = entry.path().unwrap();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        let mode = header.mode().unwrap();
        format!("{:?} {mode:o} {}{target}", header.entry_type(), path.display())
    });
    entries.collect()
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
}

fn names(tar: &[u8]) -> Vec<String> {
    let names = entries(tar).into_iter();
    names.map(|entry| entry.split_whitespace().nth(2).unwrap().to_owned()).collect()
}

#[test]
fn all_kinds_of_files_are_sent_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "b/two", "2");
    write(root, "Dockerfile", "FROM scratch\n");
    fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::hard_link(root.join("b/two"), root.join("c")).unwrap();
    symlink("/etc/passwd", root.join("a")).unwrap();
    let long = "l".repeat(200);
    write(root, &long, "");
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();

    let input = || ContextInput::Directory(root.to_owned());
    let tar = sent(input(), DockerfileInput::InContext(None));
    let long = format!("Regular 640 {long}");
    let want = [
        "Regular 640 Dockerfile",
        "Symlink 777 a -> /etc/passwd",
        "Directory 750 b",
        "Regular 640 b/two",
        "Link 640 c -> b/two",
        &long,
    ];
    let got: Vec<String> = entries(&tar).iter().map(|e| e.replace("b/ ", "b ")).collect();
    let got: Vec<&str> = got.iter().map(|entry| entry.trim_end_matches('/')).collect();
    assert_eq!(got, want);
    assert_eq!(tar, sent(input(), DockerfileInput::InContext(None)), "not deterministic");
}

#[test]
fn ignored_files_stay_here_but_dockerfile_and_rules_go() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "Dockerfile", "FROM scratch\n");
    write(root, "keep", "");
    write(root, "x.log", "");
    write(root, "node_modules/a/b", "");
    write(root, ".dockerignore", "node_modules\n*.log\nDockerfile\n.dockerignore\n");
    let tar = sent(ContextInput::Directory(root.to_owned()), DockerfileInput::InContext(None));
    assert_eq!(names(&tar), [".dockerignore", "Dockerfile", "keep"]);
}

#[test]
fn the_dockerfiles_own_rules_win() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "sub/x.Dockerfile", "FROM scratch\n");
    write(root, "sub/x.Dockerfile.dockerignore", "a\nsub\n");
    write(root, ".dockerignore", "b\n");
    write(root, "a", "");
    write(root, "b", "");
    let dockerfile = DockerfileInput::InContext(Some("sub/x.Dockerfile".into()));
    let tar = sent(ContextInput::Directory(root.to_owned()), dockerfile);
    let want = [".dockerignore", "b", "sub/x.Dockerfile", "sub/x.Dockerfile.dockerignore"];
    assert_eq!(names(&tar), want);
}

#[test]
fn rules_are_found_in_their_order() {
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str); 5] = [
        ("buildah's own", &["Dockerfile.containerignore", "Dockerfile.dockerignore"],                "Dockerfile.containerignore"),
        ("all there",     &["Dockerfile.dockerignore", ".containerignore", ".dockerignore"], "Dockerfile.dockerignore"),
        ("not its own",   &[".containerignore", ".dockerignore"],                            ".containerignore"),
        ("docker's",      &[".dockerignore"],                                                ".dockerignore"),
        ("another's own", &["x.dockerignore", ".dockerignore"],                              ".dockerignore"),
    ];
    for (name, files, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "Dockerfile", "FROM scratch\n");
        for file in files {
            write(dir.path(), file, &format!("by-{file}\n"));
            write(dir.path(), &format!("by-{file}"), "");
        }
        let tar =
            sent(ContextInput::Directory(dir.path().into()), DockerfileInput::InContext(None));
        assert!(!names(&tar).contains(&format!("by-{want}")), "{name}: {:?}", names(&tar));
    }
}

#[test]
fn a_given_ignore_file_stands_in_for_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let context = root.join("context");
    write(&context, "Dockerfile", "FROM scratch\n");
    write(&context, "Dockerfile.dockerignore", "a\n");
    write(&context, "a", "");
    write(&context, "b", "");
    write(root, "given", "b\n");
    let input = ContextInput::Directory(context);
    let given = root.join("given");
    let dockerfile = DockerfileInput::InContext(None);
    let opened = RemoteContext::open(input, dockerfile, Some(&given)).unwrap();
    let name = opened.dockerfile().unwrap().to_owned();
    let mut tar = Vec::new();
    write_tar(opened, &mut tar).unwrap();
    let own = format!("{name}.dockerignore");
    let want = ["Dockerfile", "Dockerfile.dockerignore", "a", name.as_str(), own.as_str()];
    assert_eq!(names(&tar), want);
}

#[test]
fn the_rules_beside_a_dockerfile_from_elsewhere_count() {
    let dir = tempfile::tempdir().unwrap();
    let (context, file) = (dir.path().join("context"), dir.path().join("x"));
    write(&context, "a", "");
    write(&context, "b", "");
    write(&context, ".dockerignore", "b\n");
    write(dir.path(), "x", "FROM scratch\n");
    write(dir.path(), "x.dockerignore", "a\n");
    let tar = sent(ContextInput::Directory(context), DockerfileInput::File(file));
    let names = names(&tar);
    assert!(names.contains(&"b".to_owned()) && !names.contains(&"a".to_owned()), "{names:?}");
}

#[test]
fn a_dockerfile_from_elsewhere_has_a_name_that_copy_does_not_see() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "a", "");
    write(root, "x.log", "");
    write(root, ".dockerignore", "*.log");
    let input = ContextInput::Directory(root.to_owned());
    let dockerfile = DockerfileInput::Inline("FROM scratch\n".into());
    let context = RemoteContext::open(input, dockerfile, None).unwrap();
    let name = context.dockerfile().unwrap().to_owned();
    assert!(name.starts_with(".dockerfile.") && name.len() == 32, "{name}");
    let rules = String::from_utf8(context.added[&format!("{name}.dockerignore")].clone()).unwrap();
    assert_eq!(rules, format!("*.log\n{name}\n{name}.dockerignore\n"));
    let mut tar = Vec::new();
    write_tar(context, &mut tar).unwrap();
    let own = format!("{name}.dockerignore");
    assert_eq!(names(&tar), [".dockerignore", "a", &name, &own]);

    let nothing = sent(ContextInput::Empty, DockerfileInput::Inline("FROM scratch\n".into()));
    assert_eq!(names(&nothing), [name, own]);
}

#[test]
fn a_tar_passes_through_as_given() {
    let given = b"whatever it is".to_vec();
    let input = ContextInput::Tar(Box::new(io::Cursor::new(given.clone())));
    assert_eq!(sent(input, DockerfileInput::InContext(None)), given);
}

#[test]
fn what_cannot_be_sent_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let fault = RemoteContext::open(
        ContextInput::Directory(missing.clone()),
        DockerfileInput::InContext(None),
        None,
    );
    let fault = fault.err().unwrap();
    assert!(fault.causes[0].contains(missing.to_str().unwrap()), "{fault}");

    let (mut short, path) = (tempfile::tempfile().unwrap(), Path::new("short"));
    short.write_all(b"abc").unwrap();
    let mut body = Exactly { file: short, left: 5, path };
    let error = body.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.downcast::<ContextError>().is_ok());
}

#[test]
fn a_receiver_that_leaves_is_told_from_a_file_that_fails() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "text");
    let input = ContextInput::Directory(dir.path().to_owned());
    let context = RemoteContext::open(input, DockerfileInput::InContext(None), None).unwrap();
    assert!(matches!(write_tar(context, &mut Full), Err(ContextError::Send(_))));
}
