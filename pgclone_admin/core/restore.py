"""Restores a dump: into a temporary database, through the hooks, and only then into place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import psycopg2

from .archive import OpenedArchive
from .connection import ConnectionParams
from .copy import copy_database
from .errors import (
    Conflict,
    HookFailed,
    InvalidName,
    PgcloneError,
    ProcessFailed,
    RestoreFailed,
)
from .judge import LoadReport, Tolerated
from .load import load_archive
from .manifest import Manifest
from .marks import Database, Mark
from .names import UNFINISHED_ROLES, DumpKey, LocalKey, role_of
from .preflight import DumpChecks, RestoreNames, TargetChecks, check_extensions, run_checks
from .programs import choose_program
from .progress import Reporter
from .properties import carry
from .server import Server, remove_session_limits
from .streams import ArchiveReader, Readable, StoredReader
from .swap import put_in_place, swap

TemporaryHooks = Callable[[str], None]
"""Runs the pre-swap hooks; is given the name of the temporary database."""


class Source(Protocol):
    """Where dumps are read from."""

    def size(self, key: DumpKey) -> int:
        """Bytes that are stored; raises ``DumpNotFound``."""

    def manifest(self, key: DumpKey) -> Manifest | None:
        """The manifest, or ``None`` for a foreign dump."""

    def open(self, key: DumpKey) -> Readable:
        """The stored bytes, in order, from the first."""


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """``live`` is the name of the database to replace, or to make; ``maintenance`` reaches its
    server."""

    live: str
    maintenance: ConnectionParams
    reversible: bool = False
    beside: LocalKey | None = None
    """Keeps the result under this name and swaps nothing."""
    protected: frozenset[str] = frozenset()
    """Names of databases that are never made, replaced or dropped."""
    trust_foreign: bool = False
    program_directories: Sequence[str] = ()
    jobs: int = 2
    """Sessions that load data and build indexes at the same time."""
    tolerated: Tolerated = frozenset()
    statement_timeout: int | None = None
    """Milliseconds, for statements on the maintenance connection."""
    lock_timeout: int | None = None


@dataclass(frozen=True)
class RestoreResult:
    database: str
    """The database that now holds what was restored."""
    swap_seconds: float | None
    report: LoadReport


def restore_dump(
    request: RestoreRequest,
    key: DumpKey,
    source: Source,
    reporter: Reporter,
    *,
    pre_swap_hooks: TemporaryHooks,
) -> RestoreResult:
    """Restores a dump from a storage.

    The live database is not touched before the swap: after any error, and after the death of this
    process, it is what it was. What this run has made is dropped, except the temporary database
    after a failed hook.
    """

    def build(server: Server, model: Database, mark: Mark) -> tuple[Database, LoadReport]:
        size, manifest = source.size(key), source.manifest(key)
        run_checks(DumpChecks(server, key, size, manifest, request.trust_foreign).all(), reporter)
        with ExitStack() as stack:
            reporter.phase("restoring", total=size)
            stored = StoredReader(source.open(key), reporter)
            stack.callback(stored.close)
            reading = ArchiveReader(stored)
            stack.callback(reading.close)
            archive = OpenedArchive(reading)
            stack.callback(archive.close)
            program = choose_program(
                "pg_restore",
                server_major=server.major,
                directories=request.program_directories,
                oldest=archive.contents.oldest_reader if archive.contents else 0,
            )
            run_checks([lambda: check_extensions(server, archive.contents)], reporter)
            temporary = server.create_like(model, mark)
            with _dropped_on_error(server, temporary):
                if model.name == request.live:
                    with server.transaction() as cursor:
                        carry(cursor, model, temporary, temporary.name, still_to_be_filled=True)
                target = server.params.with_dbname(temporary.name).with_role(
                    server.role_to_take(model.owner)
                )
                try:
                    report = load_archive(
                        archive,
                        target,
                        program,
                        reporter,
                        jobs=request.jobs,
                        is_superuser=server.role()[1],
                        tolerated=request.tolerated,
                        extension_creator=server.extension_creator(temporary),
                    )
                except (RestoreFailed, ProcessFailed):
                    # A damaged archive is the cause, what pg_restore says of it the consequence.
                    _check_digest(stored, manifest)
                    raise
                _check_digest(stored, manifest)
                reporter.phase("analyzing")
                _analyze(target)
            return temporary, report

    return _restore(request, str(key), build, reporter, pre_swap_hooks, parked_as="pre")


def restore_local(
    request: RestoreRequest,
    key: LocalKey,
    reporter: Reporter,
    *,
    pre_swap_hooks: TemporaryHooks,
) -> RestoreResult:
    """Restores a database of the same server, which stays as it is.

    What it replaces is parked as ``:undo``, so that a mistaken undo can be undone. Same promises as
    :func:`restore_dump`.
    """

    def build(server: Server, _model: Database, mark: Mark) -> tuple[Database, LoadReport]:
        reporter.phase("copying")
        copied = copy_database(
            server,
            server.existing(name),
            mark,
            reporter,
            program_directories=request.program_directories,
        )
        return copied.database, LoadReport()

    name = key.database_name(request.live)
    if name == request.live:
        raise Conflict(f'the database "{name}" cannot be restored from itself')
    if role_of(name, request.live) in UNFINISHED_ROLES:
        raise InvalidName(
            f'the database "{name}" belongs to a restore that was not finished',
            hint="The next restore removes it. To keep it, rename it.",
        )
    return _restore(request, str(key), build, reporter, pre_swap_hooks, parked_as="undo")


Builder = Callable[[Server, Database, Mark], tuple[Database, LoadReport]]


def _restore(
    request: RestoreRequest,
    source: str,
    build: Builder,
    reporter: Reporter,
    pre_swap_hooks: TemporaryHooks,
    *,
    parked_as: str,
) -> RestoreResult:
    reporter.phase("checking")
    with Server.connected(
        request.maintenance,
        statement_timeout=request.statement_timeout,
        lock_timeout=request.lock_timeout,
    ) as server:
        names = RestoreNames(request.live, request.beside)
        server.lock(names.live, exclusive=True)
        live = server.database(names.live)
        model = live or server.pattern()
        run_checks(TargetChecks(server, names, live, model, request.protected).all(), reporter)
        _finish_earlier_swap(server, names)

        def mark(name: str, kind: str) -> Mark:
            return Mark.new(name=name, kind=kind, of=names.live, source=source)

        temporary, report = build(server, model, mark(names.temporary, "temporary"))
        report.tell(reporter)
        with _dropped_on_error(server, temporary), ExitStack() as made:
            reporter.phase("hooks")
            pre_swap_hooks(temporary.name)
            if request.beside is not None:
                server.settle(temporary.name, mark(names.beside, "beside"))
                return RestoreResult(names.beside, None, report)
            if live is None:
                put_in_place(server, temporary, names.live)
                return RestoreResult(names.live, None, report)
            makes_post = request.reversible and parked_as == "pre"
            if makes_post:
                # After the hooks: a copy of what was there before them could hold the raw rows of
                # an anonymised restore.
                reporter.phase("copying")
                copied = copy_database(
                    server,
                    temporary,
                    mark(names.post, "post"),
                    reporter,
                    end_sessions=True,
                    program_directories=request.program_directories,
                )
                made.enter_context(_dropped_on_error(server, copied.database))
            reporter.phase("swapping")
            server.check_lock()
            becomes = parked_as if request.reversible or parked_as == "undo" else ""
            parked = Mark.new(
                name=names.parked, kind="parked", of=names.live, source=source, becomes=becomes
            )
            swapped = swap(server.params, live=live, temporary=temporary, parked=parked)
        reporter.phase("cleaning up")
        try:
            _finish_earlier_swap(server, names)
            if not becomes:
                for name in (names.pre, names.post):
                    server.drop(name, missing_ok=True)
        except (PgcloneError, psycopg2.Error) as error:
            reporter.warn(f"the restore is done, but the next one has to clean up: {error}")
        return RestoreResult(names.live, swapped.seconds, report)


def _finish_earlier_swap(server: Server, names: RestoreNames) -> None:
    """Gives the parked database its last name, or drops it; also that of a run that died."""
    parked = server.database(names.parked)
    if parked is None:
        return
    mark = server.require_mark(parked)
    name = {"pre": names.pre, "undo": names.undo}.get(mark.becomes)
    if name is None:
        server.drop(parked.name)
    else:
        server.settle(parked.name, replace(mark, name=name, kind=mark.becomes, becomes=""))


@contextlib.contextmanager
def _dropped_on_error(server: Server, temporary: Database) -> Iterator[None]:
    """Drops the temporary database after any error but that of a hook, which can be looked into."""
    try:
        yield
    except HookFailed as error:
        error.hint = (
            f'The live database was not touched. The temporary database "{temporary.name}" is kept '
            "for a look at it until the next restore."
        )
        raise
    except BaseException as error:
        try:
            # Over a new connection: that of the restore may be what has failed.
            with Server.connected(server.params) as cleaning:
                present = cleaning.database(temporary.name)
                if present is not None and present.oid == temporary.oid:
                    cleaning.drop(temporary.name)
        except (PgcloneError, psycopg2.Error) as failed:
            error.add_note(f"the temporary database could not be dropped: {failed}")
        raise


def _check_digest(stored: StoredReader, manifest: Manifest | None) -> None:
    stored.drain()
    if manifest is not None:
        stored.check(size=manifest.size, sha256=manifest.sha256)


def _analyze(target: ConnectionParams) -> None:
    """Without statistics the first queries after the swap would be planned blindly."""
    with target.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        cursor.execute("ANALYZE")
