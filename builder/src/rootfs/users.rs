//! Users and groups by the image's own `/etc/passwd` and `/etc/group`.
//!
//! Invariants: the host's databases are never asked; the image's are read with a limit, as regular
//! files inside the root; ids are 0 to 2^31-1; a name that is not found is an error, never root.

use super::{LayeredRoot, RootError};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Bytes read of either file at most: far above any real one, far below what memory notices.
const MAX_FILE: u64 = 16 << 20;

/// Highest id accepted; what lies above wraps to root in programs that take it as signed.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Supplementary groups of one user at most (setgroups(2), `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// Who a process or a file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without `gid`. Empty where a group was named.
    pub groups: Vec<u32>,
    /// Home directory; `/` for users without an entry.
    pub home: String,
}

/// Why a user or group cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such entry.
    #[error("unknown {kind} `{name}`: no such entry in {file} of the image")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        name: String,
        /// The file that was read.
        file: &'static str,
    },
    /// A number outside of 0 to 2^31-1.
    #[error("{kind} id `{id}` is not in the range 0-{MAX_ID}")]
    OutOfRange {
        /// `user` or `group`.
        kind: &'static str,
        /// As written.
        id: String,
    },
    /// The file is there but cannot be used.
    #[error("could not read {file} of the image")]
    File {
        /// The file.
        file: &'static str,
        /// Why not.
        source: RootError,
    },
}

/// One line of passwd(5).
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// One line of group(5).
struct Group {
    name: String,
    gid: u32,
    members: String,
}

/// Resolves the user of a process, `name|uid[:group|gid]`; the empty text is root.
///
/// A number is never taken as a name. Without a group, primary and supplementary groups are those
/// of the user's entry; a uid without an entry gets group 0 (as Docker does).
///
/// # Errors
///
/// [`UserError`].
pub fn resolve_user(root: &LayeredRoot, text: &str) -> Result<Owner, UserError> {
    let (user, group) = split(text);
    let users = read_users(root)?;
    let entry = match parse_id("user", user)? {
        _ if user.is_empty() => users.iter().find(|entry| entry.uid == 0),
        Some(uid) => users.iter().find(|entry| entry.uid == uid),
        None => Some(find_user(&users, user)?),
    };
    let uid = match entry {
        Some(entry) => entry.uid,
        None => parse_id("user", user)?.unwrap_or(0),
    };
    let home = entry.map_or("/", |entry| entry.home.as_str());
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    if let Some(group) = group {
        return Ok(Owner { uid, gid: resolve_group(root, group)?, groups: Vec::new(), home });
    }
    let gid = entry.map_or(0, |entry| entry.gid);
    let groups = match entry {
        Some(entry) => supplementary_groups(root, entry)?,
        None => Vec::new(),
    };
    Ok(Owner { uid, gid, groups, home })
}

/// Resolves `--chown`: like a user, but a uid without a group stands for the group of the same
/// number, as BuildKit has it, and an empty user for root.
///
/// # Errors
///
/// [`UserError`].
pub fn resolve_owner(root: &LayeredRoot, text: &str) -> Result<(u32, u32), UserError> {
    let (user, group) = split(text);
    let (uid, gid) = match parse_id("user", user)? {
        Some(uid) => (uid, uid),
        None if user.is_empty() => (0, 0),
        None => {
            let users = read_users(root)?;
            let entry = find_user(&users, user)?;
            (entry.uid, entry.gid)
        }
    };
    Ok((uid, group.map_or(Ok(gid), |group| resolve_group(root, group))?))
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    }
}

fn parse_id(kind: &'static str, text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|&id| id <= MAX_ID);
    id.map(Some).ok_or_else(|| UserError::OutOfRange { kind, id: text.to_owned() })
}

fn find_user<'a>(users: &'a [User], name: &str) -> Result<&'a User, UserError> {
    users.iter().find(|entry| entry.name == name).ok_or_else(|| UserError::Unknown {
        kind: "user",
        name: name.to_owned(),
        file: PASSWD,
    })
}

fn resolve_group(root: &LayeredRoot, group: &str) -> Result<u32, UserError> {
    if let Some(gid) = parse_id("group", group)? {
        return Ok(gid);
    }
    let groups = read_groups(root)?;
    let found = groups.iter().find(|entry| entry.name == group);
    found.map(|entry| entry.gid).ok_or_else(|| UserError::Unknown {
        kind: "group",
        name: group.to_owned(),
        file: GROUP,
    })
}

fn supplementary_groups(root: &LayeredRoot, user: &User) -> Result<Vec<u32>, UserError> {
    let is_member = |group: &Group| group.members.split(',').any(|name| name.trim() == user.name);
    let mut groups: Vec<u32> =
        read_groups(root)?.iter().filter(|group| is_member(group)).map(|group| group.gid).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|&gid| gid != user.gid);
    groups.truncate(MAX_GROUPS);
    Ok(groups)
}

/// Reads a database; a missing file has no entries.
fn read(root: &LayeredRoot, file: &'static str) -> Result<String, UserError> {
    match root.read_file(file, MAX_FILE) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(RootError::NotFound { .. } | RootError::NotADirectory { .. }) => Ok(String::new()),
        Err(source) => Err(UserError::File { file, source }),
    }
}

/// Lines that are malformed, or hold an id that is out of range, are no entries.
fn read_users(root: &LayeredRoot) -> Result<Vec<User>, UserError> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = parse_id("user", fields.nth(1)?).ok()??;
        let gid = parse_id("group", fields.next()?).ok()??;
        let home = fields.nth(1).unwrap_or_default().to_owned();
        Some(User { name: name.to_owned(), uid, gid, home })
    };
    Ok(read(root, PASSWD)?.lines().filter_map(parse).collect())
}

fn read_groups(root: &LayeredRoot) -> Result<Vec<Group>, UserError> {
    let parse = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = parse_id("group", fields.nth(1)?).ok()??;
        let members = fields.next().unwrap_or_default().to_owned();
        Some(Group { name: name.to_owned(), gid, members })
    };
    Ok(read(root, GROUP)?.lines().filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: u32, gid: u32, groups: &[u32], home: &str) -> Owner {
        Owner { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    fn image() -> (tempfile::TempDir, LayeredRoot) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\n\
                      broken:x:a:b\nwrap:x:4294967296:0::/:\n2000:x:7:7::/:\nbare:x:9:9\n";
        let group = "root:x:0:\nnode:x:1001:\ndocker:x:50:node,other\nwheel:x:10:node\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let root = LayeredRoot::open(&[dir.path().to_path_buf()]).unwrap();
        (dir, root)
    }

    #[test]
    fn users_of_processes() {
        let (_dir, root) = image();
        #[rustfmt::skip]
        let cases = [
            ("empty is root",      "",             Ok(owner(0, 0, &[], "/root"))),
            ("by name",            "node",         Ok(owner(1000, 1001, &[10, 50], "/home/node"))),
            ("by number",          "1000",         Ok(owner(1000, 1001, &[10, 50], "/home/node"))),
            ("number, no entry",   "77",           Ok(owner(77, 0, &[], "/"))),
            ("a group is alone",   "node:wheel",   Ok(owner(1000, 10, &[], "/home/node"))),
            ("a free gid",         "77:88",        Ok(owner(77, 88, &[], "/"))),
            ("numbers are ids",    "2000",         Ok(owner(2000, 0, &[], "/"))),
            ("empty group",        "node:",        Ok(owner(1000, 1001, &[10, 50], "/home/node"))),
            ("no home",            "bare",         Ok(owner(9, 9, &[], "/"))),
            ("unknown user",       "nobody",       Err("unknown user `nobody`: no such entry in /etc/passwd of the image")),
            ("unknown group",      "node:staff",   Err("unknown group `staff`: no such entry in /etc/group of the image")),
            ("id out of range",    "4294967296",   Err("user id `4294967296` is not in the range 0-2147483647")),
            ("id above 2^31",      "2147483648",   Err("user id `2147483648` is not in the range 0-2147483647")),
            ("wrapped in the file", "wrap",        Err("unknown user `wrap`: no such entry in /etc/passwd of the image")),
        ];
        for (name, text, want) in cases {
            let got = resolve_user(&root, text).map_err(|error| error.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn owners_of_files() {
        let (_dir, root) = image();
        #[rustfmt::skip]
        let cases = [
            ("name",            "node",        Some((1000, 1001))),
            ("name and group",  "node:docker", Some((1000, 50))),
            ("number alone",    "55",          Some((55, 55))),
            ("numbers",         "10:20",       Some((10, 20))),
            ("group alone",     ":docker",     Some((0, 50))),
            ("unknown",         "who",         None),
            ("unknown group",   "10:who",      None),
            ("negative",        "-1",          None),
        ];
        for (name, text, want) in cases {
            assert_eq!(resolve_owner(&root, text).ok(), want, "{name}");
        }
    }

    #[test]
    fn a_fifo_or_a_link_out_of_the_image_is_no_database() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("etc/passwd")).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("etc/group"), mode).unwrap();
        let root = LayeredRoot::open(&[dir.path().to_path_buf()]).unwrap();
        assert!(matches!(resolve_user(&root, "daemon"), Err(UserError::File { file: PASSWD, .. })));
        assert!(matches!(resolve_user(&root, "1:x"), Err(UserError::File { .. })));
        assert!(matches!(resolve_owner(&root, "1:x"), Err(UserError::File { file: GROUP, .. })));
    }
}
