"""Loading, saving and identifying a policy: a folder with config, safetensors and tokenizer, as transformers has it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from sentinel.artifacts import replacing_folder, require
from sentinel.errors import ArtifactError
from sentinel.spec.models import TinyPolicy

INITIAL_STD = 0.06
"""Wider than transformers' 0.02: a model this small learns to copy identifiers only from here (measured)."""


class Policy(NamedTuple):
    """A model and its tokenizer."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def new_policy(settings: TinyPolicy, tokenizer: PreTrainedTokenizerFast, seed: int) -> Policy:
    """A randomly initialised tiny Llama for this tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.max_context,
        initializer_range=INITIAL_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Policy(LlamaForCausalLM(config), tokenizer)


def save_policy(folder: Path, policy: Policy) -> None:
    """Write the policy, all or nothing; equal weights give equal bytes."""
    with replacing_folder(folder) as temporary:
        policy.tokenizer.save_pretrained(temporary)
        policy.model.config.save_pretrained(temporary)
        weights = {
            name: value.contiguous()
            for name, value in policy.model.state_dict().items()
            if name != "lm_head.weight" or not policy.model.config.tie_word_embeddings
        }
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})


def load_policy(folder: Path, device: str = "cpu") -> Policy:
    """Read a policy; only safetensors are loaded, never a pickle."""
    for name in ("model.safetensors", "tokenizer.json"):
        require(folder / name)
    _check_config(folder / "config.json")
    logging.disable_progress_bar()
    try:
        model, loading = LlamaForCausalLM.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(folder, f"not a policy that can be loaded: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ArtifactError(folder / "model.safetensors", f"weights are missing: {', '.join(missing)}")
    return Policy(model.to(device).eval(), tokenizer)


def _check_config(path: Path) -> None:
    """For a config that is missing or says nothing, transformers would make a model of seven billion parameters."""
    try:
        found = json.loads(require(path).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ArtifactError(path, f"not a model's configuration: {error}") from error
    if found != "llama":
        raise ArtifactError(path, f"expected the configuration of a Llama model, found model_type {found!r}")


def policy_hash(folder: Path) -> str:
    """Identity of the weights: 16 hex digits of SHA-256 over the safetensors."""
    hasher = hashlib.sha256(require(folder / "model.safetensors").read_bytes())
    return hasher.hexdigest()[:16]
