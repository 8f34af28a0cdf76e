"""Start and rest: `cumulo up` against etcd + kube-apiserver, in the same run.

Prints a table: seconds from the start of the command to a good /readyz, with a
fresh folder and with 10,000 objects; resident memory and CPU at rest, empty and
(ours only) with the flights service ready.
Usage: startup.py CUMULO PEERS_FOLDER     (tests/peers/kubernetes/build.sh makes the peers)
"""

import json
import os
import pathlib
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

from common import Real, free_port, resident, wait_ready

CUMULO, PEERS = sys.argv[1], pathlib.Path(sys.argv[2])
OBJECTS = 10_000
REPEAT = 5
REST_SECONDS = 20


def fill(url: str, token: str) -> None:
    """Creates ConfigMaps of 1 KiB over 8 connections."""
    import concurrent.futures
    import http.client
    import urllib.parse

    parsed = urllib.parse.urlparse(url)

    def work(numbers: range) -> None:
        if parsed.scheme == "https":
            connection = http.client.HTTPSConnection(parsed.netloc, context=ssl._create_unverified_context())
        else:
            connection = http.client.HTTPConnection(parsed.netloc)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        for number in numbers:
            body = json.dumps(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"object-{number}"}, "data": {"x": "y" * 1000}}
            )
            connection.request("POST", "/api/v1/namespaces/default/configmaps", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (201, 409):
                raise SystemExit(f"creating an object was answered {answer.status}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [range(start, OBJECTS, 8) for start in range(8)]))


def proportional(pids: list[int]) -> float:
    """Resident memory where pages that several processes share are counted once."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def cores_at_rest(pids: list[int]) -> float:
    before, started = cpu_seconds(pids), time.monotonic()
    time.sleep(REST_SECONDS)
    return (cpu_seconds(pids) - before) / (time.monotonic() - started)


def family(pid: int) -> list[int]:
    """A process, its children, and what was started for its pods (found by the folder in their arguments)."""
    home = os.readlink(f"/proc/{pid}/cwd")
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
            folder = os.readlink(entry / "cwd")
        except OSError:
            continue
        if int(entry.name) == pid or home in arguments or folder.startswith(home):
            found.append(int(entry.name))
    return found


class Cumulo:
    name = "cumulo up"

    def __init__(self, folder: str) -> None:
        self.folder, self.port = folder, free_port()

    def start(self) -> float:
        started = time.monotonic()
        subprocess.run([CUMULO, "up", "--quiet", "--listen", f"127.0.0.1:{self.port}"], env={**os.environ, "CUMULO_HOME": self.folder}, check=True)
        wait_ready(self.url(), None)
        return time.monotonic() - started

    def serve_flights(self) -> None:
        subprocess.run([CUMULO, "run", "examples/flights"], env={**os.environ, "CUMULO_HOME": self.folder}, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self) -> str:
        return json.loads(pathlib.Path(self.folder, "credentials.json").read_text())["admin"]

    def pids(self) -> list[int]:
        return family(json.loads(pathlib.Path(self.folder, "platform.json").read_text())["pid"])

    def stop(self) -> None:
        subprocess.run([CUMULO, "down"], env={**os.environ, "CUMULO_HOME": self.folder}, check=True, stdout=subprocess.DEVNULL)


def make(kind, folder: str):
    return Real(folder, PEERS) if kind is Real else kind(folder)


def measure(kind) -> dict:
    fresh = []
    for _ in range(REPEAT):
        folder = tempfile.mkdtemp(prefix="cumulo-bench-")
        subject = make(kind, folder)
        fresh.append(subject.start())
        subject.stop()
        shutil.rmtree(folder)
    folder = tempfile.mkdtemp(prefix="cumulo-bench-")
    subject = make(kind, folder)
    subject.start()
    time.sleep(3)
    result = {"memory": resident(subject.pids()), "pss": proportional(subject.pids()), "cores": cores_at_rest(subject.pids())}
    if kind is Cumulo:
        subject.serve_flights()
        time.sleep(5)
        result |= {"serving": resident(subject.pids()), "serving cores": cores_at_rest(subject.pids())}
    else:
        # Alone, as it cannot serve a model: the least it would hold beside an engine that can.
        result |= {"serving": result["memory"], "serving cores": result["cores"]}
    fill(subject.url(), subject.token())
    subject.stop()
    full = []
    for _ in range(3):
        full.append(subject.start())
        subject.stop()
    shutil.rmtree(folder)
    return {**result, "fresh": statistics.median(fresh), "full": statistics.median(full)}


ours, theirs = measure(Cumulo), measure(Real)
print(f"{'':52}{Cumulo.name:>14}{Real.name:>24}{'ratio':>9}")
for key, title, unit in [
    ("fresh", f"ready, fresh folder (median of {REPEAT})", "s"),
    ("full", f"ready, {OBJECTS:,} objects (median of 3)", "s"),
    ("memory", "resident memory at rest, empty", "MiB"),
    ("pss", "the same, shared pages once", "MiB"),
    ("cores", f"CPU at rest over {REST_SECONDS} s", "core"),
    ("serving", "resident memory, flights service ready (peer: alone)", "MiB"),
    ("serving cores", "CPU at rest, flights service ready (peer: alone)", "core"),
]:
    ratio = theirs[key] / ours[key] if ours[key] else float("inf")
    print(f"{title:52}{ours[key]:>9.3f} {unit:4}{theirs[key]:>19.3f} {unit:4}{ratio:>8.1f}×")
