"""How fast are episodes without a model? The 114 gold conversations through tau2's runner and through our pool.

    python -m tests.bench.episodes --json

Both sides play the same: each gold call in a turn of its own, one message that says what has to be said, and a user who
then leaves; and both score it. tau2: a fresh environment, `Orchestrator.run`, `evaluate_simulation`. Ours: `play` with
the scripted engine in a fresh arena, gold answers replayed, trajectories and token buffers built. One thread, CPU
seconds, so a busy machine changes little; each side's figure is the median of its runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from sentinel.env.overlay import World
from sentinel.env.retail import quiet
from sentinel.env.tau2 import benchmark_tasks
from sentinel.env.users import STOP
from sentinel.llm.engine import Limits
from sentinel.llm.scripted import ScriptedEngine
from sentinel.llm.templates import Hermes
from sentinel.records import Scenario, Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.demonstrator import Action, Demonstration
from sentinel.rollout.pool import assign, play
from sentinel.solver.demonstrations import Codebook

with quiet():
    from tau2.agent.base import LocalAgent
    from tau2.data_model import message as tau2_message
    from tau2.domains.retail.environment import get_environment, get_tasks
    from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
    from tau2.orchestrator.orchestrator import Orchestrator
    from tau2.user.base import BaseUser
    from tau2.user.user_simulator import UserState

ROOMY = 100_000
"""A context, in tokens, that no episode fills; turns as well."""


class Timed(NamedTuple):
    """The rewards of one pass over all tasks, and its CPU seconds."""

    rewards: list[float]
    seconds: float


def gold_conversation(task: Task) -> list[Action]:
    """What the gold agent does, turn by turn."""
    return [*task.gold, " ".join(task.communicate) or "It is done."]


class LeavingUser:
    """Says what it wants, and leaves at the first answer."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def opening(self) -> str:
        return self._scenario.reason_for_call

    def reply(self, text: str) -> str:
        return STOP


def leaving(task: Task, seed: int, unfinished: Callable[[], bool]) -> LeavingUser:
    """The user of a benchmark task, without a model."""
    return LeavingUser(task.scenario)


def ours(tasks: Sequence[Task]) -> Timed:
    """One pass through our pool; nothing but tau2's database is kept from an earlier one."""
    began = time.process_time()
    arena = Arena(World.tau2(), Hermes(), Codebook(), "json", ROOMY, ROOMY, user=leaving)
    played = play(
        assign(tasks, 1, "bench"),
        arena,
        ScriptedEngine(),
        Limits(1.0, ROOMY, ROOMY),
        chunk=len(tasks),
        episode=lambda assignment, arena: Demonstration(assignment, arena, gold_conversation(assignment.task)),
    )
    seconds = time.process_time() - began
    return Timed([p.trajectory.reward.total for p in played if p.trajectory.reward], seconds)


class GoldAgent(LocalAgent):  # type: ignore[misc]
    """The gold agent as tau2 knows agents."""

    def __init__(self, environment: Any, task: Task) -> None:
        super().__init__(environment.get_tools(), environment.get_policy())
        self._turns = iter(gold_conversation(task))

    def get_init_state(self, message_history: Any = None) -> None:
        return None

    def generate_next_message(self, message: Any, state: None) -> tuple[Any, None]:
        turn = next(self._turns)
        if isinstance(turn, str):
            return tau2_message.AssistantMessage(role="assistant", content=turn), None
        call = tau2_message.ToolCall(id=turn.name, name=turn.name, arguments=turn.arguments)
        return tau2_message.AssistantMessage(role="assistant", tool_calls=[call]), None


class Leaving(BaseUser):  # type: ignore[misc]
    """Our user as tau2 knows users."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        user = LeavingUser(scenario)
        self._words: Iterable[str] = iter((user.opening(), user.reply("")))

    def get_init_state(self, message_history: Any = None) -> Any:
        return UserState(system_messages=[], messages=[])

    @classmethod
    def is_stop(cls, message: Any) -> bool:
        return bool(message.content == STOP)

    def generate_next_message(self, message: Any, state: Any) -> tuple[Any, Any]:
        return tau2_message.UserMessage(role="user", content=next(iter(self._words))), state


def tau2s(tasks: Sequence[Task]) -> Timed:
    """One pass through tau2's runner and evaluator."""
    official = {task.id: task for task in get_tasks(None)}
    began = time.process_time()
    rewards = []
    for task in tasks:
        environment = get_environment()
        agent, user = GoldAgent(environment, task), Leaving(task.scenario)
        run = Orchestrator("retail", agent, user, environment, official[task.id]).run()
        verdict = evaluate_simulation(run, official[task.id], EvaluationType.ALL, False, "retail")
        rewards.append(float(verdict.reward))
    return Timed(rewards, time.process_time() - began)


def measure(side: Callable[[Sequence[Task]], Timed], tasks: Sequence[Task], runs: int) -> Timed:
    """The rewards of a side, and its median time over some passes, after one over a few tasks that warms it up."""
    side(tasks[:3])
    passes = [side(tasks) for _ in range(runs)]
    return Timed(passes[0].rewards, median(timed.seconds for timed in passes))


def compare(runs: int, tau2_runs: int) -> dict[str, Any]:
    """Both sides, measured."""
    tasks = benchmark_tasks("tau2-base")
    World.tau2()
    mine, theirs = measure(ours, tasks, runs), measure(tau2s, tasks, tau2_runs)
    return {
        "episodes": len(tasks),
        "runs": runs,
        "tau2_runs": tau2_runs,
        "ratio": round(theirs.seconds / mine.seconds, 1),
        "episodes_per_second": round(len(tasks) / mine.seconds, 1),
        "tau2_episodes_per_second": round(len(tasks) / theirs.seconds, 3),
        "same_rewards": mine.rewards == theirs.rewards,
        "rewarded": sum(mine.rewards),
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document and nothing else")
    parser.add_argument("--runs", type=int, default=15, help="passes over our pool")
    parser.add_argument("--tau2-runs", type=int, default=3, help="passes over tau2's runner, about a minute each")
    arguments = parser.parse_args()
    result = compare(arguments.runs, arguments.tau2_runs)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(f"{name.replace('_', ' '):26} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
