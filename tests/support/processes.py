"""Which child processes belong to the test infrastructure, and which ones were left behind.

Three facts shape this module:

* A test run may be killed (time limit, Ctrl-C twice, SIGTERM), and then neither fixtures nor
  ``atexit`` run. Long-lived helpers are therefore listed with a *lifeline* process that ends
  them as soon as its input closes.
* A child of a killed command line is adopted by ``init`` and would go unseen. On Linux the test
  process makes itself a *subreaper*, so orphans become its children and the checks find them.
* A dead child nobody waited for is a fault of the product, a dead orphan is not.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .lifeline import start_time

PR_SET_CHILD_SUBREAPER = 36

_infrastructure: dict[int, str] = {}
_lifelines: list[subprocess.Popen[str]] = []
"""Empty, or the one that runs."""


def adopt_orphans() -> bool:
    """Make orphaned descendants children of this process. Returns whether that worked."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _tell_lifeline(message: dict[str, object]) -> None:
    if not _lifelines:
        lifeline = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).with_name("lifeline.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        _lifelines.append(lifeline)
        _infrastructure[lifeline.pid] = "lifeline"
        atexit.register(_close_lifeline)
    stdin = _lifelines[0].stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError):
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()


def _close_lifeline() -> None:
    while _lifelines:
        lifeline = _lifelines.pop()
        assert lifeline.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            lifeline.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            lifeline.wait(timeout=10)


def register(pid: int, name: str, path: Path | None = None) -> None:
    """Say that ``pid`` is a helper of the tests and that ``path`` is removed with it."""
    _infrastructure[pid] = name
    _tell_lifeline(
        {"add": {"pid": pid, "start": start_time(pid), "path": str(path) if path else ""}}
    )


def register_group(pid: int) -> None:
    """Have a process and its group ended when this one is gone; the checks look at them still."""
    _tell_lifeline({"add": {"pid": pid, "start": start_time(pid), "path": "", "group": True}})


def register_folder(path: Path) -> None:
    """Have ``path`` removed when this process is gone, whatever ended it."""
    _tell_lifeline({"add": {"pid": str(path), "start": "", "path": str(path)}})


def unregister(pid: int) -> None:
    _infrastructure.pop(pid, None)
    _tell_lifeline({"remove": pid})


def is_running(pid: int) -> bool:
    """Whether ``pid`` exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that will be so; AssertionError if it is not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def wait_gone(pid: int, timeout: float = 10.0) -> bool:
    """Wait until ``pid`` no longer runs; false if it still does after ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while is_running(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children():
            if child.pid in _infrastructure:
                continue
            found += [child, *_descendants(child)]
    return found


def children() -> list[psutil.Process]:
    """Every descendant of this process that is not part of the infrastructure."""
    return _descendants(psutil.Process())


def _own_popen() -> dict[int, subprocess.Popen[Any]]:
    """Children started here by ``subprocess`` and not waited for."""
    own: dict[int, subprocess.Popen[Any]] = {
        p.pid: p for p in getattr(subprocess, "_active", None) or []
    }
    for candidate in gc.get_objects():
        # Not isinstance(): it asks lazy objects and dead weak references for their class.
        if issubclass(type(candidate), subprocess.Popen) and candidate.returncode is None:
            own[candidate.pid] = candidate
    return own


def leftovers(ignore: set[int] | None = None) -> list[psutil.Process]:
    """Descendants still running, and dead ones that this process forgot to wait for.

    Dead orphans, which only came here because of `adopt_orphans`, are waited for silently.
    """
    found = [p for p in children() if p.pid not in (ignore or set())]
    if not found:
        return []
    left: list[psutil.Process] = []
    own: dict[int, subprocess.Popen[Any]] | None = None
    for process in found:
        try:
            dead = process.status() == psutil.STATUS_ZOMBIE
            if dead and process.ppid() == os.getpid():
                own = _own_popen() if own is None else own
                if process.pid not in own:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
                    continue
            left.append(process)
        except psutil.NoSuchProcess:
            continue
    return left


def describe(process: psutil.Process) -> str:
    try:
        status, command = process.status(), process.name()
        with contextlib.suppress(psutil.ZombieProcess, psutil.AccessDenied):
            command = " ".join(process.cmdline()) or command
    except psutil.Error:
        return f"process {process.pid} (gone)"
    return f"process {process.pid} ({status}): {command[:200]}"


def end(process: psutil.Process) -> None:
    """Kill one leftover and collect it, so that it cannot disturb the next test."""
    with contextlib.suppress(psutil.Error):
        process.kill()
    started_here = _own_popen().get(process.pid)
    with contextlib.suppress(psutil.Error, ChildProcessError, subprocess.TimeoutExpired):
        if started_here is not None:
            started_here.wait(timeout=5)  # or it would complain when it is forgotten
        else:
            process.wait(timeout=5)
