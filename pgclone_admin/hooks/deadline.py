"""The end of hooks that take too long, or whose run is to end."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..core.progress import Reporter

LOOK_EVERY = 0.2
"""Seconds between two looks at the clock and at the run."""

AGAIN_AFTER = 2.0
"""Seconds after which a hook that goes on is ended once more: it may swallow every error."""

CANCEL_EVERY = 0.5


class TimeIsUp(BaseException):
    """Raised in a hook that has taken too long; no ``except Exception`` of a hook stops it."""


Cancel = Callable[[], None]
"""Cancels the statement that is being executed; called from another thread."""


@contextmanager
def watched(seconds: float | None, reporter: Reporter, cancel: Cancel) -> Iterator[None]:
    """Ends the block by :class:`TimeIsUp` after so many seconds.

    A thread that waits for the server notices nothing until it answers, so the statement is
    cancelled first; also when the run is to end for another reason, which the block is told
    by whoever asks it to.
    """
    watcher = _Watcher(seconds, reporter, cancel)
    with watcher.at_work():
        yield


class _Watcher:
    def __init__(self, seconds: float | None, reporter: Reporter, cancel: Cancel) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._reporter = reporter
        self._cancel = cancel
        self._thread = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        self._is_over = threading.Event()
        self._was_ended = False
        # Held while the block is ended from outside, so that nothing arrives after its end.
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR2, self._raise) if self._is_main else None
        thread = threading.Thread(target=self._watch, name="pgclone hook watch", daemon=True)
        thread.start()
        try:
            try:
                yield
                if self._was_ended:
                    # It has swallowed that, and gone on.
                    raise TimeIsUp
            finally:
                self._stop()
        finally:
            # Once more: TimeIsUp may have arrived just there, and nothing is to be ended later.
            self._stop()
            thread.join()
            if self._is_main:
                signal.signal(signal.SIGUSR2, before)
            else:
                _raise_in(self._thread, None)

    def _stop(self) -> None:
        with self._lock:
            self._is_over.set()

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if not self._is_over.is_set():
            raise TimeIsUp

    def _watch(self) -> None:
        raised_at = cancelled_at = 0.0
        while not self._is_over.wait(LOOK_EVERY):
            now = time.monotonic()
            is_late = self._deadline is not None and now > self._deadline
            if (is_late or self._reporter.is_to_end()) and now - cancelled_at > CANCEL_EVERY:
                cancelled_at = now
                with contextlib.suppress(Exception):
                    self._cancel()
            if is_late and now - raised_at > AGAIN_AFTER:
                raised_at = now
                with self._lock:
                    if not self._is_over.is_set():
                        self._end()

    def _end(self) -> None:
        self._was_ended = True
        if self._is_main:
            signal.pthread_kill(self._thread, signal.SIGUSR2)
        else:
            _raise_in(self._thread, TimeIsUp)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raises in another thread when it next executes Python, or takes that back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )
