"""Whether a pooler stands before a server, and whether it lets sessions be what they are."""

from __future__ import annotations

import secrets

from .connection import backend_pid
from .errors import PreflightError
from .server import Server

STATEMENTS = 5
"""How often two sessions are asked which processes of the server they are."""


def check_sessions_last(server: Server) -> list[str]:
    """:class:`PreflightError` unless two sessions are two processes of the server, and a lock stays
    with its own. Returns what a person should know of a pooler that lets them be.

    One that lends its connections for a transaction each gives both the same one, or each of them
    others in turn. Takes and gives back an advisory lock under a random number.
    """
    number = secrets.randbits(62)
    lasts = False
    with server.params.session() as connection:
        other = Server(server.params, connection)
        try:
            server.execute("SELECT pg_advisory_lock(%s)", [number])
            pids = {
                (backend_pid(server.connection), backend_pid(connection)) for _ in range(STATEMENTS)
            }
            shared = other.value("SELECT pg_try_advisory_lock(%s)", [number])
            held = server.rows(
                """
                SELECT 1 FROM pg_locks
                 WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid()
                   AND (classid::bigint << 32 | objid::bigint) = %s
                """,
                [number],
            )
            lasts = len(pids) == 1 and len(set(*pids)) == 2 and not shared and bool(held)
        finally:
            if lasts:
                # Not all: this session may hold the lock of a live database.
                server.execute("SELECT pg_advisory_unlock(%s)", [number])
            else:
                for each in (server, other):
                    each.execute("SELECT pg_advisory_unlock_all()")
    if not lasts:
        raise PreflightError(
            "the maintenance connection goes through a pooler, which does not keep locks and "
            "settings with their session",
            hint="Nothing was changed. Give PGCLONE_CONNECTIONS a connection past the pooler.",
        )
    if backend_pid(server.connection) == server.connection.info.backend_pid:
        return []
    told = (
        "the maintenance connection goes through a pooler; it keeps locks with their session, but "
        "connections that it holds open can be in the way of a restore"
    )
    return [told]
