"""Schedulers on the real API server: the same nodes and pods for each, one after the other, each on a server of its own.

Usage: scheduler.py CUMULO PEERS BENCH_SCHEDULER [NODES PODS]
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from common import Real, resident

SCHEDULER_CONFIG = """apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: KUBECONFIG, qps: 10000, burst: 20000, contentType: CONTENT}
"""

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: real, cluster: {server: "URL", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: secret}}]
contexts: [{name: real, context: {cluster: real, user: admin}}]
current-context: real
"""


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, command, scheduler: str, peers: pathlib.Path, bench: str, nodes: int, pods: int) -> None:
    """A row: the scheduler's time from its start, with all pods waiting, to the last binding."""
    with tempfile.TemporaryDirectory(prefix="cumulo-bench-") as folder:
        real = Real(folder, peers)
        real.start()
        try:
            connection = [real.url(), real.token()]
            began = time.monotonic()
            subprocess.run([bench, "fill", *connection, str(nodes), str(pods), scheduler], check=True)
            filled = time.monotonic() - began
            kubeconfig = pathlib.Path(folder, "kubeconfig")
            kubeconfig.write_text(KUBECONFIG.replace("URL", real.url()))
            watching = subprocess.Popen([bench, "wait", *connection, str(pods)], stdout=subprocess.PIPE, text=True)
            watching.stdout.readline()  # it has seen the pods
            started = time.monotonic()
            log = pathlib.Path(folder, "scheduler.log").open("wb")
            running = subprocess.Popen(command(folder, kubeconfig), stdout=log, stderr=log)
            try:
                first, last = (int(word) / 1000 for word in watching.communicate(timeout=900)[0].split()[-2:])
                seconds = time.monotonic() - started
                cpu, memory = cpu_seconds(running.pid), resident([running.pid])
            except subprocess.TimeoutExpired:
                sys.exit(pathlib.Path(folder, "scheduler.log").read_text()[-2000:])
            finally:
                watching.kill()
                running.send_signal(signal.SIGTERM)
                running.wait(30)
            print(
                f"| {name} | {nodes} | {pods} | {filled + seconds:.1f} | {seconds:.1f} | {pods / seconds:.0f} "
                f"| {(pods - 1) / max(last - first, 0.001):.0f} | {cpu:.1f} | {memory:.0f} |",
                flush=True,
            )
        finally:
            real.stop()


def main() -> None:
    cumulo, peers, bench = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), str(pathlib.Path(sys.argv[3]).resolve())
    nodes, pods = (int(number) for number in (sys.argv[4:6] or (5000, 10000)))

    def kube_scheduler(content: str):
        def command(folder: str, kubeconfig: pathlib.Path) -> list[str]:
            config = pathlib.Path(folder, "scheduler.yaml")
            config.write_text(SCHEDULER_CONFIG.replace("KUBECONFIG", str(kubeconfig)).replace("CONTENT", content))
            return [str(peers / "kube-scheduler"), f"--config={config}", "--secure-port=0"]

        return command

    def ours(_: str, kubeconfig: pathlib.Path) -> list[str]:
        return [cumulo, "scheduler", f"--kubeconfig={kubeconfig}", "--no-leader-election"]

    print("| scheduler | nodes | pods | from the first pod made, s | from its start, s | binds/s | binds/s, first to last | CPU s | MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    measure("kube-scheduler 1.35, protobuf", kube_scheduler("application/vnd.kubernetes.protobuf"), "default-scheduler", peers, bench, nodes, pods)
    measure("cumulo scheduler", ours, "cumulo", peers, bench, nodes, pods)
    measure("kube-scheduler 1.35, JSON", kube_scheduler("application/json"), "default-scheduler", peers, bench, nodes, pods)


if __name__ == "__main__":
    main()
