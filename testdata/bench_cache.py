"""`bench.py --cache`: what it costs to share results, and how many bytes move.

A build of three stages, with and without export, each on an empty store and an empty cache; then
restores on other empty stores. The registry is Debian's docker-registry behind a proxy that counts.
"""

import os
import shutil
import statistics
import subprocess
import time

import bench_registry

DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/sh
FROM base AS tools
RUN i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done; head -c {tools} </dev/urandom >/tools
FROM base AS app
COPY src /src
RUN i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done; head -c {app} </dev/urandom >/out; \
    head -c {app} </dev/zero >>/out
FROM base
COPY --from=tools /tools /tools
COPY --from=app /out /out
RUN i=0; while [ $i -lt {loops} ]; do i=$((i+1)); done; echo done >/stamp
"""
SCALES = {
    "small": {"loops": 300000, "tools": 4 << 20, "app": 4 << 20},
    "full": {"loops": 3000000, "tools": 64 << 20, "app": 64 << 20},
}


def measure(place, binary, scale, rounds):
    """Prints the table."""
    context = f"{place}/context"
    os.makedirs(context)
    shutil.copy("/bin/busybox", f"{context}/busybox")
    with open(f"{context}/Dockerfile", "w", encoding="utf-8") as file:
        file.write(DOCKERFILE.format(**SCALES[scale]))
    number = 0

    def fresh():
        nonlocal number
        number += 1
        return f"{place}/store-{number}", f"c{number}"

    def build(store, *options):
        os.sync()
        start = time.monotonic()
        done = subprocess.run([binary, "build", "--progress", "plain", "-t", "app", *options, context],
                              env={**os.environ, "RBUILD_STORE": store}, capture_output=True,
                              text=True, check=True)
        ran = sum("] RUN" in line and not line.endswith("CACHED") for line in done.stderr.split("\n"))
        return time.monotonic() - start, ran

    with bench_registry.registry(place) as counter:
        name = f"127.0.0.1:{counter.port}/cache"
        rows = {}

        def note(title, took, ran):
            rows.setdefault(title, []).append((took, ran, *counter.take()))

        for turn in range(rounds):
            write(f"{context}/src", f"{turn} 1")
            store, _ = fresh()
            note("no export", *build(store))
            shutil.rmtree(store)
            for mode in ("min", "auto", "max"):
                store, tag = fresh()
                to = f"type=registry,ref={name}:{tag},mode={mode}"
                note(f"export, mode={mode}", *build(store, "--cache-to", to))
                note(f"export again, mode={mode}", *build(store, "--cache-to", to))
                other, _ = fresh()
                source = f"{name}:{tag}"
                note(f"restore, mode={mode}", *build(other, "--cache-from", source))
                if mode == "max":
                    write(f"{context}/src", f"{turn} 2")
                    note("one file changed, mode=max",
                         *build(other, "--cache-from", source, "--cache-to", to))
                    write(f"{context}/src", f"{turn} 1")
                for used in (store, other):
                    shutil.rmtree(used)
        base = statistics.median(row[0] for row in rows["no export"])
        print(f"{'':34}{'ms':>8}{'of none':>9}{'RUNs':>6}{'KiB up':>10}{'KiB down':>10}")
        for title, values in rows.items():
            took, ran, up, down = (statistics.median(column) for column in zip(*values))
            print(f"{title:34}{took * 1000:8.0f}{took / base:9.2f}{ran:6.0f}{up / 1024:10.0f}"
                  f"{down / 1024:10.0f}", flush=True)


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
