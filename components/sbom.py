"""A bill of materials of an image, in CycloneDX JSON: its Python distributions and its Debian packages.

Both are asked of the image itself, so that what is listed is what is there. Needs cyclonedx-python-lib.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

LIST = """
import importlib.metadata as metadata, json
found = [(d.name, d.version, d.metadata.get("License-Expression")) for d in metadata.distributions()]
print(json.dumps(sorted(set(found), key=str)))
"""


def _ask(docker: str, image: str, *command: str) -> str:
    run = [docker, "run", "--rm", "--network", "none", image, *command]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def python_packages(listed: str) -> Iterator[Component]:
    """Components of the distributions that `LIST` prints."""
    licences = LicenseFactory()
    for name, version, expression in json.loads(listed):
        url = PackageURL("pypi", name=name.lower().replace("_", "-"), version=version)
        known = [licences.make_from_string(expression)] if expression else []
        yield Component(name=name, version=version, purl=url, bom_ref=str(url), licenses=known)


def debian_packages(status: str) -> Iterator[Component]:
    """Components of the packages that dpkg's status file calls installed."""
    for block in status.split("\n\n"):
        package = HeaderParser().parsestr(block)
        if package["Status"] == "install ok installed":
            url = PackageURL("deb", "debian", package["Package"], package["Version"], {"arch": package["Architecture"]})
            yield Component(name=package["Package"], version=package["Version"], purl=url, bom_ref=str(url))


def document(image: str, components: Iterable[Component]) -> str:
    """The bill as JSON.

    Raises:
        ValueError: it does not fit the CycloneDX schema.
    """
    bom = Bom(components=components)
    bom.metadata.component = Component(name=image, type=ComponentType.CONTAINER, bom_ref="image")
    bom.register_dependency(bom.metadata.component, bom.components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"SBOM of {image}: {error}")
    return text


def write(docker: str, image: str, path: Path) -> None:
    """Write the bill of a local image."""
    found = [*python_packages(_ask(docker, image, "python", "-c", LIST))]
    found += debian_packages(_ask(docker, image, "cat", "/var/lib/dpkg/status"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(image, found), encoding="utf-8")
