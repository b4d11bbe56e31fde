"""Notices that a database has been swapped, and forgets what Django remembers of the one before."""

from __future__ import annotations

import contextlib
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .routing import clear_caches

IDLE = 0
"""``transaction_status`` of a connection without a transaction, for psycopg2 and psycopg 3."""

_oids: dict[tuple[str, ...], int] = {}
"""The oid of the database that each alias, host, port and name led to last.

The name is part of it: a hook's connection to the temporary database is no swap.
:func:`~pgclone_admin.routing.route` clears the caches for it.
"""


def notice_swap(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
    """Clears the caches when ``connection``, a new one, meets another database than the last did.

    A receiver of ``connection_created``. Costs one query, which Django does not see: it is in no
    log of queries and counts in no test. Leaves the connection as it was, and never fails.
    """
    if connection.vendor != "postgresql":
        return
    oid = _oid(connection)
    if oid is None:
        return
    settings = connection.settings_dict
    key = (connection.alias, *(str(settings.get(name) or "") for name in ("HOST", "PORT", "NAME")))
    before = _oids.get(key)
    _oids[key] = oid
    if before not in (None, oid):
        clear_caches()


def _oid(connection: Any) -> int | None:
    """The oid of the database; None when the connection is lost already."""
    raw = connection.connection
    errors = connection.Database.Error
    was_idle = raw.info.transaction_status == IDLE
    row = None
    with contextlib.suppress(errors), _cursor(connection) as cursor:
        cursor.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        row = cursor.fetchone()
    # Without autocommit the query has begun a transaction.
    if was_idle and not raw.closed and raw.info.transaction_status != IDLE:
        with contextlib.suppress(errors):
            raw.rollback()
    return int(row[0]) if row else None


def _cursor(connection: Any) -> Any:
    """A cursor of the driver's own: those of django-pgconnection run hooks of the project."""
    psycopg2 = getattr(connection.Database, "extensions", None)
    return psycopg2.cursor(connection.connection) if psycopg2 else connection.connection.cursor()
