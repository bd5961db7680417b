//! What a client gave a build beside its request: contexts that it sent, agents that it lends, and
//! where its results wait to be fetched.
//!
//! Invariant: no path that a client names is ever one of this machine's. Contexts, caches and agents
//! go by ids that the client was given here, and results go to a directory of their own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use builder::{BuildRequest, CacheFrom, CachePlace, CacheTo, OutputDest, OutputSpec, SshAgents};
use cache::Store;

use super::Call;
use super::agents::Agent;
use super::error::ApiError;
use super::mirror::Mirror;
use super::native::{Delivery, NativeQuery, SENT, SENT_LAYOUT};
use super::query::BuildQuery;

/// What lasts as long as the build. Dropping it gives contexts and agents back.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// By the ids that they were announced under.
    mirrors: HashMap<String, Mirror>,
    agents: Vec<Agent>,
    main: Option<PathBuf>,
    named_contexts: Vec<(String, String)>,
    ssh: SshAgents,
    cache_from: Vec<CacheFrom>,
    cache_to: Vec<CacheTo>,
    outputs: Vec<OutputSpec>,
    /// Where the client fetches results from, if there will be any for it.
    delivery: Option<Arc<Delivery>>,
}

impl Given {
    /// What Docker's clients name: nothing was sent before.
    pub(super) fn in_query(query: &BuildQuery) -> Self {
        let (cache_from, cache_to) = (query.cache_from.clone(), query.cache_to.clone());
        Self { cache_from, cache_to, ..Self::default() }
    }

    /// Takes what `query` names. Blocking.
    ///
    /// # Errors
    ///
    /// [`ApiError`] for what the client never announced, or did not send to its end.
    pub(super) fn take(call: &Call, query: &NativeQuery) -> Result<Self, ApiError> {
        let mut given = Self::default();
        let store = call.service.builder().store();
        if let Some(id) = &query.context {
            given.main = Some(given.dir(call, id)?);
        }
        for (name, value) in &query.contexts {
            let value = given.context(call, value)?;
            given.named_contexts.push((name.clone(), value));
        }
        for (id, agent) in &query.agents {
            let agent = call.service.0.agents.take(agent, &call.client)?;
            given.ssh.insert(id.clone(), agent.socket());
            given.agents.push(agent);
        }
        for from in &query.build.cache_from {
            let mut from = from.clone();
            if let CachePlace::Local { dir, shown, .. } = &mut from.place {
                *shown = Some("the client's cache".to_owned());
                *dir = given.dir(call, &dir.to_string_lossy())?;
            }
            given.cache_from.push(from);
        }
        for output in &query.outputs {
            let output = given.output(store, output.clone())?;
            given.outputs.push(output);
        }
        for to in &query.build.cache_to {
            let mut to = to.clone();
            if let CachePlace::Local { dir, shown, .. } = &mut to.place {
                *shown = Some(dir.display().to_string());
                *dir = given.place(store)?;
            }
            given.cache_to.push(to);
        }
        Ok(given)
    }

    /// Returns the directory of a context that was sent.
    fn dir(&mut self, call: &Call, id: &str) -> Result<PathBuf, ApiError> {
        if let Some(mirror) = self.mirrors.get(id) {
            return Ok(mirror.dir());
        }
        let mirror = call.service.0.contexts.take(id, &call.client)?;
        let dir = mirror.dir();
        self.mirrors.insert(id.to_owned(), mirror);
        Ok(dir)
    }

    /// Says what a named context is here. Directories are those that were sent.
    fn context(&mut self, call: &Call, value: &str) -> Result<String, ApiError> {
        if let Some(id) = value.strip_prefix(SENT) {
            return Ok(self.dir(call, id)?.display().to_string());
        }
        if let Some(layout) = value.strip_prefix(SENT_LAYOUT) {
            let end = layout.find([':', '@']).unwrap_or(layout.len());
            let dir = self.dir(call, &layout[..end])?;
            return Ok(format!("{SENT_LAYOUT}{}{}", dir.display(), &layout[end..]));
        }
        if builder::is_directory_context(value) {
            let reason = format!("`{value}` is no context that was sent: {SENT}ID");
            return Err(ApiError::parameter("buildcontexts", reason));
        }
        Ok(value.to_owned())
    }

    fn output(&mut self, store: &Store, output: OutputSpec) -> Result<OutputSpec, ApiError> {
        let shown = match &output.dest {
            OutputDest::Own => return Ok(output),
            OutputDest::Stdout => "standard output".to_owned(),
            OutputDest::Path(path) => path.display().to_string(),
        };
        let dest = OutputDest::Path(self.place(store)?);
        Ok(OutputSpec { dest, shown: Some(shown), ..output })
    }

    /// Makes a place for one more result.
    fn place(&mut self, store: &Store) -> Result<PathBuf, ApiError> {
        let delivery = match &mut self.delivery {
            Some(delivery) => delivery,
            none => none.insert(Arc::new(Delivery::new(store.temp_dir()?))),
        };
        let delivery = Arc::get_mut(delivery).expect("nobody else has it yet");
        Ok(delivery.add())
    }

    /// Returns where results wait for the client.
    pub(super) fn delivery(&self) -> Option<Arc<Delivery>> {
        self.delivery.clone()
    }

    /// Returns the main context, if it was sent before.
    pub(super) fn main(&self) -> Option<PathBuf> {
        self.main.clone()
    }

    /// Puts everything into the request.
    pub(super) fn complete(&self, request: &mut BuildRequest) {
        request.named_contexts = self.named_contexts.iter().cloned().collect();
        request.ssh = self.ssh.clone();
        request.cache_from.clone_from(&self.cache_from);
        request.cache_to.clone_from(&self.cache_to);
        request.outputs.clone_from(&self.outputs);
    }
}
