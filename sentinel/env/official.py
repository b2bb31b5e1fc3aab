"""tau2's official verdict, fast enough to ask a thousand times.

    judge = Judge(world)
    judge.reward(task, played)            # tau2's evaluate_simulation over one shared database
    judge.reward_untouched(task, played)  # the same, nothing shared: for benchmark tasks

Both call `tau2.evaluator.evaluator.evaluate_simulation` with EvaluationType.ALL on a trajectory of tau2 messages: it
replays every call, compares every observation, replays the gold actions in a second environment, and compares the
hashes of the two databases. Untouched, it parses and hashes the whole database twice (0.3 CPU s). What `reward` shares,
and nothing more:

- the parsed database: the predicted and the gold environment get one of two copies each, in which the records that an
  earlier environment accessed were put back;
- the JSON text of records that were not accessed: the hash is the SHA-256 of the same bytes that tau2 would hash
  (`sentinel.env.shared`).

Importing this module costs 3 to 5 s, because tau2's evaluator imports litellm.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sentinel.env.overlay import KINDS, ToolResult, World, validated
from sentinel.env.retail import Environment, RetailDB, RetailTools, quiet
from sentinel.env.shared import Shared, pair
from sentinel.env.tau2 import as_tau2
from sentinel.records import OriginKind, Task, ToolCall

with quiet():
    from tau2.data_model import message as tau2_message
    from tau2.data_model.simulation import SimulationRun, TerminationReason
    from tau2.data_model.tasks import Task as OfficialTask
    from tau2.domains.retail.environment import get_tasks
    from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
    from tau2.registry import registry

_numbers = itertools.count()


class Played(NamedTuple):
    """An episode to be judged: tool calls with their observations, then what the agent told the user."""

    calls: Sequence[tuple[ToolCall, ToolResult]]
    texts: Sequence[str]


class SharedTools(Shared, RetailTools):  # type: ignore[misc]
    """tau2's retail tools over a restored shared database."""


class Judge:
    """tau2's evaluator for the tasks of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._base = pair(world.db)
        self._pair = self._base
        self._domain = f"sentinel-{next(_numbers)}"
        registry.register_domain(self._environment, self._domain)

    def _environment(self, solo_mode: bool = False) -> Environment:
        return Environment("retail", policy="", tools=SharedTools(next(self._pair)), solo_mode=solo_mode)

    def reward(self, task: Task, played: Played) -> float:
        """tau2's reward.

        Raises:
            ValueError: a replayed call answered otherwise than was observed.
        """
        return self.verdict(task, self._take(task), _run(task, _messages(task, played)))

    def environment(self, task: Task) -> Environment:
        """tau2's environment at the start of a task, for tau2's Orchestrator; good until the task is judged."""
        self._take(task)
        return self._environment()

    def conducted(self, task: Task, run: SimulationRun) -> float:
        """tau2's reward of a conversation that its Orchestrator conducted in `environment`."""
        return self.verdict(task, self._domain, run)

    def verdict(self, task: Task, domain: str, run: SimulationRun) -> float:
        """The reward of a run in a registered domain."""
        verdict = evaluate_simulation(run, official_task(task), EvaluationType.ALL, solo_mode=False, domain=domain)
        return float(verdict.reward)

    def _take(self, task: Task) -> str:
        """Have the next environments hold the task's records; the name of their domain."""
        self._pair = pair(self._merged(task)) if task.records else self._base
        return self._domain

    def _merged(self, task: Task) -> RetailDB:
        own = validated(task.records)
        return RetailDB.model_construct(**{kind: getattr(self._world.db, kind) | own.get(kind, {}) for kind in KINDS})

    def reward_untouched(self, task: Task, played: Played) -> float:
        """tau2's reward of a benchmark task in tau2's own environments."""
        return self.verdict(task, "retail", _run(task, _messages(task, played)))


@cache
def _benchmark() -> dict[str, OfficialTask]:
    return {task.id: task for task in get_tasks(None)}


def official_task(task: Task) -> OfficialTask:
    """tau2's own task object for a benchmark task, and one of our making for any other."""
    if task.origin.kind is OriginKind.benchmark:
        return _benchmark()[task.id]
    return OfficialTask.model_validate(as_tau2(task, own_records=False))


def _messages(task: Task, played: Played) -> list[Any]:
    messages: list[Any] = [
        tau2_message.AssistantMessage(role="assistant", content="Hi! How can I help you today?"),
        tau2_message.UserMessage(role="user", content=task.scenario.reason_for_call),
    ]
    for number, (call, result) in enumerate(played.calls):
        wire = tau2_message.ToolCall(id=str(number), name=call.name, arguments=call.arguments)
        messages.append(tau2_message.AssistantMessage(role="assistant", tool_calls=[wire]))
        messages.append(
            tau2_message.ToolMessage(
                id=str(number), role="tool", content=result.text, requestor="assistant", error=result.error
            )
        )
    messages += [tau2_message.AssistantMessage(role="assistant", content=text) for text in played.texts]
    return [*messages, tau2_message.UserMessage(role="user", content="###STOP###")]


def _run(task: Task, messages: list[Any]) -> SimulationRun:
    return SimulationRun(
        id=task.id,
        task_id=task.id,
        start_time="",
        end_time="",
        duration=0.0,
        termination_reason=TerminationReason.USER_STOP,
        messages=messages,
    )
