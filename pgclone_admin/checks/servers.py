"""System checks that connect: with ``check --deploy --database`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections

from ..core.errors import PgcloneError
from ..core.programs import choose_program
from ..core.server import Server
from ..databases import maintenance_params
from ..services.declared import declared_locations
from ..settings import settings
from ..store import DumpStore


@register(Tags.database, deploy=True)
def check_server(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: client programs, and the rights of the role.

    Not with ``migrate``, which looks at databases too: what only dumps need is not to stop it.
    """
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if connections[alias].vendor != "postgresql":
            continue
        try:
            with Server.connected(maintenance_params(alias)) as server:
                messages += _check_programs(server)
                if server.role().is_superuser:
                    messages.append(
                        checks.Warning(
                            f'the database "{alias}" is used as a superuser: what a dump holds is '
                            "run with all rights",
                            hint="Use a role that owns the database and has CREATEDB.",
                            id="pgclone_admin.W008",
                        )
                    )
        except PgcloneError as error:
            messages.append(_message(error, "pgclone_admin.E009"))
    return messages


def _check_programs(server: Server) -> Iterator[CheckMessage]:
    for name in ("pg_dump", "pg_restore"):
        try:
            choose_program(name, server_major=server.major, directories=settings.bin_dirs)
        except PgcloneError as error:
            yield _message(error, "pgclone_admin.E010")


@register(Tags.database, deploy=True)
def check_storage(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: every storage location that the settings name can be
    written, listed and read."""
    messages: list[CheckMessage] = []
    try:
        locations = declared_locations() if databases else ()
    except PgcloneError:
        return []  # of the settings, which E003 and E004 tell
    for location in locations:
        try:
            store = DumpStore(location)
            if settings.allow_dump:
                store.prove()
        except PgcloneError as error:
            messages.append(_message(error, "pgclone_admin.E011"))
    return messages


def _message(error: PgcloneError, identifier: str) -> CheckMessage:
    return Error(error.message, hint=error.hint, id=identifier)
