"""Loading, saving and identifying a policy: a folder with config, safetensors and tokenizer, as transformers has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from sentinel.artifacts import replacing_folder, require
from sentinel.errors import ArtifactError
from sentinel.llm.head import precise
from sentinel.llm.lora import plain_state
from sentinel.llm.model_folder import CONFIG, TOKENIZER, WEIGHTS, weight_files
from sentinel.llm.tensors import write_tensors
from sentinel.spec.models import TinyPolicy

Dtype = Literal["float32", "bfloat16"]
INITIAL_STD = 0.06
"""Wider than transformers' 0.02: a model this small learns to copy identifiers only from here (measured)."""


class Policy(NamedTuple):
    """A model and its tokenizer."""

    model: PreTrainedModel
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
    """Write the policy, all or nothing, adapters merged in; equal weights give equal bytes."""
    with replacing_folder(folder) as temporary:
        policy.tokenizer.save_pretrained(temporary)
        policy.model.config.save_pretrained(temporary)
        weights = {
            name: value.contiguous()
            for name, value in plain_state(policy.model).items()
            if name != "lm_head.weight" or not policy.model.config.tie_word_embeddings
        }
        write_tensors(temporary / WEIGHTS, weights, {"format": "pt"})


def load_policy(folder: Path, device: str = "cpu", dtype: Dtype = "float32") -> Policy:
    """Read a policy; only safetensors are loaded, never a pickle, and no code of the folder is run."""
    weights = weight_files(folder)
    require(folder / TOKENIZER)
    _check_config(folder / CONFIG)
    logging.disable_progress_bar()
    here = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=getattr(torch, dtype), output_loading_info=True, **here
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **here)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(folder, f"not a policy that can be loaded: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ArtifactError(weights[0], f"weights are missing: {', '.join(missing)}")
    return Policy(precise(model.to(device)).eval(), tokenizer)


def _check_config(path: Path) -> None:
    """For a config that is missing or says nothing, transformers would make a model of seven billion parameters."""
    try:
        config = json.loads(require(path).read_text(encoding="utf-8"))
        found = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ArtifactError(path, f"not a model's configuration: {error}") from error
    if found not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not {"vocab_size", "text_config"} & config.keys():
        raise ArtifactError(path, f"expected the configuration of a language model, found model_type {found!r}")
    if config.get("quantization_config"):
        raise ArtifactError(path, "quantised weights cannot be trained; start from the model they were made of")
