"""Restores a dump: into a temporary database, through the hooks, and only then into place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

from .archive import open_archive
from .connection import ConnectionParams, remove_session_limits
from .copy import copy_database
from .dump_checks import ArchiveChecks, DumpChecks
from .errors import (
    INTERRUPTIONS,
    Conflict,
    IntegrityError,
    InvalidName,
    KilledBySignal,
    NoRoom,
    NotCarried,
    PgcloneError,
    ProcessFailed,
    RestoreFailed,
    ServerUnavailable,
    TooBusy,
    UnknownDatabase,
)
from .judge import LoadReport
from .load import load_archive
from .manifest import Manifest
from .marks import Database, Mark, MarkKind
from .names import UNFINISHED_ROLES, DumpKey, LocalKey, TableName, role_of
from .own_databases import create_like, drop_marked, dropped_on_error, require_mark
from .preflight import RestoreNames, run_checks
from .programs import choose_program
from .progress import Phase, Reporter
from .properties import carry
from .server import Server
from .space import check_limit, check_room_for_copy, check_size_is_known, spaces
from .streams import BLOCK, Readable, StoredReader
from .swap import put_in_place
from .target import RestoreRequest, RestoreResult, Target, dropped_unless_kept

TemporaryHooks = Callable[[str], None]
"""Runs the pre-swap hooks; is given the name of the temporary database."""


class Source(Protocol):
    """Where dumps are read from."""

    def size(self, key: DumpKey) -> int:
        """Bytes that are stored; raises ``DumpNotFound``."""

    def manifest(self, key: DumpKey) -> Manifest | None:
        """The manifest, or ``None`` where there is none."""

    def open(self, key: DumpKey) -> Readable:
        """The stored bytes, in order, from the first."""


def restore_dump(
    request: RestoreRequest,
    key: DumpKey,
    source: Source,
    reporter: Reporter,
    *,
    pre_swap_hooks: TemporaryHooks,
    check_manifest: Callable[[Manifest], list[str]] = lambda _manifest: [],
) -> RestoreResult:
    """Restores a dump from a storage.

    ``check_manifest`` may stop it before anything is made, and returns what a person should read.

    The live database is not touched before the swap: after any error, and after the death of this
    process, it is what it was. What this run has made is dropped, except the temporary database
    after a failed hook, and what is finished but cannot be swapped in just now, which is held.

    Raises what ``source``, the hooks and ``reporter`` raise, what :func:`swap` raises, and:
    :class:`PreflightError` for what is in the way before anything is made, among it
    :class:`ServerUnavailable`, :class:`PermissionMissing`, :class:`DatabaseProtected`,
    :class:`UntrustedDump` and :class:`ProgramMissing`; :class:`Conflict` when others are at work
    (:class:`TooBusy`), read on a standby (:class:`StandbyUnreached`), or another database is live
    than was confirmed; :class:`IntegrityError` and :class:`UnknownFormat` for the dump;
    :class:`NoRoom`; :class:`RestoreFailed` and :class:`ProcessFailed` for pg_restore.
    """

    def build(server: Server, model: Database, mark: Mark) -> tuple[Database, LoadReport]:
        size, manifest = source.size(key), source.manifest(key)
        run_checks(DumpChecks(server, key, size, manifest, request.trust_foreign).all(), reporter)
        restored_size = None if manifest is None else manifest.source_size
        _check_room(request, server, restored_size, reporter)
        reporter.phase(Phase.RESTORING, total=size)
        with ExitStack() as made, open_archive(source.open(key), reporter) as (stored, archive):
            program = choose_program(
                "pg_restore",
                server_major=server.major,
                directories=request.program_directories,
                oldest=archive.contents.oldest_reader if archive.contents else 0,
            )
            checks = ArchiveChecks(server, archive.contents, manifest, program).all()
            if manifest is not None:
                checks.append(partial(check_manifest, manifest))
            run_checks(checks, reporter)
            temporary = create_like(server, model, mark)
            # Also when the archive cannot be closed.
            made.enter_context(dropped_on_error(server, temporary))
            if model.name == request.live:
                with server.transaction() as cursor:
                    carry(
                        cursor,
                        model,
                        temporary,
                        temporary.name,
                        still_to_be_filled=True,
                        lose_settings=request.lose_settings,
                    )
            target = server.params.with_dbname(temporary.name).with_role(
                server.role_to_take(model.owner)
            )
            is_superuser = server.role().is_superuser
            try:
                report = load_archive(
                    archive,
                    target,
                    program,
                    reporter,
                    jobs=request.jobs,
                    is_superuser=is_superuser,
                    tolerated=request.tolerated,
                    extension_creator=server.extension_creator(temporary),
                )
            except (RestoreFailed, ProcessFailed) as error:
                _look_for_full_disk(error)
                _look_for_damage(stored, manifest, error)
                raise
            stored.check_against(manifest)
            reporter.phase(Phase.ANALYZING)
            # A superuser may do it whosever the tables are.
            analyzing = target.with_role(None) if is_superuser else target
            _analyze(analyzing, report.analyzed)
        return temporary, report

    return _restore(request, str(key), build, reporter, pre_swap_hooks, parked_as=MarkKind.PRE)


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
        reporter.phase(Phase.COPYING)
        local = server.existing(name, hint=SEE_LOCAL)
        names = RestoreNames(request.live, request.beside)
        check_room_for_copy(server, names, local.name, "temporary", request.most_bytes)
        copied = copy_database(
            server,
            local,
            mark,
            reporter,
            lose_settings=request.lose_settings,
            program_directories=request.program_directories,
        )
        return copied.database, LoadReport()

    name = local_source(key, request.live)
    return _restore(request, str(key), build, reporter, pre_swap_hooks, parked_as=MarkKind.UNDO)


SEE_LOCAL = "See what there is with: pgclone ls --local"


def local_source(key: LocalKey, live: str) -> str:
    """The name of the database that ``key`` means; whether there is one is not looked at.

    :class:`Conflict` when it is ``live`` itself or a restore that is held, :class:`InvalidName` for
    what an unfinished restore has made.
    """
    name = key.database_name(live)
    if name == live:
        raise Conflict(f'the database "{name}" cannot be restored from itself')
    if role_of(name, live) == "held":
        raise Conflict(
            f'the database "{name}" is a restore that is held',
            hint="Swap it in with: pgclone swap",
        )
    if role_of(name, live) in UNFINISHED_ROLES:
        raise InvalidName(
            f'the database "{name}" belongs to a restore that was not finished',
            hint="The next restore removes it. To keep it, rename it.",
        )
    return name


NOT_NOW = (TooBusy, ServerUnavailable, NotCarried)
"""Why a swap fails that can be made later, when fewer are at work, or something was granted."""

Builder = Callable[[Server, Database, Mark], tuple[Database, LoadReport]]


def _restore(
    request: RestoreRequest,
    source: str,
    build: Builder,
    reporter: Reporter,
    pre_swap_hooks: TemporaryHooks,
    *,
    parked_as: MarkKind,
) -> RestoreResult:
    keeps_parked = request.reversible or parked_as is MarkKind.UNDO
    with Target.locked(request, reporter, keeps_parked=keeps_parked) as target:
        names, live = target.names, target.live
        made = target.mark(names.temporary, MarkKind.TEMPORARY, source)
        temporary, report = build(target.server, target.model, made)
        with dropped_unless_kept(target.server, temporary, keep_failed=request.keep_failed):
            report.tell(reporter)
            agreed = None
            if live is not None and request.beside is None:
                target.check_carried(live, temporary)
                agreed = target.keep_definitions(temporary)
            reporter.phase(Phase.HOOKS)
            pre_swap_hooks(temporary.name)
            if request.drill:
                drop_marked(target.server, temporary.name)
                return RestoreResult("", None, report)
            if request.beside is not None:
                target.set_aside(temporary, names.beside, MarkKind.BESIDE)
                return RestoreResult(names.beside, None, report)
            if live is None:
                put_in_place(target.server, temporary, names.live)
                return RestoreResult(names.live, None, report)
            if request.hold:
                target.set_aside(temporary, names.held, MarkKind.HELD)
                return RestoreResult(names.held, None, report)
            try:
                swapped = target.take_over(
                    live, temporary, source, parked_as=parked_as, agreed=agreed
                )
            except NOT_NOW as error:
                if request.keep_failed:
                    target.hold_for_later(temporary, error)
                raise
            return RestoreResult(names.live, swapped, report)


def swap_held(
    request: RestoreRequest, reporter: Reporter, *, check_held: TemporaryHooks | None = None
) -> RestoreResult:
    """Puts the database in place that a restore with ``hold`` has made.

    ``check_held`` is given its name, and may raise. Same promises as :func:`restore_dump`, except
    that after an error it is still held.
    """
    with Target.locked(request, reporter, keeps_parked=request.reversible) as target:
        held = target.server.database(target.names.held)
        if held is None or target.live is None:
            raise UnknownDatabase(
                f'no restore of the database "{target.names.live}" is held',
                hint="Make one with: pgclone restore KEY --hold",
            )
        source = require_mark(held).source
        if check_held is not None:
            check_held(held.name)
        parked_as = MarkKind.UNDO if source.startswith(":") else MarkKind.PRE
        if parked_as is MarkKind.UNDO and not request.reversible:
            # What a local copy replaces stays on the server, also if nobody has asked for it.
            run_checks([replace(target.checks, keeps_parked=True).standbys], reporter)
        if parked_as is MarkKind.PRE and request.reversible:
            check_room_for_copy(target.server, target.names, held.name, ":post", request.most_bytes)
        # The site may have been migrated since.
        agreed = target.keep_definitions(held)
        swapped = target.take_over(target.live, held, source, parked_as=parked_as, agreed=agreed)
        return RestoreResult(target.names.live, swapped, LoadReport())


def _check_room(
    request: RestoreRequest, server: Server, restored_size: int | None, reporter: Reporter
) -> None:
    run_checks([lambda: check_size_is_known(restored_size, request.most_bytes)], reporter)
    if restored_size is None or request.most_bytes is None:
        return
    replaces = request.beside is None and not request.hold and not request.drill
    replaces = replaces and server.database(request.live) is not None
    there = spaces(
        server,
        RestoreNames(request.live, request.beside),
        restored_size,
        makes_post=request.reversible and replaces,
    )
    check_limit(there, request.most_bytes)


NO_SPACE = ("No space left on device", "Disk quota exceeded")
"""As the server says it of its disk: pg_restore tells no SQLSTATE."""


def _look_for_full_disk(error: PgcloneError) -> None:
    if any(words in str(error) for words in NO_SPACE):
        raise NoRoom(
            f"the disk of the server is full: {error}",
            hint="The live database was not touched, and what was made is dropped again. Make room "
            "on the server, then try again.",
        ) from error


LOOK_FOR_DAMAGE = 60.0
"""Seconds in which the rest of a dump is read that has failed: there can be hours of it."""


def _look_for_damage(
    stored: StoredReader, manifest: Manifest | None, error: RestoreFailed | ProcessFailed
) -> None:
    """:class:`IntegrityError` when the archive is damaged: then that is the cause, and what was
    said of it the consequence. Nothing else may hide ``error``."""
    if manifest is None or isinstance(error, KilledBySignal):
        return
    until = time.monotonic() + LOOK_FOR_DAMAGE
    try:
        while stored.read(BLOCK):
            if time.monotonic() > until:
                told = "Whether the dump is damaged was not looked for to its end."
                error.hint = f"{error.hint} {told}" if error.hint else told
                return
        stored.check_against(manifest)
    except IntegrityError as damage:
        raise damage from error
    except (PgcloneError, *INTERRUPTIONS):
        return


def _analyze(target: ConnectionParams, done: Sequence[TableName]) -> None:
    """Without statistics the first queries after the swap would be planned blindly.

    Large tables are ``done`` before, beside other work.
    """
    with target.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        if not done:
            cursor.execute("ANALYZE")
            return
        cursor.execute(
            """
            SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relisshared
               AND c.relpersistence <> 't' AND has_table_privilege(c.oid, 'SELECT')
               AND has_schema_privilege(n.oid, 'USAGE')
            """
        )
        others = {TableName(*row) for row in cursor.fetchall()} - set(done)
        cursor.execute(f"ANALYZE {', '.join(table.quoted for table in sorted(others))}")
