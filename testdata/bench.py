#!/usr/bin/env python3
"""Builds the same things by rbuild and its peers, and prints how long each took.

    bench.py [--scale small|full] [--rounds N] [--rbuild PATH] [--no-peers]
             [--cache | --outputs [--row NAME]... | --service]

Peers are what of Debian's dockerd (classic builder and BuildKit) and buildah is installed, each on
a store of its own. All take turns in every round; the table has medians in milliseconds, the floor
of the same round (the same work by plain tools), what rbuild needs of the best peer and of the
floor, and rbuild's CPU seconds. Before each turn everything is on the disk, so that nobody pays for
what the one before has left. The last rows are the peak of resident memory, client and engine
together, while many files are copied and when nothing has changed since. Needs root, and
busybox-static. There is no gate on the times. In place of builds, `--cache` times shared caches,
`--outputs` exports, pushes and loads, and `--service` what clients of `rbuild serve` wait for.
"""

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench_cache
import bench_outputs
import bench_service

SCALES = {
    "small": {"steps": 10, "files": 500, "sleep": 1, "builds": 4, "kept": 20, "ignored": 2000},
    "full": {"steps": 100, "files": 20000, "sleep": 2, "builds": 16, "kept": 1000, "ignored": 199000},
}
NOISE = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


def run(command, **options):
    done = subprocess.run(command, **{**NOISE, **options})
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{(done.stderr or b'').decode()}")


def timed(action):
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    action()
    took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def descendants(root):
    """All processes that come from `root`, itself included."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident(pids):
    """Bytes of memory of `pids`: a page that several share counts once for each of them."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", encoding="utf-8") as file:
            pages += int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory(command, env, engine):
    """Runs `command`; the most memory that it, all that it starts and `engine` had at once, looked
    at every few milliseconds."""
    process = subprocess.Popen(command, env=env, **NOISE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(descendants(process.pid) + (descendants(engine) if engine else [])))
        time.sleep(0.001)
    if process.returncode != 0:
        sys.exit(f"{command} failed:\n{process.stderr.read().decode()}")
    return peak


class Rbuild:
    name = "rbuild"
    #: The daemon that does the work, if it is another process.
    engine = None

    def __init__(self, place, binary):
        self.binary, self.env = binary, {**os.environ, "RBUILD_STORE": f"{place}/rbuild"}

    def load(self, rootfs):
        with open(f"{rootfs}.Dockerfile", "w", encoding="utf-8") as file:
            file.write("FROM scratch\nADD rootfs.tar /\n")
        self.build(os.path.dirname(rootfs), "busybox", ["-f", f"{rootfs}.Dockerfile"])

    def command(self, context, tag, options=()):
        return [self.binary, "build", "-q", "--network", "none", "-t", tag, *options, context]

    def build(self, context, tag, options=()):
        run(self.command(context, tag, options), env=self.env)


class Docker(Rbuild):
    def __init__(self, socket, engine, is_buildkit):
        self.engine = engine
        self.name = "buildkit" if is_buildkit else "classic"
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{socket}",
                    "DOCKER_BUILDKIT": str(int(is_buildkit))}

    def load(self, rootfs):
        run(["/usr/bin/docker", "import", f"{rootfs}.tar", "busybox"], env=self.env)

    def command(self, context, tag, options=()):
        return ["/usr/bin/docker", "build", "-q", "--network", "none", "-t", tag, *options, context]


class Buildah(Rbuild):
    name = "buildah"

    def __init__(self, place):
        self.env = dict(os.environ)
        self.store = ["--root", f"{place}/buildah", "--runroot", f"{place}/buildah-run"]

    def load(self, rootfs):
        self.build(os.path.dirname(rootfs), "busybox", ["-f", f"{rootfs}.Dockerfile"])

    def command(self, context, tag, options=()):
        # Its lightest isolation, which has no network of its own.
        return ["buildah", *self.store, "bud", "-q", "--layers", "--isolation", "chroot",
                "-t", tag, *options, context]


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def make_files(root, count):
    for number in range(count):
        write(f"{root}/{number // 100}/{number}.txt", f"{number}\n" * 40)


class Bench:
    """The rows: each prepares a context, has a floor, and a build for each builder."""

    def __init__(self, place, scale):
        self.place, self.scale, self.counter = place, SCALES[scale], 0

    def fresh(self):
        self.counter += 1
        return f"{os.getpid()}-{self.counter}"

    def context(self, name, dockerfile):
        path = f"{self.place}/contexts/{name}"
        write(f"{path}/Dockerfile", dockerfile)
        return path

    def shell(self, script):
        return lambda: run(["sh", "-ec", script])

    def step_floor(self, count):
        """`count` times: namespaces, an overlay over busybox, a shell in it."""
        root, work = f"{self.place}/rootfs", f"{self.place}/floor"
        mount = (f"mkdir -p {work}/u {work}/w {work}/m && mount -t overlay overlay -o "
                 f"lowerdir={root},upperdir={work}/u,workdir={work}/w {work}/m && "
                 f"chroot {work}/m /bin/sh -c true")
        return self.shell(f"for i in $(seq {count}); do unshare -mpfiun sh -ec '{mount}'; done")

    def cached(self, builders):
        path = self.context("cached", "FROM busybox\nWORKDIR /app\nCOPY . .\nRUN true\nCMD true\n")
        make_files(f"{path}/src", 20)
        for builder in builders:
            builder.build(path, "bench-cached")
        return self.shell(f"find {path} -type f"), lambda it: it.build(path, "bench-cached")

    def edit(self, builders):
        path, _ = f"{self.place}/contexts/cached", builders
        floor = self.shell(f"tar c -C {path} . | sha256sum; unshare -mpfiun true")

        def build(builder):
            write(f"{path}/src/0/0.txt", self.fresh())
            return timed(lambda: builder.build(path, "bench-cached"))

        return floor, build

    def steps(self, _):
        count = self.scale["steps"]

        def build(builder):
            runs = "".join(f"RUN : {self.fresh()}\n" for _ in range(count))
            path = self.context("steps", f"FROM busybox\n{runs}")
            return timed(lambda: builder.build(path, "bench-steps"))

        return self.step_floor(count), build

    def copy(self, _):
        path = self.context("copy", "FROM busybox\nCOPY . /all\n")
        make_files(f"{path}/src", self.scale["files"])
        copied = f"{self.place}/copied"

        def floor():
            # Into a new directory each time: removing the last one is no part of the work.
            to = f"{copied}-{self.fresh()}"
            run(["sh", "-ec", f"cp -a {path} {to}; tar c -C {to} . | sha256sum"])

        def build(builder):
            write(f"{path}/src/fresh", self.fresh())
            return timed(lambda: builder.build(path, "bench-copy"))

        return floor, build

    def touch(self, builders):
        path = f"{self.place}/contexts/copy"
        for builder in builders:
            builder.build(path, "bench-copy")

        def build(builder):
            os.utime(f"{path}/src/0/0.txt")
            return timed(lambda: builder.build(path, "bench-copy"))

        return self.shell(f"find {path} -type f; tar c -C {path} . | sha256sum"), build

    def stages(self, _):
        sleep = self.scale["sleep"]

        def build(builder):
            stages = "".join(
                f"FROM busybox AS s{at}\nRUN sleep {sleep}; echo {self.fresh()} > /{at}\n"
                for at in range(8))
            copies = "".join(f"COPY --from=s{at} /{at} /{at}\n" for at in range(8))
            path = self.context("stages", f"{stages}FROM busybox\n{copies}")
            return timed(lambda: builder.build(path, "bench-stages"))

        return self.shell(f"sleep {sleep}"), build

    def builds(self, _):
        count = self.scale["builds"]
        paths = [self.context(f"at-once-{at}", "FROM busybox\nCOPY . /a\nRUN true\n")
                 for at in range(count)]
        floor = self.shell(
            "; ".join(f"unshare -mpfiun true; unshare -mpfiun true; tar c -C {path} . | sha256sum"
                      for path in paths))

        def build(builder):
            for path in paths:
                write(f"{path}/f", self.fresh())

            def all_at_once():
                started = [subprocess.Popen(builder.command(path, f"bench-{at}"), env=builder.env,
                                            **NOISE) for at, path in enumerate(paths)]
                for process in started:
                    _, said = process.communicate()
                    if process.returncode != 0:
                        sys.exit(f"{builder.name}: {said.decode()}")

            return timed(all_at_once)

        return floor, build

    def ignored(self, _):
        path = self.context("ignored", "FROM busybox\nCOPY . /a\n")
        write(f"{path}/.dockerignore", "junk\n")
        make_files(f"{path}/kept", self.scale["kept"])
        make_files(f"{path}/junk", self.scale["ignored"])
        floor = self.shell(f"find {path} -path {path}/junk -prune -o -type f -print; "
                           f"tar c -C {path} --exclude ./junk . | sha256sum")

        def build(builder):
            write(f"{path}/kept/fresh", self.fresh())
            return timed(lambda: builder.build(path, "bench-ignored"))

        return floor, build

    def unused(self, builders):
        path = self.context(
            "unused", "FROM busybox AS unused\nRUN sleep 5\nFROM busybox AS used\nCMD true\n")
        build = lambda it: it.build(path, "bench-unused", ["--target", "used"])
        for builder in builders:
            # The classic builder builds every stage above the target.
            build(builder)
        return self.shell("unshare -mpfiun true"), build


ROWS = {
    "cached": "all-cached rebuild",
    "edit": "one file edited, COPY and RUN redone",
    "steps": "no-op RUN steps, cold",
    "copy": "COPY of many small files, cold",
    "touch": "the same after touching one",
    "stages": "8 stages that sleep",
    "builds": "builds of small contexts at once",
    "ignored": "a context mostly ignored",
    "unused": "an unused stage that sleeps 5 s",
}


@contextlib.contextmanager
def dockerd(place):
    """Starts a daemon of our own, without a network; gives its socket and process, or None."""
    if not shutil.which("dockerd") or not os.path.exists("/usr/bin/docker"):
        yield None
        return
    socket = f"{place}/docker.sock"
    with open(f"{place}/dockerd.log", "wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", f"{place}/docker", "--exec-root", f"{place}/docker-exec",
             "--pidfile", f"{place}/docker.pid", "-H", f"unix://{socket}", "--bridge", "none",
             "--iptables=false", "--ip6tables=false"], stdout=log, stderr=log)
    try:
        for _ in range(300):
            probe = subprocess.run(["/usr/bin/docker", "-H", f"unix://{socket}", "version"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if probe.returncode == 0 or daemon.poll() is not None:
                break
            time.sleep(0.1)
        is_up = daemon.poll() is None
        if not is_up:
            print(f"dockerd does not start: see {place}/dockerd.log", file=sys.stderr)
        yield (socket, daemon.pid) if is_up else None
    finally:
        daemon.terminate()
        daemon.wait()


def measure(bench, builders, rounds):
    print(f"{'':38}" + "".join(f"{it.name:>10}" for it in builders)
          + f"{'floor':>10}{'of peer':>9}{'of floor':>9}{'CPU s':>8}")
    for name, title in ROWS.items():
        floor, build = getattr(bench, name)(builders)
        times = {it.name: [] for it in builders} | {"floor": []}
        cpu = []
        for _ in range(rounds):
            for builder in builders:
                took = timed(lambda it=builder: build(it)) if name in ("cached", "unused") \
                    else build(builder)
                times[builder.name].append(took[0])
                if builder.name == "rbuild":
                    cpu.append(took[1])
            times["floor"].append(timed(floor)[0])
        median = {key: statistics.median(values) * 1000 for key, values in times.items()}
        peers = [value for key, value in median.items() if key not in ("rbuild", "floor")]
        of_peer = f"{median['rbuild'] / min(peers):9.2f}" if peers else f"{'-':>9}"
        print(f"{title:38}" + "".join(f"{median[it.name]:10.0f}" for it in builders)
              + f"{median['floor']:10.0f}{of_peer}{median['rbuild'] / median['floor']:9.2f}"
              + f"{statistics.median(cpu):8.2f}", flush=True)


def measure_memory(bench, builders, rounds):
    """Prints the rows of memory, in MiB."""
    path = f"{bench.place}/contexts/copy"
    rows = {"memory, copying many files": True, "memory, the same after touching one": False}
    for title, is_fresh in rows.items():
        peaks = {it.name: [] for it in builders}
        for _ in range(rounds):
            for builder in builders:
                if is_fresh:
                    write(f"{path}/src/fresh", bench.fresh())
                else:
                    builder.build(path, "bench-copy")
                    os.utime(f"{path}/src/0/0.txt")
                command = builder.command(path, "bench-copy")
                peaks[builder.name].append(peak_memory(command, builder.env, builder.engine))
        peak = {name: statistics.median(values) / (1 << 20) for name, values in peaks.items()}
        peers = [value for name, value in peak.items() if name != "rbuild"]
        of_peer = f"{peak['rbuild'] / min(peers):9.2f}" if peers else f"{'-':>9}"
        print(f"{title:38}" + "".join(f"{peak[it.name]:6.0f} MiB" for it in builders)
              + f"{'-':>10}{of_peer}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rbuild", default=shutil.which("rbuild") or "target/release/rbuild")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--outputs", action="store_true")
    parser.add_argument("--row", action="append", choices=bench_outputs.ROWS)
    parser.add_argument("--service", action="store_true")
    args = parser.parse_args()
    place = tempfile.mkdtemp(prefix="rbuild-bench-")
    try:
        if args.cache:
            bench_cache.measure(place, os.path.abspath(args.rbuild), args.scale, args.rounds)
            return
        rootfs = f"{place}/rootfs"
        os.makedirs(f"{rootfs}/bin")
        shutil.copy("/bin/busybox", f"{rootfs}/bin/busybox")
        run(["chroot", rootfs, "/bin/busybox", "--install", "-s", "/bin"])
        run(["tar", "cf", f"{rootfs}.tar", "-C", rootfs, "."])
        with dockerd(place) if not args.no_peers else contextlib.nullcontext() as daemon:
            builders = [Rbuild(place, os.path.abspath(args.rbuild))]
            if daemon:
                builders += [Docker(*daemon, False), Docker(*daemon, True)]
            if not args.no_peers and shutil.which("buildah"):
                builders.append(Buildah(place))
            for builder in builders:
                builder.load(rootfs)
            bench = Bench(place, args.scale)
            if args.outputs:
                tools = sys.modules[__name__]
                bench_outputs.measure(bench, builders, args.scale, args.rounds, tools, args.row)
                return
            if args.service:
                tools = sys.modules[__name__]
                bench_service.measure(bench, builders, args.scale, args.rounds, tools)
                return
            measure(bench, builders, args.rounds)
            measure_memory(bench, builders, args.rounds)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
