//! What a build writes down of its steps, so that one can be entered later.
//!
//! Invariant: no secret is in it. Values of secrets, agents and proxies are given anew to whoever
//! enters a step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cache::{Descriptor, SnapshotId};
use frontend::{BuildGraph, Op, RunOp, VertexId};
use serde::{Deserialize, Serialize};

use crate::context::FileRoot;
use crate::op::{RecordedSettings, RunSettings};
use crate::source::ResolvedImage;

/// The RUN steps of one build.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordedSteps {
    /// What all of them share.
    pub(crate) settings: RecordedSettings,
    /// In the order of the plan.
    pub(crate) steps: Vec<RecordedStep>,
}

/// One RUN step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordedStep {
    /// Stage name or number, `None` where the file has but one.
    pub(crate) stage: Option<String>,
    /// 1-based position within its stage.
    pub(crate) number: usize,
    /// The instruction on one line.
    pub(crate) text: String,
    pub(crate) op: RunOp,
    /// What runs commands in shell form, if not `/bin/sh -c`.
    pub(crate) shell: Option<Vec<String>>,
    /// As the vertex has them; the first is the root that the step began with.
    pub(crate) inputs: Vec<RecordedInput>,
    /// What it left, if it ended well.
    pub(crate) result: Option<SnapshotId>,
    /// Whether it is the one that the build failed at.
    pub(crate) has_failed: bool,
}

/// Where a step's files come from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum RecordedInput {
    /// No files.
    Empty,
    /// What another step left.
    Snapshot {
        /// Its name.
        id: SnapshotId,
    },
    /// An image.
    Image {
        /// The name that it was asked for by.
        reference: String,
        /// Its manifest.
        manifest: Descriptor,
    },
    /// A directory of this machine, which may have changed since.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What of it does not count.
        ignored: Option<Vec<String>>,
    },
    /// Files that nobody kept.
    Gone {
        /// What they were.
        what: String,
    },
}

impl RecordedStep {
    /// Returns `STAGE/NUMBER`, as the command line takes it.
    pub(crate) fn name(&self) -> String {
        match &self.stage {
            Some(stage) => format!("{stage}/{}", self.number),
            None => self.number.to_string(),
        }
    }
}

/// What a build knows of its vertices when it ends.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) graph: &'a BuildGraph,
    pub(crate) images: &'a BTreeMap<VertexId, Arc<ResolvedImage>>,
    pub(crate) files: &'a BTreeMap<VertexId, Arc<FileRoot>>,
    /// What vertices left, as far as they were found or made.
    pub(crate) results: &'a BTreeMap<VertexId, SnapshotId>,
    pub(crate) settings: &'a RunSettings,
}

impl Known<'_> {
    /// Tells the RUN steps; `failed` is the vertex that the build failed at.
    pub(crate) fn record(&self, failed: Option<VertexId>) -> RecordedSteps {
        let steps = self.graph.steps.iter().filter_map(|step| {
            let id = step.vertex?;
            let vertex = &self.graph.vertices[id.0];
            let Op::Run(op) = &vertex.op else { return None };
            Some(RecordedStep {
                stage: step.stage.clone(),
                number: step.number,
                text: step.text.clone(),
                op: op.clone(),
                shell: step.shell.clone(),
                inputs: vertex.inputs.iter().map(|input| self.input(*input)).collect(),
                result: self.results.get(&id).cloned(),
                has_failed: failed == Some(id),
            })
        });
        RecordedSteps { settings: self.settings.record(), steps: steps.collect() }
    }

    fn input(&self, id: VertexId) -> RecordedInput {
        let gone = |what: &str| RecordedInput::Gone { what: what.to_owned() };
        match &self.graph.vertices[id.0].op {
            Op::Scratch => RecordedInput::Empty,
            Op::Image(op) => match self.images.get(&id) {
                Some(image) => RecordedInput::Image {
                    reference: op.reference.clone(),
                    manifest: image.manifest.clone(),
                },
                None => gone("an image"),
            },
            Op::Context(_) => match self.files.get(&id) {
                Some(files) if !files.is_temporary() => RecordedInput::Directory {
                    path: files.dir.clone(),
                    ignored: files.rules.as_ref().and_then(|it| it.patterns()).map(<[_]>::to_vec),
                },
                _ => gone("a context that was sent or downloaded for that build"),
            },
            Op::Git(op) => gone(&format!("a checkout of {}", op.url)),
            Op::Http(op) => gone(&format!("a download of {}", op.url)),
            Op::Copy(_) | Op::MakeDir(_) | Op::Run(_) | Op::Merge => match self.results.get(&id) {
                Some(id) => RecordedInput::Snapshot { id: id.clone() },
                None => gone("what a step leaves that was not run"),
            },
        }
    }
}
