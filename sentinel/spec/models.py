"""The specification of an experiment: WHAT is asked. The only thing that is hashed.

A spec names no image, GPU count, URL or secret; those belong to a profile (`sentinel.spec.profile`). Sections are cut
so that a change in one reruns only the stages that read it. Imports neither torch nor kfp.

A rule across fields raises `ValueError` with a message that begins with the field it is about (dotted, relative to
the section); `sentinel.spec.explain` puts the error on that field's line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sentinel.spec.section import Name as Name
from sentinel.spec.section import Positive as Positive
from sentinel.spec.section import Sampling, Share
from sentinel.spec.section import Section as Section
from sentinel.spec.trainer import Trainer as Trainer
from sentinel.spec.warmup import Warmup as Warmup

API_VERSION = "sentinel.dev/v1alpha1"
OWN_TASKS, STORED = "seed_tasks.extra", "warmup.imitation.file"
"""Settings that name a file of the user's own, relative to the spec in which they stand."""


class Metadata(Section):
    """Who the experiment is."""

    name: Name
    """Names the run: `runs/<name>`, the DVC stages and the KFP experiment."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Short key-value pairs to find it by."""
    annotations: dict[str, Any] = Field(default_factory=dict)
    """The free-form place: anything automation wants to keep here."""


class Tau2World(Section):
    """tau2-bench's own retail database; generated tasks use only its users that no benchmark task uses."""

    type: Literal["tau2"]


class SyntheticWorld(Section):
    """Own users, orders and products for tau2's tools; no entity in common with the benchmark."""

    type: Literal["synthetic"]
    ids: Literal["atomic", "natural"] = "natural"
    """`atomic`: short ids from small pools, one token each, a fresh world per task; `natural`: ids as tau2's."""
    users: Positive = 2
    """Users in the world of one task."""
    products: Positive = 3
    """Product types in the world of one task."""
    variants: Annotated[int, Field(ge=2, le=6)] = 3
    """Variants of a product type."""
    orders: Positive = 3
    """Orders in the world of one task."""


class ScriptedUser(Section):
    """A user without a model: reveals what it is asked, confirms, stops only after completion."""

    type: Literal["scripted"]


class LlmUser(Section):
    """A user played by a language model with tau2's simulator guidelines."""

    type: Literal["llm"]
    model: str
    """Model name as the endpoint of the profile serves it."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    """Sampling temperature of the user."""
    faults: Literal["void", "flag"] = "void"
    """Episodes whose user broke its rules: `void` gives them no outcome, `flag` a note and, as tau2, a score."""


class Environment(Section):
    """What the policy acts in."""

    domain: Literal["retail"] = "retail"
    """tau2 domain: its tools and its policy rules."""
    world: Annotated[Tau2World | SyntheticWorld, Field(discriminator="type")]
    """Whose users, orders and products."""
    observation: Literal["json", "compact"] = "json"
    """How tool results are shown: tau2's JSON, or a short rendering for tiny policies."""
    system_prompt: bool = True
    """Whether the policy sees tau2's policy text and the tool schemas (a tiny policy has them in its weights)."""
    max_turns: Annotated[int, Field(ge=2, le=200)] = 30
    """Assistant turns after which an episode is a failure."""
    user: Annotated[ScriptedUser | LlmUser, Field(discriminator="type")]
    """The user simulator."""


class Base(Section):
    """The shared starting point: arms and iterations that name the same base start from the same weights and tasks."""

    name: Name
    """Names the base: `runs/bases/<name>`."""
    seed: int = 0
    """Seed of its tasks and weights, apart from the experiment's so that seeds of an arm share the base."""


class PretrainedPolicy(Section):
    """A published model."""

    type: Literal["pretrained"]
    model: str
    """Hugging Face model id, or a local folder with safetensors."""
    revision: str
    """Commit of the model repository."""
    template: Literal["hermes", "qwen3-thinking"] = "hermes"
    """How conversations are rendered and tool calls parsed."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of rollouts and of the training forward pass."""
    max_context: Annotated[int, Field(ge=64)] = 32768
    """Tokens of a whole episode."""


class TinyPolicy(Section):
    """A Llama-architecture model of about a million parameters with its own tokenizer, trained from scratch."""

    type: Literal["tiny"]
    layers: Positive = 4
    """Transformer blocks."""
    hidden: Positive = 128
    """Width."""
    heads: Positive = 4
    """Attention heads."""
    feed_forward: Positive = 384
    """Width of the gated feed-forward layer."""
    template: Literal["hermes"] = "hermes"
    """How conversations are rendered and tool calls parsed."""
    dtype: Literal["float32"] = "float32"
    """Precision."""
    max_context: Annotated[int, Field(ge=64)] = 320
    """Tokens of a whole episode."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyPolicy:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden: {self.hidden} must be a multiple of twice the heads ({self.heads})")
        return self


class EvaluationSet(Section):
    """The held-out tasks."""

    set: Literal["tau2-base", "tau2-test", "synthetic"]
    """`tau2-base`: all 114 benchmark tasks; `tau2-test`: its 40 test tasks; `synthetic`: held-out generated ones."""
    tasks: Positive | None = None
    """Number of synthetic tasks; the benchmark sets have their own size."""

    @model_validator(mode="after")
    def _size_where_it_belongs(self) -> EvaluationSet:
        if (self.set == "synthetic") != (self.tasks is not None):
            raise ValueError("tasks: set 'synthetic' needs it, and no other set takes it")
        return self


class SeedTasks(Section):
    """Tasks made before the loop starts."""

    general: Positive
    """General training tasks, from the natural mix."""
    dev: Positive
    """Held-out tasks that guard the training (never reported)."""
    demonstrations: Annotated[int, Field(ge=0)] = 0
    """Tasks whose expert solutions the warm start imitates."""
    extra: Annotated[str, Field(min_length=1)] | None = None
    """JSONL file of own tasks for the general pool, relative to the spec; it may share nothing with evaluation."""
    evaluate: EvaluationSet
    """The reported set."""


class Rollout(Sampling):
    """Diagnosis: what the Controller reads."""

    tasks: Positive
    """Tasks played per iteration, drawn from the pool."""
    trials: Positive = 4
    """Episodes per task."""
    chunk: Positive = 128
    """Episodes per batch: the unit of work and of resume; part of the science because it fixes float results."""


class DeterministicController(Section):
    """Patterns by counting evidence; no language model."""

    type: Literal["deterministic"]
    max_patterns: Positive = 8
    """Patterns that may receive a quota."""
    min_support: Positive = 2
    """Failures that a pattern must explain."""
    history: bool = True
    """Whether earlier iterations inform status and priority."""


class LlmController(Section):
    """Patterns merged, named and explained by a language model, over the deterministic evidence."""

    type: Literal["llm"]
    model: str
    """Model name as the endpoint of the profile serves it."""
    max_patterns: Positive = 8
    """Patterns that may receive a quota."""
    min_support: Positive = 2
    """Failures that a pattern must explain."""
    history: bool = True
    """Whether earlier iterations inform status and priority."""
    calls: Positive = 256
    """Questions per iteration, repeated ones included; failures that it does not reach go without a reading."""
    tokens: Positive = 2_000_000
    """Tokens per iteration, of prompts and answers."""
    answer_tokens: Positive = 4096
    """Tokens of one answer, reasoning included; the server's context must hold them beside the prompt."""


class NoController(Section):
    """Ablation: no diagnosis; the Proposer gets no directive."""

    type: Literal["none"]


class Solvability(Section):
    """Keep candidates that the current policy solves sometimes: more than never, less than always."""

    trials: Annotated[int, Field(ge=2)] = 4
    """Episodes per candidate."""
    band: tuple[int, int] = (1, 3)
    """Fewest and most successes of a kept candidate."""

    @model_validator(mode="after")
    def _band_inside(self) -> Solvability:
        low, high = self.band
        if not 0 <= low <= high <= self.trials:
            raise ValueError(f"band: {list(self.band)} must satisfy 0 <= low <= high <= trials ({self.trials})")
        return self


class Gates(Section):
    """Optional gates; the executable ones (schema, gold replay, no-op, leakage, duplicates) are always on."""

    solvability: Solvability | None = None
    """Probe candidates with the current policy; costs rollouts of the budget."""
    least_lift: Annotated[float, Field(gt=0.0)] | None = None
    """A pattern on whose probed tasks the policy fails less than so many times as often as on controls has no quota."""

    @model_validator(mode="after")
    def _lift_is_probed(self) -> Gates:
        if self.least_lift is not None and self.solvability is None:
            raise ValueError("least_lift: is measured by probing; set gates.solvability as well")
        return self


class Proposer(Section):
    """How new tasks are made."""

    type: Literal["grammar", "llm"] = "grammar"
    """Who words the requests."""
    model: str | None = None
    """Model of `type: llm`, as the endpoint of the profile serves it."""
    targeting: Literal["patterns", "none", "uniform", "shuffled"] = "patterns"
    """`patterns`: the directive; `none`: the natural mix (general-RL arm); `uniform`: over all conditions; `shuffled`:
    as many targets of the same sizes as the directive has, each at a random condition."""
    tasks: Positive
    """Candidates per iteration."""
    explore_share: Share = 0.2
    """Share of the candidates without a target."""
    gates: Gates = Gates()
    """Optional gates."""

    @model_validator(mode="after")
    def _model_for_llm(self) -> Proposer:
        if (self.type == "llm") != (self.model is not None):
            raise ValueError("model: type 'llm' needs it, and no other type takes it")
        return self


class Curriculum(Section):
    """Which tasks the Solver trains on."""

    targeted_share: Share = 0.5
    """Share of prompts drawn from targeted tasks (as far as there are any)."""
    injection_cap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """New targeted tasks of an iteration, at most, as a share of the tasks trained on before; the others wait."""
    burn_in: Annotated[int, Field(ge=0, le=100)] = 1
    """Groups of a targeted task before it may retire."""
    retire_above: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Running success rate above which a targeted task rests."""
    review_share: Share = 0.05
    """Chance of a targeted prompt to go to a task that rests, so that forgetting and new ability are noticed."""
    patience: Annotated[int, Field(ge=1)] = 16
    """Groups without an improvement after which a condition that is mostly failed rests."""
    least_gain: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Rise of a condition's running success rate that counts as one; it also brings its parked tasks back."""
    solved: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Running success rate from which on a condition counts as solved, so that its loss raises an alarm."""
    collapse: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of its best rate below which a solved condition counts as lost: its tasks are drawn first."""


def _usual_k(evaluator: dict[str, Any]) -> tuple[int, ...]:
    """1 to 4, as far as there are trials."""
    return tuple(range(1, min(4, evaluator["trials"]) + 1))


class Evaluator(Section):
    """How a policy is measured."""

    trials: Annotated[int, Field(ge=1, le=64)] = 4
    """Episodes per task."""
    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(default_factory=_usual_k)
    """The k of Pass^k, each at most `trials`; by default 1 to 4, as far as there are trials."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the intervals."""
    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    """Sampling temperature of the evaluation."""
    max_new_tokens: Positive = 4096
    """Tokens of one assistant turn."""
    chunk: Positive = 128
    """Episodes per batch."""

    @model_validator(mode="after")
    def _k_within_trials(self) -> Evaluator:
        if max(self.k) > self.trials:
            fitting = [k for k in self.k if k <= self.trials] or [1]
            raise ValueError(
                f"k: {max(self.k)} needs at least as many trials, found trials: {self.trials}; write k: {fitting}, "
                "or remove it and it follows the trials"
            )
        return self


class ExperimentSpec(Section):
    """The science of one experiment."""

    seed: int
    """Everything random derives from it (the base has its own)."""
    iterations: Positive
    """Rounds of diagnose, propose, train, evaluate."""
    environment: Environment
    base: Base
    policy: Annotated[PretrainedPolicy | TinyPolicy, Field(discriminator="type")]
    warmup: Warmup = Warmup()
    seed_tasks: SeedTasks
    rollout: Rollout
    controller: Annotated[DeterministicController | LlmController | NoController, Field(discriminator="type")]
    proposer: Proposer
    curriculum: Curriculum = Curriculum()
    trainer: Trainer
    evaluator: Evaluator = Evaluator()

    @model_validator(mode="after")
    def _training_apart_from_evaluation(self) -> ExperimentSpec:
        synthetic = self.environment.world.type == "synthetic"
        if synthetic != (self.seed_tasks.evaluate.set == "synthetic"):
            raise ValueError(
                f"seed_tasks.evaluate.set: '{self.seed_tasks.evaluate.set}' does not belong to a world of type "
                f"'{self.environment.world.type}'"
            )
        return self

    @model_validator(mode="after")
    def _tiny_is_taught(self) -> ExperimentSpec:
        taught = (self.warmup.clean_steps and self.seed_tasks.demonstrations) or self.warmup.imitation
        if self.policy.type == "tiny" and not taught:
            raise ValueError(
                "policy.type: a tiny policy starts from random weights; "
                "set warmup.clean_steps and seed_tasks.demonstrations, or warmup.imitation"
            )
        return self

    @model_validator(mode="after")
    def _demonstrations_are_for_tiny_ones(self) -> ExperimentSpec:
        if self.policy.type == "pretrained" and (self.warmup.clean_steps or self.warmup.weak_steps):
            raise ValueError(
                "warmup.clean_steps: demonstrations are for tiny policies; a pretrained one learns from stored "
                "conversations: set clean_steps and weak_steps to 0, and warmup.imitation"
            )
        return self

    @model_validator(mode="after")
    def _phases_have_demonstrations(self) -> ExperimentSpec:
        if (self.warmup.clean_steps or self.warmup.weak_steps) and not self.seed_tasks.demonstrations:
            raise ValueError("seed_tasks.demonstrations: warmup.clean_steps and weak_steps need some, found 0")
        return self

    @model_validator(mode="after")
    def _targets_have_a_source(self) -> ExperimentSpec:
        if self.controller.type == "none" and self.proposer.targeting in ("patterns", "shuffled"):
            raise ValueError(
                f"proposer.targeting: '{self.proposer.targeting}' needs the directive of a controller, and "
                "controller.type is 'none'; "
                "use targeting 'none' or 'uniform'"
            )
        return self

    @property
    def own_files(self) -> dict[str, str]:
        """Files of the user's own that the spec names: dotted path of the setting -> path of the file."""
        imitation = self.warmup.imitation
        named = {OWN_TASKS: self.seed_tasks.extra, STORED: imitation and imitation.file}
        return {path: file for path, file in named.items() if file}


class Experiment(Section):
    """An experiment file."""

    apiVersion: Literal["sentinel.dev/v1alpha1"]
    kind: Literal["Experiment"]
    metadata: Metadata
    spec: ExperimentSpec

    @model_validator(mode="after")
    def _name_is_free(self) -> Experiment:
        if self.metadata.name == "bases":
            raise ValueError("metadata.name: 'bases' is the folder of the bases; choose another name")
        return self
