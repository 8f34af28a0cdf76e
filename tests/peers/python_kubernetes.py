"""What a program written with the Python `kubernetes` client does, against `cumulo up`.

Lists and watches built-ins and Cumulo's kinds through the socket, writes, reads
a pod's log and runs a command in it. Needs KUBECONFIG. Fails by assertion.
"""

import multiprocessing
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream

config.load_kube_config()
core, custom = client.CoreV1Api(), client.CustomObjectsApi()

# Lists in pages, and a watch from the list's resource version.
for number in range(12):
    core.create_namespaced_config_map(
        "default", {"metadata": {"name": f"map-{number:02}", "labels": {"tier": "test"}}, "data": {"key": "a"}}
    )
names, token = [], None
while True:
    page = core.list_namespaced_config_map("default", label_selector="tier=test", limit=5, _continue=token)
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
assert names == [f"map-{number:02}" for number in range(12)], names
version = page.metadata.resource_version


def change() -> None:
    core.patch_namespaced_config_map("map-03", "default", {"data": {"key": "b"}})
    core.delete_namespaced_config_map("map-04", "default")


threading.Timer(0.2, change).start()
seen, watcher = [], watch.Watch()
for event in watcher.stream(
    core.list_namespaced_config_map, "default", label_selector="tier=test", resource_version=version, timeout_seconds=20
):
    seen.append((event["type"], event["object"].metadata.name))
    if len(seen) == 2:
        watcher.stop()
assert seen == [("MODIFIED", "map-03"), ("DELETED", "map-04")], seen

# Cumulo's kinds: as custom objects and through the dynamic client.
group = ("cumulo.dev", "v1alpha1", "default", "datasets")
body = {
    "apiVersion": "cumulo.dev/v1alpha1",
    "kind": "Dataset",
    "metadata": {"name": "numbers"},
    "spec": {"sources": {"t": {"uri": "file:///nowhere/t.csv"}}, "query": "SELECT a FROM t"},
}
custom.create_namespaced_custom_object(*group, body)
assert [item["metadata"]["name"] for item in custom.list_namespaced_custom_object(*group)["items"]] == ["numbers"]
reason = None
for event in watch.Watch().stream(custom.list_namespaced_custom_object, *group, timeout_seconds=30):
    conditions = event["object"].get("status", {}).get("conditions", [])
    reason = next((one["message"] for one in conditions if one["type"] == "Degraded" and one["status"] == "True"), None)
    if reason:
        break
assert reason and "outside the folders that may be read" in reason, reason
datasets = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="cumulo.dev/v1alpha1", kind="Dataset")
assert [item.metadata.name for item in datasets.get(namespace="default").items] == ["numbers"]
for event in datasets.watch(namespace="default", timeout=20):
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "numbers"), event
    break


# Leader election: of two that want to lead one does, and the other when it is gone.
def campaign(name: str, led) -> None:
    lock = ConfigMapLock("leader", "default", name)
    settings = electionconfig.Config(
        lock, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=led.set, onstopped_leading=None
    )
    leaderelection.LeaderElection(settings).run()


forks = multiprocessing.get_context("fork")
candidates = []
for name in ["first", "second"]:
    led = forks.Event()
    candidate = forks.Process(target=campaign, args=(name, led), daemon=True)
    candidate.start()
    candidates.append(candidate)
    if name == "second":
        assert not led.is_set()
        candidates[0].kill()
    assert led.wait(30), name
candidates[1].kill()


# Mistakes are the exceptions that programs catch.
for call, status in [
    (lambda: core.read_namespaced_config_map("none", "default"), 404),
    (lambda: custom.create_namespaced_custom_object(*group, body), 409),
    (lambda: custom.create_namespaced_custom_object(*group, {**body, "metadata": {"name": "b"}, "spec": {"query": 7}}), 422),
]:
    try:
        call()
        raise SystemExit(f"expected a {status}")
    except ApiException as error:
        assert error.status == status, error

# A pod: until it runs, its log, a command in it, its end.
pod = {
    "metadata": {"name": "hello"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "cumulo.dev/runtime", "command": ["sh", "-c", "echo hello; exec sleep 1000"]}],
    },
}
core.create_namespaced_pod("default", pod)
for event in watch.Watch().stream(core.list_namespaced_pod, "default", field_selector="metadata.name=hello", timeout_seconds=60):
    if event["object"].status.phase == "Running":
        break
else:
    raise SystemExit("the pod did not run")
end = time.monotonic() + 20
while (log := core.read_namespaced_pod_log("hello", "default")) != "hello\n":
    assert time.monotonic() < end, log
    time.sleep(0.1)
said = stream(
    core.connect_get_namespaced_pod_exec, "hello", "default", command=["sh", "-c", "echo inside"],
    stdout=True, stderr=True, stdin=False, tty=False,
)
assert said == "inside\n", said
core.delete_namespaced_pod("hello", "default")

# Its port, through a socket of the client's own.
echo = """
import os, socket
server = socket.create_server((os.environ["POD_IP"], 8080))
while True:
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data.upper())
    connection.close()
"""
pod["metadata"]["name"] = "echo"
pod["spec"]["containers"][0]["command"] = ["python3", "-c", echo]
pod["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
core.create_namespaced_pod("default", pod)
for event in watch.Watch().stream(core.list_namespaced_pod, "default", field_selector="metadata.name=echo", timeout_seconds=60):
    if any(one.type == "Ready" and one.status == "True" for one in event["object"].status.conditions or []):
        break
else:
    raise SystemExit("the pod did not become ready")
forward = portforward(core.connect_get_namespaced_pod_portforward, "echo", "default", ports="8080")
connection = forward.socket(8080)
connection.setblocking(True)
connection.sendall(b"hello")
assert connection.recv(5) == b"HELLO"
connection.close()
core.delete_namespaced_pod("echo", "default")
print("listed, watched, wrote and ran")
