"""The records that stages exchange: the contract between components.

Everything that crosses a stage boundary as JSON is one of these models, or of `sentinel.descent`. They are strict (no
unknown key) and frozen; records carry `schema_version`. Weights and token ids lie beside them, as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 1
Json = Any
"""A JSON value: what a tool takes and returns."""


class Part(BaseModel):
    """A piece of a record."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Record(Part):
    """A line of a JSONL artifact, or a whole JSON artifact."""

    schema_version: Literal[1] = SCHEMA_VERSION


def digest(value: Json) -> str:
    """Content hash of a JSON value: 16 hex digits of SHA-256 over its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ToolCall(Part):
    """One call of a tool of the environment, by the name and arguments that tau2 uses."""

    name: str
    arguments: dict[str, Json] = Field(default_factory=dict)


class OriginKind(StrEnum):
    """Where a task comes from."""

    benchmark = "benchmark"
    general = "general"
    targeted = "targeted"


class Origin(Part):
    """Line of descent of a task."""

    kind: OriginKind
    pattern: str | None = None
    """The id of the pattern it was made for (targeted tasks only)."""
    parent: str | None = None
    """The id of the failed task the pattern was seen in."""


class Intent(Part):
    """One thing the user wants; what the scripted user reveals, and when.

    `facts` maps the name of a fact (`order`, `reason`, `payment`, `address`, `item`, `choice`, …) to the words in
    which the user says it; the opening message contains those in `volunteered`, the others come when asked for.
    """

    request: str
    """The opening words of this request, without facts that are withheld."""
    facts: dict[str, str] = Field(default_factory=dict)
    confirms: bool = True
    """Whether the user agrees when the agent asks for confirmation; a user who declines wants nothing changed."""
    correction: str = Field(default="", exclude_if=lambda text: not text)
    """What the user says instead when it is first asked to confirm; it agrees to what is then proposed."""
    if_refused: str = Field(default="", exclude_if=lambda text: not text)
    """What the user asks for once it has heard that the request cannot be met."""


class Scenario(Part):
    """What the user simulator knows and wants; the first four fields are those of tau2's `UserInstructions`."""

    reason_for_call: str
    known_info: str = ""
    unknown_info: str = ""
    instructions: str = ""
    identity: str = ""
    """The words in which the scripted user identifies itself when asked (e-mail, or name and zip code)."""
    identity_volunteered: bool = True
    intents: tuple[Intent, ...] = ()
    """For the scripted user; empty for benchmark tasks, which need an LLM user or a gold agent."""


class Task(Record):
    """A task: a world, a user who wants something, and the executed gold answer.

    `records` are the task's own users, orders and products, laid over the shared base world (tau2 calls this
    `initialization_data.agent_data`); `avoid` are statements that the agent must not make (a false "I cannot").
    """

    id: str
    domain: str = "retail"
    world: str
    """Hash of the base world the task is played in."""
    records: dict[str, dict[str, Json]] = Field(default_factory=dict)
    origin: Origin
    scenario: Scenario
    gold: tuple[ToolCall, ...]
    communicate: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    temptations: tuple[ToolCall, ...] = ()
    """Writes that a careless agent would make and that policy or the user forbids (refusals, declined requests)."""
    knobs: dict[str, str | int | bool] = Field(default_factory=dict)
    """The explicit difficulty knobs it was built with (`condition`, `family`, `items`, `withheld`, …)."""
    signature: str = ""
    """Identity of the solution: hash of the gold writes and the records they touch; equal means duplicate."""


class TaskSet(Part):
    """Which tasks a figure is about and what success means there: figures compare only where all of this is equal."""

    name: str
    """`tau2-base`, `tau2-train` or `tau2-test`; `tau2` for any other choice of its tasks; `synthetic`."""
    version: str
    """Release of the benchmark, or the world that the tasks were made for."""
    digest: str
    """Content hash of the tasks."""
    reward_basis: tuple[str, ...]
    """What the reward is the product of: tau2's names, and `AVOID` for statements that our own tasks forbid."""

    @property
    def label(self) -> str:
        """In one line."""
        return f"{self.name} ({self.version}; {self.digest}), reward basis {'+'.join(self.reward_basis)}"


class Role(StrEnum):
    """Who speaks in a message."""

    system = "system"
    user = "user"
    assistant = "assistant"
    tool = "tool"


class Message(Part):
    """One message of a conversation. An assistant's message has either text or tool calls."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = Field(default="", exclude_if=lambda text: not text)
    """What a thinking policy wrote before its answer; the user never sees it. Not written where there is none."""
    error: bool = False
    """For tool messages: whether the tool refused (bad arguments, illegal state, unknown tool, unparsable call)."""
    turn: int
    """Number of the assistant turn this message belongs to or follows; the opening user message has turn 0."""


class Outcome(StrEnum):
    """The three outcomes of an episode. A void one has no reward and enters no statistic silently."""

    success = "success"
    failure = "failure"
    void = "void"


VoidReason = StrEnum("VoidReason", "infrastructure user_simulator broken_prefix task")
"""Why an episode says nothing about the policy."""


Ending = StrEnum("Ending", "user_stop out_of_turns out_of_context malformed error")
"""How an episode ended."""


class Reward(Part):
    """Executable reward: `total` = db x communicate, as tau2 computes it; shaping is bounded and logged apart."""

    db: float
    communicate: float
    shaping: float = 0.0

    @property
    def total(self) -> float:
        """1.0 for a success, 0.0 for a failure; shaping never enters it."""
        return self.db * self.communicate


class Counts(Part):
    """Sizes of an episode."""

    turns: int
    tokens: int
    errors: int


class Trajectory(Record):
    """One played episode, scored. Its sampled token ids and logprobs lie beside it, in the file of its chunk."""

    task: Task
    trial: int
    seed: int
    policy: str
    """Hash of the policy that played it."""
    chunk: int = 0
    row: int = 0
    """Its row in the chunk's token file."""
    messages: tuple[Message, ...]
    ending: Ending
    outcome: Outcome
    void_reason: VoidReason | None = None
    reward: Reward | None
    world_delta: dict[str, Json]
    """Records that differ from the start, as `{"orders": {id: record}, "users": {id: record}}`."""
    gold_delta: dict[str, Json]
    counts: Counts


class LabelKind(StrEnum):
    """What went wrong at one step, found by comparing the trajectory with the gold one."""

    missing_write = "missing_write"
    extra_write = "extra_write"
    wrong_record = "wrong_record"
    wrong_argument = "wrong_argument"
    wrong_order = "wrong_order"
    missing_communication = "missing_communication"
    wrong_communication = "wrong_communication"
    false_refusal = "false_refusal"
    against_policy = "against_policy"
    unconfirmed_write = "unconfirmed_write"
    unauthenticated = "unauthenticated"
    missing_transfer = "missing_transfer"
    needless_transfer = "needless_transfer"
    hallucinated_tool = "hallucinated_tool"
    malformed_call = "malformed_call"
    tool_error = "tool_error"
    parallel_calls = "parallel_calls"
    repeated_call = "repeated_call"
    loop = "loop"
    out_of_turns = "out_of_turns"
    out_of_context = "out_of_context"
    gave_up = "gave_up"


class Label(Part):
    """One piece of evidence, at one turn."""

    kind: LabelKind
    turn: int
    tool: str | None = None
    argument: str | None = None
    expected: Json = None
    actual: Json = None
    rule: str | None = None
    """The rule of the policy that was broken, or that the tool gave as its reason to refuse."""


Party = StrEnum("Party", "agent user_simulator task infrastructure")
"""To whom a failure is attributed."""


class Suspicion(Part):
    """Evidence against somebody else than the agent."""

    party: Party
    reason: str
    turn: int


class Attribution(Part):
    """Who is at fault, and why we say so."""

    party: Party
    reason: str
    suspicions: tuple[Suspicion, ...] = ()
    """Evidence against others that did not decide the matter."""


class Failure(Record):
    """A failed trajectory, explained."""

    trajectory: str
    """`task id#trial` of the trajectory."""
    task: str
    trial: int
    knobs: dict[str, str | int | bool]
    """Those of the task, and the traits that they leave open."""
    tools: tuple[str, ...] = ()
    """Tools that the task brings into play: its gold answer calls them, or a careless agent is tempted to."""
    made_for: str | None = None
    """The pattern that the task was made for."""
    labels: tuple[Label, ...]
    decisive: int
    """Index into `labels` of the first step from which the episode could not succeed."""
    attribution: Attribution


class PatternStatus(StrEnum):
    """Life of a pattern over the iterations."""

    new = "new"
    persistent = "persistent"
    resolved = "resolved"
    regressed = "regressed"
    rare = "rare"
    """Known and measured: it strikes, but too rarely for a pattern, or is not clearly gone."""
    unclear = "unclear"
    """Known, but too few episodes could show it: none was played, or they failed otherwise."""
    absorbed = "absorbed"
    """Known; what it strikes is now part of a pattern of the same error under another condition."""


class Evidence(Part):
    """A place that shows a pattern."""

    trajectory: str
    turn: int


class Contrast(Part):
    """How often the pattern strikes where its condition holds, and where it does not."""

    failures: int
    episodes: int
    failures_elsewhere: int
    episodes_elsewhere: int
    otherwise: int = 0
    """Episodes where the condition holds that the agent failed by another error: they cannot show this one."""


class Pattern(Record):
    """A recurring error: what happens, with which tools and arguments, and under which condition."""

    id: str
    """Stable across iterations: a hash of category, tool, argument and condition; merged ones have their first's."""
    category: LabelKind
    description: str
    error: str = ""
    """The description without its counts, which are those of one diagnosis."""
    tools: tuple[str, ...]
    arguments: tuple[str, ...]
    condition: dict[str, str | int | bool]
    """Values of task knobs under which it occurs, found by contrast with the successes."""
    in_play: tuple[str, ...] = ()
    """Those of its tools that every task which shows it brings into play."""
    support: int
    contrast: Contrast
    evidence: tuple[Evidence, ...]
    status: PatternStatus
    priority: float
    name: str = ""
    """A few words of a language model, if one was asked; so is the explanation. Neither is evidence."""
    explanation: str = ""
    merged: tuple[str, ...] = ()
    """Ids of other patterns that are this one in other clothes; support, contrast and evidence include theirs."""
    related: tuple[str, ...] = ()
    """Earlier patterns of the same error that this one takes in; of an absorbed one, the pattern that took it in."""

    @property
    def found(self) -> bool:
        """Whether this diagnosis found it; the others are known from earlier ones and were measured."""
        return self.status in (PatternStatus.new, PatternStatus.persistent, PatternStatus.regressed)


class Constraints(Part):
    """What every task of a quota must have, in terms that a generator can execute and anybody can check."""

    tools: tuple[str, ...] = ()
    """Tools that the task brings into play."""
    state: dict[str, str | int | bool] = Field(default_factory=dict)
    """Conditions on the customer's records (`orders`, `methods`, `twins`, `payment`; see `sentinel.env.traits`)."""
    knobs: dict[str, str | int | bool] = Field(default_factory=dict)
    """Difficulty knobs, as the generator knows them (`condition`, `withheld`, `items`, …)."""

    @property
    def values(self) -> dict[str, str | int | bool]:
        """State and knobs together: the characteristics that a task must have."""
        return self.state | self.knobs


class Quota(Part):
    """An order to the Proposer: so many tasks for this pattern."""

    pattern: str
    merged: tuple[str, ...] = ()
    """Other patterns that the same tasks are for."""
    tasks: Annotated[int, Field(ge=0)]
    constraints: Constraints
    instruction: str
    """The same in words (the paper's natural-language directive)."""


class Review(Part):
    """What a language model made of the patterns, and what of its claims was dropped."""

    model: str
    stands: bool
    """Whether its names, words and mergers were taken; otherwise the patterns are as counted."""
    reason: str = ""
    """Why they were not."""
    explained: int = 0
    """Failures about which it made a claim that holds."""
    skipped: int = 0
    """Failures that it was not asked about, as the budget would not last."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Claims that were dropped, by reason."""
    details: tuple[str, ...] = ()
    """The dropped claims, one by one."""


class Directive(Record):
    """What the Controller asks of the Proposer for one iteration."""

    iteration: int
    quotas: tuple[Quota, ...]
    explore: Annotated[int, Field(ge=0)]
    """Number of tasks without a target, drawn from the general distribution."""
    review: Review | None = None
    """Where a language model was asked."""


Gate = StrEnum(
    "Gate",
    "generation schema gold_replay noop communicate policy identity wording determined "
    "leakage duplicate end_state mutants dialogue rewriting lift solvability",
)
"""The Proposer's gates, in the order in which a candidate meets them."""


class Verdict(Record):
    """What became of one candidate task."""

    candidate: str
    gate: Gate | None
    """The gate that rejected it; `None` if accepted."""
    accepted: bool
    reason: str = ""
    """A closed set of words per gate, fit for counting."""
    detail: str = ""


class PatternLift(Part):
    """How hard one pattern's candidates are for the policy, before any selection, against the explore candidates."""

    tasks: int
    episodes: int
    """Without void ones."""
    failure_rate: float | None
    """`None` where no episode counts."""
    control_failure_rate: float | None
    lift: float | None
    """`failure_rate / control_failure_rate`; above 1 the tasks do stress the weakness. `None` without a control."""
    interval: tuple[float, float] | None = None
    """95 % interval of the lift, by a bootstrap over tasks; `None` where there is no lift."""
    control_tasks: int = 0
    """Control tasks: explore candidates that need the same tools and lack the pattern's condition, if there are any."""


class Lift(Record):
    """What probing the candidates showed, and what it cost; empty where candidates are not probed."""

    patterns: dict[str, PatternLift] = Field(default_factory=dict)
    together: PatternLift | None = None
    """The same for the candidates of all patterns at once, against all explore candidates."""
    episodes: int = 0
    """All probing episodes, void ones included: they count against the budget."""
    void: dict[str, int] = Field(default_factory=dict)


class Tally(Record):
    """Nothing is lost silently: kept + rejected + void = requested."""

    requested: int
    kept: int
    rejected: dict[str, int] = Field(default_factory=dict)
    void: dict[str, int] = Field(default_factory=dict)

    def check(self) -> Tally:
        """Return itself, or raise `ValueError` where the sum does not hold."""
        total = self.kept + sum(self.rejected.values()) + sum(self.void.values())
        if total != self.requested:
            raise ValueError(f"kept + rejected + void = {total}, but {self.requested} were requested: {self!r}")
        return self


class Trial(Record):
    """The outcome of one evaluation episode, without its messages: what Pass^k is computed from."""

    task: str
    trial: int
    outcome: Outcome
    void_reason: VoidReason | None = None
    knobs: dict[str, str | int | bool]
    tools: tuple[str, ...]
    """Write tools of the gold answer; empty for refusals and read-only tasks."""
    ending: Ending
    counts: Counts
