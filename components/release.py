"""What a release does with images and chart: `make release-sign`, `make release-chart`.

    python -m components.release sign                    # signatures and SBOM attestations of all in images.lock
    python -m components.release chart VERSION TARGET    # package the chart; push it to oci://…, if TARGET is not empty

Signing is keyless (cosign with the identity of the workflow that runs it). None of it was run by us: the commands are
tested as text.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from components.images import LOCK, SBOMS, locked

CHART, OUTPUT = Path("charts/sentinel"), Path("build/release")
VERSION = re.compile(r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$")


def signing(images: Mapping[str, str], sboms: Path = SBOMS) -> Iterator[list[str]]:
    """The commands that sign each image by its digest and attest what is in it."""
    for name, reference in sorted(images.items()):
        yield ["cosign", "sign", "--yes", reference]
        predicate = f"--predicate={sboms / f'sentinel-{name}.cdx.json'}"
        yield ["cosign", "attest", "--yes", "--type=cyclonedx", predicate, reference]


def charting(version: str, target: str) -> Iterator[list[str]]:
    """The commands that package the chart, and push it if there is a place for it."""
    if not VERSION.match(version):
        sys.exit(f"'{version}' is no version of a chart: expected for example 1.2.3")
    versions = [f"--version={version}", f"--app-version={version}"]
    yield ["helm", "package", str(CHART), f"--destination={OUTPUT}", *versions]
    if target:
        yield ["helm", "push", str(OUTPUT / f"sentinel-{version}.tgz"), target]


def run(commands: Iterator[list[str]]) -> None:
    """Run commands one after the other; stops at the first that fails."""
    for command in commands:
        print("==", *command, file=sys.stderr, flush=True)
        if code := subprocess.run(command).returncode:
            sys.exit(f"failed with code {code}: {' '.join(command)}")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    match list(arguments):
        case ["sign"]:
            run(signing(locked(LOCK.read_text(encoding="utf-8"))))
        case ["chart", version, target]:
            OUTPUT.mkdir(parents=True, exist_ok=True)
            run(charting(version.removeprefix("v"), target))
        case _:
            sys.exit("usage: python -m components.release sign | chart VERSION TARGET")


if __name__ == "__main__":
    main(sys.argv[1:])
