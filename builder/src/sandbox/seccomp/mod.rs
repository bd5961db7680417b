//! The system call filter: Docker's default profile as a classic BPF program (seccomp(2)).
//!
//! What is not allowed fails with `EPERM`, calls newer than the table with `ENOSYS`. Programs for
//! the 32-bit variant of the processor are filtered by the numbers of that variant.
//!
//! Since Linux 5.11 the kernel works out which calls are allowed whatever their arguments are, when
//! the filter is installed, and does not run it for them again. To do so it follows the program for
//! every number there is, on each architecture: so numbers are looked for as in a sorted list.

mod calls;

use std::sync::OnceLock;

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
};

use self::calls::{ALLOWED, NEWEST, NO};

/// Offsets in `struct seccomp_data`; arguments are 64 bits wide, in the machine's order.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

const DENY: u32 = SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const UNKNOWN: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// Namespaces that clone(2) may not make: all, `CLONE_NEWUSER` above all.
const NAMESPACES: u32 = 0x7e02_0000;

/// Socket families that are allowed. Among the others are `AF_ALG` (38) and `AF_VSOCK` (40).
const FAMILIES: [(u32, u32); 8] =
    [(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// Execution domains that are allowed (personality(2)): Linux, and one without address
/// randomisation, each with `UNAME26` or without; and the question which one is set.
const PERSONALITIES: [(u32, u32); 5] =
    [(0, 0), (8, 8), (0x2_0000, 0x2_0000), (0x2_0008, 0x2_0008), (u32::MAX, u32::MAX)];

/// An architecture: its `AUDIT_ARCH_*` value (linux/audit.h), its column in the table, and the
/// numbers of the calls with conditions.
#[derive(Debug)]
struct Architecture {
    audit: u32,
    column: usize,
    socket: u32,
    clone: u32,
    clone3: u32,
    personality: u32,
}

/// What this processor executes.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        audit: 0xc000_003e,
        column: 0,
        socket: 41,
        clone: 56,
        clone3: 435,
        personality: 135,
    },
    Architecture {
        audit: 0x4000_0003,
        column: 1,
        socket: 359,
        clone: 120,
        clone3: 435,
        personality: 136,
    },
];

/// What this processor executes.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        audit: 0xc000_00b7,
        column: 2,
        socket: 198,
        clone: 220,
        clone3: 435,
        personality: 92,
    },
    Architecture {
        audit: 0x4000_0028,
        column: 3,
        socket: 281,
        clone: 120,
        clone3: 435,
        personality: 136,
    },
];

/// Returns the filter, compiled once in a process and those that it forks.
pub(super) fn program() -> &'static [sock_filter] {
    static PROGRAM: OnceLock<Vec<sock_filter>> = OnceLock::new();
    PROGRAM.get_or_init(compile)
}

/// Compiles the filter.
fn compile() -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in &ARCHITECTURES {
        let section = section(architecture);
        // Sections are longer than a conditional jump reaches.
        program.push(jump(BPF_JEQ, architecture.audit, 1, 0));
        program.push(skip(section.len()));
        program.extend(section);
    }
    program.push(give(UNKNOWN));
    program
}

/// Numbers in a row, both ends included, and the instructions that decide on them.
#[derive(Debug)]
struct Range {
    start: u32,
    end: u32,
    decide: Vec<sock_filter>,
}

impl Range {
    fn allowed((start, end): (u32, u32)) -> Self {
        Self { start, end, decide: vec![give(SECCOMP_RET_ALLOW)] }
    }
}

/// Decides on the calls of one architecture.
fn section(architecture: &Architecture) -> Vec<sock_filter> {
    let no_namespaces = vec![
        load(FIRST_ARGUMENT),
        jump(BPF_JSET, NAMESPACES, 0, 1),
        give(DENY),
        give(SECCOMP_RET_ALLOW),
    ];
    let among = |allowed: &[(u32, u32)]| {
        let ranges: Vec<Range> = allowed.iter().copied().map(Range::allowed).collect();
        let mut decide = vec![load(FIRST_ARGUMENT)];
        decide.extend(search(&ranges, 0, 0));
        decide.push(give(DENY));
        decide
    };
    let conditions = [
        (architecture.socket, among(&FAMILIES)),
        (architecture.personality, among(&PERSONALITIES)),
        (architecture.clone, no_namespaces),
        // Its flags are in memory, which a filter cannot read; libraries fall back to clone(2).
        (architecture.clone3, vec![give(UNKNOWN)]),
    ];
    let mut numbers: Vec<u32> = ALLOWED.iter().map(|row| row.1[architecture.column]).collect();
    numbers.retain(|number| *number != NO);
    numbers.sort_unstable();
    let mut decided: Vec<Range> = ranges(&numbers).into_iter().map(Range::allowed).collect();
    decided.extend(conditions.map(|(number, decide)| Range { start: number, end: number, decide }));
    decided.sort_unstable_by_key(|range| range.start);

    let mut program = vec![load(NUMBER)];
    program.extend(search(&decided, 0, 0));
    program.extend([jump(BPF_JGT, NEWEST, 0, 1), give(UNKNOWN), give(DENY)]);
    program
}

/// Joins sorted numbers to ranges.
fn ranges(numbers: &[u32]) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// Decides on what was loaded if it lies in one of `ranges`, which ascend; goes on `behind`
/// instructions further for everything else. What comes here is not less than `least`.
fn search(ranges: &[Range], least: u32, behind: usize) -> Vec<sock_filter> {
    let mut program = Vec::new();
    match ranges {
        [] => program.push(skip(behind)),
        [range] => {
            if range.start > least {
                program.push(jump(BPF_JGE, range.start, 0, 1));
            }
            program.extend([jump(BPF_JGT, range.end, 0, 1), skip(range.decide.len() + behind)]);
            program.extend_from_slice(&range.decide);
        }
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let middle = upper[0].start;
            let upper = search(upper, middle, behind);
            let lower = search(lower, least, upper.len() + behind);
            // A conditional jump does not reach further.
            match u8::try_from(lower.len()) {
                Ok(count) => program.push(jump(BPF_JGE, middle, count, 0)),
                Err(_) => program.extend([jump(BPF_JGE, middle, 0, 1), skip(lower.len())]),
            }
            program.extend(lower);
            program.extend(upper);
        }
    }
    program
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn give(result: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, result, 0, 0)
}

/// Compares with `value` and skips so many instructions if true and if false.
fn jump(test: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, if_true, if_false)
}

fn skip(count: usize) -> sock_filter {
    let count = u32::try_from(count).expect("the program has less than 4096 instructions");
    instruction(BPF_JMP | BPF_JA, count, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = u16::try_from(code).expect("operation codes have 16 bits");
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter on one call, as the kernel would.
    fn decide(program: &[sock_filter], audit: u32, number: u32, argument: u32) -> u32 {
        let (mut position, mut value) = (0, 0);
        loop {
            let now = program[position];
            let taken = |condition| usize::from(if condition { now.jt } else { now.jf });
            position += 1;
            let code = u32::from(now.code);
            if code == BPF_LD | BPF_W | BPF_ABS {
                value = match now.k {
                    NUMBER => number,
                    ARCHITECTURE => audit,
                    FIRST_ARGUMENT => argument,
                    other => panic!("reads offset {other}"),
                };
            } else if code == BPF_RET | BPF_K {
                return now.k;
            } else if code == BPF_JMP | BPF_JA {
                position += now.k as usize;
            } else {
                position += taken(match code & 0xf0 {
                    BPF_JEQ => value == now.k,
                    BPF_JGT => value > now.k,
                    BPF_JGE => value >= now.k,
                    BPF_JSET => value & now.k != 0,
                    other => panic!("operation {other}"),
                });
            }
        }
    }

    #[test]
    fn every_number_is_decided_as_the_table_says() {
        let program = compile();
        assert!(program.len() < 4096, "BPF_MAXINSNS");
        for architecture in &ARCHITECTURES {
            let conditional = [
                architecture.socket,
                architecture.personality,
                architecture.clone,
                architecture.clone3,
            ];
            let numbers = (0..2000).chain(983_030..983_050).chain([0x4000_0000, u32::MAX - 1]);
            for number in numbers.filter(|number| !conditional.contains(number)) {
                let is_allowed = ALLOWED.iter().any(|row| row.1[architecture.column] == number);
                let want = match number {
                    _ if is_allowed => SECCOMP_RET_ALLOW,
                    ..=NEWEST => DENY,
                    _ => UNKNOWN,
                };
                let got = decide(&program, architecture.audit, number, 0);
                assert_eq!(got, want, "{number} of {architecture:?}");
            }
        }
        assert_eq!(decide(&program, 0xdead_beef, 0, 0), UNKNOWN, "another processor");
    }

    #[test]
    fn arguments_decide_where_they_should() {
        let program = compile();
        for architecture in &ARCHITECTURES {
            let Architecture { socket, clone, clone3, personality, .. } = *architecture;
            #[rustfmt::skip]
            let cases = [
                ("inet socket",       socket,      2,           SECCOMP_RET_ALLOW),
                ("netlink socket",    socket,      16,          SECCOMP_RET_ALLOW),
                ("econet socket",     socket,      19,          DENY),
                ("alg socket",        socket,      38,          DENY),
                ("vsock socket",      socket,      40,          DENY),
                ("last family",       socket,      45,          SECCOMP_RET_ALLOW),
                ("unknown family",    socket,      46,          DENY),
                ("negative family",   socket,      u32::MAX,    DENY),
                ("fork",              clone,       17,          SECCOMP_RET_ALLOW),
                ("thread",            clone,       0x003d_0f00, SECCOMP_RET_ALLOW),
                ("user namespace",    clone,       0x1000_0011, DENY),
                ("mount namespace",   clone,       0x0002_0011, DENY),
                ("network namespace", clone,       0x4000_0011, DENY),
                ("clone3",            clone3,      0,           UNKNOWN),
                ("linux",             personality, 0,           SECCOMP_RET_ALLOW),
                ("no randomisation",  personality, 0x0004_0000, DENY),
                ("32 bits",           personality, 8,           SECCOMP_RET_ALLOW),
                ("query",             personality, u32::MAX,    SECCOMP_RET_ALLOW),
            ];
            for (name, number, argument, want) in cases {
                let got = decide(&program, architecture.audit, number, argument);
                assert_eq!(got, want, "{name} of {architecture:?}");
            }
        }
    }

    #[test]
    fn calls_that_break_out_are_not_in_the_table() {
        let names = [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "open_by_handle_at",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "init_module",
            "kexec_load",
            "perf_event_open",
            "userfaultfd",
            "move_mount",
            "io_uring_setup",
            "open_tree",
            "fsopen",
            "pivot_root",
            "reboot",
            "swapon",
            "quotactl",
        ];
        for name in names {
            assert!(!ALLOWED.iter().any(|row| row.0 == name), "{name}");
        }
        assert!(ALLOWED.is_sorted(), "for those who read it");
    }

    /// The numbers of this processor are known to libc too.
    #[test]
    fn numbers_agree_with_libc() {
        let rows = [
            ("read", libc::SYS_read),
            ("openat", libc::SYS_openat),
            ("execve", libc::SYS_execve),
            ("ptrace", libc::SYS_ptrace),
            ("statx", libc::SYS_statx),
            ("faccessat2", libc::SYS_faccessat2),
            ("mseal", libc::SYS_mseal),
        ];
        let own = &ARCHITECTURES[0];
        for (name, number) in rows {
            let row = ALLOWED.iter().find(|row| row.0 == name).unwrap();
            assert_eq!(i64::from(row.1[own.column]), number, "{name}");
        }
        assert_eq!(i64::from(own.socket), libc::SYS_socket);
        assert_eq!(i64::from(own.clone), libc::SYS_clone);
        assert_eq!(i64::from(own.clone3), libc::SYS_clone3);
        assert_eq!(i64::from(own.personality), libc::SYS_personality);
    }
}
