"""A policy on disk: what is loaded is what was saved, equal weights are equal bytes, and a pickle is never opened."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from sentinel.env.synthetic import atoms
from sentinel.errors import ArtifactError
from sentinel.llm.model_folder import FolderTokenizer, model_files, policy_hash, stop_token
from sentinel.llm.policy import Policy, load_policy, new_policy, save_policy
from sentinel.llm.templates import END
from sentinel.llm.tokenizer import train_tokenizer
from sentinel.spec.models import TinyPolicy
from tests.unit.builders import contents

TINY = TinyPolicy(type="tiny", layers=2, hidden=32, heads=2, feed_forward=48, max_context=128)
PHRASES = ["I want to cancel order #W10. ", "It is done. Is there anything else?"]


def policy(seed: int = 0) -> Policy:
    return new_policy(TINY, train_tokenizer(PHRASES, atoms(), max_context=128), seed)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    save_policy(folder, policy())
    return folder


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "damaged"))


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def test_a_new_policy_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = policy(seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert all(
        torch.equal(a, b) for a, b in zip(weights(one.model).values(), weights(policy(1).model).values(), strict=True)
    )
    assert not torch.equal(one.model.lm_head.weight, policy(2).model.lm_head.weight)


def test_a_new_policy_has_the_shape_of_the_spec_and_knows_its_stop_token() -> None:
    made = policy()
    config = made.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert (config.intermediate_size, config.max_position_embeddings) == (48, 128)
    assert config.vocab_size == len(made.tokenizer)
    assert config.eos_token_id == made.tokenizer.eos_token_id
    assert made.model.lm_head.weight.data_ptr() == made.model.model.embed_tokens.weight.data_ptr()


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    original, loaded = policy(), load_policy(saved)
    assert weights(loaded.model).keys() == weights(original.model).keys()
    for name, value in weights(loaded.model).items():
        assert value.dtype is torch.float32
        assert torch.equal(value, weights(original.model)[name])
    assert not loaded.model.training
    text = "I want to cancel order #W10. mug 1020"
    assert loaded.tokenizer.encode(text) == original.tokenizer.encode(text)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    assert loaded.tokenizer.eos_token_id == original.tokenizer.eos_token_id


def test_equal_weights_give_equal_bytes(saved: Path, tmp_path: Path) -> None:
    """Those of a new policy, and those of one that was loaded, through any number of rounds."""
    save_policy(tmp_path / "again", policy())
    assert contents(tmp_path / "again") == contents(saved)
    save_policy(tmp_path / "first", load_policy(saved))
    save_policy(tmp_path / "second", load_policy(tmp_path / "first"))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert policy_hash(tmp_path / "first") == policy_hash(saved)


def test_saving_replaces_the_whole_folder(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "leftover.bin").write_bytes(b"old")
    save_policy(folder, policy())
    assert contents(folder) == contents(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_the_hash_is_that_of_the_weights(saved: Path, damaged: Path, tmp_path: Path) -> None:
    assert len(policy_hash(saved)) == 16
    (damaged / "README.md").write_text("notes", encoding="utf-8")
    assert policy_hash(damaged) == policy_hash(saved)
    save_policy(tmp_path / "other", policy(seed=1))
    assert policy_hash(tmp_path / "other") != policy_hash(saved)


def test_weights_of_an_untied_head_are_kept(tmp_path: Path) -> None:
    tied = policy()
    config = LlamaConfig.from_dict({**tied.model.config.to_dict(), "tie_word_embeddings": False})
    model = LlamaForCausalLM(config)
    save_policy(tmp_path / "untied", Policy(model, tied.tokenizer))
    assert torch.equal(load_policy(tmp_path / "untied").model.lm_head.weight, model.lm_head.weight)


class Bomb:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_never_opened(damaged: Path, tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    (damaged / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    load_policy(damaged)
    (damaged / "model.safetensors").unlink()
    for reader in (load_policy, policy_hash):
        with pytest.raises(ArtifactError, match=r"missing artifact\n.*pytorch_model.bin may be a pickle"):
            reader(damaged)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the trap works"


def sharded(folder: Path) -> Path:
    """The same weights in two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def test_weights_in_shards_are_the_same_policy_and_every_shard_counts(saved: Path, damaged: Path) -> None:
    parts = sharded(damaged)
    loaded, original = load_policy(parts), load_policy(saved)
    assert all(torch.equal(weights(loaded.model)[name], value) for name, value in weights(original.model).items())
    assert {path.name for path in model_files(parts)} >= {path.name for path in parts.glob("*.safetensors*")}
    before = policy_hash(parts)
    second = parts / "model-00002-of-00002.safetensors"
    save_file({n: v + 1 for n, v in load_file(second).items()}, second, metadata={"format": "pt"})
    assert policy_hash(parts) != before
    second.unlink()
    for reader in (load_policy, policy_hash, model_files):
        with pytest.raises(ArtifactError, match=r"model-00002-of-00002.safetensors: missing artifact"):
            reader(parts)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../a.safetensors"}}'])
def test_an_index_that_names_no_file_beside_it_is_refused(index: str, damaged: Path) -> None:
    (sharded(damaged) / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"index\.json: "):
        policy_hash(damaged)


def test_a_policy_is_loaded_in_the_precision_of_the_spec(saved: Path, tmp_path: Path) -> None:
    loaded = load_policy(saved, dtype="bfloat16")
    assert {value.dtype for value in weights(loaded.model).values()} == {torch.bfloat16}
    save_policy(tmp_path / "half", loaded)
    assert load_file(tmp_path / "half" / "model.safetensors")["model.norm.weight"].dtype is torch.bfloat16


def test_other_architectures_than_llama_load_as_well(saved: Path, tmp_path: Path) -> None:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    model = Qwen3ForCausalLM(Qwen3Config(**settings, num_attention_heads=2, num_key_value_heads=1, head_dim=16))
    save_policy(tmp_path / "qwen3", Policy(model, load_policy(saved).tokenizer))
    loaded = load_policy(tmp_path / "qwen3").model
    assert type(loaded) is Qwen3ForCausalLM
    assert all(torch.equal(weights(loaded)[name], value) for name, value in weights(model).items())


def test_the_tokenizer_of_a_folder_is_that_of_transformers(saved: Path) -> None:
    plain, full = FolderTokenizer(saved), load_policy(saved).tokenizer
    chat = f"Who?{END}\n<|im_start|>assistant\n"
    for text in ("I want to cancel order #W10. mug 1020", "x  y .\n", chat, "ä → ✓", ""):
        ids = full.encode(text, add_special_tokens=False)
        assert plain.encode(text, add_special_tokens=False) == ids
        assert plain.decode(ids) == full.decode(ids)
    assert stop_token(plain, saved) == full.eos_token_id


def test_a_tokenizer_without_the_end_of_a_turn_is_refused(damaged: Path) -> None:
    path = damaged / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace(END, "<|over|>"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"tokenizer.json: it takes \d+ tokens for '<\|im_end\|>', expected one"):
        stop_token(FolderTokenizer(damaged), damaged)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def without_a_layer(folder: Path) -> None:
    kept = {
        name: value for name, value in load_file(folder / "model.safetensors").items() if "layers.1.mlp" not in name
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}), encoding="utf-8")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def with_half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla', encoding="utf-8")


def with_an_empty_config(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")


def with_the_config_of_another_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")


def with_quantised_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def with_half_a_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")


DAMAGES = (
    cut,
    emptied,
    without_a_layer,
    of_another_shape,
    without_config,
    with_half_a_config,
    with_an_empty_config,
    with_the_config_of_another_model,
    with_quantised_weights,
    without_tokenizer,
    with_half_a_tokenizer,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_policy_is_named_by_its_path(damage: object, damaged: Path) -> None:
    assert callable(damage)
    damage(damaged)
    with pytest.raises(ArtifactError, match=str(damaged)):
        load_policy(damaged)
