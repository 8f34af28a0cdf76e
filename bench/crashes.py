"""`kill -9` at random moments of a run: what is lost, doubled or started again.

Each round starts a platform on a fresh folder, runs a small project, kills the
platform at a moment drawn with the round's seed, starts it again, and compares.
Usage: crashes.py CUMULO [ROUNDS]
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time

from common import Platform, write_project

ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
expected, problems = None, 0
print("seed   killed after   dataset version    model versions   runs   attempts")
for seed in range(ROUNDS):
    platform = Platform(sys.argv[1])
    platform.up()
    folder = tempfile.mkdtemp(prefix="cumulo-bench-")
    write_project(folder, 1, "{min: 1}")
    moment = random.Random(seed).uniform(0.02, 3.5)
    run = platform.popen("run", folder)
    time.sleep(moment)
    os.kill(platform.read("platform.json")["pid"], signal.SIGKILL)
    run.kill()
    run.wait()
    time.sleep(0.05)
    platform.up()
    platform.run("run", folder, "--timeout", "120s")
    seen = (
        platform.run("get", "datasets", "-o", "json").split('"version": "')[1].split('"')[0],
        platform.run("models", "late", "-o", "name").split(),
        len(platform.run("runs", "-o", "name").split()),
        platform.run("get", "trainjobs", "-o", "json").count('"attempts": 1,'),
    )
    expected = expected or seen
    good = seen == expected and seen[1] == ["1"] and seen[2] == 1 and seen[3] == 1
    problems += not good
    print(f"{seed:>4}   {moment:>10.2f} s   {seen[0]}   {','.join(seen[1]):>14}   {seen[2]:>4}   {seen[3]:>8}{'' if good else '   <- differs'}")
    platform.run("down")
    shutil.rmtree(platform.home)
    shutil.rmtree(folder)
print(f"{ROUNDS} crashes, {problems} with something lost, doubled or started again")
sys.exit(bool(problems))
