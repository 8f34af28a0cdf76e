"""What the scripts that start a server for the tests have in common.

Such a script prints one line when its server is ready, and ends its server when its
standard input ends: however the test that started it ends, nothing stays behind.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile


def install(package: str, cache: pathlib.Path) -> pathlib.Path:
    """The folder of an installed Python package, fetched once."""
    folder = cache / package.replace("==", "-")
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            new = pathlib.Path(temporary) / "new"
            subprocess.run(
                ["uv", "pip", "install", "--quiet", "--no-deps", "--link-mode", "copy"]
                + ["--target", str(new), package],
                check=True,
                stdout=sys.stderr,
            )
            try:
                new.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return folder


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def say(line: str) -> None:
    """One line to whoever started the script."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def is_root() -> bool:
    return os.geteuid() == 0
