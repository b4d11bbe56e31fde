"""A tiny process that cleans up when the test process dies without a goodbye.

It is run by path with a bare interpreter, so it imports the standard library only.
Each line on standard input is JSON:

``{"add": {"pid": 12, "start": "4711", "path": "/tmp/x"}}`` or ``{"remove": 12}``. Without a
start there is only the folder to remove; with a ``"group"`` the process is killed with its group.

End of input means that the writer is gone, whatever killed it: what is still listed is killed,
unless the pid was given to another process meanwhile, and its folder is removed.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any


def start_time(pid: int) -> str:
    """The kernel's start tick of a process; "" if it is gone, dead, or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[0] == b"Z" else fields[19].decode()
    except (OSError, IndexError):
        return ""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    entries: dict[int, dict[str, Any]] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "add" in message:
            entries[message["add"]["pid"]] = message["add"]
        else:
            entries.pop(message["remove"], None)
    for sign, patience in ((signal.SIGINT, 3.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 1.0)):
        running = [e for e in entries.values() if e["start"] and start_time(e["pid"]) == e["start"]]
        for entry in running:
            with contextlib.suppress(OSError):
                (os.killpg if entry.get("group") else os.kill)(entry["pid"], sign)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(start_time(e["pid"]) == e["start"] for e in running):
            time.sleep(0.05)
    for entry in entries.values():
        if entry["path"]:
            shutil.rmtree(entry["path"], ignore_errors=True)


if __name__ == "__main__":
    main()
