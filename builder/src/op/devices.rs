//! `RUN --device`: from what is asked for to what the sandbox gives.

use std::path::{Path, PathBuf};

use frontend::RunOp;

use super::cdi::{Catalog, EditMount, EditNode, Edits, is_kind};
use super::error::OpError;
use crate::sandbox::{DeviceNode, MountSource, SandboxMount, SandboxSpec};

/// One `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRequest<'a> {
    /// A path below `/dev`, or a CDI name.
    pub(crate) name: &'a str,
    is_required: bool,
}

impl<'a> DeviceRequest<'a> {
    /// Takes `NAME`, `name=NAME` and `required` apart; the frontend has checked the fields.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (required, names): (Vec<&str>, Vec<&str>) =
            text.split(',').partition(|field| field.starts_with("required"));
        let name = names.first().copied().unwrap_or_default();
        Self {
            name: name.strip_prefix("name=").unwrap_or(name),
            is_required: required.iter().any(|field| *field != "required=false"),
        }
    }
}

/// Adds the devices of `op` to `spec`; specs of devices are looked for in `dirs`. Returns what is to
/// be told of those that are not here and need not be.
pub(super) fn add(
    op: &RunOp,
    dirs: &[PathBuf],
    spec: &mut SandboxSpec,
) -> Result<Vec<String>, OpError> {
    let mut notes = Vec::new();
    let mut catalog = None;
    for text in &op.devices {
        let request = DeviceRequest::parse(text);
        let error = |reason: String| OpError::Device { device: request.name.to_owned(), reason };
        let missing = if request.name.starts_with("/dev/") {
            let node = node_below_dev(request.name).map_err(error)?;
            let is_here = std::fs::symlink_metadata(&node.host).is_ok();
            if is_here {
                spec.devices.push(node);
            }
            (!is_here).then(|| "this machine has no such device".to_owned())
        } else if is_kind(request.name.split('=').next().unwrap_or_default()) {
            let catalog = catalog.get_or_insert_with(|| Catalog::read(dirs));
            let edits = catalog.find(request.name);
            edits.iter().try_for_each(|edits| apply(edits, spec)).map_err(error)?;
            edits.is_empty().then(|| no_spec(dirs, catalog.faults()))
        } else {
            let forms = "a path below /dev and a CDI name (vendor.com/class=name) is";
            return Err(error(format!("that is no device; {forms}")));
        };
        match missing {
            Some(reason) if request.is_required => return Err(error(reason)),
            Some(reason) => {
                notes.push(format!("RUN --device={text}: {reason}; the step runs without it"));
            }
            None => {}
        }
    }
    Ok(notes)
}

fn no_spec(dirs: &[PathBuf], faults: &[String]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let mut text = format!("no CDI spec in {} has this device", dirs.join(", "));
    if !faults.is_empty() {
        text = format!("{text}; not read: {}", faults.join("; "));
    }
    text
}

/// The node of a path below `/dev`, which is the same inside.
fn node_below_dev(path: &str) -> Result<DeviceNode, String> {
    let is_path = path
        .strip_prefix("/dev/")
        .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if !is_path {
        return Err(format!("`{path}` is no plain path below /dev"));
    }
    let host = PathBuf::from(path);
    Ok(DeviceNode { path: path.to_owned(), host, mode: None, uid: None, gid: None })
}

/// Does what a spec of a device says.
fn apply(edits: &Edits, spec: &mut SandboxSpec) -> Result<(), String> {
    if let Some(hook) = edits.hooks.first() {
        return Err(format!(
            "its CDI spec has the hook {} (`{}`), which would run outside of the sandbox: hooks \
             are not supported",
            hook.hook_name, hook.path
        ));
    }
    for variable in &edits.env {
        let (name, value) = variable
            .split_once('=')
            .ok_or_else(|| format!("its CDI spec has the variable `{variable}` without a value"))?;
        spec.env.retain(|(other, _)| other != name);
        spec.env.push((name.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        let node = device_node(node)?;
        spec.devices.retain(|other| other.path != node.path);
        spec.devices.push(node);
    }
    for mount in &edits.mounts {
        spec.mounts.push(bind(mount)?);
    }
    spec.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
    Ok(())
}

fn device_node(edit: &EditNode) -> Result<DeviceNode, String> {
    let host = edit.host_path.as_deref().unwrap_or(&edit.path);
    // The sandbox follows no links among devices; the maker's may.
    let host = Path::new(host)
        .canonicalize()
        .map_err(|error| format!("its node `{host}` of this machine: {error}"))?;
    let found = Numbers::of(&host)?;
    let wanted = [
        edit.r#type.as_ref().is_none_or(|kind| kind.starts_with(found.kind) || kind == "u"),
        edit.major.is_none_or(|major| major == found.major),
        edit.minor.is_none_or(|minor| minor == found.minor),
    ];
    if wanted.contains(&false) {
        let Numbers { kind, major, minor } = found;
        return Err(format!(
            "its node `{}` is the device {kind} {major}:{minor} on this machine, and another in \
             its CDI spec",
            host.display()
        ));
    }
    if let Some(permissions) = &edit.permissions
        && !(permissions.contains('r') && permissions.contains('w'))
    {
        return Err(format!(
            "its CDI spec allows `{permissions}` for `{}`: less than reading and writing cannot be \
             enforced",
            edit.path
        ));
    }
    let node = node_below_dev(&edit.path)?;
    Ok(DeviceNode { host, mode: edit.file_mode, uid: edit.uid, gid: edit.gid, ..node })
}

/// What a device node is.
struct Numbers {
    kind: char,
    major: u32,
    minor: u32,
}

impl Numbers {
    fn of(path: &Path) -> Result<Self, String> {
        use rustix::fs::{FileType, major, minor};
        let stat =
            rustix::fs::lstat(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => 'c',
            FileType::BlockDevice => 'b',
            _ => return Err(format!("`{}` of this machine is no device", path.display())),
        };
        Ok(Self { kind, major: major(stat.st_rdev), minor: minor(stat.st_rdev) })
    }
}

/// A bind mount; what a step's mount has anyway (`nosuid`, `nodev`, private) may be said.
fn bind(edit: &EditMount) -> Result<SandboxMount, String> {
    const KNOWN: [&str; 11] = [
        "ro", "rw", "bind", "rbind", "nosuid", "nodev", "private", "rprivate", "slave", "rslave",
        "relatime",
    ];
    let refuse = |what: &str| {
        format!("its CDI spec mounts `{}` {what}, which is not supported", edit.container_path)
    };
    let kind = edit.r#type.as_deref().unwrap_or_default();
    if !matches!(kind, "" | "none" | "bind") {
        return Err(refuse(&format!("as `{kind}`")));
    }
    if let Some(option) = edit.options.iter().find(|it| !KNOWN.contains(&it.as_str())) {
        return Err(refuse(&format!("with the option `{option}`")));
    }
    let has = |name: &str| edit.options.iter().any(|option| option == name);
    if !edit.host_path.starts_with('/') {
        return Err(refuse(&format!("from the relative path `{}`", edit.host_path)));
    }
    let source = MountSource::Bind {
        root: PathBuf::from("/"),
        path: edit.host_path.clone(),
        writable: !has("ro"),
        is_recursive: has("rbind"),
    };
    Ok(SandboxMount { target: edit.container_path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        #[rustfmt::skip]
        let cases = [
            ("/dev/fuse",                    "/dev/fuse", false),
            ("v.com/a=b,required",           "v.com/a=b", true),
            ("name=v.com/a,required=true",   "v.com/a",   true),
            ("required=false,name=v.com/a=*", "v.com/a=*", false),
        ];
        for (text, name, is_required) in cases {
            assert_eq!(DeviceRequest::parse(text), DeviceRequest { name, is_required }, "{text}");
        }
    }

    fn edits(text: &str) -> Result<SandboxSpec, String> {
        let edits: Edits = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut spec = SandboxSpec::new(Vec::new(), Vec::new());
        spec.env.push(("A".to_owned(), "of the image".to_owned()));
        apply(&edits, &mut spec).map(|()| spec)
    }

    #[test]
    fn edits_change_what_is_run() {
        let spec = edits(
            r#"{"env": ["A=1", "B=x=y"], "additionalGids": [0, 44],
                "deviceNodes": [{"path": "/dev/v/zero", "hostPath": "/dev/zero", "major": 1,
                                 "minor": 5, "type": "c", "fileMode": 432, "permissions": "rwm"}],
                "mounts": [{"hostPath": "/usr/lib", "containerPath": "/v", "options": ["ro", "rbind"]}]}"#,
        )
        .unwrap();
        let pairs = [("A", "1"), ("B", "x=y")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(spec.env, pairs);
        assert_eq!(spec.groups, [44]);
        let node = &spec.devices[0];
        assert_eq!(
            (node.path.as_str(), node.host.as_path()),
            ("/dev/v/zero", Path::new("/dev/zero"))
        );
        assert_eq!(node.mode, Some(0o660));
        let MountSource::Bind { writable, is_recursive, .. } = spec.mounts[0].source else {
            panic!()
        };
        assert_eq!((writable, is_recursive), (false, true));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let node = |rest: &str| format!(r#"{{"deviceNodes": [{{{rest}}}]}}"#);
        let mount = |rest: &str| {
            format!(r#"{{"mounts": [{{"hostPath": "/usr", "containerPath": "/v", {rest}}}]}}"#)
        };
        #[rustfmt::skip]
        let cases = [
            (r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}"#.to_owned(), "hook createContainer (`/bin/x`)"),
            (r#"{"intelRdt": {}}"#.to_owned(),                          "unknown field `intelRdt`"),
            (r#"{"env": ["A"]}"#.to_owned(),                            "`A` without a value"),
            (node(r#""path": "/dev/null", "minor": 9"#),                "is the device c 1:3"),
            (node(r#""path": "/dev/null", "type": "b"#.to_owned().as_str()), "EOF"),
            (node(r#""path": "/dev/null", "type": "b""#),               "is the device c 1:3"),
            (node(r#""path": "/dev/null", "permissions": "r""#),        "cannot be enforced"),
            (node(r#""path": "/nul", "hostPath": "/dev/null""#),        "no plain path below /dev"),
            (node(r#""path": "/dev/../x", "hostPath": "/dev/null""#),   "no plain path below /dev"),
            (node(r#""path": "/dev/x", "hostPath": "/usr""#),           "is no device"),
            (mount(r#""options": ["noexec"]"#),                         "option `noexec`"),
            (mount(r#""type": "tmpfs""#),                               "as `tmpfs`"),
        ];
        for (text, want) in cases {
            let error = edits(&text).map(drop).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
