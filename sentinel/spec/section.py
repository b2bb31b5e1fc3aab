"""What every part of a spec or profile is made of: strict sections, and the types that several of them use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$")]
"""A DNS label: it becomes part of folder, DVC stage and Kubernetes object names."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the spec: strict (no coercion, no unknown keys) and immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Sampling(Section):
    """How the policy samples. Truncation would falsify the importance ratios: only its neutral values pass."""

    temperature: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    """Softmax temperature."""
    top_p: float = 1.0
    """Must stay 1.0 in training rollouts."""
    top_k: int = -1
    """Must stay -1 (off) in training rollouts."""
    min_p: float = 0.0
    """Must stay 0.0 in training rollouts."""
    max_new_tokens: Positive = 4096
    """Tokens of one assistant turn."""

    @field_validator("top_p", "top_k", "min_p")
    @classmethod
    def _no_truncation(cls, value: float, info: ValidationInfo) -> float:
        neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}[str(info.field_name)]
        if value != neutral:
            raise ValueError(
                f"{value} truncates the sampling distribution, which makes the importance ratios of training wrong; "
                f"remove it or set it to {neutral}"
            )
        return value
