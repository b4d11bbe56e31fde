"""System checks of DATABASES: hooks are sent to the right one, and clients get over a swap."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections
from pgconnection.core import _Databases

from ..core.errors import PgcloneError
from ..reconnecting import connects_again
from ..routing import SharedDatabases
from ..settings import settings


@register(Tags.database)
def check_routing(**_kwargs: Any) -> list[CheckMessage]:
    databases = connections.databases
    if not isinstance(databases, _Databases):
        return []
    messages: list[CheckMessage] = []
    if not isinstance(databases, SharedDatabases):
        messages.append(
            Error(
                "DATABASES is configured by django-pgconnection itself, which works in the first "
                "thread only",
                hint="Write DATABASES = pgclone_admin.routing.configure({...}) instead.",
                id="pgclone_admin.E001",
            )
        )
    if not _uses_psycopg2():
        messages.append(
            Error(
                "django-pgconnection cannot work with psycopg 3, which Django uses here",
                hint="Write DATABASES = pgclone_admin.routing.configure({...}), which does without "
                "it then, or uninstall psycopg.",
                id="pgclone_admin.E002",
            )
        )
    return messages


@register(Tags.database)
def check_connecting(**_kwargs: Any) -> list[CheckMessage]:
    """What connects during a swap succeeds.

    With psycopg 3 nothing is said: it lets nobody see a connection that failed.
    """
    databases = connections.databases
    is_ours = isinstance(databases, SharedDatabases)
    is_an_error = isinstance(databases, _Databases) and not is_ours
    if is_an_error or not _uses_psycopg2():
        return []
    impatient = [
        alias for alias, found in _restored().items() if not connects_again(found["OPTIONS"])
    ]
    if not impatient:
        return []
    return [
        checks.Warning(
            "what connects to a database while a restore is swapped in can fail once: "
            + ", ".join(impatient),
            hint='Write "connection_factory": pgclone_admin.reconnecting.connect_again in its '
            "OPTIONS."
            if is_ours
            else "Write DATABASES = pgclone_admin.routing.configure({...}).",
            id="pgclone_admin.W002",
        )
    ]


@register(Tags.database)
def check_kept_connections(**_kwargs: Any) -> list[CheckMessage]:
    """Connections that a swap has ended are noticed before they are used again."""
    return [
        checks.Warning(
            f'connections of the database "{alias}" are kept without being checked: after a '
            "restore each of them fails once",
            hint=f'Write "CONN_HEALTH_CHECKS": True in DATABASES["{alias}"].',
            id="pgclone_admin.W003",
        )
        for alias, found in _restored().items()
        if (found["CONN_MAX_AGE"] != 0 or found["OPTIONS"].get("pool"))
        and not found["CONN_HEALTH_CHECKS"]
    ]


def _restored() -> dict[str, dict[str, Any]]:
    """The settings of the databases that a restore may replace."""
    try:
        if not settings.allow_restore:
            return {}
    except PgcloneError:
        pass  # that it cannot be read is told by check_settings
    return {
        alias: connections[alias].settings_dict
        for alias in connections
        if connections[alias].vendor == "postgresql"
    }


def _uses_psycopg2() -> bool:
    # Imported late: on a site without psycopg the import itself would fail.
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415

    return not is_psycopg3
