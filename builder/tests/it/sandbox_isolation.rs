//! What a step sees of the machine, and what it may do, looked at from inside.

use std::fs;

use crate::sandbox::{Image, is_root, run};

/// The value of a field of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

#[test]
fn every_namespace_is_its_own() {
    let image = Image::busybox();
    let script =
        "for ns in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$ns; done; echo $$";
    let outcome = run(&image.script(script));
    let inside: Vec<&str> = outcome.text().lines().collect();
    for (index, name) in ["mnt", "pid", "ipc", "uts", "net", "cgroup"].into_iter().enumerate() {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(inside[index], outside.to_str().unwrap(), "{name}");
    }
    assert_eq!(inside[6], "1", "the command is the first process");
}

#[test]
fn root_has_dockers_capabilities_and_others_none() {
    let image = Image::busybox();
    let mut spec = image.spec(&["cat", "/proc/self/status"]);
    let outcome = run(&spec);
    let status = outcome.text();
    #[rustfmt::skip]
    let wants = [
        ("CapPrm", "00000000a80425fb"), ("CapEff", "00000000a80425fb"), ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"), ("CapAmb", "0000000000000000"), ("NoNewPrivs", "0"),
        ("Seccomp", "2"), ("SigIgn", "0000000000000000"), ("SigBlk", "0000000000000000"),
        ("Umask", "0022"), ("NSsid", "1"), ("Uid", "0\t0\t0\t0"), ("Gid", "0\t0\t0\t0"),
    ];
    for (name, want) in wants {
        assert_eq!(field(status, name), want, "{name}");
    }
    if !is_root() {
        return; // Other ids need a subordinate range: see `sandbox_rootless`.
    }
    image.renew();
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1002, 1003]);
    let outcome = run(&spec);
    let status = outcome.text();
    #[rustfmt::skip]
    let wants = [
        ("CapPrm", "0000000000000000"), ("CapEff", "0000000000000000"), ("CapBnd", "00000000a80425fb"),
        ("Uid", "1000\t1000\t1000\t1000"), ("Gid", "1001\t1001\t1001\t1001"), ("Groups", "1002 1003"),
    ];
    for (name, want) in wants {
        assert_eq!(field(status, name), want, "{name} of a user");
    }
}

#[test]
fn nothing_of_the_machine_lies_on_the_root() {
    let image = Image::busybox();
    // `..` crosses what is mounted on the directory that it leads to, where `/` alone does not.
    let script = "cut -d' ' -f5 /proc/self/mountinfo | grep -cx /
        for path in / /. /proc/.. /etc/../. /dev/pts/../..; do stat -c %d:%i $path; done | uniq | wc -l
        cd /etc/.. && ls -d bin";
    let outcome = run(&image.script(script));
    assert_eq!(outcome.text(), "1\n1\nbin", "{outcome:?}");
}

#[test]
fn kernel_files_are_masked_or_read_only() {
    let image = Image::busybox();
    let script = r#"
        for f in acpi asound interrupts kcore keys latency_stats sched_debug scsi timer_list timer_stats; do
            p=/proc/$f
            [ -d $p ] && [ -n "$(ls -A $p)" ] && echo "$p has entries"
            [ -e $p ] && [ ! -d $p ] && [ -n "$(head -c 1 $p)" ] && echo "$p has content"
        done
        for d in /sys/firmware /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle; do
            [ -d $d ] && [ -n "$(ls -A $d)" ] && echo "$d has entries"
        done
        for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /proc/irq/default_smp_affinity /sys/kernel/mm/ksm/run /sys/power/state; do
            [ -e $f ] && (echo 1 > $f) 2>/dev/null && echo "$f was written"
        done
        mkdir /sys/x /proc/fs/x 2>/dev/null && echo "made a directory"
        mount -t tmpfs none /bin 2>/dev/null && echo "mounted"
        mount -o remount,rw /proc/sys 2>/dev/null && echo "remounted"
        umount /proc/keys 2>/dev/null && echo "unmasked"
        unshare -U true 2>/dev/null && echo "made a user namespace"
        true
    "#;
    assert_eq!(run(&image.script(script)).text(), "");
}

#[test]
fn device_nodes_of_its_own_making_open_nothing() {
    let image = Image::busybox();
    // The number of a loop device, whose driver every kernel has, and of kernel messages.
    let script = r#"
        for dir in / /dev /dev/shm /tmpfs; do
            cd $dir
            mknod disk b 7 0 2>/dev/null && (: < disk) 2>/dev/null && echo "opened a disk in $dir"
            mknod kmsg c 1 11 2>/dev/null && (: < kmsg) 2>/dev/null && echo "opened kmsg in $dir"
        done
        echo test > /dev/null && head -c 3 /dev/zero | od -An -tx1
        (echo x > /dev/full) 2>&1 | grep -o 'No space left'
        head -c 8 /dev/urandom | wc -c
        ls /dev
    "#;
    let mut spec = image.script(script);
    spec.mounts = vec![crate::sandbox::mount("/tmpfs", builder::MountSource::Tmpfs { size: None })];
    let nodes = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let made = if is_root() { ["disk", "kmsg"].as_slice() } else { &[] };
    let mut names: Vec<&str> = nodes.split(' ').chain(made.iter().copied()).collect();
    names.sort_unstable();
    let want = format!(" 00 00 00\nNo space left\n8\n{}", names.join("\n"));
    assert_eq!(run(&spec).text(), want);
}

#[test]
fn nothing_of_the_caller_is_inherited() {
    let image = Image::busybox();
    #[rustfmt::skip]
    let cases = [
        ("descriptors", image.script("for fd in $(seq 0 99); do [ -e /proc/1/fd/$fd ] && echo $fd; done; true"), "0\n1\n2"),
        ("environment", image.spec(&["env"]),                        "PATH=/bin\nA=b c\nEMPTY="),
        ("input",       image.spec(&["cat"]),                        ""),
        ("terminal",    image.script("(: < /dev/tty) 2>/dev/null && echo yes; tty"), "not a tty"),
        ("hostname",    image.script("hostname; cat /etc/hostname"), "rbuild\nrbuild"),
        ("open files",  image.script("ulimit -Sn; ulimit -c"),       "1024\n0"),
        ("keyring",     image.script("cat /proc/keys"),              ""),
    ];
    for (name, mut spec, want) in cases {
        image.renew();
        let more = [("A", "b c"), ("EMPTY", "")];
        spec.env.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let outcome = run(&spec);
        assert_eq!(outcome.stdout.trim_end(), want, "{name}: {outcome:?}");
    }
}

#[test]
fn the_builder_cannot_be_executed_from_inside() {
    let image = Image::busybox();
    std::os::unix::fs::symlink("/proc/self/exe", image.lower("bin/innocent")).unwrap();
    for command in ["/proc/self/exe", "innocent", "/bin/innocent"] {
        image.renew();
        let outcome = run(&image.spec(&[command]));
        assert_eq!(outcome.exit_code, Some(126), "{command}: {outcome:?}");
    }
}

#[test]
fn hosts_and_resolvers_are_made_for_the_step() {
    let image = Image::busybox();
    let mut spec = image.script("cat /etc/hosts; wc -c < /etc/resolv.conf; echo x >> /etc/hosts");
    spec.extra_hosts = vec![("db".to_owned(), "192.0.2.7".to_owned())];
    let outcome = run(&spec);
    assert!(outcome.text().contains("127.0.0.1\trbuild\n192.0.2.7\tdb\n0"), "{outcome:?}");
    assert_eq!(image.changes(), [""; 0], "the files are not part of the layer");
}
