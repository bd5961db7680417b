//! `RUN --device` by CDI names: specs that a maker of devices would install.

use std::fs;
use std::path::Path;

use crate::support::{Ran, bases, context, rbuild, run};

/// Builds on busybox with the specs in `dir/cdi`.
fn build(dir: &Path, steps: &str, allow: &str) -> Ran {
    let context = context(&[("Dockerfile", &format!("FROM busybox\n{steps}"))]);
    let config = dir.join("rbuild.toml");
    fs::write(&config, "[run]\ncdi_dirs = [\"cdi\"]\n").expect("a directory of ours");
    let args = ["--progress", "plain", "--network", "none", "--no-cache", "--allow", allow];
    run(rbuild(bases(), &args).arg(context.path()).env("RBUILD_CONFIG", config))
}

#[test]
fn a_step_gets_what_the_spec_of_its_device_says() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("cdi")).unwrap();
    fs::create_dir(dir.path().join("lib")).unwrap();
    fs::write(dir.path().join("lib/driver"), "of the maker\n").unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("node")).unwrap();
    let here = dir.path().display();
    let spec = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "vendor.com/class",
        "containerEdits": {{
            "env": ["DRIVER=1"],
            "mounts": [{{"hostPath": "{here}/lib", "containerPath": "/opt/driver",
                         "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}}]}},
        "devices": [
            {{"name": "one", "containerEdits": {{
                "env": ["ONE=1"], "additionalGids": [0, 4711],
                "deviceNodes": [{{"path": "/dev/vendor/one", "hostPath": "{here}/node",
                                  "major": 1, "minor": 5, "fileMode": 416, "gid": 4711}}]}}}},
            {{"name": "two", "containerEdits": {{"env": ["TWO=1"]}}}},
            {{"name": "hook", "containerEdits": {{"hooks": [
                {{"hookName": "createContainer", "path": "/usr/bin/vendor-hook"}}]}}}}]}}"#
    );
    fs::write(dir.path().join("cdi/vendor.json"), spec).unwrap();
    fs::write(dir.path().join("cdi/other.yaml"), "kind: other.com/class\n").unwrap();

    let one = "RUN --device=vendor.com/class=one,required head -c1 /dev/vendor/one | cmp -n1 - /dev/zero \\\n\
         && stat -c %a:%g /dev/vendor/one && echo \"$DRIVER $ONE [$TWO]\" && id -G \\\n\
         && cat /opt/driver/driver && ! touch /opt/driver/x\n\
         RUN test -z \"$DRIVER\" -a ! -e /dev/vendor -a ! -e /opt/driver/driver\n\
         USER 1000:4711\n\
         RUN --device=vendor.com/class=one head -c1 /dev/vendor/one && test ! -w /dev/vendor/one\n";
    let ran = build(dir.path(), one, "device=vendor.com/class=one").ok();
    ran.says("640:4711").says("1 1 []").says("0 4711").says("of the maker");
    let all =
        "RUN --device=vendor.com/class=two --device=vendor.com/class=one echo $DRIVER $ONE $TWO\n";
    build(dir.path(), all, "device=vendor.com/class").ok().says("1 1 1");

    let two = "RUN --device=vendor.com/class=two true\n";
    build(dir.path(), two, "device=vendor.com/class=one")
        .fails_with(1)
        .says("it needs the entitlement `device=vendor.com/class=two`");
    let hook = "RUN --device=vendor.com/class=hook true\n";
    build(dir.path(), hook, "device").fails_with(1).says("the hook createContainer");
    let missing = "RUN --device=vendor.com/class=three test -z \"$DRIVER\"\n";
    build(dir.path(), missing, "device").ok().says("has this device; not read: `").says("YAML");
    let required = "RUN --device=name=other.com/class=x,required true\n";
    build(dir.path(), required, "device").fails_with(1).says("YAML is not read");
}
