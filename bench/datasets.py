"""1,000 Datasets applied at once: how long until all are ready, and where the time goes.

Usage: datasets.py CUMULO [PEERS KUBECTL] [--count N]

Without PEERS on `cumulo up`; with them (see `cargo xtask cluster`) on etcd, kube-apiserver, kube-controller-manager and
kube-scheduler with Cumulo's roles and two nodes beside them, state in SQLite and a folder on both. Every Dataset reads
the same file of 3,000 rows and counts them. Stages are read off two watches, of Datasets and of pods; CPU time is what
/proc has of each process, and for pods what their ended processes have used.
"""

import argparse
import ctypes
import json
import os
import pathlib
import resource
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/peers/cluster"))

from cluster import Cluster
from common import free_port, wait_ready, write_project

DATASET = """apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: NAME}
spec:
  sources: {t: {uri: t.csv}}
  query: SELECT count(*) AS n, 'NAME' AS name FROM t
"""
STAGES = ["applied", "pod made", "pod bound", "pod running", "pod done", "ready"]
LIMIT = 900
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")


class Laptop:
    name = "cumulo up"

    def __init__(self, folder: pathlib.Path, cumulo: pathlib.Path) -> None:
        self.cumulo, self.home, port = cumulo, folder / "home", free_port()
        self.api = f"https://127.0.0.1:{port}"
        self.environment = {**os.environ, "CUMULO_HOME": str(self.home)}
        log = (folder / "log").open("wb")
        self.process = subprocess.Popen([cumulo, "up", "--foreground", "--listen", f"127.0.0.1:{port}"],
                                        env=self.environment, stdout=log, stderr=log)
        wait_ready(self.api, None)
        self.token = json.loads((self.home / "credentials.json").read_text())["admin"]

    def apply(self, path: pathlib.Path) -> None:
        subprocess.run([self.cumulo, "apply", "-f", path], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def pids(self) -> dict[str, int]:
        return {"cumulo up": self.process.pid}

    def stop(self) -> None:
        subprocess.run([self.cumulo, "down"], env=self.environment, stdout=subprocess.DEVNULL)
        self.process.wait(60)


class Real(Cluster):
    name = "etcd, kube-apiserver, … and Cumulo's roles"

    def __init__(self, folder: pathlib.Path, peers: pathlib.Path, cumulo: pathlib.Path, kubectl: pathlib.Path) -> None:
        super().__init__(folder / "cluster", peers, cumulo, kubectl, local_state=True)
        self.start_control_plane()
        self.install()
        self.start_roles()

    def apply(self, path: pathlib.Path) -> None:
        self.command("apply", "-f", str(path))

    def pids(self) -> dict[str, int]:
        return {name: process.popen.pid for name, process in self.processes.items()}


def cpu(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of the children that it has waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    user, system, children_user, children_system = (int(field) / TICKS for field in fields[11:15])
    return user + system, children_user + children_system


def orphans() -> float:
    """CPU seconds of processes that outlived their parents and ended: pods' attendants, which come to this process."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            pid = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT).si_pid
            if pid in OWN:
                break
            os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


OWN: set[int] = set()


class Watch:
    """When what happened to each Dataset."""

    def __init__(self, place, count: int) -> None:
        self.seen: dict[str, dict[str, float]] = {}
        self.lock, self.count, self.done = threading.Lock(), count, threading.Event()
        self.place = place
        for path, note in (("/apis/cumulo.dev/v1alpha1/namespaces/default/datasets", self.dataset), ("/api/v1/namespaces/default/pods", self.pod)):
            threading.Thread(target=self.follow, args=(path, note), daemon=True).start()

    def follow(self, path: str, note) -> None:
        context = ssl._create_unverified_context()
        request = urllib.request.Request(f"{self.place.api}{path}?watch=true&timeoutSeconds={LIMIT}")
        request.add_header("Authorization", f"Bearer {self.place.token}")
        with urllib.request.urlopen(request, context=context) as answer:
            for line in answer:
                note(json.loads(line)["object"], time.monotonic())

    def note(self, name: str, stage: str, now: float) -> None:
        with self.lock:
            self.seen.setdefault(name, {}).setdefault(stage, now)

    def dataset(self, item: dict, now: float) -> None:
        name = item["metadata"]["name"]
        self.note(name, "applied", now)
        if item.get("status", {}).get("version"):
            self.note(name, "ready", now)
            if sum("ready" in stages for stages in self.seen.values()) == self.count:
                self.done.set()

    def pod(self, item: dict, now: float) -> None:
        name = item["metadata"]["ownerReferences"][0]["name"]
        self.note(name, "pod made", now)
        if item["spec"].get("nodeName"):
            self.note(name, "pod bound", now)
        phase = item.get("status", {}).get("phase")
        if phase in ("Running", "Succeeded"):
            self.note(name, "pod running", now)
        if phase == "Succeeded":
            self.note(name, "pod done", now)


def measure(place, folder: pathlib.Path, count: int) -> None:
    project = folder / "project"
    project.mkdir()
    write_project(str(project), 7, "1")
    text = "---\n".join(DATASET.replace("NAME", f"d-{number:04}") for number in range(count))
    (project / "project.yaml").write_text(text)
    pids = place.pids()
    OWN.update(pids.values())
    before = {name: cpu(pid) for name, pid in pids.items()}
    pods = orphans()
    watch = Watch(place, count)
    time.sleep(1)
    started = time.monotonic()
    place.apply(project)
    applied = time.monotonic() - started
    if not watch.done.wait(LIMIT):
        raise SystemExit(f"{place.name}: after {LIMIT} s {sum('ready' in s for s in watch.seen.values())} of {count} are ready")
    last = max(stages["ready"] for stages in watch.seen.values()) - started
    time.sleep(2)
    after = {name: cpu(pid) for name, pid in pids.items()}
    pods = orphans() - pods + sum(after[name][1] - before[name][1] for name in pids)
    print(f"\n{place.name}: {count:,} Datasets applied in {applied:.1f} s, all ready after {last:.1f} s ({count / last:.0f} a second)")
    for one, other in zip(STAGES, STAGES[1:]):
        spans = sorted(stages[other] - stages[one] for stages in watch.seen.values() if one in stages and other in stages)
        print(f"  {one + ' to ' + other:28} mean {statistics.mean(spans):7.2f} s   longest {spans[-1]:7.2f} s   ({len(spans)})")
    print(f"  CPU seconds, of {last * (os.cpu_count() or 1):.0f} that the machine has in that time:")
    for name in sorted(pids, key=lambda name: before[name][0] - after[name][0]):
        print(f"    {name:26} {after[name][0] - before[name][0]:6.1f}")
    print(f"    {'pods':26} {pods:6.1f}   (the programs that applied included)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cumulo", type=pathlib.Path)
    parser.add_argument("peers", type=pathlib.Path, nargs="?")
    parser.add_argument("kubectl", type=pathlib.Path, nargs="?")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    kinds = [lambda folder: Laptop(folder, options.cumulo.resolve())]
    if options.peers:
        kinds.append(lambda folder: Real(folder, options.peers.resolve(), options.cumulo.resolve(), options.kubectl.resolve()))
    for kind in kinds:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="cumulo-bench-"))
        place = kind(folder)
        try:
            measure(place, folder, options.count)
        finally:
            place.stop()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
