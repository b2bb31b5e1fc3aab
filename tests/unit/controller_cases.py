"""Episodes for the Controller's tests: tau2's own tools, generated tasks, and agents that follow a script of moves."""

from collections.abc import Sequence
from functools import cache

from sentinel.env.overlay import WRITE_TOOLS, World
from sentinel.env.scoring import gold_delta, score
from sentinel.env.users import STOP, ScriptedUser
from sentinel.proposer.conditions import conditions
from sentinel.proposer.trajectory import generate, synthetic_scenes
from sentinel.records import (
    Counts,
    Ending,
    Json,
    Message,
    Origin,
    OriginKind,
    Outcome,
    Role,
    Task,
    ToolCall,
    Trajectory,
    VoidReason,
)
from sentinel.seeds import generator
from sentinel.spec.models import SyntheticWorld

CONFIRM = "Shall I go ahead, yes or no?"
DONE = "It is done. Is there anything else?"
DENY = "I am sorry, I cannot do that."
TRANSFERRED = "YOU ARE BEING TRANSFERRED TO A HUMAN AGENT. PLEASE HOLD ON."
TRANSFER = ToolCall(name="transfer_to_human_agents", arguments={"summary": "out of scope"})
Move = ToolCall | str


@cache
def empty_world() -> World:
    return World.from_data({})


@cache
def made(name: str, number: int = 0) -> Task:
    """A generated task of a condition, in an atomic world of its own."""
    scenes = synthetic_scenes(empty_world(), SyntheticWorld(type="synthetic", ids="atomic"))
    condition = next(condition for condition in conditions() if condition.condition == name)
    rng = generator("controller", name, number)
    task = generate(
        condition, scenes, rng, task_id=f"{name.replace('/', '-')}-{number}", origin=Origin(kind=OriginKind.general)
    )
    assert task is not None
    return task


def reads(task: Task) -> list[Move]:
    """What a perfect agent looks up."""
    return [call for call in task.gold if call.name not in WRITE_TOOLS and call.name != TRANSFER.name]


def writes(task: Task) -> list[ToolCall]:
    return [call for call in task.gold if call.name in WRITE_TOOLS]


def expert(task: Task) -> list[Move]:
    """The moves of a perfect agent."""
    if task.knobs.get("family") == "refuse":
        return [*reads(task), DENY]
    if task.knobs.get("family") == "transfer":
        return [*reads(task), TRANSFER, TRANSFERRED]
    return [*reads(task), CONFIRM, *writes(task), DONE]


def changed(call: ToolCall, **arguments: Json) -> ToolCall:
    return call.model_copy(update={"arguments": call.arguments | arguments})


def replacing(moves: Sequence[Move], old: Move, *new: Move) -> list[Move]:
    """The moves with one of them replaced, or dropped."""
    assert old in moves
    return [other for move in moves for other in (new if move == old else (move,))]


def play(
    task: Task,
    moves: Sequence[Move],
    *,
    trial: int = 0,
    world: World | None = None,
    ending: Ending = Ending.user_stop,
    last_words: str = STOP,
) -> Trajectory:
    """Play the moves: tools answer as tau2's, the user is the scripted one (or just agrees, in benchmark tasks)."""
    world = world or empty_world()
    session = world.open(task.records)
    user = ScriptedUser(task.scenario) if task.scenario.intents else None
    messages = [Message(role=Role.user, content=user.opening() if user else "Hello.", turn=0)]
    for turn, move in enumerate(moves, 1):
        if isinstance(move, ToolCall):
            result = session.call(move)
            messages.append(Message(role=Role.assistant, tool_calls=(move,), turn=turn))
            messages.append(Message(role=Role.tool, content=result.text, error=result.error, turn=turn))
        else:
            messages.append(Message(role=Role.assistant, content=move, turn=turn))
            words = last_words if turn == len(moves) else user.reply(move) if user else "Yes, please."
            messages.append(Message(role=Role.user, content=words, turn=turn))
    return scored(task, messages, session.delta(), gold_delta(world, task), trial, ending)


def scored(
    task: Task,
    messages: Sequence[Message],
    delta: dict[str, dict[str, Json]],
    gold: dict[str, dict[str, Json]],
    trial: int = 0,
    ending: Ending = Ending.user_stop,
) -> Trajectory:
    """A trajectory with its executable reward; only an episode that the user ended can succeed."""
    texts = [message.content for message in messages if message.role is Role.assistant]
    reward = score(task, delta, gold, texts)
    success = reward.total == 1.0 and ending is Ending.user_stop
    errors = sum(message.error for message in messages)
    turns = max((message.turn for message in messages), default=0)
    return Trajectory(
        task=task,
        trial=trial,
        seed=trial,
        policy="scripted",
        messages=tuple(messages),
        ending=ending,
        outcome=Outcome.success if success else Outcome.failure,
        reward=reward,
        world_delta=delta,
        gold_delta=gold,
        counts=Counts(turns=turns, tokens=0, errors=errors),
    )


def voided(played: Trajectory, reason: VoidReason) -> Trajectory:
    return played.model_copy(update={"outcome": Outcome.void, "void_reason": reason, "reward": None})
