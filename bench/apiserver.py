"""The embedded API server against etcd + kube-apiserver 1.35: the same client, in turns.

Usage: apiserver.py CUMULO PEERS_FOLDER CLIENT     (bench/run apiserver makes all three)

Both servers run on this machine at once, each with a temporary folder on the same
disk; at any time only one of them is asked. The client is
crates/cumulo-apiserver/examples/bench_apiserver.rs: HTTPS, HTTP/1.1, JSON, one
connection per client, kept. Both authenticate a token of the group
system:masters and ask RBAC, and both acknowledge a write when it is on disk: etcd
with fsync, as is its default, and SQLite with synchronous=FULL. A ConfigMap holds
1000 bytes. Rates and delays are over two turns each.

What is compared is what a client of one machine sees, client's own work included,
which is the same for both; but for watches, whose 500 readers would be on machines of
their own: an event has arrived when it is in the watcher's socket, as the kernel noted.
Against the peer speaks that its parts talk over
sockets, as they must; for it that it runs without controllers, kubelet and audit
log: the memory of Cumulo is that of the whole platform, and it writes its audit
log. Not compared: several machines, protobuf, HTTP/2, admission webhooks, a disk
that is slow to sync. etcd maps its file, so that its pages are in the resident
memory; the row "anonymous" leaves them out. Memory is read at rest, once after
the load and once after a restart. Both servers are filled to the same number of
objects: 100,000, or a few more where the faster one has written those before.
"""

import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from common import Real, free_port, resident, wait_ready

CUMULO, PEERS, CLIENT = (pathlib.Path(argument).absolute() for argument in sys.argv[1:4])
CLIENTS = [1, 16, 128]
TURNS, SECONDS = 2, 2.5
LISTED, ALL = 10_000, 100_000
REST = 5
STARTS = 3


class Cumulo:
    """`cumulo up --foreground`, as a user runs it."""

    name = "cumulo up"
    # Every namespace has the ConfigMap kube-root-ca.crt; beside kube-apiserver its controller manager would make it.
    published = 1

    def __init__(self, folder: str) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    def start(self) -> float:
        log = pathlib.Path(self.folder, "log").open("ab")
        started = time.monotonic()
        self.process = subprocess.Popen(
            [CUMULO, "up", "--foreground", "--listen", f"127.0.0.1:{self.port}"],
            env={**os.environ, "CUMULO_HOME": self.folder}, stdout=log, stderr=log)
        wait_ready(self.url(), None)
        return time.monotonic() - started

    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def token(self) -> str:
        return json.loads(pathlib.Path(self.folder, "credentials.json").read_text())["admin"]

    def pids(self) -> list[int]:
        return [self.process.pid]

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)


class Subject:
    """A server, and what was measured of it: a list of values per row."""

    def __init__(self, kind) -> None:
        self.folder = tempfile.mkdtemp(prefix="cumulo-bench-")
        self.server = Real(self.folder, PEERS) if kind is Real else kind(self.folder)
        self.measured: dict[str, list[float]] = {}

    def note(self, row: str, value: float) -> None:
        self.measured.setdefault(row, []).append(value)

    def value(self, row: str) -> float:
        return statistics.mean(self.measured.get(row, [math.nan]))

    def phase(self, name: str, **settings) -> dict:
        address = self.server.url().removeprefix("https://")
        arguments = [f"{key}={value}" for key, value in settings.items()]
        done = subprocess.run(
            [CLIENT, address, self.server.token(), "--insecure", name, *arguments], capture_output=True, text=True, timeout=240)
        if done.returncode:
            raise SystemExit(f"{self.server.name}, {name}: {done.stderr}")
        return json.loads(done.stdout)

    def memory(self, row: str) -> None:
        time.sleep(REST)
        self.note(row, resident(self.server.pids()))
        self.note(f"{row}, anonymous", resident(self.server.pids(), "RssAnon"))

    def close(self) -> None:
        try:
            self.server.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def progress(text: str) -> None:
    print(f"  {time.monotonic() - BEGAN:5.0f} s  {text}", file=sys.stderr, flush=True)


def writes(subject: Subject, turn: int) -> None:
    for clients in CLIENTS:
        for phase in ["create", "update"]:
            prefix = f"{phase}-{clients}-{turn}"
            answer = subject.phase(phase, namespace="default", prefix=prefix, clients=clients, seconds=SECONDS)
            subject.note(f"{phase} {clients}", answer["per_second"])


def lists(subject: Subject) -> None:
    for row, query, expect in [
        ("page", "limit=500", 500),
        ("whole", "", LISTED),
        ("selected", "labelSelector=pick%3Dyes", LISTED // 100),
    ]:
        answer = subject.phase("list", namespace="listed", query=query, expect=expect, seconds=SECONDS)
        subject.note(row, answer["p50_ms"])


def watches(subject: Subject, turn: int) -> None:
    answer = subject.phase("watch", namespace=f"watched-{turn}", watchers=500, writes=50, interval=200)
    subject.note("watch p50", answer["p50_ms"])
    subject.note("watch p99", answer["p99_ms"])


def namespaces(subject: Subject) -> None:
    for name in ["listed", *(f"watched-{turn}" for turn in range(TURNS))]:
        subject.phase("namespace", namespace=name)


def measure(subjects: list[Subject]) -> None:
    for subject in subjects:
        subject.server.start()
        namespaces(subject)
    for subject in subjects:
        progress(f"{subject.server.name}: {LISTED:,} objects")
        count = LISTED - getattr(subject.server, "published", 0)
        subject.phase("fill", namespace="listed", prefix="object", clients=32, count=count)
        subject.memory("memory listed")
    for turn in range(TURNS):
        for subject in subjects:
            progress(f"{subject.server.name}: lists, watches, writes")
            lists(subject)
            watches(subject, turn)
            writes(subject, turn)
    # Both to the same number, also where the faster one has written more by now.
    there = [subject.phase("count")["count"] for subject in subjects]
    goal = max(ALL, *there)
    for subject, count in zip(subjects, there):
        progress(f"{subject.server.name}: {count:,} objects, to be {goal:,}")
        subject.phase("fill", namespace="default", prefix="more", clients=32, count=goal - count)
        subject.memory("memory all")
    for number in range(STARTS):
        for subject in subjects:
            progress(f"{subject.server.name}: restart")
            subject.server.stop()
            subject.note("ready", subject.server.start())
            if number == STARTS - 1:
                subject.memory("memory restarted")


ROWS = [
    *((f"{phase} {clients}", f"{phase}s/s, {clients} clients", "1/s", "≥ 3") for phase in ["create", "update"] for clients in CLIENTS),
    ("page", f"list of {LISTED:,}, first 500", "ms", "≥ 2"),
    ("whole", f"list of {LISTED:,}, whole", "ms", "≥ 2"),
    ("selected", f"list of {LISTED:,}, 1% by label", "ms", "≥ 2"),
    ("watch p50", "write's start to 500 watchers' sockets, p50", "ms", ""),
    ("watch p99", "write's start to 500 watchers' sockets, p99", "ms", "≥ 2"),
    ("memory listed", f"resident memory, {LISTED:,} objects", "MiB", "≥ 3"),
    ("memory listed, anonymous", "  of it anonymous", "MiB", ""),
    ("memory all", f"resident memory, {ALL:,} objects, after the load", "MiB", "≥ 3"),
    ("memory all, anonymous", "  of it anonymous", "MiB", ""),
    ("memory restarted", f"resident memory, {ALL:,} objects, restarted", "MiB", "≥ 3"),
    ("memory restarted, anonymous", "  of it anonymous", "MiB", ""),
    ("ready", f"start to ready, {ALL:,} objects (mean of {STARTS})", "s", "< 2 s"),
]

BEGAN = time.monotonic()
subjects: list[Subject] = []
try:
    for kind in (Cumulo, Real):
        subjects.append(Subject(kind))
    measure(subjects)
finally:
    for subject in subjects:
        subject.close()
ours, theirs = subjects
print(f"{'':52}{Cumulo.name:>14}{Real.name:>24}{'ratio':>9}  aim")
for row, title, unit, aim in ROWS:
    mine, other = ours.value(row), theirs.value(row)
    ratio = mine / other if unit == "1/s" else other / mine
    print(f"{title:52}{mine:>9.1f} {unit:4}{other:>19.1f} {unit:4}{ratio:>8.1f}×  {aim}")
