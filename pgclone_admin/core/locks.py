"""The lock of a live database: dumps share it, a restore has it alone.

It is held in the maintenance database, as advisory locks of PostgreSQL count per database, and goes
when the process dies that holds it.
"""

from __future__ import annotations

import zlib

import psycopg2

from .errors import Conflict
from .server import Server

LOCK_SPACE = 0x7067636C
"""First half of the advisory locks of this app: "pgcl"."""


def take_lock(server: Server, database: str, *, exclusive: bool) -> None:
    """Holds the lock of the live database until this connection is closed.

    :class:`Conflict` when somebody has it whom it cannot be shared with.
    """
    function = "pg_try_advisory_lock" if exclusive else "pg_try_advisory_lock_shared"
    if not server.value(f"SELECT {function}(%s, %s)", [LOCK_SPACE, _lock_number(database)]):
        other = "a dump or a restore" if exclusive else "a restore"
        raise Conflict(
            f'{other} of the database "{database}" is running',
            hint="Nothing was changed. Try again when it is done.",
        )


def release_locks(server: Server) -> None:
    """Gives every lock of :func:`take_lock` back, while the connection stays."""
    server.execute("SELECT pg_advisory_unlock_all()")


def is_locked(server: Server, database: str | None = None) -> bool:
    """Whether somebody else holds the lock of a live database, or of any on this server.

    Asks without taking it, which would turn a dump away that begins just now.
    """
    own = None if database is None else _lock_number(database) % 2**32
    rows = server.rows(
        """
        SELECT 1 FROM pg_locks
         WHERE locktype = 'advisory' AND classid::bigint = %s AND objsubid = 2 AND granted
           AND pid <> pg_backend_pid() AND (%s::bigint IS NULL OR objid::bigint = %s)
        """,
        [LOCK_SPACE, own, own],
    )
    return bool(rows)


def check_lock(server: Server) -> None:
    """:class:`Conflict` when the connection is gone that held the lock, and the lock with it.

    Somebody else may have it by now, and be making databases under the same names.
    """
    try:
        server.execute("SELECT 1")
    except psycopg2.Error as error:
        raise Conflict(
            "the connection that kept other restores away was lost",
            hint="The live database was not touched. Try again.",
        ) from error


def _lock_number(database: str) -> int:
    """The second half of the advisory lock of a live database."""
    return zlib.crc32(database.encode()) - 2**31
