"""Get or create a job and see it through: logs as they come, a limit of time, and its nodes given back if we leave.

    follow(jobs, order, seconds)

Whoever deletes a pod of Kubeflow Pipelines, or terminates a run, sends SIGTERM to all of its processes at once, and
Argo's executor looks each second whether the first of them has ended: so giving back is the first thing that is done.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import NoReturn, Protocol

from sentinel.errors import StageError

LOOK = 15.0
"""Seconds between two looks at a job."""
QUEUE = "kueue.x-k8s.io/queue-name"
"""Label by which Kueue knows who waits in which queue."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What tells us to end."""


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
    seconds: int | None = None
    """How long it may run, even if nobody follows it any more."""

    @property
    def queued(self) -> bool:
        """Whether a queue decides when it runs, and so whether it is suspended."""
        return QUEUE in self.labels


class Jobs(Protocol):
    """Where jobs run. Raises `StageError` if it cannot be reached."""

    def state(self, name: str) -> State:
        """How the job is."""

    def create(self, order: Order) -> None:
        """Start a job; one of this name that is there already is left alone."""

    def claim(self, order: Order) -> None:
        """Have the job go when this container's pod goes. Raises `StageError` if it is not what was ordered."""

    def suspend(self, name: str, suspended: bool) -> None:
        """Take the job's nodes away, or let it have some; one that is not there has none."""

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
        order: what it is; one that is there already is taken as it is.
        seconds: how long we wait, a queue included.
        look: seconds between two looks.

    Raises:
        StageError: It failed, it is somebody else's, or it did not end in time (then its nodes are given back).
        SystemExit: We were told to end; its nodes are given back, and it goes on when it is followed again.
    """
    deadline = time.monotonic() + seconds
    found = jobs.state(order.name)
    if found is not State.absent:
        jobs.claim(order)
    with _giving_back(jobs, order):
        _begin(jobs, order, found, deadline, look)
        with _streaming(jobs, order.name, look):
            state = _wait(jobs, order, deadline, look)
    if state is State.absent:
        raise StageError(f"TrainJob {order.name} was deleted by somebody; try again")
    if state is State.failed:
        raise StageError(
            f"TrainJob {order.name} failed; its log stands above. It is left as it is until the next attempt:\n"
            f"    kubectl describe trainjob {order.name}"
        )
    if state is not State.complete:
        raise StageError(
            f"TrainJob {order.name} is not done after {seconds / 3600:.1f} hours and was {_give_back(jobs, order)}; "
            "try again, and it goes on, or allow it more time: trainer.launcher.timeout_hours"
        )


def _begin(jobs: Jobs, order: Order, state: State, deadline: float, look: float) -> None:
    """Have the job run: a failed one is replaced, one that we suspended goes on, one in a queue waits."""
    if state is State.failed:
        _say(f"TrainJob {order.name} failed in an earlier attempt; it is replaced")
        jobs.delete(order.name)
        while jobs.state(order.name) is not State.absent:
            if time.monotonic() > deadline:
                raise StageError(f"TrainJob {order.name} was deleted and does not go: has it finalizers?")
            time.sleep(min(look, 1.0))
        state = State.absent
    if state is State.absent:
        _say(f"creating TrainJob {order.name}: {order.nodes} nodes")
        jobs.create(order)
        jobs.claim(order)
    elif state is State.suspended and not order.queued:
        _say(f"TrainJob {order.name} goes on")
        jobs.suspend(order.name, False)
    else:
        _say(f"TrainJob {order.name} is there already")


def _wait(jobs: Jobs, order: Order, deadline: float, look: float) -> State:
    """How the job is when it has ended, or is gone, or our time is up."""
    while True:
        state = jobs.wait(order.name, look)
        if state not in (State.active, State.suspended) or time.monotonic() > deadline:
            return state


def _give_back(jobs: Jobs, order: Order) -> str:
    """Have the job hold no nodes; what was done to it. Kueue starts what is suspended again, so that is deleted.

    Either way its pods end, and when it is followed again the training goes on from its last checkpoint.
    """
    if order.queued:
        jobs.delete(order.name)
        return "deleted"
    jobs.suspend(order.name, True)
    return "suspended"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _giving_back(jobs: Jobs, order: Order) -> Iterator[None]:
    """On SIGTERM or SIGINT the job gives its nodes back, and we leave with the usual code; a second one is ignored."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    except SystemExit:
        done = _give_back(jobs, order)
        _say(f"told to end: TrainJob {order.name} was {done}")
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _streaming(jobs: Jobs, name: str, look: float) -> Iterator[None]:
    """Print the first node's log beside what happens in the block; its rest is waited for shortly if all went well."""
    over = threading.Event()
    thread = threading.Thread(target=_stream, args=(jobs, name, over, look), daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join(min(look, 10.0))
    finally:
        over.set()


def _stream(jobs: Jobs, name: str, over: threading.Event, look: float) -> None:
    """Print the log until it is over, and once more then: a job may end before its log was first seen.

    A log is read from its beginning each time; what is as it was is not shown again.
    """
    shown: list[int] = []
    last = False
    while not last:
        last = over.is_set()
        with suppress(StageError):
            for place, line in enumerate(jobs.logs(name)):
                if shown[place : place + 1] != [hash(line)]:
                    shown[place:] = [hash(line)]
                    print(line, flush=True)
        over.wait(min(look, 5.0))
