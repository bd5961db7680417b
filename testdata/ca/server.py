#!/usr/bin/env python3
"""Serves what curl, pip, npm, git and cargo fetch, by HTTPS with an authority made for it.

    server.py DIRECTORY HOST

Writes DIRECTORY/ca.pem, then DIRECTORY/port once it serves on loopback; ends when it is killed.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import ssl
import subprocess
import sys
import tarfile
import zipfile

directory, host = sys.argv[1], sys.argv[2]
root = os.path.join(directory, "www")


def call(*args, **options):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def path(*names):
    return os.path.join(directory, *names)


def put(name, content):
    target = os.path.join(root, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def tar_gz(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def certificates():
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    call("openssl", "req", "-x509", *key, "-keyout", path("ca.key"), "-out", path("ca.pem"),
         "-days", "2", "-subj", "/CN=Authority of a test",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    call("openssl", "req", *key, "-keyout", path("key.pem"), "-out", path("request.pem"),
         "-subj", f"/CN={host}")
    with open(path("extensions"), "w") as file:
        file.write(f"subjectAltName=DNS:{host}\n")
    call("openssl", "x509", "-req", "-in", path("request.pem"), "-CA", path("ca.pem"),
         "-CAkey", path("ca.key"), "-CAcreateserial", "-days", "2", "-out", path("cert.pem"),
         "-extfile", path("extensions"))


def packages(url):
    put("file.txt", "by https\n")
    wheel = io.BytesIO()
    files = {
        "piptest/__init__.py": "",
        "piptest-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: piptest\nVersion: 1.0\n",
        "piptest-1.0.dist-info/WHEEL":
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        record = "piptest-1.0.dist-info/RECORD"
        for name, text in files.items():
            archive.writestr(name, text)
        lines = []
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            lines.append(f"{name},sha256={digest.rstrip(b'=').decode()},{len(text)}\n")
        archive.writestr(record, "".join(lines) + f"{record},,\n")
    wheel_name = "piptest-1.0-py3-none-any.whl"
    put(f"simple/piptest/{wheel_name}", wheel.getvalue())
    put("simple/piptest/index.html", f'<a href="{wheel_name}">{wheel_name}</a>')

    manifest = {"name": "npmtest", "version": "1.0.0"}
    tarball = tar_gz({"package/package.json": json.dumps(manifest)})
    put("npmtest-1.0.0.tgz", tarball)
    dist = {"tarball": f"{url}/npmtest-1.0.0.tgz", "shasum": hashlib.sha1(tarball).hexdigest()}
    versions = {"1.0.0": {**manifest, "dist": dist}}
    put("npmtest", json.dumps(
        {"name": "npmtest", "dist-tags": {"latest": "1.0.0"}, "versions": versions}))

    crate = tar_gz({
        "crtest-1.0.0/Cargo.toml": '[package]\nname = "crtest"\nversion = "1.0.0"\nedition = "2021"\n',
        "crtest-1.0.0/src/lib.rs": "",
    })
    put("crates/crtest-1.0.0.crate", crate)
    put("index/config.json", json.dumps({"dl": url + "/crates/{crate}-{version}.crate"}))
    put("index/cr/te/crtest", json.dumps({
        "name": "crtest", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
        "cksum": hashlib.sha256(crate).hexdigest(),
    }) + "\n")

    work, bare = path("work"), os.path.join(root, "repo.git")
    call("git", "init", "-q", "-b", "main", work)
    identity = ["-c", "user.name=t", "-c", "user.email=t@test"]
    call("git", "-C", work, *identity, "commit", "-q", "--allow-empty", "-m", "first")
    call("git", "clone", "-q", "--bare", work, bare)
    call("git", "-C", bare, "update-server-info")


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
        super().__init__(*args, directory=root)

    def log_message(self, *_):
        pass


certificates()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(path("cert.pem"), path("key.pem"))
server.socket = context.wrap_socket(server.socket, server_side=True)
port = server.server_address[1]
packages(f"https://{host}:{port}")
with open(path("port.part"), "w") as file:
    file.write(str(port))
os.rename(path("port.part"), path("port"))
server.serve_forever()
