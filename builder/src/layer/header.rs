//! Header blocks and PAX records as bytes: what the reader and the writer share of the format.

use tar::{EntryType, Header};

use super::entry::{TarEntry, TarKind};
use super::read::TarError;

/// Size of a block: headers are one, content is padded to a multiple of it.
pub(crate) const BLOCK: usize = 512;

/// Prefix of PAX records that hold extended attributes.
pub(crate) const XATTR_RECORD: &[u8] = b"SCHILY.xattr.";

/// Largest number that seven octal digits hold: mode, uid, gid, device numbers.
const MAX_SEVEN_DIGITS: u32 = 0o777_7777;

/// Largest number that eleven octal digits hold: size and time.
const MAX_ELEVEN_DIGITS: u64 = 0o777_7777_7777;

/// Parses a number field: octal digits, or base 256 where the first bit is set (GNU).
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    // Two's complement over the whole field, the marker bit aside; what needs more than 64 bits
    // is no number that we accept.
    let first = i64::from(field[0] & 0x7f);
    let mut value = if first & 0x40 == 0 { first } else { first - 0x80 };
    for &byte in &field[1..] {
        value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
    }
    Some(value)
}

/// Spaces and NULs may stand around the digits; an empty field is zero.
fn octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(&is_blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(is_blank) {
        return None;
    }
    digits[..end].iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Whether the checksum field fits the block. Historic archives summed signed bytes.
pub(crate) fn checksum_fits(block: &[u8; BLOCK], stored: i64) -> bool {
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    stored == unsigned || stored == signed
}

/// Writes header and PAX records for `entry` to the end of `out`.
pub(crate) fn write_header(entry: &TarEntry, out: &mut Vec<u8>) -> Result<(), TarError> {
    let mut records = Vec::new();
    let mut path = entry.path.clone();
    if entry.kind == TarKind::Dir {
        path.push(b'/');
    }
    for (name, value) in &entry.xattrs {
        if name.contains(&b'=') {
            return Err(TarError::Xattr { path: lossy(&entry.path), name: lossy(name) });
        }
        record(&mut records, &[XATTR_RECORD, name].concat(), value);
    }
    if entry.gid > MAX_SEVEN_DIGITS {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    let long_path = path.len() > 100;
    let long_link = entry.link.len() > 100;
    let is_text = |long: bool, text: &[u8]| !long || std::str::from_utf8(text).is_ok();
    if !is_text(long_path, &path) || !is_text(long_link, &entry.link) {
        record(&mut records, b"hdrcharset", b"BINARY");
    }
    if long_link {
        record(&mut records, b"linkpath", &entry.link);
    }
    if entry.mtime.seconds < 0 || entry.mtime.seconds.cast_unsigned() > MAX_ELEVEN_DIGITS {
        record(&mut records, b"mtime", entry.mtime.seconds.to_string().as_bytes());
    }
    if long_path {
        record(&mut records, b"path", &path);
    }
    if entry.size > MAX_ELEVEN_DIGITS {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    if entry.uid > MAX_SEVEN_DIGITS {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    if !records.is_empty() {
        write_pax(&records, out);
    }
    out.extend_from_slice(main_header(entry, &path)?.as_bytes());
    Ok(())
}

/// Fields that do not fit hold zero: their PAX record says what they are.
fn main_header(entry: &TarEntry, path: &[u8]) -> Result<Header, TarError> {
    let mut header = Header::new_ustar();
    header.set_entry_type(match entry.kind {
        TarKind::File => EntryType::Regular,
        TarKind::HardLink => EntryType::Link,
        TarKind::Symlink => EntryType::Symlink,
        TarKind::CharDevice => EntryType::Char,
        TarKind::BlockDevice => EntryType::Block,
        TarKind::Dir => EntryType::Directory,
        TarKind::Fifo => EntryType::Fifo,
    });
    let id = |id: u32| u64::from(if id > MAX_SEVEN_DIGITS { 0 } else { id });
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(id(entry.uid));
    header.set_gid(id(entry.gid));
    header.set_size(if entry.size > MAX_ELEVEN_DIGITS { 0 } else { entry.size });
    let seconds = entry.mtime.seconds.max(0).cast_unsigned();
    header.set_mtime(if seconds > MAX_ELEVEN_DIGITS { 0 } else { seconds });
    put(&mut header.as_old_mut().name, path);
    put(&mut header.as_old_mut().linkname, &entry.link);
    if matches!(entry.kind, TarKind::CharDevice | TarKind::BlockDevice) {
        let (major, minor) = entry.device;
        header.set_device_major(major).map_err(TarError::Io)?;
        header.set_device_minor(minor).map_err(TarError::Io)?;
    }
    header.set_cksum();
    Ok(header)
}

fn put(field: &mut [u8; 100], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// A PAX header of a fixed name: what it is called is nobody's business, and must not vary.
fn write_pax(records: &[u8], out: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records.len() as u64);
    put(&mut header.as_old_mut().name, b"PaxHeaders.0/entry");
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    pad(out, records.len() as u64);
}

/// Appends the zeros that fill up the last block of `size` bytes.
pub(crate) fn pad(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size), 0);
}

/// Returns how many bytes fill up the last block of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).expect("padding is less than a block")
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself (POSIX pax, "pax Header Block").
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Splits PAX records, strictly: decimal length, a space, `KEY=VALUE`, a newline at the end.
pub(crate) fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, TarError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = next_record(bytes).ok_or(TarError::Pax)?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

fn next_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let digits = &bytes[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let key = &body[..equals];
    (!key.is_empty()).then_some(((key, &body[equals + 1..]), &bytes[length..]))
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
