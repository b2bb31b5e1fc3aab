"""The place of a run: WHERE it happens. Never part of an experiment's hash.

    profile = load_profile()                      # $SENTINEL_PROFILE, or "local"
    profile.spec.threads, profile.spec.device

Everything here may differ from machine to machine without changing what is asked; secrets are named, never written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sentinel.errors import SpecError
from sentinel.spec.cluster import Cluster
from sentinel.spec.document import read
from sentinel.spec.launcher import Launcher, PodLauncher, TrainJobLauncher
from sentinel.spec.models import Metadata, Positive, Section
from sentinel.spec.source import did_you_mean

FOLDER = Path("experiments/profiles")
"""Where a profile is looked up by its name, below the working folder."""

LlmRole = Literal["user", "controller", "proposer"]
"""What a spec can give to a language model beside the policy."""


class Endpoint(Section):
    """A server that speaks the OpenAI protocol."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Base URL, with the `/v1`."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """Name of the environment variable that holds the key (never the key itself)."""


class InProcess(Section):
    """The policy plays in the stage's own process, on the weights that it holds."""

    type: Literal["hf"] = "hf"
    threads: Positive = 1
    """CPU threads that sample; for a policy of a million parameters a second one makes it no faster (measured)."""


OURS = ("--model", "--served-model-name", "--host", "--port", "--dtype", "--max-model-len", "--logprobs-mode")
"""Options that a stage gives to its server itself: from the spec, or so that it finds it."""


class VllmServer(Section):
    """The policy plays on a vLLM server, which every stage that plays starts for itself and stops in the end."""

    type: Literal["vllm"]
    command: Annotated[tuple[str, ...], Field(min_length=1)] = ("vllm", "serve")
    """What starts the server; the policy's folder and the options follow."""
    arguments: tuple[str, ...] = ()
    """Further options of the server."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the server, beside the stage's own; no place for secrets."""
    concurrency: Positive = 32
    """Conversations in flight, of each process."""
    start_seconds: Positive = 900
    """Time to load itself and the policy."""

    @field_validator("arguments")
    @classmethod
    def _not_ours(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if (option := word.partition("=")[0].replace("_", "-")) in OURS:
                raise ValueError(f"'{option}' is given by the stage itself, from the spec or as it finds it; remove it")
        return value


class TorchTrainer(Section):
    """Training steps in the stage's own process; needs no compiler."""

    type: Literal["torch"] = "torch"
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time for much less memory."""
    checkpoint_every: Positive = 1
    """Steps between checkpoints; what a kill can cost."""


class DeepSpeedTrainer(Section):
    """Training steps in processes of their own, each with a share of the batch (DeepSpeed's ZeRO)."""

    type: Literal["deepspeed"]
    stage: Literal[0, 2, 3] = 2
    """What the ranks share out: 0 nothing, 2 optimizer states and gradients, 3 the weights as well."""
    ranks: Positive = 1
    """Processes of a node, one per GPU where there are some."""
    nodes: Positive = 1
    """Nodes; without a launcher, `python -m sentinel.solver.rank` is to be started on all but this one."""
    launcher: Launcher = PodLauncher()
    """Who starts the nodes (docs/training.md)."""
    rendezvous: Annotated[str, Field(pattern=r"^[\w.-]+:\d+$")] | None = None
    """HOST:PORT of this node, where the ranks find each other; by default a free port of this machine."""
    offload_optimizer: bool = False
    """Keep optimizer states in the CPU's memory and step there; compiles DeepSpeed's own AdamW once."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more time for much less memory."""
    checkpoint_every: Positive = 1
    """Steps between checkpoints; what a kill can cost."""
    builds: Annotated[str, Field(min_length=1)] | None = None
    """Folder of what DeepSpeed compiles, to be shared between runs; by default one in the user's cache."""
    start_seconds: Positive = 1800
    """Time for the ranks to compile, load the policy and find each other."""

    @model_validator(mode="after")
    def _nodes_meet_somewhere(self) -> DeepSpeedTrainer:
        if isinstance(self.launcher, TrainJobLauncher):
            if self.rendezvous:
                raise ValueError("rendezvous: the nodes of a TrainJob meet where it tells them to; leave it out")
        elif self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"rendezvous: {self.nodes} nodes need a HOST:PORT at which they meet, or a launcher")
        return self

    @property
    def launches(self) -> TrainJobLauncher | None:
        """The launcher, if the nodes are not this container's."""
        return self.launcher if isinstance(self.launcher, TrainJobLauncher) else None


class ProfileSpec(Section):
    """What the machine offers."""

    engine: Annotated[InProcess | VllmServer, Field(discriminator="type")] = InProcess()
    """What samples from the policy."""
    trainer: Annotated[TorchTrainer | DeepSpeedTrainer, Field(discriminator="type")] = TorchTrainer()
    """What computes the steps of the train stage."""
    workers: Positive = 1
    """Processes that play diagnosis and evaluation side by side; needs an engine that is a server."""
    threads: Positive = 2
    """CPU threads that train; float results, and so artifacts, are reproducible for fixed numbers of threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where tensors live."""
    endpoints: dict[LlmRole, Endpoint] = Field(default_factory=dict)
    """Server of each role that the spec gives to a language model."""
    tensorboard: Annotated[str, Field(min_length=1)] | None = None
    """Folder for TensorBoard's files of the training steps, one below it per stage; null for none."""
    cluster: Cluster | None = None
    """Kubeflow Pipelines, if runs can be submitted with this profile."""

    @property
    def launches(self) -> TrainJobLauncher | None:
        """Who starts the nodes of a training, if its container does not."""
        return self.trainer.launches if isinstance(self.trainer, DeepSpeedTrainer) else None

    @model_validator(mode="after")
    def _launched_nodes_share_their_state(self) -> ProfileSpec:
        if self.launches is None:
            return self
        if self.cluster is None:
            raise ValueError("trainer.launcher: a TrainJob needs a cluster; add the section `cluster`")
        if isinstance(self.trainer, DeepSpeedTrainer) and self.trainer.nodes > 1 and self.cluster.state is None:
            raise ValueError(
                f"trainer.nodes: all {self.trainer.nodes} nodes read the checkpoints; give them a volume that "
                "they share: cluster.state"
            )
        return self

    @model_validator(mode="after")
    def _workers_hold_no_weights(self) -> ProfileSpec:
        if self.workers > 1 and self.engine.type == "hf":
            raise ValueError(
                f"workers: {self.workers} processes would hold the weights {self.workers} times over; set it to 1, or "
                "have a server play: engine: {type: vllm}"
            )
        return self


class Profile(Section):
    """A profile file."""

    apiVersion: Literal["sentinel.dev/v1alpha1"]
    kind: Literal["Profile"]
    metadata: Metadata
    spec: ProfileSpec = ProfileSpec()


def load_profile(name_or_path: str | Path | None = None) -> Profile:
    """Load a profile by name (from `experiments/profiles/`) or by path.

    Args:
        name_or_path: A path if it ends in `.yaml`; by default `$SENTINEL_PROFILE`, else `local`.

    Raises:
        SpecError: The file is missing or has faults, each with its line.
    """
    return read(profile_file(name_or_path), {"Profile": Profile}).content


def profile_file(name_or_path: str | Path | None = None) -> Path:
    """The file that `load_profile` reads."""
    chosen = str(name_or_path or os.environ.get("SENTINEL_PROFILE") or "local")
    if chosen.endswith((".yaml", ".yml")):
        return Path(chosen)
    path = FOLDER / f"{chosen}.yaml"
    if not path.is_file():
        names = sorted(other.stem for other in FOLDER.glob("*.yaml"))
        none = "; there is none here, go to the project's folder"
        hint = did_you_mean(chosen, names) or (f"; there are: {', '.join(names)}" if names else none)
        raise SpecError([f"profile '{chosen}': no such file {path}{hint}"])
    return path
