"""Runs the examples on a whole cluster and on `cumulo up`, and compares what comes out; with --faults, breaks
one part after the other while predictions are asked for.
Usage: run.py CUMULO PEERS KUBECTL [--faults | --only-faults] [--local-state] [--keep]

The cluster's state is in PostgreSQL and in an S3 service, or with --local-state in SQLite and a folder."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from cluster import Cluster, free_port, wait_for

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
EXAMPLES = REPOSITORY / "examples"
# How long a project may take. Environments are built from the package index the first time.
PROJECT = "900s"
# At rest nothing is written but leases, looked at for so long.
REST = 60

results: list[tuple[str, str, bool]] = []


def check(what: str, found: str, holds: bool) -> None:
    results.append((what, found, holds))
    print(f"{'ok  ' if holds else 'FAIL'} {what}: {found}", flush=True)


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


class Laptop:
    """`cumulo up`, with the interface of the cluster as far as it is needed."""

    def __init__(self, folder: pathlib.Path, cumulo: pathlib.Path) -> None:
        self.cumulo, self.home = cumulo, folder / "laptop"
        self.home.mkdir()
        # The same environments and downloads.
        (self.home / "cache").symlink_to(folder / "cache")
        self.command("up", "--quiet", "--listen", f"127.0.0.1:{free_port()}")

    def command(self, *words: str) -> str:
        ran = subprocess.run([self.cumulo, *words], env={**os.environ, "CUMULO_HOME": str(self.home)},
                             capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ran.returncode != 0:
            raise SystemExit(f"cumulo {' '.join(words)} failed: {ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def get(self, kind: str, name: str = "") -> dict:
        return json.loads(self.command("get", kind, *([name] if name else []), "-o", "json"))


def projects(folder: pathlib.Path) -> pathlib.Path:
    """Copies of the examples. What a search by time finds depends on the machine's mood: here it ends by count."""
    copies = folder / "examples"
    copies.mkdir()
    for name in ("conflict", "flights"):
        shutil.copytree(EXAMPLES / name, copies / name)
    manifest = copies / "flights/flights.yaml"
    text = manifest.read_text()
    changed = text.replace("automl: {budget: 30s}", "automl: {budget: 15m, trials: 2}")
    assert changed != text, "the example's search was changed: change this too"
    manifest.write_text(changed)
    return copies


def run_examples(place, copies: pathlib.Path) -> dict:
    """Everything that a user sees of the examples."""
    found: dict = {}
    times = {}
    started = time.monotonic()
    place.command("train", str(EXAMPLES / "quickstart/train.py"), "--packages", "scikit-learn,mlflow", "--model", "breast-cancer")
    times["quickstart"] = time.monotonic() - started
    for name in ("conflict", "flights"):
        started = time.monotonic()
        place.command("run", str(copies / name), "--timeout", PROJECT)
        times[name] = time.monotonic() - started
    for service, rows in (("numpy-old", "conflict/rows.csv"), ("numpy-new", "conflict/rows.csv"), ("flights", "flights/tomorrow.csv")):
        found[f"predictions of {service}"] = place.command("predict", service, "--data", str(copies / rows), "-o", "json")
    dataset = place.get("dataset" if isinstance(place, Laptop) else "datasets", "flights")["status"]
    found["dataset version"] = dataset["version"]
    found["dataset rows and bytes"] = [dataset["rows"], dataset["bytes"]]
    model = place.get("model" if isinstance(place, Laptop) else "models", "late-flights")["status"]
    found["evaluation of late-flights"] = model["lastEvaluation"]["metrics"]
    found["champion"] = model.get("champion")
    found["query over flights"] = place.command(
        "sql", "SELECT origin, count(*) AS n, avg(arr_delay) AS delay FROM flights GROUP BY 1 ORDER BY 1", "-o", "csv")
    runs = json.loads(place.command("runs", "-o", "json"))
    found["metrics of runs"] = sorted(json.dumps(stable(run["data"].get("metrics", [])), sort_keys=True) for run in runs)
    found["times"] = times
    return found


def stable(metrics: list) -> dict:
    """The last values, without those that are times."""
    return {one["key"]: one["value"] for one in metrics if not re.search("second|time|elapsed|duration", one["key"])}


def shorten(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= 90 else text[:87] + "..."


def compare(cluster: dict, laptop: dict) -> None:
    for what in cluster:
        if what != "times":
            same = cluster[what] == laptop[what]
            check(f"same {what}", shorten(cluster[what]) if same else f"{shorten(cluster[what])} / {shorten(laptop[what])}", same)
    for name, seconds in cluster["times"].items():
        check(f"{name} done", f"{seconds:.1f} s on the cluster, {laptop['times'][name]:.1f} s on the laptop", True)


# Fields that the servers' own admission sets, and one of them not: they say nothing of what was asked for.
ADMITTED = {"spec.priority", "spec.preemptionPolicy", "spec.serviceAccountName", "spec.serviceAccount", "spec.nodeName"}


def flat(value, prefix: str = "") -> dict:
    if isinstance(value, dict):
        return {path: leaf for name, inner in value.items() for path, leaf in flat(inner, f"{prefix}.{name}" if prefix else name).items()} or {prefix: {}}
    if isinstance(value, list):
        return {path: leaf for index, inner in enumerate(value) for path, leaf in flat(inner, f"{prefix}[{index}]").items()} or {prefix: []}
    return {prefix: value}


def shape(pod: dict, addresses: dict[str, str], uids: dict[str, str]) -> dict:
    """A pod as it was asked for: addresses and UIDs are those of the place."""
    meta = {name: pod["metadata"].get(name) for name in ("name", "namespace", "labels", "annotations", "ownerReferences")}
    text = json.dumps({"metadata": meta, "spec": pod["spec"]})
    for address, name in sorted(addresses.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(address, name)
    for uid, name in uids.items():
        text = text.replace(uid, name)
    return flat(json.loads(text))


def pods_of(place, kinds) -> tuple[list, dict]:
    pods = [pod for pod in place.get("pods")["items"] if "ownerReferences" in pod["metadata"]]
    uids = {}
    for kind in kinds:
        for item in place.get(kind)["items"]:
            uids[item["metadata"]["uid"]] = f"UID of {item['kind']} {item['metadata']['name']}"
    return pods, uids


def compare_pods(cluster: Cluster, laptop: Laptop) -> None:
    kinds = ("datasets", "trainjobs", "models", "inferenceservices")
    real, real_uids = pods_of(cluster, kinds)
    own, own_uids = pods_of(laptop, kinds)
    address = json.loads((laptop.home / "platform.json").read_text())["address"]
    shapes = []
    for pods, addresses, uids in (
        (real, {cluster.tracking: "TRACKING", cluster.artifacts: "ARTIFACTS"}, real_uids),
        (own, {f"http://{address}": "TRACKING", f"file://{laptop.home}/artifacts": "ARTIFACTS"}, own_uids),
    ):
        shapes.append({pod["metadata"]["name"]: shape(pod, addresses, uids) for pod in pods})
    names = [sorted(one) for one in shapes]
    check("same pods", f"{len(names[0])} pods of the same names" if names[0] == names[1] else f"{set(names[0]) ^ set(names[1])}", names[0] == names[1])
    differences, fields, admitted = [], 0, set()
    for name in set(names[0]) & set(names[1]):
        one, other = shapes[0][name], shapes[1][name]
        for path in sorted(set(one) | set(other)):
            fields += 1
            if one.get(path) != other.get(path):
                if path in ADMITTED:
                    admitted.add(path)
                else:
                    differences.append(f"{name} {path}: {one.get(path)!r} / {other.get(path)!r}")
    for line in differences[:20]:
        say(line)
    said = f"; set by admission: {', '.join(sorted(admitted))}" if admitted else ""
    check("same fields of pods", f"{fields} compared, {len(differences)} differ{said}", not differences)


def at_rest(cluster: Cluster) -> None:
    say(f"at rest for {REST} s")
    before = len(cluster.writes())
    time.sleep(REST)
    ours: dict[str, int] = {}
    leases = others = 0
    for event in cluster.writes()[before:]:
        who = event["user"]["username"]
        resource = event.get("objectRef", {}).get("resource", "")
        if not who.startswith("system:serviceaccount:cumulo-system:"):
            others += 1
        elif resource == "leases":
            leases += 1
        # Questions, which are asked as objects and stored nowhere.
        elif resource not in ("tokenreviews", "subjectaccessreviews"):
            ours[f"{who.rsplit(':', 1)[1]} {event['verb']} {resource}"] = ours.get(f"{who} {resource}", 0) + 1
    check("writes at rest", f"{sum(ours.values())} in {REST} s beside {leases} of leases {ours or ''}".strip(), not ours)


def check_kubelet(cluster: Cluster) -> None:
    """kubectl, through the API server's connection to a node."""
    pod = next(pod["metadata"]["name"] for pod in cluster.get("pods")["items"]
               if pod["metadata"]["labels"].get("cumulo.dev/inference-service") == "numpy-new" and pod["status"]["phase"] == "Running")
    logs = cluster.kubectl("logs", pod, "--tail", "2", "--timestamps")
    check("kubectl logs", shorten(logs), len(logs.splitlines()) == 2 and logs[:2] == "20")
    ran = cluster.kubectl("exec", pod, "--", "sh", "-c", "echo out; echo err >&2; echo $POD_NAME")
    check("kubectl exec", shorten(ran), ran.splitlines() == ["out", pod])
    failed = cluster.kubectl("exec", pod, "--", "sh", "-c", "exit 7", check=False)
    check("kubectl exec, exit code", shorten(failed), "exit code 7" in failed)
    piped = cluster.kubectl("exec", "-i", pod, "--", "sh", "-c", "wc -c", input="x" * 100_000)
    check("kubectl exec -i, 100,000 bytes", piped.strip(), piped.strip() == "100000")
    port = free_port()
    forward = subprocess.Popen([cluster.kubectl_program, "--kubeconfig", cluster.admin, "port-forward", pod, f"{port}:8080"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = forward.stdout.readline()
        answer = wait_for("the forwarded port", 20, lambda: cluster.request("GET", "/v2", base=f"http://127.0.0.1:{port}"))
        check("kubectl port-forward", f"{line.strip()}: {answer.get('name')}", "name" in answer)
    finally:
        forward.terminate()
        forward.wait()
    # Asked directly: an API server passes nothing on to loopback addresses but what concerns a pod.
    top = cluster.request("GET", "/metrics/resource", raw=True, base=kubelet_url(cluster, "node-1"))
    check("/metrics/resource of a node", top.splitlines()[-1], "node_cpu_usage_seconds_total" in top)
    summary = cluster.request("GET", "/stats/summary", base=kubelet_url(cluster, "node-2"))
    check("/stats/summary of a node", summary["node"]["nodeName"], summary["node"]["nodeName"] == "node-2")


def kubelet_url(cluster: Cluster, node: str) -> str:
    status = cluster.request("GET", f"/api/v1/nodes/{node}")["status"]
    return f"https://127.0.0.1:{status['daemonEndpoints']['kubeletEndpoint']['Port']}"


def check_refusals(cluster: Cluster) -> None:
    """What must not be."""
    cluster.kubectl("apply", "-f", "-", input=FOREIGN)
    pod = wait_for("the foreign pod's end", 30, lambda: (p := cluster.get("pods", "foreign"))["status"].get("reason") and p)
    check("another image", shorten(f"{pod['status']['reason']}: {pod['status']['message']}"), pod["status"]["reason"] == "UnsupportedImage")
    cluster.kubectl("delete", "pod", "foreign", "--wait=false")
    cluster.kubectl("create", "serviceaccount", "nobody")
    nobody = cluster.kubectl("create", "token", "nobody").strip()
    kubelet = kubelet_url(cluster, "node-1")
    for what, base, path in (
        ("gateway", cluster.gateways[0], "/v2/models/flights"), ("tracking", cluster.tracking, "/api/2.0/mlflow/experiments/get?experiment_id=0"),
        ("node", kubelet, "/stats/summary"), ("demand", cluster.gateways[0], "/demand"), ("operator's metrics", cluster.operators[0], "/metrics"),
    ):
        codes = [status(cluster, base, path, token) for token in ("wrong", nobody)]
        check(f"{what} without permission", f"wrong token {codes[0]}, token without a role {codes[1]}", codes == [401, 403])


def status(cluster: Cluster, base: str, path: str, token: str) -> int:
    import urllib.error

    try:
        cluster.request("GET", path, base=base, token=token, raw=True)
        return 200
    except urllib.error.HTTPError as error:
        return error.code


FOREIGN = """apiVersion: v1
kind: Pod
metadata: {name: foreign}
spec:
  containers: [{name: main, image: "docker.io/library/nginx"}]
  tolerations: [{key: cumulo.dev/runtime, operator: Exists}]
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cumulo", type=pathlib.Path)
    parser.add_argument("peers", type=pathlib.Path)
    parser.add_argument("kubectl", type=pathlib.Path)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--only-faults", action="store_true")
    parser.add_argument("--local-state", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    # Long, because the sockets of Python workers once were to lie below it, with paths of 107 bytes.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cumulo-cluster-in-a-folder-with-a-name-that-takes-some-room-"))
    cluster = Cluster(folder, options.peers.resolve(), options.cumulo.resolve(), options.kubectl, options.local_state)
    laptop, ended = None, False
    try:
        started = time.monotonic()
        say(f"control plane in {folder}")
        cluster.start_control_plane()
        cluster.install()
        say(f"Cumulo's roles: tracking on {'SQLite and a folder' if options.local_state else 'PostgreSQL and S3'}, gateway x2, operator x2, node x2")
        cluster.start_roles()
        check("cluster up", f"{time.monotonic() - started:.1f} s, leader {cluster.leader()}", True)
        if not options.only_faults:
            copies = projects(folder)
            say("the examples on the cluster")
            real = run_examples(cluster, copies)
            check_kubelet(cluster)
            check_refusals(cluster)
            at_rest(cluster)
            say("the examples on `cumulo up`")
            laptop = Laptop(folder, cluster.cumulo)
            own = run_examples(laptop, copies)
            compare(real, own)
            compare_pods(cluster, laptop)
            laptop.command("down")
            laptop = None
        if options.faults or options.only_faults:
            import faults

            faults.run(cluster, check, say)
        ended = True
    finally:
        for told in cluster.died():
            say(told)
        if laptop:
            laptop.command("down")
        cluster.stop()
        if options.keep or not ended or not all(holds for _, _, holds in results):
            say(f"logs are kept in {folder}/logs")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    width = max(len(what) for what, _, _ in results)
    print()
    for what, found, holds in results:
        print(f"{what:<{width}}  {'ok  ' if holds else 'FAIL'}  {found}")
    wrong = sum(not holds for _, _, holds in results)
    print(f"\n{len(results)} checked, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
