"""Builds the images, tells what is in them, and pushes them: `make images`, `make push REGISTRY=…`.

    python -m components.images build [--variant cuda] [--base IMAGE]
    python -m components.images push REGISTRY [--variant cuda]

Needs docker with BuildKit and a package index. Torch is installed from a wheel in build/images/wheelhouse, where
`pip download` puts the one that this machine's pip finds: with PIP_FIND_LINKS=FOLDER of CPU wheels the small one.
`push` writes the digests to images.lock, from which cluster profiles take their images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROLES = {"controller": "core", "evaluator": "torch", "proposer": "torch", "rollout": "torch", "trainer": "torch"}
"""Role -> the target of components/base/Dockerfile that its image stands on."""
TAG = "dev"
INPUTS = Path("build/images")
SBOMS = Path("build/sbom")
EXTRAS = {"core": ("env", "llm", "evaluation", "dvc", "kfp"), "torch": ("train",)}
"""What a target installs: extras of pyproject.toml."""
LOCK = Path("images.lock")
LOCK_HEAD = "# Written by `make push`: the images that cluster profiles run, by digest. Commit it.\n"


class Variant(NamedTuple):
    """How torch is installed, and which roles have such an image."""

    suffix: str
    extras: tuple[str, ...]
    """What the target `torch` installs beside its own."""
    roles: tuple[str, ...]


VARIANTS = {
    "cpu": Variant("", (), tuple(ROLES)),
    "cuda": Variant("-cuda", ("deepspeed",), ("evaluator", "proposer", "rollout", "trainer")),
}


class Image(NamedTuple):
    """What the table shows of an image."""

    name: str
    user: str
    layers: list[str]
    """Digests of its layers; images that start alike share them."""
    size: int
    """Bytes, unpacked, shared layers included."""


def run(*command: str, **environment: str) -> str:
    """Run a command and return what it prints; its complaints go to stderr as they come."""
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed with code {done.returncode}: {' '.join(command)}")
    return done.stdout.strip()


def _speaks_buildkit(client: str) -> bool:
    """Clients up to 20.10 have BuildKit built in, later ones need the plugin `buildx`."""
    if subprocess.run([client, "buildx", "version"], capture_output=True).returncode == 0:
        return True
    done = subprocess.run([client, "version", "--format", "{{.Client.Version}}"], capture_output=True, text=True)
    major = done.stdout.partition(".")[0].strip()
    return major.isdigit() and int(major) < 23


@cache
def docker() -> str:
    """The docker client: $DOCKER, the first on PATH, or Debian's, whichever can build; and its daemon answers."""
    candidates = [os.environ.get("DOCKER", "docker"), "/usr/bin/docker"]
    for client in filter(None, map(shutil.which, candidates)):
        if _speaks_buildkit(client):
            if subprocess.run([client, "info"], capture_output=True).returncode:
                sys.exit(f"{client}: no docker daemon answers; start it, or set DOCKER_HOST")
            return client
    sys.exit("no docker client with BuildKit: install docker with its plugin buildx, or Debian's docker.io")


def prepare(variant: str) -> None:
    """Fill build/images: each target's requirements, and wheels of pip and of this machine's choice of torch."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    INPUTS.mkdir(parents=True, exist_ok=True)
    more = {"torch": VARIANTS[variant].extras}
    for target, extras in EXTRAS.items():
        lines = [line for extra in (*extras, *more.get(target, ())) for line in project["optional-dependencies"][extra]]
        text = "".join(f"{line}\n" for line in [*project["dependencies"], *lines])
        (INPUTS / f"{target}.txt").write_text(text, encoding="utf-8")
    wheelhouse = INPUTS / "wheelhouse"
    if all(any(wheelhouse.glob(f"{name}-*.whl")) for name in ("pip", "torch")):
        return
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    run(*download, "--python-version=3.11", "--constraint=constraints.txt", f"--dest={wheelhouse}", "pip", "torch")


def _build(target: str, file: Path, *options: str) -> None:
    print(f"== {target}", file=sys.stderr, flush=True)
    run(docker(), "build", "--tag", f"{target}:{TAG}", "--file", str(file), *options, ".", DOCKER_BUILDKIT="1")


def _arguments(**values: str) -> list[str]:
    return [word for name, value in values.items() if value for word in ("--build-arg", f"{name.upper()}={value}")]


def _certificates() -> list[str]:
    """The authorities that pip is told to trust on this machine, as a secret of the build: they stay out of images."""
    file = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return ["--secret", f"id=ca,src={file}"] if file else []


def _revision() -> str:
    """The commit that the images are made of; `-dirty` if what they carry differs from it."""
    carried = ["sentinel", "components", "pipelines", "experiments", "dvc.yaml", "pyproject.toml", "constraints.txt"]
    changed = run("git", "status", "--porcelain", "--", *carried)
    return run("git", "rev-parse", "HEAD") + ("-dirty" if changed else "")


def build(variant: str, base: str) -> list[str]:
    """Build the images of a variant; returns their names."""
    suffix, _, roles = VARIANTS[variant]
    prepare(variant)
    start = [*_certificates(), *_arguments(base_image=base, torch=variant)]
    for target in sorted({ROLES[role] for role in roles}):
        name = f"sentinel-{target}{suffix if target == 'torch' else ''}"
        _build(name, Path("components/base/Dockerfile"), "--target", target, *start)
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    names = []
    for role in roles:
        below = f"sentinel-{ROLES[role]}{suffix}:{TAG}"
        labels = _arguments(base_image=below, version=version, revision=_revision())
        _build(f"sentinel-{role}{suffix}", Path(f"components/{role}/Dockerfile"), *labels)
        names.append(f"sentinel-{role}{suffix}")
    return names


def inspect(name: str) -> Image:
    """What docker knows of an image."""
    found: dict[str, Any] = json.loads(run(docker(), "image", "inspect", f"{name}:{TAG}"))[0]
    return Image(name, found["Config"]["User"], found["RootFS"]["Layers"], found["Size"])


def table(images: Sequence[Image]) -> str:
    """Size, user and layers; `own` are layers that no image above it in the table has."""
    lines, seen = [f"{'image':24} {'MB':>6}  {'user':10} {'layers':>6} {'own':>4}"], set[str]()
    for image in images:
        own = len(set(image.layers) - seen)
        seen.update(image.layers)
        lines.append(f"{image.name:24} {image.size / 1e6:6.0f}  {image.user:10} {len(image.layers):6} {own:4}")
    return "\n".join(lines)


def locked(text: str) -> dict[str, str]:
    """What images.lock says: image, without `sentinel-`, -> reference with digest."""
    lines = (line.partition(": ") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name: reference.strip() for name, _, reference in lines}


def lock_text(images: Mapping[str, str]) -> str:
    """The content of images.lock."""
    return LOCK_HEAD + "".join(f"{name}: {reference}\n" for name, reference in sorted(images.items()))


def push(name: str, registry: str) -> str:
    """Push an image; returns its reference with the digest that the registry gave it."""
    remote = f"{registry.rstrip('/')}/{name}"
    run(docker(), "tag", f"{name}:{TAG}", f"{remote}:{TAG}")
    print(f"== pushing {remote}", file=sys.stderr, flush=True)
    run(docker(), "push", "--quiet", f"{remote}:{TAG}")
    digests: list[str] = json.loads(
        run(docker(), "image", "inspect", "--format", "{{json .RepoDigests}}", f"{remote}:{TAG}")
    )
    return next(reference for reference in digests if reference.startswith(f"{remote}@"))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m components.images", description="Build or push the images.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("build", "push"):
        verbs.add_parser(verb).add_argument("--variant", choices=VARIANTS, default="cpu")
    verbs.choices["build"].add_argument("--base", default="", help="image with Python 3.11; default: python:3.11-slim")
    verbs.choices["push"].add_argument("registry")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "build":
        from components import sbom

        names = build(chosen.variant, chosen.base)
        for name in names:
            sbom.write(docker(), f"{name}:{TAG}", SBOMS / f"{name}.cdx.json")
        print(table([inspect(name) for name in names]), f"SBOMs: {SBOMS}/", sep="\n")
        return
    suffix, _, roles = VARIANTS[chosen.variant]
    pushed = {f"{role}{suffix}": push(f"sentinel-{role}{suffix}", chosen.registry) for role in roles}
    known = locked(LOCK.read_text(encoding="utf-8")) if LOCK.is_file() else {}
    LOCK.write_text(lock_text({**known, **pushed}), encoding="utf-8")
    print(f"wrote {LOCK}: {', '.join(pushed)}")


if __name__ == "__main__":
    main()
