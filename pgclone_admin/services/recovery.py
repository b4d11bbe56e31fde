"""Cleans up after dumps and restores whose process died."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path

from django.db import DatabaseError, connections

from ..core import recovery
from ..core.errors import PgcloneError
from ..core.locks import is_locked
from ..core.marks import Mark
from ..core.names import sanitized
from ..core.recovery import Outcome, Recovered, RecoveryRequest, clean, recover_databases
from ..core.server import Server
from ..core.temporary import left_temporary_files, prefix_of, remove_temporary_file
from ..databases import (
    live_name,
    maintenance_params,
    protected_names,
    replaceable_aliases,
    settings_of,
)
from ..identity import is_gone
from ..models import Dump, Status
from ..options import Arguments, Options, resolve
from ..settings import settings
from ..storage import Leftover
from ..store import DumpStore
from .declared import declared_locations

DEFAULT_AGE = timedelta(hours=24)
"""After which a partial file, an open upload or a temporary file is taken to be left over."""


def recover(
    options: Options, *, older_than: timedelta = DEFAULT_AGE, dry_run: bool = False
) -> Iterator[Recovered]:
    """Finishes or cleans what dead processes left, and tells each as it is done.

    Looks at the databases beside ``options.database``, at its storage location and at the
    directory for temporary files; where one of them cannot be looked at, that is told and the
    others still are. ``older_than`` is for files and uploads. A dry run changes nothing.
    """
    settings_of(options.database)
    yield from recover_beside(options, dry_run=dry_run)
    yield from recover_stored(options, older_than=older_than, dry_run=dry_run)
    directory = tempfile.gettempdir()
    yield from recover_temporary(directory, older_than=older_than, dry_run=dry_run)


def recover_site() -> Iterator[Recovered]:
    """:func:`recover` for every database and every storage location that the settings name."""
    for alias in replaceable_aliases():
        yield from recover_beside(resolve(Arguments(database=alias), verb=""), dry_run=False)
    for location in declared_locations():
        options = resolve(Arguments(storage_location=location), verb="")
        yield from recover_stored(options, dry_run=False)
    yield from recover_temporary(tempfile.gettempdir(), older_than=DEFAULT_AGE, dry_run=False)


def recover_beside(options: Options, *, dry_run: bool) -> Iterator[Recovered]:
    """The databases beside the live one."""
    try:
        request = RecoveryRequest(
            live=live_name(options.database),
            maintenance=maintenance_params(options.database),
            kept_for=_kept_for(),
            protected=protected_names(),
            dry_run=dry_run,
            statement_timeout=settings.statement_timeout,
            lock_timeout=settings.lock_timeout,
        )
        yield from recover_databases(request)
    except PgcloneError as error:
        what = f'the databases of the alias "{options.database}"'
        yield Recovered(Outcome.FAILED, what, str(error))


def kept_until(mark: Mark) -> datetime | None:
    """When *Clean up* and ``pgclone recover`` drop a held database, or one that was kept after a
    failed hook; ``None`` for others."""
    return recovery.kept_until(mark, _kept_for())


def _kept_for() -> timedelta:
    return timedelta(days=settings.temporary_days)


def recover_stored(
    options: Options,
    *,
    older_than: timedelta = DEFAULT_AGE,
    dry_run: bool,
    under: str = "",
    since: datetime | None = None,
) -> Iterator[Recovered]:
    """Partial files and open uploads in the storage location, but for those of a database that is
    being dumped: an age alone does not tell the upload of a long dump from one that was left.

    ``under`` and ``since`` leave those out whose name does not begin so, and older ones.
    """
    is_being_dumped = cache(partial(_is_being_dumped, options.storage_location))
    try:
        store = DumpStore(options.storage_location)
        for leftover in store.leftovers(datetime.now(UTC) - older_than):
            is_meant = leftover.name.startswith(under)
            if not is_meant or (since is not None and leftover.since < since):
                continue
            database = leftover.key.database
            if database is not None and is_being_dumped(database):
                what = f'the {leftover.kind} "{leftover.name}"'
                why = f'a dump or a restore of the database "{database}" is running'
                yield Recovered(Outcome.KEPT, what, why)
            else:
                yield _discard(store, leftover, dry_run=dry_run)
    except PgcloneError as error:
        yield Recovered(Outcome.FAILED, "the storage location", str(error))


def _is_being_dumped(location: str, database: str) -> bool:
    """Whether somebody may be writing dumps there of a database, named as in their keys."""
    running = Dump.objects.filter(location=location, status=Status.RUNNING)
    with suppress(DatabaseError):  # the tables may not be there yet
        for dump in running:
            if sanitized(dump.database) == database and not (dump.is_silent or is_gone(dump)):
                return True
    for alias in connections:
        if sanitized(alias) == database:
            # Where there is no server, there is no dump of it.
            with (
                suppress(PgcloneError),
                Server.connected(maintenance_params(alias)) as server,
            ):
                return is_locked(server, live_name(alias))
    return False


def _discard(store: DumpStore, leftover: Leftover, *, dry_run: bool) -> Recovered:
    since = f"{leftover.since:%Y-%m-%d %H:%M} UTC"
    if leftover.upload:
        outcome, why = (
            Outcome.ABORTED,
            f"nothing was added to it since {since}, and it was never finished",
        )
    else:
        outcome, why = Outcome.REMOVED, f"nothing was added to it since {since}"
    what = f'the {leftover.kind} "{leftover.name}"'
    return clean(what, outcome, why, partial(store.discard, leftover), dry_run=dry_run)


def recover_temporary(
    directory: str,
    *,
    older_than: timedelta = DEFAULT_AGE,
    dry_run: bool,
    of_process: int | None = None,
) -> Iterator[Recovered]:
    """Passfiles and tables of contents in the directory for temporary files of this machine; all of
    them, or those of one process."""
    prefix = "" if of_process is None else prefix_of(of_process)
    for file in left_temporary_files(Path(directory), datetime.now(UTC) - older_than):
        if not file.path.name.startswith(prefix):
            continue
        yield clean(
            f'the temporary file "{file.path}"',
            Outcome.REMOVED,
            f"it is of {file.since:%Y-%m-%d %H:%M} UTC, and the process that made it is gone",
            partial(remove_temporary_file, file),
            dry_run=dry_run,
        )
