//! Following a build through a connection that keeps breaking.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::engine;
use crate::support::{context, rbuild, run};

/// Bytes of an answer until the connection is cut.
const UNTIL_CUT: usize = 1500;

/// Leads to a service, and cuts every stream of events before its end.
struct Scissors {
    host: String,
    cuts: Arc<AtomicUsize>,
}

impl Scissors {
    fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let host = format!("tcp://{}", listener.local_addr().expect("it is bound"));
        let cuts = Arc::new(AtomicUsize::new(0));
        let (socket, counted): (PathBuf, _) = (socket.to_owned(), Arc::clone(&cuts));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (socket, counted) = (socket.clone(), Arc::clone(&counted));
                std::thread::spawn(move || lead(&client, &socket, &counted));
            }
        });
        Self { host, cuts }
    }
}

/// Passes on one request and its answer.
fn lead(client: &TcpStream, socket: &Path, cuts: &AtomicUsize) {
    let mut service = UnixStream::connect(socket).expect("the service listens");
    let mut reader = BufReader::new(client.try_clone().expect("it is open"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or_default() == 0 {
            return;
        }
    }
    // One request a connection, so that this need not know where bodies end.
    let is_stream = head.lines().next().is_some_and(|line| line.contains("/events"));
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    service.write_all(head.as_bytes()).expect("the service reads");
    let mut left = if is_stream { UNTIL_CUT } else { usize::MAX };
    let (mut buffer, mut writer) = ([0; 200], client);
    while let Ok(length @ 1..) = service.read(&mut buffer) {
        if writer.write_all(&buffer[..length]).is_err() {
            return;
        }
        left = left.saturating_sub(length);
        if left == 0 {
            cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
}

#[test]
fn attach_goes_on_where_a_connection_broke() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, near) = engine(dir.path());
    let scissors = Scissors::start(&dir.path().join("rbuild.sock"));
    let lines = "for i in $(seq 30); do echo this is line $i; sleep 0.05; done";
    let files = context(&[("Dockerfile", &format!("FROM busybox\nRUN {lines}\nRUN exit 7\n"))]);
    let detach = ["--host", &near, "build", "--detach", "--no-cache"];
    let begun = run(rbuild(dir.path(), &detach).arg(files.path())).ok().stdout;
    let follow = ["--host", &scissors.host, "attach", "--progress", "plain", begun.trim()];
    let followed = run(&mut rbuild(dir.path(), &follow));
    let followed = followed.fails_with(1);
    let cuts = scissors.cuts.load(Ordering::SeqCst);
    assert!(cuts >= 3, "the connection was cut {cuts} times alone");
    let text = followed.stderr + &followed.stdout;
    let shown = text.lines().filter_map(|line| line.split_once("this is line "));
    let shown: Vec<_> = shown.filter_map(|(_, number)| number.parse::<usize>().ok()).collect();
    assert_eq!(shown, (1..=30).collect::<Vec<_>>(), "{text}");
    assert!(text.contains('7'), "{text}");
}
