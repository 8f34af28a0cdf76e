"""What the programs here share: a platform of its own, the real API server, a small project, requests."""

import http.client
import json
import os
import pathlib
import random
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request

PROJECT = """apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: trips}
spec:
  sources: {t: {uri: t.csv}}
  query: SELECT * FROM t
---
apiVersion: cumulo.dev/v1alpha1
kind: Model
metadata: {name: late}
spec:
  dataset: trips
  target: late
  task: classification
  train: {automl: {budget: 2s}}
---
apiVersion: cumulo.dev/v1alpha1
kind: InferenceService
metadata: {name: trips}
spec:
  model: models:/late@champion
  replicas: REPLICAS
  scaleToZeroAfter: 1s
"""

REQUEST = json.dumps(
    {
        "inputs": [
            {"name": "x", "datatype": "FP64", "shape": [1], "data": [9.5]},
            {"name": "y", "datatype": "FP64", "shape": [1], "data": [0.5]},
            {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Oslo"]},
        ]
    }
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_ready(url: str, token: str | None, limit: float = 60) -> None:
    context = ssl._create_unverified_context()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        request = urllib.request.Request(url + "/readyz")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, context=context, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.005)
    raise SystemExit(f"{url} was not ready within {limit} s")


def resident(pids: list[int], field: str = "VmRSS") -> float:
    """MiB of memory that processes hold, as /proc/PID/status has it under `field`."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                total += int(line.split()[1])
    return total / 1024


def write_project(folder: str, seed: int, replicas: str) -> None:
    """A table whose target follows from its columns, with some noise."""
    dice = random.Random(seed)
    with open(os.path.join(folder, "t.csv"), "w") as out:
        out.write("x,y,city,late\n")
        for _ in range(3000):
            x, y, city = dice.random() * 10, dice.random(), dice.choice(["Rome", "Oslo", "Lima"])
            late = int(x + 3 * (city == "Oslo") + 2 * dice.random() > 7)
            out.write(f"{x:.4f},{y:.4f},{city},{late}\n")
    pathlib.Path(folder, "project.yaml").write_text(PROJECT.replace("REPLICAS", replicas))


class Platform:
    """`cumulo up` on a temporary folder and a free port."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.home = tempfile.mkdtemp(prefix="cumulo-bench-")
        self.port = free_port()

    def up(self) -> None:
        self.run("up", "--quiet", "--listen", f"127.0.0.1:{self.port}")

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            [self.program, *arguments], env={**os.environ, "CUMULO_HOME": self.home}, check=True, capture_output=True, text=True
        ).stdout.strip()

    def popen(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.program, *arguments], env={**os.environ, "CUMULO_HOME": self.home}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def read(self, file: str) -> dict:
        return json.loads(pathlib.Path(self.home, file).read_text())

    def token(self) -> str:
        return self.read("credentials.json")["admin"]

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)

    def post(self, connection: http.client.HTTPConnection, path: str, body: str) -> tuple[int, bytes]:
        connection.request("POST", path, body, {"Authorization": f"Bearer {self.token_text}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    @property
    def token_text(self) -> str:
        if not hasattr(self, "_token"):
            self._token = self.token()
        return self._token


class Real:
    """etcd and kube-apiserver with a folder of their own, from tests/peers/kubernetes/build.sh."""

    name = "etcd + kube-apiserver"

    def __init__(self, folder: str, peers: pathlib.Path) -> None:
        self.folder, self.peers = pathlib.Path(folder), peers
        self.ports = [free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen] = []
        key = self.folder / "key.pem"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text("secret,admin,1,system:masters\n")

    def start(self) -> float:
        client, peer, secure = self.ports
        log = (self.folder / "log").open("ab")
        started = time.monotonic()
        self.processes = [
            subprocess.Popen(
                [self.peers / "etcd", f"--data-dir={self.folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{client}",
                 f"--advertise-client-urls=http://127.0.0.1:{client}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
                 f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}", f"--initial-cluster=default=http://127.0.0.1:{peer}"],
                stdout=log, stderr=log),
            subprocess.Popen(
                [self.peers / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}",
                 "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certificates", f"--service-account-key-file={self.folder}/key.pem",
                 f"--service-account-signing-key-file={self.folder}/key.pem", "--service-account-issuer=https://localhost",
                 f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
                 "--disable-admission-plugins=ServiceAccount"],
                stdout=log, stderr=log),
        ]
        wait_ready(self.url(), "secret")
        return time.monotonic() - started

    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports[2]}"

    def token(self) -> str:
        return "secret"

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def stop(self) -> None:
        # The API server first, and to its end: without etcd it waits for it.
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
