"""Cumulo's installation on a real control plane: etcd and kube-apiserver as they are published.

What `cumulo manifests` prints is applied with kubectl, strictly checked, a second time without a change; its pods pass the
`restricted` standard; its roles are enough and no more; `cumulo doctor cluster` says before what is missing and after that
all is there; and the everyday commands work through a context.

Usage: python3 tests/peers/manifests.py CUMULO PEERS     (cargo xtask cluster-install builds and runs it)
PEERS is a folder with etcd, kube-apiserver and kube-controller-manager, from tests/peers/kubernetes/build.sh.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench"))
from common import Platform, Real, free_port  # noqa: E402

SETTINGS = ["--image", "registry.example.org/cumulo@sha256:" + "0" * 64, "--set", "artifacts=s3://models/cumulo",
            "--set", "artifacts.secret=object-store", "--set", "database.secret=postgres"]
SYSTEM = "cumulo-system"
# Who may do what, as kubectl asks it; the right column is the answer.
ACCESS = [
    ("cumulo-operator", "create pods -n team", "yes"),
    ("cumulo-operator", "delete trainjobs.cumulo.dev -n team", "yes"),
    ("cumulo-operator", "patch models.cumulo.dev --subresource=status -n team", "yes"),
    ("cumulo-operator", "patch models.cumulo.dev -n team", "no"),
    ("cumulo-operator", "patch secrets/cumulo-tracking -n team", "yes"),
    ("cumulo-operator", "patch secrets/cumulo-artifacts -n team", "yes"),
    ("cumulo-operator", "get secrets/another -n team", "no"),
    ("cumulo-operator", "list secrets -n team", "no"),
    ("cumulo-operator", "create serviceaccounts/cumulo-workload --subresource=token -n cumulo-system", "yes"),
    ("cumulo-operator", "create serviceaccounts/cumulo-node --subresource=token -n cumulo-system", "no"),
    ("cumulo-operator", "create pods --subresource=exec -n team", "no"),
    ("cumulo-operator", "update leases.coordination.k8s.io/cumulo-operator -n cumulo-system", "yes"),
    ("cumulo-operator", "update leases.coordination.k8s.io/another -n cumulo-system", "no"),
    ("cumulo-operator", "create clusterroles", "no"),
    ("cumulo-gateway", "watch inferenceservices.cumulo.dev -A", "yes"),
    ("cumulo-gateway", "create tokenreviews.authentication.k8s.io", "yes"),
    ("cumulo-gateway", "create pods -n team", "no"),
    ("cumulo-gateway", "get secrets -n team", "no"),
    ("cumulo-tracking", "create subjectaccessreviews.authorization.k8s.io", "yes"),
    ("cumulo-tracking", "list pods -A", "no"),
    ("cumulo-scheduler", "create pods --subresource=binding -n team", "yes"),
    ("cumulo-scheduler", "create pods -n team", "no"),
    ("cumulo-scheduler", "get secrets -n team", "no"),
    ("cumulo-node", "patch nodes --subresource=status", "yes"),
    ("cumulo-node", "patch pods --subresource=status -n team", "yes"),
    ("cumulo-node", "create pods -n team", "no"),
    ("cumulo-node", "list secrets -A", "no"),
    ("cumulo-workload", "get models.cumulo.dev --subresource=tracking", "yes"),
    ("cumulo-workload", "list pods -n team", "no"),
    ("cumulo-user", "create inferenceservices.cumulo.dev --subresource=predict -n team", "yes"),
]
# Passes connections on to the platform beside the cluster: to commands it is the pod of a role.
RELAY = """
import os, socket, threading
def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
server = socket.create_server((os.environ["POD_IP"], 8080))
print("the relay listens", flush=True)
while True:
    client, _ = server.accept()
    platform = socket.create_connection(("127.0.0.1", PORT))
    threading.Thread(target=copy, args=(client, platform), daemon=True).start()
    threading.Thread(target=copy, args=(platform, client), daemon=True).start()
"""


class Check:
    """Counts and prints."""

    failed = 0

    def __call__(self, what: str, good: bool, found: str = "") -> None:
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what}{': ' if found else ''}{found}", flush=True)


class WithCertificates(Real):
    """The same, and it trusts client certificates of an authority of ours."""

    def start(self) -> float:
        openssl = lambda *words: subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=people", "-days", "2")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "person.key", "-out", "person.csr", "-subj", "/O=system:masters/CN=carla")
        (self.folder / "extensions").write_text("extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n")
        openssl("x509", "-req", "-in", "person.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "person.crt",
                "-days", "2", "-extfile", "extensions")
        original = subprocess.Popen

        def popen(words, **rest):
            if str(words[0]).endswith("kube-apiserver"):
                words = [*words, f"--client-ca-file={self.folder}/ca.crt", f"--kubelet-client-certificate={self.folder}/person.crt",
                         f"--kubelet-client-key={self.folder}/person.key", "--kubelet-preferred-address-types=InternalIP"]
            return original(words, **rest)

        subprocess.Popen = popen
        try:
            return super().start()
        finally:
            subprocess.Popen = original


def kubeconfig(path: pathlib.Path, url: str, user: dict) -> pathlib.Path:
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "real",
        "clusters": [{"name": "real", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "user", "namespace": "team"}}],
    }))
    return path


def main() -> int:
    cumulo, peers = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
    cache = HERE.parent.parent / ".build/peers/kubectl-1.35"
    kubectl_program = subprocess.run([sys.executable, HERE / "kubectl.py", cache], check=True, capture_output=True, text=True).stdout.strip()
    check = Check()
    with tempfile.TemporaryDirectory(prefix="cumulo-install-") as folder:
        folder = pathlib.Path(folder)
        real, platform = WithCertificates(str(folder), peers), Platform(str(cumulo))
        controllers = []
        try:
            print(f"etcd and kube-apiserver are ready after {real.start():.1f} s", flush=True)
            platform.up()
            run(check, folder, real, platform, cumulo, kubectl_program, peers, controllers)
        finally:
            for process in controllers:
                process.terminate()
                process.wait()
            real.stop()
            platform.run("down")
    print(f"\n{check.failed} failed" if check.failed else "\nall is well")
    return 1 if check.failed else 0


def run(check: Check, folder: pathlib.Path, real: Real, platform: Platform, cumulo: pathlib.Path, kubectl_program: str,
        peers: pathlib.Path, controllers: list) -> None:
    # One token opens both: tracking is the platform beside the cluster here.
    token = platform.token()
    (folder / "tokens.csv").write_text(f"secret,admin,1,system:masters\n{token},person,2,system:masters\n")
    real.stop()
    real.start()
    config = kubeconfig(folder / "kubeconfig", real.url(), {"token": token})
    certificate = kubeconfig(folder / "certificate.kubeconfig", real.url(), {
        "client-certificate-data": base64.b64encode((folder / "person.crt").read_bytes()).decode(),
        "client-key-data": base64.b64encode((folder / "person.key").read_bytes()).decode(),
    })

    def kubectl(*words: str, text: str | None = None, config: pathlib.Path = config) -> subprocess.CompletedProcess:
        return subprocess.run([kubectl_program, "--kubeconfig", config, *words], input=text, capture_output=True, text=True)

    def command(*words: str, config: pathlib.Path = config, system: str = SYSTEM) -> subprocess.CompletedProcess:
        environment = {**os.environ, "CUMULO_HOME": str(folder / "visitor"), "CUMULO_SYSTEM_NAMESPACE": system}
        return subprocess.run([cumulo, "--kubeconfig", config, *words], capture_output=True, text=True, env=environment)

    def doctor(*words: str) -> tuple[int, dict]:
        answer = command("doctor", "cluster", "-o", "json", *words)
        return answer.returncode, {finding["check"]: finding for finding in json.loads(answer.stdout)}

    controllers.append(subprocess.Popen(
        [peers / "kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0",
         f"--service-account-private-key-file={folder}/key.pem"],
        stdout=(folder / "controllers.log").open("ab"), stderr=subprocess.STDOUT))

    print("\n# before anything is installed")
    print(command("doctor", "cluster").stdout)
    code, findings = doctor()
    check("doctor fails on what is missing", code == 1, ", ".join(name for name, finding in findings.items() if finding["verdict"] == "fail"))
    check("  no node, no default StorageClass", findings["nodes"]["verdict"] == findings["storage class"]["verdict"] == "fail")
    check("  all APIs that are needed", all(finding["verdict"] == "ok" for name, finding in findings.items() if name.endswith("/v1")))
    check("  all permissions", findings["permissions"]["verdict"] == "ok", findings["permissions"]["found"])
    weak = kubectl("create", "serviceaccount", "weak", "-n", "default")
    issued = kubectl("create", "token", "weak", "-n", "default").stdout.strip()
    poor = kubeconfig(folder / "weak.kubeconfig", real.url(), {"token": issued})
    answer = command("doctor", "cluster", "-o", "json", config=poor)
    found = {finding["check"]: finding for finding in json.loads(answer.stdout)}
    check("  of somebody without permissions", weak.returncode == 0 and found["permissions"]["verdict"] == "fail", found["permissions"]["found"])

    print("\n# cumulo manifests | kubectl apply --server-side")
    manifests = subprocess.run([cumulo, "manifests", *SETTINGS], check=True, capture_output=True, text=True).stdout
    kubectl("create", "namespace", "team")
    started = time.monotonic()
    applied = kubectl("apply", "--server-side", "--validate=strict", "-f", "-", text=manifests)
    check("applied, strictly checked", applied.returncode == 0, applied.stderr.strip() or f"{len(applied.stdout.splitlines())} objects in {time.monotonic() - started:.1f} s")
    before = versions(kubectl)
    again = kubectl("apply", "--server-side", "--validate=strict", "-f", "-", text=manifests)
    check("applied again, nothing changes", again.returncode == 0 and versions(kubectl) == before, f"{len(before)} objects")
    plain = kubectl("apply", "--dry-run=server", "-f", "-", text=manifests)
    check("client-side apply takes it too", plain.returncode == 0, "" if plain.returncode == 0 else plain.stderr.strip()[:200])

    print("\n# the pods, by the admission of the cluster (standard: restricted)")
    for name in ("operator", "gateway", "tracking", "scheduler"):
        template = json.loads(kubectl("get", "deployment", f"cumulo-{name}", "-n", SYSTEM, "-o", "json").stdout)["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name, "namespace": SYSTEM}, "spec": template["spec"]}
        made = kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
        check(f"pod of {name}", made.returncode == 0 and "Warning" not in made.stderr, made.stderr.strip())
    pods = lambda: json.loads(kubectl("get", "pods", "-n", SYSTEM, "-o", "json").stdout)["items"]
    waited = wait_for(lambda: len(pods()) == 6)
    check("the controller manager makes them of the Deployments", waited, f"{len(pods())} pods")
    budgets = lambda: json.loads(kubectl("get", "poddisruptionbudgets", "-n", SYSTEM, "-o", "json").stdout)["items"]
    expected = lambda: [budget["status"].get("expectedPods") for budget in budgets()]
    check("the budgets count them", wait_for(lambda: sorted(expected(), key=str) == [1, 1, 2, 2]), str(expected()))
    naked = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "naked", "namespace": SYSTEM}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    refused = kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(naked))
    check("a pod without them is refused", "violates PodSecurity" in refused.stderr)

    print("\n# roles")
    wrong = []
    for account, question, wanted in ACCESS:
        answer = kubectl("auth", "can-i", *question.split(), "--as", f"system:serviceaccount:{SYSTEM}:{account}").stdout.strip()
        if answer != wanted:
            wrong.append(f"{account}: {question} is {answer}")
    check(f"{len(ACCESS)} questions about the accounts", not wrong, "; ".join(wrong))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cumulo-tracking", "namespace": "team"}, "stringData": {"token": "t"}}
    acting = ["--as", f"system:serviceaccount:{SYSTEM}:cumulo-operator", "apply", "--server-side", "-f", "-"]
    check("the operator makes its Secret", kubectl(*acting, text=json.dumps(secret)).returncode == 0)
    secret["metadata"]["name"] = "another"
    check("and no other", "cannot" in kubectl(*acting, text=json.dumps(secret)).stderr)
    editor = kubectl("create", "rolebinding", "ada", "--clusterrole=edit", "--user=ada", "-n", "team")
    questions = ("create datasets.cumulo.dev", "create inferenceservices.cumulo.dev --subresource=predict", "create clusterroles")
    answers = lambda: [kubectl("auth", "can-i", *question.split(), "-n", "team", "--as", "ada").stdout.strip() for question in questions]
    check("edit knows Cumulo's kinds", editor.returncode == 0 and wait_for(lambda: answers() == ["yes", "yes", "no"]), str(answers()))
    check("everybody reads where Cumulo is", kubectl("get", "configmap", "cumulo", "-n", SYSTEM, "--as", "ada", "--as-group", "system:authenticated").returncode == 0)

    print("\n# the everyday commands through the context")
    patch = json.dumps({"data": {"trackingUrl": f"http://127.0.0.1:{platform.port}", "gatewayUrl": f"http://127.0.0.1:{platform.port}"}})
    kubectl("patch", "configmap", "cumulo", "-n", SYSTEM, "--type=merge", "-p", patch)
    project = folder / "project"
    project.mkdir()
    (project / "t.csv").write_text("a,b\n1,x\n2,y\n")
    (project / "project.yaml").write_text(
        "apiVersion: cumulo.dev/v1alpha1\nkind: Dataset\nmetadata: {name: numbers}\nspec:\n  sources: {t: {uri: t.csv}}\n  query: SELECT a, b FROM t\n"
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n")
    applied = command("apply", "-f", str(project))
    check("apply, with the file uploaded", applied.stdout.split() == ["dataset.cumulo.dev/numbers", "created", "configmap/settings", "created"], (applied.stdout + applied.stderr).replace("\n", " · ").strip(" ·"))
    again = command("apply", "-f", str(project))
    check("apply again", again.stdout.split()[1::2] == ["unchanged", "unchanged"], again.stderr)
    uri = json.loads(kubectl("get", "dataset", "numbers", "-o", "json").stdout)["spec"]["sources"]["t"]["uris"][0]
    blob = pathlib.Path(platform.home, "artifacts", uri.removeprefix("cumulo:"))
    check("the object names the upload", blob.read_text() == "a,b\n1,x\n2,y\n", uri)
    shown = command("get", "cumulo")
    check("get, in the context's namespace", "numbers" in shown.stdout, shown.stdout.splitlines()[0] if shown.stdout else shown.stderr)
    check("get -o name", command("get", "datasets", "-A", "-o", "name").stdout.strip() == "dataset/numbers")
    check("describe", "Events:" in command("describe", "dataset", "numbers").stdout)
    check("models and runs", command("models").returncode == 0 == command("runs").returncode)
    check("sql says what is missing", "has a version yet" in command("sql", "SELECT 1 FROM numbers").stderr)
    check("gpus", "no driver publishes" in command("gpus").stdout)
    status = command("status")
    check("status", status.returncode == 1 and "cumulo-operator    0 of 2 ready" in status.stdout, "1, as nothing runs the Deployments here")
    mistake = (project / "project.yaml").read_text().replace("query:", "qurey:")
    (project / "project.yaml").write_text(mistake)
    refused = command("apply", "-f", str(project))
    check("a mistake is told in the server's words", "qurey" in refused.stderr, refused.stderr.strip()[:160])
    deleted = command("delete", "dataset", "numbers")
    check("delete", deleted.returncode == 0 and command("get", "datasets", "-o", "name").stdout == "", deleted.stdout.strip())
    logs = command("logs", "nothing")
    check("logs of nothing", "has no pod in namespace team" in logs.stderr)

    print("\n# through the API server to a pod on a node that joined with the account cumulo-node")
    joining = kubeconfig(folder / "node.kubeconfig", real.url(), {"token": kubectl("create", "token", "cumulo-node", "-n", SYSTEM).stdout.strip()})
    controllers.append(subprocess.Popen(
        [cumulo, "node", "--kubeconfig", joining, "--name", "one", "--listen", f"127.0.0.1:{free_port()}", "--client-ca-file", folder / "ca.crt",
         "--drain", "5s"],
        stdout=(folder / "node.log").open("ab"), stderr=subprocess.STDOUT, env={**os.environ, "CUMULO_HOME": str(folder / "node")}))
    ready = lambda: kubectl("wait", "--for=condition=Ready", "node/one", "--timeout=30s").returncode == 0
    check("the node is ready", wait_for(ready), "" if ready() else (folder / "node.log").read_text()[-600:])
    kubectl("create", "namespace", "relayed")
    port = {"name": "http", "containerPort": 8080}
    objects = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cumulo"}, "data": {"serviceAccount": "cumulo-user"}}]
    objects += [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                 "spec": {"selector": {"app": "relay"}, "ports": [{"port": 80, "targetPort": "http"}]}} for name in ("cumulo-tracking", "cumulo-gateway")]
    objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "relay", "labels": {"app": "relay"}}, "spec": {
        "nodeName": "one", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "cumulo.dev/runtime", "ports": [port], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                        "command": ["python3", "-c", RELAY.replace("PORT", str(platform.port))]}]}})
    kubectl("apply", "-n", "relayed", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    waited = kubectl("wait", "--for=condition=Ready", "pod/relay", "-n", "relayed", "--timeout=60s")
    check("the pod is ready", waited.returncode == 0, waited.stderr.strip())
    answer = command("logs", "relay", "-n", "relayed")
    check("logs", answer.stdout.strip() == "the relay listens", answer.stdout.strip() + answer.stderr.strip())
    answer = command("models", system="relayed")
    check("models, by port-forward", answer.returncode == 0, answer.stderr.strip())
    (project / "big.csv").write_text("a,b\n" + "1,x\n" * 500_000)
    (project / "project.yaml").write_text((project / "project.yaml").read_text().replace("qurey:", "query:").replace("t.csv", "big.csv"))
    answer = command("apply", "-f", str(project), system="relayed")
    check("an upload of 2 MB, by port-forward", answer.returncode == 0, (answer.stdout + answer.stderr).replace("\n", " · ").strip(" ·"))
    uri = json.loads(kubectl("get", "dataset", "numbers", "-n", "team", "-o", "json").stdout)["spec"]["sources"]["t"]["uris"][0]
    check("it arrived whole", pathlib.Path(platform.home, "artifacts", uri.removeprefix("cumulo:")).read_bytes() == (project / "big.csv").read_bytes())

    print("\n# a client certificate instead of a token")
    answer = command("get", "namespaces", "-o", "name", config=certificate)
    check("objects", "namespace/team" in answer.stdout, answer.stderr)
    answer = command("models", config=certificate)
    # The platform beside the cluster cannot know a token that the cluster issued: that it was shown one is the proof.
    check("a token of cumulo-user is asked for and shown", "the token is not one of this platform's" in answer.stderr, answer.stderr.strip())
    kubectl("delete", "serviceaccount", "cumulo-user", "-n", SYSTEM)
    answer = command("models", config=certificate)
    check("without the account", "none is issued for service account cumulo-system/cumulo-user" in answer.stderr, answer.stderr.strip()[:200])

    print("\n# afterwards")
    for name in ("object-store", "postgres"):
        kubectl("create", "secret", "generic", name, "-n", SYSTEM, "--from-literal=url=postgres://u:p@h/d")
    print(command("doctor", "cluster", *SETTINGS[2:]).stdout)
    code, findings = doctor(*SETTINGS[2:])
    check("doctor has nothing to fail", code == 0, ", ".join(name for name, finding in findings.items() if finding["verdict"] != "ok"))
    check("it shows no secret", "u:p@h" not in json.dumps(findings))
    removed = kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", text=manifests)
    check("delete -f removes it", removed.returncode == 0 and not versions(kubectl).keys() - {("Namespace", None, SYSTEM)}, removed.stderr.strip()[:200])


def wait_for(condition, limit: float = 30) -> bool:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


def versions(kubectl) -> dict:
    """The states of all that is installed; what has a generation has a status too, which others write."""
    kinds = "crd,namespace,serviceaccount,clusterrole,clusterrolebinding,role,rolebinding,configmap,service,deployment,poddisruptionbudget"
    listed = json.loads(kubectl("get", kinds, "-A", "-l", "app.kubernetes.io/managed-by=cumulo-manifests", "-o", "json").stdout)["items"]
    return {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]):
            item["metadata"].get("generation", item["metadata"]["resourceVersion"]) for item in listed}


if __name__ == "__main__":
    sys.exit(main())
