//! The format of a file of cases, and its parser.
//!
//! ```text
//! == NAME
//! # What the case shows.
//! args: --target two --build-arg X=1     words for `build`, split at blanks
//! setup: ln -s a b                       a line of shell, run in the context (repeatable)
//! expect: fails                          rbuild refuses it; without this line it builds
//! says: TEXT                             what rbuild writes to standard error (repeatable)
//! buildkit: RELATION                     how the peer's outcome relates to rbuild's
//! classic: RELATION
//! buildah: RELATION                      buildah is asked only where this line is
//! -- PATH                                a file of the context, to the next line with `--` or `==`
//! text
//! -- want config                         JSON: these fields of the config have these values
//! -- want tree                           every file that is not in busybox, as failures print them
//! -- want history                        every entry above the base's, `-` before one without layer
//! ```
//!
//! A RELATION is `same` (both fail, or the images are equal: the default), `differs in PARTS:
//! REASON` (PARTS of config, history, tree), `refuses: REASON` (only the peer fails), `accepts:
//! REASON` (only rbuild fails) or `skipped: REASON`. All but the first need a stated expectation:
//! `says` or a `want`. The file of a context ends with a newline unless its last line is `\`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A part of an image that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Config,
    History,
    Tree,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "config" => Some(Self::Config),
            "history" => Some(Self::History),
            "tree" => Some(Self::Tree),
            _ => None,
        }
    }
}

/// How a peer's outcome relates to rbuild's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Same,
    Differs(BTreeSet<Part>),
    Refuses,
    Accepts,
    Skipped,
}

/// What rbuild's result must be, whatever the peers do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    pub(crate) config: Option<String>,
    pub(crate) tree: Option<String>,
    pub(crate) history: Option<String>,
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) setup: Vec<String>,
    pub(crate) fails: bool,
    pub(crate) says: Vec<String>,
    pub(crate) buildkit: Relation,
    pub(crate) classic: Relation,
    pub(crate) buildah: Relation,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) want: Want,
}

impl Case {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            args: Vec::new(),
            setup: Vec::new(),
            fails: false,
            says: Vec::new(),
            buildkit: Relation::Same,
            classic: Relation::Same,
            buildah: Relation::Skipped,
            files: Vec::new(),
            want: Want::default(),
        }
    }

    /// Whether the case itself tells what must come out.
    pub(crate) fn is_stated(&self) -> bool {
        let Want { config, tree, history } = &self.want;
        !self.says.is_empty() || config.is_some() || tree.is_some() || history.is_some()
    }

    fn header(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "args" => self.args.extend(value.split_whitespace().map(str::to_owned)),
            "setup" => self.setup.push(value.to_owned()),
            "expect" if value == "fails" => self.fails = true,
            "says" => self.says.push(value.to_owned()),
            "buildkit" => self.buildkit = relation(value)?,
            "classic" => self.classic = relation(value)?,
            "buildah" => self.buildah = relation(value)?,
            _ => return Err(format!("`{key}: {value}` is no header")),
        }
        Ok(())
    }

    fn section(&mut self, name: &str, text: String) -> Result<(), String> {
        match name.strip_prefix("want ") {
            None => self.files.push((name.to_owned(), text)),
            Some("config") => self.want.config = Some(text),
            Some("tree") => self.want.tree = Some(text),
            Some("history") => self.want.history = Some(text),
            Some(other) => return Err(format!("nothing called `{other}` can be wanted")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(is_name) {
            return Err("a name is of lower-case letters, digits and `-`".to_owned());
        }
        let differs = [&self.buildkit, &self.classic].iter().any(|r| **r != Relation::Same);
        if (differs || self.fails) && !self.is_stated() {
            return Err("what no peer confirms, and every refusal, has to be stated".to_owned());
        }
        if self.files.is_empty() && self.setup.is_empty() {
            return Err("there is no Dockerfile".to_owned());
        }
        Ok(())
    }
}

fn relation(text: &str) -> Result<Relation, String> {
    if text == "same" {
        return Ok(Relation::Same);
    }
    let error = || format!("`{text}` is no relation with a reason");
    let (verb, reason) = text.split_once(": ").ok_or_else(error)?;
    if reason.trim().is_empty() {
        return Err(error());
    }
    match verb {
        "refuses" => Ok(Relation::Refuses),
        "accepts" => Ok(Relation::Accepts),
        "skipped" => Ok(Relation::Skipped),
        _ => {
            let parts = verb.strip_prefix("differs in ").ok_or_else(error)?;
            let parts = parts.split(", ").map(Part::parse).collect::<Option<_>>();
            parts.map(Relation::Differs).ok_or_else(error)
        }
    }
}

/// Parses the text of a group.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut names = BTreeSet::new();
    for block in text.split("\n== ").skip(1) {
        let mut sections = block.split("\n-- ");
        let mut lines = sections.next().unwrap_or_default().lines();
        let mut case = Case::new(lines.next().unwrap_or_default().trim());
        let name = case.name.clone();
        let fault = |message: String| format!("{name}: {message}");
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) =
                line.split_once(": ").ok_or_else(|| fault(format!("`{line}` is no header")))?;
            case.header(key, value).map_err(fault)?;
        }
        for section in sections {
            let (path, text) = section.split_once('\n').unwrap_or((section, ""));
            case.section(path, content(text)).map_err(fault)?;
        }
        case.check().map_err(fault)?;
        if !names.insert(case.name.clone()) {
            return Err(fault("the name is taken".to_owned()));
        }
        cases.push(case);
    }
    Ok(cases)
}

/// Ends a section's text: blank lines before the next mark are not part of it.
fn content(text: &str) -> String {
    let text = text.trim_end_matches('\n');
    match text.strip_suffix("\n\\") {
        Some(unfinished) => unfinished.to_owned(),
        None if text.is_empty() => String::new(),
        None => format!("{text}\n"),
    }
}

/// Where the cases lie.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/differential")
}

/// The names of all groups.
pub(crate) fn groups() -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory()).expect("the cases are there");
    let paths = entries.map(|entry| entry.expect("a readable directory").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "cases"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

/// Loads the cases of a group.
pub(crate) fn load(group: &str) -> Vec<Case> {
    let path = directory().join(format!("{group}.cases"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
    parse(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

#[test]
fn a_case_is_what_was_written() {
    let text = "# about\n\n== one\n# shows\nargs: --target x\nbuildkit: differs in config, tree: old\n\
                -- Dockerfile\nFROM x\n\n\n-- a/b\nno end\n\\\n-- want config\n{}\n\n== two\n-- Dockerfile\n";
    let cases = parse(text).unwrap();
    assert_eq!(cases.len(), 2);
    assert_eq!(cases[0].args, ["--target", "x"]);
    assert_eq!(cases[0].buildkit, Relation::Differs([Part::Config, Part::Tree].into()));
    let files = [("Dockerfile", "FROM x\n"), ("a/b", "no end")];
    assert_eq!(cases[0].files, files.map(|(path, text)| (path.to_owned(), text.to_owned())));
    assert_eq!(cases[0].want.config.as_deref(), Some("{}\n"));
    assert_eq!(cases[1].files, [("Dockerfile".to_owned(), String::new())]);
}

#[test]
fn what_is_no_case_is_refused() {
    #[rustfmt::skip]
    let texts = [
        "\n== UPPER\n-- Dockerfile\n",
        "\n== unknown-header\nwhat: ever\n-- Dockerfile\n",
        "\n== no-reason\nbuildkit: refuses: \n-- Dockerfile\n-- want tree\n",
        "\n== no-part\nbuildkit: differs in size: x\n-- Dockerfile\n-- want tree\n",
        "\n== not-stated\nbuildkit: refuses: too old\n-- Dockerfile\n",
        "\n== refusal-not-stated\nexpect: fails\n-- Dockerfile\n",
        "\n== no-file\n",
        "\n== twice\n-- Dockerfile\n\n== twice\n-- Dockerfile\n",
    ];
    for text in texts {
        assert!(parse(text).is_err(), "{text}");
    }
}
