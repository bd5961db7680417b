"""What benchmarks push to and pull from: Debian's docker-registry behind a proxy that counts, and a
mirror of npm's registry that asks for everything once."""

import contextlib
import http.server
import selectors
import socket
import subprocess
import sys
import threading
import time
import urllib.request


class Counter:
    """Leads a port of its own to `target`, and counts what goes up and down."""

    def __init__(self, target):
        self.target, self.up, self.down = target, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.lead, args=(client,), daemon=True).start()

    def lead(self, client):
        server = socket.create_connection(("127.0.0.1", self.target))
        with client, server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in ready.select():
                        piece = key.fileobj.recv(1 << 16)
                        if not piece:
                            return
                        key.data.sendall(piece)
                        if key.fileobj is client:
                            self.up += len(piece)
                        else:
                            self.down += len(piece)

    def take(self):
        moved, self.up, self.down = (self.up, self.down), 0, 0
        return moved


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def registry(place):
    """Gives the proxy; `target` is the registry's own port, for what is timed and not counted."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = f"{place}/registry.yml"
    with open(config, "w", encoding="utf-8") as file:
        file.write("version: 0.1\nlog: {level: error}\n"
                   f"storage: {{filesystem: {{rootdirectory: {place}/registry}}}}\n"
                   f"http: {{addr: '127.0.0.1:{port}'}}\n")
    server = subprocess.Popen(["docker-registry", "serve", config],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if answers(port):
                break
            time.sleep(0.05)
        else:
            sys.exit("docker-registry does not answer")
        yield Counter(port)
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def npm_mirror():
    """Gives the URL of a registry that has what npm's has, and fetches each document once: what a
    network far away does must not show in a benchmark."""
    asked = subprocess.run(["npm", "config", "get", "registry"], capture_output=True, text=True,
                           check=True)
    upstream, kept = asked.stdout.strip().rstrip("/"), {}

    class Mirror(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path not in kept:
                accept = {"Accept": self.headers.get("Accept", "*/*")}
                request = urllib.request.Request(upstream + self.path, headers=accept)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    body = answer.read()
                if not self.path.endswith(".tgz"):
                    body = body.replace(upstream.encode(), own.encode())
                kept[self.path] = body
            body = kept[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads = True
    own = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield own
    finally:
        server.shutdown()
