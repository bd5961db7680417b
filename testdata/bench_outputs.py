"""The rows of `bench.py --outputs`: what leaves the store, and how long that takes.

Each row is rbuild's time, the floor's (plain tools that do the same work in the same round) and how
the two compare; where docker or buildah can do the same, they take their turn too. Needs pigz, zstd
and docker-registry beside what bench.py needs.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

#: MiB of the layer, of each file of the COPY row (64 of them), and of the image that is loaded.
SCALES = {"small": (48, 1, 64), "full": (1024, 16, 2048)}
MIB = 1 << 20


def mixed(path, mebibytes, seed):
    """Writes files that compress about as well as a system's: text, code-like bytes, noise."""
    os.makedirs(path, exist_ok=True)
    words = [f"word{seed}{number:x} ".encode() for number in range(4096)]
    state = seed * 2654435761 % (1 << 32) or 1
    for number in range(mebibytes):
        kind = number % 4
        if kind == 0:
            data = os.urandom(MIB)
        else:
            parts = []
            size = 0
            while size < MIB:
                state = (state * 1103515245 + 12345) % (1 << 31)
                parts.append(words[state % (64 << (2 * kind))])
                size += len(parts[-1])
            data = b"".join(parts)[:MIB]
        with open(f"{path}/{number}", "wb") as file:
            file.write(data)


class Registry:
    """Debian's docker-registry, gone at the end."""

    def __init__(self, place):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = f"{place}/registry.yml"
        with open(config, "w", encoding="utf-8") as file:
            file.write("version: 0.1\nlog: {level: error}\n"
                       f"storage: {{filesystem: {{rootdirectory: {place}/registry}}}}\n"
                       f"http: {{addr: '127.0.0.1:{self.port}'}}\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/").close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("docker-registry does not answer")

    def name(self, image):
        return f"127.0.0.1:{self.port}/{image}"

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Outputs:
    """The rows. `tools` is bench.py itself: `run`, `timed`, `write`."""

    def __init__(self, bench, builders, scale, tools):
        self.bench, self.tools = bench, tools
        self.rbuild, self.peers = builders[0], builders[1:]
        self.layer, self.file, self.image = SCALES[scale]
        self.registry = Registry(bench.place)

    def context(self, name, dockerfile="FROM scratch\nCOPY data /data\n"):
        return self.bench.context(name, dockerfile)

    def shell(self, script):
        return self.tools.timed(self.bench.shell(script))[0]

    def build(self, path, *options):
        command = [self.rbuild.binary, "build", "-q", *options, path]
        return self.tools.timed(lambda: self.tools.run(command, env=self.rbuild.env))[0]

    def changed(self, name, mebibytes):
        """A layer of `mebibytes` that was made and never left."""
        path = self.context(name)
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", mebibytes, 7)
        self.tools.write(f"{path}/data/fresh", self.bench.fresh())
        self.build(path)
        return path

    def export(self, compression, floor):
        path = self.changed("layer", self.layer)
        out = f"{self.bench.place}/out.tar"
        took = self.build(path, "-o", f"type=oci,compression={compression},dest={out}")
        return took, self.shell(f"tar c -C {path} data | {floor} > {self.bench.place}/floor.out")

    def gzip(self):
        return self.export("gzip", "pigz -p2")

    def zstd(self):
        return self.export("zstd", "zstd -q -T2")

    def push(self):
        """The floor is the longer of compressing the layer and of uploading what came of it."""
        path, name = self.changed("layer", self.layer), self.registry.name("bench/push")
        took = self.build(path, "-o", f"type=registry,name={name}:{self.bench.fresh()}")
        again = self.registry.name(f"other{self.bench.counter}/push")
        upload = self.build(path, "-o", f"type=registry,name={again}:1")
        compress = self.shell(f"tar c -C {path} data | pigz -p2 > {self.bench.place}/floor.out")
        return took, max(upload, compress)

    def second_push(self):
        """One small layer on a large one. The floor is a push of the small one alone."""
        dockerfile = "FROM scratch\nCOPY data /data\nCOPY late /late\n"
        path, name = self.context("second", dockerfile), self.registry.name("bench/second:1")
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", self.layer, 11)
            self.tools.write(f"{path}/late", "first")
            self.build(path, "-o", f"type=registry,name={name}")
        self.tools.write(f"{path}/late", self.bench.fresh())
        took = self.build(path, "-o", f"type=registry,name={name}")
        small = self.context("small", "FROM scratch\nCOPY late /late\n")
        self.tools.write(f"{small}/late", self.bench.fresh())
        return took, self.build(small, "-o", f"type=registry,name={self.registry.name('bench/small:1')}")

    def load(self):
        """An unchanged image into docker. The floor is a build without it."""
        docker = next((it for it in self.peers if it.name == "classic"), None)
        if docker is None:
            return None, None
        path = self.context("load")
        self.rbuild.env["DOCKER_HOST"] = docker.env["DOCKER_HOST"]
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", self.image, 13)
            self.build(path, "-t", "bench-load", "--load")
        return self.build(path, "-t", "bench-load", "--load"), self.build(path, "-t", "bench-load")

    def copy(self):
        """64 large files. The floor is `cp -a` beside tar into sha256sum."""
        path = self.context("large", "FROM busybox\nCOPY . /all\n")
        if not os.path.exists(f"{path}/data"):
            for number in range(64):
                mixed(f"{path}/data/{number}", self.file, number + 1)
        self.tools.write(f"{path}/fresh", self.bench.fresh())
        took = self.build(path)
        floor = self.shell(f"rm -rf {self.bench.place}/copied; tar c -C {path} . | sha256sum & "
                           f"cp -a {path} {self.bench.place}/copied; wait")
        for peer in self.peers:
            self.tools.write(f"{path}/fresh", self.bench.fresh())
            spent = self.tools.timed(lambda it=peer: it.build(path, "bench-large"))[0]
            self.by_peer.setdefault(peer.name, []).append(spent)
        return took, floor

    by_peer = {}


ROWS = {
    "gzip": "a large layer as gzip, of pigz -p2",
    "zstd": "a large layer as zstd, of zstd -T2",
    "push": "push, of the longer of its halves",
    "second_push": "push of one layer changed, of it alone",
    "load": "load of an unchanged image, of none",
    "copy": "COPY of 64 large files, of cp -a",
}


def measure(bench, builders, scale, rounds, tools):
    """Prints all rows."""
    missing = [it for it in ("pigz", "zstd", "docker-registry") if not shutil.which(it)]
    if missing:
        sys.exit(f"install {' and '.join(missing)}")
    outputs = Outputs(bench, builders, scale, tools)
    try:
        print(f"{'':42}{'rbuild':>10}{'floor':>10}{'of floor':>9}")
        for name, title in ROWS.items():
            outputs.by_peer.clear()
            both = [getattr(outputs, name)() for _ in range(rounds)]
            if both[0][0] is None:
                print(f"{title:42}{'-':>10}")
                continue
            took, floor = (statistics.median(part) * 1000 for part in zip(*both))
            peers = "".join(f"  {peer} {statistics.median(times) * 1000:.0f}"
                            for peer, times in outputs.by_peer.items())
            print(f"{title:42}{took:10.0f}{floor:10.0f}{took / floor:9.2f}{peers}", flush=True)
    finally:
        outputs.registry.stop()
