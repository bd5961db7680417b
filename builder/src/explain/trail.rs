//! What counts as the same thing built before, and as the same instruction in it.

use cache::{Component, Digest, Trail, TrailStep};
use frontend::Step;

use crate::context::FileRoot;
use crate::request::{BuildRequest, ContextInput, DockerfileInput};

/// Names of ignore files, by their order of precedence (the Dockerfile's own comes before them).
const IGNORE_FILES: [&str; 2] = [".containerignore", ".dockerignore"];

/// Bytes of an ignore file that are looked at.
const IGNORE_LIMIT: u64 = 1 << 20;

/// What is built: names the trails that it is compared with. None of this enters a key.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    place: Digest,
    text: Option<Digest>,
    pub(super) ignore_file: Option<Digest>,
}

impl Scope {
    /// Takes it from a request, before its Dockerfile was read.
    pub(crate) fn of(request: &BuildRequest) -> Self {
        let context = match &request.context {
            ContextInput::Directory(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                format!("directory {}", path.display())
            }
            // An archive comes from anywhere: what the result is called says what it is.
            ContextInput::Tar(_) => format!("archive {:?}", request.tags.first()),
            ContextInput::Empty => format!("nothing {:?}", request.tags.first()),
            ContextInput::Url(url) => format!("URL {}", frontend::redact_url(url)),
        };
        let dockerfile = match &request.dockerfile {
            DockerfileInput::InContext(name) => {
                format!("in context {}", name.as_deref().unwrap_or("Dockerfile"))
            }
            DockerfileInput::File(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                format!("file {}", path.display())
            }
            DockerfileInput::Inline(_) => "inline".to_owned(),
        };
        let place = Digest::of(format!("{context}\n{dockerfile}").as_bytes());
        Self { place, text: None, ignore_file: None }
    }

    /// Adds what is known once the Dockerfile was read.
    pub(crate) fn with_files(mut self, name: &str, text: &str, context: Option<&FileRoot>) -> Self {
        self.text = Some(Digest::of(format!("text\n{text}").as_bytes()));
        let own = format!("{name}.dockerignore");
        let names = [own.as_str()].into_iter().chain(IGNORE_FILES);
        self.ignore_file = context.and_then(|context| {
            let mut texts = names.filter_map(|name| context.read_file(name, IGNORE_LIMIT).ok()?);
            texts.next().map(|text| Digest::of(&text))
        });
        self
    }

    /// Returns the names of the trails, the nearest first.
    pub(super) fn names(&self) -> Vec<Digest> {
        [Some(self.place), self.text].into_iter().flatten().collect()
    }
}

/// Returns the step of `trail` that is most like `step`: the same text, or else the same kind of
/// instruction at the same place.
pub(super) fn nearest<'a>(
    trail: &'a Trail,
    step: &Step,
    components: &[Component],
) -> Option<&'a TrailStep> {
    let op = |components: &[Component]| {
        components.iter().find(|it| it.name == "op").map(|it| it.value.clone())
    };
    let kind = op(components);
    let alike = || trail.steps.iter().filter(|it| op(&it.components) == kind);
    let same_text = alike().filter(|it| it.text == step.text && it.stage == step.stage);
    same_text.min_by_key(|it| it.number.abs_diff(step.number)).or_else(|| {
        let word = |text: &str| text.split(' ').next().map(str::to_ascii_uppercase);
        alike().find(|it| {
            it.stage == step.stage && it.number == step.number && word(&it.text) == word(&step.text)
        })
    })
}

/// Returns the steps of this build, and those of stages that it did not reach.
pub(super) fn merge(earlier: &Trail, steps: Vec<TrailStep>) -> Trail {
    let is_reached = |old: &TrailStep| {
        steps.iter().any(|new| new.stage == old.stage && new.number >= old.number)
    };
    let kept: Vec<TrailStep> =
        earlier.steps.iter().filter(|old| !is_reached(old)).cloned().collect();
    Trail { steps: steps.into_iter().chain(kept).take(MAX_STEPS).collect() }
}

/// Steps of one trail; files with more have no reader that would miss the rest.
const MAX_STEPS: usize = 4096;
