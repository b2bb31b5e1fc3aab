"""What DeepSpeed compiles, compiled once, before the ranks start, by one process at a time.

DeepSpeed compiles its own operators at first use, each rank for itself, and they wait for one another by a lock file. A
process that is killed meanwhile leaves that file behind, and every later one waits for ever, silently. So whoever
starts ranks takes a lock of the system first, which dies with its holder; under it the old lock files are nobody's and
are removed, and what is needed is compiled. Only the optimizer of `offload_optimizer` needs it: collectives of CPUs in
shared memory, which DeepSpeed would compile as well, are left to gloo.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from sentinel.errors import StageError
from sentinel.spec.profile import DeepSpeedTrainer

COMPILE = "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load(verbose=False)"
SHOWN_LINES = 30


def folder(place: DeepSpeedTrainer) -> Path:
    """Where the builds are."""
    return Path(place.builds).absolute() if place.builds else Path.home() / ".cache" / "sentinel" / "deepspeed"


def environment(place: DeepSpeedTrainer) -> dict[str, str]:
    """What tells DeepSpeed's processes to look there."""
    return {"TORCH_EXTENSIONS_DIR": str(folder(place)), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def warm(place: DeepSpeedTrainer) -> None:
    """Compile what is needed, unless it is there.

    Raises:
        StageError: The compiler fails, or there is none.
    """
    if not (place.stage and place.offload_optimizer):
        return
    where = folder(place)
    where.mkdir(parents=True, exist_ok=True)
    with (where / "building").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for stale in where.glob("*/lock"):
            stale.unlink()
        done = subprocess.run(
            [sys.executable, "-c", COMPILE],
            env=os.environ | environment(place),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        end = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).splitlines()[-SHOWN_LINES:])
        raise StageError(
            f"DeepSpeed cannot compile its optimizer for offload_optimizer (it needs g++ and ninja):\n{end}"
        )
