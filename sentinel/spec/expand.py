"""The experiments of a file: the one it holds, or those that a study expands into.

    [one.experiment.metadata.name for one in members(Path("experiments/studies/retail-cpu-arms.yaml"))]

A member is its arm's experiment with the arm's changes, its own name and one of the seeds laid over it, by the same
merge as `extends`: every value, and every fault, keeps the place where it stands, in the study or in what it extends.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

from sentinel.errors import Fault, SpecError
from sentinel.spec.document import Document, read, validate
from sentinel.spec.extends import Chain, merge, read_chain
from sentinel.spec.load import Loaded, find_files, loaded
from sentinel.spec.models import Experiment, Section
from sentinel.spec.source import Node, Problem, failure
from sentinel.spec.study import Study, member_name

KINDS: dict[str, type[Section]] = {"Experiment": Experiment, "Study": Study}


def members(path: Path) -> list[Loaded]:
    """The experiments of an experiment or study file, in the order of its arms and seeds; errors as `arms`."""
    return [one for arm in arms(path).values() for one in arm]


def arms(path: Path) -> dict[str, list[Loaded]]:
    """Arm -> its experiments, one a seed; an experiment file is the one arm that bears its name.

    Raises:
        SpecError: Every fault, each with its line; one that several members inherit is told once.
    """
    document = read(path, KINDS, find_files)
    content = document.content
    if isinstance(content, Experiment):
        return {content.metadata.name: [loaded(Document(content, document.chain))]}
    assert isinstance(content, Study), "there are two kinds"
    found: dict[str, list[Loaded]] = {arm: [] for arm in content.spec.arms}
    faults: dict[Fault, None] = {}
    for arm, (number, seed) in itertools.product(found, enumerate(content.spec.seeds)):
        try:
            found[arm].append(_member(document.chain, arm, number, member_name(content.metadata.name, arm, seed)))
        except SpecError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise SpecError(faults)
    return found


def _member(study: Chain, arm: str, number: int, name: str) -> Loaded:
    node, seed = study.root.find("spec", "arms", arm), study.root.find("spec", "seeds")
    assert node and seed, "the study is valid"
    chain = _chain(node, arm)
    here = node.head
    overlay = {
        "metadata": Node({"name": Node(name, here, here)}, here, here),
        "spec": _changes(node, arm, _item(seed, number)),
    }
    merged = merge(chain.root, replace(node, value=overlay))
    whole = Chain(merged, (*study.sources, *(source for source in chain.sources if source not in study.sources)))
    return loaded(validate(whole, {"Experiment": Experiment}, find_files))


def _item(node: Node, number: int) -> Node:
    found = node.get(number)
    assert found, "a list that is valid has its items"
    return found


def _chain(node: Node, arm: str) -> Chain:
    """The experiment that an arm extends."""
    extends = node.get("extends")
    assert extends, "the study is valid"
    path = Path(os.path.normpath(extends.place.source.path.parent / str(extends.value)))
    if not path.is_file():
        raise failure([Problem(extends.place, f"spec.arms.{arm}.extends", f"no such file {path}")])
    return read_chain(path)


def _changes(node: Node, arm: str, seed: Node) -> Node:
    """The arm's own `spec`, with the seed."""
    own = node.get("spec")
    if own and (given := own.get("seed")):
        text = "a study gives the seeds itself: remove it, or add it to spec.seeds"
        raise failure([Problem(given.head, f"spec.arms.{arm}.spec.seed", text)])
    return replace(own or node, value={**(own.children if own else {}), "seed": seed})
