"""Threads that a hook starts follow it to its database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Around = Callable[[], AbstractContextManager[None]]
"""Makes what is put around all that a thread does."""

OWN = "pgclone "
"""What the names of our own threads begin with: they watch, and write where the hook does not."""

_lock = threading.Lock()
_followed: dict[int, Around] = {}
"""What is put around the threads that these threads start, by their numbers."""
_start = threading.Thread.start


@contextmanager
def followed(around: Around) -> Iterator[None]:
    """Within the block, what this thread starts runs within ``around()``.

    Django's connections belong to a thread: a new one would connect where the settings say. Threads
    that were there before, such as those of a pool of the project, are not reached.
    """
    me = threading.get_ident()
    with _lock:
        before = _followed.get(me)
        _followed[me] = around
        threading.Thread.start = _follow  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        with _lock:
            if before is None:
                del _followed[me]
            else:
                _followed[me] = before
            if not _followed:
                threading.Thread.start = _start  # type: ignore[method-assign]


def _follow(thread: threading.Thread) -> None:
    around = _followed.get(threading.get_ident())
    if around is not None and not thread.name.startswith(OWN):
        run = thread.run

        def run_around() -> None:
            with around():
                run()

        thread.run = run_around  # type: ignore[method-assign]
    _start(thread)
