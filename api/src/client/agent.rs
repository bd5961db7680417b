//! ssh agents of this machine, lent to the builds of a service.
//!
//! Invariant: the service asks for keys and signatures and for nothing else, whatever it sends: as for
//! steps here (`builder`'s `ssh`), an agent's keys can be used but neither added, removed nor locked.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use axum::http::{Method, StatusCode, header};
use builder::{ErrorKind, SshAgents};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::Client;
use crate::fault::Fault;
use crate::server::AGENT_PROTOCOL;

/// Connections of one agent that wait for a step.
const WAITING: usize = 2;

/// Largest message that agents take (OpenSSH's limit).
const MESSAGE_BYTES: usize = 256 << 10;

/// Messages of the agent protocol (draft-ietf-sshm-ssh-agent, section 3): those that pass, and the
/// answer to all others.
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Agents that a service may reach; until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Lent(JoinSet<()>);

impl Client {
    /// Lets the service reach `agents`; returns what it calls them, by their ids in the Dockerfile.
    ///
    /// # Errors
    ///
    /// A way there that others may listen on, and what the service says.
    pub(super) async fn lend(
        &self,
        agents: &SshAgents,
    ) -> Result<(BTreeMap<String, String>, Lent), Fault> {
        #[derive(Deserialize)]
        struct Announced {
            id: String,
        }
        let (mut told, mut lent) = (BTreeMap::new(), Lent::default());
        if !agents.is_empty() && !self.address.is_private() {
            let what = format!("ssh agents are not lent to {}: others may listen", self.address);
            return Err(Fault::user(what).with_help("use https:// or a socket of this machine"));
        }
        for (id, socket) in agents {
            let announced: Announced = self.json(Method::POST, "/v1/agents").await?;
            let name: String = announced.id.chars().filter(char::is_ascii_alphanumeric).collect();
            for _ in 0..WAITING {
                let (client, name, socket) = (self.clone(), name.clone(), socket.clone());
                lent.0.spawn(async move { client.serve_agent(&name, &socket).await });
            }
            told.insert(id.clone(), name);
        }
        Ok((told, lent))
    }

    /// Opens one connection after the other, each for as long as a step uses it.
    async fn serve_agent(&self, name: &str, socket: &Path) {
        loop {
            let mut link = match self.link(name).await {
                Ok(link) => link,
                // The build has ended, and the service forgot the agent.
                Err(fault) if fault.kind == ErrorKind::User => return,
                Err(fault) => {
                    tracing::warn!(%fault, "the ssh agent is no longer lent to the service");
                    return;
                }
            };
            if let Err(error) = serve(&mut link, socket).await {
                // The build goes on, and its step says what it did not get.
                let socket = socket.display();
                tracing::warn!(%error, %socket, "the ssh agent did not answer the service");
            }
        }
    }

    /// Opens a connection that waits for a step of the service to use the agent `name`.
    async fn link(&self, name: &str) -> Result<TokioIo<Upgraded>, Fault> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        let connection = tokio::spawn(connection.with_upgrades());
        let request = self
            .request(Method::POST, &format!("/v1/agents/{name}"))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, AGENT_PROTOCOL)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| Fault::of(ErrorKind::Bug, &error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.lost(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = answer.into_parts();
            let fault = super::refusal(head.status, body).await;
            connection.abort();
            return Err(fault);
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| self.lost(&error))?;
        Ok(TokioIo::new(upgraded))
    }
}

/// Answers what comes by `link` with the agent at `socket`, until the service ends it.
async fn serve(link: &mut TokioIo<Upgraded>, socket: &Path) -> io::Result<()> {
    let mut agent = None;
    while let Some(request) = read_message(link).await? {
        let answer = match request.get(4) {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                let agent = match &mut agent {
                    Some(agent) => agent,
                    none => none.insert(UnixStream::connect(socket).await?),
                };
                agent.write_all(&request).await?;
                read_message(agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            _ => FAILURE.to_vec(),
        };
        link.write_all(&answer).await?;
        link.flush().await?;
    }
    Ok(())
}

/// Reads a message with its length of four bytes; `None` at the end.
async fn read_message(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.map(drop)?,
    }
    let length = u32::from_be_bytes(head) as usize;
    if length == 0 || length > MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; 4 + length];
    message[..4].copy_from_slice(&head);
    from.read_exact(&mut message[4..]).await?;
    Ok(Some(message))
}
