//! Devices of this machine for steps that may have them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{At as _, Fault};
use super::mount::{attach, clone_of, make_dir, make_file, open_dir, tmpfs};
use super::spec::{DeviceNode, SandboxSpec};

/// What insecure steps have beside the usual nodes, where this machine has it: what filesystems in
/// files and in user space need (BuildKit gives the same).
const INSECURE: [&str; 10] = [
    "fuse",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

/// Memory for nodes, which hold nothing.
const NODES_BYTES: u64 = 64 << 10;

/// Puts the spec's devices into `dev`; `scratch` is memory for what has to be made for that.
pub(super) fn add(dev: &OwnedFd, scratch: &OwnedFd, spec: &SandboxSpec) -> Result<(), Fault> {
    if spec.devices.is_empty() && !spec.is_insecure {
        return Ok(());
    }
    let host = open_dir(Path::new("/"))?;
    let mut own = OwnNodes { scratch, dir: None };
    for device in &spec.devices {
        let path = device.host.display();
        let name = device.path.strip_prefix("/dev/").unwrap_or_default();
        match open_node(&host, &device.host) {
            Ok(node) => {
                let node = own.make(&node, device).at(&device.path)?.unwrap_or(node);
                add_node(dev, name, &node).at(&device.path)?;
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Fault::refused(format!("this machine has no device `{path}`")));
            }
            Err(Errno::NODEV | Errno::LOOP) => {
                return Err(Fault::refused(format!("`{path}` of this machine is no device")));
            }
            Err(errno) => return Err(errno).at(path),
        }
    }
    if spec.is_insecure {
        for name in
            INSECURE.iter().filter(|name| !spec.devices.iter().any(|it| it.path.ends_with(*name)))
        {
            if let Ok(node) = open_node(&host, &Path::new("/dev").join(name)) {
                add_node(dev, name, &node).at(name)?;
            }
        }
    }
    Ok(())
}

/// Nodes with another mode or owner than those of this machine.
struct OwnNodes<'a> {
    scratch: &'a OwnedFd,
    /// The only memory of a step in which nodes can be opened; nothing of the step reaches it.
    dir: Option<OwnedFd>,
}

impl OwnNodes<'_> {
    /// Makes a node like `node` with what `device` asks for; `None` where that is what it has
    /// already, or where nodes cannot be made, in a user namespace.
    fn make(&mut self, node: &OwnedFd, device: &DeviceNode) -> Result<Option<OwnedFd>, Fault> {
        let stat = rustix::fs::fstat(node)?;
        let mode = device.mode.map_or(stat.st_mode & 0o7777, |mode| mode & 0o7777);
        let (uid, gid) = (device.uid.unwrap_or(stat.st_uid), device.gid.unwrap_or(stat.st_gid));
        if (mode, uid, gid) == (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) {
            return Ok(None);
        }
        let dir = if let Some(dir) = &self.dir {
            dir
        } else {
            let memory = tmpfs("700", Some(NODES_BYTES), MountAttrFlags::MOUNT_ATTR_NOSUID)?;
            attach(&memory, make_dir(self.scratch, "nodes", 0o700)?)?;
            self.dir.insert(memory)
        };
        let name = device.path.replace('/', "-");
        let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(mode));
        match rustix::fs::mknodat(dir, &name, kind, mode, stat.st_rdev) {
            Err(Errno::PERM) => return Ok(None),
            result => result?,
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, &name, owner.0, owner.1, flags)?;
        // After the owner, and whatever the umask is.
        rustix::fs::chmodat(dir, &name, mode, AtFlags::empty())?;
        Ok(Some(open_node(dir, Path::new(&name))?))
    }
}

/// Opens a node of this machine; links are not followed.
fn open_node(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let node = super::beneath::open_exact(root, path)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    if is_device { Ok(node) } else { Err(Errno::NODEV) }
}

fn add_node(dev: &OwnedFd, name: &str, node: &OwnedFd) -> Result<(), Fault> {
    let path = Path::new(name);
    let mut dir = dev.try_clone()?;
    for part in path.parent().into_iter().flatten() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = match rustix::fs::openat(&dir, part, flags, Mode::empty()) {
            Err(Errno::NOENT) => make_dir(&dir, part, 0o755)?,
            found => found?,
        };
    }
    let file = match make_file(&dir, path.file_name().unwrap_or_default(), 0o666) {
        // One of the usual nodes.
        Err(fault) if fault.errno() == libc::EEXIST => return Ok(()),
        file => file?,
    };
    attach(clone_of(node, MountAttrFlags::MOUNT_ATTR_NOSUID)?, file)
}
