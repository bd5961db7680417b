//! What a stage begins with: its base's files and config.

use std::collections::BTreeMap;

use crate::ast::StageHead;
use crate::check;
use crate::{
    ContextOp, CopyOp, CopySource, HistoryStep, ImageConfig, ImageOp, Op, Platform, Unpack,
    VertexId,
};

use super::BaseImage;
use super::plan::{PlannedStage, Source};
use super::scope::Scope;
use super::stage::{Lowering, StageResult};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Lowering<'_, '_> {
    /// Begins a stage with what its base has; `None` where the budget does not allow it.
    pub(super) fn base(&mut self, planned: &PlannedStage<'_>) -> Option<StageResult> {
        let PlannedStage { base, platform, .. } = planned;
        if let Source::Stage(earlier) = base {
            let cost = self.results.get(earlier)?.cost();
            if let Err(fault) = self.charge(cost, planned.head.span) {
                self.checks.out.push(*fault);
                return None;
            }
            let mut stage = self.results.get(earlier)?.clone();
            stage.config.config.on_build = None;
            stage.seen = BTreeMap::new();
            self.stand_on_layer(&mut stage, planned);
            return Some(stage);
        }
        let config = match base {
            Source::Image(image) => match self.bases.get(image) {
                Some(resolved) => {
                    self.check_platform(image, &resolved.config, planned.head);
                    inherited_config(&resolved.config)
                }
                None => empty_config(platform),
            },
            _ => empty_config(platform),
        };
        let root = self.root_of(base, platform);
        let env = config.config.env.clone().unwrap_or_default();
        let mut scope = Scope::from_env(&env);
        if !scope.is_declared("PATH") && platform.os != "windows" {
            scope.set_env("PATH", DEFAULT_PATH.to_owned());
        }
        let mut stage = StageResult {
            root,
            platform: platform.clone(),
            config,
            scope,
            history: Vec::new(),
            has_workdir: false,
            seen: BTreeMap::new(),
        };
        // Who only copies from a named context needs no layer of all that is in it.
        if !planned.statements.is_empty() || self.index == self.plan.target {
            self.stand_on_layer(&mut stage, planned);
        }
        Some(stage)
    }

    /// Makes files from outside a layer, where they are what a stage begins with.
    fn stand_on_layer(&mut self, stage: &mut StageResult, planned: &PlannedStage<'_>) {
        if !matches!(self.vertices.op(stage.root), Op::Context(_) | Op::Git(_)) {
            return;
        }
        let (files, platform) = (stage.root, &planned.platform);
        let empty = self.vertices.add(Op::Scratch, Vec::new(), platform.clone());
        let copy = CopyOp {
            sources: vec![CopySource::Path { input: 1, path: String::new(), wildcard: false }],
            destination: "/".to_owned(),
            destination_is_dir: true,
            owner: None,
            mode: None,
            exclude: Vec::new(),
            parents: false,
            unpack: Unpack::Never,
        };
        stage.root = self.vertices.add(Op::Copy(copy), vec![empty, files], platform.clone());
        stage.history.push(HistoryStep {
            created_by: format!("FROM {} # buildkit", planned.head.base.text),
            author: None,
            vertex: Some(stage.root),
        });
    }

    /// Returns the vertex whose root a source is.
    pub(super) fn root_of(&mut self, source: &Source, platform: &Platform) -> VertexId {
        let target = &self.plan.options.target_platform;
        match source {
            Source::Stage(index) => match self.results.get(index) {
                Some(stage) => stage.root,
                None => self.vertices.add(Op::Scratch, Vec::new(), target.clone()),
            },
            Source::Scratch => self.vertices.add(Op::Scratch, Vec::new(), target.clone()),
            Source::Image(image) => match self.bases.get(image) {
                Some(base) if has_layers(&base.config) => {
                    let op = Op::Image(ImageOp {
                        reference: image.reference.clone(),
                        digest: base.digest.clone(),
                    });
                    self.vertices.add(op, Vec::new(), platform.clone())
                }
                _ => self.vertices.add(Op::Scratch, Vec::new(), target.clone()),
            },
            Source::Context(name) => self.context(Some(name.clone())),
            Source::Git(op) => self.vertices.add(Op::Git(op.clone()), Vec::new(), target.clone()),
        }
    }

    /// Returns the vertex of the main context, or of a named one.
    pub(super) fn context(&mut self, name: Option<String>) -> VertexId {
        let platform = self.plan.options.target_platform.clone();
        self.vertices.add(Op::Context(ContextOp { name }), Vec::new(), platform)
    }

    /// The image below the stage, where a check knows no config of it.
    pub(super) fn unknown_base(&self) -> Option<&str> {
        let mut index = self.index;
        loop {
            match &self.plan.stages[index].base {
                Source::Stage(below) => index = *below,
                Source::Image(image) if !self.bases.contains_key(image) => {
                    return Some(&image.reference);
                }
                _ => return None,
            }
        }
    }

    fn check_platform(&mut self, image: &BaseImage, config: &ImageConfig, head: &StageHead) {
        let wanted = &image.platform;
        if config.architecture.is_empty()
            || (config.os == wanted.os && config.architecture == wanted.architecture)
        {
            return;
        }
        let got = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
        };
        let written = head.base.text.as_str();
        let name = if written.contains('$') { &image.reference } else { written };
        let message = format!(
            "Base image {name} was pulled with platform \"{got}\", expected \"{wanted}\" for \
             current build"
        );
        let rule = check::INVALID_BASE_IMAGE_PLATFORM;
        self.checks.warn(&head.comments, rule, head.base.span, message);
    }
}

/// An image without layers is `scratch` with a config.
fn has_layers(config: &ImageConfig) -> bool {
    !config.rootfs.diff_ids.is_empty() || config.history.iter().any(|entry| !entry.empty_layer)
}

/// The config of `FROM scratch`.
fn empty_config(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = Some("/".to_owned());
    config
}

/// What a child takes over from its base's config: everything that BuildKit knows. Leftovers of
/// the base's own build (`container_config`, `Hostname`) would be lies in the child.
fn inherited_config(base: &ImageConfig) -> ImageConfig {
    let mut config = base.clone();
    config.created = None;
    config.extra.retain(|name, _| name == "os.version" || name == "os.features");
    config.config.extra.clear();
    config.config.on_build = None;
    let dir = config.config.working_dir.take().filter(|dir| !dir.is_empty());
    config.config.working_dir =
        dir.map(|dir| if dir.starts_with('/') { dir } else { format!("/{dir}") });
    config
}
