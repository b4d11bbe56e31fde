"""Copies a database on its server: by the server itself, or piped through pg_dump."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace

import psycopg2

from .archive import OpenedArchive
from .connection import ConnectionParams, backend_pid, remove_session_limits
from .errors import PgcloneError, TooBusy
from .judge import LoadReport
from .load import load_archive
from .marks import Database, Mark, MarkKind, new_database_name
from .names import TableName
from .own_databases import clone, create_like, dropped_on_error, mark_and_rename
from .process import Child
from .programs import Codec, choose_program, dump_command
from .progress import Phase, Reporter
from .properties import carry
from .server import Server
from .sessions import POLL, check_sessions_can_be_ended, end_sessions, has_locked, sessions_in


@dataclass(frozen=True)
class CopyResult:
    database: Database
    piped: bool
    """Whether it went through pg_dump and pg_restore, ending no session."""
    seconds: float


def copy_database(
    server: Server,
    source: Database,
    mark: Mark,
    reporter: Reporter,
    *,
    end_sessions: bool = False,
    replaces: Collection[str] | None = None,
    lose_settings: Collection[str] = (),
    program_directories: Sequence[str] = (),
    jobs: int = 2,
) -> CopyResult:
    """A marked copy of ``source`` under the mark's name.

    An older database of that name gives way as :func:`mark_and_rename` says of ``replaces``;
    ``lose_settings`` are names of settings and grants that the copy may lack.

    The server's own copy is used when nobody is connected, or when ``end_sessions`` allows to end
    their sessions; clients that connect meanwhile wait for it. Otherwise the copy is piped, and
    nobody notices.

    When this process dies, ``source`` is as it was; a marked or new database may be left. After any
    error there is no copy. :class:`TooBusy` when sessions are to be ended and one cannot be;
    :class:`DatabaseProtected` when another database has the name; :class:`PermissionMissing`,
    :class:`NoRoom`, :class:`NotCarried`; for a piped one :class:`ProgramMissing`,
    :class:`RestoreFailed`, :class:`ProcessFailed` and what ``reporter`` raises.
    """
    started = time.monotonic()
    piped = False
    if end_sessions:
        copied = _clone_ending_sessions(server, source, mark, replaces)
    else:
        try:
            if sessions_in(server, source.oid):
                raise TooBusy
            copied = clone(server, source, mark, replaces=replaces)
        except TooBusy:
            copied = _pipe(
                server,
                source,
                mark,
                reporter,
                replaces=replaces,
                lose_settings=lose_settings,
                program_directories=program_directories,
                jobs=jobs,
            )
            piped = True
    # Without its grants everybody may connect to it.
    with dropped_on_error(server, copied), server.transaction() as cursor:
        left = carry(cursor, source, copied, copied.name, lose_settings=lose_settings)
    for each in left:
        reporter.warn(each.told(source.name))
    return CopyResult(copied, piped, time.monotonic() - started)


def _clone_ending_sessions(
    server: Server, source: Database, mark: Mark, replaces: Collection[str] | None
) -> Database:
    """CREATE DATABASE takes its lock on the source and then waits five seconds for sessions to
    leave, so they are ended meanwhile, on another connection."""
    check_sessions_can_be_ended(server, source.oid)
    done = threading.Event()
    arguments = server.params, source, backend_pid(server.connection), done
    helper = threading.Thread(target=_end_sessions_while_copying, args=arguments, daemon=True)
    helper.start()
    try:
        return clone(server, source, mark, replaces=replaces)
    finally:
        done.set()
        helper.join()


def _end_sessions_while_copying(
    params: ConnectionParams, source: Database, pid: int, done: threading.Event
) -> None:
    """``pid``: the server's process that copies, and tells by itself when sessions stay."""
    with suppress(PgcloneError, psycopg2.Error), params.session() as connection:
        remove_session_limits(connection)
        terminator = Server(params, connection)
        while not done.is_set():
            if has_locked(terminator, source.oid, by=pid, mode="ShareLock"):
                end_sessions(terminator, source.oid)
            done.wait(POLL)


def _pipe(
    server: Server,
    source: Database,
    mark: Mark,
    reporter: Reporter,
    *,
    replaces: Collection[str] | None,
    lose_settings: Collection[str],
    program_directories: Sequence[str],
    jobs: int,
) -> Database:
    """pg_dump into pg_restore, without compression; ends no session and blocks no client.

    The copy gets its mark and name when it is whole: one that was left half-way is not listed.
    """
    unfinished = replace(mark, name=new_database_name(), kind=MarkKind.TEMPORARY)
    target = create_like(server, source, unfinished)
    with dropped_on_error(server, target):
        with server.transaction() as cursor:
            carry(
                cursor,
                source,
                target,
                target.name,
                still_to_be_filled=True,
                lose_settings=lose_settings,
            )
        reporter.phase(Phase.COPYING, total=server.size(source.name))
        report = load_from_database(
            server.params.with_dbname(source.name),
            server.params.with_dbname(target.name).with_role(server.role_to_take(target.owner)),
            server,
            reporter,
            program_directories=program_directories,
            jobs=jobs,
        )
        report.tell(reporter)
        return mark_and_rename(server, target.name, mark, replaces=replaces)


def load_from_database(
    source: ConnectionParams,
    target: ConnectionParams,
    server: Server,
    reporter: Reporter,
    *,
    program_directories: Sequence[str],
    jobs: int = 2,
    definitions_of: Sequence[TableName] = (),
) -> LoadReport:
    """Loads what pg_dump says of ``source`` into the database ``target``, which is empty.

    With ``definitions_of`` only these tables, which it does not have yet, and without their rows.
    """
    pg_dump = choose_program("pg_dump", server_major=server.major, directories=program_directories)
    pg_restore = choose_program(
        "pg_restore", server_major=pg_dump.major, directories=program_directories
    )
    with ExitStack() as stack:
        command = dump_command(
            pg_dump,
            stack.enter_context(source.child_environment()),
            codec=Codec("none"),
            definitions_of=definitions_of,
            encoding=server.existing(source.dbname).encoding,
            role=source.role,
            secrets=source.secrets,
        )
        child = stack.enter_context(Child(command, stdout=subprocess.PIPE))
        archive = stack.enter_context(closing(OpenedArchive(_ChildOutput(child, reporter))))
        report = load_archive(
            archive,
            target,
            pg_restore,
            reporter,
            jobs=jobs,
            is_superuser=server.role().is_superuser,
            extension_creator=server.extension_creator(server.existing(target.dbname)),
        )
        child.finish()
    return report


class _ChildOutput:
    """What a program writes; its end is an error unless the program has succeeded."""

    def __init__(self, child: Child, reporter: Reporter) -> None:
        self._child = child
        self._reporter = reporter

    def read(self, size: int, /) -> bytes:
        data = self._child.stdout.read(size)
        if not data:
            self._child.finish()
        self._reporter.advance(len(data))
        return data

    def close(self) -> None:
        self._child.terminate()
