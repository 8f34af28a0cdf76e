"""A whole cluster on this machine: etcd, kube-apiserver, kube-controller-manager and kube-scheduler as they are
published, PostgreSQL and an S3 service for state, and beside them Cumulo's roles, each a process with a service account
and role of its own."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

PEERS = pathlib.Path(__file__).resolve().parents[1]
# Seconds after which the controller manager gives a silent node up (its default is 50).
NODE_GRACE = 20

# Of what `cumulo manifests` makes, what runs here as processes beside the cluster.
DEPLOYED = {"Deployment", "Service", "PodDisruptionBudget", "PersistentVolumeClaim"}

AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
"""


def free_port() -> int:
    """A port that nobody listens on, and that the system gives no connection by itself: what listens there is started anew."""
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def wait_for(what: str, limit: float, condition, pause: float = 0.1):
    """Waits until the condition gives something true, and returns that; what it raises means not yet."""
    end = time.monotonic() + limit
    problem = None
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except (OSError, KeyError, IndexError, ValueError, subprocess.CalledProcessError) as error:
            problem = error
        time.sleep(pause)
    raise SystemExit(f"waited {limit} s for {what}" + (f" ({problem})" if problem else ""))


class Process:
    """A program that is started, and may be started again."""

    def __init__(self, name: str, command: list, log: pathlib.Path, environment: dict | None = None) -> None:
        self.name, self.command, self.log = name, [str(word) for word in command], log
        self.environment = {**os.environ, **(environment or {})}
        self.popen: subprocess.Popen | None = None

    def start(self) -> "Process":
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, start_new_session=True
            )
        return self

    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self, limit: float = 20) -> None:
        if not self.alive():
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self.alive():
            self.send(signal.SIGKILL)
        self.popen.wait()


class Peer:
    """A server of state from `tests/peers`, which ends with this process: it says where it is once it is ready."""

    def __init__(self, script: str, cache: pathlib.Path) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, PEERS / script, cache], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.words = self.ready()

    def ready(self) -> list[str]:
        line = self.popen.stdout.readline().split()
        if line[:1] != ["ready"]:
            raise SystemExit(f"{self.popen.args[1]} did not start")
        return line[1:]

    def restart(self) -> None:
        """Ends the server as a crash would, and starts it again at the same address."""
        self.popen.stdin.write("restart\n")
        self.popen.stdin.flush()
        self.ready()

    def stop(self) -> None:
        self.popen.stdin.close()
        self.popen.wait()


class Cluster:
    """Everything, in one folder."""

    def __init__(self, folder: pathlib.Path, peers: pathlib.Path, cumulo: pathlib.Path, kubectl: pathlib.Path, local_state: bool = False) -> None:
        self.folder, self.peers, self.cumulo, self.kubectl_program = folder, peers, cumulo, kubectl
        self.state: list[Peer] = []
        self.database, self.artifacts, self.store = f"sqlite://{folder}/tracking.db", f"file://{folder}/artifacts", {}
        if not local_state:
            self.start_state()
        self.processes: dict[str, Process] = {}
        self.token = "".join(f"{byte:02x}" for byte in os.urandom(16))
        self.ports = {name: free_port() for name in ("etcd", "etcd-peer", "api", "tracking")}
        self.gateways = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        (folder / "logs").mkdir(parents=True)
        self.context = ssl._create_unverified_context()

    def start_state(self) -> None:
        self.postgres, objects = Peer("postgres.py", self.peers.parent), Peer("s3.py", self.peers.parent)
        self.state = [self.postgres, objects]
        self.database = self.postgres.words[0]
        endpoint, key, secret, bucket = objects.words
        self.artifacts = f"s3://{bucket}/cluster"
        self.store = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
                      "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}

    # --- the control plane as it is published -----------------------------------------------------------------

    def start_control_plane(self) -> None:
        keys = self.folder / "keys"
        keys.mkdir()
        openssl = lambda *words: subprocess.run(["openssl", *words], cwd=keys, check=True, capture_output=True)
        openssl("genrsa", "-out", "accounts.key", "2048")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "kubelet-ca.key", "-out", "kubelet-ca.crt",
                "-subj", "/CN=kubelet-clients", "-days", "30")
        # What the API server shows to nodes: a user who may reach all of them.
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "kubelet.key", "-out", "kubelet.csr",
                "-subj", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        (keys / "extensions").write_text("extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n")
        openssl("x509", "-req", "-in", "kubelet.csr", "-CA", "kubelet-ca.crt", "-CAkey", "kubelet-ca.key", "-CAcreateserial",
                "-out", "kubelet.crt", "-days", "30", "-extfile", "extensions")
        (keys / "tokens.csv").write_text(f"{self.token},admin,1,system:masters\n")
        (keys / "audit.yaml").write_text(AUDIT_POLICY)
        client = f"http://127.0.0.1:{self.ports['etcd']}"
        peer = f"http://127.0.0.1:{self.ports['etcd-peer']}"
        self.run("etcd", [self.peers / "etcd", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={client}",
                          f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                          f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"])
        self.run("kube-apiserver", [
            self.peers / "kube-apiserver", f"--etcd-servers={client}", f"--secure-port={self.ports['api']}",
            "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certificates", f"--service-account-key-file={keys}/accounts.key",
            f"--service-account-signing-key-file={keys}/accounts.key", "--service-account-issuer=https://localhost",
            f"--token-auth-file={keys}/tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
            f"--kubelet-client-certificate={keys}/kubelet.crt", f"--kubelet-client-key={keys}/kubelet.key",
            "--kubelet-preferred-address-types=InternalIP", f"--audit-policy-file={keys}/audit.yaml",
            f"--audit-log-path={self.folder}/audit.log"])
        wait_for("kube-apiserver", 90, self.api_ready)
        self.admin = self.write_kubeconfig("admin", self.token)
        self.run("kube-controller-manager", [
            self.peers / "kube-controller-manager", f"--kubeconfig={self.admin}", "--leader-elect=false", "--secure-port=0",
            f"--service-account-private-key-file={keys}/accounts.key", f"--node-monitor-grace-period={NODE_GRACE}s"])
        self.run("kube-scheduler", [self.peers / "kube-scheduler", f"--kubeconfig={self.admin}", "--leader-elect=false", "--secure-port=0"])
        wait_for("the default service account", 60,
                 lambda: self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default"))

    def api_ready(self) -> bool:
        return self.request("GET", "/readyz", raw=True) == "ok"

    @property
    def api(self) -> str:
        return f"https://127.0.0.1:{self.ports['api']}"

    def request(self, method: str, path: str, body=None, raw: bool = False, base: str | None = None, token: str | None = None):
        request = urllib.request.Request((base or self.api) + path, method=method)
        request.add_header("Authorization", f"Bearer {token or self.token}")
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            patches = {"PATCH": "application/merge-patch+json"}
            request.add_header("Content-Type", patches.get(method, "application/json"))
        with urllib.request.urlopen(request, data, timeout=30, context=self.context) as answer:
            text = answer.read().decode()
        return text if raw else json.loads(text)

    def get(self, kind: str, name: str = "", namespace: str = "default") -> dict:
        """Objects of Cumulo's kinds, or pods."""
        group = "/api/v1" if kind in ("pods", "secrets", "events") else "/apis/cumulo.dev/v1alpha1"
        path = f"{group}/namespaces/{namespace}/{kind}"
        return self.request("GET", f"{path}/{name}" if name else path)

    def write_kubeconfig(self, name: str, token: str) -> pathlib.Path:
        path = self.folder / f"{name}.kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": {"server": self.api, "insecure-skip-tls-verify": True}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
        }
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    # --- Cumulo's roles ---------------------------------------------------------------------------------------

    def install(self) -> None:
        """Definitions, accounts and roles, as `cumulo manifests` has them; what it would deploy runs here as processes."""
        settings = {"artifacts": self.artifacts, "gateway.url": self.gateways[0], "tracking.url": self.tracking}
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        text = subprocess.run([self.cumulo, "manifests", *sets], check=True, capture_output=True, text=True).stdout
        kinds = re.compile("^kind: (.*)$", re.MULTILINE)
        documents = [one for one in text.split("\n---\n") if (found := kinds.search(one)) and found[1].strip('"') not in DEPLOYED]
        self.kubectl("apply", "--server-side", "-f", "-", input="\n---\n".join(documents))
        self.kubectl("wait", "--for=condition=Established", "crd", "--timeout=30s", "--all")

    def account(self, name: str) -> pathlib.Path:
        """A kubeconfig with a token of a service account."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        answer = self.request("POST", f"/api/v1/namespaces/cumulo-system/serviceaccounts/{name}/token", body)
        return self.write_kubeconfig(name, answer["status"]["token"])

    @property
    def tracking(self) -> str:
        return f"http://127.0.0.1:{self.ports['tracking']}"

    def start_roles(self) -> None:
        accounts = {name: self.account(f"cumulo-{name}") for name in ("tracking", "gateway", "operator", "node")}
        # What is secret goes by variables, as from the Secrets of `cumulo manifests`.
        self.run("tracking", [
            self.cumulo, "tracking", "--kubeconfig", accounts["tracking"], "--listen", f"127.0.0.1:{self.ports['tracking']}",
            "--artifacts", self.artifacts], {"CUMULO_DATABASE": self.database, **self.store})
        for number, url in enumerate(self.gateways, 1):
            self.run(f"gateway-{number}", [
                self.cumulo, "gateway", "--kubeconfig", accounts["gateway"], "--listen", url.removeprefix("http://"),
                "--tracking-uri", self.tracking])
        self.operators: list[str] = []
        for number in (1, 2):
            port = free_port()
            self.operators.append(f"http://127.0.0.1:{port}")
            self.run(f"operator-{number}", [
                self.cumulo, "operator", "--kubeconfig", accounts["operator"], "--listen", f"127.0.0.1:{port}",
                "--identity", f"operator-{number}", "--tracking-uri", self.tracking, "--gateway-url", self.gateways[0],
                "--gateways", ",".join(self.gateways), "--artifacts", self.artifacts], self.store)
        for number in (1, 2):
            self.run(f"node-{number}", [
                self.cumulo, "node", "--kubeconfig", accounts["node"], "--name", f"node-{number}",
                "--listen", f"127.0.0.1:{free_port()}", "--pod-cidr", f"127.{64 + number}.0.0/16", "--artifacts", self.artifacts,
                "--client-ca-file", self.folder / "keys/kubelet-ca.crt", "--cache", self.folder / "cache"],
                {"CUMULO_HOME": str(self.folder / f"node-{number}")})
        for url in [self.tracking, *self.gateways, *self.operators]:
            wait_for(f"{url}/readyz", 30, lambda: self.request("GET", "/readyz", raw=True, base=url) == "ok")
        wait_for("both nodes", 30, lambda: len(self.ready_nodes()) == 2)
        wait_for("a leader", 30, self.leader)

    def ready_nodes(self) -> list[str]:
        nodes = self.request("GET", "/api/v1/nodes")["items"]
        return [node["metadata"]["name"] for node in nodes
                if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
                and not any(t["key"].startswith("node.kubernetes.io/") for t in node["spec"].get("taints", []))]

    def leader(self) -> str | None:
        """The operator that leads, by its name."""
        lease = self.request("GET", "/apis/coordination.k8s.io/v1/namespaces/cumulo-system/leases/cumulo-operator")
        holder = lease["spec"].get("holderIdentity") or ""
        return holder.split("_")[0] or None

    # --- running things ---------------------------------------------------------------------------------------

    def run(self, name: str, command: list, environment: dict | None = None) -> Process:
        process = Process(name, command, self.folder / f"logs/{name}.log", environment).start()
        self.processes[name] = process
        return process

    def ask(self, *words: str) -> subprocess.CompletedProcess:
        """`cumulo WORDS` against the cluster: a kubeconfig is all that it takes."""
        return subprocess.run([self.cumulo, "--kubeconfig", self.admin, *words], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env={**os.environ, "CUMULO_HOME": str(self.folder / "home")})

    def command(self, *words: str) -> str:
        """The output of a `cumulo WORDS` that succeeds."""
        ran = self.ask(*words)
        if ran.returncode != 0:
            raise SystemExit(f"cumulo {' '.join(words)} failed: {ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def kubectl(self, *words: str, input: str | None = None, check: bool = True) -> str:
        ran = subprocess.run(
            [self.kubectl_program, "--kubeconfig", self.admin, "--cache-dir", self.folder / "kubectl-cache", *words],
            input=input, stdin=None if input is not None else subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if check and ran.returncode != 0:
            raise SystemExit(f"kubectl {' '.join(words)} failed: {ran.stdout}\n{ran.stderr}")
        return ran.stdout if check else ran.stdout + ran.stderr

    def writes(self) -> list[dict]:
        """What was written so far, from the API server's audit log."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "audit.log").read_text().splitlines()
            return [json.loads(line) for line in lines if line.endswith("}")]
        return []

    def kill_node(self, name: str) -> None:
        """As a machine that loses power: the agent and everything that it runs, at once."""
        folder = str(self.folder / name)
        agent = self.processes[name]
        agent.send(signal.SIGSTOP)
        parents = {}
        doomed = set()
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"__shim" in words and any(folder.encode() + b"/" in word for word in words):
                    doomed.add(int(entry.name))
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in doomed} - doomed
            doomed |= more
            grown = bool(more)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.kill()

    def died(self) -> list[str]:
        """What ended by itself, with the last of its log."""
        told = []
        for name, process in self.processes.items():
            if not process.alive():
                lines = process.log.read_text(errors="replace").splitlines()[-5:]
                told.append(f"{name} does not run (status {process.popen.poll()}):\n  " + "\n  ".join(lines))
        return told

    def stop(self) -> None:
        for name, process in reversed(self.processes.items()):
            # Its pods end with it.
            if name.startswith("node-") and process.alive():
                self.kill_node(name)
            else:
                process.stop()
        for peer in self.state:
            peer.stop()
