//! What is checked: a Dockerfile, the ignore file that goes with it, and what is known of its
//! base images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::{Builder, SourceText};
use frontend::{BaseImage, IgnoreRules, LowerOptions, ResolvedBase};

use crate::cli::source;
use crate::config::Settings;
use crate::fault::Fault;
use crate::ignore_file::IgnoreFile;

/// Names that are looked for when none is given, in this order.
const DEFAULT_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// A Dockerfile to be checked.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) source: SourceText,
    /// `None` for standard input.
    pub(super) path: Option<PathBuf>,
    /// Of the context, empty where there is none.
    pub(super) ignore: IgnoreRules,
}

impl Subject {
    /// Finds and reads the Dockerfile of `path` and `-f`. Blocking.
    pub(super) fn load(path: &Path, file: Option<&Path>) -> Result<Self, Fault> {
        let dash = Path::new("-");
        if path.to_string_lossy().contains("://") {
            let what =
                format!("`{}`: only a Dockerfile of this machine is checked", path.display());
            return Err(Fault::user(what).with_help("fetch it, or pipe it into `rbuild check -`"));
        }
        if path == dash || file == Some(dash) {
            if path == dash && file.is_some() {
                return Err(Fault::user(
                    "the Dockerfile comes from standard input or -f, not both",
                ));
            }
            let source = source::read(dash)?;
            let ignore =
                if path == dash { IgnoreRules::default() } else { ignore(Some(path), None)? };
            return Ok(Self { source, path: None, ignore });
        }
        if !path.is_dir() {
            let source = source::read(path)?;
            let ignore = ignore(None, Some(path))?;
            return Ok(Self { source, path: Some(path.to_owned()), ignore });
        }
        let found = find(path, file)?;
        let name = found.strip_prefix("./").unwrap_or(&found);
        let source = source::read(name)?;
        Ok(Self { source, path: Some(name.to_owned()), ignore: ignore(Some(path), Some(name))? })
    }
}

fn find(context: &Path, file: Option<&Path>) -> Result<PathBuf, Fault> {
    if let Some(file) = file {
        let inside = context.join(file);
        let mut places = [file.to_owned(), inside].into_iter();
        return places.find(|place| place.exists()).ok_or_else(|| {
            let what = format!("the Dockerfile `{}` does not exist", file.display());
            Fault::user(what).with_help(format!("looked for here and in `{}`", context.display()))
        });
    }
    let mut places = DEFAULT_NAMES.iter().map(|name| context.join(name));
    places.find(|place| place.exists()).ok_or_else(|| {
        Fault::user(format!("there is no Dockerfile in `{}`", context.display()))
            .with_help("name the file with -f")
    })
}

/// Reads the ignore file that is in force, if there is one.
fn ignore(context: Option<&Path>, dockerfile: Option<&Path>) -> Result<IgnoreRules, Fault> {
    let found = IgnoreFile::find(context, dockerfile)?;
    Ok(found.map(|found| found.rules).unwrap_or_default())
}

/// Looks base images up in the store, if there is one. What cannot be had is left out: a check
/// must not fail, nor wait, for an image. Blocking.
pub(super) fn known_bases(
    text: &str,
    options: &LowerOptions,
    settings: Settings,
) -> BTreeMap<BaseImage, ResolvedBase> {
    let is_there = settings.builder.root.join("version").is_file();
    let Some(builder) = is_there.then(|| Builder::open(settings.builder).ok()).flatten() else {
        return BTreeMap::new();
    };
    let dockerfile = frontend::parse(text).dockerfile;
    let of_stage = |index: usize| {
        let options = LowerOptions { target: Some(index.to_string()), ..options.clone() };
        frontend::base_images(&dockerfile, &options).unwrap_or_default()
    };
    let images = (0..dockerfile.stages.len()).flat_map(of_stage);
    let known = images.filter_map(|image| {
        let details = builder.inspect(&image.reference).ok()?;
        let base =
            ResolvedBase { digest: details.descriptor.digest.to_string(), config: details.config };
        Some((image, base))
    });
    known.collect()
}
