"""Takes a dump: pg_dump, compressed and hashed on its way into a storage."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from . import evidence
from .archive import OpenedArchive
from .catalog import MIGRATIONS, applied_migrations, table_oids, tables_meant, with_partitions
from .connection import ConnectionParams, one_row, remove_session_limits
from .errors import (
    ConfigurationError,
    Conflict,
    DumpNotFound,
    IntegrityError,
    PgcloneError,
    SizeMismatch,
)
from .locks import take_lock
from .manifest import Manifest
from .names import DumpKey, TableName
from .process import Child
from .programs import LOCK_WAIT_TIMEOUT, Codec, choose_program, dump_command, encoded
from .progress import Phase, Reporter
from .server import Server
from .streams import DumpReader, Readable, blocks

Hooks = Callable[[], Sequence[str]]

LookUp = Callable[[Sequence[str]], Mapping[str, TableName]]
"""Says which tables the quoted SQL names mean; those that mean none are left out."""


class Content(Protocol):
    """The bytes of a dump on their way into a storage."""

    @property
    def size(self) -> int:
        """Bytes that were read so far."""

    @property
    def complete(self) -> bool:
        """Whether the end was reached, and with success."""

    def read(self, size: int = -1, /) -> bytes:
        """Exactly ``size`` bytes until the end; raises instead of ending a failed dump."""

    def abandon(self) -> None:
        """Nobody will read to the end: a read that waits in another thread is to give up."""


class Sink(Protocol):
    """Where dumps are put. What ``save`` has not published whole must not be there afterwards."""

    def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
        """Stores all that ``content`` gives; ``source_size`` (bytes) helps to choose part sizes.

        Raises ``Conflict`` when the key exists, ``StorageError``, or what ``content`` raises;
        in each case nothing lies under the key that did not before.
        """

    def size(self, key: DumpKey) -> int:
        """Bytes that are stored under the key."""

    def delete(self, key: DumpKey) -> None:
        """Removes the dump and its manifest."""

    def save_manifest(self, manifest: Manifest) -> None: ...


@dataclass(frozen=True, kw_only=True)
class DumpLabels:
    """What a dump is called, and what is written into its manifest."""

    instance: str
    database: str
    config: str
    app_version: str
    taken_by: str = ""
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class DumpRequest:
    """``live`` is the name of the database to dump; ``maintenance`` reaches its server and holds
    the lock.

    ``exclude`` are tables whose rows are left out, as quoted SQL names; ``lock_wait_timeout`` is in
    milliseconds.
    """

    live: str
    maintenance: ConnectionParams
    labels: DumpLabels
    codec: Codec
    exclude: Sequence[str] = ()
    kept: Sequence[str] = ()
    """As ``exclude``, but tables that belong to the site; one that does not exist is nothing."""
    look_up: LookUp | None = None
    """What the names mean to the site, whose role may have another search_path than the role of
    ``maintenance``; ``None`` when they are the names of that one."""
    program_directories: Sequence[str] = ()
    lock_wait_timeout: int = LOCK_WAIT_TIMEOUT
    statement_timeout: int | None = None
    """Milliseconds, for statements on the maintenance connection."""
    stall_timeout: float | None = None
    """Seconds that pg_dump may send nothing, without its waiting for locks."""


@dataclass
class _Facts:
    """What the manifest says about the database."""

    source_size: int
    encoding: str
    extensions: tuple[tuple[str, str], ...]
    excluded: tuple[TableName, ...]
    kept: tuple[TableName, ...]
    migrations: tuple[tuple[str, str], ...] | None = field(default=None)
    anonymized: tuple[str, ...] | None = field(default=None)


def take_dump(
    request: DumpRequest, sink: Sink, reporter: Reporter, *, pre_dump_hooks: Hooks
) -> Manifest:
    """Dumps the database into ``sink`` and returns the manifest that was stored beside it.

    Nothing is stored under the key unless pg_dump has succeeded and the storage holds as many
    bytes as were written. When this process dies, no dump appears; a storage may keep a partial
    file or an unfinished upload that nothing lists.

    Before anything is stored: :class:`UnknownDatabase`, :class:`ServerUnavailable`,
    :class:`PermissionMissing`, :class:`ProgramMissing`, :class:`ConfigurationError` for a table to
    leave out that does not exist, and what the hooks raise. :class:`Conflict` when a restore is
    running, or there is a dump under the key. :class:`ProcessFailed` (:class:`LockTimeout`,
    :class:`KilledBySignal`), :class:`Stalled` and :class:`IntegrityError` for pg_dump,
    :class:`SizeMismatch`, and what the sink and ``reporter`` raise.
    """
    labels = request.labels
    with ExitStack() as stack:
        reporter.phase(Phase.CHECKING)
        server = stack.enter_context(
            Server.connected(request.maintenance, statement_timeout=request.statement_timeout)
        )
        server.existing(request.live)
        take_lock(server, request.live, exclusive=False)
        database = server.params.with_dbname(request.live)
        program = choose_program(
            "pg_dump", server_major=server.major, directories=request.program_directories
        )
        _gather(database, request)
        reporter.phase(Phase.HOOKS)
        hooks = pre_dump_hooks()
        facts = _gather(database, request)
        taken_at = datetime.now(UTC)
        key = DumpKey.new(
            instance=labels.instance,
            database=labels.database,
            config=labels.config,
            taken_at=taken_at,
        )
        reporter.phase(Phase.DUMPING)
        left_out = sorted({*facts.excluded, *facts.kept})
        environment = stack.enter_context(database.child_environment())
        command = dump_command(
            program,
            environment,
            codec=request.codec,
            exclude_table_data=left_out,
            encoding=facts.encoding,
            role=database.role,
            lock_wait_timeout=request.lock_wait_timeout,
            secrets=database.secrets,
        )
        with Child(command, stdout=subprocess.PIPE) as child:
            content = DumpReader(
                child,
                request.codec,
                reporter,
                through=partial(_checked, left_out, facts.encoding, reporter),
                stall_timeout=request.stall_timeout,
                lock_wait=request.lock_wait_timeout / 1000,
            )
            # A dump that fails at once, for want of a right or a password, is not to touch the
            # storage at all.
            content.start()
            sink.save(key, content, source_size=facts.source_size)
        reporter.phase(Phase.FINISHING)
        manifest = Manifest(
            key=str(key),
            size=content.size,
            sha256=content.sha256,
            codec=str(request.codec),
            taken_at=taken_at.isoformat(),
            instance=labels.instance,
            database=labels.database,
            config=labels.config,
            origin="pgclone",
            app_version=labels.app_version,
            source_database=database.dbname,
            source_size=facts.source_size,
            server_version=server.version,
            program_version=program.version,
            encoding=facts.encoding,
            extensions=facts.extensions,
            migrations=facts.migrations,
            excluded=tuple(str(table) for table in facts.excluded),
            kept=tuple(str(table) for table in facts.kept),
            hooks=tuple(hooks),
            anonymized=facts.anonymized,
            taken_by=labels.taken_by,
            host=labels.host,
        )
        publish(sink, key, content, manifest)
    return manifest


def _checked(
    left_out: Sequence[TableName], encoding: str, reporter: Reporter, output: Readable
) -> Iterator[bytes]:
    """What pg_dump writes; :class:`IntegrityError` before its first byte when its table of contents
    names rows of a table that were to be left out.

    pg_dump takes a name that it does not find for a pattern without a match, and says nothing.
    """
    if not left_out:
        yield from blocks(output)
        return
    with closing(OpenedArchive(output)) as archive:
        if archive.contents is None:
            reporter.warn(
                "pg_dump writes a version of archives that is not known here: whether it leaves "
                "out the tables that it was told to was not looked at"
            )
        else:
            entries = (e for e in archive.contents.entries if e.kind == "TABLE DATA")
            filled = {(_bytes(entry.schema or ""), _bytes(entry.name)) for entry in entries}
            for table in left_out:
                if (encoded(table.schema, encoding), encoded(table.name, encoding)) in filled:
                    raise IntegrityError(
                        f"pg_dump was to leave out the rows of the table {table}, and did not",
                        hint="Nothing was stored. Is the pg_dump in PGCLONE_BIN_DIR the real one?",
                    )
        yield from archive.blocks()


def _bytes(name: str) -> bytes:
    """A name as it stands in an archive."""
    return name.encode(errors="surrogateescape")


def publish(sink: Sink, key: DumpKey, content: Content, manifest: Manifest) -> None:
    """Compares what the storage holds and writes the manifest, last; on failure removes both.

    But for :class:`Conflict`, when there is a manifest already: then somebody else has stored the
    same archive under the same key meanwhile, and it is theirs.
    """
    try:
        try:
            stored = sink.size(key)
        except DumpNotFound:
            stored = 0
        if not content.complete or stored != content.size:
            raise SizeMismatch(
                f"the storage holds {stored:,} bytes of the dump, {content.size:,} were written",
                hint="The dump was removed again. Check the storage and its free space.",
            )
        sink.save_manifest(manifest)
    except Conflict:
        raise
    except BaseException as error:
        try:
            sink.delete(key)
        except PgcloneError as failed:
            error.add_note(f"the dump could not be removed either: {failed}")
        raise


def _gather(database: ConnectionParams, request: DumpRequest) -> _Facts:
    with database.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        cursor.execute(
            "SELECT pg_database_size(current_database()), pg_encoding_to_char(encoding)"
            " FROM pg_database WHERE datname = current_database()"
        )
        size, encoding = one_row(cursor)
        cursor.execute("SELECT extname, extversion FROM pg_extension ORDER BY extname")
        extensions = tuple(cursor.fetchall())
        names = [*request.exclude, *request.kept, MIGRATIONS]
        meant = request.look_up(names) if request.look_up else tables_meant(cursor, names)
        facts = _Facts(
            source_size=size,
            encoding=encoding,
            extensions=extensions,
            excluded=_with_partitions(cursor, [_existing(name, meant) for name in request.exclude]),
            kept=_with_partitions(cursor, [meant[name] for name in request.kept if name in meant]),
        )
        if (table := meant.get(MIGRATIONS)) is not None:
            facts.migrations = applied_migrations(cursor, table)
        found = evidence.read(cursor)
        facts.anonymized = None if found is None else found.fields
    return facts


def _existing(name: str, meant: Mapping[str, TableName]) -> TableName:
    """A name that matches nothing is an error: pg_dump would take it for a pattern without a match
    and dump the rows that were to be left out."""
    if name not in meant:
        raise ConfigurationError(
            f"the table {name} that is to be left out does not exist in the database",
            hint="Nothing was dumped. Check the excluded models, or migrate first.",
        )
    return meant[name]


def _with_partitions(cursor: Any, tables: Sequence[TableName]) -> tuple[TableName, ...]:
    """The tables and their partitions; :class:`Conflict` when the database has not all of them."""
    found: set[TableName] = set()
    for oid in table_oids(cursor, tables).values():
        cursor.execute(
            f"""
            {with_partitions("%s::oid")}
            SELECT n.nspname, c.relname
              FROM part JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
            """,  # noqa: S608 - of constants
            [oid],
        )
        found |= {TableName(*row) for row in cursor.fetchall()}
    return tuple(sorted(found))
