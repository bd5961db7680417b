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
//! | git: the commit, what is taken of it   | yes    | they name the files exactly; a branch is only a way to them |
//! | URL: digest of its bytes               | yes    | it names them exactly; ETag, time and server are ways to them |
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
    /// Digest of what the op selects from inputs that are [`InputKey::Files`]; of files by URL, the
    /// digest that stands for them.
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
    let inputs = inputs.iter().map(|input| match input {
        InputKey::Key(key) => key.to_string(),
        InputKey::Files => "files".to_owned(),
    });
    let mut table = KeyHasher::new("rbuild vertex", VERSION).list("inputs", inputs);
    if let Some(selection) = &content.selection {
        table = table.digest("content", selection);
    }
    let table = match &vertex.op {
        Op::Scratch => table.field("op", b"scratch"),
        Op::Image(ImageOp { reference: _, digest }) => {
            table.field("op", b"image").field("manifest", digest.as_bytes())
        }
        // Files from outside have no key: what is selected from them enters their users' keys.
        // Those by URL are known by the digest that is the content here.
        Op::Context(_) | Op::Git(_) | Op::Http(_) => table.field("op", b"files"),
        Op::Copy(op) => copy(table, op),
        Op::MakeDir(MakeDirOp { path, owner }) => table
            .field("op", b"make-dir")
            .field("path", path.as_bytes())
            .field("owner", owner.as_bytes()),
        Op::Run(op) => run(table, op, content.default_network)
            .field("platform", vertex.platform.to_string().as_bytes()),
        Op::Merge => table.field("op", b"merge"),
    };
    table.finish_with_components()
}

fn copy(table: KeyHasher, op: &CopyOp) -> KeyHasher {
    let CopyOp { sources, destination, destination_is_dir, owner, mode, exclude, parents, unpack } =
        op;
    let mode = match mode {
        None => String::new(),
        Some(CopyMode::Octal(mode)) => format!("{mode:o}"),
        Some(CopyMode::Symbolic(mode)) => mode.clone(),
    };
    let unpack = match unpack {
        Unpack::Never => b"never".as_slice(),
        Unpack::Archives => b"archives",
    };
    let mut paths = Vec::new();
    let mut inline = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        match source {
            CopySource::Path { input, path, wildcard } => {
                paths.push(format!("{index} {input} {wildcard} {path}"));
            }
            CopySource::Inline { name, content } => {
                inline.push((format!("{index} {name}"), content.as_str()));
            }
        }
    }
    table
        .field("op", b"copy")
        .field("destination", destination.as_bytes())
        .field("destination is dir", &[u8::from(*destination_is_dir)])
        .field("owner", owner.as_deref().unwrap_or_default().as_bytes())
        .field("mode", mode.as_bytes())
        .list("exclude", exclude)
        .field("parents", &[u8::from(*parents)])
        .field("unpack", unpack)
        .list("sources", paths)
        .map("inline", inline)
}

fn run(table: KeyHasher, op: &RunOp, default_network: RunNetwork) -> KeyHasher {
    let RunOp { args, env, cwd, user, mounts, network, insecure, files, devices, hostname } = op;
    let network = match network {
        RunNetwork::Default => default_network,
        RunNetwork::None | RunNetwork::Host => *network,
    };
    let network = match network {
        RunNetwork::Default => b"default".as_slice(),
        RunNetwork::None => b"none",
        RunNetwork::Host => b"host",
    };
    table
        .field("op", b"run")
        .list("arguments", args)
        .map("env", env)
        .field("cwd", cwd.as_bytes())
        .field("user", user.as_bytes())
        .list("mounts", mounts.iter().map(mount))
        .field("network", network)
        .field("insecure", &[u8::from(*insecure)])
        .map("files", files.iter().map(|file| (file.name.as_str(), file.content.as_str())))
        .list("devices", devices)
        .field("hostname", hostname.as_deref().unwrap_or_default().as_bytes())
}

/// Writes a mount as one text, unambiguous because free texts are quoted.
fn mount(mount: &RunMount) -> String {
    let target = &mount.target;
    match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            format!("bind {target:?} {input} {source:?} {writable}")
        }
        MountKind::Cache { id, sharing: _, from, read_only, mode, uid, gid } => {
            let from =
                from.as_ref().map_or_else(String::new, |(input, path)| format!("{input} {path:?}"));
            format!("cache {target:?} {id:?} [{from}] {read_only} {mode:o} {uid} {gid}")
        }
        MountKind::Tmpfs { size } => format!("tmpfs {target:?} {}", size.unwrap_or_default()),
        MountKind::Secret { id, required, env, mode, uid, gid } => {
            let env = env.as_deref().unwrap_or_default();
            format!("secret {target:?} {id:?} {env:?} {required} {mode:o} {uid} {gid}")
        }
        MountKind::Ssh { id, required, mode, uid, gid } => {
            format!("ssh {target:?} {id:?} {required} {mode:o} {uid} {gid}")
        }
    }
}
