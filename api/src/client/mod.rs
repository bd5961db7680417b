//! The client of a service: the same commands, done elsewhere.

mod access;
mod agent;
mod beside;
mod build;
mod builds;
mod contents;
mod context;
mod credentials;
mod engine;
mod fetched;
mod image;
mod mirror;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{self, HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use builder::{ErrorKind, blocking};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

pub(crate) use access::{ClientAccess, ClientTable};

use crate::address::{Address, authority};
use crate::fault::Fault;
use crate::pipe;
use crate::server::kind_of;
use crate::tls;

/// Connecting takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that is read whole.
const DOCUMENT_LIMIT: usize = 64 << 20;

/// Bytes of one line of a stream: the longest one holds a Dockerfile.
const LINE_LIMIT: usize = 16 << 20;

/// A service that requests can be sent to. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    authorization: Option<HeaderValue>,
    tls: Option<Arc<ClientConfig>>,
    /// The store of this machine, which remembers the digests of files.
    store: Option<PathBuf>,
    /// Docker's `config.json` of this machine, whose credentials the service may use.
    auth_file: Option<PathBuf>,
}

/// What is sent with a request.
#[derive(Debug)]
enum Payload {
    Nothing,
    Bytes(Bytes),
    /// A tar as it is made; an error in it breaks the request off.
    Tar(mpsc::Receiver<io::Result<Bytes>>),
}

/// An answer whose body is still coming. Dropping it drops the connection.
#[derive(Debug)]
struct Answer {
    headers: HeaderMap,
    body: Incoming,
    connection: Connection,
}

/// Ends the connection's task when dropped.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A client of the service at `address`; connects with the first request.
    ///
    /// # Errors
    ///
    /// A token that no header can hold, or PEM files that cannot be used.
    pub(crate) async fn open(address: &Address, access: &ClientAccess) -> Result<Self, Fault> {
        let header = access.token.as_ref().map(|token| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| Fault::user("RBUILD_TOKEN holds odd characters"))?;
            value.set_sensitive(true);
            Ok::<_, Fault>(value)
        });
        let tls = match address {
            Address::Unix(_) | Address::Tcp { .. } => None,
            Address::Https { .. } => {
                let access = access.clone();
                let config = blocking::run(move || {
                    tls::client(access.ca.as_deref(), access.identity.as_ref())
                });
                Some(Arc::new(config.await?))
            }
        };
        let (address, authorization) = (address.clone(), header.transpose()?);
        Ok(Self { address, authorization, tls, store: None, auth_file: None })
    }

    /// Lets the service use the credentials in `file`, where nobody else can read them on their way.
    pub(crate) fn with_credentials(self, file: Option<PathBuf>) -> Self {
        Self { auth_file: file, ..self }
    }

    /// Has the store at `root` remember the digests of files that were sent.
    pub(crate) fn remembering(self, root: PathBuf) -> Self {
        Self { store: Some(root), ..self }
    }

    /// Sends a request and returns the answer if it is a good one.
    async fn send(&self, method: Method, path: &str, payload: Payload) -> Result<Answer, Fault> {
        self.send_with(method, path, payload, &[]).await
    }

    /// Sends a request with headers of its own.
    async fn send_with(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, Fault> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        let connection = Connection(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
        }));
        let request = self.request(method, path);
        let add = |request: http::request::Builder, (name, value): &(HeaderName, String)| {
            request.header(name, value)
        };
        let request = headers.iter().fold(request, add);
        let request = match payload {
            Payload::Nothing => {
                request.body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            }
            Payload::Bytes(bytes) => {
                let body = http_body_util::Full::new(bytes).map_err(|never| match never {});
                request.body(body.boxed_unsync())
            }
            Payload::Tar(chunks) => {
                request.header(header::CONTENT_TYPE, "application/x-tar").body(tar_body(chunks))
            }
        };
        let request = request.map_err(|error| Fault::of(ErrorKind::Bug, &error))?;
        let response = sender.send_request(request).await.map_err(|error| self.lost(&error))?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Answer { headers: head.headers, body, connection });
        }
        Err(refusal(head.status, body).await)
    }

    /// Begins a request, with what all of them have.
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host_header())
            .header(header::USER_AGENT, concat!("rbuild/", env!("CARGO_PKG_VERSION")));
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Fault> {
        let connecting = async {
            Ok::<Box<dyn Stream>, io::Error>(match &self.address {
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Address::Tcp { host, port } | Address::Https { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    match &self.tls {
                        None => Box::new(stream),
                        Some(tls) => {
                            let name = ServerName::try_from(host.clone());
                            let name = name.map_err(io::Error::other)?;
                            let connector = TlsConnector::from(Arc::clone(tls));
                            Box::new(connector.connect(name, stream).await?)
                        }
                    }
                }
            })
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let error = match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()),
        };
        let what = format!("could not reach rbuild at {}", self.address);
        let fault = Fault::new(ErrorKind::Remote, what);
        let fault = Fault { causes: [fault.causes, vec![error]].concat(), ..fault };
        Err(fault.with_help("is `rbuild serve` running there?"))
    }

    fn host_header(&self) -> String {
        match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Tcp { host, port } | Address::Https { host, port } => authority(host, *port),
        }
    }

    fn lost(&self, error: &hyper::Error) -> Fault {
        let mut causes = vec![format!("the connection to {} was lost", self.address)];
        causes.extend(builder::causes(error));
        Fault { causes, ..Fault::new(ErrorKind::Remote, "") }
    }

    /// Sends a request without a body and parses the answer.
    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Fault> {
        self.send(method, path, Payload::Nothing).await?.document().await
    }
}

impl Answer {
    /// Returns the id of the build that was begun, as far as it is one.
    fn build(&self) -> String {
        let place = self.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let id = place.and_then(|place| place.rsplit('/').next()).unwrap_or_default();
        id.chars().filter(char::is_ascii_alphanumeric).collect()
    }

    /// Reads the whole body and parses it.
    async fn document<T: DeserializeOwned>(self) -> Result<T, Fault> {
        let body = Limited::new(self.body, DOCUMENT_LIMIT).collect().await;
        let body = body.map_err(|error| Fault::of(ErrorKind::Remote, error.as_ref()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| not_understood(&error))
    }

    /// Returns the next line of a stream of JSON, parsed; `None` at its end. `rest` holds what is
    /// read beyond it.
    async fn line<T: DeserializeOwned>(&mut self, rest: &mut Vec<u8>) -> Result<Option<T>, Fault> {
        while let Some(line) = self.text_line(rest).await? {
            if !line.trim_ascii().is_empty() {
                let parsed = serde_json::from_slice(&line);
                return parsed.map(Some).map_err(|error| not_understood(&error));
            }
        }
        Ok(None)
    }

    /// Returns the next line as it is, its end cut off.
    async fn text_line(&mut self, rest: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).take(end).collect();
                return Ok(Some(line));
            }
            if rest.len() > LINE_LIMIT {
                let what = format!("the service sent a line longer than {LINE_LIMIT} bytes");
                return Err(Fault::new(ErrorKind::Remote, what));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Fault::of(ErrorKind::Remote, &error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        rest.extend_from_slice(&bytes);
                    }
                }
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn tar_body(chunks: mpsc::Receiver<io::Result<Bytes>>) -> UnsyncBoxBody<Bytes, io::Error> {
    let frames = pipe::stream(chunks).map(|chunk| chunk.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}

/// Reads what a service says when it does not do what it was asked to.
async fn refusal(status: StatusCode, body: Incoming) -> Fault {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let body = Limited::new(body, DOCUMENT_LIMIT).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = serde_json::from_slice(&bytes).map(|Message { message }| message);
    let message = message.unwrap_or_else(|_| format!("the service answered {status}"));
    Fault::new(kind_of(status), crate::format::printable(&message))
}

fn not_understood(error: &serde_json::Error) -> Fault {
    let mut fault = Fault::new(ErrorKind::Remote, "the service's answer was not understood");
    fault.causes.push(error.to_string());
    fault.with_help("is it an rbuild of the same version?")
}
