"""Every fault of a spec is reported where it stands. In the cases, ▸ marks the place that the message must name."""

from pathlib import Path

import pytest

from sentinel.errors import SpecError
from sentinel.spec import check, load

VALID = """\
apiVersion: sentinel.dev/v1alpha1
kind: Experiment
metadata:
  name: small
spec:
  seed: 7
  iterations: 1
  environment:
    world: {type: synthetic}
    user: {type: scripted}
  base: {name: small}
  policy: {type: tiny}
  warmup: {clean_steps: 1, weaknesses: {ask: 0.5}}
  seed_tasks:
    general: 4
    dev: 2
    demonstrations: 4
    evaluate: {set: synthetic, tasks: 2}
  rollout: {tasks: 2}
  controller: {type: deterministic}
  proposer: {tasks: 2}
  trainer: {learning_rate: 1e-6, group_size: 2}
  evaluator: {trials: 4}
"""

CASES = {
    "unknown key": (
        "tasks: 2}\n  controller",
        "▸taks: 2, tasks: 2}\n  controller",
        "rollout.taks: unknown key; did you mean 'tasks'?",
    ),
    "camelCase": ("group_size: 2", "▸groupSize: 2", "trainer.groupSize: unknown key; did you mean 'group_size'?"),
    "unlike any key": (
        "base: {name",
        "base: {▸xyz: 1, name",
        "base.xyz: unknown key, expected one of name, seed",
    ),
    "place in science": (
        "iterations: 1",
        "▸gpus: 8\n  iterations: 1",
        "gpus: unknown key; it says where an experiment runs",
    ),
    "number as text": (
        "learning_rate: 1e-6",
        'learning_rate: ▸"1e-6"',
        'trainer.learning_rate: found the text "1e-6", expected a number; it is written as text: remove the quotes',
    ),
    "text for a number": ("seed: 7", "seed: ▸seven", 'seed: found the text "seven", expected a whole number'),
    "number for text": ("base: {name: small}", "base: {name: ▸7}", "base.name: found 7, expected text"),
    "fraction": ("general: 4", "general: ▸4.5", "seed_tasks.general: found 4.5, expected a whole number"),
    "bool for a number": ("seed: 7", "seed: ▸true", "seed: found true, expected a whole number"),
    "text for a map": (
        "base: {name: small}",
        "base: ▸small",
        'base: found the text "small", expected a map with name, seed',
    ),
    "text for a union": (
        "world: {type: synthetic}",
        "world: ▸tau2",
        'environment.world: found the text "tau2", expected a map: `{type: tau2, …}` or `{type: synthetic, …}`',
    ),
    "wrong type of a union": (
        "user: {type: scripted}",
        "user: {type: ▸scriptd}",
        "environment.user.type: found the text \"scriptd\", expected one of 'scripted', 'llm'; did you mean",
    ),
    "no type of a union": (
        "user: {type: scripted}",
        "▸user: {temperature: 0.5}",
        "environment.user.type: missing, expected one of 'scripted', 'llm'",
    ),
    "key of another variant": (
        "user: {type: scripted}",
        "user: {type: scripted, ▸temperature: 1}",
        "environment.user.temperature: unknown key",
    ),
    "wrong choice": (
        "world: {type: synthetic}",
        "world: {type: synthetic, ids: ▸atomc}",
        "environment.world.ids: found the text \"atomc\", expected 'atomic' or 'natural'; did you mean 'atomic'?",
    ),
    "missing key": (
        "seed: 7\n  iterations",
        "iterations",
        "seed: missing, expected: Everything random derives from it",
    ),
    "null": ("seed: 7", "seed: ▸null", "seed: found null, expected a whole number"),
    "iterations 0": ("iterations: 1", "iterations: ▸0", "iterations: found 0, expected at least 1"),
    "group size 1": ("group_size: 2", "group_size: ▸1", "trainer.group_size: found 1, expected at least 2"),
    "top_p in training": ("group_size: 2", "top_p: ▸0.9", "trainer.top_p: 0.9 truncates the sampling distribution"),
    "top_k in rollouts": (
        "rollout: {",
        "rollout: {top_k: ▸50, ",
        "rollout.top_k: 50 truncates the sampling distribution",
    ),
    "not finite": ("group_size: 2", "kl: ▸.inf", "trainer.kl: found Infinity, expected a finite number"),
    "share above 1": ("ask: 0.5", "ask: ▸1.5", "warmup.weaknesses.ask: found 1.5, expected at most 1.0"),
    "unknown skill": (
        "ask: 0.5",
        "▸aks: 0.5",
        "warmup.weaknesses.aks: unknown skill 'aks', expected one of ask, variant",
    ),
    "band of three": (
        "group_size: 2",
        "clip: ▸[0.1, 0.2, 0.3]",
        "trainer.clip: found a list of 3, expected at most 2 items",
    ),
    "item of a list": (
        "trials: 4",
        "trials: 4, k: [1, ▸x]",
        'evaluator.k[1]: found the text "x", expected a whole number',
    ),
    "no k": ("trials: 4", "k: ▸[]", "evaluator.k: found a list of 0, expected at least 1 items"),
    "name that is no label": (
        "base: {name: small}",
        "base: {name: ▸Small_1}",
        'base.name: found the text "Small_1", expected text that matches',
    ),
    "rule with its field": (
        "trials: 4",
        "trials: 2, k: ▸[1, 3]",
        "evaluator.k: 3 needs at least as many trials, found trials: 2; write k: [1]",
    ),
    "no trial, no k": ("trials: 4", "trials: ▸0", "evaluator.trials: found 0, expected at least 1"),
    "nothing written": ("seed: 7", "seed:▸ # soon", "seed: found null, expected a whole number"),
    "nothing written in a list": ("clean_steps: 1,", "clean_steps:▸ ,", "warmup.clean_steps: found null"),
    "rule across sections": (
        "evaluate: {set: synthetic, tasks: 2}",
        "evaluate: {set: ▸tau2-base}",
        "seed_tasks.evaluate.set: 'tau2-base' does not belong to a world of type 'synthetic'",
    ),
    "untaught tiny policy": (
        "demonstrations: 4\n    evaluate: {set: synthetic, tasks: 2}\n  rollout",
        "evaluate: {set: synthetic, tasks: 2}\n  rollout",
        "policy.type: a tiny policy starts from random weights",
    ),
    "patterns of nobody": (
        "{type: deterministic}\n  proposer: {tasks: 2}",
        "{type: none}\n  proposer: {tasks: 2, targeting: ▸patterns}",
        "proposer.targeting: 'patterns' needs the directive of a controller",
    ),
    "a pretrained policy is given no demonstrations": (
        "policy: {type: tiny}\n  warmup: {clean_steps: 1, weaknesses: {ask: 0.5}}",
        "policy: {type: pretrained, model: m, revision: r}\n  warmup: {clean_steps: ▸1}",
        "warmup.clean_steps: demonstrations are for tiny policies; a pretrained one learns from stored conversations",
    ),
    "no file to imitate": (
        "clean_steps: 1,",
        "clean_steps: 1, imitation: {file: ▸none.jsonl, steps: 3},",
        "warmup.imitation.file: no such file ",
    ),
    "imitation of nothing": (
        "clean_steps: 1,",
        "clean_steps: 1, ▸imitation: {steps: 3},",
        "warmup.imitation.file: missing, expected: A `trajectories.jsonl` of ours or a result file of tau2",
    ),
    "missing own tasks": ("general: 4", "general: 4\n    extra: ▸own.jsonl", "seed_tasks.extra: no such file "),
}
PLACED_BY_HAND = {"missing key": "5:1", "untaught tiny policy": "12:18"}


@pytest.mark.parametrize(("old", "new", "message"), CASES.values(), ids=CASES)
def test_a_fault_is_reported_on_its_line(
    old: str, new: str, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert VALID.count(old) == 1
    marked = VALID.replace(old, new)
    place = PLACED_BY_HAND.get(request.node.callspec.id) or _marked_place(marked)
    path = tmp_path / "bad.yaml"
    path.write_text(marked.replace("▸", ""), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load(path)
    assert len(caught.value.problems) == 1
    head, line, caret = caught.value.problems[0].split("\n")
    assert head.startswith(f"{path}:{place}: spec.{message}")
    number, column = map(int, place.split(":"))
    assert line == f"{number:>6} | {path.read_text(encoding='utf-8').splitlines()[number - 1]}"
    assert caret == " " * 7 + "| " + " " * (column - 1) + "^"


def _marked_place(text: str) -> str:
    before = text.partition("▸")[0].split("\n")
    return f"{len(before)}:{len(before[-1]) + 1}"


UNREADABLE = {
    "duplicate key": (
        b"apiVersion: sentinel.dev/v1alpha1\nkind: Experiment\nspec:\n  seed: 1\n  seed: 2\n",
        "5:3: spec.seed: duplicate key: line 4 has it already",
    ),
    "not YAML": (b"a: b: c", "1:5: not valid YAML: mapping values are not allowed here"),
    "unclosed": (
        b"a: [1,\n2",
        "2:2: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence, line 1)",
    ),
    "two documents": (b"a: 1\n---\nb: 2\n", "2:1: not valid YAML: but found another document"),
    "control character": (b"a: 1\nb: \x01", "2:4: not valid YAML: the character '\\x01' is not allowed"),
    "too deep": (b"a: " + b"[" * 500, "1:1: not valid YAML: nested too deeply"),
    "empty": (b"", "1:1: found no map"),
    "a list": (b"# only\n- 1\n", "2:1: found no map"),
    "alias": (b"a: &x [1]\nb: *x\n", "1:4: b: found an alias of this value"),
    "recursive alias": (b"a: &x [*x]\n", "1:4: a[0]: found an alias of this value"),
    "merge key": (b"<<: {a: 1}\n", "1:1: <<: found a key that is not text"),
    "tag": (b"a: !!python/name:os.system 1\n", "1:4: a: found the tag"),
    "tag on something else": (b"a: !!int x\n", "1:4: a: found x, which cannot be read as int"),
    "endless number": (b"a: " + b"9" * 5000, "1:4: a: found 999"),
    "number as key": (b"a: {1: 2}\n", "1:5: a.1: found a key that is not text"),
    "no version": (b"kind: Experiment\n", "1:1: apiVersion: missing, expected 'sentinel.dev/v1alpha1'"),
    "unknown version": (
        b"kind: Experiment\napiVersion: sentinel.dev/v1alpha0\n",
        "2:13: apiVersion: found 'sentinel.dev/v1alpha0', expected 'sentinel.dev/v1alpha1'",
    ),
    "no kind": (
        b"apiVersion: sentinel.dev/v1alpha1\n",
        "1:1: kind: missing, expected 'Experiment' or 'Profile' or 'Study'",
    ),
    "unknown kind": (
        b"apiVersion: sentinel.dev/v1alpha1\nkind: Experment\n",
        "2:7: kind: found 'Experment', expected 'Experiment' or 'Profile' or 'Study'; did you mean 'Experiment'?",
    ),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_is_no_document_is_reported_where_it_breaks(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        check(path)
    assert any(problem.startswith(f"{path}:{message}") for problem in caught.value.problems)


def test_what_yaml_would_let_pass_is_told_with_all_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(VALID.replace("seed: 7", "seed: 7\n  seed: 8\n  sed: 9").replace("iterations: 1", "iteratoins: 1"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [problem.split("\n")[0].removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "7:3: spec.seed: duplicate key: line 6 has it already; keep one of them",
        "8:3: spec.sed: unknown key; did you mean 'seed'?",
        "9:3: spec.iteratoins: unknown key; did you mean 'iterations'?",
    ], "a mistyped key is not missing as well"


def test_fewer_trials_are_a_change_of_one_value(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(VALID.replace("trials: 4", "trials: 3"))
    assert load(path).experiment.spec.evaluator.k == (1, 2, 3)


def test_the_folder_of_the_bases_is_no_name(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(VALID.replace("  name: small", "  name: bases"))
    with pytest.raises(SpecError, match=r"spec\.yaml:4:9: metadata\.name: 'bases' is the folder of the bases"):
        load(path)


def test_a_fault_is_data_too(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(VALID.replace("seed: 7", "seed: x"))
    with pytest.raises(SpecError) as caught:
        load(path)
    (fault,) = caught.value.faults
    assert fault[:5] == ('found the text "x", expected a whole number', str(path), 6, 9, "spec.seed")


def test_all_faults_of_a_file_are_reported_in_the_order_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    faults = {
        "seed: 7": "seed: x",
        "iterations: 1": "iterations: 0",
        "trials: 4": "trails: 4",
        "general: 4": "extra: none.jsonl",
    }
    text = VALID
    for old, new in faults.items():
        text = text.replace(old, new)
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(path)
    lines = [int(problem.removeprefix(f"{path}:").split(":")[0]) for problem in caught.value.problems]
    assert lines == [6, 7, 14, 15, 23]
    assert str(caught.value) == "\n".join(caught.value.problems)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "nowhre.yaml").write_text(VALID)
    with pytest.raises(SpecError) as caught:
        check(tmp_path / name)
    expected = (
        "no such file; did you mean 'nowhre.yaml'?" if name.endswith("yaml") else "cannot be read: Is a directory"
    )
    assert caught.value.problems == [f"{tmp_path / name}: {expected}"]


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Zürich".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin.yaml: not UTF-8 text \(byte 7 is 0xfc\)"):
        check(path)


def test_a_long_line_is_cut_around_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("a: {" + ", ".join(f"key{i}: 1" for i in range(100)) + ", key7: 2}")
    with pytest.raises(SpecError) as caught:
        check(path)
    _, line, caret = caught.value.problems[0].split("\n")
    assert len(line) < 160
    assert line[caret.index("^") :].startswith("key7: 2")
