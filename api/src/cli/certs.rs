//! Certificate authorities for RUN steps.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use builder::blocking;

use crate::fault::Fault;

/// Bytes of one PEM file: the roots of a whole system are a quarter of a megabyte.
const FILE_LIMIT: u64 = 4 << 20;

/// Begins every certificate in a PEM file (RFC 7468, 5.1).
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Reads and joins PEM files.
pub(super) async fn read(paths: Vec<PathBuf>) -> Result<Vec<u8>, Fault> {
    blocking::run(move || read_all(&paths)).await
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<u8>, Fault> {
    let mut joined = Vec::new();
    for path in paths {
        let fault = |error: &std::io::Error| Fault::file("read the certificates in", path, error);
        let file = File::open(path).map_err(|error| fault(&error))?;
        let mut pem = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut pem).map_err(|error| fault(&error))?;
        let told = path.display();
        if pem.len() as u64 > FILE_LIMIT {
            return Err(Fault::user(format!("`{told}` is larger than {FILE_LIMIT} bytes")));
        }
        if !pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
            let what = format!("`{told}` holds no certificate in PEM form");
            let help = "a DER file becomes PEM by `openssl x509 -inform der -in FILE`";
            return Err(Fault::user(what).with_help(help));
        }
        joined.extend_from_slice(&pem);
        if !joined.ends_with(b"\n") {
            joined.push(b'\n');
        }
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_joined_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let one = file("one", "-----BEGIN CERTIFICATE-----\nA");
        let two = file("two", "# x\n-----BEGIN CERTIFICATE-----\nB\n");
        let joined = read_all(&[one.clone(), two]).unwrap();
        let want = "-----BEGIN CERTIFICATE-----\nA\n# x\n-----BEGIN CERTIFICATE-----\nB\n";
        assert_eq!(String::from_utf8(joined).unwrap(), want);
        for bad in [file("der", "\x30\x01"), dir.path().join("missing")] {
            let fault = read_all(&[one.clone(), bad.clone()]).unwrap_err();
            assert!(fault.causes[0].contains(bad.to_str().unwrap()), "{fault}");
        }
    }
}
