//! COPY and ADD.

use std::fmt::Write as _;

use crate::ast::{Heredoc, Statement, Transfer, TransferSource, Word};
use crate::check;
use crate::chmod;
use crate::git_url::{GitSource, parse_git_source, percent_decode};
use crate::ignore::clean;
use crate::words::Lexer;
use crate::{
    CopyOp, CopySource, Diagnostic, HttpOp, Op, Platform, Unpack, VertexId, redact_url,
    url_credentials,
};

use super::run::input;
use super::stage::{Fault, Lowering, StageResult};

/// What a URL without a file name is stored as, as in BuildKit.
const UNNAMED: &str = "__unnamed__";

/// A path that was expanded, with the word it came from.
struct PathSource<'w> {
    text: String,
    word: &'w Word,
}

impl Lowering<'_, '_> {
    pub(super) fn transfer(
        &mut self,
        stage: &mut StageResult,
        statement: &Statement,
        transfer: &Transfer,
        is_add: bool,
    ) -> Result<VertexId, Fault> {
        let optional = |lowering: &mut Self, word: &Option<Word>| {
            word.as_ref().map(|word| lowering.expand(stage, statement, word)).transpose()
        };
        let owner = optional(self, &transfer.owner)?.filter(|owner| !owner.is_empty());
        let mode_text = optional(self, &transfer.mode)?.filter(|mode| !mode.is_empty());
        let checksum = optional(self, &transfer.checksum)?.filter(|sum| !sum.is_empty());
        let mode = match (&mode_text, &transfer.mode) {
            (Some(text), Some(word)) => Some(chmod::check(text, word.span)?),
            _ => None,
        };
        let mut exclude = Vec::with_capacity(transfer.exclude.len());
        for word in &transfer.exclude {
            let pattern = self.expand(stage, statement, word)?;
            crate::IgnoreRules::from_patterns([&pattern]).map_err(|_| {
                Box::new(Diagnostic::error(word.span, format!("`{pattern}` is no pattern")))
            })?;
            exclude.push(pattern);
        }
        let mut entry = if is_add { "ADD" } else { "COPY" }.to_owned();
        if transfer.parents {
            entry.push_str(" --parents");
        }
        for (flag, value) in [("chown", &owner), ("chmod", &mode_text)] {
            if let Some(value) = value {
                let _ = write!(entry, " --{flag}={value}");
            }
        }
        let is_linked = transfer.link
            && mode.is_none()
            && owner.as_deref().is_none_or(|owner| !owner.contains(|c: char| c.is_alphabetic()));
        let root = if is_linked {
            self.vertices.add(Op::Scratch, Vec::new(), self.plan.options.target_platform.clone())
        } else {
            stage.root
        };
        let mut inputs = vec![root];
        let sources = self.sources(
            stage,
            statement,
            transfer,
            is_add,
            checksum.as_deref(),
            &mut inputs,
            &mut entry,
        )?;
        let written = self.expand(stage, statement, &transfer.destination)?;
        let _ = write!(entry, " {written} # buildkit");
        let (destination, destination_is_dir) = destination(stage, &written);
        // What was fetched stays as it is unless the flag says otherwise.
        let has_local =
            sources.iter().any(|source| matches!(source, CopySource::Path { wildcard: true, .. }));
        let unpacks = transfer.unpack.unwrap_or(is_add && has_local);
        let op = Op::Copy(CopyOp {
            destination_is_dir,
            sources,
            destination,
            owner,
            mode,
            exclude,
            parents: transfer.parents,
            unpack: if unpacks { Unpack::Archives } else { Unpack::Never },
        });
        let mut vertex = self.vertices.add(op, inputs, stage.platform.clone());
        if is_linked {
            let inputs = vec![stage.root, vertex];
            vertex = self.vertices.add(Op::Merge, inputs, stage.platform.clone());
        }
        stage.root = vertex;
        self.commit(stage, statement.span, entry, Some(vertex))?;
        Ok(vertex)
    }

    /// Lowers the sources: paths first, then heredocs, as BuildKit's history has them.
    #[expect(clippy::too_many_arguments, reason = "the state of one instruction")]
    fn sources(
        &mut self,
        stage: &StageResult,
        statement: &Statement,
        transfer: &Transfer,
        is_add: bool,
        checksum: Option<&str>,
        inputs: &mut Vec<VertexId>,
        entry: &mut String,
    ) -> Result<Vec<CopySource>, Fault> {
        let mut paths = Vec::new();
        let mut heredocs: Vec<&Heredoc> = Vec::new();
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => {
                    let text = self.expand(stage, statement, word)?;
                    paths.push(PathSource { text, word });
                }
                TransferSource::Heredoc(heredoc) => heredocs.push(heredoc),
            }
        }
        if let (Some(_), Some(word)) = (checksum, &transfer.checksum) {
            check_checksum_use(&paths, heredocs.len(), word)?;
        }
        let mut sources = Vec::with_capacity(transfer.sources.len());
        for path in &paths {
            entry.push(' ');
            entry.push_str(&redact_url(&path.text));
            let source = self.path_source(transfer, path, is_add, checksum, inputs)?;
            let is_local = matches!(source, CopySource::Path { wildcard: true, .. });
            if is_local && transfer.from.is_none() {
                self.check_ignored(statement, path, is_add);
            }
            sources.push(source);
        }
        for heredoc in heredocs {
            entry.push_str(" <<");
            entry.push_str(&heredoc.name);
            sources.push(self.inline(stage, statement, heredoc)?);
        }
        Ok(sources)
    }

    /// Speaks of a source that the ignore file leaves out. Rules that bring files back switch it
    /// off, as in BuildKit: what a directory keeps cannot be told from the text.
    fn check_ignored(&mut self, statement: &Statement, path: &PathSource<'_>, is_add: bool) {
        let ignore = &self.plan.options.ignore;
        let source = clean(&path.text);
        if ignore.has_exceptions() || !ignore.is_excluded(&source, false) {
            return;
        }
        let verb = if is_add { "Add" } else { "Copy" };
        let message =
            format!("Attempting to {verb} file \"{source}\" that is excluded by .dockerignore");
        let rule = check::COPY_IGNORED_FILE;
        self.checks.warn(&statement.comments, rule, path.word.span, message);
    }

    fn path_source(
        &mut self,
        transfer: &Transfer,
        path: &PathSource<'_>,
        is_add: bool,
        checksum: Option<&str>,
        inputs: &mut Vec<VertexId>,
    ) -> Result<CopySource, Fault> {
        let error = |message: String| Box::new(Diagnostic::error(path.word.span, message));
        let platform = self.plan.options.target_platform.clone();
        let git = parse_git_source(&path.text).map_err(|fault| error(fault.to_string()))?;
        if let Some(git) = git {
            if !is_add {
                return Err(error("COPY cannot fetch a git repository, ADD can".to_owned()));
            }
            let op = git_op(transfer, git, checksum).map_err(error)?;
            let root = self.vertices.add(Op::Git(op), Vec::new(), platform);
            let input = input(inputs, root);
            return Ok(CopySource::Path { input, path: String::new(), wildcard: false });
        }
        if is_http(&path.text) {
            if !is_add {
                return Err(error("COPY cannot fetch a URL, ADD can".to_owned()));
            }
            return self.http_source(path, checksum, inputs, platform);
        }
        let root = match &transfer.from {
            Some(from) => {
                let source = self.plan.resolve(self.index, from)?;
                self.root_of_reference(&source)
            }
            None => self.context(None),
        };
        let input = input(inputs, root);
        let path = source_path(&path.text, transfer.parents);
        Ok(CopySource::Path { input, path, wildcard: true })
    }

    fn http_source(
        &mut self,
        path: &PathSource<'_>,
        checksum: Option<&str>,
        inputs: &mut Vec<VertexId>,
        platform: Platform,
    ) -> Result<CopySource, Fault> {
        if let Some(checksum) = checksum.filter(|sum| !is_sha256(sum)) {
            let message = format!("`{checksum}` is no checksum");
            let help = "write `sha256:` and 64 hexadecimal digits";
            return Err(Box::new(Diagnostic::error(path.word.span, message).with_help(help)));
        }
        let file_name = file_name(&path.text);
        let (url, credentials) = url_credentials::split(&path.text);
        let op = Op::Http(HttpOp {
            url,
            checksum: checksum.map(str::to_owned),
            file_name: file_name.clone(),
            credentials,
        });
        let root = self.vertices.add(op, Vec::new(), platform);
        Ok(CopySource::Path { input: input(inputs, root), path: file_name, wildcard: false })
    }

    fn inline(
        &mut self,
        stage: &StageResult,
        statement: &Statement,
        heredoc: &Heredoc,
    ) -> Result<CopySource, Fault> {
        let chomped = heredoc.chomped();
        let name = heredoc.name.clone();
        if !heredoc.expands {
            self.charge(chomped.len(), heredoc.body)?;
            return Ok(CopySource::Inline { name, content: chomped });
        }
        // Within the body quotes are text and the escape is the backslash, whatever the file says.
        let lexer = Lexer { plain_quotes: true, ..Lexer::new('\\') };
        let word = Word { text: chomped.into(), span: heredoc.body };
        let content = self.expand_with(lexer, &stage.scope, statement, &word)?.text;
        Ok(CopySource::Inline { name, content })
    }
}

fn check_checksum_use(paths: &[PathSource<'_>], heredocs: usize, word: &Word) -> Result<(), Fault> {
    let error = |message: &str| Err(Box::new(Diagnostic::error(word.span, message)));
    match paths {
        [path] if heredocs == 0 => {
            let is_git = parse_git_source(&path.text).is_ok_and(|git| git.is_some());
            if is_git || is_http(&path.text) {
                return Ok(());
            }
            error("`--checksum` needs a URL or a git repository as source")
        }
        _ => error("`--checksum` takes exactly one source"),
    }
}

fn git_op(
    transfer: &Transfer,
    git: GitSource,
    checksum: Option<&str>,
) -> Result<crate::GitOp, String> {
    let mut op = git.op;
    match (transfer.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            return Err("`--keep-git-dir` and the URL contradict each other".to_owned());
        }
        (Some(flag), _) => op.keep_git_dir = flag,
        (None, _) => {}
    }
    if let Some(checksum) = checksum {
        let is_hex = checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(7..=64).contains(&checksum.len()) {
            return Err(format!("`{checksum}` is no commit: expected 7 to 64 hexadecimal digits"));
        }
        match &op.checksum {
            Some(query) if query != checksum => {
                return Err("`--checksum` and the URL contradict each other".to_owned());
            }
            _ => op.checksum = Some(checksum.to_owned()),
        }
    }
    Ok(op)
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The last part of a URL's path, decoded first: `%2f` parts it too, as in BuildKit.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let path = percent_decode(path);
    match clean(&format!("/{path}")).rsplit('/').next() {
        Some(name) if !name.is_empty() && !name.contains('\0') => name.to_owned(),
        _ => UNNAMED.to_owned(),
    }
}

/// Cleans a source and keeps it below its root; with `--parents` the pivot `/./` stays.
fn source_path(text: &str, parents: bool) -> String {
    let below = |text: &str| clean(&format!("/{text}")).trim_start_matches('/').to_owned();
    if parents && let Some((parent, rest)) = text.split_once("/./") {
        let parent = below(parent);
        if !parent.is_empty() {
            return format!("{parent}/./{}", below(rest));
        }
        return below(rest);
    }
    below(text)
}

/// Makes the destination absolute and clean, and says whether it was written as a directory.
fn destination(stage: &StageResult, written: &str) -> (String, bool) {
    let path = if written.starts_with('/') {
        clean(written)
    } else {
        let dir = stage.config.config.working_dir.as_deref().unwrap_or("/");
        clean(&format!("/{dir}/{written}"))
    };
    let is_dir = matches!(written, "" | ".")
        || written.ends_with('/')
        || written.ends_with("/.")
        || path == "/";
    (path, is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_paths() {
        #[rustfmt::skip]
        let cases = [
            (".", false, ""), ("a/b/", false, "a/b"), ("../a", false, "a"), ("/a/../../b", false, "b"),
            ("./a*", false, "a*"), ("a/./b/c", false, "a/b/c"), ("a/./b/c", true, "a/./b/c"),
            ("./a/b", true, "a/b"), ("/./a", true, "a"), ("../x/./y/../z", true, "x/./z"),
        ];
        for (text, parents, want) in cases {
            assert_eq!(source_path(text, parents), want, "{text}");
        }
    }

    #[test]
    fn file_names() {
        #[rustfmt::skip]
        let cases = [
            ("https://a.b/c/d.tar?x=/y#z", "d.tar"), ("https://a.b", UNNAMED), ("https://a.b/", UNNAMED),
            ("https://a.b/c/", "c"), ("http://a.b/x/..", UNNAMED), ("http://a.b/x%20y?z", "x y"),
            ("http://a.b/x%2Fy", "y"), ("http://a.b/x/%2e%2e", UNNAMED), ("http://a.b/x%00y", UNNAMED),
        ];
        for (url, want) in cases {
            assert_eq!(file_name(url), want, "{url}");
        }
    }
}
