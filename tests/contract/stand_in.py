"""Stands in for docker, kind, kubectl, helm and git: notes how it was called, and answers from a file.

Called by a name of its own (a copy), with $STAND_IN a folder: `calls` gets a line for each call, and `answers.json`
holds [pattern, output, code] for calls that are to print or to fail. `kubectl port-forward` listens, as the real one.
"""

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

folder = Path(os.environ["STAND_IN"])
call = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
with (folder / "calls").open("a", encoding="utf-8") as calls:
    calls.write(call.replace("\n", " ") + "\n")
for pattern, output, code in json.loads((folder / "answers.json").read_text(encoding="utf-8")):
    if re.search(pattern, call):
        print(output)
        sys.exit(code)
if " port-forward " in call:
    with socket.create_server(("127.0.0.1", int(sys.argv[-1].partition(":")[0]))):
        signal.pause()
