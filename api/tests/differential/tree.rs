//! An image's files: its layers laid over one another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;

use cache::Digest;
use tar::EntryType;

/// Longest content, in bytes, that is shown as text instead of by its digest.
const SHOWN: usize = 120;

/// A file of any kind, without its name: what must be equal. Times are left out, they differ.
#[derive(Clone, Debug)]
struct Node {
    /// The line that shows it, but for its path.
    text: String,
    /// Names with the same number are hard links of one file.
    inode: usize,
    is_dir: bool,
}

/// The files by path, without a leading slash; bytes are shown in the way of `escape_ascii`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
    inodes: usize,
}

impl Tree {
    /// Lays a layer over the files (OCI image-spec, layer.md).
    pub(crate) fn apply(&mut self, layer: &[u8]) {
        let mut fresh = std::collections::BTreeSet::new();
        let mut archive = tar::Archive::new(layer);
        for entry in archive.entries().expect("a layer is a tar") {
            let mut entry = entry.expect("a layer can be read");
            let path = normal(&entry.path_bytes());
            if path.is_empty() {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == ".wh..wh..opq" {
                let below = format!("{parent}/");
                self.nodes.retain(|path, _| !path.starts_with(&below) || fresh.contains(path));
                continue;
            }
            if let Some(name) = name.strip_prefix(".wh.") {
                let gone =
                    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
                self.remove(&gone);
                continue;
            }
            let node = self.node(&mut entry);
            if !node.is_dir {
                self.remove(&path);
            }
            fresh.insert(path.clone());
            self.nodes.insert(path, node);
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn node(&mut self, entry: &mut tar::Entry<'_, &[u8]>) -> Node {
        let kind = entry.header().entry_type();
        if kind == EntryType::Link {
            let target = normal(&entry.link_name_bytes().expect("a hard link has a target"));
            return self.nodes.get(&target).expect("the target is there").clone();
        }
        let header = entry.header();
        let mut text = format!(
            "{:04o} {}:{}",
            header.mode().expect("a mode") & 0o7777,
            header.uid().expect("a uid"),
            header.gid().expect("a gid")
        );
        let device = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().expect("PAX records").into_iter().flatten() {
            let extension = extension.expect("a PAX record");
            if let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) {
                xattrs.insert(name.to_owned(), extension.value_bytes().escape_ascii().to_string());
            }
        }
        let mut is_dir = false;
        match kind {
            EntryType::Directory => {
                is_dir = true;
                text.insert_str(0, "dir  ");
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().expect("a link has a target");
                text = format!("link {} -> {}", &text[5..], target.escape_ascii());
            }
            EntryType::Fifo => text.insert_str(0, "fifo "),
            EntryType::Char => text = format!("char {text} {}", numbers(device)),
            EntryType::Block => text = format!("block {text} {}", numbers(device)),
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("content");
                text = format!("file {text} {}", shown(&content));
            }
        }
        for (name, value) in xattrs {
            write!(text, " {name}={value}").expect("a string takes all");
        }
        self.inodes += 1;
        Node { text, inode: self.inodes, is_dir }
    }

    /// The files as lines, sorted by path: what is compared. A hard link names the first name of
    /// its file.
    pub(crate) fn lines(&self) -> BTreeMap<String, String> {
        let mut first = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for (path, node) in &self.nodes {
            let first = first.entry(node.inode).or_insert(path);
            let text =
                if *first == path { node.text.clone() } else { format!("hard link to /{first}") };
            lines.insert(format!("/{path}"), text);
        }
        lines
    }
}

fn numbers((major, minor): (Option<u32>, Option<u32>)) -> String {
    format!("{}:{}", major.unwrap_or_default(), minor.unwrap_or_default())
}

/// Short content as quoted text, long content by size and digest.
fn shown(content: &[u8]) -> String {
    if content.len() <= SHOWN {
        return format!("\"{}\"", content.escape_ascii());
    }
    format!("{} bytes {}", content.len(), Digest::of(content))
}

/// Drops `./`, leading and trailing slashes.
fn normal(path: &[u8]) -> String {
    let text = path.escape_ascii().to_string();
    let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn layers_lie_over_one_another() {
    let file = |builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_uid(1);
        header.set_gid(2);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    let mut lower = tar::Builder::new(Vec::new());
    for path in ["a/one", "a/two", "b/three", "c"] {
        file(&mut lower, path, path);
    }
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(EntryType::Link);
    link.set_size(0);
    lower.append_link(&mut link, "d", "c").unwrap();
    let mut upper = tar::Builder::new(Vec::new());
    file(&mut upper, "a/.wh.one", "");
    file(&mut upper, "b/four", "new");
    file(&mut upper, "b/.wh..wh..opq", "");
    let mut tree = Tree::default();
    tree.apply(&lower.into_inner().unwrap());
    tree.apply(&upper.into_inner().unwrap());
    let lines: Vec<String> =
        tree.lines().iter().map(|(path, text)| format!("{path} {text}")).collect();
    let want = [
        "/a/two file 0640 1:2 \"a/two\"",
        "/b/four file 0640 1:2 \"new\"",
        "/c file 0640 1:2 \"c\"",
        "/d hard link to /c",
    ];
    assert_eq!(lines, want);
}
