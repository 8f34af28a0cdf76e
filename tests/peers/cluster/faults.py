"""Breaks one part of a cluster after the other while predictions are asked for, and counts what fails."""

import http.client
import json
import pathlib
import random
import signal
import tempfile
import threading
import time
import urllib.parse

from cluster import Cluster, wait_for

# Prediction requests a second, over all threads.
RATE = 40
THREADS = 4
# How long etcd stands still.
PAUSE = 60

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
  train: {automl: {budget: 5m, trials: 1}}
---
apiVersion: cumulo.dev/v1alpha1
kind: InferenceService
metadata: {name: trips}
spec:
  model: models:/late@champion
  replicas: {min: 2, max: 2}
"""

REQUEST = json.dumps({"inputs": [
    {"name": "x", "datatype": "FP64", "shape": [1], "data": [9.5]},
    {"name": "y", "datatype": "FP64", "shape": [1], "data": [0.5]},
    {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Oslo"]},
]})

DATASET = """apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: NAME}
spec:
  sources: {t: {uri: t.csv}}
  query: SELECT count(*) AS n, 'NAME' AS name FROM t
"""

JOB = "import time\nfor second in range(40):\n    print(second, flush=True)\n    time.sleep(1)\n"


class Load:
    """Asks for predictions at a steady rate. As behind a Service, a gateway that takes no connection is passed over;
    a request that was sent and not answered with 200 has failed."""

    def __init__(self, cluster: Cluster) -> None:
        self.hosts = [urllib.parse.urlparse(url).netloc for url in cluster.gateways]
        self.headers = {"Authorization": f"Bearer {cluster.token}", "Content-Type": "application/json"}
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.reset()
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def reset(self) -> None:
        with self.lock:
            self.sent, self.failed, self.passed, self.slowest, self.why = 0, 0, 0, 0.0, {}

    def work(self, number: int) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        turn = number
        due = time.monotonic() + random.random() * THREADS / RATE
        while not self.stopped.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += THREADS / RATE
            turn += 1
            started = time.monotonic()
            problem = "no gateway takes a connection"
            passed = 0
            for attempt in range(len(self.hosts)):
                host = self.hosts[(turn + attempt) % len(self.hosts)]
                connection = connections.pop(host, None)
                try:
                    if connection is None:
                        connection = http.client.HTTPConnection(host, timeout=60)
                        connection.connect()
                except OSError:
                    passed += 1
                    continue
                try:
                    connection.request("POST", "/v2/models/trips/infer", REQUEST, self.headers)
                except OSError:
                    # A kept connection that the gateway has closed: nothing was sent.
                    passed += 1
                    continue
                try:
                    answer = connection.getresponse()
                    body = answer.read()
                    problem = None if answer.status == 200 else f"{answer.status} {body[:200].decode(errors='replace')}"
                    connections[host] = connection
                except (OSError, http.client.HTTPException) as error:
                    problem = f"{type(error).__name__} after sending"
                break
            taken = time.monotonic() - started
            with self.lock:
                self.sent += 1
                self.passed += passed
                self.slowest = max(self.slowest, taken)
                if problem:
                    self.failed += 1
                    self.why[problem] = self.why.get(problem, 0) + 1

    def told(self) -> str:
        with self.lock:
            why = "; ".join(f"{count}x {text}" for text, count in sorted(self.why.items(), key=lambda pair: -pair[1])[:3])
            return f"{self.failed} of {self.sent} requests failed, slowest {self.slowest:.2f} s" + (f" ({why})" if why else "")

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(70)


def write_project(folder: pathlib.Path) -> None:
    dice = random.Random(7)
    with (folder / "t.csv").open("w") as out:
        out.write("x,y,city,late\n")
        for _ in range(3000):
            x, y, city = dice.random() * 10, dice.random(), dice.choice(["Rome", "Oslo", "Lima"])
            out.write(f"{x:.4f},{y:.4f},{city},{int(x + 3 * (city == 'Oslo') + 2 * dice.random() > 7)}\n")
    (folder / "project.yaml").write_text(PROJECT)


class Trial:
    def __init__(self, cluster: Cluster, check, say, folder: pathlib.Path) -> None:
        self.cluster, self.check, self.say, self.folder = cluster, check, say, folder
        self.load = Load(cluster)
        self.number = 0

    def works(self, limit: float = 120) -> float:
        """Makes a Dataset and waits until it is there: the seconds that it took."""
        self.number += 1
        name = f"after-{self.number}"
        folder = self.folder / name
        folder.mkdir()
        (folder / "t.csv").write_text((self.folder / "t.csv").read_text())
        (folder / "project.yaml").write_text(DATASET.replace("NAME", name))
        started = time.monotonic()

        def apply() -> bool:
            ran = self.cluster.ask("apply", "-f", str(folder))
            if ran.returncode != 0:
                raise ValueError(ran.stderr.strip())
            return True

        wait_for("an apply", limit, apply, 0.5)
        wait_for(f"Dataset {name}", limit, lambda: self.cluster.get("datasets", name).get("status", {}).get("version"))
        return time.monotonic() - started

    def fault(self, name: str, told: str, allowed: int = 0) -> None:
        taken = self.works()
        self.check(name, f"{told}; new work done {taken:.1f} s later; {self.load.told()}", self.load.failed <= allowed)
        self.load.reset()

    def serving_on(self) -> set[str]:
        return {pod["spec"]["nodeName"] for pod in self.cluster.get("pods")["items"]
                if pod["metadata"]["labels"].get("cumulo.dev/inference-service") == "trips"
                and "deletionTimestamp" not in pod["metadata"]
                and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))}

    def replicas(self) -> int:
        service = self.cluster.get("inferenceservices", "trips")
        return service["status"].get("readyReplicas", 0)

    # --- the faults -------------------------------------------------------------------------------------------

    def operator(self) -> None:
        cluster = self.cluster
        leader = cluster.leader()
        started = time.monotonic()
        cluster.processes[leader].kill()
        follower = wait_for("another leader", 60, lambda: (now := cluster.leader()) and now != leader and now)
        taken = time.monotonic() - started
        self.fault("operator's leader killed", f"{follower} leads after {taken:.1f} s")
        cluster.processes[leader].start()
        # Told to end, a leader gives its lease back.
        started = time.monotonic()
        cluster.processes[follower].stop()
        wait_for("another leader", 60, lambda: cluster.leader() == leader)
        self.fault("operator's leader ended", f"{leader} leads after {time.monotonic() - started:.1f} s")
        cluster.processes[follower].start()

    def api_server(self) -> None:
        started = time.monotonic()
        server = self.cluster.processes["kube-apiserver"]
        server.kill()
        server.start()
        wait_for("kube-apiserver", 90, self.cluster.api_ready)
        self.fault("kube-apiserver killed and started", f"ready after {time.monotonic() - started:.1f} s")

    def etcd(self) -> None:
        etcd = self.cluster.processes["etcd"]
        etcd.send(signal.SIGSTOP)
        time.sleep(PAUSE)
        etcd.send(signal.SIGCONT)
        started = time.monotonic()
        wait_for("kube-apiserver", 120, self.cluster.api_ready)
        wait_for("a leader", 120, lambda: any(self.leads(url) for url in self.cluster.operators))
        wait_for("both nodes", 120, lambda: len(self.cluster.ready_nodes()) == 2)
        self.fault(f"etcd paused for {PAUSE} s", f"led again after {time.monotonic() - started:.1f} s")

    def leads(self, url: str) -> bool:
        return "cumulo_operator_leads 1" in self.cluster.request("GET", "/metrics", raw=True, base=url)

    def gateway(self) -> None:
        process = self.cluster.processes["gateway-2"]
        process.kill()
        time.sleep(5)
        # What was on its way through it is lost with it.
        self.fault("a gateway killed", "the other serves", allowed=THREADS)
        process.start()
        wait_for("the gateway", 30, lambda: self.cluster.request("GET", "/readyz", raw=True, base=self.cluster.gateways[1]) == "ok")
        time.sleep(2)
        self.load.reset()
        process.stop()
        self.fault("a gateway ended", "the other serves")
        process.start()

    def tracking(self) -> None:
        process = self.cluster.processes["tracking"]
        process.kill()
        process.start()
        self.fault("tracking killed and started", "it is back")

    def postgres(self) -> None:
        """As a crash: what is under way in the database is cut off, and tracking goes on with what was acknowledged."""
        if not self.cluster.state:
            return
        self.write_metrics()
        started = time.monotonic()
        self.cluster.postgres.restart()
        taken = time.monotonic() - started
        acknowledged, there, doubled = self.stop_writing()
        self.check("metrics across PostgreSQL's restart",
                   f"{acknowledged} acknowledged, {there} there, 1 may be under way; {doubled} twice",
                   0 < acknowledged <= there <= acknowledged + 1 and not doubled)
        self.fault("PostgreSQL killed and started", f"it answers after {taken:.1f} s")

    def write_metrics(self) -> None:
        """Writes one metric after the other to a run of its own, until `stop_writing`; each is tried, as it is, until it is answered 200."""
        ask = lambda path, body: self.cluster.request("POST", f"/api/2.0/mlflow/{path}", body, base=self.cluster.tracking)
        name = f"restart-{self.number}"
        self.experiment = ask("experiments/create", {"name": name})["experiment_id"]
        self.run_id = ask("runs/create", {"experiment_id": self.experiment, "start_time": int(time.time() * 1000)})["run"]["info"]["run_id"]
        self.acknowledged, self.writing = 0, threading.Event()

        def write() -> None:
            now = lambda: {"run_id": self.run_id, "key": "n", "value": self.acknowledged,
                           "step": self.acknowledged, "timestamp": int(time.time() * 1000)}
            metric = now()
            while not self.writing.is_set():
                try:
                    ask("runs/log-metric", metric)
                    self.acknowledged += 1
                    metric = now()
                except OSError as error:
                    self.say(f"a metric was not acknowledged: {error}")
                time.sleep(0.01)

        self.writer = threading.Thread(target=write, daemon=True)
        self.writer.start()
        time.sleep(2)

    def stop_writing(self) -> tuple[int, int, int]:
        """Metrics that were acknowledged, different steps that are there, and metrics that are there twice; the run goes."""
        time.sleep(3)
        self.writing.set()
        self.writer.join(60)
        url = f"/api/2.0/mlflow/metrics/get-history?run_id={self.run_id}&metric_key=n&max_results=25000"
        history = self.cluster.request("GET", url, base=self.cluster.tracking)["metrics"]
        self.cluster.request("POST", "/api/2.0/mlflow/runs/delete", {"run_id": self.run_id}, base=self.cluster.tracking)
        steps = {metric["step"] for metric in history}
        return self.acknowledged, len(steps), len(history) - len(steps)

    def node(self) -> None:
        cluster = self.cluster
        script = self.folder / "slow.py"
        script.write_text(JOB)
        for number in (1, 2):
            cluster.command("train", str(script), "--name", f"slow-{number}", "--detach", "--cpu", "100m")
        running = lambda: [pod for pod in cluster.get("pods")["items"]
                           if pod["metadata"]["name"].startswith("slow-") and pod["status"].get("phase") == "Running"]
        pods = wait_for("the jobs", 180, lambda: len(found := running()) == 2 and found)
        victim = pods[0]["spec"]["nodeName"]
        other = "node-2" if victim == "node-1" else "node-1"
        had = self.serving_on()
        self.load.reset()
        started = time.monotonic()
        cluster.kill_node(victim)
        wait_for("two replicas on the other node", 300, lambda: self.replicas() == 2 and self.serving_on() == {other}, 0.5)
        moved = time.monotonic() - started
        jobs = [f"slow-{number}" for number in (1, 2)]
        wait_for("the jobs' end", 300, lambda: all(cluster.get("trainjobs", job)["status"].get("phase") == "Succeeded" for job in jobs), 0.5)
        attempts = {job: cluster.get("trainjobs", job)["status"]["attempts"] for job in jobs}
        self.fault("a node killed", f"replicas were on {', '.join(sorted(had))}, both on {other} after {moved:.0f} s; jobs done, attempts {attempts}")
        cluster.processes[victim].start()
        wait_for("the node's return", 60, lambda: len(cluster.ready_nodes()) == 2)
        stuck = lambda: [pod["metadata"]["name"] for pod in cluster.get("pods")["items"] if "deletionTimestamp" in pod["metadata"]]
        wait_for("the lost pods' end", 60, lambda: not stuck())
        self.fault("the node is back", "its pods of before are gone")

    def drained(self) -> None:
        """A node that is told to end lets its pods end and says so."""
        cluster = self.cluster
        victim = sorted(self.serving_on())[0]
        process = cluster.processes[victim]
        process.kill()
        process.command += ["--drain", "20s"]
        process.start()
        wait_for("the node", 60, lambda: len(cluster.ready_nodes()) == 2)
        self.load.reset()
        cluster.kubectl("cordon", victim)
        started = time.monotonic()
        process.stop(60)
        taken = time.monotonic() - started
        other = "node-2" if victim == "node-1" else "node-1"
        wait_for("two replicas on the other node", 120, lambda: self.replicas() == 2 and self.serving_on() == {other}, 0.5)
        self.fault("a node drained at SIGTERM", f"ended after {taken:.1f} s, replicas on {other} after {time.monotonic() - started:.0f} s")
        process.start()
        cluster.kubectl("uncordon", victim)
        wait_for("the node's return", 60, lambda: len(cluster.ready_nodes()) == 2)

    def converged(self) -> None:
        """Nothing lost, nothing doubled."""
        runs = json.loads(self.cluster.command("runs", "-o", "json"))
        names = [run["info"]["run_name"] for run in runs]
        jobs = self.cluster.get("trainjobs")["items"]
        done = [job for job in jobs if job["status"].get("phase") == "Succeeded"]
        self.check("nothing lost or doubled", f"{len(done)} of {len(jobs)} jobs done, {len(runs)} runs", len(done) == len(jobs) == len(runs) == len(set(names)))


def run(cluster: Cluster, check, say) -> None:
    with tempfile.TemporaryDirectory(prefix="cumulo-faults-") as name:
        folder = pathlib.Path(name)
        project = folder / "trips"
        project.mkdir()
        write_project(project)
        (folder / "t.csv").write_text((project / "t.csv").read_text())
        say("a service with two replicas")
        cluster.command("run", str(project), "--timeout", "600s")
        trial = Trial(cluster, check, say, folder)
        wait_for("two replicas", 60, lambda: trial.replicas() == 2)
        try:
            time.sleep(5)
            trial.fault("no fault", f"replicas on {', '.join(sorted(trial.serving_on()))}")
            for fault in (trial.operator, trial.gateway, trial.tracking, trial.postgres, trial.api_server, trial.node, trial.drained, trial.etcd):
                say(fault.__name__)
                fault()
            trial.converged()
        finally:
            trial.load.stop()
