//! From PATH and `-f` to where the files and the Dockerfile come from.

use std::fs;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use builder::{ContextInput, DockerfileInput};

use crate::fault::Fault;

/// Largest Dockerfile taken from standard input (bytes).
const TEXT_LIMIT: u64 = 1 << 20;

/// Size of a tar's header block: enough to tell what standard input holds.
const BLOCK: usize = 512;

/// Looks at PATH, `-f` and, where asked to, standard input. Blocking.
///
/// # Errors
///
/// Whatever is not there, or cannot be what it is used as.
pub(super) fn open(
    path: &Path,
    file: Option<&Path>,
) -> Result<(ContextInput, DockerfileInput), Fault> {
    let dash = Path::new("-");
    if path == dash {
        if file == Some(dash) {
            let what = "context and Dockerfile cannot both come from standard input";
            return Err(Fault::user(what));
        }
        return from_stdin(standard_input()?, file);
    }
    if is_url(path) {
        return of_url(path, file);
    }
    check_directory(path)?;
    let dockerfile = match file {
        None => DockerfileInput::InContext(None),
        Some(file) if file == dash => DockerfileInput::Inline(read_text(standard_input()?)?),
        Some(file) => find_dockerfile(path, file)?,
    };
    Ok((ContextInput::Directory(path.to_owned()), dockerfile))
}

fn standard_input() -> Result<impl Read + Send + 'static, Fault> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let what = "`-` reads standard input, which is a terminal";
        return Err(Fault::user(what).with_help("pipe a tar or a Dockerfile into rbuild"));
    }
    Ok(stdin)
}

/// Tells a tar, plain or compressed, from the text of a Dockerfile.
fn from_stdin(
    mut stdin: impl Read + Send + 'static,
    file: Option<&Path>,
) -> Result<(ContextInput, DockerfileInput), Fault> {
    let mut head = Vec::with_capacity(BLOCK);
    stdin.by_ref().take(BLOCK as u64).read_to_end(&mut head).map_err(|error| unreadable(&error))?;
    let is_archive = is_archive(&head);
    let all = io::Cursor::new(head).chain(stdin);
    if is_archive {
        let name = file.map(|file| file.to_str().map(str::to_owned).ok_or_else(|| not_text(file)));
        let dockerfile = DockerfileInput::InContext(name.transpose()?);
        return Ok((ContextInput::Tar(Box::new(all)), dockerfile));
    }
    let text = read_text(all)?;
    match file {
        None => Ok((ContextInput::Empty, DockerfileInput::Inline(text))),
        Some(file) => Err(Fault::user(format!(
            "standard input is no tar, and `{}` cannot be looked for in it",
            file.display()
        ))),
    }
}

fn read_text(source: impl Read) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    source.take(TEXT_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > TEXT_LIMIT {
        let what = format!("the Dockerfile on standard input is larger than {TEXT_LIMIT} bytes");
        return Err(Fault::user(what));
    }
    if bytes.trim_ascii().is_empty() {
        return Err(Fault::user("standard input is empty: expected a tar or a Dockerfile"));
    }
    String::from_utf8(bytes)
        .map_err(|_| Fault::user("standard input is neither a tar nor the text of a Dockerfile"))
}

fn unreadable(error: &io::Error) -> Fault {
    let mut fault = Fault::user("could not read standard input");
    fault.causes.push(error.to_string());
    fault
}

fn not_text(path: &Path) -> Fault {
    Fault::user(format!("`{}` is not valid UTF-8", path.display()))
}

/// Tells whether `head` begins a tar or a compressed file.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || is_tar_header(head)
}

/// Checks a header's sum, which even the oldest tars have (POSIX.1-2017, pax, "ustar Interchange
/// Format"); a block of zeros is the end of an empty tar.
fn is_tar_header(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    if head.len() < BLOCK {
        return false;
    }
    if head.iter().all(|&byte| byte == 0) {
        return true;
    }
    let sum: u32 = head
        .iter()
        .enumerate()
        .map(|(index, &byte)| u32::from(if SUM.contains(&index) { b' ' } else { byte }))
        .sum();
    let told = head[SUM].iter().copied().filter(u8::is_ascii_digit).collect();
    String::from_utf8(told).is_ok_and(|told| u32::from_str_radix(&told, 8) == Ok(sum))
}

/// Whether `path` names a context that the builder fetches. A directory of that name goes first.
fn is_url(path: &Path) -> bool {
    const PREFIXES: [&str; 6] = ["http://", "https://", "git://", "git@", "ssh://", "github.com/"];
    let text = path.to_string_lossy();
    let is_url = PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || frontend::parse_git_source(&text).is_ok_and(|git| git.is_some());
    is_url && fs::metadata(path).is_err()
}

/// Tells the Dockerfile of a context that is elsewhere: there, unless it is text at hand.
fn of_url(path: &Path, file: Option<&Path>) -> Result<(ContextInput, DockerfileInput), Fault> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| not_text(path));
    let dockerfile = match file {
        Some(file) if file == Path::new("-") => {
            DockerfileInput::Inline(read_text(standard_input()?)?)
        }
        file => DockerfileInput::InContext(file.map(text).transpose()?),
    };
    Ok((ContextInput::Url(text(path)?), dockerfile))
}

fn check_directory(path: &Path) -> Result<(), Fault> {
    let told = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Fault::user(format!("the context `{told}` is not a directory"))
            .with_help("name the directory, and the Dockerfile with -f")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fault = Fault::user(format!("the context directory `{told}` does not exist"));
            // What is no path may be meant as a command.
            let is_word = path.components().count() == 1;
            let help = format!("`rbuild --help` lists the commands; `{told}` is none");
            Err(if is_word { fault.with_help(help) } else { fault })
        }
        Err(error) => Err(Fault::file("read the context", path, &error)),
    }
}

/// Finds the Dockerfile from here, else in the context. One that lies in the context is named as
/// such, so that its own ignore file is found and a service need not get it twice.
fn find_dockerfile(context: &Path, file: &Path) -> Result<DockerfileInput, Fault> {
    if fs::metadata(file).is_ok() {
        return Ok(match within(context, file) {
            Some(inside) => DockerfileInput::InContext(Some(inside)),
            None => DockerfileInput::File(file.to_owned()),
        });
    }
    if file.is_relative() && fs::metadata(context.join(file)).is_ok() {
        let inside = within(context, &context.join(file));
        return inside
            .map(|inside| DockerfileInput::InContext(Some(inside)))
            .ok_or_else(|| Fault::user(format!("`{}` leads out of the context", file.display())));
    }
    let what = format!("the Dockerfile `{}` does not exist", file.display());
    let help = format!("looked for here and in `{}`", context.display());
    Err(Fault::user(what).with_help(help))
}

/// Returns the path of `file` below `context`, if that is where it lies. A link in its last part
/// is not followed: the builder does that, within the context.
fn within(context: &Path, file: &Path) -> Option<String> {
    let context = fs::canonicalize(context).ok()?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
    let inside: PathBuf = dir.strip_prefix(context).ok()?.join(file.file_name()?);
    inside.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_old();
        header.set_size(0);
        builder.append_data(&mut header, "a", io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn standard_input_is_told_apart() {
        let told = |bytes: Vec<u8>, file: Option<&str>| match from_stdin(
            io::Cursor::new(bytes),
            file.map(Path::new),
        ) {
            Ok((context, dockerfile)) => format!("{context:?} {dockerfile:?}"),
            Err(fault) => fault.causes[0].clone(),
        };
        let text = || b"FROM a\n".to_vec();
        #[rustfmt::skip]
        let cases = [
            ("dockerfile",  text(), None, r#"Empty Inline("FROM a\n")"#),
            ("long one",    b"# x\nFROM a\n".repeat(300), None, &format!("Empty Inline({:?})", "# x\nFROM a\n".repeat(300))),
            ("old tar",     tar(), None, "Tar InContext(None)"),
            ("empty tar",   vec![0; 1024], None, "Tar InContext(None)"),
            ("named",       tar(), Some("x"), r#"Tar InContext(Some("x"))"#),
            ("gzip",        b"\x1f\x8bxx".to_vec(), None, "Tar InContext(None)"),
            ("zstd",        b"\x28\xb5\x2f\xfdx".to_vec(), None, "Tar InContext(None)"),
            ("both",        text(), Some("x"), "standard input is no tar, and `x` cannot be looked for in it"),
            ("nothing",     vec![], None, "standard input is empty: expected a tar or a Dockerfile"),
            ("binary",      vec![0xff; 100], None, "standard input is neither a tar nor the text of a Dockerfile"),
        ];
        for (name, bytes, file, want) in cases {
            assert_eq!(told(bytes, file), want, "{name}");
        }
    }

    #[test]
    fn nothing_is_lost_of_a_tar() {
        let tar = tar();
        let (context, _) = from_stdin(io::Cursor::new(tar.clone()), None).unwrap();
        let ContextInput::Tar(mut reader) = context else { panic!("not a tar") };
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert_eq!(back, tar);
    }

    #[test]
    fn dockerfiles_are_found_here_and_in_the_context() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        fs::create_dir_all(context.join("sub")).unwrap();
        fs::write(context.join("sub/x"), "").unwrap();
        fs::write(dir.path().join("outside"), "").unwrap();
        let inside = |path: &str| DockerfileInput::InContext(Some(path.to_owned()));
        let outside = dir.path().join("outside");
        #[rustfmt::skip]
        let cases = [
            (PathBuf::from("sub/x"),        Some(inside("sub/x"))),
            (context.join("sub/x"),         Some(inside("sub/x"))),
            (context.join("sub/../sub/x"),  Some(inside("sub/x"))),
            (outside.clone(),               Some(DockerfileInput::File(outside))),
            (PathBuf::from("../outside"),   None),
            (PathBuf::from("missing"),      None),
        ];
        for (file, want) in cases {
            assert_eq!(find_dockerfile(&context, &file).ok(), want, "{}", file.display());
        }
    }

    #[test]
    fn urls_are_told_from_directories() {
        let told = |path: &str, file: Option<&str>| {
            let (context, dockerfile) = open(Path::new(path), file.map(Path::new)).unwrap();
            format!("{context:?} {dockerfile:?}")
        };
        #[rustfmt::skip]
        let cases = [
            ("https://a.b/c.tar.gz",      None,      r#"Url("https://a.b/c.tar.gz") InContext(None)"#),
            ("https://u:p@a.b/c.git#x:d", Some("f"), r#"Url("https://xxxxx:xxxxx@a.b/c.git#x:d") InContext(Some("f"))"#),
            ("git@a.b:c/d.git",           None,      r#"Url("git@a.b:c/d.git") InContext(None)"#),
            ("me@host:c",                 None,      r#"Url("me@host:c") InContext(None)"#),
            ("github.com/a/b",            None,      r#"Url("github.com/a/b") InContext(None)"#),
        ];
        for (path, file, want) in cases {
            assert_eq!(told(path, file), want, "{path}");
        }
    }

    #[test]
    fn what_is_no_context_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Dockerfile");
        fs::write(&file, "").unwrap();
        #[rustfmt::skip]
        let cases = [
            (PathBuf::from("imgaes"),                  "the context directory `imgaes` does not exist"),
            (file.clone(),                             &format!("the context `{}` is not a directory", file.display())),
        ];
        for (path, want) in cases {
            let fault = open(&path, None).err().unwrap();
            assert_eq!(fault.causes[0], want);
            assert!(fault.help.is_some(), "{fault}");
        }
    }
}
