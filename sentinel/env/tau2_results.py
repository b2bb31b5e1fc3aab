"""tau2's own result files, read strictly: which task each simulation played, what it did, and what it was given for it.

    stored = read_results(path, json.loads(text), benchmark_tasks("tau2-base"))

Published files carry wrong `task_id`s, or none. The gold actions that tau2 embeds in every scored simulation say which
task it was; where two tasks share a gold answer, the stored id or what had to be communicated decides. Simulations of
tasks that this set does not have are kept, and named as unknown; one whose record is not whole is void, and says why.
Left out: `nl_assertions`, which need a judge.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from sentinel.artifacts import canonical
from sentinel.errors import ArtifactError
from sentinel.records import Ending, Json, Message, Role, Task, ToolCall, VoidReason

LONGEST = 20_000_000
"""Characters of one message or of one call's arguments."""
ENDED = frozenset({"user_stop", "agent_stop"})
"""Terminations that tau2 scores; any other is worth nothing."""
OUT_OF_TURNS = frozenset({"max_steps"})
VOID = {"infrastructure_error": VoidReason.infrastructure, "user_error": VoidReason.user_simulator}
"""Terminations that say nothing about the agent."""


class Observed(NamedTuple):
    """A call of the agent, and what it was answered at the time (`None`: not comparable)."""

    call: ToolCall
    answer: str | None


class Stored(NamedTuple):
    """A stored episode, ready to be scored again."""

    place: str
    """Where it stands in its file."""
    task: Task | None
    given: str | None
    """The task id that the file gives."""
    trial: int
    calls: tuple[Observed, ...]
    texts: tuple[str, ...]
    messages: tuple[Message, ...]
    """The conversation as our records have it; a greeting of the agent is turn 0."""
    ending: Ending
    void: VoidReason | None
    reward: float | None
    basis: str
    """What the stored reward is the product of."""
    flaw: str = ""
    """In what the record is not whole; then the episode is void."""

    @property
    def ended(self) -> bool:
        """By the user or the agent; what was cut off scores nothing."""
        return self.ending is Ending.user_stop


class _Call(BaseModel):
    id: str = ""
    name: str
    arguments: dict[str, Json]


class _Message(BaseModel):
    id: str = ""
    role: str
    content: str | None = None
    tool_calls: list[_Call] | None = None
    error: bool | None = None


class _Check(BaseModel):
    action: _Call


class _Said(BaseModel):
    info: str


class _RewardInfo(BaseModel):
    reward: float
    db_check: Json = None
    action_checks: list[_Check] | None = None
    communicate_checks: list[_Said] | None = None
    reward_basis: list[str] | None = None


TaskId = Annotated[str, Field(coerce_numbers_to_str=True)]
"""tau2's ids are strings; the running numbers in their place are sometimes not."""


class _Simulation(BaseModel):
    task_id: TaskId | None = None
    trial: int | None = None
    termination_reason: str
    messages: list[_Message]
    reward_info: _RewardInfo | None = None


class _Criteria(BaseModel):
    actions: list[_Call] | None = None
    communicate_info: list[str] | None = None


class _Task(BaseModel):
    id: TaskId
    evaluation_criteria: _Criteria | None = None


class _Domain(BaseModel):
    domain_name: str = "retail"


class _Info(BaseModel):
    environment_info: _Domain | None = None


class _Results(BaseModel):
    info: _Info | None = None
    tasks: list[_Task] | None = None
    simulations: Annotated[list[_Simulation], Field(min_length=1)]


Solution = tuple[str, tuple[str, ...] | None]
"""Gold actions as canonical JSON, and what had to be communicated (`None`: not known)."""


def read_results(path: Path, document: Json, tasks: Sequence[Task]) -> list[Stored]:
    """The simulations of a parsed result file of the retail domain; errors name the place in the file."""
    try:
        results = _Results.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ArtifactError(path, f"not a tau2 result file: {_place(first['loc'])}: {first['msg']}") from None
    domain = results.info and results.info.environment_info
    if domain and domain.domain_name != "retail":
        raise ArtifactError(path, f"its domain is '{domain.domain_name}'; only retail can be scored again")
    played = _identify(results, tasks)
    return [
        _stored(f"simulations[{number}]", simulation, task)
        for number, (simulation, task) in enumerate(zip(results.simulations, played, strict=True))
    ]


def _place(location: Iterable[str | int]) -> str:
    """`simulations[3].messages[5].content`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _stored(place: str, simulation: _Simulation, task: Task | None) -> Stored:
    ended = simulation.termination_reason in ENDED
    said = simulation.reward_info
    calls: tuple[Observed, ...] = ()
    flaw = ""
    try:
        _check(simulation)
        calls = tuple(_calls(simulation.messages)) if ended else ()
    except _NotWholeError as error:
        flaw = str(error)
    return Stored(
        place=place,
        task=task,
        given=simulation.task_id,
        trial=simulation.trial or 0,
        calls=calls,
        texts=tuple(m.content for m in simulation.messages if m.role == "assistant" and m.content),
        messages=tuple(_messages(simulation.messages)),
        ending=_ending(simulation.termination_reason),
        void=VOID.get(simulation.termination_reason) or (VoidReason.infrastructure if flaw else None),
        reward=said.reward if said and isfinite(said.reward) else None,
        basis="+".join(said.reward_basis or ()) if said else "",
        flaw=flaw,
    )


class _NotWholeError(Exception):
    """In what the record of an episode is not whole, and where."""


def _check(simulation: _Simulation) -> None:
    """tau2 writes no messages for a sample that it skipped."""
    if not simulation.messages:
        raise _NotWholeError(f"no messages: the sample was skipped ({simulation.termination_reason})")
    for number, message in enumerate(simulation.messages):
        sizes = [len(message.content or ""), *(len(canonical(call.arguments)) for call in message.tool_calls or ())]
        if max(sizes) > LONGEST:
            raise _NotWholeError(f"messages[{number}]: {max(sizes):,} characters; at most {LONGEST:,}")


def _ending(termination: str) -> Ending:
    if termination in ENDED:
        return Ending.user_stop
    return Ending.out_of_turns if termination in OUT_OF_TURNS else Ending.error


def _messages(messages: Iterable[_Message]) -> Iterator[Message]:
    """Turns count the agent's messages; calls that the user makes are none of ours."""
    turn = -1
    for message in messages:
        turn += message.role == "assistant"
        text = message.content or ""
        mine = message.tool_calls if message.role == "assistant" else None
        if message.role in set(Role):
            yield Message(
                role=Role(message.role),
                content=text,
                tool_calls=tuple(ToolCall(name=call.name, arguments=call.arguments) for call in mine or ()),
                error=message.role == "tool" and (message.error or text.startswith("Error")),
                turn=max(turn, 0),
            )


def _calls(messages: Sequence[_Message]) -> Iterable[Observed]:
    """The agent's calls with their answers; a conversation that ended in order has an answer to every call."""
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        for call in message.tool_calls or ():
            answer = messages[position] if position < len(messages) else None
            if answer is None or answer.role != "tool" or answer.id != call.id:
                raise _NotWholeError(f"messages[{position}]: the answer to {call.name} is missing: truncated")
            position += 1
            if message.role == "assistant":
                yield Observed(ToolCall(name=call.name, arguments=call.arguments), answer.content or "")
    if messages[-1].role not in ("user", "assistant"):
        raise _NotWholeError("messages: nobody ends the conversation: truncated")


def _solution(actions: Iterable[_Call | ToolCall], communicate: Iterable[str] | None) -> Solution:
    gold = canonical([[action.name, action.arguments] for action in actions])
    return gold, None if communicate is None else tuple(communicate)


def _identify(results: _Results, tasks: Sequence[Task]) -> list[Task | None]:
    """The task of every simulation; of tasks with equal solutions the stored one, else the one least played so far."""
    own = {task.id: task.evaluation_criteria for task in results.tasks or ()}
    by_gold: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_gold[_solution(task.gold, None)[0]].append(task)
    by_id = {task.id: task for task in tasks}
    candidates = [_candidates(simulation, own, by_gold, by_id) for simulation in results.simulations]
    certain = [found[0] if len(found) == 1 else None for found in candidates]
    used = Counter(task.id for task in certain if task)
    for number, found in enumerate(candidates):
        if len(found) > 1:
            task = certain[number] = min(found, key=lambda task: used[task.id])
            used[task.id] += 1
    return certain


def _candidates(
    simulation: _Simulation,
    own: dict[str, _Criteria | None],
    by_gold: dict[str, list[Task]],
    by_id: dict[str, Task],
) -> list[Task]:
    """The tasks that this simulation may have played: by its embedded solution, else by its id."""
    given = simulation.task_id
    solution = _embedded(simulation.reward_info)
    if solution is None and given in own and (criteria := own[given]):
        solution = _solution(criteria.actions or (), criteria.communicate_info or ())
    if solution is None:
        return [by_id[given]] if given in by_id else []
    gold, communicate = solution
    found = by_gold.get(gold, [])
    told = [task for task in found if communicate is None or task.communicate == communicate] or found
    return [task for task in told if task.id == given] or told


def _embedded(info: _RewardInfo | None) -> Solution | None:
    """The solution that tau2 scored against; it embeds no list where there was nothing to do or to say."""
    if info is None or (info.action_checks is None and info.db_check is None):
        return None
    told = [check.info for check in info.communicate_checks or ()]
    return _solution((check.action for check in info.action_checks or ()), told)
