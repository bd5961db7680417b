//! Which results of earlier builds count: `--no-cache`, `--no-cache-filter`, `--cache-ttl`.

use std::time::Duration;

use cache::Record;
use frontend::{BuildGraph, Dockerfile, Op, Vertex};

use super::error::BuildError;
use super::keys::unix_now;
use crate::op::nearest;
use crate::request::BuildRequest;

/// What a request says about the use of earlier results.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    no_cache: bool,
    /// Stages, by name or number, that are built anew.
    no_cache_filter: Vec<String>,
    ttl: Option<Duration>,
}

impl Policy {
    pub(super) fn of(request: &BuildRequest) -> Self {
        Self {
            no_cache: request.no_cache,
            no_cache_filter: request.no_cache_filter.clone(),
            ttl: request.cache_ttl,
        }
    }

    /// Returns, for each vertex of `graph`, whether it must be made anew.
    ///
    /// # Errors
    ///
    /// [`BuildError::Request`] when the filter names no stage of the file.
    pub(super) fn forced(
        &self,
        dockerfile: &Dockerfile,
        graph: &BuildGraph,
    ) -> Result<Vec<bool>, BuildError> {
        let mut forced = vec![self.no_cache; graph.vertices.len()];
        for wanted in &self.no_cache_filter {
            let stage = find_stage(dockerfile, wanted)?;
            let start = dockerfile.stages[stage].from.span.start;
            let end = dockerfile.stages.get(stage + 1).map_or(usize::MAX, |it| it.from.span.start);
            let of_stage =
                graph.steps.iter().filter(|step| (start..end).contains(&step.span.start));
            for vertex in of_stage.filter_map(|step| step.vertex) {
                forced[vertex.0] = true;
            }
        }
        Ok(forced)
    }

    /// Whether a record of `vertex` is young enough. Only what a command made grows old: a copy of
    /// the same files is the same whenever it is made.
    pub(super) fn is_fresh(&self, vertex: &Vertex, record: &Record) -> bool {
        let (Some(ttl), Op::Run(_)) = (self.ttl, &vertex.op) else { return true };
        // A record from the future tells of a clock that was set back.
        let age = unix_now().checked_sub(record.created);
        age.is_some_and(|age| age < ttl.as_secs().max(1))
    }
}

fn find_stage(dockerfile: &Dockerfile, wanted: &str) -> Result<usize, BuildError> {
    let name = wanted.to_lowercase();
    let names = || dockerfile.stages.iter().filter_map(|stage| stage.name());
    let by_name = dockerfile.stages.iter().rposition(|stage| stage.name() == Some(&name));
    let by_number = || name.parse().ok().filter(|&number| number < dockerfile.stages.len());
    by_name.or_else(by_number).ok_or_else(|| {
        let known = names().map(|name| name.as_bytes().to_vec());
        let nearest = nearest(name.as_bytes(), known);
        BuildError::Request {
            what: format!("--no-cache-filter: there is no stage `{wanted}`"),
            help: nearest.map(|name| format!("did you mean `{}`?", String::from_utf8_lossy(&name))),
        }
    })
}
