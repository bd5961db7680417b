//! Past and running builds, of the store here or of a service.

use builder::{RecordedEvent, blocking};
use cache::BuildRecord;

use super::engine::Engine;
use super::store::store_fault;
use crate::fault::Fault;
use crate::story::{self, Story};

impl Engine {
    /// Lists the builds whose ids begin with `prefix`, newest first; all for an empty one.
    pub(super) async fn builds(&self, prefix: &str) -> Result<Vec<BuildRecord>, Fault> {
        match self {
            Self::Remote(client) => client.list_builds(prefix).await,
            Self::Local(builder) => {
                let (builder, prefix) = (builder.clone(), prefix.to_owned());
                let found = blocking::run(move || match prefix.as_str() {
                    "" => builder.builds().list(),
                    prefix => builder.builds().find(prefix),
                });
                found.await.map_err(|error| store_fault(&error))
            }
        }
    }

    /// Finds the one build that `prefix` means; the newest for an empty one.
    pub(super) async fn build(&self, prefix: &str) -> Result<BuildRecord, Fault> {
        let mut found = self.builds(prefix).await?;
        let help = "`rbuild builds ls` lists them";
        match (found.len(), prefix) {
            (0, "") => Err(Fault::user("no build is remembered here")),
            (0, _) => Err(Fault::user(format!("there is no build `{prefix}`")).with_help(help)),
            (1, _) | (_, "") => Ok(found.swap_remove(0)),
            (count, _) => {
                let what = format!("{count} builds have an id that begins with `{prefix}`");
                Err(Fault::user(what).with_help(help))
            }
        }
    }

    /// Folds what happened in a build until now into `state`.
    pub(super) async fn fold_events<S: Send + 'static>(
        &self,
        id: &str,
        mut state: S,
        note: fn(&mut S, RecordedEvent) -> Result<(), Fault>,
    ) -> Result<S, Fault> {
        match self {
            Self::Remote(client) => {
                client.recorded_events(id, |recorded| note(&mut state, recorded)).await?;
                Ok(state)
            }
            Self::Local(builder) => {
                let (builder, id) = (builder.clone(), id.to_owned());
                blocking::run(move || {
                    let events = builder.builds().events(&id).map_err(|it| store_fault(&it))?;
                    let mut events = events.into_iter().flat_map(story::events);
                    events.try_for_each(|recorded| note(&mut state, recorded))?;
                    Ok(state)
                })
                .await
            }
        }
    }

    /// Reads what became of a build's steps.
    pub(super) async fn story(&self, id: &str) -> Result<Story, Fault> {
        let note = |story: &mut Story, recorded: RecordedEvent| {
            story.note(recorded.event);
            Ok(())
        };
        self.fold_events(id, Story::default(), note).await
    }

    /// Forgets a build; false when it runs.
    pub(super) async fn forget(&self, id: &str) -> Result<bool, Fault> {
        match self {
            Self::Remote(client) => client.forget_build(id).await.map(|()| true),
            Self::Local(builder) => {
                let (builder, id) = (builder.clone(), id.to_owned());
                let removed = blocking::run(move || builder.builds().remove(&id)).await;
                removed.map_err(|error| store_fault(&error))
            }
        }
    }
}
