"""`kill -9` at random moments of `cumulo run`: what is lost, doubled or started again.

One run goes undisturbed and says what to expect. Each round then starts a
platform on a fresh folder, runs the project, kills the platform at a moment
drawn with the round's seed, starts it again, runs the project to its end, and
compares: dataset versions, model versions, objects, runs, metrics, artifacts,
and whether a training process was started twice.
Usage: crashes.py CUMULO [ROUNDS] [PROJECT]     (PROJECT: examples/flights when absent)
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import time

from common import Platform

ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
PROJECT = sys.argv[3] if len(sys.argv) > 3 else "examples/flights"
KINDS = ["datasets", "models", "trainjobs", "inferenceservices"]


def facts(platform: Platform) -> dict:
    """What must be the same after any crash."""
    objects = {kind: json.loads(platform.run("get", kind, "-o", "json"))["items"] for kind in KINDS}
    connection = platform.connection()

    def ask(method: str, path: str, body: dict | None = None) -> dict:
        connection.request(
            method, "/api/2.0/mlflow/" + path, json.dumps(body) if body else None,
            {"Authorization": f"Bearer {platform.token_text}", "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, f"{path}: {answer.status} {text!r}"
        return json.loads(text)

    experiments = [one["experiment_id"] for one in ask("POST", "experiments/search", {"max_results": 1000})["experiments"]]
    runs = ask("POST", "runs/search", {"experiment_ids": experiments, "max_results": 1000}).get("runs", [])
    doubled = 0
    for run in runs:
        for metric in run["data"].get("metrics", []):
            path = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={metric['key']}"
            steps = [point.get("step", 0) for point in ask("GET", path)["metrics"]]
            doubled += len(steps) - len(set(steps))
    store = pathlib.Path(platform.home, "artifacts")
    files = sorted(re.sub(r"[0-9a-f]{32}", "*", str(path.relative_to(store))) for path in store.rglob("*") if path.is_file())
    pods = json.loads(platform.run("get", "pods", "-o", "json"))["items"]
    return {
        "dataset versions": sorted((one["metadata"]["name"], one["status"]["version"]) for one in objects["datasets"]),
        "objects": sorted((kind, one["metadata"]["name"]) for kind in KINDS for one in objects[kind]),
        "model versions": [line for one in objects["models"] for line in platform.run("models", one["metadata"]["name"], "-o", "name").split()],
        "runs": sorted(run["info"]["status"] for run in runs),
        "metrics": sorted(metric["key"] for run in runs for metric in run["data"].get("metrics", [])),
        "metrics doubled": doubled,
        "artifacts": files,
        "attempts": [one["status"].get("attempts") for one in objects["trainjobs"]],
        "restarts": sum(status.get("restartCount", 0) for pod in pods for status in pod["status"].get("containerStatuses", [])),
    }


def finish(platform: Platform) -> None:
    platform.run("down")
    shutil.rmtree(platform.home)


reference = Platform(sys.argv[1])
reference.up()
started = time.monotonic()
reference.run("run", PROJECT)
longest = time.monotonic() - started
expected = facts(reference)
finish(reference)
print(f"{PROJECT} undisturbed: {longest:.1f} s, {len(expected['objects'])} objects, {len(expected['runs'])} runs, "
      f"{len(expected['metrics'])} metrics, {len(expected['artifacts'])} artifacts", flush=True)
print("seed   killed after   finished after", flush=True)
problems = 0
for seed in range(ROUNDS):
    platform = Platform(sys.argv[1])
    platform.up()
    moment = random.Random(seed).uniform(0.02, longest)
    run = platform.popen("run", PROJECT)
    time.sleep(moment)
    os.kill(platform.read("platform.json")["pid"], signal.SIGKILL)
    run.kill()
    run.wait()
    started = time.monotonic()
    platform.up()
    platform.run("run", PROJECT, "--timeout", "180s")
    took = time.monotonic() - started
    seen = facts(platform)
    differences = [f"{key}: {seen[key]} instead of {expected[key]}" for key in expected if seen[key] != expected[key]]
    problems += bool(differences)
    print(f"{seed:>4}   {moment:>10.2f} s   {took:>12.1f} s   {'; '.join(differences) or 'the same'}", flush=True)
    finish(platform)
print(f"{ROUNDS} crashes, {problems} with something lost, doubled or started again")
sys.exit(bool(problems))
