//! The root filesystem: layers, mount points, mounts, and the step into it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::UnmountFlags;

use super::ca_bundle;
use super::child::Child;
use super::error::{At as _, Fault};
use super::ground::SCRATCH_BYTES;
use super::mount::{DATA, READ_ONLY, attach, make_dir, open_dir, overlay, resize, tmpfs};
use super::source::{Prepared, open_roots, prepare};
use super::stub::{StubLayer, copy_owner_and_mode};
use super::target::{Targets, attach_at};
use super::view::{ImageView, Located};
use super::wire::{self, Report};

/// Where the parts of the root are found, from the step that opens them on.
#[derive(Debug)]
pub(super) struct Layers {
    lowers: Vec<OwnedFd>,
    writable: Option<(OwnedFd, OwnedFd)>,
    /// One a mount of the spec.
    roots: Vec<Vec<OwnedFd>>,
}

impl Layers {
    fn lowers(&self) -> Vec<BorrowedFd<'_>> {
        self.lowers.iter().map(AsFd::as_fd).collect()
    }
}

/// Mount points in the image, links followed.
#[derive(Debug)]
pub(super) struct Places {
    /// `/proc`.
    pub proc: Located,
    /// `/dev`.
    pub dev: Located,
    /// `/sys`.
    pub sys: Located,
    /// One a file of [`super::etc::FILES`]; `None` is left as the image has it.
    pub etc: Vec<Option<Located>>,
    /// One a mount of the spec.
    pub mounts: Vec<Located>,
}

/// Opens every directory of this machine that is needed, before anything is mounted over it.
pub(super) fn open_directories(child: &mut Child) -> Result<(), Fault> {
    let spec = &child.spec;
    child.layers = Some(Layers {
        lowers: spec.lowers.iter().map(|dir| open_dir(dir)).collect::<Result<_, _>>()?,
        writable: spec
            .scratch
            .as_ref()
            .map(|dirs| Ok::<_, Fault>((open_dir(&dirs.upper)?, open_dir(&dirs.work)?)))
            .transpose()?,
        roots: spec.mounts.iter().map(open_roots).collect::<Result<_, _>>()?,
    });
    Ok(())
}

/// Makes room in the scratch memory for the files of the spec.
pub(super) fn grow_scratch(child: &mut Child) -> Result<(), Fault> {
    let contents: usize = child.spec.mounts.iter().map(|mount| mount.source.content_bytes()).sum();
    let more = contents as u64 + 4 * child.spec.ca_certs.len() as u64;
    if more == 0 {
        return Ok(());
    }
    resize(child.scratch(), SCRATCH_BYTES + more)
}

/// Makes every mount of the spec ready.
pub(super) fn prepare_mounts(child: &mut Child) -> Result<(), Fault> {
    let mut prepared = Vec::new();
    for (index, mount) in child.spec.mounts.iter().enumerate() {
        check_target(&mount.target)?;
        let private = make_dir(child.scratch(), format!("mount-{index}"), 0o700)?;
        let roots = &child.layers().roots[index];
        prepared.push(prepare(mount, roots, &private).at(&mount.target)?);
    }
    child.prepared = prepared;
    Ok(())
}

/// Refuses targets that would undo the sandbox's own mounts.
fn check_target(target: &str) -> Result<(), Fault> {
    let is_kernels = ["/proc", "/sys"].iter().any(|dir| {
        target.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if !target.starts_with('/') {
        return Err(Fault::refused(format!("mount target `{target}` is not absolute")));
    }
    if is_kernels {
        return Err(Fault::refused(format!("nothing can be mounted on `{target}`")));
    }
    Ok(())
}

/// Looks where all mounts go, and makes the layer of mount points that the image lacks.
pub(super) fn find_mount_points(child: &mut Child) -> Result<(), Fault> {
    let stub = make_dir(child.scratch(), "stub", 0o755)?;
    let layers = child.layers();
    let mut seen: Vec<_> = layers.writable.iter().map(|(upper, _)| upper.as_fd()).collect();
    seen.extend(layers.lowers());
    let view = ImageView::open(&seen)?;
    let mut stubs = StubLayer::new(&view, stub);
    let mut targets = Targets::default();

    let mut kernel = |path| targets.add(&view, &mut stubs, path, true);
    let (proc, dev, sys) = (kernel("/proc")?, kernel("/dev")?, kernel("/sys")?);
    let mut etc = Vec::new();
    for (path, _) in super::etc::FILES {
        // An image may point such a file at the kernel's own (`/proc/mounts`, `/dev/null`).
        let located = view.locate(path)?;
        let is_kernels = [&proc, &dev, &sys].iter().any(|dir| located.path.starts_with(&dir.path));
        let place = (!is_kernels).then(|| targets.add(&view, &mut stubs, path, false));
        etc.push(place.transpose()?);
    }
    let mut mounts = Vec::new();
    for (mount, prepared) in child.spec.mounts.iter().zip(&child.prepared) {
        let located = targets.add(&view, &mut stubs, &mount.target, prepared.is_dir)?;
        if located.path.starts_with(&proc.path) || located.path.starts_with(&sys.path) {
            return Err(Fault::refused(format!("nothing can be mounted on `{}`", mount.target)));
        }
        mounts.push(located);
    }
    let ca = (!child.spec.ca_certs.is_empty())
        .then(|| ca_bundle::add_to_image(&view, &mut stubs, &child.spec.ca_certs));
    let ca = ca.transpose()?;
    let stub = stubs.finish()?;
    if let Some(ca) = &ca {
        ca.write_notes(&child.notes)?;
    }
    leave_behind(child, view.into_merged().as_ref())?;
    child.places = Some(Places { proc, dev, sys, etc, mounts });
    child.ca = ca;
    child.stub = stub;
    Ok(())
}

/// Leaves what takes long to let go of to the process that watches this one: the view, and the mount
/// namespace with all that is mounted in it, which would otherwise end before the command has ended.
fn leave_behind(child: &Child, view: Option<&OwnedFd>) -> Result<(), Fault> {
    let Some(attic) = &child.attic else { return Ok(()) };
    let left = [child.ground.namespace.as_ref(), view];
    let left: Vec<BorrowedFd<'_>> = left.into_iter().flatten().map(AsFd::as_fd).collect();
    Ok(wire::send(attic, &(), &left)?)
}

/// Mounts the overlay of all layers.
pub(super) fn mount_root(child: &mut Child) -> Result<(), Fault> {
    let scratch = child.scratch();
    let layers = child.layers();
    let empty = make_dir(scratch, "empty", 0o755)?;
    let mut lowers: Vec<BorrowedFd<'_>> = child.stub.iter().map(AsFd::as_fd).collect();
    lowers.extend(layers.lowers());
    if lowers.is_empty() {
        lowers.push(empty.as_fd());
    }
    let root = if let Some((upper, work)) = &layers.writable {
        overlay(&lowers, Some((upper.as_fd(), work.as_fd())))?
    } else {
        // Apart from the scratch memory, which is small: a command may write much.
        let memory = tmpfs("755", None, DATA)?;
        attach(&memory, make_dir(scratch, "changes", 0o700)?)?;
        let upper = make_dir(&memory, "upper", 0o755)?;
        let work = make_dir(&memory, "work", 0o700)?;
        // It hides the image's own root directory.
        if let Some(top) = layers.lowers.first() {
            copy_owner_and_mode(&rustix::fs::fstat(top)?, &upper)?;
        }
        if let Some(control) = child.control.as_ref().filter(|_| child.hands_out_changes) {
            wire::send(control, &Report::Changes, &[upper.as_fd()])?;
        }
        overlay(&lowers, Some((upper.as_fd(), work.as_fd())))?
    };
    attach(&root, make_dir(scratch, "root", 0o755)?)?;
    child.root = Some(root);
    Ok(())
}

/// Makes the root read-only where the spec asks for it, after the working directory was made.
pub(super) fn protect(child: &mut Child) -> Result<(), Fault> {
    if child.spec.is_read_only {
        super::sys::set_mount_attributes(child.root().as_fd(), READ_ONLY, false)?;
    }
    Ok(())
}

/// Attaches what the spec asks for, in its order.
pub(super) fn attach_mounts(child: &mut Child) -> Result<(), Fault> {
    let prepared: Vec<Prepared> = std::mem::take(&mut child.prepared);
    for (located, prepared) in child.places().mounts.iter().zip(&prepared) {
        attach_at(child.root(), &located.path, prepared)?;
    }
    Ok(())
}

/// Makes the overlay `/` and lets go of everything of this machine (`pivot_root(2)`, "NOTES").
pub(super) fn pivot(child: &mut Child) -> Result<(), Fault> {
    rustix::process::fchdir(child.root())?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}
