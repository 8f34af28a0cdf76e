"""What the programs here share: a platform of its own, a small project, requests."""

import http.client
import json
import os
import pathlib
import random
import socket
import subprocess
import tempfile

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
