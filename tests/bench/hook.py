"""What does the hook cost everybody who calls `kfp`? Paired runs of `kfp --version`, with it and without.

    python -m tests.bench.hook --json [--pairs 15]

Both sides start Python without .pth files and are given the same path; one of them imports the hook, as the .pth file
would. Differences are taken within a pair, which alternates its order, and their median counts; CPU seconds are less
sensitive to what else the machine does. `ratio` is one of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PATH = [sysconfig.get_path("purelib"), str(ROOT)]
KFP = "import sys; sys.argv = ['kfp', '--version']; from kfp.cli.__main__ import main; main()"
HOOK = "import sentinel_kfp_hook; "


class Cost(NamedTuple):
    """Seconds of one call."""

    wall: float
    cpu: float


def call(hook: bool) -> Cost:
    """`kfp --version` in a fresh interpreter."""
    code = f"import sys; sys.path += {PATH!r}; {HOOK if hook else ''}{KFP}"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-S", "-W", "ignore", "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"kfp --version ended with code {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def measure(pairs: int) -> dict[str, float]:
    """The medians over pairs, after one call of each side to fill the caches."""
    for hook in (True, False):
        call(hook)
    made: list[dict[bool, Cost]] = []
    for number in range(pairs):
        order = (True, False) if number % 2 else (False, True)
        made.append({hook: call(hook) for hook in order})
    return {
        "pairs": pairs,
        "added_ms": round(1000 * median(pair[True].wall - pair[False].wall for pair in made), 2),
        "added_cpu_ms": round(1000 * median(pair[True].cpu - pair[False].cpu for pair in made), 2),
        "without_ms": round(1000 * median(pair[False].wall for pair in made), 1),
        "ratio": round(median(pair[True].cpu / pair[False].cpu for pair in made), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of calls")
    arguments = parser.parse_args()
    found = measure(arguments.pairs)
    print(json.dumps(found) if arguments.json else f"the hook adds {found['added_ms']} ms to `kfp --version`")


if __name__ == "__main__":
    main()
