//! From a Dockerfile to the graphs of its targets: lowered, and lowered again while more bases are
//! named than were known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use frontend::{
    BaseImage, BuildGraph, Diagnostic, Dockerfile, LowerOptions, Lowered, Reference, ResolvedBase,
    Severity, SourceDateEpoch, Span,
};
use futures_util::future::try_join_all;

use super::error::BuildError;
use super::inputs::Inputs;
use crate::op::nearest;
use crate::source::{PullPolicy, ResolvedImage, Sources};

/// A build argument that means something here.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Rounds of "lower, then fetch what ONBUILD triggers name": each base can add one more.
const MAX_ROUNDS: usize = 16;

/// What the targets of one Dockerfile share: each base is resolved once.
pub(super) struct Lowering<'a> {
    dockerfile: &'a Dockerfile,
    /// What the parser said.
    said: &'a [Diagnostic],
    sources: &'a Sources,
    pull: PullPolicy,
    resolved: BTreeMap<BaseImage, ResolvedBase>,
    /// By the digest that the graphs name them with.
    pub(super) images: BTreeMap<String, Arc<ResolvedImage>>,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        said: &'a [Diagnostic],
        sources: &'a Sources,
        pull: PullPolicy,
    ) -> Self {
        let (resolved, images) = (BTreeMap::new(), BTreeMap::new());
        Self { dockerfile, said, sources, pull, resolved, images }
    }

    /// Lowers the target of `options`; returns its graph, and the time that stands for all times.
    pub(super) async fn lower(
        &mut self,
        options: &mut LowerOptions,
        inputs: &Inputs,
    ) -> Result<(BuildGraph, Option<i64>), BuildError> {
        let refuse = |diagnostics: Vec<Diagnostic>| BuildError::Dockerfile {
            diagnostics: self.said.iter().cloned().chain(diagnostics).collect(),
        };
        let dockerfile = self.dockerfile;
        let mut wanted: BTreeSet<BaseImage> =
            frontend::base_images(dockerfile, options).map_err(refuse)?.into_iter().collect();
        for _ in 0..MAX_ROUNDS {
            wanted.retain(|base| !self.resolved.contains_key(base));
            self.resolve(&wanted, options).await?;
            match frontend::lower(dockerfile, options, &self.resolved).map_err(refuse)? {
                Lowered::Graph(graph) => {
                    if self.said.iter().any(|it| it.severity == Severity::Error) {
                        return Err(refuse(graph.warnings));
                    }
                    let epoch = match graph.source_date_epoch {
                        None => None,
                        Some(SourceDateEpoch::Seconds(seconds)) => Some(seconds),
                        Some(SourceDateEpoch::Context) => {
                            // From here on it is a number, for RUN steps that see it too.
                            let seconds = context_time(inputs).await?;
                            options.build_args.insert(EPOCH.to_owned(), seconds.to_string());
                            continue;
                        }
                    };
                    return Ok((*graph, epoch));
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
        &mut self,
        wanted: &BTreeSet<BaseImage>,
        options: &LowerOptions,
    ) -> Result<(), BuildError> {
        let (dockerfile, sources, pull) = (self.dockerfile, self.sources, self.pull);
        let span = |base: &BaseImage| frontend::image_span(dockerfile, options, base);
        let mut by_name: BTreeMap<&str, Vec<&BaseImage>> = BTreeMap::new();
        for base in wanted {
            by_name.entry(&base.reference).or_default().push(base);
        }
        let known = &self.resolved;
        let fetched = by_name.into_iter().map(|(name, bases)| async move {
            let mut is_asked = known.keys().any(|base| base.reference == name);
            let mut images = Vec::with_capacity(bases.len());
            for base in bases {
                // Other platforms' are of the index that the first was found in a moment ago.
                let policy = if is_asked { PullPolicy::Missing } else { pull };
                images.push(resolve(sources, base, policy, &span).await?);
                is_asked = true;
            }
            Ok(images)
        });
        let fetched = try_join_all(fetched).await;
        let fetched = fetched.map_err(|error| meant_a_stage(error, dockerfile))?;
        for (base, image) in fetched.into_iter().flatten() {
            let digest = image.manifest.digest.to_string();
            let config = image.config.clone();
            self.resolved.insert(base, ResolvedBase { digest: digest.clone(), config });
            self.images.insert(digest, Arc::new(image));
        }
        Ok(())
    }
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

/// Tells `SOURCE_DATE_EPOCH=context`.
async fn context_time(inputs: &Inputs) -> Result<i64, BuildError> {
    inputs.time().await?.ok_or_else(|| BuildError::Request {
        what: format!("{EPOCH}=context: the build context holds no file to take a time from"),
        help: Some("give seconds since 1970".to_owned()),
    })
}
