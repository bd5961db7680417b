//! ssh agents that clients lend to their builds: a socket here, whose connections lead there.
//!
//! ```text
//! step -> builder's socket -> our socket -> a connection that the client opened and that waits -> agent
//! ```
//!
//! Invariants: the client opens all connections, and what it lets through is its own to judge
//! ([`crate::client`]); nothing here reads what passes. An agent belongs to who announced it, and goes
//! when its build has ended.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use builder::blocking;
use cache::{Store, TempDir};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::ApiError;
use super::{Call, Service};

/// What connections are upgraded to.
pub(crate) const PROTOCOL: &str = "rbuild-agent";

/// Agents that wait for their build.
const MOST: usize = 256;

/// Connections of a client that wait for a step.
const WAITING_LINKS: usize = 8;

/// How long an agent is kept for its build.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a step waits for a connection of the client's.
const LINK_PATIENCE: Duration = Duration::from_secs(30);

/// An agent of a client. Dropping it ends its connections.
#[derive(Debug)]
pub(super) struct Agent {
    /// Holds the socket.
    place: OwnedFd,
    _dir: TempDir,
    _running: DropGuard,
}

impl Agent {
    /// Returns where the socket is. By descriptor: addresses of sockets end at 108 bytes, paths of
    /// stores need not.
    pub(super) fn socket(&self) -> PathBuf {
        socket_in(&self.place)
    }
}

fn socket_in(place: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/agent", place.as_raw_fd()).into()
}

/// All that were announced, by their ids.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<HashMap<String, Announced>>);

#[derive(Debug)]
struct Announced {
    client: String,
    /// Until its build has taken it.
    agent: Option<Agent>,
    links: mpsc::Sender<TokioIo<Upgraded>>,
}

impl Agents {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the agent `id` of `client`, whose connections may still come.
    ///
    /// # Errors
    ///
    /// [`ApiError::NotFound`] where there is none.
    pub(super) fn take(&self, id: &str, client: &str) -> Result<Agent, ApiError> {
        let mut agents = self.lock();
        let found = agents.get_mut(id).filter(|it| it.client == client);
        found.and_then(|it| it.agent.take()).ok_or_else(|| unknown(id))
    }

    fn links(&self, id: &str, client: &str) -> Result<mpsc::Sender<TokioIo<Upgraded>>, ApiError> {
        let agents = self.lock();
        let found = agents.get(id).filter(|it| it.client == client);
        found.map(|it| it.links.clone()).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::NotFound(format!("no such agent: {id}"))
}

/// `POST /v1/agents`: makes a socket that leads to an agent of the client's.
pub(super) async fn announce(call: &Call) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let builder = call.service.builder().clone();
    let (id, dir, place) = blocking::run(move || {
        let store = builder.store();
        let id = [store.builds().new_id()?, store.builds().new_id()?].concat();
        let (dir, place) = open_place(store)?;
        Ok::<_, ApiError>((id, dir, place))
    })
    .await?;
    let listener = UnixListener::bind(socket_in(&place)).map_err(|error| broken(&error))?;
    let (links, waiting) = mpsc::channel(WAITING_LINKS);
    let stop = CancellationToken::new();
    let agent = Agent { place, _dir: dir, _running: stop.clone().drop_guard() };
    {
        let mut agents = call.service.0.agents.lock();
        if agents.len() >= MOST {
            return Err(ApiError::Busy);
        }
        let (client, agent) = (call.client.clone(), Some(agent));
        agents.insert(id.clone(), Announced { client, agent, links });
    }
    serve(&call.service, id.clone(), listener, waiting, stop);
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

fn open_place(store: &Store) -> Result<(TempDir, OwnedFd), ApiError> {
    let dir = store.temp_dir()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(dir.path(), flags, Mode::empty());
    Ok((dir, place.map_err(|errno| broken(&errno.into()))?))
}

fn broken(error: &std::io::Error) -> ApiError {
    let message = format!("could not make a socket for the agent: {error}");
    ApiError::Build { kind: builder::ErrorKind::Host, message }
}

/// Serves an agent until it is stopped, and forgets one that no build takes.
fn serve(
    service: &Service,
    id: String,
    listener: UnixListener,
    mut waiting: mpsc::Receiver<TokioIo<Upgraded>>,
    stop: CancellationToken,
) {
    let service_of_task = service.clone();
    service.spawn(async move {
        let service = service_of_task;
        let mut links = JoinSet::new();
        let lead = async {
            while let Ok((step, _)) = listener.accept().await {
                let link = tokio::time::timeout(LINK_PATIENCE, waiting.recv()).await;
                let Ok(Some(link)) = link else { continue };
                links.spawn(lead_on(step, link));
                while links.try_join_next().is_some() {}
            }
        };
        let forget = async {
            let patience = tokio::time::sleep(PATIENCE);
            let _waited = service.0.ending.run_until_cancelled(patience).await;
            // Dropped outside of the lock: it removes files. One that a build has stays.
            let left = service.0.agents.lock().get_mut(&id).and_then(|it| it.agent.take());
            blocking::run(move || drop(left)).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lead => {}
            () = forget => {}
            () = stop.cancelled() => {}
        }
        let left = service.0.agents.lock().remove(&id);
        blocking::run(move || drop(left)).await;
    });
}

async fn lead_on(mut step: UnixStream, mut link: TokioIo<Upgraded>) {
    // Whoever ends it has reasons that the other end will see.
    drop(copy_bidirectional(&mut step, &mut link).await);
}

/// `POST /v1/agents/{id}` with an upgrade: a connection that waits for a step to use the agent.
pub(super) fn link(
    call: &Call,
    id: &str,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, ApiError> {
    call.expect_only(&[])?;
    let links = call.service.0.agents.links(id, &call.client)?;
    let upgrade = upgrade.filter(|_| asks_for_upgrade(&call.headers));
    let upgrade = upgrade.ok_or_else(|| {
        ApiError::parameter("Upgrade", format!("the connection must become one of {PROTOCOL}"))
    })?;
    call.service.spawn(async move {
        match upgrade.await {
            // The agent went, or the client opens more than it needs.
            Ok(upgraded) => drop(links.try_send(TokioIo::new(upgraded))),
            Err(error) => tracing::debug!(%error, "a connection to an agent was lost"),
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes() == PROTOCOL.as_bytes())
}
