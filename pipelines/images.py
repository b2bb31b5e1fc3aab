"""Which image each role runs in: by digest from `images.lock` on a cluster, by tag on machines of one's own.

`images.lock` is a YAML map that `make push REGISTRY=…` writes: `trainer-cuda: registry/sentinel-trainer-cuda@sha256:…`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sentinel.errors import SpecError
from sentinel.spec.cluster import Cluster, LockedImages, Resources, Role

PINNED = re.compile(r"^\S+@sha256:[0-9a-f]{64}$")
ROLES: tuple[Role, ...] = get_args(Role)


def images(cluster: Cluster, root: Path = Path()) -> dict[Role, str]:
    """Role -> image reference.

    Raises:
        SpecError: The profile demands digests, and `images.lock` is missing, broken or lacks one.
    """
    resources = {role: cluster.roles.get(role, Resources()) for role in ROLES}
    wanted = {role: _name(role, found) for role, found in resources.items()}
    if not isinstance(cluster.images, LockedImages):
        return {role: f"{cluster.images.prefix}{name}:{cluster.images.tag}" for role, name in wanted.items()}
    path = root / cluster.images.lock
    locked = _read(path, _fill(resources.values()))
    faults = {role: fault for role, name in wanted.items() if (fault := _fault(path, name, locked.get(name)))}
    if faults:
        raise SpecError([*faults.values(), f"    {_fill(resources[role] for role in faults)}"])
    return {role: locked[name] for role, name in wanted.items()}


def _name(role: Role, resources: Resources) -> str:
    return f"{role}-{resources.variant}" if resources.variant else role


def _fill(roles: Iterable[Resources]) -> str:
    """The commands that write what is missing, for each variant of images."""
    options = dict.fromkeys(f" VARIANT={role.variant}" if role.variant else "" for role in roles)
    commands = " and ".join(f"`make images{option} && make push{option} REGISTRY=…`" for option in options)
    return f"{commands}: builds the images, pushes them and writes it"


def _read(path: Path, fill: str) -> Mapping[str, str]:
    try:
        found = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise SpecError([f"{path}: missing, and this profile takes images by digest only\n    {fill}"]) from None
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}\n    {fill}"]) from None
    except YAMLError as error:
        raise SpecError([f"{path}: not YAML: {str(error).splitlines()[0]}\n    {fill}"]) from None
    if not isinstance(found, dict):
        raise SpecError([f"{path}: found no map of image -> reference\n    {fill}"])
    return found


def _fault(path: Path, name: str, reference: object) -> str:
    if reference is None:
        return f"{path}: has no image '{name}'"
    if not PINNED.match(str(reference)):
        return f"{path}: {name}: found '{reference}', expected a reference that ends in @sha256:<64 hex digits>"
    return ""
