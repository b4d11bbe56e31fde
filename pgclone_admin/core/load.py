"""Loads one archive into one empty database, from a stream, building indexes meanwhile.

A pg_restore makes the tables. The rows are read from the stream here, and loaded by one or more
sessions; where they are compressed inside the archive, by a pg_restore that the whole archive is
piped into. As soon as the rows of a large table are in, other pg_restores build its constraints and
indexes, from the table of contents alone, which needs no data. The other indexes and the foreign
keys follow, several at a time; what remains (triggers, policies, grants) is done at the end. So a
stream is restored as fast as ``pg_restore --jobs`` restores a local file.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import psycopg2

from .archive import Contents, Entry, OpenedArchive, Section
from .blocks import TableBlocks, loads_elsewhere, tables_to_copy
from .breaking import Breakable
from .build import IndexBuilders
from .connection import ConnectionParams, one_row, remove_session_limits
from .dump_checks import left_out
from .errors import PgcloneError
from .extensions import configurations_lent, create_extensions
from .feed import feed
from .judge import (
    ErrorCollector,
    Judge,
    LoadReport,
    RestoreError,
    Tolerated,
)
from .names import TableName
from .owners import accesses_for_grants, give_owners
from .process import Child
from .programs import Command, Program, restore_command
from .progress import Phase, Reporter
from .rows import RowLoader, prepare_row_session
from .steps import Step, batched, plan_foreign_keys, plan_tables
from .temporary import LISTS, own_prefix, room_for

SCRATCH_OPTIONS = "-c synchronous_commit=off"
"""A database that is thrown away when its server crashes need not wait for the disk."""

EARLY = {Section.PRE_DATA, Section.DATA}

A_LIST = "the list of what is to be restored"

MOST_FOREIGN_KEY_STEPS = 200
"""Foreign keys that get a pg_restore each; more of them are built in as many batches as jobs."""


def load_archive(
    archive: OpenedArchive,
    target: ConnectionParams,
    program: Program,
    reporter: Reporter,
    *,
    jobs: int = 2,
    is_superuser: bool = False,
    tolerated: Tolerated = frozenset(),
    extension_creator: ConnectionParams | None = None,
) -> LoadReport:
    """Restores ``archive`` into the empty database ``target`` and returns what was left out.

    ``jobs`` sessions work at the same time. :class:`RestoreFailed` for any error that is not one of
    these, each proven by trying the statement again: a grant to a role that does not exist here; a
    foreign key to rows that the dump left out, which is made NOT VALID; a comment on an extension
    that a superuser installed; a setting of a newer pg_restore that this server does not have.
    Event triggers and the like are left out unless ``is_superuser``; errors that are ``tolerated``
    are listed. ``extension_creator`` reaches the same database with more rights, and creates the
    extensions before; it gives objects to the other owners that the archive names.

    The caller drops the target database after any error, also when this process dies.
    """
    with ExitStack() as stack:
        environment = stack.enter_context(target.child_environment())
        with room_for(A_LIST):
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=own_prefix(), suffix=LISTS)
            )
        loader = _Loader(
            archive,
            target,
            program,
            reporter,
            environment=environment,
            folder=Path(folder),
            tolerated=tolerated,
        )
        if archive.contents is None:
            loader.load_in_one_pass()
        else:
            done: frozenset[int] = frozenset()
            if extension_creator is not None:
                done = create_extensions(archive.contents, target.role, extension_creator)
            loader.leave_out(archive.contents, is_superuser=is_superuser)
            with configurations_lent(archive.contents, target.role, extension_creator):
                loader.load_split(archive.contents, jobs, done)
            creator = extension_creator or target
            loader.give_to_others(archive.contents, creator, done, is_superuser=is_superuser)
    return loader.report


class _Loader:
    def __init__(
        self,
        archive: OpenedArchive,
        target: ConnectionParams,
        program: Program,
        reporter: Reporter,
        *,
        environment: dict[str, str],
        folder: Path,
        tolerated: Tolerated,
    ) -> None:
        self._archive = archive
        self._target = target
        self._program = program
        self._reporter = reporter
        options = " ".join(filter(None, [target.options.get("options"), SCRATCH_OPTIONS]))
        self._environment = {**environment, "PGOPTIONS": options}
        self._folder = folder
        self._tolerated = tolerated
        self._fed = 0
        self._use_tablespaces = True
        self._analyzing = Breakable()
        self._owner = ""
        self.report = LoadReport()

    def load_in_one_pass(self) -> None:
        """For an archive whose table of contents cannot be read here."""
        self._judge(None, self._stream(self._archive.blocks(), entries=None))

    def load_split(self, contents: Contents, jobs: int, done: frozenset[int]) -> None:
        """``done`` are the entries that are there already."""
        without = contents.outline.superuser_only.keys()
        without_first = done | without
        with IndexBuilders(
            self._build_command,
            lambda: self._fed,
            jobs=jobs,
            analyze=self._analyze,
            break_off=self._analyzing.break_all,
            # Rows of one entry may go into the table of another one then: it is never complete.
            early=not any(loads_elsewhere(entry) for entry in contents.entries),
        ) as builders:
            builders.begin(*plan_tables(contents.entries))
            if tables := tables_to_copy(contents):
                errors = self._load_rows(contents, tables, builders, jobs, without_first)
            else:
                first = self._list("first", contents, EARLY, without_first)
                errors = self._stream(self._archive.blocks(), first, builders)
            self._reporter.phase(Phase.INDEXING)
            builders.data_is_loaded()
            self._judge(contents, errors + builders.finish())
            foreign_keys = plan_foreign_keys(contents.entries)
            # A key to a partitioned table needs its indexes attached, so the others come first.
            others = {entry for step in foreign_keys for entry in step.entries}
            others |= builders.built | without
            rest = self._list("rest", contents, {Section.POST_DATA}, others)
            self._judge(contents, self._run_listed(rest))
            builders.add(batched(foreign_keys, MOST_FOREIGN_KEY_STEPS, jobs))
            self._judge(contents, builders.finish())
        later = without_first | contents.outline.others.grants.keys()
        last = self._list("last", contents, {Section.LAST}, later)
        self._judge(contents, self._run_listed(last))

    def give_to_others(
        self,
        contents: Contents,
        creator: ConnectionParams,
        done: frozenset[int],
        *,
        is_superuser: bool,
    ) -> None:
        """When everything is there: until now it belongs to one role, which may do all of it.

        The owners, then the grants that these make on what is theirs. What only a superuser can
        create is last: event triggers could meddle with both.
        """
        outline = contents.outline
        role = self._target.role
        objects = {
            i: each for i, each in outline.others.objects.items() if i not in outline.superuser_only
        }
        given = give_owners(outline, objects, creator, role, heir=self._owner)
        self.report.lost_owners += given.lost
        makers = accesses_for_grants(
            outline, given.ids, creator, self._target, is_superuser=is_superuser
        )
        for access, entries in makers:
            self._restore_as(access, contents, entries - done)
        if is_superuser and outline.superuser_only:
            self._restore_as(creator, contents, outline.superuser_only.keys())
            objects = {
                i: e for i, e in outline.others.objects.items() if i in outline.superuser_only
            }
            given = give_owners(outline, objects, creator, role, heir=creator.user)
            self.report.lost_owners += given.lost

    def _restore_as(
        self, access: ConnectionParams, contents: Contents, entries: AbstractSet[int]
    ) -> None:
        if entries:
            others = frozenset(contents.outline.ids) - entries
            listed = self._list("of-others", contents, set(Section), others)
            self._judge(contents, self._run_listed(listed, access=access), access=access)

    def _load_rows(
        self,
        contents: Contents,
        tables: Mapping[int, Entry],
        builders: IndexBuilders,
        jobs: int,
        without: AbstractSet[int],
    ) -> list[RestoreError]:
        """Definitions by a pg_restore, rows by sessions of this process, and then large objects,
        sequences and the like by another pg_restore."""
        first = self._list("first", contents, {Section.PRE_DATA}, without)
        errors = self._run_listed(first, retryable=False)
        blocks = TableBlocks(self._archive.data(), tables)
        with RowLoader(
            self._target.connect,
            lambda connection: prepare_row_session(connection, contents.outline),
            builders,
            self._reporter,
            self.report,
            jobs=jobs,
            tolerated=self._tolerated,
            secrets=self._target.secrets,
        ) as loader:
            for entry, texts in blocks.tables():
                builders.table_is_loaded(loader.load(entry, texts))
        others = self._list("others", contents, {Section.DATA}, without | tables.keys())
        errors += self._stream(chain(self._archive.head(), blocks.rest()), others, builders)
        # pg_restore does not read what it does not need; a damaged end is to be noticed still.
        for _unread in blocks.rest():
            pass
        return errors

    def _analyze(self, table: TableName) -> None:
        """Now, while others are being built, it costs no time of its own."""
        with (
            # It is done at the end then; also for a name in another encoding than UTF-8.
            contextlib.suppress(psycopg2.Error, PgcloneError, UnicodeError),
            self._target.session() as connection,
            self._analyzing.held(connection),
            connection.cursor() as cursor,
        ):
            remove_session_limits(connection)
            cursor.execute(f"ANALYZE {table.quoted}")
            self.report.analyzed.append(table)

    def leave_out(self, contents: Contents, *, is_superuser: bool) -> None:
        """Says what is left out, and keeps tables from tablespaces that are not here."""
        with self._target.session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            (owner,) = one_row(cursor)
            found = left_out(cursor, contents, owner=owner, is_superuser=is_superuser)
        self._owner = owner
        self.report.left_out += found
        for entry in found:
            self._reporter.warn(f"left out, as this role cannot create it here: {entry}")
        self._use_tablespaces = not any(entry.startswith("TABLESPACE ") for entry in found)

    def _stream(
        self,
        archive: Iterable[bytes],
        entries: Path | None,
        builders: IndexBuilders | None = None,
    ) -> list[RestoreError]:
        """Pipes an archive into pg_restore; returns the errors that can be judged."""
        command = self._command(entries=entries)
        collector = ErrorCollector(command.secrets, tolerated=self._tolerated)

        def take(line: str) -> None:
            collector.take(line)
            if builders is not None:
                builders.take(line)

        def is_in_vain() -> bool:
            return collector.is_hopeless or (builders is not None and builders.has_failed)

        with Child(command, stdin=subprocess.PIPE, on_line=take) as child:
            for piece in feed(archive, child, self._reporter):
                self._fed += piece
                if is_in_vain():
                    child.terminate()
                    break
            # What it has read of the archive may keep it busy for long: indexes come last.
            status = child.wait(is_in_vain=is_in_vain)
        if builders is None or not builders.has_failed:
            collector.finish(child, status)
        self.report.skipped_grants += collector.skipped_grants
        return collector.errors

    def _build_command(self, step: Step) -> Command:
        listed = self._folder / f"{step.entries[0]}.list"
        with room_for(A_LIST):
            listed.write_text("".join(f"{dump_id}\n" for dump_id in step.entries))
        return self._command(entries=listed, archive=self._archive.path)

    def _run_listed(
        self, entries: Path, *, retryable: bool = True, access: ConnectionParams | None = None
    ) -> list[RestoreError]:
        command = self._command(entries=entries, archive=self._archive.path, access=access)
        tolerated = self._tolerated if not retryable else frozenset()
        collector = ErrorCollector(command.secrets, retryable=retryable, tolerated=tolerated)
        with Child(command, on_line=collector.take) as child:
            status = child.wait(is_in_vain=lambda: collector.is_hopeless)
        collector.finish(child, status)
        self.report.skipped_grants += collector.skipped_grants
        return collector.errors

    def _command(
        self,
        *,
        entries: Path | None,
        archive: Path | None = None,
        access: ConnectionParams | None = None,
    ) -> Command:
        return restore_command(
            self._program,
            self._environment,
            role=(access or self._target).role,
            archive=archive,
            entries=entries,
            use_tablespaces=self._use_tablespaces,
            secrets=self._target.secrets,
        )

    def _list(
        self, name: str, contents: Contents, sections: set[Section], without: Iterable[int]
    ) -> Path:
        """A file that names entries by their numbers, for pg_restore --use-list."""
        path = self._folder / f"{name}.list"
        left_out = frozenset(without)
        outline = contents.outline
        with room_for(A_LIST), path.open("w") as lines:
            for dump_id, section in zip(outline.ids, outline.sections, strict=True):
                if section in sections and dump_id not in left_out:
                    lines.write(f"{dump_id}\n")
        return path

    def _judge(
        self,
        contents: Contents | None,
        errors: Sequence[RestoreError],
        access: ConnectionParams | None = None,
    ) -> None:
        if not errors:
            return
        with (access or self._target).session() as connection:
            remove_session_limits(connection)
            Judge(connection, contents, self.report, self._tolerated).judge(errors)
