"""The end of hooks whose models wait for the transaction of the hooks themselves."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from django.db import DEFAULT_DB_ALIAS, connections

from ..core.connection import one_row
from ..core.errors import HookFailed, PgcloneError
from ..databases import site_params
from .session import Transaction

LOOK_EVERY = 1.0
"""Seconds between two looks at who waits for whom."""


@contextmanager
def never_for_itself(shared: Transaction, alias: str, name: str) -> Iterator[None]:
    """Ends the block by :class:`HookFailed` when a model in it waits for a lock of ``shared``.

    For the server that is no deadlock: it does not know that the thread which waits on the one
    connection is the one that would have to go on with the other. A wait for anybody else is not
    touched.
    """
    watcher = _Watcher(shared, alias, name)
    watcher.start()
    try:
        yield
    except Exception as error:
        if watcher.has_found:
            raise HookFailed(
                "a model waited for a lock that the transaction of the hooks holds, and would have "
                "waited for ever",
                hint="Models have a connection of their own. Write to a table either with them or "
                "with self.execute(), or use the models in a management command after this hook.",
            ) from error
        raise
    finally:
        watcher.end()


class _Watcher:
    def __init__(self, shared: Transaction, alias: str, name: str) -> None:
        self._params = site_params(alias, name)
        self._holds = shared.connection.info.backend_pid
        # Of this thread: another one would find its own.
        self._wrappers = [connections[each] for each in {DEFAULT_DB_ALIAS, alias}]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pgclone hook locks", daemon=True)
        self.has_found = False

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        """Over a connection of its own, which is only made for a hook that takes its time."""
        while not self._is_over.wait(LOOK_EVERY):
            if any(wrapper.connection is not None for wrapper in self._wrappers):
                # A server that has no connection left is no reason to disturb the hook.
                with contextlib.suppress(PgcloneError, psycopg2.Error):
                    self._look()

    def _look(self) -> None:
        with self._params.session() as asking:
            while not self._is_over.wait(LOOK_EVERY):
                for wrapper in self._wrappers:
                    used: Any = wrapper.connection
                    if used is not None and self._is_waiting(asking, used):
                        self.has_found = True
                        used.cancel()

    def _is_waiting(self, asking: Any, used: Any) -> bool:
        with asking.cursor() as cursor:
            cursor.execute(
                "SELECT %s = ANY (pg_catalog.pg_blocking_pids(%s))",
                [self._holds, used.info.backend_pid],
            )
            return bool(one_row(cursor)[0])
