"""`extends`: what merges, what replaces, what is deleted, and where an inherited fault is reported."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import SpecError
from sentinel.spec import load
from sentinel.spec.extends import merge, read_chain
from sentinel.spec.source import Reader, Source

ENVELOPE = "apiVersion: sentinel.dev/v1alpha1\nkind: Experiment\n"
PARENT = """\
metadata: {name: parent}
spec:
  seed: 7
  iterations: 1
  environment: {world: {type: synthetic}, user: {type: scripted}}
  base: {name: small}
  policy: {type: tiny, layers: 2}
  warmup: {clean_steps: 1}
  seed_tasks: {general: 4, dev: 2, demonstrations: 4, evaluate: {set: synthetic, tasks: 2}}
  rollout: {tasks: 2}
  controller: {type: llm, model: m}
  proposer: {tasks: 2}
  trainer: {kl: 0.5}
  evaluator: {k: [1, 2]}
"""


def files(folder: Path, **texts: str) -> Path:
    """Write the texts as spec files; returns the first."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(ENVELOPE + text)
    return folder / f"{next(iter(texts))}.yaml"


def problems(path: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(path)
    return [problem.split("\n       |")[0].removeprefix(f"{path.parent}/") for problem in caught.value.problems]


def test_maps_merge_lists_replace_and_null_deletes(tmp_path: Path) -> None:
    child = (
        "extends: parent.yaml\nmetadata: {name: child}\nspec: {seed: 8, policy: {layers: null}, evaluator: {k: [3]}}\n"
    )
    loaded = load(files(tmp_path, child=child, parent=PARENT))
    spec = loaded.experiment.spec
    assert (spec.seed, spec.iterations, spec.evaluator.k, spec.trainer.kl) == (8, 1, (3,), 0.5)
    assert spec.policy.type == "tiny"
    assert spec.policy.layers == 4, "the default, as nothing is inherited"
    assert loaded.sources == (tmp_path / "child.yaml", tmp_path / "parent.yaml")
    origins = {
        path: str(loaded.origins[path]).removeprefix(f"{tmp_path}/") for path in ("spec.seed", "spec.trainer.kl")
    }
    assert origins == {"spec.seed": "child.yaml:5:14", "spec.trainer.kl": "parent.yaml:15:17"}
    assert "spec.policy.layers" not in loaded.origins


def test_three_generations_and_folders(tmp_path: Path) -> None:
    (tmp_path / "arms").mkdir()
    files(tmp_path, parent=PARENT, middle="extends: ./parent.yaml\nmetadata: {name: middle}\nspec: {seed: 8}\n")
    path = files(
        tmp_path / "arms", child="extends: ../middle.yaml\nmetadata: {name: child}\nspec: {rollout: {tasks: 9}}\n"
    )
    loaded = load(path)
    assert (loaded.experiment.spec.seed, loaded.experiment.spec.rollout.tasks) == (8, 9)
    assert loaded.sources == (path, tmp_path / "middle.yaml", tmp_path / "parent.yaml")


def test_a_cycle_names_its_chain(tmp_path: Path) -> None:
    a, b = ("extends: {}.yaml\nmetadata: {{name: {}}}\n".format(*names) for names in (("b", "a"), ("a", "b")))
    with pytest.raises(SpecError) as caught:
        load(files(tmp_path, a=a, b=b))
    where = f"{tmp_path}/"
    chain = f"{where}a.yaml:3 -> {where}b.yaml:3 -> {where}a.yaml"
    assert caught.value.problems[0].startswith(f"{where}b.yaml:3:10: extends: a cycle: {chain}\n")


def test_a_missing_parent_is_reported_at_its_name(tmp_path: Path) -> None:
    path = files(tmp_path, child="extends: parnt.yaml\nmetadata: {name: child}\n", parent=PARENT)
    assert problems(path)[0].startswith(f"child.yaml:3:10: extends: no such file {tmp_path}/parnt.yaml; did you mean")


def test_extends_takes_one_file(tmp_path: Path) -> None:
    path = files(tmp_path, child="extends: [parent.yaml]\nmetadata: {name: child}\n", parent=PARENT)
    assert problems(path)[0].startswith("child.yaml:3:10: extends: found no text")


def test_a_child_names_itself(tmp_path: Path) -> None:
    path = files(tmp_path, child="extends: parent.yaml\nspec: {seed: 8}\n", parent=PARENT)
    assert problems(path)[0].startswith("child.yaml:3:1: metadata.name: missing; a file with `extends` names itself")


def test_an_inherited_fault_is_reported_where_the_value_stands(tmp_path: Path) -> None:
    child = "extends: parent.yaml\nmetadata: {name: child}\nspec: {iterations: x}\n"
    path = files(tmp_path, child=child, parent=PARENT.replace("kl: 0.5", "kl: -1"))
    first, second = problems(path)
    assert first.startswith('child.yaml:5:20: spec.iterations: found the text "x"')
    assert second.startswith("parent.yaml:15:17: spec.trainer.kl: found -1, expected at least 0.0")


def test_a_leftover_of_another_variant_says_how_to_delete_it(tmp_path: Path) -> None:
    child = "extends: parent.yaml\nmetadata: {{name: child}}\nspec: {{controller: {{type: deterministic{}}}}}\n"
    path = files(tmp_path, child=child.format(""), parent=PARENT)
    (problem,) = problems(path)
    assert problem.startswith("parent.yaml:13:27: spec.controller.model: unknown key")
    files(tmp_path, child=child.format(", model: null"))
    assert load(path).experiment.spec.controller.type == "deterministic"


def test_a_key_missing_from_the_whole_chain_points_at_the_child(tmp_path: Path) -> None:
    child = "extends: parent.yaml\nmetadata: {name: child}\nspec:\n  rollout: {trials: 2}\n"
    path = files(tmp_path, child=child, parent=PARENT.replace("rollout: {tasks: 2}", "rollout: {}"))
    assert problems(path)[0].startswith("child.yaml:6:3: spec.rollout.tasks: missing")


def test_each_file_carries_its_version(tmp_path: Path) -> None:
    path = files(tmp_path, child="extends: parent.yaml\nmetadata: {name: child}\n", parent=PARENT)
    (tmp_path / "parent.yaml").write_text("apiVersion: sentinel.dev/v2\n")
    assert problems(path)[0].startswith("parent.yaml:1:13: apiVersion: found 'sentinel.dev/v2'")


def test_own_tasks_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.jsonl").touch()
    files(tmp_path / "sub", parent=PARENT.replace("general: 4", "general: 4, extra: own.jsonl"))
    child = files(tmp_path, child="extends: sub/parent.yaml\nmetadata: {name: child}\n")
    monkeypatch.chdir(tmp_path)
    assert load(child).experiment.spec.seed_tasks.extra == "sub/own.jsonl"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(max_codepoint=0xD7FF), max_size=8)
)
keys = st.sampled_from("abcd")
trees = st.dictionaries(
    keys, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=8)
)


def tree(data: dict[str, Any]) -> Any:
    return Reader(Source(Path("x.yaml"), (json.dumps(data),))).read()


@given(trees)
def test_reading_gives_the_data_that_was_written(data: dict[str, Any]) -> None:
    assert tree(data).plain() == data


@given(trees, trees)
def test_merging_is_a_recursive_update(parent: dict[str, Any], child: dict[str, Any]) -> None:
    def update(old: Any, new: Any) -> Any:
        if not isinstance(old, dict) or not isinstance(new, dict):
            return new
        kept = {key: value for key, value in old.items() if key not in new}
        changed = {key: update(old[key], value) if key in old else value for key, value in new.items()}
        return kept | {key: value for key, value in changed.items() if not (key in old and new[key] is None)}

    assert merge(tree(parent), tree(child)).plain() == update(parent, child)


def test_a_chain_keeps_the_order_of_its_files(tmp_path: Path) -> None:
    path = files(tmp_path, child="extends: parent.yaml\nmetadata: {name: child}\n", parent=PARENT)
    assert [source.path.name for source in read_chain(path).sources] == ["child.yaml", "parent.yaml"]
