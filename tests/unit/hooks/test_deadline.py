"""The end of hooks that take too long, apart from hooks."""

from __future__ import annotations

import signal
import threading
from types import TracebackType

import pytest

from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks.deadline import TimeIsUp, _Watcher


class LockThatIsInterrupted:
    """The time is up just when the block is left."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_first = True

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread() and self._is_first:
            self._is_first = False
            signal.raise_signal(signal.SIGUSR2)
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


def test_an_end_that_comes_when_the_block_is_left_leaves_nothing_behind() -> None:
    """Otherwise what comes after the hook would be ended, again and again."""
    before = signal.getsignal(signal.SIGUSR2)
    watcher = _Watcher(60, SilentReporter(), lambda: None)
    watcher._lock = LockThatIsInterrupted()  # type: ignore[assignment]
    with pytest.raises(TimeIsUp), watcher.at_work():
        pass
    assert signal.getsignal(signal.SIGUSR2) is before
    assert "pgclone hook watch" not in {thread.name for thread in threading.enumerate()}
