"""Runs one command and tells what it cost: time, processor time of its whole tree, memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SAMPLE_EVERY = 0.1
"""Seconds between two looks at the memory of the processes."""

QUIET = 0.1
"""Share of the processors that others may use during a run that counts as undisturbed."""

UNINTERESTING = {"sh", "bash", "cat"}
"""Programs whose memory nobody asks for."""


@dataclass(frozen=True)
class Command:
    """A program to run in a whole environment of its own."""

    argv: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What one run cost. ``memory`` is MB by program, of its largest process."""

    seconds: float
    cpu: float
    memory: Mapping[str, float]
    stdout: str
    stderr: str
    others: float = 0.0
    """Share of the processors' time that went to processes which have no part in it."""
    size: int = 0


class CommandFailed(Exception):
    """A measured command did not succeed, so there is nothing to compare."""


def run(command: Command, servers: Sequence[int] = ()) -> Outcome:
    """Runs the command to its end. Raises `CommandFailed` unless it exits with 0.

    ``servers`` are the processes that work for it, so that what all others did can be told.

    Processor time is user and system time of the process and of every descendant that was waited
    for, which a shell, Python and the client programs all do.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        before = _processor_time(servers)
        started = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            _pid, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            after = _processor_time(servers)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            # Also after Ctrl-C here: the command has a session of its own and does not get it.
            sampler.end()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output, errors = _content(stdout), _content(stderr)
    if process.returncode:
        raise CommandFailed(
            f"{' '.join(command.argv)}\nended with {process.returncode}:\n"
            f"{output[-2000:]}\n{errors[-4000:]}"
        )
    cpu = usage.ru_utime + usage.ru_stime
    others = (after - before - cpu) / (seconds * (os.cpu_count() or 1))
    return Outcome(
        seconds=seconds,
        cpu=cpu,
        others=max(0.0, others),
        memory=sampler.memory(),
        stdout=output,
        stderr=errors,
    )


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def wait_until_quiet(deadline: float) -> None:
    """Returns when nobody uses the processors, or at the deadline (of the monotonic clock)."""
    while time.monotonic() < deadline:
        before = _processor_time(())
        time.sleep(0.5)
        if (_processor_time(()) - before) / (0.5 * (os.cpu_count() or 1)) < QUIET:
            return


def _processor_time(servers: Sequence[int]) -> float:
    """Seconds the machine has worked, but for this process and the servers; 0 without /proc.

    What a hypervisor took away counts as work of others.
    """
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    _user, _nice, _system, idle, waiting, *_rest = ticks = [int(field) for field in fields]
    busy = (sum(ticks) - idle - waiting) / _TICKS
    return busy - time.process_time() - sum(_used_by(pid) for pid in servers)


_TICKS = os.sysconf("SC_CLK_TCK")


def _used_by(pid: int) -> float:
    """Seconds of a server and its children, also of those that have ended."""
    seconds = _ticks(pid, with_ended=True)
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            seconds += _ticks(int(child), with_ended=False)
    return seconds


def _ticks(pid: int, *, with_ended: bool) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime and stime, and those of the children that were waited for.
    return sum(int(field) for field in fields[11 : 15 if with_ended else 13]) / _TICKS


class _Sampler(threading.Thread):
    """Notes the high-water mark of each process of a tree, as long as it lives.

    The kernel keeps the mark, so that rare looks miss no peak but one in the last moment.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._seen: dict[int, tuple[str, int]] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY):
            for pid in _tree(self._pid):
                # The last look counts, not the highest: a process that has not yet started its
                # program shows the memory of the one it came from.
                with contextlib.suppress(OSError, ValueError):
                    self._seen[pid] = _status(pid)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def memory(self) -> dict[str, float]:
        largest: dict[str, float] = {}
        for name, kilobytes in self._seen.values():
            if name not in UNINTERESTING:
                largest[name] = max(largest.get(name, 0.0), kilobytes / 1000)
        return largest


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _tree(int(child))


def _status(pid: int) -> tuple[str, int]:
    """Name and high-water mark in kB. ValueError: it has ended and was not waited for."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    if "VmHWM" not in fields:
        raise ValueError(pid)
    return fields["Name"].strip(), int(fields["VmHWM"].split()[0])
