"""The transaction that renames two databases, while others see to it that it can be committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import Connection, one_row
from .errors import Conflict, PgcloneError
from .marks import Database, Mark, set_comment
from .properties import Uncarried, carry
from .sessions import POLL

LOCK_TIMEOUT = 400
"""Milliseconds that the rename waits for its lock; connecting sessions hold it for moments."""

SHORTEST_LOCK_TIMEOUT = 100
"""What it waits at least, where the last changes of kept tables have taken the time there was."""


class Swapper(threading.Thread):
    """The transaction with both renames; it waits in the server while sessions are ended, and here
    until it is known that nobody could have written to a kept table meanwhile."""

    def __init__(
        self,
        connection: Connection,
        live: Database,
        temporary: Database,
        parked: Mark,
        lose_settings: Collection[str],
        *,
        pid: int,
    ) -> None:
        """``connection``: one without autocommit, to the maintenance database, and ``pid`` the
        server's process behind it."""
        super().__init__(name="pgclone swap", daemon=True)
        self._connection = connection
        self._live = live
        self._temporary = temporary
        self._parked = parked
        self._lose_settings = lose_settings
        self._decided = threading.Event()
        self._refusal: PgcloneError | None = None
        self._cancelling = threading.Lock()
        self._is_renaming = False
        self.pid = pid
        self.lock_timeout = LOCK_TIMEOUT
        self.error: Exception | None = None
        self.seconds = 0.0
        self.lost_settings: list[Uncarried] = []

    def approve(self) -> None:
        """Lets the renames be committed."""
        self._decided.set()

    def refuse(self, reason: PgcloneError) -> None:
        """Has the renames undone, unless they were approved before; :meth:`wait` sees to it."""
        if not self._decided.is_set():
            self._refusal = reason
            self._decided.set()

    @property
    def is_decided(self) -> bool:
        return self._decided.is_set()

    @property
    def is_refused(self) -> bool:
        return self._refusal is not None

    def wait(self) -> None:
        """Returns when the transaction is over.

        One that was refused is not left to wait in the server, where others wait for it. It is told
        so again and again: what comes before a statement has begun is not heard.
        """
        while self.is_alive():
            if self._refusal is not None:
                with self._cancelling, suppress(psycopg2.Error):
                    if self._is_renaming and not self._connection.closed:
                        self._connection.cancel()
            self.join(POLL)

    def run(self) -> None:
        started = time.monotonic()
        try:
            self._rename_unless_cancelled()
            self._decided.wait()
            if self._refusal is not None:
                raise self._refusal
            self._connection.commit()
        except Exception as error:  # noqa: BLE001 - told to the thread that waits
            self.error = self._refusal or error
            self._undo()
        self.seconds = time.monotonic() - started

    def _undo(self) -> None:
        for _ in range(2):
            # The first time it may be this that is cancelled, by what was meant for the rename.
            with suppress(psycopg2.errors.QueryCanceled):
                if not self._connection.closed:
                    self._connection.rollback()
                return

    def _rename_unless_cancelled(self) -> None:
        self._is_renaming = True
        try:
            self._rename()
        finally:
            with self._cancelling:
                self._is_renaming = False

    def _rename(self) -> None:
        live, temporary, parked = self._live, self._temporary, self._parked
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [str(self.lock_timeout)])
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            cursor.execute(rename.format(sql.Identifier(live.name), sql.Identifier(parked.name)))
            cursor.execute(rename.format(sql.Identifier(temporary.name), sql.Identifier(live.name)))
            self._check_renamed(cursor)
            self.lost_settings = carry(
                cursor, live, temporary, live.name, lose_settings=self._lose_settings
            )
            cursor.execute(
                "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE oid = %s",
                [live.oid],
            )
            set_comment(cursor, live.name, one_row(cursor)[0])
            set_comment(cursor, parked.name, parked.comment())

    def _check_renamed(self, cursor: Any) -> None:
        """A rename goes by name: another run may have put its own database there."""
        expected = {self._parked.name: self._live.oid, self._live.name: self._temporary.oid}
        cursor.execute(
            "SELECT datname, oid FROM pg_database WHERE datname = ANY(%s)", [list(expected)]
        )
        if dict(cursor.fetchall()) != expected:
            raise Conflict(
                f'the database "{self._temporary.name}" is not the one that was restored',
                hint="The live database is as it was. Try again.",
            )
