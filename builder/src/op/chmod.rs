//! `--chmod`: octal modes and chmod(1)'s symbolic ones.

use frontend::CopyMode;

/// A mode that is no mode; the frontend has checked what the user wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode `{0}`")]
pub struct ChmodError(String);

/// What becomes of modes.
#[derive(Clone, Debug)]
pub(crate) enum Chmod {
    Keep,
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// One operation of a symbolic mode: `go=rX`.
#[derive(Clone, Debug)]
pub(crate) struct Clause {
    /// The bits that it may change, for the classes named.
    who: u32,
    operator: char,
    permissions: Vec<char>,
}

/// Bits of user, group and others in all classes at once.
const SPREAD: u32 = 0o111;

impl Chmod {
    pub(crate) fn new(mode: Option<&CopyMode>) -> Result<Self, ChmodError> {
        match mode {
            None => Ok(Self::Keep),
            Some(CopyMode::Octal(mode)) if *mode <= 0o7777 => Ok(Self::Octal(*mode)),
            Some(CopyMode::Octal(mode)) => Err(ChmodError(format!("{mode:o}"))),
            Some(CopyMode::Symbolic(text)) => {
                let clauses = text.split(',').map(clauses).collect::<Option<Vec<_>>>();
                let clauses = clauses.ok_or_else(|| ChmodError(text.clone()))?;
                Ok(Self::Symbolic(clauses.concat()))
            }
        }
    }

    /// Returns the mode that an object of mode `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Keep => mode,
            Self::Octal(octal) => *octal,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }

    /// Returns the mode of directories made on the way: BuildKit gives them an octal `--chmod`.
    pub(crate) fn new_dir(&self) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Keep | Self::Symbolic(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = self.permissions.iter().fold(0, |bits, permission| {
            bits | match permission {
                'r' => 4 * SPREAD,
                'w' => 2 * SPREAD,
                'x' => SPREAD,
                // Directories, and what someone may execute already.
                'X' if is_dir || mode & SPREAD != 0 => SPREAD,
                's' => 0o6000,
                't' => 0o1000,
                'u' => (mode >> 6 & 7) * SPREAD,
                'g' => (mode >> 3 & 7) * SPREAD,
                'o' => (mode & 7) * SPREAD,
                _ => 0,
            }
        });
        let bits = bits & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // Directories keep set-uid and set-gid that are not named (chmod(1), "SETUID AND
            // SETGID BITS").
            _ if is_dir && !self.permissions.contains(&'s') => mode & !(self.who & 0o1777) | bits,
            _ => mode & !self.who | bits,
        }
    }
}

/// Parses one comma-separated part: classes and one or more operations on them.
fn clauses(text: &str) -> Option<Vec<Clause>> {
    let operators = ['+', '-', '='];
    let start = text.find(operators)?;
    let who = text[..start].chars().try_fold(0, |who, class| {
        Some(
            who | match class {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o0007,
                'a' => 0o7777,
                _ => return None,
            },
        )
    })?;
    // The sticky bit belongs to all classes, and to others where they are named alone.
    let who = match who {
        0 => 0o7777,
        who => who | 0o1000,
    };
    let mut clauses = Vec::new();
    for character in text[start..].chars() {
        if operators.contains(&character) {
            clauses.push(Clause { who, operator: character, permissions: Vec::new() });
        } else if "rwxXstugo".contains(character) {
            clauses.last_mut()?.permissions.push(character);
        } else {
            return None;
        }
    }
    Some(clauses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes_are_those_of_chmod() {
        let dir = tempfile::tempdir().unwrap();
        #[rustfmt::skip]
        let cases = [
            "u=rwX,go=rX", "a+x", "+x", "go-rwx", "u+s", "g+s,o+t", "o=u", "a=", "u=rw,g=u-w",
            "a=rx,u+w", "u-s", "a-x+X", "=r", "ug+rw", "g=o", "+t", "u+x,g-w",
        ];
        for text in cases {
            for (mode, is_dir) in
                [(0o644, false), (0o755, false), (0o4711, false), (0o700, true), (0o2775, true)]
            {
                let path = dir.path().join("object");
                if is_dir {
                    std::fs::create_dir(&path).unwrap();
                } else {
                    std::fs::write(&path, "").unwrap();
                }
                let set = |mode: String| {
                    let mut command = std::process::Command::new("sh");
                    command.args(["-c", "umask 0; chmod \"$0\" \"$1\"", &mode]).arg(&path);
                    assert!(command.status().unwrap().success(), "chmod {mode}");
                };
                set(format!("{mode:05o}"));
                set(text.to_owned());
                let status = std::fs::metadata(&path).unwrap();
                let want = std::os::unix::fs::MetadataExt::mode(&status) & 0o7777;
                let chmod = Chmod::new(Some(&CopyMode::Symbolic(text.to_owned()))).unwrap();
                let got = chmod.apply(mode, is_dir);
                assert_eq!(format!("{got:o}"), format!("{want:o}"), "{text} on {mode:o}");
                if is_dir { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) }
                    .unwrap();
            }
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "rwx", "z+x", "u+q", "u=rw,", "u"] {
            let mode = CopyMode::Symbolic(text.to_owned());
            assert!(Chmod::new(Some(&mode)).is_err(), "{text}");
        }
        assert!(Chmod::new(Some(&CopyMode::Octal(0o10000))).is_err());
    }
}
