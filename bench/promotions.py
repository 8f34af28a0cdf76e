"""Version changes under load, and waking from zero.

20 promotions while 32 connections are kept busy: how many requests failed; then
100 requests to a service that sleeps: how long each took.
Usage: promotions.py CUMULO
"""

import sys
import tempfile
import threading
import time

from common import REQUEST, Platform, write_project

PROMOTIONS, CONNECTIONS, WAKE_UPS = 20, 32, 100
INFER = "/v2/models/trips/infer"


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


platform = Platform(sys.argv[1])
platform.up()
folder = tempfile.mkdtemp(prefix="cumulo-bench-")
for seed in (1, 2):
    write_project(folder, seed, "{min: 1}")
    platform.run("run", folder)

stop, answered, failed, took = threading.Event(), [0], [], []


def client() -> None:
    connection = platform.connection()
    while not stop.is_set():
        started = time.perf_counter()
        try:
            status, body = platform.post(connection, INFER, REQUEST)
        except OSError as error:
            failed.append(repr(error))
            connection = platform.connection()
            continue
        took.append(time.perf_counter() - started)
        answered[0] += 1
        if status != 200:
            failed.append(f"{status} {body[:200]!r}")


threads = [threading.Thread(target=client) for _ in range(CONNECTIONS)]
for thread in threads:
    thread.start()
control, changes = platform.connection(), []
for number in range(PROMOTIONS):
    version = str(number % 2 + 1)
    started = time.perf_counter()
    status, body = platform.post(
        control, "/api/2.0/mlflow/registered-models/alias", f'{{"name":"late","alias":"champion","version":"{version}"}}'
    )
    assert status == 200, body
    while f'"model_version":"{version}"'.encode() not in platform.post(control, INFER, REQUEST)[1]:
        time.sleep(0.01)
    changes.append(time.perf_counter() - started)
stop.set()
for thread in threads:
    thread.join()
print(f"{PROMOTIONS} promotions, {CONNECTIONS} connections: {answered[0]} requests answered, {len(failed)} failed")
print(f"  request     p50 {percentile(took, 0.5) * 1000:.2f} ms   p99 {percentile(took, 0.99) * 1000:.2f} ms")
print(f"  promotion   p50 {percentile(changes, 0.5):.2f} s    longest {max(changes):.2f} s until the new version answers")
for line in failed[:5]:
    print("  ", line)

write_project(folder, 2, "{min: 0, max: 1}")
platform.run("apply", "-f", folder)
wake_ups, connection = [], platform.connection()
for _ in range(WAKE_UPS):
    while platform.run("get", "pods", "-l", "cumulo.dev/inference-service=trips", "-o", "name"):
        time.sleep(0.05)
    started = time.perf_counter()
    status, body = platform.post(connection, INFER, REQUEST)
    assert status == 200, body
    wake_ups.append(time.perf_counter() - started)
print(f"{WAKE_UPS} wake-ups from zero: p50 {percentile(wake_ups, 0.5) * 1000:.0f} ms   p99 {percentile(wake_ups, 0.99) * 1000:.0f} ms")
platform.run("down")
sys.exit(bool(failed))
