"""Step-level checkpoints: a process killed at any moment continues to the same bytes.

    checkpoints = Checkpoints(context.state, say=progress.say)
    found = checkpoints.load()                       # the newest intact one, or None
    checkpoints.attach("trajectories-0003.jsonl", lambda path: write_jsonl(path, trajectories))
    checkpoints.save(3, backend.save, state={...})

A checkpoint is a manifest `step-0003.json` that names every file it needs with its hash. The files are written first
and the manifest is renamed into place last: that rename is the commit, so a half-written checkpoint does not exist.
Files are safetensors and JSON; no pickle is ever read. The last two are kept; a corrupt one is skipped with a message
for the one before. No random state is stored: every random number derives from what it is for (`sentinel.seeds`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from sentinel.artifacts import read_json, replacing, write_json
from sentinel.errors import ArtifactError, StageError
from sentinel.llm.tensors import write_tensors
from sentinel.records import Json, Record

KEEP = 2


class Manifest(Record):
    """What a checkpoint consists of."""

    step: int
    weights: str
    """Name of the file that `save` had written."""
    files: dict[str, str]
    """Name and SHA-256 of every file this checkpoint needs, earlier attachments included."""
    state: dict[str, Json]
    """Whatever the trainer counts."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    with replacing(path) as temporary:
        write_tensors(temporary, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that are trained, by name, each shared one once."""
    return {
        f"model.{name}": parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@torch.no_grad()
def restore_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy weights written by `model_tensors` into the model, in place."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(tensors[f"model.{name}"])


class Checkpoints:
    """The checkpoints of one stage, in its state folder."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """`folder` is one that only equal inputs lead to; `say` hears of every checkpoint that is skipped."""
        self.folder = folder
        self._say = say
        self._files: dict[str, str] = {}

    def attach(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file that belongs to every later checkpoint; `write` must replace it atomically."""
        write(self.folder / name)
        self._files[name] = file_hash(self.folder / name)

    def detach(self, name: str) -> None:
        """Later checkpoints need this file no more."""
        del self._files[name]

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Json]) -> None:
        """Write the checkpoint of a step, then delete what only checkpoints before the last two need.

        Args:
            step: its number.
            write: writes the tensors, atomically.
            state: what the trainer counts.

        Raises:
            StageError: It cannot be written, for want of space perhaps; the checkpoints before it are as they were.
        """
        try:
            self._save(step, write, state)
        except (ArtifactError, OSError) as error:
            raise StageError(
                f"{self.folder}: the checkpoint of step {step} cannot be written: {error.__cause__ or error}\n"
                "    make room and run again: training continues from the checkpoint before it"
            ) from error

    def _save(self, step: int, write: Callable[[Path], None], state: dict[str, Json]) -> None:
        name = f"step-{step:04d}.safetensors"
        write(self.folder / name)
        files = {**self._files, name: file_hash(self.folder / name)}
        manifest = Manifest(step=step, weights=name, files=files, state=state)
        write_json(self.folder / f"step-{step:04d}.json", manifest)
        self._sweep()

    def load(self) -> tuple[Manifest, Path] | None:
        """The newest intact checkpoint and the file of its tensors, or `None`; corrupt ones are named and deleted."""
        intact = [manifest for path in self._manifests() if (manifest := self._verified_or_deleted(path))]
        if not intact:
            return None
        newest = intact[0]
        self._files = {name: digest for name, digest in newest.files.items() if name != newest.weights}
        return newest, self.folder / newest.weights

    def _verified_or_deleted(self, path: Path) -> Manifest | None:
        try:
            return self._verified(path)
        except (ArtifactError, UnicodeDecodeError) as error:
            self._say(f"checkpoint {path.name} skipped: {error}")
            path.unlink()
            return None

    def _manifests(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)

    def _verified(self, path: Path) -> Manifest:
        manifest = read_json(path, Manifest)
        for name, expected in manifest.files.items():
            file = self.folder / name
            if not file.exists():
                raise ArtifactError(file, "missing")
            if file_hash(file) != expected:
                raise ArtifactError(file, "corrupt: its hash is not the one in the manifest")
        return manifest

    def _sweep(self) -> None:
        """Keep the last two manifests and the files they name; drop the rest, leftovers of killed writers included."""
        manifests = self._manifests()
        for path in manifests[KEEP:]:
            path.unlink()
        kept = {name for path in manifests[:KEEP] for name in read_json(path, Manifest).files}
        kept |= {path.name for path in manifests[:KEEP]}
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in kept and _is_ours(path):
                path.unlink()


def _is_ours(path: Path) -> bool:
    return path.suffix in {".safetensors", ".jsonl", ".json", ".tmp"}
