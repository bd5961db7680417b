//! The table of the module's header, one field at a time.

use frontend::{CacheSharing, ContextOp, GitOp, HttpOp, Platform, RunFile, VertexId};

use super::*;

/// All that a key can depend on.
#[derive(Clone)]
struct Given {
    vertex: Vertex,
    inputs: Vec<InputKey>,
    content: Content,
    root: Digest,
}

impl Given {
    fn new(op: Op) -> Self {
        let key = |name: &str| InputKey::Key(CacheKey::from_digest(Digest::of(name.as_bytes())));
        Self {
            vertex: Vertex {
                op,
                inputs: vec![VertexId(0), VertexId(1)],
                platform: Platform::parse("linux/amd64").unwrap(),
                after: Vec::new(),
            },
            inputs: vec![key("below"), key("other")],
            content: Content {
                selection: Some(Digest::of(b"selection")),
                default_network: RunNetwork::Default,
            },
            root: Digest::of(b"tree"),
        }
    }

    /// By history and by content.
    fn keys(&self) -> (CacheKey, CacheKey) {
        let history = of(&self.vertex, &self.inputs, &self.content).0;
        let op = of_op(&self.vertex, self.content.default_network);
        (history, by_content(&op, &self.root, self.content.selection.as_ref()))
    }

    fn run(&mut self) -> &mut RunOp {
        let Op::Run(op) = &mut self.vertex.op else { panic!("not a RUN") };
        op
    }

    fn copy(&mut self) -> &mut CopyOp {
        let Op::Copy(op) = &mut self.vertex.op else { panic!("not a COPY") };
        op
    }

    fn mount(&mut self, at: usize) -> &mut RunMount {
        &mut self.run().mounts[at]
    }
}

fn run_op() -> RunOp {
    let mount = |target: &str, kind| RunMount { target: target.into(), kind };
    RunOp {
        args: vec!["sh".into(), "-c".into(), "make".into()],
        env: [("A".to_owned(), "1".to_owned())].into(),
        cwd: "/".into(),
        user: String::new(),
        mounts: vec![
            mount("/b", MountKind::Bind { input: 1, source: "s".into(), writable: false }),
            mount(
                "/c",
                MountKind::Cache {
                    id: "c".into(),
                    sharing: CacheSharing::Shared,
                    from: None,
                    read_only: false,
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
            ),
            mount(
                "/s",
                MountKind::Secret {
                    id: "s".into(),
                    required: false,
                    env: None,
                    mode: 0o400,
                    uid: 0,
                    gid: 0,
                },
            ),
        ],
        network: RunNetwork::Default,
        hostname: None,
        insecure: false,
        files: vec![RunFile { name: "EOF".into(), content: "x".into() }],
        devices: Vec::new(),
    }
}

fn copy_op() -> CopyOp {
    CopyOp {
        sources: vec![CopySource::Path { input: 1, path: "a".into(), wildcard: true }],
        destination: "/d".into(),
        destination_is_dir: false,
        owner: None,
        mode: None,
        exclude: Vec::new(),
        parents: false,
        unpack: Unpack::Never,
    }
}

/// Name, change, whether the key by history changes, whether the key by content does.
type Row = (&'static str, fn(&mut Given), bool, bool);

#[track_caller]
fn check(op: Op, rows: &[Row]) {
    let base = Given::new(op);
    let (history, content) = base.keys();
    for (name, change, by_history, by_content) in rows {
        let mut changed = base.clone();
        change(&mut changed);
        let (h, c) = changed.keys();
        assert_eq!(h != history, *by_history, "{name}: by history");
        assert_eq!(c != content, *by_content, "{name}: by content");
    }
}

fn other_key() -> InputKey {
    InputKey::Key(CacheKey::from_digest(Digest::of(b"another")))
}

#[test]
fn keys_of_run_follow_the_table() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("nothing",           |_| (),                                                             false, false),
        ("key of the root",   |it| it.inputs[0] = other_key(),                                    true,  false),
        ("key of a mount's",  |it| it.inputs[1] = other_key(),                                    true,  false),
        ("order of inputs",   |it| it.inputs.swap(0, 1),                                          true,  false),
        ("tree of the root",  |it| it.root = Digest::of(b"another"),                              false, true),
        ("mounted content",   |it| it.content.selection = Some(Digest::of(b"another")),           true,  true),
        ("platform",          |it| it.vertex.platform = Platform::parse("linux/arm64").unwrap(),  true,  true),
        ("argument",          |it| it.run().args[2] = "make all".into(),                          true,  true),
        ("border of arguments", |it| it.run().args = vec!["sh".into(), "-cm".into(), "ake".into()], true, true),
        ("variable",          |it| drop(it.run().env.insert("A".into(), "2".into())),             true,  true),
        ("further variable",  |it| drop(it.run().env.insert("B".into(), String::new())),          true,  true),
        ("cwd",               |it| it.run().cwd = "/w".into(),                                    true,  true),
        ("user",              |it| it.run().user = "node".into(),                                 true,  true),
        ("network",           |it| it.run().network = RunNetwork::None,                           true,  true),
        ("default network",   |it| it.content.default_network = RunNetwork::Host,                 true,  true),
        ("default, said",     |it| it.run().network = RunNetwork::Default,                        false, false),
        ("hostname",          |it| it.run().hostname = Some("h".into()),                          true,  true),
        ("order of work",     |it| it.vertex.after = vec![VertexId(1)],                           false, false),
        ("security",          |it| it.run().insecure = true,                                      true,  true),
        ("device",            |it| it.run().devices.push("d".into()),                             true,  true),
        ("heredoc's name",    |it| it.run().files[0].name = "END".into(),                         true,  true),
        ("heredoc",           |it| it.run().files[0].content = "y".into(),                        true,  true),
        ("mount's target",    |it| it.mount(0).target = "/x".into(),                              true,  true),
        ("mount's source",    |it| it.mount(0).kind = MountKind::Bind { input: 1, source: "t".into(), writable: false }, true, true),
        ("mount writable",    |it| it.mount(0).kind = MountKind::Bind { input: 1, source: "s".into(), writable: true },  true, true),
        ("cache's id",        |it| if let MountKind::Cache { id, .. } = &mut it.mount(1).kind { *id = "x".into(); },          true,  true),
        ("cache's sharing",   |it| if let MountKind::Cache { sharing, .. } = &mut it.mount(1).kind { *sharing = CacheSharing::Locked; }, false, false),
        ("cache read-only",   |it| if let MountKind::Cache { read_only, .. } = &mut it.mount(1).kind { *read_only = true; },  true,  true),
        ("secret's id",       |it| if let MountKind::Secret { id, .. } = &mut it.mount(2).kind { *id = "x".into(); },         true,  true),
        ("secret's variable", |it| if let MountKind::Secret { env, .. } = &mut it.mount(2).kind { *env = Some("S".into()); }, true,  true),
        ("order of mounts",   |it| it.run().mounts.swap(0, 1),                                    true,  true),
    ];
    check(Op::Run(run_op()), rows);
}

#[test]
fn keys_of_copy_follow_the_table() {
    #[rustfmt::skip]
    let rows: &[Row] = &[
        ("nothing",           |_| (),                                                             false, false),
        ("key of the root",   |it| it.inputs[0] = other_key(),                                    true,  false),
        ("key of the source's", |it| it.inputs[1] = other_key(),                                  true,  false),
        ("files or a root",   |it| it.inputs[1] = InputKey::Files,                                true,  false),
        ("tree of the root",  |it| it.root = Digest::of(b"another"),                              false, true),
        ("selected content",  |it| it.content.selection = Some(Digest::of(b"another")),           true,  true),
        ("nothing selected",  |it| it.content.selection = None,                                   true,  true),
        ("platform",          |it| it.vertex.platform = Platform::parse("linux/arm64").unwrap(),  false, false),
        ("default network",   |it| it.content.default_network = RunNetwork::Host,                 false, false),
        ("source",            |it| it.copy().sources = vec![CopySource::Path { input: 1, path: "b".into(), wildcard: true }],  true, true),
        ("source's input",    |it| it.copy().sources = vec![CopySource::Path { input: 0, path: "a".into(), wildcard: true }],  true, true),
        ("wildcard",          |it| it.copy().sources = vec![CopySource::Path { input: 1, path: "a".into(), wildcard: false }], true, true),
        ("inline",            |it| it.copy().sources = vec![CopySource::Inline { name: "a".into(), content: String::new() }],  true, true),
        ("destination",       |it| it.copy().destination = "/e".into(),                           true,  true),
        ("destination is dir", |it| it.copy().destination_is_dir = true,                          true,  true),
        ("owner",             |it| it.copy().owner = Some("1:1".into()),                          true,  true),
        ("mode",              |it| it.copy().mode = Some(CopyMode::Octal(0o600)),                 true,  true),
        ("symbolic mode",     |it| it.copy().mode = Some(CopyMode::Symbolic("600".into())),       true,  true),
        ("exclude",           |it| it.copy().exclude.push("x".into()),                            true,  true),
        ("parents",           |it| it.copy().parents = true,                                      true,  true),
        ("unpack",            |it| it.copy().unpack = Unpack::Archives,                           true,  true),
    ];
    check(Op::Copy(copy_op()), rows);
}

#[test]
fn keys_of_the_other_ops_follow_the_table() {
    let image = |reference: &str, digest: &str| {
        Op::Image(ImageOp { reference: reference.into(), digest: digest.into() })
    };
    let dir =
        |path: &str, owner: &str| Op::MakeDir(MakeDirOp { path: path.into(), owner: owner.into() });
    let key = |op: Op| Given::new(op).keys();
    assert_eq!(key(image("a:1", "sha256:1")), key(image("b:2", "sha256:1")), "a tag is only a way");
    #[rustfmt::skip]
    let different = [
        ("digest of the image", image("a", "sha256:1"), image("a", "sha256:2")),
        ("path",                dir("/a", ""),          dir("/b", "")),
        ("owner",               dir("/a", ""),          dir("/a", "1")),
        ("kind of op",          Op::Scratch,            Op::Merge),
        ("image or files",      image("a", ""),         Op::Context(ContextOp { name: None })),
        ("run or copy",         Op::Run(run_op()),      Op::Copy(copy_op())),
    ];
    for (name, one, other) in different {
        let (one, other) = (key(one), key(other));
        assert_ne!(one.0, other.0, "{name}: by history");
        assert_ne!(one.1, other.1, "{name}: by content");
    }
    // What files from outside hold enters the keys of their users.
    let http = HttpOp { url: "u".into(), checksum: None, file_name: "f".into(), credentials: None };
    let files = [
        Op::Context(ContextOp { name: None }),
        Op::Context(ContextOp { name: Some("n".into()) }),
        Op::Git(GitOp::default()),
        Op::Http(http),
    ];
    let keys: Vec<_> = files.into_iter().map(key).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
}
