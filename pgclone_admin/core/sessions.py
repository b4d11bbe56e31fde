"""Who is connected to a database, and how they are ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import psycopg2

from .errors import TooBusy
from .server import Server

POLL = 0.01
"""Seconds between two looks at who is still connected."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Somebody who is connected to a database."""

    pid: int
    user: str
    is_superuser: bool
    may_be_ended: bool
    """Whether the role of the connection that looked may end it."""
    application: str

    def __str__(self) -> str:
        return f"{self.user} ({self.application or 'no application name'}, pid {self.pid})"


def sessions_in(server: Server, *oids: int) -> list[Session]:
    """Clients that are connected to one of the databases, without this connection."""
    rows = server.rows(
        """
        SELECT a.pid, coalesce(r.rolname, ''), coalesce(r.rolsuper, false),
               me.rolsuper OR NOT coalesce(r.rolsuper, false)
                   AND (coalesce(pg_has_role(r.oid, 'USAGE'), true)
                        OR pg_has_role('pg_signal_backend', 'USAGE')),
               coalesce(a.application_name, '')
          FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
               JOIN pg_roles me ON me.rolname = current_user
         WHERE a.datid = ANY(%s) AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
        """,
        [list(oids)],
    )
    return [
        Session(
            pid=pid,
            user=user,
            is_superuser=is_superuser,
            may_be_ended=may_be_ended,
            application=application,
        )
        for pid, user, is_superuser, may_be_ended, application in rows
    ]


def end_sessions(server: Server, *oids: int, spared: Collection[int] = ()) -> list[Session]:
    """Asks every session of the databases to end, but those of the processes ``spared``;
    returns those that may not be asked.

    One by one: a single refused pid would fail a statement that names all of them.
    """
    refused = []
    for session in sessions_in(server, *oids):
        if session.pid in spared:
            continue
        try:
            server.execute("SELECT pg_terminate_backend(%s)", [session.pid])
        except psycopg2.errors.InsufficientPrivilege:
            refused.append(session)
    return refused


def check_sessions_can_be_ended(server: Server, *oids: int) -> None:
    """:class:`TooBusy` when somebody is connected whom this role may not send away, as the server
    will say of a superuser, and of a role that this one is no member of."""
    staying = [session for session in sessions_in(server, *oids) if not session.may_be_ended]
    if superusers := [session for session in staying if session.is_superuser]:
        raise TooBusy(
            "a superuser is connected to the database, whose session cannot be ended: "
            + ", ".join(str(session) for session in superusers),
            hint="Nothing was changed. End these sessions and try again.",
        )
    if staying:
        role = server.role().name
        raise TooBusy(
            f'the role "{role}" may not end sessions that are connected: '
            + ", ".join(map(str, staying)),
            hint=f'Nothing was changed. As a superuser: GRANT pg_signal_backend TO "{role}". Or '
            "end these sessions and try again.",
        )


def has_locked(server: Server, oid: int, *, by: int, mode: str) -> bool:
    """Whether the server's process ``by`` has a lock on the database, which it takes before it
    waits for sessions to leave: who is ended earlier comes back at once."""
    query = """
        SELECT 1 FROM pg_locks
         WHERE locktype = 'object' AND classid = 'pg_database'::regclass
           AND objid = %s AND pid = %s AND mode = %s AND granted
        """
    return bool(server.rows(query, [oid, by, mode]))
