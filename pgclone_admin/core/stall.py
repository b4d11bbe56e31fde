"""Work for a storage, which may hang, in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TypeVar, cast

from .dump import Content
from .errors import Cancelled, Stalled
from .streams import Readable

T = TypeVar("T")

LOOK = 0.5
"""Seconds between two looks at whether something has moved."""

FAREWELL = 10.0
"""Seconds that a storage has to remove what it has taken, when nobody waits for it any more."""

AHEAD = 64 * 1024
"""Bytes that are asked of a storage at least: little enough for a slow network to show progress."""

SLOWEST = 1_000_000
"""Bytes a second at which a storage that gives whole files only may fetch one."""

HINT = (
    "Look at the storage and the network, then try again. Something that is only slow gets more "
    "time by PGCLONE_STALL_TIMEOUT."
)


class Attendant:
    """Does one thing after another in a thread of its own, and stops waiting for one that hangs.

    A thread that is deep in a system call, as on a dead network drive, cannot be ended. So it is
    left behind: whoever waits for it goes on with :class:`Stalled`, and can end programs and
    release locks. What comes after fails at once until the thread is back.

    ``limit``: seconds in which something has to move, ``None`` for any time. They are counted in
    looks, so that a process which was stopped meanwhile does not take others for hanging.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._left_behind: _Job | None = None
        self._moves = 0
        self._excuses = 0

    def move(self) -> None:
        """Tells that something moves, from whatever thread."""
        self._moves += 1

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Within the block something else is waited for, which has limits of its own."""
        self._excuses += 1
        try:
            yield
        finally:
            self._excuses -= 1
            self.move()

    @property
    def hangs(self) -> bool:
        """Whether something that was left behind has still not come to its end."""
        return self._left_behind is not None and not self._left_behind.done.is_set()

    def call(
        self,
        work: Callable[[], T],
        *,
        give_up: Callable[[], None] = lambda: None,
        undo: Callable[[], None] = lambda: None,
        more_time: float = 0.0,
    ) -> T:
        """What ``work`` returns or raises.

        When it is not waited for any more, for whatever reason, ``give_up`` is to make it fail, and
        it has a moment for that. Should it succeed all the same, ``undo`` follows in its thread.
        """
        if self.hangs:
            raise Stalled("the storage still does not answer", hint=HINT)
        job = _Job(work, undo)
        self._begin(job)
        try:
            self._wait(job, more_time)
        except BaseException:
            give_up()
            if job.forsake():
                job = _Job(undo)
                self._begin(job)
            self._left_behind = job
            job.done.wait(FAREWELL)
            raise
        if (error := job.error) is not None:
            # Error, traceback and frame would hold each other, and the storage with them.
            job.error = None
            try:
                raise error
            finally:
                del error
        return cast(T, job.result)

    def later(self, work: Callable[[], object]) -> None:
        """Has it done when the thread has come so far; nobody hears of it."""
        self._begin(_Job(work))

    def _begin(self, job: _Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._jobs,), name="pgclone storage", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._jobs.put, None)
        self._jobs.put(job)

    def _wait(self, job: _Job, more_time: float) -> None:
        seen, quiet = self._moves, 0.0
        while not job.done.wait(LOOK):
            is_quiet = seen == self._moves and not self._excuses
            quiet = quiet + LOOK if is_quiet else 0.0
            seen = self._moves
            if self._limit is not None and quiet >= self._limit + more_time:
                raise Stalled(
                    f"the storage has neither taken nor given anything for {quiet:g} seconds",
                    hint=HINT,
                )


class _Job:
    def __init__(self, work: Callable[[], object], undo: Callable[[], None] = lambda: None) -> None:
        self._work: Callable[[], object] | None = work
        self._undo: Callable[[], None] | None = undo
        self._lock = threading.Lock()
        self._is_forsaken = False
        self.done = threading.Event()
        self.result: object = None
        self.error: BaseException | None = None

    def do(self) -> None:
        assert self._work is not None
        assert self._undo is not None
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            self.error = error
        with self._lock:
            is_unwanted = self._is_forsaken and self.error is None
            if not is_unwanted:
                self.done.set()
        if is_unwanted:
            with suppress(Exception):
                self._undo()
            self.done.set()
        # They hold the storage, whose connection ends when nobody does.
        self._work = self._undo = None

    def forsake(self) -> bool:
        """Nobody waits any more; returns whether it has succeeded before."""
        with self._lock:
            self._is_forsaken = True
            return self.done.is_set() and self.error is None


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.do()
        del job


class AttendedContent:
    """What a storage takes: each block that it reads is a move, and while it waits for the next
    one, it is not the storage that is waited for."""

    def __init__(self, content: Content, attendant: Attendant) -> None:
        self._content = content
        self._attendant = attendant
        self._is_abandoned = False

    @property
    def size(self) -> int:
        return self._content.size

    @property
    def complete(self) -> bool:
        return self._content.complete

    def read(self, size: int = -1, /) -> bytes:
        if self._is_abandoned:
            raise Cancelled("the storage does not take the dump any more")
        with self._attendant.excused():
            return self._content.read(size)

    def abandon(self) -> None:
        self._is_abandoned = True
        self._content.abandon()


class AttendedReader:
    """What a storage gives.

    ``fetches``: bytes that it fetches before it gives the first one.
    """

    def __init__(
        self, attendant: Attendant, open_: Callable[[], Readable], *, fetches: int = 0
    ) -> None:
        self._attendant = attendant
        self._more_time = fetches / SLOWEST
        self._source = attendant.call(open_, more_time=self._more_time)
        self._ahead = b""

    def read(self, size: int, /) -> bytes:
        if not self._ahead:
            # A decoder asks for little at a time, and each time another thread has to be woken.
            wanted = max(size, AHEAD)
            self._ahead = self._attendant.call(
                lambda: self._source.read(wanted), more_time=self._more_time
            )
            self._more_time = 0.0
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def close(self) -> None:
        """Raises nothing and waits for nothing: what was read is right, or was found to be wrong,
        whatever becomes of a connection that nobody needs any more."""
        self._attendant.later(self._source.close)
