//! `--ssh`: what was typed, then the agents that it names.

use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use builder::SshAgents;

use crate::config::Environment;
use crate::fault::Fault;

/// `default`, or `ID[=SOCKET]` (docker buildx, "--ssh").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SshArg {
    id: String,
    socket: Option<PathBuf>,
}

/// Parses the value of `--ssh`.
///
/// # Errors
///
/// A sentence.
pub(crate) fn parse(text: &str) -> Result<SshArg, String> {
    let (id, socket) = match text.split_once('=') {
        Some((_, "")) => return Err("the socket is missing behind `=`".to_owned()),
        Some((id, socket)) => (id, Some(socket.into())),
        None => (text, None),
    };
    if id.is_empty() {
        return Err("the id is missing: `default`, or the one that the Dockerfile uses".to_owned());
    }
    Ok(SshArg { id: id.to_owned(), socket })
}

/// Finds the agents. One without a socket is the user's own.
pub(super) fn resolve(given: &[SshArg], environment: &Environment) -> Result<SshAgents, Fault> {
    let mut agents = SshAgents::new();
    for SshArg { id, socket } in given {
        let found = socket.clone().or_else(|| environment.path("SSH_AUTH_SOCK"));
        let Some(socket) = found else {
            return Err(Fault::user(format!("--ssh {id}: no ssh agent is running here"))
                .with_help("start one and add a key: eval \"$(ssh-agent)\" && ssh-add"));
        };
        let metadata = std::fs::metadata(&socket)
            .map_err(|error| Fault::file("use the ssh agent at", &socket, &error))?;
        if !metadata.file_type().is_socket() {
            let what = format!("--ssh {id}: `{}` is no agent's socket", socket.display());
            return Err(Fault::user(what).with_help(
                "a key is used through an agent, which keeps it out of rbuild's memory: ssh-add",
            ));
        }
        if agents.insert(id.clone(), socket).is_some() {
            return Err(Fault::user(format!("--ssh {id} is given twice")));
        }
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_ssh() {
        let arg = |id: &str, socket: Option<&str>| {
            Ok(SshArg { id: id.into(), socket: socket.map(Into::into) })
        };
        #[rustfmt::skip]
        let cases = [
            ("default",     arg("default", None)),
            ("git=/a/b",    arg("git", Some("/a/b"))),
            ("git=",        Err("the socket is missing behind `=`".to_owned())),
            ("=/a",         Err("the id is missing: `default`, or the one that the Dockerfile uses".to_owned())),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "-----BEGIN OPENSSH PRIVATE KEY-----").unwrap();
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let with = Environment::new(false, &[("SSH_AUTH_SOCK", &text(&socket))]);
        let without = Environment::new(false, &[]);
        let agents = |args: &[&str], environment: &Environment| {
            let given: Vec<_> = args.iter().map(|arg| parse(arg).unwrap()).collect();
            resolve(&given, environment).map_err(|fault| fault.to_string())
        };
        let by_name = format!("git={}", text(&socket));
        let found = agents(&["default", &by_name], &with).unwrap();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["default", "git"]);
        for (args, want) in [
            (&["default"][..], "no ssh agent is running here"),
            (&[&format!("k={}", text(&key))], "is no agent's socket"),
            (&[&by_name, &by_name], "is given twice"),
            (&["k=/no/such"], "could not use the ssh agent at `/no/such`"),
        ] {
            let error = agents(args, &without).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
