"""The planter of `tests.bench.diagnosis` knows nothing of what it tests, and its figures hold on a small sample."""

import ast
from pathlib import Path

import pytest

from tests.bench.diagnosis import PLANTERS, measure, synthetic_bases

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("name", ["planting", "agent_faults", "other_faults"])
def test_the_planter_imports_nothing_of_the_controller(name: str) -> None:
    tree = ast.parse((BENCH / f"{name}.py").read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules and not [module for module in modules if "controller" in module]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and "sentinel" in ast.unparse(node)]


def test_planted_faults_are_found_in_synthetic_conversations() -> None:
    result = measure(list(synthetic_bases(1)))
    assert len(PLANTERS) > 15 and result["trajectories"] > 400
    assert result["macro_precision"] >= 0.95 and result["macro_recall"] >= 0.95, result["wrong"]
    assert result["attribution_accuracy"] >= 0.97, result["wrong"]
