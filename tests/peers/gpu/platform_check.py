"""The whole platform on a machine with a GPU: two jobs that share it, one that takes too much.

    platform_check.py CUMULO FOLDER

FOLDER becomes the platform's. Needs no packages; `cumulo` needs `uv` in the PATH.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
CUMULO, FOLDER = sys.argv[1:3]
failures = []
environment = {**os.environ, "CUMULO_HOME": FOLDER}

JOB = '''

def job():
    import json, os, subprocess, sys, time
    told = {name: value for name, value in os.environ.items() if name.startswith("CUDA")}
    seconds, fill, leave = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "leave"
    if leave:
        os.environ["CUDA_MPS_PIPE_DIRECTORY"] = "/nonexistent"
    began = time.monotonic()
    device = Cuda()
    told["start"] = round(time.monotonic() - began, 2)
    told["multiprocessors"] = device.multiprocessors()
    chunks, error = device.fill(256 * MIB, fill * MIB)
    told["filledMib"], told["refused"] = 256 * len(chunks), str(error)
    for chunk in chunks if not leave else []:
        device.free(chunk)
    told["gflops"] = round(device.compute(seconds))
    print("TOLD " + json.dumps(told), flush=True)

try:
    job()
except BaseException as error:
    import glob
    print("TOLD " + __import__("json").dumps({"error": repr(error)}), flush=True)
    for path in sorted(glob.glob("/dev/nvidia*")) + ["/proc/driver/nvidia/params", "/dev/shm"]:
        try:
            os_open = __import__("os").open(path, 2 if path.startswith("/dev/nvidia") else 0)
            print(path, "opens", flush=True)
        except OSError as refused:
            print(path, refused, flush=True)
    raise
'''


def cumulo(*words, limit=60, quiet=False):
    done = subprocess.run([CUMULO, *words], env=environment, capture_output=True, text=True, timeout=limit)
    if not quiet:
        print(f"$ cumulo {' '.join(words)}   (rc {done.returncode})\n{done.stdout}{done.stderr}", flush=True)
    return done


def get(path):
    running = json.load(open(os.path.join(FOLDER, "platform.json")))
    token = json.load(open(os.path.join(FOLDER, "credentials.json")))["admin"]
    request = urllib.request.Request(f"http://{running['address']}{path}", headers={"Authorization": f"Bearer {token}"})
    return json.load(urllib.request.urlopen(request, timeout=10))


def expect(what, holds, found=""):
    if not holds:
        failures.append(what)
    print(f"{'ok   ' if holds else 'WRONG'} {what}: {found}", flush=True)


def pods():
    return {pod["metadata"]["name"]: pod for pod in get("/api/v1/namespaces/default/pods")["items"]}


def until(what, holds, limit=40, lost=None):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = holds()
        if found or (lost and lost()):
            return found
        time.sleep(0.5)
    expect(what, False, f"not within {limit} s")
    return None


def failed(*jobs):
    found = [of(job) for job in jobs]
    return any(pod and pod["status"].get("phase") == "Failed" for pod in found)


def of(job):
    return next((pod for name, pod in pods().items() if name.startswith(job + "-")), None)


def running(*jobs):
    found = [of(job) for job in jobs]
    return all(pod and pod["status"].get("phase") == "Running" for pod in found) and found


def ended(job):
    pod = of(job)
    return pod if pod and pod["status"].get("phase") in ("Succeeded", "Failed") else None


def told(job):
    text = cumulo("logs", f"trainjob/{job}", quiet=True)
    found = re.findall(r"TOLD (\{.*\})", text.stdout)
    if not found or "error" in found[-1]:
        print(f"-- log of {job}\n{text.stdout[-3000:]}{text.stderr[-1000:]}", flush=True)
    return json.loads(found[-1]) if found else {}


def daemons():
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                words = line.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "nvidia-cuda-mps" in words[0]:
            found.append(f"{pid} {' '.join(words).strip()}")
    return found


def conditions(pod):
    for condition in pod["status"].get("conditions", []):
        if "cumulo.dev" in condition["type"]:
            print(f"      {condition['type']} {condition['status']} {condition.get('reason')}: {condition.get('message')}", flush=True)


def train(name, gpu, *arguments):
    script = os.path.join(FOLDER, "job.py")
    return cumulo("train", script, "--name", name, "--gpu", gpu, "--detach", "--", *arguments)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(HERE, "cuda.py")) as source, open(os.path.join(FOLDER, "job.py"), "w") as job:
        job.write(source.read() + JOB)
    with open(os.path.join(FOLDER, "config.yaml"), "w") as config:
        config.write("gpuMemoryExceeded: end\n")
    alone = subprocess.run([sys.executable, os.path.join(HERE, "work.py")], capture_output=True, text=True, timeout=30)
    print(alone.stdout, alone.stderr, flush=True)
    whole = json.loads(alone.stdout).get("multiprocessors") or 1
    memory = json.loads(alone.stdout).get("totalMib") or 0
    cumulo("up", "--listen", "127.0.0.1:18700")
    cumulo("gpus")
    train("small", "0.3", "20", str(int(memory * 0.4)), "stay")
    train("large", "0.5", "20", str(int(memory * 0.6)), "stay")
    found = until("both jobs run at once", lambda: running("small", "large"), 60, lambda: failed("small", "large"))
    if not found:
        expect("both jobs run at once", False, "one ended")
        for name, pod in pods().items():
            print(name, json.dumps(pod["status"], indent=1)[:3000], flush=True)
    for pod in found or []:
        conditions(pod)
    time.sleep(8)
    cumulo("gpus")
    cumulo("gpus", "-o", "json")
    no = cumulo("gpus", "fits", "0.3")
    yes = cumulo("gpus", "fits", "0.2")
    expect("0.3 does not fit beside 0.3 and 0.5, 0.2 does", (no.returncode, yes.returncode) == (1, 0))
    before = daemons()
    expect("a daemon serves them", before, before)
    # The platform dies and comes again: the jobs and the daemon go on.
    os.kill(json.load(open(os.path.join(FOLDER, "platform.json")))["pid"], signal.SIGKILL)
    time.sleep(0.5)
    cumulo("up", "--listen", "127.0.0.1:18700")
    expect("the daemon outlives the platform", daemons() and daemons()[0] == before[0] if before else False, daemons())
    # One that leaves MPS and takes more than it was given.
    train("greedy", "0.1", "30", "20000", "leave")
    lines = {}
    for job, percent in (("small", 30), ("large", 50)):
        pod = until(f"{job} ends", lambda: ended(job), 60)
        lines[job] = told(job)
        print(job, json.dumps(lines[job]), flush=True)
        expect(f"{job} succeeds", pod and pod["status"]["phase"] == "Succeeded", pod and pod["status"].get("message"))
        expect(f"{job} sees {percent}% of the multiprocessors", abs(lines[job].get("multiprocessors", 0) / whole - percent / 100) < 0.05, f"{lines[job].get('multiprocessors')} of {whole}")
        expect(f"{job} is refused memory over its share", "OUT_OF_MEMORY" in lines[job].get("refused", ""), lines[job].get("filledMib"))
    pod = until("the greedy one ends", lambda: ended("greedy"), 40)
    if pod:
        conditions(pod)
        status = pod["status"]
        expect("it is ended for its memory", status.get("reason") == "GpuMemoryExceeded", f"{status.get('reason')}: {status.get('message')}")
        print(json.dumps(told("greedy")), flush=True)
    until("the daemon is stopped after the last share", lambda: not daemons(), 15)
    expect("no folder of a daemon is left", not os.listdir(os.path.join(FOLDER, "node/mps")) if os.path.isdir(os.path.join(FOLDER, "node/mps")) else True)
    for event in get("/api/v1/namespaces/default/events")["items"]:
        print(f"  {event['type']} {event['reason']} {event['involvedObject'].get('kind')}/{event['involvedObject'].get('name')}: {event['message']}", flush=True)
    cumulo("gpus", "-o", "json")


try:
    main()
except Exception as error:
    failures.append(repr(error))
    import traceback

    traceback.print_exc()
finally:
    try:
        cumulo("down", limit=70)
    except Exception as error:
        print(error)
    log = os.path.join(FOLDER, "logs/platform.log")
    if os.path.exists(log):
        with open(log, errors="replace") as lines:
            print("-- platform.log\n" + lines.read()[-8000:])
    print("left:", daemons())
print(f"\n{len(failures)} not as expected: {failures}")
sys.exit(1 if failures else 0)
