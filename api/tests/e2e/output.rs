//! A step's output: complete, byte for byte, and never a burden to the step.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{bases, context, rbuild, run};

/// Bytes of output.
const LOG_BYTES: usize = 200 << 20;

/// Collects the bytes of stdout and stderr from `--progress json`.
fn output_of(json: &str) -> (Vec<u8>, Vec<u8>) {
    use base64::Engine as _;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for line in json.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        if event["event"] == "step-output" {
            let out = if event["stream"] == "stdout" { &mut stdout } else { &mut stderr };
            match (event["text"].as_str(), event["base64"].as_str()) {
                (Some(text), _) => out.extend_from_slice(text.as_bytes()),
                (_, Some(text)) => out.extend(
                    base64::engine::general_purpose::STANDARD.decode(text).expect("it is base64"),
                ),
                _ => panic!("no bytes in {line}"),
            }
        }
    }
    (stdout, stderr)
}

#[test]
fn every_byte_arrives_in_its_stream() {
    let dir = context(&[(
        "Dockerfile",
        "FROM busybox\n\
         RUN printf 'a\\377\\000\\033[31mred\\r\\n' && printf 'caf\\303' && sleep 0.1 && printf '\\251' \\\n\
           && printf 'err\\376' >&2 && head -c 3000000 /dev/zero | tr '\\0' x\n",
    )]);
    let ran = run(rbuild(bases(), &["--no-cache", "--progress", "json"]).arg(dir.path())).ok();
    let (stdout, stderr) = output_of(&ran.stdout);
    let mut want = b"a\xff\x00\x1b[31mred\r\ncaf\xc3\xa9".to_vec();
    want.resize(want.len() + 3_000_000, b'x');
    assert!(stdout == want, "{} of {} bytes", stdout.len(), want.len());
    assert_eq!(stderr, b"err\xfe");
}

/// The reader takes nothing until the step has long ended; the step ends in time all the same,
/// and everything is there afterwards.
#[test]
fn a_slow_reader_holds_no_step_up_and_misses_nothing() {
    let marker = tempfile::tempdir().unwrap();
    let dir = context(&[(
        "Dockerfile",
        &format!(
            "FROM busybox\n\
             RUN --mount=type=cache,id=e2e-slow,target=/m rm -f /m/done; \
             yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {LOG_BYTES}; touch /m/done\n\
             FROM busybox\n\
             COPY --from=0 /etc /e\n"
        ),
    )]);
    let mut build = rbuild(bases(), &["--no-cache", "--progress", "json"]);
    let out = marker.path().join("layer");
    build.arg("-o").arg(format!("type=local,dest={}", out.display()));
    let since = Instant::now();
    let mut child = build
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The build's result appears though nobody has read a byte of its output.
    while !out.join("e").exists() {
        assert!(since.elapsed() < Duration::from_secs(120), "the step waits for its reader");
        assert!(child.try_wait().unwrap().is_none(), "the build ended early");
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200 << 10, "memory is bounded: {peak} KiB for a log of 200 MiB");
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let (stdout, _) = output_of(&text);
    assert_eq!(stdout.len(), LOG_BYTES);
    let line = b"0123456789abcdefghijklmnopqrstuvwxyz\n";
    assert!(stdout.chunks(line.len()).all(|part| line.starts_with(part)), "every byte is right");
}
