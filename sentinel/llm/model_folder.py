"""A model's folder as transformers has it, read without torch: its files, the identity of its weights, its tokenizer.

policy_hash(folder)                            # "90c1…", whether the weights are one file or shards
tokenizer = FolderTokenizer(folder)            # for processes that only play on a server
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from sentinel.artifacts import canonical, require
from sentinel.errors import ArtifactError
from sentinel.llm.templates import END

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl")
FURTHER = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What a model may have besides; nothing that runs code is among it."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors: one file, or the shards that the index names, by name."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [_single(folder)]
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(index, f"not an index of safetensors: {type(error).__name__}: {error}") from error
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise ArtifactError(index, f"expected names of safetensors beside it, found {names}")
    return [require(folder / name) for name in names]


def _single(folder: Path) -> Path:
    path = folder / WEIGHTS
    pickles = sorted(each.name for each in folder.glob("*") if each.suffix in PICKLES)
    if pickles and not path.exists():
        hint = (
            f"{pickles[0]} may be a pickle, which could run any code and is never read: save the model as safetensors"
        )
        raise ArtifactError(path, "missing artifact", hint=hint)
    return require(path)


def model_files(folder: Path) -> list[Path]:
    """All that makes up the model: config, tokenizer, weights, and what it has of the rest."""
    weights = weight_files(folder)
    optional = [folder / name for name in FURTHER + ((INDEX,) if weights[0].name != WEIGHTS else ())]
    return [require(folder / CONFIG), require(folder / TOKENIZER), *filter(Path.exists, optional), *weights]


def policy_hash(folder: Path) -> str:
    """Identity of the weights: 16 hex digits of SHA-256 over the file, or over the names and hashes of the shards."""
    hashes = {path.name: _file_hash(path) for path in weight_files(folder)}
    whole = hashes.get(WEIGHTS) or hashlib.sha256(canonical(hashes).encode()).hexdigest()
    return whole[:16]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderTokenizer:
    """The `tokenizer.json` of a folder, without the libraries that hold weights; the ids are those of transformers."""

    def __init__(self, folder: Path) -> None:
        path = require(folder / TOKENIZER)
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more precise
            raise ArtifactError(path, f"not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of token ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


class _Encodes(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any: ...


def stop_token(tokenizer: _Encodes, folder: Path) -> int:
    """The token that ends a turn in the templates' language; raises `ArtifactError` where it is none or several."""
    ids: list[int] = tokenizer.encode(END, add_special_tokens=False)
    if len(ids) != 1:
        problem = f"it takes {len(ids)} tokens for '{END}', expected one: the policy does not know the ChatML format"
        raise ArtifactError(folder / TOKENIZER, problem)
    return ids[0]
