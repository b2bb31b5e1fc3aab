"""What a rank holds of the training: all of it (stage 0), or a share by DeepSpeed's ZeRO (stages 2 and 3).

    share = Zero(Scorer(policy, temperature), settings, place, dtype)
    share.backward(loss)                        # of one micro-batch, after which others follow
    norm = share.step(settings.max_grad_norm)   # reduces over the ranks; no step where the norm is not finite
    share.tensors(), share.restore(tensors)     # whole tensors by parameter name, whoever holds them
    share.weights()                             # as the forward pass sees them

Every method is called by all ranks together. Losses are sums over the whole batch divided once, so gradients are summed
over the ranks. Stage 0 needs nothing of DeepSpeed: its gradients are reduced here, over the same fp32 masters as those
of the `torch` backend. The names and the format of the tensors are that backend's too, so a checkpoint depends neither
on the backend nor on the number of ranks. Left out: loading a model that fits into no single rank's memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sentinel.solver.batch import MicroBatch
from sentinel.solver.loss import Scores, score
from sentinel.solver.optimizer import MasterAdamW
from sentinel.spec.profile import DeepSpeedTrainer
from sentinel.spec.trainer import Trainer as Settings

MOMENTS = ("exp_avg", "exp_avg_sq")


class Scorer(nn.Module):
    """The forward pass of training as a module, which is what DeepSpeed can share out."""

    def __init__(self, policy: Any, temperature: float) -> None:
        super().__init__()
        self.policy, self._temperature = policy, temperature

    def forward(
        self, ids: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies [N] (`sentinel.solver.loss.score`)."""
        nothing = torch.empty(0)
        batch = MicroBatch(ids, rows, columns, targets, nothing, nothing, nothing, positions)
        logprobs, entropy = score(self.policy, batch, temperature=self._temperature)
        return logprobs, entropy


class Share(Protocol):
    """A rank's part; see the module."""

    def score(self, batch: MicroBatch) -> Scores:
        """The forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch."""
        ...

    def step(self, largest: float) -> float:
        """Sum the gradients over the ranks, bound their norm, apply them; the norm before, not finite if unusable."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Masters, moments and counters on the first rank; nothing on the others."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What is trained, in the precision of the forward pass, on the first rank; nothing on the others."""
        ...


class Whole:
    """Stage 0: every rank has everything, and does the same step."""

    def __init__(self, scorer: Scorer, settings: Settings) -> None:
        self._scorer = scorer
        self._optimizer = MasterAdamW(scorer.policy, settings.learning_rate)

    def score(self, batch: MicroBatch) -> Scores:
        """The forward pass."""
        return score_with(self._scorer, batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch."""
        loss.backward()
        self._optimizer.take_gradients()

    def step(self, largest: float) -> float:
        """Reduce, bound, apply (`Share`)."""
        for master in self._optimizer.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            dist.all_reduce(master.grad)
        norm = self._optimizer.clip(largest)
        if math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Masters, moments and counters (`Share`)."""
        return self._optimizer.tensors() if dist.get_rank() == 0 else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self._optimizer.restore(tensors)

    def weights(self) -> dict[str, Tensor]:
        """What is trained (`Share`)."""
        named = self._scorer.policy.named_parameters()
        return {f"model.{name}": each for name, each in named if each.requires_grad} if dist.get_rank() == 0 else {}


class Zero:
    """Stages 2 and 3."""

    def __init__(self, scorer: Scorer, settings: Settings, place: DeepSpeedTrainer, dtype: torch.dtype) -> None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does; it would be compiled for minutes
        self._scorer = scorer
        self._names = {name: each for name, each in scorer.policy.named_parameters() if each.requires_grad}
        self._engine, *_ = deepspeed.initialize(
            model=scorer,
            model_parameters=list(self._names.values()),
            config=configuration(settings, place, dtype),
            dist_init_required=False,
        )
        self._engine.eval()

    def score(self, batch: MicroBatch) -> Scores:
        """The forward pass."""
        return score_with(self._engine, batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch; DeepSpeed takes the mean over the ranks, and we want the sum."""
        self._engine.backward(loss * dist.get_world_size())

    def step(self, largest: float) -> float:
        """Reduce, bound, apply (`Share`); DeepSpeed leaves a step out whose norm is not finite."""
        self._engine.step()
        return math.inf if self._engine.optimizer.overflow else float(self._engine.get_global_grad_norm())

    def tensors(self) -> dict[str, Tensor]:
        """Gathered parameter by parameter, into the first rank's memory."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found: dict[str, Tensor] = {}
        steps = self._steps()
        for name, parameter in self._names.items():
            _keep(found, f"model.{name}", safe_get_full_fp32_param(parameter))
            if steps:
                for key in MOMENTS:
                    _keep(found, f"optimizer.{key}.{name}", safe_get_full_optimizer_state(parameter, key))
                _keep(found, f"optimizer.step.{name}", torch.tensor(float(steps)))
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave; moments exist only after a step, so one that changes nothing is made first."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._idle_step()
        for name, parameter in self._names.items():
            master = tensors[f"model.{name}"].float().to(parameter.device)
            with self._whole(parameter):
                parameter.data.copy_(master)
            safe_set_full_fp32_param(parameter, master)
            for key in MOMENTS:
                value = tensors.get(f"optimizer.{key}.{name}")
                moment = torch.zeros_like(master) if value is None else value.float().to(parameter.device)
                safe_set_full_optimizer_state(parameter, moment, key)
        steps = next((int(value) for name, value in tensors.items() if name.startswith("optimizer.step.")), 0)
        for state in self._adam().state.values():
            state["step"] = torch.full_like(state["step"], steps) if torch.is_tensor(state["step"]) else steps

    def weights(self) -> dict[str, Tensor]:
        """What is trained, gathered one by one (`Share`)."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._names.items():
            with self._whole(parameter):
                _keep(found, f"model.{name}", parameter.data)
        return found

    def _whole(self, parameter: nn.Parameter) -> AbstractContextManager[None]:
        """The parameter in one piece on every rank; what the first one changes in it stays."""
        import deepspeed

        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
        return gathered

    def _adam(self) -> Any:
        return self._engine.optimizer.optimizer

    def _steps(self) -> int:
        return next((int(state["step"]) for state in self._adam().state.values() if "step" in state), 0)

    def _idle_step(self) -> None:
        """A step without a gradient: it changes no weight, and afterwards there are moments."""
        nothing = torch.zeros(1, dtype=torch.int64, device=self._engine.device)
        logprobs, _ = self._engine(torch.zeros(1, 2, dtype=torch.int64, device=nothing.device), *[nothing] * 3, None)
        self._engine.backward(logprobs.sum() * 0.0)
        self._engine.step()


def _keep(found: dict[str, Tensor], name: str, value: Tensor) -> None:
    if dist.get_rank() == 0:
        found[name] = value.detach().cpu().clone()


def score_with(module: Any, batch: MicroBatch) -> Scores:
    """Run a `Scorer`, wrapped or not."""
    return Scores(*module(batch.ids, batch.rows, batch.columns, batch.targets, batch.positions))


def configuration(settings: Settings, place: DeepSpeedTrainer, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's own form of what spec and profile say."""
    low = dtype == torch.bfloat16
    zero: dict[str, Any] = {"stage": place.stage, "overlap_comm": False}
    if place.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    adamw = {"lr": settings.learning_rate, "weight_decay": 0.0, "torch_adam": not place.offload_optimizer}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.max_grad_norm,
        "optimizer": {"type": "AdamW", "params": adamw},
        "bf16": {"enabled": low},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
    }
