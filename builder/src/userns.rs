//! Root for an ordinary user: a user namespace in which the whole process takes root's paths.
//!
//! Where `/etc/subuid` and `/etc/subgid` give the user a range and `newuidmap` is installed, users
//! and groups of images exist in it. Otherwise there is one user, root, and what would belong to
//! another cannot be represented (`user_namespaces(7)`, subuid(5), newuidmap(1)).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::sandbox::HELPER_ARG;

/// Second argument of the helper that stays outside and writes the maps.
pub(crate) const MAP_IDS_ARG: &str = "map-ids";

/// What users and groups exist in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMapping {
    /// Root and at least one range of subordinate ids.
    Ranges,
    /// Root alone.
    Single {
        /// Why, and what would give more.
        reason: String,
    },
}

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    /// This machine does not let its users make one.
    #[error("cannot make a user namespace: {hint}")]
    Refused {
        /// The setting that would help.
        hint: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The helper that writes the maps could not be started or spoken to.
    #[error("cannot run the helper that maps user ids")]
    Helper(#[source] io::Error),
    /// One map was written, the other was not: neither kind of mapping is left.
    #[error("cannot map user and group ids: {0}")]
    Map(String),
}

/// What sandboxes cannot be made without (capabilities(7)).
const NEEDED: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::SETPCAP);

/// What root needs to map all ids into a namespace (`user_namespaces(7)`).
const MAPPING: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SETFCAP);

/// Whether this process has less than root's power, as any user's and as root's of a container: in
/// a user namespace of its own it has all that sandboxes need.
#[must_use]
pub fn lacks_privilege() -> bool {
    !has(NEEDED)
}

fn has(capabilities: CapabilitySet) -> bool {
    let found = rustix::thread::capabilities(None);
    found.is_ok_and(|sets| sets.effective.contains(capabilities))
}

/// Enters a new user namespace and mount namespace as root.
///
/// Call it at the very start of `main`, before any thread exists, when the process
/// [lacks privilege](lacks_privilege). Files keep their owner on disk: what root makes inside belongs to the user outside.
///
/// # Errors
///
/// [`UsernsError::Refused`] names the setting or package that is missing.
pub fn enter_user_namespace() -> Result<IdMapping, UsernsError> {
    // As seen outside; inside they have the overflow id until they are mapped.
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if uid.is_root() && !has(MAPPING) {
        let hint = "root lacks what it takes to map user ids (CAP_SETUID, CAP_SETGID, CAP_SETFCAP): \
            start the container with Docker's default capabilities";
        let source = io::ErrorKind::PermissionDenied.into();
        return Err(UsernsError::Refused { hint: hint.to_owned(), source });
    }
    let request = MapRequest::for_user(uid, gid);
    let mut helper = match &request {
        Ok(_) => Some(start_helper().map_err(UsernsError::Helper)?),
        Err(_) => None,
    };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(refused)?;
    let reason = match (request, &mut helper) {
        (Ok(request), Some(helper)) => match ask(helper, &request).map_err(UsernsError::Helper)? {
            MapReply::Mapped => return Ok(IdMapping::Ranges),
            MapReply::HalfMapped(reason) => return Err(UsernsError::Map(reason)),
            MapReply::Unmapped(reason) => reason,
        },
        (Err(reason), _) => reason,
        (Ok(_), None) => unreachable!("a helper is started for every request"),
    };
    map_single(uid, gid).map_err(refused)?;
    let reason = SINGLE_REASON.get_or_init(|| reason).clone();
    Ok(IdMapping::Single { reason })
}

/// Why there is but one id, once a namespace with one was entered.
static SINGLE_REASON: OnceLock<String> = OnceLock::new();

/// Says what a build cannot represent because there is but one id, and what would give more; `None`
/// where there are more.
pub(crate) fn single_id_notice() -> Option<String> {
    let reason = SINGLE_REASON.get()?;
    Some(format!(
        "warning: there is one user id here, root's: what belongs to another user in an image or by \
         --chown becomes root's, and no step can be another user; {reason}"
    ))
}

/// Whether this process has but one user or group id to give: chown to any other fails.
pub fn has_single_id() -> bool {
    static SINGLE: OnceLock<bool> = OnceLock::new();
    let is_single = |path: &str| {
        fs::read_to_string(path).is_ok_and(|map| map_size(&map).is_some_and(|size| size <= 1))
    };
    *SINGLE.get_or_init(|| is_single("/proc/self/uid_map") || is_single("/proc/self/gid_map"))
}

/// Adds up the third column of a map; `None` if it is none.
fn map_size(map: &str) -> Option<u64> {
    map.lines().map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// What the helper is asked to do once the namespace exists.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MapRequest {
    /// The process in the namespace.
    pid: u32,
    /// Whether the helper may write the maps itself, as root.
    by_itself: bool,
    /// Rows of the maps: first id inside, first id outside, count.
    uids: Vec<[u32; 3]>,
    gids: Vec<[u32; 3]>,
}

/// How that went.
#[derive(Debug, Serialize, Deserialize)]
enum MapReply {
    Mapped,
    /// Nothing was written.
    Unmapped(String),
    /// The first map was written, the second was not.
    HalfMapped(String),
}

impl MapRequest {
    /// Maps root to the user and further ids to the user's ranges.
    ///
    /// # Errors
    ///
    /// A sentence on what is missing.
    fn for_user(uid: Uid, gid: Gid) -> Result<Self, String> {
        if uid.is_root() {
            return Self::for_root();
        }
        let user = User::from_uid(uid).ok().flatten();
        let name = user.map_or_else(|| uid.to_string(), |user| user.name);
        let read = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let ranges = parse_ranges(&text, &name, uid.as_raw());
            if ranges.is_empty() {
                return Err(format!(
                    "{path} gives user {name} no range; add one with `usermod \
                     --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
                ));
            }
            Ok(ranges)
        };
        Ok(Self {
            pid: std::process::id(),
            by_itself: false,
            uids: rows(uid.as_raw(), &read("/etc/subuid")?),
            gids: rows(gid.as_raw(), &read("/etc/subgid")?),
        })
    }
}

impl MapRequest {
    /// Maps all ids that there are to themselves: root of a container may.
    fn for_root() -> Result<Self, String> {
        let read = |path: &str| {
            let map = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            same_rows(&map).ok_or_else(|| format!("{path} is no map of ids"))
        };
        let (uids, gids) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
        Ok(Self { pid: std::process::id(), by_itself: true, uids, gids })
    }
}

/// Reads a map, and maps what exists in it to itself.
fn same_rows(map: &str) -> Option<Vec<[u32; 3]>> {
    let row = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        let (first, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some([first, first, count])
    };
    map.lines().map(row).collect()
}

/// Finds a user's ranges, first id and count, in subuid(5)'s format.
fn parse_ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    let rows = text.lines().filter_map(|line| {
        let mut parts = line.trim().splitn(3, ':');
        let owner = parts.next()?;
        let range = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        ((owner == name || owner == uid) && range.1 > 0).then_some(range)
    });
    rows.collect()
}

/// Lays ranges one after another behind root.
fn rows(own: u32, ranges: &[(u32, u32)]) -> Vec<[u32; 3]> {
    let mut rows = vec![[0, own, 1]];
    let mut next = 1_u32;
    for &(first, count) in ranges {
        let count = count.min(u32::MAX - next);
        if count == 0 {
            break;
        }
        rows.push([next, first, count]);
        next += count;
    }
    rows
}

/// Starts the process that stays outside: set-user-ID programs have no power inside.
fn start_helper() -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .args([HELPER_ARG, MAP_IDS_ARG])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// Has the helper write the maps and waits for it.
fn ask(helper: &mut Child, request: &MapRequest) -> io::Result<MapReply> {
    let mut stdin = helper.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    stdin.write_all(&serde_json::to_vec(request)?)?;
    drop(stdin);
    let mut reply = Vec::new();
    if let Some(stdout) = helper.stdout.as_mut() {
        stdout.read_to_end(&mut reply)?;
    }
    helper.wait()?;
    Ok(serde_json::from_slice(&reply)?)
}

/// Does the helper's work: reads a request, runs `newuidmap` and `newgidmap`, writes a reply.
pub(crate) fn map_ids() -> ExitCode {
    let mut text = Vec::new();
    let request = io::stdin()
        .read_to_end(&mut text)
        .and_then(|_| Ok(serde_json::from_slice::<MapRequest>(&text)?));
    // No request comes when the user namespace was refused.
    let Ok(request) = request else { return ExitCode::FAILURE };
    let map = |kind: &MapKind, rows: &[[u32; 3]]| {
        if request.by_itself {
            write_map(kind, request.pid, rows)
        } else {
            run_mapper(kind, request.pid, rows)
        }
    };
    let reply = match map(&UIDS, &request.uids) {
        Err(reason) => MapReply::Unmapped(reason),
        Ok(()) => match map(&GIDS, &request.gids) {
            Err(reason) => MapReply::HalfMapped(reason),
            Ok(()) => MapReply::Mapped,
        },
    };
    let written = serde_json::to_vec(&reply)
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(&text));
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One of the two maps of a namespace, and what writes it for users.
struct MapKind {
    file: &'static str,
    program: &'static str,
    capability: &'static str,
}

const UIDS: MapKind = MapKind { file: "uid_map", program: "newuidmap", capability: "cap_setuid" };
const GIDS: MapKind = MapKind { file: "gid_map", program: "newgidmap", capability: "cap_setgid" };

/// Writes a map, at once as the kernel wants it.
fn write_map(kind: &MapKind, pid: u32, rows: &[[u32; 3]]) -> Result<(), String> {
    let lines = rows.iter().map(|[inside, outside, count]| format!("{inside} {outside} {count}\n"));
    let path = format!("/proc/{pid}/{}", kind.file);
    fs::write(&path, lines.collect::<String>()).map_err(|error| format!("{path}: {error}"))
}

fn run_mapper(kind: &MapKind, pid: u32, rows: &[[u32; 3]]) -> Result<(), String> {
    let MapKind { program, capability, .. } = kind;
    let numbers = rows.iter().flatten().map(u32::to_string);
    let output = Command::new(program).arg(pid.to_string()).args(numbers).output();
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{program} is not installed (Debian: apt-get install uidmap)"))
        }
        Err(error) => Err(format!("{program}: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            // The set-user-ID bit makes it root, who is nobody in the namespace where root lacks
            // CAP_SYS_ADMIN; the user owns the namespace (user_namespaces(7)).
            let help = if said.contains("Operation not permitted") {
                format!(
                    "; in a container give it a capability in place of the set-user-ID bit: `chmod \
                     u-s /usr/bin/{program}; setcap {capability}=ep /usr/bin/{program}`"
                )
            } else {
                String::new()
            };
            Err(said + &help)
        }
    }
}

/// Maps root to the user, and nobody else.
fn map_single(uid: Uid, gid: Gid) -> nix::Result<()> {
    let write = |path: &str, text: String| {
        fs::write(path, text)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}

/// Settings that forbid user namespaces: file, value that forbids, what to do.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "the administrator must run `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor forbids it; the administrator must run \
         `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` or add a profile for rbuild",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "the administrator must run `sysctl -w user.max_user_namespaces=15000`",
    ),
];

/// Looks for the setting that forbids user namespaces.
fn refused(errno: Errno) -> UsernsError {
    let forbids =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let hint = SETTINGS
        .iter()
        .find(|(path, value, _)| forbids(path, value))
        .map_or_else(default_hint, |row| row.2);
    UsernsError::Refused { hint: hint.to_owned(), source: errno.into() }
}

fn default_hint() -> &'static str {
    if is_filtered() {
        "a seccomp filter forbids it, as in a container: start that with `--security-opt \
         seccomp=unconfined`"
    } else {
        "run as root instead"
    }
}

/// Whether this process is under a filter of system calls (`proc_pid_status(5)`, `Seccomp`).
pub(crate) fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_keeps_the_ids_that_there_are() {
        let map = "         0     100000      65536\n     70000          5          1\n";
        assert_eq!(same_rows(map), Some(vec![[0, 0, 65536], [70000, 70000, 1]]));
        assert_eq!(same_rows("0 1\n"), None);
        assert_eq!(same_rows("0 x 1\n"), None);
    }

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text = "root:1:2\nann:100000:65536\n1000:300000:10\nann:bad:1\nannabel:5:5\nann:9:0\n";
        #[rustfmt::skip]
        let cases = [
            ("by name",       "ann",  999,  vec![(100_000, 65536)]),
            ("both",          "ann",  1000, vec![(100_000, 65536), (300_000, 10)]),
            ("by number",     "bob",  1000, vec![(300_000, 10)]),
            ("nobody",        "bob",  5,    vec![]),
        ];
        for (name, user, uid, want) in cases {
            assert_eq!(parse_ranges(text, user, uid), want, "{name}");
        }
    }

    #[test]
    fn ranges_follow_root() {
        assert_eq!(rows(1000, &[]), [[0, 1000, 1]]);
        let want = [[0, 1000, 1], [1, 100_000, 65536], [65537, 300_000, 10]];
        assert_eq!(rows(1000, &[(100_000, 65536), (300_000, 10)]), want);
        let whole = rows(0, &[(1, u32::MAX), (7, 7)]);
        assert_eq!(whole, [[0, 0, 1], [1, 1, u32::MAX - 1]]);
    }

    #[test]
    fn a_map_of_one_row_of_one_is_single() {
        #[rustfmt::skip]
        let cases = [
            ("host",   "         0          0 4294967295\n", Some(4_294_967_295)),
            ("single", "0 1000 1\n",                          Some(1)),
            ("ranges", "0 1000 1\n1 100000 65536\n",         Some(65537)),
            ("broken", "0 1000\n",                            None),
        ];
        for (name, map, want) in cases {
            assert_eq!(map_size(map), want, "{name}");
        }
    }
}
