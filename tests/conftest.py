"""What holds for every test: one place, no network, one thread, reproducible examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Set before torch, transformers, litellm or dvc is imported anywhere, and inherited by the processes that tests start.
os.environ.update(
    DVC_NO_ANALYTICS="1",
    HF_HUB_OFFLINE="1",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

settings.register_profile("sentinel", deadline=None, derandomize=True)
settings.load_profile("sentinel")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parent.parent
