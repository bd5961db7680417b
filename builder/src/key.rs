//! What enters the cache key of a vertex, and why.
//!
//! | what                                   | enters | why |
//! |----------------------------------------|--------|-----|
//! | kind of op and version of this table   | yes    | another op, or another way to do it, gives another result |
//! | keys of the inputs, in order           | yes    | the root that is changed, the roots that are copied from |
//! | platform                               | RUN    | the same command does other things elsewhere; copies do not |
//! | image: digest of the manifest          | yes    | names it exactly; the reference does not enter: a tag is only a way to it |
//! | COPY from a context: selected content  | yes    | names, kinds, modes, link targets, bytes; never mtime, inode, owner or host path |
//! | COPY from a root: its key and the path | yes    | the root is immutable |
//! | destination, owner, mode, exclude, parents, unpack | yes | they shape the result |
//! | RUN: arguments, environment, cwd, user, mounts, network, security, devices, files | yes | the command can see them |
//! | RUN: proxies without ARG, extra hosts, certificate authorities, limits | no | ways to reach the same bytes |
//! | secrets                                | id only | a value must never leave the step |
//! | cache mounts                           | id only | their content is no input by definition |
//! | step name, span, comments, order in the file | no | they change nothing in the result |

use cache::{CacheKey, Component, Digest, KeyHasher};
use frontend::{
    CopyMode, CopyOp, CopySource, ImageOp, MakeDirOp, MountKind, Op, RunMount, RunNetwork, RunOp,
    Unpack, Vertex,
};

/// Raise it when an op does something else for the same fields.
const VERSION: u32 = 1;

/// What is known about an input when a key is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputKey {
    /// A result with a key of its own.
    Key(CacheKey),
    /// Files from outside: what is selected from them is digested by their user.
    Files,
}

/// The outside facts that a vertex's key needs beside its op.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// Digest of what the op selects from inputs that are [`InputKey::Files`].
    pub(crate) selection: Option<Digest>,
    /// The network that RUN steps without a choice of their own get.
    pub(crate) default_network: RunNetwork,
}

/// Makes the key of `vertex` and keeps its components, so that a miss can be explained.
pub(crate) fn of(
    vertex: &Vertex,
    inputs: &[InputKey],
    content: &Content,
) -> (CacheKey, Vec<Component>) {
    let mut hasher = KeyHasher::new("rbuild vertex", VERSION);
    for (index, input) in inputs.iter().enumerate() {
        match input {
            InputKey::Key(key) => hasher.field(&format!("input {index}"), key.as_bytes()),
            InputKey::Files => hasher.field(&format!("input {index}"), b"files"),
        }
    }
    if let Some(selection) = &content.selection {
        hasher.field("content", selection.as_bytes());
    }
    match &vertex.op {
        Op::Scratch => hasher.field("op", b"scratch"),
        Op::Image(ImageOp { reference: _, digest }) => {
            hasher.field("op", b"image");
            hasher.field("manifest", digest.as_bytes());
        }
        // Files from outside have no key: what is selected from them enters their users' keys.
        Op::Context(_) | Op::Git(_) | Op::Http(_) => hasher.field("op", b"files"),
        Op::Copy(op) => copy(&mut hasher, op),
        Op::MakeDir(MakeDirOp { path, owner }) => {
            hasher.field("op", b"make-dir");
            hasher.field("path", path.as_bytes());
            hasher.field("owner", owner.as_bytes());
        }
        Op::Run(op) => {
            run(&mut hasher, op, content.default_network);
            hasher.field("platform", vertex.platform.to_string().as_bytes());
        }
        Op::Merge => hasher.field("op", b"merge"),
    }
    hasher.finish_with_components()
}

fn copy(hasher: &mut KeyHasher, op: &CopyOp) {
    let CopyOp { sources, destination, destination_is_dir, owner, mode, exclude, parents, unpack } =
        op;
    hasher.field("op", b"copy");
    hasher.field("destination", destination.as_bytes());
    hasher.field("destination is dir", &[u8::from(*destination_is_dir)]);
    hasher.field("owner", owner.as_deref().unwrap_or_default().as_bytes());
    match mode {
        None => {}
        Some(CopyMode::Octal(mode)) => hasher.field("mode", format!("{mode:o}").as_bytes()),
        Some(CopyMode::Symbolic(mode)) => hasher.field("mode", mode.as_bytes()),
    }
    for (index, pattern) in exclude.iter().enumerate() {
        hasher.field(&format!("exclude {index}"), pattern.as_bytes());
    }
    hasher.field("parents", &[u8::from(*parents)]);
    let unpack = match unpack {
        Unpack::Never => b"never".as_slice(),
        Unpack::Archives => b"archives",
    };
    hasher.field("unpack", unpack);
    for (index, source) in sources.iter().enumerate() {
        match source {
            CopySource::Path { input, path, wildcard } => {
                hasher.field(&format!("source {index} input"), input.to_string().as_bytes());
                hasher.field(&format!("source {index}"), path.as_bytes());
                hasher.field(&format!("source {index} wildcard"), &[u8::from(*wildcard)]);
            }
            CopySource::Inline { name, content } => {
                hasher.field(&format!("source {index} name"), name.as_bytes());
                hasher.field(&format!("source {index} text"), content.as_bytes());
            }
        }
    }
}

fn run(hasher: &mut KeyHasher, op: &RunOp, default_network: RunNetwork) {
    let RunOp { args, env, cwd, user, mounts, network, insecure, files, devices } = op;
    hasher.field("op", b"run");
    for (index, arg) in args.iter().enumerate() {
        hasher.field(&format!("argument {index}"), arg.as_bytes());
    }
    for (name, value) in env {
        hasher.field(&format!("env {name}"), value.as_bytes());
    }
    hasher.field("cwd", cwd.as_bytes());
    hasher.field("user", user.as_bytes());
    for (index, mount) in mounts.iter().enumerate() {
        run_mount(hasher, index, mount);
    }
    let network = match network {
        RunNetwork::Default => default_network,
        RunNetwork::None | RunNetwork::Host => *network,
    };
    let network = match network {
        RunNetwork::Default => b"default".as_slice(),
        RunNetwork::None => b"none",
        RunNetwork::Host => b"host",
    };
    hasher.field("network", network);
    hasher.field("insecure", &[u8::from(*insecure)]);
    for file in files {
        hasher.field(&format!("file {}", file.name), file.content.as_bytes());
    }
    for (index, device) in devices.iter().enumerate() {
        hasher.field(&format!("device {index}"), device.as_bytes());
    }
}

fn run_mount(hasher: &mut KeyHasher, index: usize, mount: &RunMount) {
    let mut field = |name: &str, value: &[u8]| {
        hasher.field(&format!("mount {index} {name}"), value);
    };
    field("target", mount.target.as_bytes());
    match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            field("bind input", input.to_string().as_bytes());
            field("source", source.as_bytes());
            field("writable", &[u8::from(*writable)]);
        }
        MountKind::Cache { id, sharing: _, from, read_only, mode, uid, gid } => {
            field("cache", id.as_bytes());
            if let Some((input, path)) = from {
                field("from", format!("{input} {path}").as_bytes());
            }
            field("access", format!("{read_only} {mode:o} {uid} {gid}").as_bytes());
        }
        MountKind::Tmpfs { size } => {
            field("tmpfs", size.map(|size| size.to_string()).unwrap_or_default().as_bytes());
        }
        MountKind::Secret { id, required, env, mode, uid, gid } => {
            field("secret", id.as_bytes());
            field("env", env.as_deref().unwrap_or_default().as_bytes());
            field("access", format!("{required} {mode:o} {uid} {gid}").as_bytes());
        }
        MountKind::Ssh { id, required, mode, uid, gid } => {
            field("ssh", id.as_bytes());
            field("access", format!("{required} {mode:o} {uid} {gid}").as_bytes());
        }
    }
}
