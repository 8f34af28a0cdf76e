"""`kubectl exec -it` as a person has it: in a terminal, whose size changes.

Usage: terminal.py KUBECTL POD     (needs KUBECONFIG; prints what the shell in the pod says of its terminal)
"""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

KUBECTL, POD = sys.argv[1:3]
LIMIT = 30


def size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def until(descriptor: int, pattern: str) -> str:
    """What is shown, up to what matches."""
    end, text = time.monotonic() + LIMIT, ""
    while time.monotonic() < end:
        if select.select([descriptor], [], [], 0.2)[0]:
            try:
                text += os.read(descriptor, 4096).decode(errors="replace")
            except OSError:
                break
        if found := re.search(pattern, text):
            return found.group(1)
    raise SystemExit(f"{pattern!r} was not shown: {text!r}")


# The size is there before kubectl is: it tells it when it starts.
master, slave = pty.openpty()
size(master, 33, 111)
process = os.fork()
if process == 0:
    os.login_tty(slave) if hasattr(os, "login_tty") else (os.setsid(), fcntl.ioctl(slave, termios.TIOCSCTTY, 0), [os.dup2(slave, n) for n in range(3)])
    os.execv(KUBECTL, [KUBECTL, "exec", "-it", POD, "--", "sh"])
os.close(slave)


def ask(expected: str) -> str:
    """The size that the shell's terminal has, asked until it is as expected: it comes by another way than what is typed."""
    end = time.monotonic() + LIMIT
    while True:
        os.write(master, b"echo size=$(stty size).\n")
        found = until(master, r"size=(\d+ \d+)\.")
        if found == expected or time.monotonic() > end:
            return found


print(ask("33 111"))
size(master, 44, 88)
print(ask("44 88"))
# Control-C ends what runs, not the shell. What runs says itself that it does: by then the terminal is its own, and before that
# the key would be the shell's.
os.write(master, b"sh -c 'echo start$((1+1)); exec sleep 1000'\n")
until(master, "(start2)")
os.write(master, b"\x03")
os.write(master, b"echo after$((1+1))\n")
print(until(master, "(after2)"))
os.write(master, b"exit 3\n")
print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
