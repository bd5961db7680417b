//! Git repositories as sources: asked what a reference means, fetched when files are needed.
//!
//! Invariants (SECURITY: git): a URL, a reference and a directory are checked before git sees them
//! and stand behind `--`; the commit, not the reference, enters a key; credentials are in the
//! environment of git alone and nowhere on the disk.

mod checkout;
mod command;
mod error;
mod mirror;
mod refs;

use std::path::Path;
use std::time::Duration;

use cache::{Digest, KeyHasher};
use frontend::GitOp;
use url::Url;

pub use error::GitError;

use self::checkout::Checkout;
use self::command::{Git, is_plain};
use self::mirror::Mirror;
use self::refs::Found;
use super::secrets::SourceSecrets;
use super::{Sources, fetched};
use crate::blocking;
use crate::context::FileRoot;
use crate::op::nearest;

/// Changes whenever the same commit would be another tree.
const CHECKOUT_VERSION: u32 = 1;

/// How long a server may take to tell its references.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(120);

/// Returns the time of the commit that is checked out at or above `dir`, in seconds since 1970;
/// `None` where nothing is, or git cannot tell.
pub(crate) async fn checkout_time(dir: &Path) -> Option<i64> {
    let dir = dir.canonicalize().ok()?;
    if !dir.ancestors().any(|above| above.join(".git").exists()) {
        return None;
    }
    let asked = Git::new("look into", "the build context", LOOK_UP_LIMIT).dir(&dir);
    let commit = asked.args(["cat-file", "commit", "HEAD"]).run().await;
    let commit = commit.inspect_err(|error| tracing::debug!(%error, "the context has no commit"));
    mirror::commit_time(&commit.ok()?)
}

/// A commit of a repository; its files may still have to be fetched.
#[derive(Debug)]
pub(crate) struct GitTree {
    op: GitOp,
    found: Found,
    access: Access,
}

/// Options that get git into a server: the header that opens it, and nothing of it elsewhere.
#[derive(Clone, Default)]
struct Access(Vec<(String, String)>);

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Sources {
    /// Finds out which commit `op` stands for; nothing is fetched unless only a part of the
    /// commit's id is known.
    ///
    /// # Errors
    ///
    /// [`GitError`].
    pub(crate) async fn git_tree(
        &self,
        op: &GitOp,
        secrets: &SourceSecrets,
    ) -> Result<GitTree, GitError> {
        check_url(&op.url)?;
        let access = access(op, secrets);
        let found = self.find(op, &access).await?;
        if let Some(expected) = &op.checksum
            && !found.commit.starts_with(&expected.to_ascii_lowercase())
        {
            return Err(GitError::Checksum {
                url: op.url.clone(),
                reference: op.reference.clone().unwrap_or_else(|| "HEAD".to_owned()),
                expected: expected.clone(),
                found: found.commit,
            });
        }
        Ok(GitTree { op: op.clone(), found, access })
    }

    async fn find(&self, op: &GitOp, access: &Access) -> Result<Found, GitError> {
        let reference = op.reference.as_deref();
        if let Some(reference) = reference {
            refs::check_reference(reference)?;
            if refs::is_commit(reference) {
                return Ok(Found { commit: reference.to_owned(), name: None });
            }
        }
        let ask = |patterns: Vec<String>| {
            Git::new("ask", &op.url, LOOK_UP_LIMIT)
                .config(&access.0)
                .args(["ls-remote", "--quiet", "--symref", "--", &op.url])
                .args(patterns)
                .run()
        };
        let answer = ask(refs::patterns(reference)).await?;
        if let Some(found) = refs::find(&String::from_utf8_lossy(&answer), reference) {
            return Ok(found);
        }
        if let Some(abbreviation) = reference.filter(|text| refs::is_abbreviation(text)) {
            let kept = self.kept_mirror(op).await?;
            let mirror = Mirror::open(kept, &op.url, &access.0, None).await?;
            if let Some(commit) = mirror.expand(abbreviation).await? {
                return Ok(Found { commit, name: None });
            }
        }
        let reference = reference.unwrap_or("HEAD").to_owned();
        let all = ask(vec!["refs/heads/*".to_owned(), "refs/tags/*".to_owned()]).await;
        let all = String::from_utf8_lossy(&all.unwrap_or_default()).into_owned();
        let known = refs::short_names(&all).map(|name| name.as_bytes().to_vec());
        let nearest = nearest(reference.as_bytes(), known);
        let nearest = nearest.map(|name| String::from_utf8_lossy(&name).into_owned());
        Err(GitError::NoReference { url: op.url.clone(), reference, nearest })
    }

    async fn kept_mirror(&self, op: &GitOp) -> Result<cache::CacheMount, GitError> {
        let kept = fetched(&self.store, "git", &op.url).await;
        kept.map_err(|error| GitError::Keep { url: op.url.clone(), source: error.into() })
    }
}

impl GitTree {
    /// Digests all that decides what the files are. The URL is in it only where `.git` holds it.
    pub(crate) fn identity(&self) -> Digest {
        let GitOp {
            url,
            reference: _,
            subdir,
            checksum: _,
            keep_git_dir,
            submodules,
            checkout_time: _,
            credentials: _,
        } = &self.op;
        let kept = keep_git_dir.then(|| {
            let name = self.found.name.as_deref().unwrap_or_default();
            format!("{url} {name}")
        });
        let (key, _) = KeyHasher::new("rbuild git checkout", CHECKOUT_VERSION)
            .field("commit", self.found.commit.as_bytes())
            .field("subdir", subdir.as_deref().unwrap_or_default().as_bytes())
            .field("git dir of", kept.unwrap_or_default().as_bytes())
            .field("submodules", &[u8::from(*submodules)])
            .finish_with_components();
        key.digest()
    }

    /// Checks the commit out, after fetching it where the store has it not; returns the files and
    /// the commit's time in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`GitError`].
    pub(crate) async fn files(&self, sources: &Sources) -> Result<(FileRoot, i64), GitError> {
        let keep = |source: Box<dyn std::error::Error + Send + Sync>| GitError::Keep {
            url: self.op.url.clone(),
            source,
        };
        let mut is_second = false;
        loop {
            let kept = sources.kept_mirror(&self.op).await?;
            let commit = Some(self.found.commit.as_str());
            let mirror = Mirror::open(kept, &self.op.url, &self.access.0, commit).await?;
            mirror.ensure(&self.found).await?;
            let checkout = Checkout {
                op: &self.op,
                found: &self.found,
                mirror: &mirror,
                config: &self.access.0,
            };
            match checkout.make(&sources.store).await {
                Ok((held, root)) => {
                    let time = mirror.commit_time(&self.found.commit).await?;
                    let root = blocking::run(move || FileRoot::open(&root)).await;
                    let root = root.map_err(|error| keep(error.into()))?;
                    return Ok((root.holding(held), time));
                }
                // What was kept may be damaged: all of it is fetched anew, once.
                Err(error @ GitError::Failed { action: "check out", .. }) if !is_second => {
                    tracing::warn!(%error, "the mirror is of no use: fetched again");
                    mirror.clear().await?;
                    is_second = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Checks what git is to be given as a URL: a scheme that reaches a server, and a host that can be
/// no option.
fn check_url(url: &str) -> Result<(), GitError> {
    let refuse = |reason| Err(GitError::Url { url: url.to_owned(), reason });
    if !is_plain(url) || url.contains(' ') {
        return refuse("it holds characters that no address has");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // `user@host:path`, as the parser of URLs made sure.
        let host = url.split_once('@').map(|(_, rest)| rest);
        return match host {
            Some(host) if !host.starts_with('-') => Ok(()),
            _ => refuse("it names no host"),
        };
    };
    if !command::REMOTE_PROTOCOLS.split(':').any(|known| known.eq_ignore_ascii_case(scheme)) {
        return refuse("only https, http, ssh and git are spoken");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || host.starts_with('-') || authority.starts_with('-') {
        return refuse("it names no host");
    }
    Ok(())
}

/// Returns the options that carry the authorisation. It is for the URL's own server; redirects,
/// which git would take it along, are then not followed.
fn access(op: &GitOp, secrets: &SourceSecrets) -> Access {
    let url = Url::parse(&op.url).ok();
    let http = url.as_ref().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some((url, host)) = http.and_then(|url| Some((url, url.host_str()?))) else {
        return ssh_access(secrets);
    };
    let Some(value) = secrets.git(host, op.credentials.as_ref()) else { return Access::default() };
    let origin = url.origin().ascii_serialization();
    Access(vec![
        (format!("http.{origin}/.extraHeader"), format!("Authorization: {value}")),
        ("http.followRedirects".to_owned(), "false".to_owned()),
    ])
}

/// Returns the option that leads ssh to the user's agent. git hands the text to a shell.
fn ssh_access(secrets: &SourceSecrets) -> Access {
    let socket = secrets.agent().and_then(|agent| agent.to_str());
    let Some(socket) = socket.filter(|socket| !socket.contains(['\'', '"', '%', '$'])) else {
        return Access::default();
    };
    let command = format!("{} -o IdentityAgent='\"{socket}\"'", command::SSH);
    Access(vec![("core.sshCommand".to_owned(), command)])
}

#[cfg(test)]
mod tests {
    use frontend::parse_git_source;

    use super::*;

    #[test]
    fn addresses_that_git_is_given() {
        #[rustfmt::skip]
        let cases = [
            ("https://a.b/c.git", true), ("http://127.0.0.1:80/c.git", true), ("git@a.b:c", true),
            ("ssh://git@a.b:22/c", true), ("git://a.b/c", true), ("HTTPS://a.b/c.git", true),
            ("file:///etc", false), ("ext::sh -c x", false), ("/etc", false), ("-x@a.b:c", false),
            ("ssh://-oProxyCommand=x/c", false), ("ssh://-o@a/c", false), ("git@-oProxyCommand=x:c", false),
            ("https://a.b/c\n.git", false), ("https:///c.git", false), ("https://a.b/c d.git", false),
        ];
        for (url, want) in cases {
            assert_eq!(check_url(url).is_ok(), want, "{url}");
        }
    }

    #[test]
    fn authorisation_is_for_one_server() {
        let op = parse_git_source("https://u:p@a.b:8443/c.git").unwrap().unwrap().op;
        let options = access(&op, &SourceSecrets::default()).0;
        assert_eq!(options[0].0, "http.https://a.b:8443/.extraHeader");
        assert_eq!(options[0].1, "Authorization: Basic dTpw");
        assert_eq!(options[1], ("http.followRedirects".to_owned(), "false".to_owned()));
        let op = parse_git_source("git@a.b:c.git").unwrap().unwrap().op;
        assert!(access(&op, &SourceSecrets::default()).0.is_empty());
        let agent = |path: &str| SourceSecrets::default().with_agent(Some(path.into()));
        let options = access(&op, &agent("/run/my agent")).0;
        assert_eq!(options[0].0, "core.sshCommand");
        assert!(options[0].1.ends_with("-o IdentityAgent='\"/run/my agent\"'"), "{options:?}");
        assert!(access(&op, &agent("/run/'; rm x")).0.is_empty());
    }

    #[test]
    fn what_makes_another_checkout() {
        let tree = |url: &str, digit: &str| {
            let op = parse_git_source(url).unwrap().unwrap().op;
            let found = Found { commit: digit.repeat(40), name: Some("refs/heads/x".into()) };
            GitTree { op, found, access: Access::default() }.identity()
        };
        let plain = tree("https://a.b/c.git", "a");
        #[rustfmt::skip]
        let cases = [
            ("other commit",     "https://a.b/c.git",                 "b", false),
            ("other reference",  "https://a.b/c.git#x",               "a", true),
            ("other server",     "https://x.y/c.git",                 "a", true),
            ("sub-directory",    "https://a.b/c.git#:d",              "a", false),
            ("with .git",        "https://a.b/c.git?keep-git-dir=1",  "a", false),
            ("no submodules",    "https://a.b/c.git?submodules=0",    "a", false),
            ("credentials",      "https://u:p@a.b/c.git",             "a", true),
        ];
        for (name, url, digit, is_same) in cases {
            assert_eq!(tree(url, digit) == plain, is_same, "{name}");
        }
    }
}
