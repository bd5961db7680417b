//! Why a step was or was not found in the cache, as data and in one line.
//!
//! The nearest earlier record of an instruction is what the last build of the same thing looked it
//! up by: its trail. The same thing is the same context, or tag, with the same Dockerfile; failing
//! that, any build of a Dockerfile with the same text.
//!
//! Invariant: nothing here has a say in what is a hit. Without a trail the reason is less exact,
//! and that is all.

mod trail;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cache::{
    CacheKey, Change, Component, Digest, FileChanges, FileList, Record, Store, Trail, TrailStep,
    changes,
};
use frontend::{BuildGraph, Op, VertexId};
use serde::{Deserialize, Serialize};

pub(crate) use self::trail::Scope;

/// The component that stands for the files taken from outside.
const CONTENT: &str = "content";

/// Noted beside a key's components, though it does not enter the key: the ignore file's digest.
const IGNORE_FILE: &str = "ignore file";

/// One step's look-up in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// `sha256:<hex>`: what was looked up.
    pub key: String,
    /// What came of it.
    pub answer: Answer,
    /// Why there was no hit, in one line; `None` for a hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The record found, or the nearest earlier one that this was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// What its key was made of that differs, with both values. Values of secrets are in no key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How the files that it copies differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileChanges>,
    /// The step before it whose change is the cause; an index into the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<usize>,
}

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A result that is used again.
    Hit,
    /// The user did not want the cache to be used.
    Unused,
    /// There is no earlier record of this instruction.
    NeverBuilt,
    /// Something of its own differs from the earlier record.
    Changed,
    /// Nothing of its own differs, but a step that it builds on ran or changed.
    Follows,
    /// It did not come to its end the last time.
    Unfinished,
    /// Gc took the record.
    Evicted,
    /// The record was there and is not any more: damaged, or removed by hand.
    Lost,
}

/// An earlier record of an instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// `sha256:<hex>`.
    pub key: String,
    /// Unix seconds.
    pub seen: u64,
    /// The instruction as it stood then.
    pub step: String,
}

/// What is known of one vertex's look-up in this build.
#[derive(Clone, Debug)]
struct Noted {
    key: CacheKey,
    components: Vec<Component>,
    /// Whether the vertex is as it was in the earlier build, as far as its users are concerned.
    is_same: bool,
    is_done: bool,
    /// The vertex where the change began.
    cause: VertexId,
    /// What is told of it; nothing of a base image that is what it was.
    lookup: Option<Lookup>,
}

impl Noted {
    const fn same(
        id: VertexId,
        key: CacheKey,
        components: Vec<Component>,
        lookup: Option<Lookup>,
    ) -> Self {
        Self { key, components, is_same: true, is_done: true, cause: id, lookup }
    }
}

fn hit(record: &Record) -> Lookup {
    let key = record.key.to_string();
    let earlier = Earlier { key: key.clone(), seen: record.created, step: record.step.clone() };
    Lookup {
        key,
        answer: Answer::Hit,
        reason: None,
        earlier: Some(earlier),
        changes: Vec::new(),
        files: None,
        cause: None,
    }
}

/// Explains the look-ups of one build, and remembers them for the next.
#[derive(Debug)]
pub(crate) struct Explainer {
    store: Store,
    graph: Arc<BuildGraph>,
    scope: Scope,
    earlier: OnceLock<Trail>,
    noted: Mutex<BTreeMap<VertexId, Noted>>,
    /// The files behind content digests, until they are kept for the next build.
    files: Mutex<Vec<(Digest, FileList)>>,
}

impl Explainer {
    pub(crate) fn new(store: &Store, graph: &Arc<BuildGraph>, scope: Scope) -> Self {
        let (store, graph) = (store.clone(), Arc::clone(graph));
        let (earlier, noted, files) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Self { store, graph, scope, earlier, noted, files }
    }

    /// Notes one look-up and explains it. `files` lists what was selected from outside, `is_unused`
    /// says that nobody looked. Inputs must be noted before their users. Blocking.
    pub(crate) fn note(
        &self,
        id: VertexId,
        (key, mut components): (CacheKey, Vec<Component>),
        record: Option<&Record>,
        files: impl FnOnce() -> Option<FileList>,
        is_unused: bool,
    ) {
        if self.takes_files(id) {
            let value = self.scope.ignore_file.map_or_else(String::new, |it| it.to_string());
            components.push(Component { name: IGNORE_FILE.to_owned(), value });
        }
        let noted = match (&self.graph.vertices[id.0].op, record) {
            (Op::Context(_) | Op::Git(_) | Op::Http(_) | Op::Scratch, _) => return,
            (Op::Image(_), _) => Noted::same(id, key, components, None),
            (_, Some(record)) => Noted::same(id, key, components, Some(hit(record))),
            (_, None) => self.miss(id, key, components, files(), is_unused),
        };
        self.noted().insert(id, noted);
    }

    /// Returns the look-ups noted so far, by step.
    pub(crate) fn lookups(&self) -> Vec<(usize, Lookup)> {
        let own = |id: &VertexId| self.graph.steps.iter().position(|it| it.vertex == Some(*id));
        let noted = self.noted();
        let all = noted.iter().filter_map(|(id, it)| Some((own(id)?, it.lookup.clone()?)));
        let mut lookups: Vec<_> = all.collect();
        lookups.sort_by_key(|(step, _)| *step);
        lookups
    }

    /// Compares a base image with the earlier one. Only once there is a miss: nobody asks before.
    fn settle_image(&self, id: VertexId) {
        let Some(Noted { key, components, .. }) = self.noted().get(&id).cloned() else { return };
        let Some(earlier) = self.earlier_step(id, &components) else { return };
        let changes = changes(&earlier.components, &components);
        if !changes.iter().any(|change| change.name == words::MANIFEST) {
            return;
        }
        let reason = words::line(&self.view(id, Some(earlier)), &changes, None);
        let mut noted = Noted::same(id, key, components, None);
        noted.is_same = false;
        noted.lookup = Some(Lookup {
            key: key.to_string(),
            answer: Answer::Changed,
            reason: Some(reason),
            earlier: Some(earlier.into()),
            changes,
            files: None,
            cause: None,
        });
        self.noted().insert(id, noted);
    }

    fn miss(
        &self,
        id: VertexId,
        key: CacheKey,
        components: Vec<Component>,
        files: Option<FileList>,
        is_unused: bool,
    ) -> Noted {
        for &input in &self.graph.vertices[id.0].inputs {
            if self.is_image(input) {
                self.settle_image(input);
            }
        }
        let earlier = self.earlier_step(id, &components);
        let mut changes = earlier.map_or_else(Vec::new, |it| changes(&it.components, &components));
        let listed = files;
        let files = listed.as_ref().and_then(|files| self.file_changes(&changes, files));
        self.note_files(&components, listed);
        // The ignore file is a cause only where the files differ, else it is nobody's business.
        let is_content = changes.iter().any(|change| change.name == CONTENT);
        changes.retain(|change| change.name != IGNORE_FILE || is_content);
        let is_own = changes.iter().any(|change| !words::is_input(&change.name));
        let mut cause = id;
        let (answer, reason) = if is_unused {
            (Answer::Unused, "cache not used (--no-cache)".to_owned())
        } else if let Some(earlier) = earlier {
            if is_own {
                (
                    Answer::Changed,
                    words::line(&self.view(id, Some(earlier)), &changes, files.as_ref()),
                )
            } else if let Some(at) = self.changed_input(id, &changes) {
                cause = at;
                (Answer::Follows, self.follows(id, at))
            } else {
                self.same_key(&key, earlier)
            }
        } else {
            (Answer::NeverBuilt, "never built here".to_owned())
        };
        let lookup = Lookup {
            key: key.to_string(),
            answer,
            reason: Some(reason),
            earlier: earlier.map(Earlier::from),
            changes,
            files,
            cause: (cause != id).then(|| self.step_of(cause)).flatten(),
        };
        let lookup = Some(lookup);
        Noted { key, components, is_same: false, is_done: false, cause, lookup }
    }

    /// Notes that a vertex came to its end.
    pub(crate) fn done(&self, id: VertexId) {
        if let Some(noted) = self.noted().get_mut(&id) {
            noted.is_done = true;
        }
    }

    /// Returns why a vertex was no hit.
    pub(crate) fn reason(&self, id: VertexId) -> Option<String> {
        self.noted().get(&id)?.lookup.as_ref()?.reason.clone()
    }

    /// Remembers this build for the next one. Blocking.
    pub(crate) fn save(&self) {
        let noted = self.noted();
        if noted.values().all(|it| it.is_same) {
            return;
        }
        let now = crate::build::unix_now();
        let steps = noted.iter().filter_map(|(&id, it)| {
            let step = &self.graph.steps[self.step_of(id)?];
            Some(TrailStep {
                stage: step.stage.clone(),
                number: step.number,
                text: step.text.clone(),
                key: it.key,
                components: it.components.clone(),
                is_done: it.is_done,
                seen: now,
            })
        });
        let trail = trail::merge(self.earlier(), steps.collect());
        for scope in self.scope.names() {
            if let Err(error) = self.store.trails().put(&scope, &trail) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the next miss cannot be explained");
                return;
            }
        }
    }

    /// Says why there is no record although the key is the earlier one.
    fn same_key(&self, key: &CacheKey, earlier: &TrailStep) -> (Answer, String) {
        if !earlier.is_done {
            return (Answer::Unfinished, "it did not finish the last time".to_owned());
        }
        match self.store.trails().evicted_at(key) {
            Ok(Some(at)) => {
                let ago = crate::build::unix_now().saturating_sub(at);
                (Answer::Evicted, format!("record evicted {} ago", words::span(ago)))
            }
            _ => (Answer::Lost, "its record is gone or damaged".to_owned()),
        }
    }

    /// Returns where the change began that a vertex with nothing new of its own must follow.
    fn changed_input(&self, id: VertexId, changes: &[Change]) -> Option<VertexId> {
        let noted = self.noted();
        let inputs = &self.graph.vertices[id.0].inputs;
        let misses = inputs.iter().find_map(|input| noted.get(input).filter(|it| !it.is_same));
        if let Some(miss) = misses {
            return Some(miss.cause);
        }
        // An input that was found under another key than the last time.
        let mut numbers = changes.iter().filter_map(|it| words::input_number(&it.name));
        numbers.find_map(|number| inputs.get(number).copied())
    }

    fn follows(&self, id: VertexId, cause: VertexId) -> String {
        let (own, other) = (self.step_of(id), self.step_of(cause));
        let reason = self.reason(cause);
        match other {
            // Parts of one instruction, or a base: what changed there says more than its name.
            Some(step) if own == other || self.is_image(cause) => {
                reason.unwrap_or_else(|| format!("follows {}", self.graph.steps[step].text))
            }
            Some(step) => format!("follows {}", self.graph.steps[step].text),
            None => reason.unwrap_or_else(|| "follows a change before it".to_owned()),
        }
    }

    fn note_files(&self, components: &[Component], files: Option<FileList>) {
        let digest = components.iter().find(|it| it.name == CONTENT);
        let digest = digest.and_then(|it| Digest::parse(&it.value).ok());
        if let (Some(digest), Some(files)) = (digest, files) {
            self.files.lock().unwrap_or_else(PoisonError::into_inner).push((digest, files));
        }
    }

    /// Keeps the names of the files behind content digests. Blocking.
    pub(crate) fn save_files(&self) {
        let files = std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        for (digest, files) in files {
            if let Err(error) = self.store.trails().put_files(&digest, &files) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the next miss cannot name its files");
            }
        }
    }

    fn file_changes(&self, changes: &[Change], files: &FileList) -> Option<FileChanges> {
        let change = changes.iter().find(|change| change.name == CONTENT)?;
        let before = Digest::parse(change.before.as_ref()?).ok()?;
        let before = self.store.trails().files(&before).ok().flatten()?;
        Some(files.changes_since(&before)).filter(|changes| !changes.is_empty())
    }

    fn takes_files(&self, id: VertexId) -> bool {
        let is_context = |input: &VertexId| matches!(&self.graph.vertices[input.0].op, Op::Context(op) if op.name.is_none());
        self.graph.vertices[id.0].inputs.iter().any(is_context)
    }

    fn is_image(&self, id: VertexId) -> bool {
        matches!(self.graph.vertices[id.0].op, Op::Image(_))
    }

    /// Returns the step that a vertex does the work of, or a part of it.
    fn step_of(&self, id: VertexId) -> Option<usize> {
        let steps = &self.graph.steps;
        let own = steps.iter().position(|step| step.vertex == Some(id));
        own.or_else(|| {
            steps.iter().position(|step| {
                let user = step.vertex.map(|user| &self.graph.vertices[user.0]);
                user.is_some_and(|user| matches!(user.op, Op::Merge) && user.inputs.contains(&id))
            })
        })
    }

    /// Returns what the earlier build knew of this vertex.
    fn earlier_step(&self, id: VertexId, components: &[Component]) -> Option<&TrailStep> {
        let step = &self.graph.steps[self.step_of(id)?];
        trail::nearest(self.earlier(), step, components)
    }

    fn earlier(&self) -> &Trail {
        self.earlier.get_or_init(|| {
            let found = self.scope.names().iter().find_map(|scope| {
                self.store
                    .trails()
                    .get(scope)
                    .inspect_err(|error| {
                        tracing::debug!(error = error as &dyn std::error::Error, "no trail read");
                    })
                    .ok()
                    .flatten()
            });
            found.unwrap_or_default()
        })
    }

    fn view<'a>(&'a self, id: VertexId, earlier: Option<&'a TrailStep>) -> words::View<'a> {
        let index = self.step_of(id);
        let step = index.map(|index| &self.graph.steps[index]);
        let stage = step.map(|step| &step.stage);
        let same_stage = self.graph.steps.iter().filter(|other| Some(&other.stage) == stage);
        words::View {
            text: step.map_or("", |step| step.text.as_str()),
            earlier: earlier.map(|it| it.text.as_str()),
            stage: same_stage.map(|other| other.text.as_str()).collect(),
        }
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<VertexId, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&TrailStep> for Earlier {
    fn from(step: &TrailStep) -> Self {
        Self { key: step.key.to_string(), seen: step.seen, step: step.text.clone() }
    }
}
