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
CORE = ("env", "llm", "evaluation", "dvc", "kfp")
"""Extras of pyproject.toml that every image has."""
LOCK = Path("images.lock")
LOCK_HEAD = "# Written by `make push`: the images that cluster profiles run, by digest. Commit it.\n"


class Variant(NamedTuple):
    """What the images of a machine without or with accelerators stand on."""

    suffix: str
    base: str
    """Image to begin with, if none is named."""
    torch: tuple[str, ...]
    """Extras that are installed beside torch."""
    targets: Mapping[str, str]
    """Role -> target; a role without one has no image of this variant."""


ACCELERATED = {role: "vllm" for role, target in ROLES.items() if target == "torch"}
VARIANTS = {
    "cpu": Variant("", "python:3.11-slim-bookworm", ("train", "trainjob"), ROLES),
    "cuda": Variant("-cuda", "python:3.11-bookworm", ("train", "trainjob", "deepspeed"), ACCELERATED),
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
    for target, extras in {"core": CORE, "torch": VARIANTS[variant].torch}.items():
        lines = (line for extra in extras for line in project["optional-dependencies"][extra])
        text = "".join(f"{line}\n" for line in [*project["dependencies"], *lines])
        (INPUTS / f"{target}.txt").write_text(text, encoding="utf-8")
    wheelhouse, pins = INPUTS / "wheelhouse", Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    if any(wheelhouse.glob("pip-*.whl")) and any(wheelhouse.glob(f"{torch.replace('==', '-')}[-+]*.whl")):
        return
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    run(*download, "--python-version=3.11", f"--dest={wheelhouse}", "pip", torch)


def _build(target: str, file: Path, *options: str) -> None:
    print(f"== {target}", file=sys.stderr, flush=True)
    run(docker(), "build", "--tag", f"{target}:{TAG}", "--file", str(file), *options, ".", DOCKER_BUILDKIT="1")


def _arguments(**values: str) -> list[str]:
    return [word for name, value in values.items() for word in ("--build-arg", f"{name.upper()}={value}")]


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
    chosen = VARIANTS[variant]
    prepare(variant)
    start = [*_certificates(), *_arguments(base_image=base or chosen.base, torch=variant)]
    for target in sorted(set(chosen.targets.values())):
        _build(f"sentinel-{target}", Path("components/base/Dockerfile"), "--target", target, *start)
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    names = [f"sentinel-{role}{chosen.suffix}" for role in chosen.targets]
    for name, (role, target) in zip(names, chosen.targets.items(), strict=True):
        labels = _arguments(base_image=f"sentinel-{target}:{TAG}", version=version, revision=_revision())
        _build(name, Path(f"components/{role}/Dockerfile"), *labels)
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
    verbs.choices["build"].add_argument("--base", default="", help="image with Python 3.11 (cuda: and a C compiler)")
    verbs.choices["push"].add_argument("registry")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "build":
        from components import sbom

        names = build(chosen.variant, chosen.base)
        for name in names:
            sbom.write(docker(), f"{name}:{TAG}", SBOMS / f"{name}.cdx.json")
        print(table([inspect(name) for name in names]), f"SBOMs: {SBOMS}/", sep="\n")
        return
    variant = VARIANTS[chosen.variant]
    images = [f"{role}{variant.suffix}" for role in variant.targets]
    images.sort(key=lambda image: inspect(f"sentinel-{image}").size, reverse=True)  # docker packs its layers at once
    pushed = {image: push(f"sentinel-{image}", chosen.registry) for image in images}
    known = locked(LOCK.read_text(encoding="utf-8")) if LOCK.is_file() else {}
    LOCK.write_text(lock_text({**known, **pushed}), encoding="utf-8")
    print(f"wrote {LOCK}: {', '.join(sorted(pushed))}")


if __name__ == "__main__":
    main()
