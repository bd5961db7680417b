"""The rows of `bench.py --service`: what `rbuild serve` costs its clients, and they it.

Builds are the unmodified docker command line's with its classic builder, in turn at rbuild and at
dockerd, and requests by hand; each row has what it shall be at most (or, of the log's rate, at
least). The memory is the service's own, before and after.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

#: Event streams at once, and MB that a step writes.
SCALES = {"small": (50, 4), "full": (500, 200)}
MB, MIB = 1000 * 1000, 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))

#: The example's base, as far as a cached build looks at it.
BASE = """\
FROM busybox
RUN printf '#!/bin/sh\\n' > /bin/npm && chmod +x /bin/npm
"""
LINE = "a line of a log that is about as long as lines of logs are, 0123456789 0123456789"


class Socket(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Service:
    """`rbuild serve` on the store of `builder`."""

    def __init__(self, place, builder, tools):
        self.tools, self.socket = tools, f"{place}/rbuild.sock"
        self.url = f"unix://{self.socket}"
        self.process = subprocess.Popen(
            [builder.binary, "serve", "--listen", self.url], env=builder.env, **tools.NOISE)
        for _ in range(200):
            if os.path.exists(self.socket):
                return
            time.sleep(0.05)
        sys.exit("rbuild serve does not listen")

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def memory(self):
        """Resident bytes of the service, once they have settled."""
        time.sleep(1)
        return self.tools.resident([self.process.pid])

    def ask(self, method, path, body=None, kind="application/x-tar"):
        connection = Socket(self.socket)
        connection.request(method, path, body, {"Content-Type": kind} if body else {})
        return connection, connection.getresponse()

    def json(self, method, path, body=None):
        connection, answer = self.ask(method, path, body)
        with contextlib.closing(connection):
            text = answer.read()
            if answer.status >= 300:
                sys.exit(f"{method} {path}: {answer.status} {text.decode()}")
            return json.loads(text) if text else None


def tar_of(context):
    return subprocess.run(["tar", "c", "-C", context, "."], capture_output=True, check=True).stdout


def first_byte(path, tar):
    """Milliseconds from the last header of a build to the first byte of its stream."""
    # Of version 1.0, whose answers end with the connection.
    head = ("POST /build?version=1&networkmode=none HTTP/1.0\r\nHost: x\r\n"
            f"Content-Type: application/x-tar\r\nContent-Length: {len(tar)}\r\n\r\n").encode()
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        stream.sendall(head)
        start = time.monotonic()
        stream.sendall(tar)
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2]:
            answer += stream.recv(1 << 16)
        took = time.monotonic() - start
        if b" 200 " not in answer[:20]:
            sys.exit(f"a build is refused: {answer.decode()}")
        while stream.recv(1 << 16):
            pass
    return took * 1000


class Rows:
    """Each row prints itself."""

    def __init__(self, bench, builders, scale, rounds, tools):
        self.bench, self.rounds, self.tools = bench, rounds, tools
        self.rbuild = builders[0]
        self.dockerd = next((it for it in builders if it.name == "classic"), None)
        self.streams, self.megabytes = SCALES[scale]
        self.service = Service(bench.place, self.rbuild, tools)
        self.example = f"{bench.place}/contexts/example"
        shutil.copytree(f"{HERE}/app-node", self.example)

    def docker(self, url, *command):
        env = {**os.environ, "DOCKER_HOST": url, "DOCKER_BUILDKIT": "0"}
        self.tools.run(["docker", *command], env=env)

    def show(self, title, value, unit, target, is_met, other=""):
        word = "" if is_met else "  MISSED"
        print(f"{title:52}{value:>10.2f} {unit:6}{target:>12}{word}{other}", flush=True)

    def builds(self):
        """All-cached builds of the example by the docker command line."""
        if not shutil.which("docker"):
            return
        urls = {"rbuild": self.service.url}
        if self.dockerd:
            urls["dockerd"] = self.dockerd.env["DOCKER_HOST"]
        base = self.bench.context("base", BASE)
        build = ["build", "--network", "none", "-t"]
        for url in urls.values():
            self.docker(url, *build, "node:14", base)
            self.docker(url, *build, "bench-example", self.example)
        times = {name: [] for name in urls} | {"client": []}
        for _ in range(self.rounds * 4):
            for name, url in urls.items():
                command = [*build, "bench-example", self.example]
                times[name].append(self.tools.timed(lambda: self.docker(url, *command))[0])
            alone = self.tools.timed(lambda: self.docker(self.service.url, "images", "-q"))
            times["client"].append(alone[0])
        median = {name: statistics.median(values) * 1000 for name, values in times.items()}
        told = "  " + ", ".join(f"{name} {value:.0f} ms" for name, value in median.items())
        title = "all-cached docker build, of dockerd's time"
        if "dockerd" not in median:
            print(f"{title:52}{'-':>10}{told}", flush=True)
            return
        ratio = median["rbuild"] / median["dockerd"]
        self.show(title, ratio, "", "<= 0.50", ratio <= 0.5, told)

    def first(self):
        tar = tar_of(self.example)
        if not shutil.which("docker"):
            return
        took = statistics.median(first_byte(self.service.socket, tar) for _ in range(self.rounds * 10))
        theirs = ""
        if self.dockerd:
            path = self.dockerd.env["DOCKER_HOST"].removeprefix("unix://")
            other = statistics.median(first_byte(path, tar) for _ in range(self.rounds * 10))
            theirs = f"  dockerd {other:.2f} ms"
        self.show("first byte of the stream after the last header", took, "ms", "<= 5", took <= 5, theirs)

    def begin(self, command):
        """Starts a build that goes on by itself; returns its id."""
        path = self.bench.context("one-step", f"FROM busybox\nRUN : {self.bench.fresh()}; {command}\n")
        return self.service.json("POST", "/v1/builds?networkmode=none", tar_of(path))["id"]

    def end_of(self, build):
        while True:
            told = self.service.json("GET", f"/v1/builds/{build}")
            if told["result"]["state"] != "running":
                return told
            time.sleep(0.02)

    def open_streams(self):
        build = self.begin("echo begun; sleep 1000")
        while b"begun" not in self.service.ask("GET", f"/v1/builds/{build}/log")[1].read():
            time.sleep(0.05)
        for title, path in {"of one build's events": f"/v1/builds/{build}/events",
                            "of the engine's events": "/events"}.items():
            before = self.service.memory()
            opened = [self.service.ask("GET", path) for _ in range(self.streams)]
            if "/v1/" in path:
                for _, answer in opened:
                    while b"begun" not in answer.readline():
                        pass
            cost = (self.service.memory() - before) / MIB
            for connection, _ in opened:
                connection.close()
            self.show(f"{self.streams} streams {title}, memory", cost, "MiB", "< 100", cost < 100)
        self.service.json("DELETE", f"/v1/builds/{build}")
        self.end_of(build)

    def read(self, path):
        """Reads an answer to its end; returns its bytes."""
        connection, answer = self.service.ask("GET", path)
        total, buffer = 0, bytearray(1 << 18)
        with contextlib.closing(connection):
            while count := answer.readinto(buffer):
                total += count
        return total

    def write_log(self, follow):
        """Has a step write its log; returns the build and how long the step took, in ms. With
        `follow`, one client reads all of it meanwhile."""
        build = self.begin(f"yes '{LINE}' | head -c {self.megabytes * MB}")
        if follow:
            read = self.read(f"/v1/builds/{build}/{follow}")
            if read < self.megabytes * MB:
                sys.exit(f"only {read} bytes of the log came")
        told = self.end_of(build)
        return build, max(step["millis"] or 0 for step in told["plan"])

    def log(self):
        alone, followed, rates = [], {"log?follow=1": [], "events": []}, []
        for _ in range(self.rounds):
            build, took = self.write_log(None)
            alone.append(took)
            start = time.monotonic()
            total = self.read(f"/v1/builds/{build}/log")
            rates.append(total / MB / (time.monotonic() - start))
            for follow, times in followed.items():
                times.append(self.write_log(follow)[1])
        rate, base = statistics.median(rates), statistics.median(alone)
        title = f"a log of {self.megabytes} MB to one client"
        self.show(title, rate, "MB/s", ">= 200", rate >= 200)
        for follow, times in followed.items():
            ratio = statistics.median(times) / base
            self.show(f"the step that writes it, while `{follow}` is read", ratio, "", "<= 1.05",
                      ratio <= 1.05, f"  {base:.0f} ms alone")


def measure(bench, builders, scale, rounds, tools):
    """Prints all rows."""
    rows = Rows(bench, builders, scale, rounds, tools)
    try:
        print(f"{'':52}{'rbuild':>10} {'':6}{'target':>12}")
        rows.builds()
        rows.first()
        rows.open_streams()
        rows.log()
    finally:
        rows.service.stop()
