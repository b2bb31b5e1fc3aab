"""A process that dies with the one that started it, however that one dies (Linux; elsewhere nothing happens).

Imports next to nothing, so that it can be called before the slow imports, during which the parent may be killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Tie this process to its parent `parent`; if that is gone already, end at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def die_with_dvc() -> None:
    """Tie a stage that DVC started to DVC; a stage started by hand is left alone.

    DVC and its shell are in the stage's process group. Whoever adopts an orphan is not: then DVC died a moment ago.
    """
    if "DVC_STAGE" not in os.environ or sys.platform != "linux":
        return
    parent = os.getppid()
    die_with(parent)
    if os.getpgid(parent) != os.getpgrp():
        os.kill(os.getpid(), signal.SIGKILL)
