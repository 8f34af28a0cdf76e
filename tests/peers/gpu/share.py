"""Two shares of one GPU, alone and together, with MPS and by turns: run by `gpu_check share`.

Prints a line of JSON for each process, and at the end what was expected and found.
"""

import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CHECK = os.environ.get("GPU_CHECK", "gpu_check")
SHARES = json.loads(os.environ["GPU_CHECK_SHARES"])
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
PLAIN["CUDA_VISIBLE_DEVICES"] = SHARES[0]["gpu"]
SECONDS = 1.5
LIMIT = 40
failures = []


def environment(share, **more):
    return {**PLAIN, **(SHARES[share]["environment"] if share is not None else {}), **more}


def start(label, arguments, env, confine=None):
    command = [sys.executable, os.path.join(HERE, "work.py"), "--name", label, *arguments]
    if confine is not None:
        command = [CHECK, "confine", "--with", HERE, *confine, "--", *command]
    return label, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(started):
    label, process = started
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        print(json.dumps({"name": label, "error": f"not done after {LIMIT} s"}), flush=True)
    line = {}
    for text in out.splitlines():
        print(text, flush=True)
        try:
            line = json.loads(text)
        except ValueError:
            pass
    if err.strip():
        print(f"  [{label}] " + err.strip().replace("\n", f"\n  [{label}] ")[-1500:], flush=True)
    return line


def one(label, arguments, env, confine=None):
    return end(start(label, arguments, env, confine))


def together(label, *envs):
    at = str(time.time() + 5)
    running = [
        start(f"{label} {number}", ["--at", at, "--compute", str(SECONDS * 2)], env)
        for number, env in enumerate(envs)
    ]
    return [end(process) for process in running]


def expect(what, holds, found):
    if not holds:
        failures.append(what)
    print(f"{'ok   ' if holds else 'WRONG'} {what}: {found}", flush=True)


def title(text):
    print(f"\n== {text}", flush=True)


def mebibytes(share):
    return SHARES[share]["memory"] >> 20


compute = ["--compute", str(SECONDS)]
title("without MPS")
whole = one("whole alone", compute, PLAIN)
all_sms = whole.get("multiprocessors", 0)
full = whole.get("gflops", 0)
turns = together("by turns", PLAIN, PLAIN)
by_turns = sum(line.get("gflops", 0) for line in turns)
expect("programs without MPS take turns", 0.8 * full < by_turns < 1.2 * full, f"{by_turns} of {full} GFLOP/s together")

title("with MPS")
alone = [one(f"share {number} alone", compute, environment(number)) for number in (0, 1)]
for number, percent in ((0, 30), (1, 50)):
    line = alone[number]
    sms, flops = line.get("multiprocessors", 0), line.get("gflops", 0)
    expect(f"{percent}% sees its multiprocessors", abs(sms / max(all_sms, 1) - percent / 100) < 0.05, f"{sms} of {all_sms}")
    expect(f"{percent}% computes as much", abs(flops / max(full, 1) - percent / 100) < 0.08, f"{flops} of {full} GFLOP/s")
both = together("shares together", environment(0), environment(1))
sums = [line.get("gflops", 0) for line in both]
for number in (0, 1):
    before = alone[number].get("gflops", 0)
    expect(f"share {number} keeps its speed beside the other", sums[number] > 0.85 * before, f"{sums[number]} of {before} alone")

title("memory with MPS")
for number in (0, 1):
    line = one(f"memory of share {number}", ["--fill", str(mebibytes(number) + 8192)], environment(number))
    got, limit = line.get("filledMib", 0), mebibytes(number)
    expect(f"share {number} gets its memory and no more", limit - 2048 < got <= limit, f"{got} of {limit} MiB, then {line.get('refused')}")
holding = [
    start(f"memory at once {number}", ["--fill", str(mebibytes(number) - 2048), "--hold", "4"], environment(number))
    for number in (0, 1)
]
time.sleep(6)
subprocess.run([CHECK, "read"], env=PLAIN, timeout=30)
subprocess.run(["nvidia-smi"], env=PLAIN, timeout=30)
lines = [end(process) for process in holding]
expect("both have their memory at once", all(line.get("filledMib") and not line.get("refused") for line in lines), [line.get("filledMib") for line in lines])

title("what a program that sets out to gets")
line = one("raised to 100% and 79 GiB", ["--fill", "79000", *compute], environment(0, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="100", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=79000M"))
expect("its environment cannot raise it over the server's limit", line.get("multiprocessors", 999) <= all_sms * 0.55 and line.get("filledMib", 1 << 30) <= mebibytes(1), f"{line.get('multiprocessors')} multiprocessors, {line.get('filledMib')} MiB, {line.get('gflops')} GFLOP/s")
unset = environment(0)
for name in ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"):
    unset.pop(name, None)
line = one("limits unset", ["--fill", "79000", *compute], unset)
print(f"      without its own limits: {line.get('multiprocessors')} multiprocessors, {line.get('filledMib')} MiB", flush=True)
line = one("leaves MPS", ["--fill", str(mebibytes(0) + 4096)], PLAIN)
print(f"      outside MPS while the daemon runs: {line.get('filledMib')} MiB, {line.get('error')}", flush=True)

title("in a pod's sandbox")
pipes = SHARES[0]["environment"]["CUDA_MPS_PIPE_DIRECTORY"]
small = ["--fill", "512", "--compute", "0.5"]
print("      pipe directory:", sorted(os.listdir(pipes)), flush=True)
for name in sorted(os.listdir(pipes)):
    print("       ", name, oct(os.stat(os.path.join(pipes, name)).st_mode), flush=True)
refused = os.path.join(os.path.dirname(HERE), "refused.so")
watched = {"LD_PRELOAD": refused} if os.path.exists(refused) else {}
confined = one("confined, no MPS", small, {**PLAIN, **watched}, ["--with", os.path.dirname(HERE)])
expect("a confined program computes", "gflops" in confined, confined.get("error"))
confined = one("confined, MPS", small, environment(0, **watched), ["--with", pipes, "--with", os.path.dirname(HERE)])
expect("a confined client computes", "gflops" in confined, confined.get("error"))
for without in ("/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"):
    for label, env, more in (("MPS", environment(0), ["--with", pipes]), ("no MPS", PLAIN, [])):
        line = one(f"confined, {label}, without {without}", small, env, ["--without", without, *more])
        print(f"      {label} without {without}: {'works' if 'gflops' in line else line.get('error')}", flush=True)
control = [CHECK, "confine", "--with", pipes, "--", "sh", "-c", "echo get_server_list | nvidia-cuda-mps-control; echo rc $?"]
done = subprocess.run(control, env=environment(0), capture_output=True, text=True, timeout=20)
print("      a confined program asks the daemon:", done.stdout.strip(), done.stderr.strip()[-300:], flush=True)
done = subprocess.run(control[:2] + control[4:], env=environment(0), capture_output=True, text=True, timeout=20)
print("      … without the folder opened:", done.stdout.strip(), done.stderr.strip()[-300:], flush=True)

title("ending one client")
label, process = start("to be ended", ["--compute", "8"], environment(0))
time.sleep(4)
folder = os.path.dirname(os.path.dirname(pipes))
done = subprocess.run([CHECK, "end-client", folder, str(process.pid)], env=PLAIN, capture_output=True, text=True, timeout=20)
print("     ", done.stdout.strip(), done.stderr.strip(), flush=True)
line = end((label, process))
expect("it fails, and only it", "error" in line, line.get("error"))
after = one("after it", ["--compute", "0.5"], environment(1))
expect("others go on", "gflops" in after, after.get("error"))

print(f"\n{len(failures)} not as expected: {failures}", flush=True)
logs = os.path.join(os.path.dirname(pipes), "log")
for name in sorted(os.listdir(logs)):
    with open(os.path.join(logs, name), errors="replace") as log:
        print(f"\n-- {name}\n" + log.read()[-6000:], flush=True)
sys.exit(1 if failures else 0)
