"""Puts a temporary database into the place of the live one.

``ALTER DATABASE ... RENAME`` takes its lock first and waits up to five seconds for sessions to
leave; new connections wait for the lock and do not count. So the sessions are ended *while* the
lock is held, and both renames are in one transaction: there is no instant at which the name is
missing, whichever process dies.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import Connection, ConnectionParams, one_row
from .errors import Conflict, PgcloneError, TooBusy
from .marks import Database, Mark, set_comment
from .properties import carry
from .server import Server, explained, remove_session_limits

POLL = 0.01
"""Seconds between two looks at who is still connected."""

LOCK_TIMEOUT = 10_000
"""Milliseconds that the rename waits for its lock; connecting sessions hold it for moments."""


@dataclass(frozen=True)
class SwapResult:
    seconds: float
    """How long connections to the live name had to wait, at most."""


def swap(
    maintenance: ConnectionParams, *, live: Database, temporary: Database, parked: Mark
) -> SwapResult:
    """Renames ``live`` to the name in ``parked`` and ``temporary`` to the name of ``live``.

    Settings, grants, connection limit and comment of the live database go to the new one in the
    same transaction. Sessions of both are ended. :class:`TooBusy` when a session cannot be ended
    in time; the live database is as before then, and open to everybody.

    When this process or its connection dies, either both renames have happened or none:
    :func:`has_swapped` tells which.
    """
    with maintenance.session() as watching, maintenance.session(autocommit=False) as renaming:
        for connection in (watching, renaming):
            remove_session_limits(connection)
        watcher = Server(maintenance, watching)
        watcher.check_sessions_can_be_ended(live.oid, temporary.oid)
        attempt = _Renaming(renaming, live, temporary, parked)
        attempt.start()
        refused: list[str] = []
        interruption: BaseException | None = None
        try:
            refused = _end_sessions_until_done(watcher, attempt, live, temporary)
        except psycopg2.Error:
            # Without this connection nobody is sent away; what came of it the renames will tell.
            pass
        except BaseException as error:  # noqa: BLE001 - it came too late if the swap is done
            interruption = error
        finally:
            attempt.join()
    # A connection can also break after the server has committed.
    if attempt.error is None or has_swapped(maintenance, live, temporary):
        return SwapResult(attempt.seconds)
    if interruption is not None:
        raise interruption
    raise _as_error(attempt.error, refused) from attempt.error


def put_in_place(server: Server, temporary: Database, name: str) -> None:
    """Gives ``temporary`` the name of a live database that does not exist yet."""
    try:
        with server.transaction() as cursor:
            cursor.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(temporary.name), sql.Identifier(name)
                )
            )
            set_comment(cursor, name, None)
    except psycopg2.Error as error:
        raise explained(error, f'the database "{name}" could not be put in place') from error


def has_swapped(maintenance: ConnectionParams, live: Database, temporary: Database) -> bool:
    """Whether the live name belongs to what was the temporary database.

    Told by the oids, which a rename does not change, and by nothing that could be written apart
    from the rename.
    """
    with maintenance.session() as connection:
        present = Server(maintenance, connection).database(live.name)
    return present is not None and present.oid == temporary.oid


class _Renaming(threading.Thread):
    """The transaction with both renames; it waits in the server while sessions are ended."""

    def __init__(
        self, connection: Connection, live: Database, temporary: Database, parked: Mark
    ) -> None:
        super().__init__(name="pgclone swap", daemon=True)
        self._connection = connection
        self._live = live
        self._temporary = temporary
        self._parked = parked
        self.pid: int = connection.info.backend_pid
        self.error: Exception | None = None
        self.seconds = 0.0

    def run(self) -> None:
        started = time.monotonic()
        try:
            self._rename()
            self._connection.commit()
        except Exception as error:  # noqa: BLE001 - told to the thread that waits
            self.error = error
            if not self._connection.closed:
                self._connection.rollback()
        self.seconds = time.monotonic() - started

    def _rename(self) -> None:
        live, temporary, parked = self._live, self._temporary, self._parked
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [str(LOCK_TIMEOUT)])
            rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            cursor.execute(rename.format(sql.Identifier(live.name), sql.Identifier(parked.name)))
            cursor.execute(rename.format(sql.Identifier(temporary.name), sql.Identifier(live.name)))
            self._check_renamed(cursor)
            carry(cursor, live, temporary, live.name)
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


def _end_sessions_until_done(
    watcher: Server, attempt: _Renaming, live: Database, temporary: Database
) -> list[str]:
    """Sends away whoever is connected, from the moment the renaming transaction holds its lock.

    Not before: who is sent away earlier comes back at once and is in the way again.
    """
    refused: list[str] = []
    holds_lock = False
    while attempt.is_alive():
        holds_lock = holds_lock or bool(
            watcher.rows(
                """
                SELECT 1 FROM pg_locks
                 WHERE locktype = 'object' AND classid = 'pg_database'::regclass
                   AND objid = %s AND pid = %s AND mode = 'AccessExclusiveLock' AND granted
                """,
                [live.oid, attempt.pid],
            )
        )
        if holds_lock:
            refused = [str(s) for s in watcher.end_sessions(live.oid, temporary.oid)]
        attempt.join(POLL)
    return refused


def _as_error(error: Exception, refused: list[str]) -> Exception:
    if isinstance(error, PgcloneError):
        return error
    if not isinstance(error, psycopg2.Error):
        return error
    if refused:
        return TooBusy(
            "sessions could not be ended: " + ", ".join(refused),
            hint="The live database is as it was. As a superuser, grant pg_signal_backend to the "
            "role that restores.",
        )
    return explained(error, "the databases could not be swapped")
