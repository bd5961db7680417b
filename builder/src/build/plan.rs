//! From request to graph: contexts, Dockerfile, bases.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cache::Store;
use frontend::{
    BuildGraph, Diagnostic, Dockerfile, HttpOp, IgnoreRules, ImageConfig, LowerOptions,
    NamedContext, Op, Platform, Reference, Vertex, VertexId,
};

use super::SourceSlot;
use super::error::BuildError;
use super::execute::Remotes;
use super::inputs::{Fetcher, Inputs, Origins};
use super::latest::Latest;
use super::lowering::Lowering;
use super::policy::Policy;
use crate::builder::Inner;
use crate::context::FileRoot;
use crate::progress::{Event, Events, SourceText};
use crate::request::{BuildRequest, ContextInput};
use crate::source::{
    PullPolicy, RemoteContext, ResolvedImage, SourceSecrets, Sources, parse_remote,
};

/// A build argument that means something here.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What `--build-context` takes.
const CONTEXT_FORMS: &str = "give a directory, docker-image://NAME, oci-layout://DIR[:TAG|@DIGEST], \
                             or the URL of a git repository or an archive";

/// A graph with everything from outside that it refers to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) graph: Arc<BuildGraph>,
    /// Stands for every time of the result, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub(super) epoch: Option<i64>,
    /// Stands for every later time in the layers.
    pub(super) latest: Arc<Latest>,
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
    let variants = Variant::all(&request);
    let context_dir = match &request.context {
        ContextInput::Directory(path) => Some(path.clone()),
        ContextInput::Tar(_) | ContextInput::Url(_) | ContextInput::Empty => None,
    };
    let mut options = LowerOptions {
        target: request.target,
        build_args: request.build_args,
        labels: request.labels,
        target_platform: Platform::host(),
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
    let (dockerfile, said) = parse(&inputs.dockerfile, &mut options, &variants)?;
    let mut lowering = Lowering::new(&dockerfile, &said, sources, pull);
    let mut graphs = Vec::new();
    let mut epoch = None;
    for variant in &variants {
        let options = variant.apply(&mut options);
        let (graph, found) = lowering.lower(options, &inputs).await?;
        graphs.push(graph);
        epoch = found;
    }
    let images = lowering.images;
    let mut graph = frontend::merge(graphs).expect("there is always a target and a platform");
    download(&mut inputs, &inner.store, &graph, &downloads, loader).await?;
    graph.warnings.splice(0..0, said);
    let forced = policy.forced(&dockerfile, &graph)?;
    let base = images.values().filter_map(|image| created(&image.config)).max();
    let latest = Arc::new(Latest::new(epoch, context_dir, inputs.own_time(), base));
    let (graph, remotes) = (Arc::new(graph), Remotes::new());
    Ok(Plan { graph, epoch, latest, policy, forced, inputs, remotes, images })
}

/// Returns when an image was made, in seconds since 1970.
fn created(config: &ImageConfig) -> Option<i64> {
    let time = config.created.as_deref()?.parse::<jiff::Timestamp>().ok()?;
    Some(time.as_second())
}

/// One target for one platform.
struct Variant {
    target: Option<String>,
    platform: Platform,
}

impl Variant {
    /// Returns all that a request asks for: targets in their order, platforms within them.
    fn all(request: &BuildRequest) -> Vec<Self> {
        let more = request.more_targets.iter().map(|it| Some(it.stage.clone()));
        let targets = std::iter::once(request.target.clone()).chain(more);
        let platforms = request.distinct_platforms();
        let of = |target: Option<String>| {
            let one =
                |platform: &Platform| Self { target: target.clone(), platform: platform.clone() };
            platforms.iter().map(one).collect::<Vec<_>>()
        };
        targets.flat_map(of).collect()
    }

    fn apply<'a>(&self, options: &'a mut LowerOptions) -> &'a mut LowerOptions {
        options.target.clone_from(&self.target);
        options.target_platform = self.platform.clone();
        options
    }
}

/// Parses the file; what its rules have to say waits until all of them were heard. Faults of
/// stages that no variant needs are none, as in BuildKit.
fn parse(
    source: &SourceText,
    options: &mut LowerOptions,
    variants: &[Variant],
) -> Result<(Dockerfile, Vec<Diagnostic>), BuildError> {
    let mut parsed = frontend::parse_with(&source.text, &options.build_args);
    for variant in variants {
        if !frontend::faults(&parsed, variant.apply(options)).is_empty() {
            return Err(BuildError::Dockerfile { diagnostics: parsed.diagnostics });
        }
    }
    parsed.diagnostics.retain(|said| !said.is_fault());
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
            // As with buildx, where only a bake file has targets to name.
            None if value.starts_with("target:") => {
                let what = "`target:` names a target of a bake file, and there is none; stages of \
                            the Dockerfile go by their names in FROM and --from";
                Err(what.to_owned())
            }
            None => {
                self.directories.push((name.to_owned(), PathBuf::from(value)));
                Ok(NamedContext::Local)
            }
        }
    }
}

/// Whether the value of a `--build-context` is a directory of this machine, and nothing else.
#[must_use]
pub fn is_directory_context(value: &str) -> bool {
    matches!(parse_remote(value), Ok(None))
        && !value.contains("://")
        && !value.starts_with("target:")
}
