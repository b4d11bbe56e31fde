"""Notices that a database has been swapped, and forgets what Django remembers of the one before."""

from __future__ import annotations

import contextlib
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from .routing import ask, clear_caches

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
    with contextlib.suppress(connection.Database.Error):
        return int(
            ask(connection, "SELECT oid FROM pg_database WHERE datname = current_database()")
        )
    return None
