//! Who may ask a service: tokens with scopes, TLS, client certificates.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Server, command, free_port, rbuild, run};

const CI: &str = "0123456789abcdef-ci";
const VIEW: &str = "0123456789abcdef-view";

/// A certificate authority with a certificate for 127.0.0.1 and one for a client.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path) -> Self {
        Self::named(dir, "pki")
    }

    fn named(dir: &Path, name: &str) -> Self {
        let authority = Self(dir.join(name));
        std::fs::create_dir(&authority.0).expect("writable");
        let ca = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca.pem",
        ];
        run(command("openssl", &ca).current_dir(&authority.0)).ok();
        authority.sign("server", "subjectAltName=IP:127.0.0.1");
        // The names that docker looks for beside each other.
        authority.sign("cert", "extendedKeyUsage=clientAuth");
        std::fs::rename(authority.path("cert-key.pem"), authority.path("key.pem"))
            .expect("writable");
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn sign(&self, name: &str, extension: &str) {
        let (key, out) = (format!("{name}-key.pem"), format!("{name}.pem"));
        let args = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            extension,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca-key.pem",
            "-keyout",
            &key,
            "-out",
            &out,
        ];
        run(command("openssl", &args).current_dir(&self.0)).ok();
    }
}

fn token_file(dir: &Path) -> PathBuf {
    let path = dir.join("tokens");
    std::fs::write(&path, format!("ci read,build {CI}\nview read {VIEW}\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
    path
}

/// A service on `port` of the loopback interface with further arguments.
fn serve(dir: &Path, port: u16, arguments: impl FnOnce(&mut Command)) -> Server {
    let listen = format!("tcp://127.0.0.1:{port}");
    let mut serve = rbuild(&dir.join("store"), &["serve", "--listen", &listen]);
    arguments(&mut serve);
    Server::start(serve.stdout(Stdio::null()), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
}

#[test]
fn tokens_open_what_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = serve(dir.path(), port, |serve| {
        serve.arg("--token-file").arg(token_file(dir.path()));
    });
    let host = format!("tcp://127.0.0.1:{port}");
    let client = |token: &str, args: &[&str]| {
        let mut client = rbuild(dir.path(), args);
        client.env("RBUILD_HOST", &host).env("RBUILD_TOKEN", token);
        run(&mut client)
    };
    client("", &["images"]).fails_with(1).says("a valid token is needed");
    client("0123456789abcdef", &["images"]).fails_with(1).says("a valid token is needed");
    client(VIEW, &["images"]).ok();
    client(VIEW, &["pull", "x"]).fails_with(1).says("the token `view` is not for `build`");
    client(CI, &["rmi", "x"]).fails_with(1).says("not for `admin`");

    let built = crate::support::context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let context = built.path().to_str().unwrap();
    client(CI, &["-t", "by-token:1", context]).ok();
    client(VIEW, &["-t", "by-token:2", context]).fails_with(1).says("not for `build`");

    // The head decides: no body is waited for.
    let ping = format!("http://127.0.0.1:{port}/_ping");
    run(&mut command("curl", &["-sS", &ping])).ok().says("OK");
    let url = format!("http://127.0.0.1:{port}/build");
    let curl = ["-sSi", "-XPOST", "-HTransfer-Encoding: chunked", "-T", "/dev/zero", &url];
    run(&mut command("curl", &curl)).says("401 Unauthorized").says("www-authenticate: Bearer");
}

#[test]
fn tls_is_spoken_and_certificates_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Authority::new(dir.path());
    let port = free_port();
    let _server = serve(dir.path(), port, |serve| {
        serve.arg("--tls-cert").arg(pki.path("server.pem"));
        serve.arg("--tls-key").arg(pki.path("server-key.pem"));
        serve.arg("--tls-client-ca").arg(pki.path("ca.pem"));
    });
    let client = || {
        let mut client = rbuild(dir.path(), &["images"]);
        client.env("RBUILD_HOST", format!("https://127.0.0.1:{port}"));
        client
    };
    let with_ca = |mut client: Command| {
        client.env("RBUILD_TLS_CA", pki.path("ca.pem"));
        client
    };
    let with_identity = |mut client: Command| {
        client.env("RBUILD_TLS_CERT", pki.path("cert.pem"));
        client.env("RBUILD_TLS_KEY", pki.path("key.pem"));
        client
    };
    run(&mut client()).fails_with(3).says("could not reach rbuild at https://127.0.0.1");
    assert_ne!(run(&mut with_ca(client())).code, Some(0), "a client without a certificate");
    assert_ne!(run(&mut with_identity(client())).code, Some(0), "an authority unknown");
    run(&mut with_identity(with_ca(client()))).ok();

    let mut docker = command("docker", &["--tlsverify", "images"]);
    docker.env("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")).env_remove("DOCKER_CONTEXT");
    run(docker.env("DOCKER_CERT_PATH", &pki.0)).ok().says("REPOSITORY");
}

#[test]
fn certificates_are_read_anew_by_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| Authority::named(dir.path(), name));
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let install = |pki: &Authority| {
        std::fs::copy(pki.path("server.pem"), &cert).unwrap();
        std::fs::copy(pki.path("server-key.pem"), &key).unwrap();
    };
    install(&old);
    let port = free_port();
    let server = serve(dir.path(), port, |serve| {
        serve.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key);
    });
    let is_believed = |pki: &Authority| {
        let mut client = rbuild(dir.path(), &["images"]);
        client.env("RBUILD_HOST", format!("https://127.0.0.1:{port}"));
        run(client.env("RBUILD_TLS_CA", pki.path("ca.pem"))).code == Some(0)
    };
    let hang_up = || run(&mut command("kill", &["-HUP", &server.id().to_string()])).ok();
    assert!(is_believed(&old) && !is_believed(&new));
    let mut following = command("curl", &["-sSNv", "--cacert"]);
    following.arg(old.path("ca.pem")).arg(format!("https://127.0.0.1:{port}/events"));
    following.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut following = following.spawn().unwrap();
    // It is connected once it has a head.
    let told = BufReader::new(following.stderr.take().unwrap()).lines();
    let mut told = told.map_while(Result::ok);
    assert!(told.any(|line| line.starts_with("< HTTP/1.1 200")), "curl is not connected");

    install(&new);
    hang_up();
    let since = std::time::Instant::now();
    while !is_believed(&new) {
        assert!(since.elapsed().as_secs() < 30, "the new certificate is never shown");
    }
    assert!(!is_believed(&old));
    // What cannot be read changes nothing: neither a key that does not fit nor half a file.
    std::fs::copy(old.path("server-key.pem"), &key).unwrap();
    hang_up();
    std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
    hang_up();
    assert!(is_believed(&new));
    assert!(following.try_wait().unwrap().is_none(), "a connection that was there is left alone");
    following.kill().unwrap();
    following.wait().unwrap();
}

#[test]
fn other_machines_need_a_guard() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Authority::new(dir.path());
    let listen = |url: &str| rbuild(&dir.path().join("store"), &["serve", "--listen", url]);
    run(&mut listen("tcp://0.0.0.0:0")).fails_with(1).says("refusing to listen on `0.0.0.0`");
    run(&mut listen("https://127.0.0.1:0")).fails_with(1).says("--tls-cert");
    // TLS hides what is said, and says nothing of who says it.
    let mut with_tls = listen("tcp://0.0.0.0:0");
    with_tls.arg("--tls-cert").arg(pki.path("server.pem"));
    run(with_tls.arg("--tls-key").arg(pki.path("server-key.pem")))
        .fails_with(1)
        .says("refusing to listen on `0.0.0.0`");
    let tokens = token_file(dir.path());
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
    run(listen("tcp://127.0.0.1:0").arg("--token-file").arg(&tokens))
        .fails_with(1)
        .says("others may read the tokens");
}
