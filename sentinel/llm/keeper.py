"""Runs a command in a session of its own, and ends all of it once standard input closes: when its owner has died, too.

    python -I keeper.py COMMAND…          # exit code: the command's

A file of its own that imports next to nothing, so that it watches from the first moment and outlives any signal to its
owner's process group. The command is asked to end (SIGTERM) and has `GRACE_SECONDS`; then its whole group is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_SECONDS = 15.0


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _watch(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then for that of the process."""
    while os.read(0, 1024):
        pass
    _signal(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal(process.pid, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, or 127 if it cannot be started."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_watch, args=(process,), daemon=True).start()
    code = process.wait()
    _signal(process.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
