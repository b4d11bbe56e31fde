"""Threads that a hook starts follow it to its database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from asgiref.sync import SyncToAsync

Around = Callable[[], AbstractContextManager[None]]
"""Makes what is put around all that a thread does."""

OWN = "pgclone "
"""What the names of our own threads begin with: they watch, and write where the hook does not."""


@dataclass
class _Followed:
    """What is put around the threads that one thread starts."""

    around: Around
    executor: ThreadPoolExecutor | None = None
    """Where its asynchronous code uses the ORM, if it does."""


class _ExecutorOfThread(Executor):
    """Stands for the one thread of the process in which asynchronous code uses the ORM.

    That thread may have been there before, with connections of its own. Threads that are followed
    get another one each, which follows them as any other thread.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        followed = _followed.get(threading.get_ident())
        if followed is None:
            return _executor.submit(function, *args, **keywords)
        if followed.executor is None:
            followed.executor = ThreadPoolExecutor(max_workers=1)
        return followed.executor.submit(function, *args, **keywords)


_lock = threading.Lock()
_followed: dict[int, _Followed] = {}
"""The threads that are followed, by their numbers."""
_start: Callable[[threading.Thread], None] = threading.Thread.start
"""What starts threads while nobody is followed; what watches a site may have replaced it, too."""
_executor: Executor = SyncToAsync.single_thread_executor


@contextmanager
def followed(around: Around) -> Iterator[None]:
    """Within the block, what this thread starts runs within ``around()``.

    Django's connections belong to a thread: a new one would connect where the settings say. Threads
    that were there before, such as those of a pool of the project, are not reached.
    """
    me, mine = threading.get_ident(), _Followed(around)
    with _lock:
        before = _followed.get(me)
        if not _followed:
            _install()
        _followed[me] = mine
    try:
        yield
    finally:
        with _lock:
            if before is None:
                del _followed[me]
            else:
                _followed[me] = before
            if not _followed:
                _remove()
        if mine.executor is not None:
            # Not waited for: it may hang in the server, and is not to hold up who ends it.
            mine.executor.shutdown(wait=False, cancel_futures=True)


def _install() -> None:
    global _executor, _start
    _executor, _start = SyncToAsync.single_thread_executor, threading.Thread.start
    SyncToAsync.single_thread_executor = _ExecutorOfThread()  # type: ignore[assignment]
    threading.Thread.start = _follow  # type: ignore[assignment, method-assign]


def _remove() -> None:
    SyncToAsync.single_thread_executor = _executor  # type: ignore[assignment]
    if threading.Thread.start is _follow:
        threading.Thread.start = _start  # type: ignore[assignment, method-assign]


def _follow(thread: threading.Thread) -> None:
    followed = _followed.get(threading.get_ident())
    if followed is not None and not thread.name.startswith(OWN):
        run, around = thread.run, followed.around

        def run_around() -> None:
            with around():
                run()

        thread.run = run_around  # type: ignore[method-assign]
    _start(thread)
