//! A plain tar of a root filesystem into an image of one layer (`docker import`).
//!
//! Invariant: the layer is kept as it came; its diff_id is computed here, in the pass that checks
//! that it is a tar at all.

use std::io::Read;

use cache::{Blob, DiffId, HashingReader, Store};
use frontend::{
    HistoryEntry, ImageConfig, Instruction, LowerOptions, Lowered, Platform, Reference, RunConfig,
};

use super::load::{FILE_LIMIT, LoadError};
use super::load_docker::layer_descriptor;
use crate::blocking;
use crate::image::assemble::rfc3339;
use crate::layer::{Limits, TarReader};
use crate::source::{Layer, SourceError, name_image, note_checked, open_tar, write_image};

/// What an imported image is called and what its config says.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Its name; without one it is found by its ID.
    pub name: Option<Reference>,
    /// Dockerfile instructions that change the config (`CMD`, `ENV`, `LABEL` ...).
    pub changes: Vec<String>,
    /// Comment of the history's one entry.
    pub message: String,
    /// What it is for; `None` is this machine.
    pub platform: Option<Platform>,
    /// Seconds since 1970 that the config tells as the time of creation.
    pub created: u64,
}

/// Takes in `archive`, plain or compressed, and returns the image ID.
///
/// # Errors
///
/// [`LoadError`] when it is no tar, or a change is no instruction that changes a config.
pub async fn import(
    store: &Store,
    archive: Box<dyn Read + Send>,
    options: ImportOptions,
) -> Result<String, LoadError> {
    let run_config = changed(&options.changes)?;
    let store = store.clone();
    blocking::run(move || {
        let blob = store
            .content()
            .ingest(archive, FILE_LIMIT, None)
            .map_err(|source| LoadError::Ingest { path: "the archive".to_owned(), source })?;
        let (layer, size) = layer(&store, &blob)?;
        let config = config(&options, run_config, layer.diff_id);
        note_checked(&store, &layer)?;
        store
            .layers()
            .update(&layer.diff_id, |record| record.tar_size = Some(size))
            .map_err(SourceError::store("note a layer"))?;
        let name = options.name.as_ref().map_or_else(String::new, Reference::to_string);
        let image =
            write_image(&store, &name, &config, std::slice::from_ref(&layer.descriptor), &[])?;
        name_image(&store, &image, options.name.as_ref())?;
        Ok(image.config_digest.to_string())
    })
    .await
}

/// Reads the blob as a tar to its end; returns it as a layer, and the size of the tar in bytes.
fn layer(store: &Store, blob: &Blob) -> Result<(Layer, u64), LoadError> {
    let descriptor = layer_descriptor(store, blob)?;
    let mut hashing =
        HashingReader::new(open_tar(&descriptor, &store.content().path(&blob.digest))?);
    let mut tar = TarReader::new(&mut hashing, Limits::LAYER);
    while tar.next_entry()?.is_some() {}
    drop(tar);
    let (_, digest, size) = hashing.finish();
    Ok((Layer { descriptor, diff_id: DiffId(digest) }, size))
}

fn config(options: &ImportOptions, config: RunConfig, diff_id: DiffId) -> ImageConfig {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let created = Some(rfc3339(options.created));
    let mut image = ImageConfig {
        created: created.clone(),
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        config,
        ..ImageConfig::default()
    };
    image.rootfs.diff_ids.push(diff_id.to_string());
    let comment = Some(options.message.clone());
    image.history.push(HistoryEntry { created, comment, ..HistoryEntry::default() });
    image
}

/// Applies instructions to an empty config. Only those count that need no files.
fn changed(changes: &[String]) -> Result<RunConfig, LoadError> {
    if changes.is_empty() {
        return Ok(RunConfig::default());
    }
    let refuse = |reason: String| LoadError::Change { reason };
    let of_diagnostics = |diagnostics: &[frontend::Diagnostic]| {
        let errors = diagnostics.iter().filter(|d| d.severity == frontend::Severity::Error);
        refuse(errors.map(|error| error.message.clone()).collect::<Vec<_>>().join("; "))
    };
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let parsed = frontend::parse(&text);
    if parsed.has_errors() {
        return Err(of_diagnostics(&parsed.diagnostics));
    }
    let stages = &parsed.dockerfile.stages;
    if stages.len() != 1 {
        return Err(refuse("FROM changes more than a config".to_owned()));
    }
    let statements = &stages[0].statements;
    if let Some(other) = statements.iter().find(|it| !only_changes_config(&it.instruction)) {
        let word = text[other.span.start..].split_whitespace().next().unwrap_or_default();
        return Err(refuse(format!("{word} changes more than a config")));
    }
    let lowered = frontend::lower(&parsed.dockerfile, &LowerOptions::default(), &[].into())
        .map_err(|diagnostics| of_diagnostics(&diagnostics))?;
    match lowered {
        Lowered::Graph(graph) => Ok(graph.output.config.config),
        Lowered::Needs(_) => unreachable!("an empty base needs no image"),
    }
}

const fn only_changes_config(instruction: &Instruction) -> bool {
    match instruction {
        Instruction::Cmd(_)
        | Instruction::Entrypoint(_)
        | Instruction::Env(_)
        | Instruction::Expose(_)
        | Instruction::Healthcheck(_)
        | Instruction::Label(_)
        | Instruction::Onbuild(_)
        | Instruction::Shell(_)
        | Instruction::Stopsignal(_)
        | Instruction::User(_)
        | Instruction::Volume(_)
        | Instruction::Workdir(_) => true,
        Instruction::Add(_)
        | Instruction::Arg(_)
        | Instruction::Copy(_)
        | Instruction::Maintainer(_)
        | Instruction::Run(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_instructions_that_need_no_files() {
        let run = |changes: &[&str]| {
            changed(&changes.iter().map(|&change| change.to_owned()).collect::<Vec<_>>())
        };
        let config = run(&["CMD [\"sh\"]", "ENV A=1", "WORKDIR /x", "EXPOSE 80"]).unwrap();
        assert_eq!(config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert!(config.env.unwrap().contains(&"A=1".to_owned()));
        assert_eq!(config.working_dir.as_deref(), Some("/x"));
        assert!(config.exposed_ports.unwrap().contains_key("80/tcp"));
        assert_eq!(run(&[]).unwrap(), RunConfig::default());
        #[rustfmt::skip]
        let cases = [
            ("a command",      "RUN true",          "RUN changes more than a config"),
            ("files",          "COPY a b",          "COPY changes more than a config"),
            ("another base",   "FROM x",            "FROM changes more than a config"),
            ("no instruction", "NONSENSE",          "unknown instruction"),
        ];
        for (name, change, want) in cases {
            let error = run(&[change]).unwrap_err().to_string();
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
