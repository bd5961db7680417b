//! `--ca-cert` with the programs that it is for, and the image without a trace of it.

use crate::support::{Ran, Server, bases, ca_arguments, command, context, rbuild, run, testdata};

const HOST: &str = "authority.test";

/// Fetches by every program, from a server that they trust by the extra authority alone.
const DOCKERFILE: &str = r#"FROM node:14 AS tools
RUN apt-get update -q && \
    apt-get install -qy --no-install-recommends curl wget git python3-pip && \
    cd /srv && apt-get download ca-certificates && rm -rf /var/lib/apt/lists
FROM tools
ARG URL
RUN curl -fsS $URL/file.txt
RUN wget -qO- $URL/file.txt
RUN python3 -c "import os, urllib.request as r; r.urlopen(os.environ['URL'] + '/file.txt')"
RUN pip install --break-system-packages --no-cache-dir --index-url $URL/simple/ piptest && \
    python3 -c 'import piptest'
RUN cd /tmp && npm install --no-audit --registry $URL npmtest && test -d node_modules/npmtest
RUN git clone $URL/repo.git /tmp/repo && test -d /tmp/repo/.git
RUN --mount=type=bind,from=cargo,target=/cargo \
    mkdir -p /tmp/crate/src && cd /tmp/crate && touch src/lib.rs && printf '%s\n' \
        '[package]' 'name = "x"' 'version = "0.1.0"' 'edition = "2021"' \
        '[dependencies]' 'crtest = { version = "1", registry = "test" }' > Cargo.toml && \
    export CARGO_HOME=/tmp/cargo \
        CARGO_REGISTRIES_TEST_INDEX=sparse+$URL/index/ && \
    /cargo/cargo vendor && test -f vendor/crtest/Cargo.toml
# The package that owns the bundle, installed again, then made anew, with the programs after it.
RUN dpkg -i /srv/ca-certificates_*.deb && update-ca-certificates --fresh && \
    curl -fsS $URL/file.txt && git ls-remote $URL/repo.git && \
    cd /tmp && npm view --registry $URL npmtest version
RUN rm /etc/ssl/certs/ca-certificates.crt && update-ca-certificates && wget -qO- $URL/file.txt
"#;

#[test]
fn programs_trust_it_and_the_image_knows_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let port = dir.path().join("port");
    let mut serve = command("python3", &[testdata().join("ca/server.py").to_str().unwrap()]);
    let _server = Server::start(serve.arg(dir.path()).arg(HOST), || port.exists());
    let url = format!("URL=https://{HOST}:{}", std::fs::read_to_string(port).unwrap());
    let ca = dir.path().join("ca.pem");
    // The mirror may be behind an authority of this network.
    let mut authorities = std::fs::read(&ca).unwrap();
    if let Some(of_network) = ca_arguments().get(1) {
        authorities.extend(std::fs::read(of_network).unwrap());
    }
    let all = dir.path().join("all.pem");
    std::fs::write(&all, authorities).unwrap();
    let programs = tempfile::tempdir().unwrap();
    std::fs::copy(env!("CARGO"), programs.path().join("cargo")).unwrap();
    let cargo = format!("cargo={}", programs.path().display());
    let host = format!("{HOST}:127.0.0.1");
    let files = context(&[("Dockerfile", DOCKERFILE)]);
    let build = |options: &[&str]| -> Ran {
        let mut build = rbuild(bases(), &["--progress", "plain", "-t", "authorities:1"]);
        build.args(["--build-context", &cargo, "--build-arg", &url, "--add-host", &host]);
        build.args(["--network", "host", "--allow", "network.host"]).args(options);
        run(build.arg(files.path()))
    };
    // The programs are to be had without it, and the server is not.
    let without = ca_arguments();
    let without: Vec<&str> = without.iter().map(String::as_str).collect();
    build(&without).fails_with(1).says("RUN curl -fsS");
    build(&["--ca-cert", all.to_str().unwrap()]).ok();

    // A line that no other certificate has.
    let pem = std::fs::read_to_string(&ca).unwrap();
    let canary = pem.lines().nth(4).unwrap();
    assert!(canary.len() > 30, "{canary}");
    for part in ["content", "snapshots", "index", "images", "layers"] {
        let path = bases().join(part);
        let found = run(&mut command("grep", &["-rlF", canary, path.to_str().unwrap()]));
        assert_eq!(found.stdout, "", "a trace of the authority");
    }
    let out = dir.path().join("root");
    let spec = format!("type=local,dest={}", out.display());
    build(&["--ca-cert", all.to_str().unwrap(), "--output", &spec]).ok();
    let bundle = std::fs::read_to_string(out.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 100, "the image's own is whole");
    assert!(!out.join("dev/rbuild").exists(), "what it was shown by is gone");
}
