"""The rows of `bench.py --outputs`: what leaves the store and what comes into it, and how long that
takes.

Each row is rbuild's time, the floor's (plain tools that do the same work in the same round), how the
two compare, the most memory that rbuild's process had, what the row counts beside time, and the
times of those peers that can do the same. Needs the programs in `PACKAGES` beside what bench.py needs.
"""

import contextlib
import glob
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request

import bench_registry

#: MiB of the layer, of each file of the COPY row (64 of them), and of the image that is loaded.
SCALES = {"small": (48, 1, 64), "full": (1024, 16, 2048)}
MIB = 1 << 20
#: Programs, and the packages of Debian that have them.
PACKAGES = {"pigz": "pigz", "zstd": "zstd", "curl": "curl", "npm": "npm",
            "docker-registry": "docker-registry", "mmdebstrap": "mmdebstrap"}
HERE = os.path.dirname(os.path.abspath(__file__))


def system_bytes():
    """What this machine's programs are made of, over and over, in pieces of a MiB: a layer's usual
    content."""
    rest = b""
    while True:
        for path in itertools.chain.from_iterable(
                sorted(glob.iglob(f"/usr/{part}/**", recursive=True))
                for part in ("bin", "lib", "share")):
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                while piece := file.read(MIB - len(rest)):
                    rest += piece
                    if len(rest) == MIB:
                        yield rest
                        rest = b""


def mixed(path, files, mebibytes):
    """Writes files of which three quarters are like a system's and one is noise."""
    os.makedirs(path, exist_ok=True)
    like_a_system = system_bytes()
    for number in range(files):
        with open(f"{path}/{number}", "wb") as file:
            for piece in range(mebibytes):
                is_noise = (number * mebibytes + piece) % 4 == 0
                file.write(os.urandom(MIB) if is_noise else next(like_a_system))


def high_water(pid):
    """The most memory that the process has had, in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def written(pids):
    """Bytes that the processes have had written to disks."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/io", encoding="utf-8") as file:
            fields = dict(line.split(": ") for line in file.read().splitlines())
            total += int(fields["write_bytes"])
    return total


class Outputs:
    """The rows: each returns rbuild's time and the floor's, in seconds, and notes the rest.
    `tools` is bench.py itself: `run`, `timed`, `write`, `descendants`."""

    def __init__(self, bench, builders, scale, tools, registry):
        self.bench, self.tools, self.registry = bench, tools, registry
        self.rbuild, self.peers = builders[0], {it.name: it for it in builders[1:]}
        self.layer, self.file, self.image = SCALES[scale]
        self.place = bench.place
        self.begin_row()

    def begin_row(self):
        self.by_peer, self.peak, self.note = {}, 0, ""

    # Steps of the rows.

    def name(self, image):
        return f"127.0.0.1:{self.registry.target}/{image}"

    def context(self, name, dockerfile="FROM scratch\nCOPY data /data\n"):
        return self.bench.context(name, dockerfile)

    def shell(self, script):
        return self.tools.timed(self.bench.shell(script))[0]

    def watched(self, command, env=None):
        """Runs rbuild and notes its memory. The mark only rises, so little is missed at the end."""
        with subprocess.Popen(command, env=env or self.rbuild.env, **self.tools.NOISE) as process:
            while process.poll() is None:
                self.peak = max(self.peak, high_water(process.pid))
                time.sleep(0.005)
            if process.returncode != 0:
                sys.exit(f"{command} failed:\n{process.stderr.read().decode()}")

    def build(self, path, *options, env=None):
        command = [self.rbuild.binary, "build", "-q", *options, path]
        return self.tools.timed(lambda: self.watched(command, env))[0]

    def peer(self, name, action):
        self.by_peer.setdefault(name, []).append(self.tools.timed(action)[0])

    def changed(self, name, mebibytes):
        """A layer of `mebibytes` that was made and never left."""
        path = self.context(name)
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", mebibytes, 1)
        self.tools.write(f"{path}/data/fresh", self.bench.fresh())
        self.build(path)
        return path

    def docker_push(self, path):
        """Docker compresses when it pushes, and at no other time."""
        docker = self.peers.get("classic")
        if docker is None:
            return
        name = self.name(f"docker{self.bench.counter}/layer")
        docker.build(path, name)
        self.peer("docker push", lambda: self.tools.run(
            ["/usr/bin/docker", "push", "-q", name], env=docker.env))

    def skopeo(self, path, form, to=None):
        if not self.peers or not shutil.which("skopeo"):
            return
        plain, out = f"{self.place}/plain.tar", f"{self.place}/skopeo.tar"
        self.build(path, "-o", f"type=docker,dest={plain}", "-t", "plain")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(out)
        self.peer("skopeo", lambda: self.tools.run(
            ["skopeo", "--insecure-policy", "copy", "--dest-compress-format", form,
             "--dest-tls-verify=false", f"docker-archive:{plain}", to or f"oci-archive:{out}"]))
        os.unlink(plain)

    # The rows.

    def export(self, compression, floor):
        path, out = self.changed("layer", self.layer), f"{self.place}/out.tar"
        took = self.build(path, "-o", f"type=oci,compression={compression},dest={out}")
        by_floor = self.shell(f"tar c -C {path} data | {floor} > {self.place}/floor.out")
        size = os.path.getsize(out) / os.path.getsize(f"{self.place}/floor.out")
        self.note = f"{size:.3f} of its size"
        self.skopeo(path, compression)
        return took, by_floor, path

    def gzip(self):
        took, floor, path = self.export("gzip", "pigz -p2")
        self.docker_push(path)
        return took, floor

    def zstd(self):
        return self.export("zstd", "zstd -q -T2")[:2]

    def threads(self):
        """The same export on one processor: equal bytes. The floor is that on all of them."""
        path, archives = self.changed("layer", self.layer), []
        times = []
        for number, prefix in enumerate((["taskset", "-c", "0"], [])):
            store = f"{self.place}/threads-{number}"
            archives.append(f"{self.place}/threads-{number}.tar")
            command = [*prefix, self.rbuild.binary, "build", "-q",
                       "--build-arg", "SOURCE_DATE_EPOCH=0",
                       "-o", f"type=oci,dest={archives[-1]}", path]
            env = {**self.rbuild.env, "RBUILD_STORE": store}
            times.append(self.tools.timed(lambda: self.watched(command, env))[0])
            shutil.rmtree(store)
        self.tools.run(["cmp", *archives])
        self.note = "same bytes"
        return tuple(times)

    def push(self):
        """The floor is the longer of compressing the layer and of uploading what came of it, each
        alone."""
        path, tag = self.changed("layer", self.layer), self.bench.fresh()
        took = self.build(path, "-o", f"type=registry,name={self.name('bench/push')}:{tag}")
        upload = self.upload(path)
        self.changed("layer", self.layer)
        compress = self.build(path, "-o", f"type=oci,dest={self.place}/out.tar")
        self.note = f"compressing {compress * 1000:.0f}, uploading {upload * 1000:.0f}"
        self.docker_push(path)
        self.skopeo(path, "gzip", f"docker://{self.name(f'skopeo{self.bench.counter}/push')}:1")
        return took, max(upload, compress)

    def upload(self, path):
        """Of what is compressed already, to a registry that has nothing: the one of the other rows
        would take a blob that it has from another repository."""
        empty = f"{self.place}/empty"
        os.makedirs(empty)
        with bench_registry.registry(empty) as registry:
            name = f"127.0.0.1:{registry.target}/bench/push:1"
            took = self.build(path, "-o", f"type=registry,name={name}")
        shutil.rmtree(empty)
        return took

    def second_push(self):
        """One small layer on a large one. The floor is a push of the small one alone."""
        dockerfile = "FROM scratch\nCOPY data /data\nCOPY late /late\n"
        path = self.context("second", dockerfile)
        name = f"127.0.0.1:{self.registry.port}/bench/second:1"
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", self.layer, 1)
            self.tools.write(f"{path}/late", "first")
            self.build(path, "-o", f"type=registry,name={name}")
        self.tools.write(f"{path}/late", self.bench.fresh())
        self.registry.take()
        took = self.build(path, "-o", f"type=registry,name={name}")
        self.note = f"{self.registry.take()[0] / 1024:.0f} KiB sent"
        small = self.context("small", "FROM scratch\nCOPY late /late\n")
        self.tools.write(f"{small}/late", self.bench.fresh())
        name = f"127.0.0.1:{self.registry.port}/bench/small:1"
        return took, self.build(small, "-o", f"type=registry,name={name}")

    def load(self):
        """An unchanged image into docker. The floor is a build without it."""
        docker = self.peers.get("classic")
        if docker is None:
            return None
        path, env = self.context("load"), {**self.rbuild.env, "DOCKER_HOST": docker.env["DOCKER_HOST"]}
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", self.image, 1)
            self.build(path, "-t", "bench-load", "--load", env=env)
        os.sync()
        daemon = self.tools.descendants(docker.engine)
        before, own = written(daemon), self.tools.resource.getrusage(self.tools.resource.RUSAGE_CHILDREN)
        took = self.build(path, "-t", "bench-load", "--load", env=env)
        os.sync()
        after = self.tools.resource.getrusage(self.tools.resource.RUSAGE_CHILDREN)
        bytes_written = written(daemon) - before + (after.ru_oublock - own.ru_oublock) * 512
        self.note = f"{bytes_written / 1024:.0f} KiB written"
        return took, self.build(path, "-t", "bench-load", env=env)

    def copy(self):
        """64 large files. The floor is `cp -a` beside tar into sha256sum."""
        path = self.context("large", "FROM busybox\nCOPY . /all\n")
        if not os.path.exists(f"{path}/data"):
            mixed(f"{path}/data", 64, self.file)
        self.tools.write(f"{path}/fresh", self.bench.fresh())
        took = self.build(path)
        floor = self.shell(f"rm -rf {self.place}/copied; tar c -C {path} . | sha256sum & "
                           f"cp -a {path} {self.place}/copied; wait")
        for peer in self.peers.values():
            self.tools.write(f"{path}/fresh", self.bench.fresh())
            self.peer(peer.name, lambda it=peer: it.build(path, "bench-large"))
        return took, floor

    def cold(self):
        """The example on empty stores, its base from the registry. The floor is the base by curl,
        gunzip and tar, `cp`, and `npm install` in namespaces of its own."""
        base, path = self.name("bench/node:14"), self.context("cold", "")
        if not self.is_base_there():
            self.push_base(base)
        with bench_registry.npm_mirror() as mirror:
            shutil.copytree(f"{HERE}/app-node", path, dirs_exist_ok=True)
            with open(f"{path}/Dockerfile", encoding="utf-8") as file:
                dockerfile = file.read()
            self.tools.write(f"{path}/Dockerfile", dockerfile.replace("node:14", base))
            self.tools.write(f"{path}/.npmrc", f"registry={mirror}/\n")
            store = f"{self.place}/cold"
            env = {**self.rbuild.env, "RBUILD_STORE": store}
            options = ("--network", "host", "--allow", "network.host", "-t", "bench-cold")
            # Once for the mirror alone.
            for _ in range(2):
                shutil.rmtree(store, ignore_errors=True)
                took = self.build(path, *options, env=env)
            floor = self.shell(self.cold_floor(path))
            for peer in self.peers.values():
                self.cold_peer(peer, path, base)
        return took, floor

    def is_base_there(self):
        return os.path.exists(f"{self.place}/registry/docker/registry/v2/repositories/bench/node")

    def push_base(self, base):
        env = {**self.rbuild.env, "RBUILD": self.rbuild.binary}
        self.tools.run([f"{HERE}/bases/make.sh", "debian", "node"], env=env)
        self.tools.run([self.rbuild.binary, "push", "node:14", base], env=env)

    def cold_floor(self, path):
        url, root = f"http://{self.name('').rstrip('/')}/v2/bench/node", f"{self.place}/floor-root"
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        with urllib.request.urlopen(urllib.request.Request(f"{url}/manifests/14", headers=accept)) as it:
            layers = [layer["digest"] for layer in json.load(it)["layers"]]
        pull = "".join(f"curl -sf {url}/blobs/{layer} | gunzip | tar x -C {root}\n" for layer in layers)
        inside = (f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; "
                  f"exec chroot {root} sh -c \"cd /app-node && npm install\"")
        return (f"rm -rf {root}; mkdir {root}\n{pull}cp -a {path}/. {root}/app-node\n"
                f"unshare -mpiu --fork sh -ec '{inside}'\n")

    def cold_peer(self, peer, path, base):
        options = ["--network", "host"]
        if peer.name == "buildah":
            store = ["--root", f"{self.place}/buildah-cold", "--runroot", f"{self.place}/buildah-cold-run"]
            self.tools.run(["buildah", *store, "rmi", "--all", "--force"])
            self.peer(peer.name, lambda: self.tools.run(
                ["buildah", *store, "bud", "-q", "--isolation", "chroot", "--tls-verify=false",
                 *options, "-t", "bench-cold", path]))
            return
        docker = lambda *words: subprocess.run(["/usr/bin/docker", *words], env=peer.env, check=False,
                                               **self.tools.NOISE)
        docker("rmi", "-f", "bench-cold", base)
        docker("image", "prune", "-f")
        docker("builder", "prune", "-af")
        self.peer(peer.name, lambda: self.tools.run(
            ["/usr/bin/docker", "build", "-q", *options, "-t", "bench-cold", path], env=peer.env))


ROWS = {
    "gzip": "a large layer as gzip, of pigz -p2",
    "zstd": "a large layer as zstd, of zstd -T2",
    "threads": "gzip on one processor, of on all",
    "push": "push, of the longer of its halves",
    "second_push": "push of one layer changed, of it alone",
    "load": "load of an unchanged image, of none",
    "copy": "COPY of 64 large files, of cp -a",
    "cold": "the example with its pull, of plain tools",
}


def measure(bench, builders, scale, rounds, tools, rows):
    """Prints `rows`, or all."""
    missing = sorted({package for it, package in PACKAGES.items() if not shutil.which(it)})
    if missing:
        sys.exit(f"bench.py --outputs needs packages that are not installed: {' '.join(missing)}\n"
                 "testdata/test.sh packages installs them all")
    with bench_registry.registry(bench.place) as registry:
        outputs = Outputs(bench, builders, scale, tools, registry)
        print(f"{'':42}{'rbuild':>8}{'floor':>8}{'of floor':>9}{'MiB':>6}")
        for name in rows or ROWS:
            outputs.begin_row()
            both = [getattr(outputs, name)() for _ in range(rounds)]
            if both[0] is None:
                print(f"{ROWS[name]:42}       - (there is no docker)")
                continue
            took, floor = (statistics.median(part) * 1000 for part in zip(*both))
            more = [outputs.note] if outputs.note else []
            more += [f"{peer} {statistics.median(times) * 1000:.0f}"
                     for peer, times in outputs.by_peer.items()]
            print(f"{ROWS[name]:42}{took:8.0f}{floor:8.0f}{took / floor:9.2f}"
                  f"{outputs.peak / MIB:6.0f}  {', '.join(more)}", flush=True)
