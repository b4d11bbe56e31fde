"""Which process works on a run, and whether it still does."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .models import Run


def user_of_process() -> str:
    """The name of the user that this process belongs to; empty where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def worker_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def own_process() -> str:
    """This process, told from every other one that has its number, here or elsewhere, ever."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"


def is_gone(run: Run) -> bool:
    """Whether the process that worked on the run is known to do so no more.

    ``False`` also when it cannot be known, as it was one of another machine.
    """
    pid = local_pid(run)
    if pid is None:
        return False
    started = run.process.rpartition(":")[2]
    if pid == os.getpid() and started == (_started(pid) or ""):
        return _name(run) not in _at_work
    now = _started(pid)
    return now is None or now not in ("", started)


def local_pid(run: Run) -> int | None:
    """The number of the process that worked on the run; ``None`` for one of another machine."""
    machine, _colon, rest = run.process.partition(":")
    number = rest.partition(":")[0]
    return int(number) if machine == _machine() and number.isdecimal() else None


@cache
def _machine() -> str:
    """This machine since it was started, or this container."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When a process was started, in the units of the system; ``None`` when there is none, and
    nothing when that is all that can be told: a system may hide the processes of others.

    A process that is dead and was not collected by its parent is none.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except PermissionError:
            return ""
        except (OSError, OverflowError):
            return None
        return ""
    return None if state in "ZX" else fields[18]


_at_work: set[tuple[str, int]] = set()
"""The runs that threads of this process work on."""


def _name(run: Run) -> tuple[str, int]:
    return run._meta.label, run.pk


@contextlib.contextmanager
def at_work(run: Run) -> Iterator[None]:
    """Within the block this process works on the run."""
    _at_work.add(_name(run))
    try:
        yield
    finally:
        _at_work.discard(_name(run))
