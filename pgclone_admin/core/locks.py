"""The lock of a live database: dumps share it, a restore has it alone.

It is held in the maintenance database, as advisory locks of PostgreSQL count per database, and goes
when the process dies that holds it. A site with another maintenance database is seen, too.
"""

from __future__ import annotations

import zlib

import psycopg2

from .errors import Conflict
from .server import Server

LOCK_SPACE = 0x7067636C
"""First half of the advisory locks of this app: "pgcl"."""

HELD = "locktype = 'advisory' AND classid::bigint = %s AND objsubid = 2 AND granted"
"""In pg_locks: a lock of this app, in whichever database."""


def take_lock(server: Server, database: str, *, exclusive: bool) -> None:
    """Holds the lock of the live database until the block of this connection ends.

    :class:`Conflict` when somebody has it whom it cannot be shared with.
    """
    suffix = "" if exclusive else "_shared"
    lock = [LOCK_SPACE, _lock_number(database)]
    server.has_locks = True
    is_ours = server.value(f"SELECT pg_try_advisory_lock{suffix}(%s, %s)", lock)
    if is_ours and not _is_locked_elsewhere(server, database, exclusive=exclusive):
        return
    hint = "Nothing was changed. Try again when it is done."
    if is_ours:
        server.execute(f"SELECT pg_advisory_unlock{suffix}(%s, %s)", lock)
        hint += " Let PGCLONE_CONN_DB be the same for all sites of a server."
    other = "a dump or a restore" if exclusive else "a restore"
    raise Conflict(f'{other} of the database "{database}" is running', hint=hint)


def _is_locked_elsewhere(server: Server, database: str, *, exclusive: bool) -> bool:
    """Whether a lock that this one cannot be shared with is held in another database.

    Asked when this one is held: of two who take theirs at once, each in its own, one or both see
    the other.
    """
    rows = server.rows(
        f"""
        SELECT 1 FROM pg_locks
         WHERE {HELD} AND objid::bigint = %s AND (%s OR mode = 'ExclusiveLock')
           AND database <> (SELECT oid FROM pg_database WHERE datname = current_database())
        """,  # noqa: S608 - a literal
        [LOCK_SPACE, _lock_number(database) % 2**32, exclusive],
    )
    return bool(rows)


def is_locked(server: Server, database: str | None = None) -> bool:
    """Whether somebody else holds the lock of a live database, or of any on this server.

    Asks without taking it, which would turn a dump away that begins just now.
    """
    own = None if database is None else _lock_number(database) % 2**32
    rows = server.rows(
        f"SELECT 1 FROM pg_locks WHERE {HELD} AND pid <> pg_backend_pid()"  # noqa: S608 - a literal
        " AND (%s::bigint IS NULL OR objid::bigint = %s)",
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
