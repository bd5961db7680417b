//! From request to graph: contexts, Dockerfile, bases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use cache::Store;
use frontend::{
    BaseImage, BuildGraph, Diagnostic, Dockerfile, HttpOp, IgnoreRules, LowerOptions, Lowered,
    NamedContext, Op, Platform, Reference, ResolvedBase, Severity, SourceDateEpoch, Span, Vertex,
    VertexId,
};
use futures_util::future::try_join_all;

use super::SourceSlot;
use super::error::BuildError;
use super::execute::Remotes;
use super::inputs::{Fetcher, Inputs, Origins};
use super::policy::Policy;
use crate::builder::Inner;
use crate::context::FileRoot;
use crate::op::nearest;
use crate::progress::{Event, Events, SourceText};
use crate::request::BuildRequest;
use crate::source::{
    PullPolicy, RemoteContext, ResolvedImage, SourceSecrets, Sources, parse_remote,
};

/// Build arguments that mean something here.
const EPOCH: &str = "SOURCE_DATE_EPOCH";
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What `--build-context` takes.
const CONTEXT_FORMS: &str = "give a directory, docker-image://NAME, oci-layout://DIR[:TAG|@DIGEST], \
                             or the URL of a git repository or an archive";

/// Rounds of "lower, then fetch what ONBUILD triggers name": each base can add one more.
const MAX_ROUNDS: usize = 16;

/// A graph with everything from outside that it refers to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) graph: Arc<BuildGraph>,
    /// Stands for every time of the result, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub(super) epoch: Option<i64>,
    /// Which earlier results count.
    pub(super) policy: Policy,
    /// For each vertex, whether it must be made anew.
    pub(super) forced: Vec<bool>,
    inputs: Inputs,
    /// Files by URL; settled after the plan is announced, so that a failure is that of a step.
    pub(super) remotes: Remotes,
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
    secrets: &SourceSecrets,
    events: &Events,
    source: &mut SourceSlot,
) -> Result<Plan, BuildError> {
    let policy = Policy::of(&request);
    let pull = if request.pull { PullPolicy::Always } else { PullPolicy::Missing };
    let Named { contexts: named_contexts, directories, downloads } =
        Named::parse(&request.named_contexts)?;
    let keeps_git_dir = request.build_args.get(KEEP_GIT_DIR).is_some_and(|value| is_true(value));
    let mut options = LowerOptions {
        target: request.target,
        build_args: request.build_args,
        labels: request.labels,
        target_platform: request.platform.unwrap_or_else(Platform::host),
        build_platform: Platform::host(),
        named_contexts,
        ignore: IgnoreRules::default(),
    };
    let loader = Fetcher { sources, secrets, events };
    let origins = Origins {
        context: request.context,
        dockerfile: request.dockerfile,
        ignore_file: request.ignore_file,
        keeps_git_dir,
        directories,
    };
    let mut inputs = Inputs::load(&inner.store, origins, loader).await?;
    let shown = inputs.dockerfile.clone();
    let shown = SourceText { text: frontend::mask_urls(&shown.text), ..shown };
    *source = Some(shown.clone());
    events.send(Event::Source(shown)).await;
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
        let fetched = wanted.iter().map(|base| resolve(sources, base, pull, &span));
        let fetched = try_join_all(fetched).await;
        for (base, image) in fetched.map_err(|error| meant_a_stage(error, &dockerfile))? {
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
                let epoch = match graph.source_date_epoch {
                    None => None,
                    Some(SourceDateEpoch::Seconds(seconds)) => Some(seconds),
                    Some(SourceDateEpoch::Context) => {
                        // From here on it is a number, for RUN steps that see it too.
                        let seconds = context_time(&inputs).await?;
                        options.build_args.insert(EPOCH.to_owned(), seconds.to_string());
                        wanted.clear();
                        continue;
                    }
                };
                download(&mut inputs, &inner.store, &graph, &downloads, loader).await?;
                graph.warnings.splice(0..0, said);
                let forced = policy.forced(&dockerfile, &graph)?;
                let (graph, remotes) = (Arc::new(*graph), Remotes::new());
                return Ok(Plan { graph, epoch, policy, forced, inputs, remotes, images });
            }
            Lowered::Needs(more) => wanted = more.into_iter().collect(),
        }
    }
    Err(BuildError::Request {
        what: format!("ONBUILD triggers name further images more than {MAX_ROUNDS} times"),
        help: None,
    })
}

/// Says so where an image that cannot be had is called almost like a stage.
fn meant_a_stage(mut error: BuildError, dockerfile: &Dockerfile) -> BuildError {
    if let BuildError::Image { image, help, .. } = &mut error {
        let name = image.split([':', '@']).next().unwrap_or(image);
        let stages = dockerfile.stages.iter().filter_map(|stage| stage.name());
        let stages = stages.map(|stage| stage.as_bytes().to_vec());
        *help = nearest(name.as_bytes(), stages).map(|stage| {
            format!("no stage is called so; did you mean `{}`?", String::from_utf8_lossy(&stage))
        });
    }
    error
}

async fn resolve(
    sources: &Sources,
    base: &BaseImage,
    policy: PullPolicy,
    span: impl Fn(&BaseImage) -> Span,
) -> Result<(BaseImage, ResolvedImage), BuildError> {
    if let Some(layout) = base.reference.strip_prefix("oci-layout://") {
        let image = sources.resolve_layout(layout, &base.platform).await?;
        return Ok((base.clone(), image));
    }
    let reference = Reference::parse_normalized(&base.reference)
        .map_err(|error| BuildError::Request { what: error.to_string(), help: None })?;
    let name = reference.familiar();
    let resolved = sources.resolve(&reference.with_default_tag(), &base.platform, policy).await;
    let image = resolved.map_err(|source| BuildError::Image {
        image: name,
        span: span(base),
        help: None,
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

/// Downloads the named contexts that the graph uses.
async fn download(
    inputs: &mut Inputs,
    store: &Store,
    graph: &BuildGraph,
    downloads: &[(String, HttpOp)],
    loader: Fetcher<'_>,
) -> Result<(), BuildError> {
    for (name, op) in downloads {
        let is_it = |vertex: &Vertex| match &vertex.op {
            Op::Context(op) => op.name.as_ref() == Some(name),
            _ => false,
        };
        if graph.vertices.iter().any(is_it) {
            inputs.download(store, name, op, loader).await?;
        }
    }
    Ok(())
}

/// Tells `SOURCE_DATE_EPOCH=context`.
async fn context_time(inputs: &Inputs) -> Result<i64, BuildError> {
    inputs.time().await?.ok_or_else(|| BuildError::Request {
        what: format!("{EPOCH}=context: the build context holds no file to take a time from"),
        help: Some("give seconds since 1970".to_owned()),
    })
}

/// Reads a build argument as a switch, as Go's `strconv.ParseBool` does.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Named contexts by kind.
#[derive(Debug, Default)]
struct Named {
    /// What the frontend is told.
    contexts: BTreeMap<String, NamedContext>,
    directories: Vec<(String, PathBuf)>,
    /// Fetched when the Dockerfile uses them.
    downloads: Vec<(String, HttpOp)>,
}

impl Named {
    fn parse(given: &BTreeMap<String, String>) -> Result<Self, BuildError> {
        let mut named = Self::default();
        for (name, value) in given {
            let context = named.add(name, value).map_err(|reason| BuildError::Request {
                what: format!("build context `{name}`: {reason}"),
                help: Some(CONTEXT_FORMS.to_owned()),
            })?;
            named.contexts.insert(name.clone(), context);
        }
        Ok(named)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<NamedContext, String> {
        match parse_remote(value).map_err(|error| error.to_string())? {
            Some(RemoteContext::Git(git)) => return Ok(NamedContext::Git(git.op)),
            Some(RemoteContext::Http(op)) => {
                self.downloads.push((name.to_owned(), op));
                return Ok(NamedContext::Local);
            }
            None => {}
        }
        match value.split_once("://") {
            Some(("docker-image", reference)) => {
                let reference = Reference::parse_normalized(reference);
                let reference = reference.map_err(|error| error.to_string())?;
                Ok(NamedContext::Image(reference.to_string()))
            }
            Some(("oci-layout", layout)) => Ok(NamedContext::OciLayout(layout.to_owned())),
            Some((scheme, _)) => Err(format!("`{scheme}://` is not supported")),
            // Stages of other targets are bake's to know.
            None if value.starts_with("target:") => {
                Err("`target:` names a target of a bake file, and there is none".to_owned())
            }
            None => {
                self.directories.push((name.to_owned(), PathBuf::from(value)));
                Ok(NamedContext::Local)
            }
        }
    }
}
