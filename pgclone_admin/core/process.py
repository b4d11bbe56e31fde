"""Runs one client program: pipes, the end of its error output, its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import zip_longest
from types import TracebackType
from typing import IO, Self

from .errors import KilledBySignal, LockTimeout, ProcessFailed, ProgramMissing
from .names import readable
from .programs import Command

STDERR_TAIL = 16 * 1024
"""Bytes of a program's error output that are kept."""

LONGEST_LINE = 64 * 1024
"""Bytes after which a line of error output is given on although it has not ended."""

LOOK_EVERY = 0.2
"""Seconds between two looks at whether a program still works for something."""

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

LOCK_NOT_GRANTED = ("due to lock timeout", "due to statement timeout")
"""pg_dump limits its waiting for locks by a statement timeout, and has no other one."""

FROM_SERVER = "detail: Error message from server: "

LineHandler = Callable[[str], None]
"""Takes each line as the program wrote it, with what is no UTF-8 as surrogates: a command in it may
have to be repeated, and a password can be a word of the command. What of it is shown to anybody is
to be :func:`readable` and :func:`scrubbed`."""


class Child:
    """One running program in a process group of its own; :class:`ProgramMissing` when it cannot be
    started.

    The end of its output says nothing about success: :meth:`finish` obtains the exit status and
    raises unless it is 0. Leaving the ``with`` block always ends and reaps the process. Should this
    process be killed, pg_dump dies of its closed pipe or of its lock timeout, and pg_restore sees
    the end of its input.
    """

    def __init__(
        self,
        command: Command,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        on_line: LineHandler | None = None,
    ) -> None:
        self.name = command.name
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._group_ended = False
        self._on_line = on_line
        self._secrets = command.secrets
        try:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and no typed program
                command.argv,
                env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", **command.environment},
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramMissing(f"{self.name} cannot be started: {error.strerror}") from error
        self._stderr = threading.Thread(
            target=self._read_stderr, name=f"{self.name} stderr", daemon=True
        )
        self._stderr.start()

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stderr_tail(self) -> str:
        """The last lines of the error output."""
        return "\n".join(self._tail)

    def wait(self, *, is_in_vain: Callable[[], bool] | None = None) -> int:
        """The exit status, once the program has ended; negative for a signal.

        It is ended as soon as ``is_in_vain`` says so, which is asked now and then.
        """
        if is_in_vain is None:
            self._process.wait()
        while self._process.poll() is None:
            if is_in_vain is not None and is_in_vain():
                self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_EVERY)
        self._end_group()
        return self._process.returncode

    def finish(self) -> None:
        """Waits for the end of the program; :class:`ProcessFailed` unless it succeeded, which is
        :class:`KilledBySignal` or :class:`LockTimeout` where that is the reason."""
        if status := self.wait():
            raise self.failure(status)

    def failure(self, status: int) -> ProcessFailed:
        """The error for an exit status that is not 0."""
        if status < 0:
            name = _signal_name(-status)
            return KilledBySignal(f"{self.name} was killed by {name}", signal=-status)
        reason = first_error(self.stderr_tail) or "it gave no reason"
        if any(sign in self.stderr_tail for sign in LOCK_NOT_GRANTED):
            return LockTimeout(
                f"{self.name} did not get a lock in time: {reason}",
                hint="Another session holds a lock on a table. Try again when it is done.",
            )
        return ProcessFailed(f"{self.name} failed with exit status {status}: {reason}")

    def terminate(self, grace: float = GRACE) -> None:
        """Ends the whole process group: SIGTERM, and SIGKILL after ``grace`` seconds."""
        for number, timeout in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
        self._end_group()

    def _end_group(self) -> None:
        """Ends what the program has started, which would hold its pipes open for ever.

        Once, right after its own end: later the number can be that of somebody else's group.
        """
        if not self._group_ended:
            self._group_ended = True
            # Permission is what macOS says that it lacks when all of the group has ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._stderr.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.terminate(grace=GRACE if error is None else 1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read_stderr(self) -> None:
        """Always reads to the end: a program whose error output is not read stands still."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            rest = b""
            while data := stream.read(LONGEST_LINE):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    self._take_line(line)
            if rest:
                self._take_line(rest)

    def _take_line(self, raw: bytes) -> None:
        line = raw.decode(errors="surrogateescape")
        if self._on_line is not None:
            self._on_line(line)
        # A statement that names hundreds of tables must not push its own error out.
        kept = scrubbed(readable(line), self._secrets)[: STDERR_TAIL // 4]
        self._tail.append(kept)
        self._tail_size += len(kept) + 1  # its line break, so that empty lines count too
        while self._tail_size > STDERR_TAIL + 1:
            self._tail_size -= len(self._tail.popleft()) + 1


def scrubbed(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets."""
    # The shorter one of two that begin alike would leave the end of the other.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def first_error(text: str) -> str:
    """The first line of ``text`` that names an error, without the program's name.

    With what the server said about it, which pg_dump puts into the next line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        for marker in ("error: ", "ERROR: ", "FATAL: "):
            if marker in line:
                _, _, from_server = following.partition(FROM_SERVER)
                said = [line.split(marker, 1)[1].strip(), from_server.strip()]
                return " ".join(filter(None, said))
    return lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
