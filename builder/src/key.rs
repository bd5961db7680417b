//! What enters the cache keys of a vertex, and why.
//!
//! A vertex has three keys. By its **history** it is looked up first: that costs nothing and needs
//! none of its inputs. By its **content** it is looked up when its inputs are there: the op, the
//! tree of the root that it changes and what it takes from the others, whatever steps those came
//! from. Its **op** alone says whether a look-up by content is worth digesting anything.
//!
//! | what                                   | history | content | why |
//! |----------------------------------------|---------|---------|-----|
//! | kind of op and version of this table   | yes     | yes     | another op, or another way to do it, gives another result |
//! | keys of the inputs, in order           | yes     | no      | what was done before; each must also have given what the record was made from (`Record::inputs`) |
//! | tree digest of the root that is changed | no     | yes     | all that a step can see of it but times: see `tree` |
//! | platform                               | RUN     | RUN     | the same command does other things elsewhere; copies do not |
//! | image: digest of the manifest          | yes     | its layers | names it exactly; the reference does not enter: a tag is only a way to it |
//! | files from outside: selected content   | yes     | yes     | names, kinds, modes, link targets, bytes; never mtime, inode, owner or host path |
//! | files of a root: its key and the path  | yes     | selected content | the root is immutable; the content also has owners |
//! | git: the commit, what is taken of it   | yes     | selected content | they name the files exactly; a branch is only a way to them |
//! | URL: digest of its bytes               | yes     | selected content | it names them exactly; ETag, time and server are ways to them |
//! | destination, owner, mode, exclude, parents, unpack | yes | yes | they shape the result |
//! | RUN: arguments, environment, cwd, user, mounts, network, security, devices, files | yes | yes | the command can see them |
//! | RUN: proxies without ARG, extra hosts, certificate authorities, limits | no | no | ways to reach the same bytes |
//! | secrets                                | id only | id only | a value must never leave the step |
//! | cache mounts                           | id only | id only | their content is no input by definition |
//! | step name, span, comments, order in the file | no | no  | they change nothing in the result |

use cache::{CacheKey, Component, Digest, KeyHasher};
use frontend::{
    CopyMode, CopyOp, CopySource, ImageOp, MakeDirOp, MountKind, Op, RunMount, RunNetwork, RunOp,
    Unpack, Vertex,
};

/// Raise it when an op does something else for the same fields.
const VERSION: u32 = 2;

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

/// Makes the key of `vertex` by its history and keeps its components, so that a miss can be explained.
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
    op(table, vertex, content.default_network).finish_with_components()
}

/// Makes the key of what `vertex` does, whatever it does it to.
pub(crate) fn of_op(vertex: &Vertex, default_network: RunNetwork) -> CacheKey {
    let inputs = vertex.inputs.len().to_string();
    let table = KeyHasher::new("rbuild op", VERSION).field("inputs", inputs.as_bytes());
    op(table, vertex, default_network).finish()
}

/// Makes the key of what the op `op` does to a root with the tree digest `root`; `taken` is the
/// digest of what it takes from elsewhere.
pub(crate) fn by_content(op: &CacheKey, root: &Digest, taken: Option<&Digest>) -> CacheKey {
    let table = KeyHasher::new("rbuild content", VERSION);
    let table = table.digest("op", &op.digest()).digest("root", root);
    match taken {
        Some(taken) => table.digest("taken", taken).finish(),
        None => table.finish(),
    }
}

fn op(table: KeyHasher, vertex: &Vertex, default_network: RunNetwork) -> KeyHasher {
    match &vertex.op {
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
        Op::Run(op) => run(table, op, default_network)
            .field("platform", vertex.platform.to_string().as_bytes()),
        Op::Merge => table.field("op", b"merge"),
    }
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

#[cfg(test)]
mod tests;
