//! Builds for another processor: its programs run where an emulator is registered.

use crate::support::{RBUILD, Ran, command, run};

/// What the program writes.
const GREETING: &str = "greetings from aarch64\n";

/// A static program of Linux on 64-bit ARM that writes [`GREETING`] (ELF-64, "Arm Architecture
/// Reference Manual", C6.2).
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let greeting = u32::try_from(GREETING.len()).expect("it is short");
    let instructions: [u32; 8] = [
        0xd280_0020,                   // mov x0, #1
        0x1000_0001 | (7 << 5),        // adr x1, 28 bytes from here
        0xd280_0002 | (greeting << 5), // mov x2, #length
        0xd280_0008 | (64 << 5),       // mov x8, #write
        0xd400_0001,                   // svc #0
        0xd280_0000,                   // mov x0, #0
        0xd280_0008 | (93 << 5),       // mov x8, #exit
        0xd400_0001,                   // svc #0
    ];
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // executable
    half(&mut elf, 183); // EM_AARCH64
    word(&mut elf, 1);
    long(&mut elf, BASE + HEADERS); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0);
    word(&mut elf, 0);
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut elf, value);
    }
    word(&mut elf, 1); // PT_LOAD
    word(&mut elf, 5); // readable, executable
    long(&mut elf, 0);
    long(&mut elf, BASE);
    long(&mut elf, BASE);
    let size = HEADERS + 32 + u64::from(greeting);
    long(&mut elf, size);
    long(&mut elf, size);
    long(&mut elf, 0x1000);
    for instruction in instructions {
        word(&mut elf, instruction);
    }
    elf.extend(GREETING.bytes());
    elf
}

/// In a user namespace of its own, whose emulators are nobody else's (Linux 6.7, `binfmt_misc`):
/// registers qemu if `$1` says so, and builds.
const SCRIPT: &str = r#"
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    if [ "$1" = emulated ]; then
        echo ":qemu-aarch64:M::$magic:$mask:/usr/bin/qemu-aarch64-static:F" \
            > /proc/sys/fs/binfmt_misc/register
    fi
    $2 --store $3/store --progress plain --network none --platform linux/arm64 --no-cache -t arm:1 $3
    code=$?; $2 --store $3/store doctor | grep '^[a-z]* *emulators'
    $2 --store $3/store inspect arm:1 2>/dev/null | grep Architecture; exit $code
"#;

fn build(kind: &str) -> Ran {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("greet"), program()).expect("it is ours");
    let dockerfile = "FROM scratch\nCOPY --chmod=755 greet /greet\nRUN [\"/greet\"]\n";
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).expect("it is ours");
    let mut command = command("unshare", &["-Urm", "sh", "-c", SCRIPT, "sh", kind, RBUILD]);
    run(command.arg(dir.path()))
}

#[test]
fn programs_of_another_processor_need_an_emulator() {
    let ran = build("emulated").ok().says("greetings from aarch64");
    assert!(ran.stdout.contains("qemu-aarch64") || ran.stdout.contains("aarch64"), "{ran:?}");
    ran.says("\"arm64\"").says("ok       emulators        aarch64");
    let ran = build("plain").fails_with(1).says("made for arm64, and this machine has no emulator");
    ran.says("limited  emulators");
}
