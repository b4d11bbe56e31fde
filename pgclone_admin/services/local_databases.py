"""What copies and restores have left on the servers of this site."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS
from django.db.models import BigIntegerField, Case, QuerySet, TextField, Value, When

from ..core.server import Server
from ..databases import (
    is_on_same_server,
    live_name,
    maintenance_params,
    replaceable_aliases,
)
from ..models import LocalDatabase


def server_aliases() -> list[str]:
    """One alias for each server that has a database of this site, that of the default one first."""
    aliases = sorted(replaceable_aliases(), key=lambda alias: alias != DEFAULT_DB_ALIAS)
    found: list[str] = []
    for alias in aliases:
        if not any(is_on_same_server(alias, other) for other in found):
            found.append(alias)
    return found


def local_databases(alias: str = DEFAULT_DB_ALIAS) -> QuerySet[LocalDatabase]:
    """The databases on the server of ``alias`` that were made here and that maintenance may drop,
    with ``comment`` and ``size`` (bytes).

    Maintenance may have another role than the site, and only it is sure to see into them. Raises
    :class:`PgcloneError` when the server cannot be asked.
    """
    with Server.connected(maintenance_params(alias)) as server:
        # A mark holds for one name: a database that somebody has renamed is theirs.
        made = [database for database in server.usable_databases() if database.mark is not None]
        sizes = server.sizes(*(each.oid for each in made))
    rows = LocalDatabase.objects.using(alias).filter(pk__in=[each.oid for each in made])
    comments = [When(pk=each.oid, then=Value(each.comment)) for each in made]
    in_bytes = [When(pk=oid, then=Value(size)) for oid, size in sizes.items()]
    return rows.annotate(
        comment=Case(*comments, output_field=TextField()),
        size=Case(*in_bytes, output_field=BigIntegerField()),
    )


def alias_of(row: LocalDatabase) -> str | None:
    """The alias of the live database that it was made for; ``None`` where another site made it."""
    mark, server = row.mark, row._state.db or DEFAULT_DB_ALIAS
    if mark is None:
        return None
    found = [
        alias
        for alias in replaceable_aliases()
        if live_name(alias) == mark.of and is_on_same_server(alias, server)
    ]
    return min(found, key=lambda alias: alias != DEFAULT_DB_ALIAS, default=None)
