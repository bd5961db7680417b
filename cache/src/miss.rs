//! Why there was no hit: what differs between a key and the nearest earlier one.
//!
//! Pure: compares tables that others kept. Nothing here decides what is a hit, so a fault here can
//! only misname a reason.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::key::Component;

/// Files named in one list of a [`FileChanges`]; the counts beside them are always whole.
const MAX_NAMED: usize = 100;

/// Hex digits kept of a file's digest: enough to see that it changed, and never trusted for more.
const MARK_DIGITS: usize = 16;

/// One component of a key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `env[V]`, as in [`Component`].
    pub name: String,
    /// Its earlier value; `None` when there was none.
    pub before: Option<String>,
    /// Its value now; `None` when there is none any more.
    pub after: Option<String>,
}

/// Returns what differs, in the order of `after`, then what is gone.
#[must_use]
pub fn changes(before: &[Component], after: &[Component]) -> Vec<Change> {
    let value = |table: &[Component], name: &str| {
        table.iter().find(|it| it.name == name).map(|it| it.value.clone())
    };
    let now = after.iter().map(|it| Change {
        name: it.name.clone(),
        before: value(before, &it.name),
        after: Some(it.value.clone()),
    });
    let gone = before.iter().filter(|it| !after.iter().any(|other| other.name == it.name));
    let gone = gone.map(|it| Change {
        name: it.name.clone(),
        before: Some(it.value.clone()),
        after: None,
    });
    now.chain(gone).filter(|change| change.before != change.after).collect()
}

/// What a COPY brought, by name: small enough to keep, so that a change can be named.
///
/// Each name once, in their order: what is compared is read side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileList(Vec<(String, FileMark)>);

/// What is remembered of one file: its mode, and a mark that changes with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark(u32, String);

impl FileMark {
    /// A regular file.
    #[must_use]
    pub fn file(mode: u32, digest: &Digest) -> Self {
        let mut mark = digest.hex();
        mark.truncate(MARK_DIGITS);
        Self(mode, mark)
    }

    /// A symlink.
    #[must_use]
    pub fn link(mode: u32, target: &str) -> Self {
        Self(mode, format!("-> {target}"))
    }

    /// Anything else, by the name of its kind.
    #[must_use]
    pub fn other(mode: u32, kind: &str) -> Self {
        Self(mode, kind.to_owned())
    }
}

impl FileList {
    /// Files of a selection that are remembered by name; a larger one is remembered by its digest
    /// only.
    pub const MOST: usize = 50_000;

    /// Lists `files`, of which the last counts where a name comes twice; `None` if they are too many.
    #[must_use]
    pub fn of(mut files: Vec<(String, FileMark)>) -> Option<Self> {
        files.reverse();
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files.dedup_by(|(a, _), (b, _)| a == b);
        (files.len() <= Self::MOST).then_some(Self(files))
    }

    /// Says what became of the files of `before`.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> FileChanges {
        let mut changes = FileChanges::default();
        let mut left = before.0.iter().peekable();
        for (path, FileMark(mode, mark)) in &self.0 {
            while let Some((gone, _)) = left.next_if(|(old, _)| old < path) {
                changes.removed.add(gone);
            }
            match left.next_if(|(old, _)| old == path) {
                None => changes.added.add(path),
                Some((_, FileMark(_, old))) if old != mark => changes.changed.add(path),
                Some((_, FileMark(old, _))) if old != mode => changes.modes.add(path),
                Some(_) => {}
            }
        }
        for (gone, _) in left {
            changes.removed.add(gone);
        }
        changes
    }
}

impl Serialize for FileList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(path, mark)| (path, mark)))
    }
}

impl<'de> Deserialize<'de> for FileList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Files;

        impl<'de> Visitor<'de> for Files {
            type Value = Vec<(String, FileMark)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut files = Vec::new();
                while let Some(file) = map.next_entry()? {
                    files.push(file);
                }
                Ok(files)
            }
        }

        let files = deserializer.deserialize_map(Files)?;
        Self::of(files).ok_or_else(|| serde::de::Error::custom("too many files"))
    }
}

/// How the files of two selections differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileChanges {
    /// Other content, another link target or another kind.
    pub changed: Named,
    /// New ones.
    pub added: Named,
    /// Those that are gone.
    pub removed: Named,
    /// Only the mode is another.
    pub modes: Named,
}

impl FileChanges {
    /// Returns whether nothing differs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changed.count + self.added.count + self.removed.count + self.modes.count == 0
    }
}

/// A number of files, and the names of the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// How many.
    pub count: usize,
    /// The first, in order of name.
    pub names: Vec<String>,
}

impl Named {
    fn add(&mut self, name: &str) {
        self.count += 1;
        if self.names.len() < MAX_NAMED {
            self.names.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Vec<Component> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| Component { name: name.into(), value: value.into() }).collect()
    }

    #[test]
    fn differing_components_are_named_with_both_values() {
        #[rustfmt::skip]
        let cases = [
            ("equal",   "a=1 b=2", "a=1 b=2", vec![]),
            ("order",   "a=1 b=2", "b=2 a=1", vec![]),
            ("changed", "a=1 b=2", "a=1 b=3", vec![("b", Some("2"), Some("3"))]),
            ("new",     "a=1",     "a=1 b=",  vec![("b", None,      Some(""))]),
            ("gone",    "a=1 b=2", "b=3",     vec![("b", Some("2"), Some("3")), ("a", Some("1"), None)]),
        ];
        for (name, before, after, want) in cases {
            let got = changes(&table(before), &table(after));
            let got: Vec<_> = got
                .iter()
                .map(|it| (it.name.as_str(), it.before.as_deref(), it.after.as_deref()))
                .collect();
            assert_eq!(got, want, "{name}");
        }
    }

    fn list(text: &str) -> FileList {
        let mut files = Vec::new();
        for line in text.split_whitespace() {
            let mut parts = line.split(':');
            let mut next = || parts.next().expect("path:kind:mode:content").to_owned();
            let (path, kind, mode, content) = (next(), next(), next(), next());
            let mode = u32::from_str_radix(&mode, 8).expect("octal");
            let mark = match kind.as_str() {
                "f" => FileMark::file(mode, &Digest::of(content.as_bytes())),
                "l" => FileMark::link(mode, &content),
                _ => FileMark::other(mode, "dir"),
            };
            files.push((path, mark));
        }
        FileList::of(files).expect("few files")
    }

    #[test]
    fn files_are_named_by_what_became_of_them() {
        let before = list("a:f:644:x b:f:644:x c:f:644:x d:l:777:x e:f:644:x f:d:755:");
        let after = list("a:f:644:y b:f:755:x c:f:644:x d:l:777:y g:f:644:x f:d:755:");
        let got = after.changes_since(&before);
        let names = |named: &Named| (named.count, named.names.join(" "));
        assert_eq!(names(&got.changed), (2, "a d".into()));
        assert_eq!(names(&got.modes), (1, "b".into()));
        assert_eq!(names(&got.added), (1, "g".into()));
        assert_eq!(names(&got.removed), (1, "e".into()));
        assert!(after.changes_since(&after).is_empty());
    }

    #[test]
    fn very_many_files_are_not_listed_but_counted() {
        let file = |number: usize| (number.to_string(), FileMark::other(0, "file"));
        let mut files: Vec<_> = (0..FileList::MOST).map(file).collect();
        let list = FileList::of(files.clone()).expect("not too many");
        let changes = list.changes_since(&FileList::default());
        assert_eq!((changes.added.count, changes.added.names.len()), (FileList::MOST, MAX_NAMED));
        files.push(file(0));
        assert_eq!(FileList::of(files.clone()), Some(list), "a name twice is one file");
        files.push(file(FileList::MOST));
        assert_eq!(FileList::of(files), None);
    }

    #[test]
    fn a_list_is_kept_as_a_map_in_the_order_of_the_names() {
        let list = list("b/c:f:644:x b.d:f:644:x a:l:777:y a:l:777:x");
        let text = serde_json::to_string(&list).expect("a list is JSON");
        assert!(text.starts_with(r#"{"a":[511,"-> x"],"b.d":["#), "{text}");
        assert_eq!(serde_json::from_str::<FileList>(&text).expect("it was written so"), list);
    }
}
