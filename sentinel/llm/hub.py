"""Brings a published model into a folder: from the Hugging Face hub, or from a folder of this machine.

    fetch("Qwen/Qwen3-4B-Thinking-2507", "<commit>", output / "policy", say=progress.say)

Only configuration, tokenizer, templates and safetensors are asked for: no pickle and no code is ever brought here. The
hub's own cache and settings (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) hold, so a killed download continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from sentinel.artifacts import replacing_folder
from sentinel.errors import ArtifactError, StageError
from sentinel.llm.model_folder import CONFIG, FURTHER, INDEX, TOKENIZER, model_files, policy_hash

WANTED = [CONFIG, TOKENIZER, *FURTHER, INDEX, "*.safetensors"]
BELOW = ["*/*"]
"""Some repositories hold the same weights once more in a folder of their own."""


def fetch(model: str, revision: str, target: Path, *, say: Callable[[str], None]) -> None:
    """Copy a model's files into `target`, all or nothing.

    Args:
        model: id on the hub, or a folder of this machine.
        revision: commit (or branch) on the hub; of a folder, the hash of its weights.
        target: the folder to write.
        say: hears of what a person should know.

    Raises:
        StageError: There is no such model or revision, or the hub cannot be reached.
        ArtifactError: Files are missing, or the folder holds other weights than those of `revision`.
    """
    source = _local(Path(model), revision) if Path(model).is_dir() else _published(model, revision, say)
    with replacing_folder(target) as temporary:
        for path in model_files(source):
            shutil.copyfile(path, temporary / path.name)


def _local(folder: Path, revision: str) -> Path:
    """A folder is no part of the spec; the hash of its weights, as its revision, is."""
    if (found := policy_hash(folder)) != revision:
        raise ArtifactError(
            folder,
            f"its weights are '{found}', and policy.revision says '{revision}'; if they are the ones you mean, "
            f"write `revision: {found}`",
        )
    return folder


def _published(model: str, revision: str, say: Callable[[str], None]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    say(f"bringing {model} at {revision} from the hub, unless its cache holds it")
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=WANTED, ignore_patterns=BELOW))
    except (OSError, ValueError, HTTPError) as error:
        raise StageError(
            f"policy.model: '{model}' at revision '{revision}' could not be brought here, and it is no folder: "
            f"{type(error).__name__}: {error}"
        ) from error
    if folder.name != revision:
        say(f"revision '{revision}' of {model} is the commit {folder.name}: pin it in the spec")
    return folder
