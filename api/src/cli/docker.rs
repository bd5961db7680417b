//! `--load`: an image straight into a running docker engine, which is sent what it lacks.

use builder::{ArchiveKind, Builder, Events};

use crate::client::{Client, ClientAccess};
use crate::config::Environment;
use crate::fault::Fault;
use crate::pipe;
use crate::tls::Identity;

/// Where an engine listens unless `DOCKER_HOST` says otherwise.
const SOCKET: &str = "unix:///var/run/docker.sock";

/// Brings an image into the engine under `names`; `id` is the image's ID. Returns what was done,
/// for people.
pub(super) async fn load(
    builder: &Builder,
    id: &str,
    names: &[String],
    environment: &Environment,
) -> Result<String, Fault> {
    let (engine, place, has_it) = find(id, environment).await?;
    if has_it {
        for name in names {
            engine.tag(id, name).await?;
        }
        return Ok(format!("{place} (it had the image)"));
    }
    let stacks = if engine.keeps_blobs().await? { Vec::new() } else { engine.stacks().await? };
    let asked = if names.is_empty() { vec![id.to_owned()] } else { names.to_vec() };
    match send(builder, &engine, &asked, &stacks).await {
        // An engine that wants more than it should is given everything.
        Err(fault) if !stacks.is_empty() => {
            tracing::debug!(?fault, "the engine did not take the image without its own layers");
            send(builder, &engine, &asked, &[]).await?;
        }
        sent => sent?,
    }
    Ok(place)
}

/// As [`load`], of an image of a service, where it is called `tags`: it comes through this machine,
/// and is kept nowhere here.
pub(super) async fn pass_on(
    service: &Client,
    (id, tags): (&str, &[String]),
    names: &[String],
    environment: &Environment,
) -> Result<String, Fault> {
    let (engine, place, has_it) = find(id, environment).await?;
    if !has_it {
        let (writer, end, chunks) = pipe::writer();
        // An engine of containerd's has IDs of its own: what has its names already needs none.
        let asked = if names == tags && !tags.is_empty() { tags } else { &[id.to_owned()] };
        let save = async {
            let saved = service.save(asked, (ArchiveKind::Docker, None), Box::new(writer)).await;
            if let Err(fault) = &saved {
                end.fail(std::io::Error::other(fault.to_string())).await;
            }
            saved
        };
        let (saved, loaded) = tokio::join!(save, engine.load_chunks(chunks, |_| {}));
        // An engine that refuses what it is given breaks the other end off, too.
        loaded.and(saved)?;
    }
    if has_it || names != tags {
        for name in names {
            engine.tag(id, name).await?;
        }
    }
    Ok(if has_it { format!("{place} (it had the image)") } else { place })
}

/// Opens the engine, and tells what to call it and whether it has the image.
async fn find(id: &str, environment: &Environment) -> Result<(Client, String, bool), Fault> {
    let host = environment.text("DOCKER_HOST").filter(|host| !host.is_empty()).unwrap_or(SOCKET);
    let engine = engine(host, environment).await?;
    let has_it = engine.inspect(id, None).await.is_ok();
    Ok((engine, format!("docker at {host}"), has_it))
}

/// Sends an archive without the layers of `stacks`.
async fn send(
    builder: &Builder,
    engine: &Client,
    names: &[String],
    stacks: &[Vec<String>],
) -> Result<(), Fault> {
    let (writer, end, chunks) = pipe::writer();
    let (events, seen) = Events::channel();
    drop(seen);
    let save = async {
        let saved = builder.save_missing(names, stacks, Box::new(writer), &events).await;
        if let Err(error) = saved {
            let cause = builder::causes(&error).join(": ");
            end.fail(std::io::Error::other(cause)).await;
            return Err(Fault::from(error));
        }
        drop(end);
        Ok(())
    };
    let load = engine.load_chunks(chunks, |_| ());
    let (saved, loaded) = tokio::join!(save, load);
    // Where both failed, the engine's complaint is of a broken archive.
    saved.and(loaded)
}

async fn engine(host: &str, environment: &Environment) -> Result<Client, Fault> {
    let fault = |what: String| {
        Fault::user(format!("DOCKER_HOST: {what}")).with_help("give unix://PATH or tcp://HOST:PORT")
    };
    let verifies = environment.text("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
    let (address, access) = match host.strip_prefix("tcp://").filter(|_| verifies) {
        Some(rest) => {
            let dir = environment.path("DOCKER_CERT_PATH");
            let dir = dir.ok_or_else(|| fault("DOCKER_CERT_PATH is not set".to_owned()))?;
            let identity = Identity { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
            let ca = Some(dir.join("ca.pem"));
            (format!("https://{rest}"), ClientAccess { token: None, ca, identity: Some(identity) })
        }
        None => (host.to_owned(), ClientAccess::default()),
    };
    let address = address.parse().map_err(|error| fault(format!("{error}")))?;
    Client::open(&address, &access).await
}
