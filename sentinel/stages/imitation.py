"""The warm-up's last phase: a policy learns from stored conversations, held-out tasks left out.

stored = Stored(context)
stored.conversations(arena)                # as tokens of this arena's language
imitate(context, policy, folder, conversations)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from sentinel.artifacts import read_json
from sentinel.errors import ArtifactError
from sentinel.llm.policy import Policy
from sentinel.proposer.leakage import Manifest, violations
from sentinel.records import Message, Tally, Task
from sentinel.rollout.arena import Arena
from sentinel.rollout.imitation import Flaw, Stories, Story, imitated, read_stories
from sentinel.seeds import generator
from sentinel.solver.checkpoint import Checkpoints
from sentinel.solver.imitation import Conversation, Imitation
from sentinel.solver.phases import WarmupStep, run_phase
from sentinel.spec.trainer import Trainer
from sentinel.stages.backends import opened_backend
from sentinel.stages.context import Context

PHASE = "imitation"


class Stored:
    """The file that the spec names; of its episodes, those that may and can be imitated."""

    def __init__(self, context: Context) -> None:
        """Raises `ArtifactError` where the file is of no known kind, or nothing in it is to be imitated."""
        self._context, self._path = context, context.inputs["stored"]
        self._held_out = read_json(context.inputs["tasks"] / "manifest.json", Manifest)
        stories = read_stories(self._path)
        self._leaks: dict[str, bool] = {}
        self._flaws = [story.flaw or self._leak(story, stories) for story in stories.episodes]
        self._stories = stories.episodes

    def _leak(self, story: Story, stories: Stories) -> Flaw | None:
        task = story.task
        return Flaw.held_out if task and not story.void and self._is_held_out(task, stories) else None

    def _is_held_out(self, task: Task, stories: Stories) -> bool:
        if task.id not in self._leaks:
            self._leaks[task.id] = bool(violations(task, self._held_out, stories.world, task.signature))
        return self._leaks[task.id]

    def texts(self) -> Iterator[Sequence[Message]]:
        """The messages of what is imitated."""
        yield from (
            story.messages
            for story, flaw in zip(self._stories, self._flaws, strict=True)
            if flaw is None and not story.void
        )

    def conversations(self, arena: Arena) -> list[Conversation]:
        """As tokens; says what became of every episode of the file."""
        found: list[Conversation] = [samples for messages in self.texts() if (samples := imitated(messages, arena))]
        tally = self._tally(len(found))
        rejected = ", ".join(f"{reason} {count}" for reason, count in tally.rejected.items()) or "none"
        void = sum(tally.void.values())
        counts = f"{tally.kept} of {tally.requested} episodes to imitate; left out: {rejected}; {void} void"
        if not found:
            hint = "give successful episodes of other tasks, or set warmup.imitation to null"
            raise ArtifactError(self._path, counts, hint=hint)
        learnt = sum(int(tokens.sampled.sum()) for samples in found for tokens in samples)
        self._context.progress.say(f"{self._path}: {counts}; {learnt:,} tokens of the agent")
        return found

    def _tally(self, kept: int) -> Tally:
        void = Counter(str(story.void) for story in self._stories if story.void)
        flaws = zip(self._stories, self._flaws, strict=True)
        rejected = Counter(str(flaw) for story, flaw in flaws if flaw and not story.void)
        if silent := len(self._stories) - kept - sum(void.values()) - sum(rejected.values()):
            rejected[str(Flaw.silent)] = silent
        return Tally(requested=len(self._stories), kept=kept, rejected=dict(rejected), void=dict(void)).check()


def imitate(context: Context, policy: Policy, folder: Path, conversations: Sequence[Conversation]) -> list[WarmupStep]:
    """Train the policy in place; `folder` holds it as it is now. Returns the log."""
    settings = context.spec.warmup.imitation
    assert settings is not None, "the caller has looked"
    steps = Trainer(learning_rate=settings.learning_rate, micro_batch_tokens=settings.micro_batch_tokens, kl=0.0)
    with opened_backend(context, policy.model, folder, steps, objective="likelihood") as backend:
        rng = generator(context.spec.base.seed, "warmup", PHASE)
        return run_phase(
            PHASE,
            Imitation(backend, conversations, batch_size=settings.batch_size, rng=rng),
            steps=settings.steps,
            checkpoints=Checkpoints(context.state / f"{PHASE}-steps", say=context.progress.say),
            every=context.profile.trainer.checkpoint_every,
            progress=context.progress,
        )
