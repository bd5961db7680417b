//! `--security-opt`, of `build` and `run` alike.

use clap::Args;

/// What holds the commands tighter than the sandbox does unasked.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SecurityArgs {
    /// no-new-privileges: set-user-ID programs such as sudo give commands no privilege
    #[arg(long, value_name = "OPTION", value_parser = no_new_privileges)]
    security_opt: Vec<bool>,
}

impl SecurityArgs {
    /// Whether set-user-ID programs are to give no privilege; the last word counts.
    pub(crate) fn no_new_privs(&self) -> bool {
        self.security_opt.last().copied().unwrap_or_default()
    }
}

/// Parses an option as Docker has it; rbuild's sandbox has no other to choose.
///
/// # Errors
///
/// A sentence.
pub(crate) fn no_new_privileges(text: &str) -> Result<bool, String> {
    match text.split_once(['=', ':']).unwrap_or((text, "true")) {
        ("no-new-privileges", "true") => Ok(true),
        ("no-new-privileges", "false") => Ok(false),
        _ => Err(format!("there is no option `{text}`; there is no-new-privileges[=true|false]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_docker() {
        #[rustfmt::skip]
        let cases = [
            ("no-new-privileges",       Some(true)),
            ("no-new-privileges=true",  Some(true)),
            ("no-new-privileges:false", Some(false)),
            ("no-new-privileges=1",     None),
            ("seccomp=unconfined",      None),
            ("",                        None),
        ];
        for (text, want) in cases {
            assert_eq!(no_new_privileges(text).ok(), want, "{text}");
        }
    }
}
