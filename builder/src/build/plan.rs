//! From request to graph: contexts, Dockerfile, bases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use frontend::{
    BaseImage, BuildGraph, Diagnostic, Dockerfile, IgnoreRules, LowerOptions, Lowered,
    NamedContext, Op, Platform, Reference, ResolvedBase, Severity, SourceDateEpoch, Span, VertexId,
};
use futures_util::future::try_join_all;

use super::SourceSlot;
use super::error::BuildError;
use super::inputs::{self, Inputs};
use crate::builder::Inner;
use crate::context::FileRoot;
use crate::progress::{Event, Events, SourceText};
use crate::request::BuildRequest;
use crate::source::{PullPolicy, ResolvedImage, Sources};

/// Rounds of "lower, then fetch what ONBUILD triggers name": each base can add one more.
const MAX_ROUNDS: usize = 16;

/// A graph with everything from outside that it refers to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) graph: Arc<BuildGraph>,
    /// Stands for every time of the result, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub(super) epoch: Option<i64>,
    inputs: Inputs,
    /// By the digest that the graph names them with.
    images: BTreeMap<String, Arc<ResolvedImage>>,
}

impl Plan {
    /// Returns the Dockerfile and the main context.
    pub(super) fn source_and_context(&self) -> (&SourceText, Option<&FileRoot>) {
        (&self.inputs.dockerfile, self.inputs.contexts.get(&None).map(|it| &**it))
    }

    /// Returns the image that a vertex stands for.
    pub(super) fn image(&self, id: VertexId) -> Option<&Arc<ResolvedImage>> {
        match &self.graph.vertices[id.0].op {
            Op::Image(op) => self.images.get(&op.digest),
            _ => None,
        }
    }

    /// Returns the files that a vertex stands for.
    pub(super) fn files(&self, id: VertexId) -> Option<&Arc<FileRoot>> {
        match &self.graph.vertices[id.0].op {
            Op::Context(op) => self.inputs.contexts.get(&op.name),
            _ => None,
        }
    }
}

/// Makes the plan for `request`; the Dockerfile is put into `source` as soon as it is read.
pub(super) async fn make(
    inner: &Inner,
    sources: &Sources,
    request: BuildRequest,
    events: &Events,
    source: &mut SourceSlot,
) -> Result<Plan, BuildError> {
    let policy = if request.pull { PullPolicy::Always } else { PullPolicy::Missing };
    let (named_contexts, directories) = named_contexts(&request.named_contexts)?;
    let mut options = LowerOptions {
        target: request.target,
        build_args: request.build_args,
        labels: request.labels,
        target_platform: request.platform.unwrap_or_else(Platform::host),
        build_platform: Platform::host(),
        named_contexts,
        ignore: IgnoreRules::default(),
    };
    let inputs =
        inputs::load(&inner.store, request.context, request.dockerfile, directories).await?;
    *source = Some(inputs.dockerfile.clone());
    events.send(Event::Source(inputs.dockerfile.clone())).await;
    options.ignore.clone_from(&inputs.ignore);
    let (dockerfile, said) = parse(&inputs.dockerfile, &options)?;
    let refuse = |diagnostics: Vec<Diagnostic>| BuildError::Dockerfile {
        diagnostics: said.iter().cloned().chain(diagnostics).collect(),
    };

    let mut resolved: BTreeMap<BaseImage, ResolvedBase> = BTreeMap::new();
    let mut images = BTreeMap::new();
    let mut wanted: BTreeSet<BaseImage> =
        frontend::base_images(&dockerfile, &options).map_err(refuse)?.into_iter().collect();
    for _ in 0..MAX_ROUNDS {
        let span = |base: &BaseImage| frontend::image_span(&dockerfile, &options, base);
        let fetched = wanted.iter().map(|base| resolve(sources, base, policy, &span));
        for (base, image) in try_join_all(fetched).await? {
            let digest = image.manifest.digest.to_string();
            let config = image.config.clone();
            resolved.insert(base, ResolvedBase { digest: digest.clone(), config });
            images.insert(digest, Arc::new(image));
        }
        let lowered = frontend::lower(&dockerfile, &options, &resolved).map_err(refuse)?;
        match lowered {
            Lowered::Graph(mut graph) => {
                if said.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
                    return Err(refuse(graph.warnings));
                }
                graph.warnings.splice(0..0, said);
                refuse_unsupported(&graph)?;
                let epoch = epoch(&graph)?;
                return Ok(Plan { graph: Arc::new(*graph), epoch, inputs, images });
            }
            Lowered::Needs(more) => wanted = more.into_iter().collect(),
        }
    }
    Err(BuildError::Request {
        what: format!("ONBUILD triggers name further images more than {MAX_ROUNDS} times"),
        help: None,
    })
}

async fn resolve(
    sources: &Sources,
    base: &BaseImage,
    policy: PullPolicy,
    span: impl Fn(&BaseImage) -> Span,
) -> Result<(BaseImage, ResolvedImage), BuildError> {
    let reference = Reference::parse_normalized(&base.reference)
        .map_err(|error| BuildError::Request { what: error.to_string(), help: None })?;
    let name = reference.familiar();
    let resolved = sources.resolve(&reference.with_default_tag(), &base.platform, policy).await;
    let image = resolved.map_err(|source| BuildError::Image {
        image: name,
        span: span(base),
        source: Box::new(source),
    })?;
    Ok((base.clone(), image))
}

/// Parses the file; what its rules have to say waits until all of them were heard.
fn parse(
    source: &SourceText,
    options: &LowerOptions,
) -> Result<(Dockerfile, Vec<Diagnostic>), BuildError> {
    let parsed = frontend::parse_with(&source.text, &options.build_args);
    if parsed.diagnostics.iter().any(Diagnostic::is_fault) {
        return Err(BuildError::Dockerfile { diagnostics: parsed.diagnostics });
    }
    Ok((parsed.dockerfile, parsed.diagnostics))
}

/// Refuses, with its line, what the language has and this version does not do yet.
fn refuse_unsupported(graph: &BuildGraph) -> Result<(), BuildError> {
    for (index, vertex) in graph.vertices.iter().enumerate() {
        let what = match &vertex.op {
            Op::Git(_) => "a git repository as a source",
            Op::Http(_) => "a URL as a source",
            _ => continue,
        };
        let user = graph.steps.iter().find(|step| {
            step.vertex.is_some_and(|id| graph.vertices[id.0].inputs.contains(&VertexId(index)))
        });
        let span = user.map(|step| step.span).unwrap_or_default();
        let diagnostic = frontend::Diagnostic::error(span, format!("{what} is not supported yet"));
        return Err(BuildError::Dockerfile { diagnostics: vec![diagnostic] });
    }
    Ok(())
}

fn epoch(graph: &BuildGraph) -> Result<Option<i64>, BuildError> {
    match graph.source_date_epoch {
        None => Ok(None),
        Some(SourceDateEpoch::Seconds(seconds)) => Ok(Some(seconds)),
        Some(SourceDateEpoch::Context) => Err(BuildError::Request {
            what: "SOURCE_DATE_EPOCH=context is not supported".to_owned(),
            help: Some("give seconds since 1970".to_owned()),
        }),
    }
}

type Named = (BTreeMap<String, NamedContext>, Vec<(String, PathBuf)>);

/// Tells the kinds of named contexts apart.
fn named_contexts(given: &BTreeMap<String, String>) -> Result<Named, BuildError> {
    let mut contexts = BTreeMap::new();
    let mut directories = Vec::new();
    for (name, value) in given {
        let refuse = |reason: String| BuildError::Request {
            what: format!("build context `{name}`: {reason}"),
            help: Some("give a directory or docker-image://NAME".to_owned()),
        };
        let context = match value.split_once("://") {
            Some(("docker-image", reference)) => {
                let reference = Reference::parse_normalized(reference)
                    .map_err(|error| refuse(error.to_string()))?;
                NamedContext::Image(reference.to_string())
            }
            Some((scheme, _)) => return Err(refuse(format!("`{scheme}://` is not supported"))),
            None => {
                directories.push((name.clone(), PathBuf::from(value)));
                NamedContext::Local
            }
        };
        contexts.insert(name.clone(), context);
    }
    Ok((contexts, directories))
}
