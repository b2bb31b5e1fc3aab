"""Get or create a job and see it through: logs as they come, a limit of time, and suspension if we have to leave.

follow(jobs, order)
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import NoReturn, Protocol

from sentinel.errors import StageError

LOOK = 15.0
"""Seconds between two looks at a job."""


class State(StrEnum):
    """How a job is."""

    absent = "absent"
    suspended = "suspended"
    """It waits, for us or in a queue, and holds no node."""
    active = "active"
    complete = "complete"
    failed = "failed"


@dataclass(frozen=True)
class Order:
    """What a job is to be."""

    name: str
    image: str
    nodes: int
    resources: dict[str, str]
    """Of each node: resource -> quantity."""
    environment: dict[str, str]
    """Of each node; nothing secret."""
    labels: dict[str, str] = field(default_factory=dict)


class Jobs(Protocol):
    """Where jobs run. Raises `StageError` if it cannot be reached."""

    def state(self, name: str) -> State:
        """How the job is."""

    def create(self, order: Order) -> None:
        """Start a job; one of this name that is there already is left alone."""

    def suspend(self, name: str, suspended: bool) -> None:
        """Take the job's nodes away, or let it have some."""

    def delete(self, name: str) -> None:
        """Remove the job and its pods; one that is not there is none of our business."""

    def logs(self, name: str) -> Iterator[str]:
        """Lines of the first node, as they come, until it ends; nothing if it has not begun."""

    def wait(self, name: str, seconds: float) -> State:
        """How the job is, at the latest after this time; at once when it has ended."""


def follow(jobs: Jobs, order: Order, seconds: float, look: float = LOOK) -> None:
    """See a job through to its end.

    Args:
        jobs: where it runs.
        order: what it is; only its name counts if it is there already.
        seconds: how long we wait, a queue included.
        look: seconds between two looks.

    Raises:
        StageError: It failed, or did not end in time (then it is suspended).
        SystemExit: We were told to end; it is suspended, and goes on when it is followed again.
    """
    deadline = time.monotonic() + seconds
    _begin(jobs, order, look)
    with _suspending(jobs, order.name), _streaming(jobs, order.name, look):
        while (state := jobs.wait(order.name, look)) not in (State.complete, State.failed):
            if state is State.absent:
                raise StageError(f"TrainJob {order.name} was deleted by somebody; try again")
            if time.monotonic() > deadline:
                jobs.suspend(order.name, True)
                raise StageError(
                    f"TrainJob {order.name} is not done after {seconds / 3600:.1f} hours and was suspended; try again, "
                    "and it goes on, or allow it more time: trainer.launcher.timeout_hours"
                )
    if state is State.failed:
        raise StageError(
            f"TrainJob {order.name} failed; its log stands above. It is left as it is until the next attempt:\n"
            f"    kubectl describe trainjob {order.name}"
        )


def _begin(jobs: Jobs, order: Order, look: float) -> None:
    """Have the job run: a failed one is replaced, a suspended one goes on."""
    state = jobs.state(order.name)
    if state is State.failed:
        _say(f"TrainJob {order.name} failed in an earlier attempt; it is replaced")
        jobs.delete(order.name)
        while jobs.state(order.name) is not State.absent:
            time.sleep(min(look, 1.0))
        state = State.absent
    if state is State.absent:
        _say(f"creating TrainJob {order.name}: {order.nodes} nodes")
        jobs.create(order)
    elif state is State.suspended:
        _say(f"TrainJob {order.name} goes on")
        jobs.suspend(order.name, False)
    else:
        _say(f"TrainJob {order.name} is there already")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _suspending(jobs: Jobs, name: str) -> Iterator[None]:
    """On SIGTERM or SIGINT the job gives its nodes back, and we leave with the usual code."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit:
        _say(f"told to end: suspending TrainJob {name}")
        jobs.suspend(name, True)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _streaming(jobs: Jobs, name: str, look: float) -> Iterator[None]:
    """Print the first node's log beside what happens in the block; what is left of it is waited for shortly."""
    over = threading.Event()
    thread = threading.Thread(target=_stream, args=(jobs, name, over, look), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(min(look, 10.0))


def _stream(jobs: Jobs, name: str, over: threading.Event, look: float) -> None:
    shown = 0
    while True:
        count = 0
        try:
            for line in jobs.logs(name):
                count += 1
                if count > shown:  # a log that broke off is read from its beginning again
                    print(line, flush=True)
            shown = 0 if count else shown
        except StageError:
            shown = max(shown, count)
        if over.wait(min(look, 5.0)) or over.is_set():
            return
