"""`python -m tests.kind up|test|down|logs`."""

from __future__ import annotations

import sys

from sentinel.errors import SentinelError
from tests.kind import lane

STEPS = {"up": lane.up, "test": lane.test, "down": lane.down, "logs": lane.logs}


def main(name: str) -> None:
    """Do a step; a failure is one message."""
    try:
        STEPS[name]()
    except SentinelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in STEPS:
        sys.exit(f"usage: python -m tests.kind {'|'.join(STEPS)}")
    main(sys.argv[1])
