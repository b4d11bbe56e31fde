"""Loads one archive into one empty database and judges every error on the way."""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import errorcodes

from .archive import Contents, OpenedArchive
from .connection import Connection, ConnectionParams
from .errors import ProcessFailed, RestoreFailed
from .process import Child, scrubbed
from .programs import Program, parse_command, restore_command
from .progress import Reporter
from .server import remove_session_limits

LONGEST_ERROR = 256 * 1024
"""Characters of one error of pg_restore that are kept."""

SCRATCH_OPTIONS = "-c synchronous_commit=off"
"""A database that is thrown away when its server crashes need not wait for the disk."""

_FROM_ENTRY = re.compile(r"pg_restore: from TOC entry (\d+);")
_ERROR = re.compile(r"pg_restore: error: (.*)", re.DOTALL)
_COUNT = re.compile(r"pg_restore: warning: errors ignored on restore: (\d+)")
_COMMAND = "\nCommand was: "
_REFERENCES = re.compile(
    r'\bREFERENCES (?:("(?:[^"]|"")+"|[^\s."(]+)\.)?("(?:[^"]|"")+"|[^\s."(]+)\s*\('
)
_NEWER_SETTING = re.compile(r"SET (transaction_timeout|idle_session_timeout) = 0;?\s*")


@dataclass
class RestoreError:
    """One error of pg_restore: the entry it belongs to, what was said, the command that failed."""

    entry: int | None
    text: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def message(self) -> str:
        first = self.text.split("\n", 1)[0].removeprefix("could not execute query: ")
        return scrubbed(first, self.secrets)

    @property
    def command(self) -> str | None:
        """The whole command; ``None`` when there was none, or one too long to be kept."""
        _before, found, command = self.text.partition(_COMMAND)
        return command.strip() if found and len(self.text) < LONGEST_ERROR else None


@dataclass
class LoadReport:
    """What was not brought back exactly as it was, and why that was accepted."""

    skipped_grants: list[str] = field(default_factory=list)
    unchecked_foreign_keys: list[str] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)


class _ErrorCollector:
    """Reads the error output of pg_restore line by line, in the thread that reads the pipe."""

    def __init__(
        self,
        contents: Contents | None,
        hopeless: threading.Event,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.errors: list[RestoreError] = []
        self.announced: int | None = None
        """How many errors pg_restore itself has counted."""
        self._kinds = {e.dump_id: e.kind for e in contents.entries} if contents else {}
        self._hopeless = hopeless
        self._secrets = secrets
        self._entry: int | None = None
        self._open: RestoreError | None = None

    def kind(self, error: RestoreError) -> str:
        return self._kinds.get(error.entry, "") if error.entry is not None else ""

    def take(self, line: str) -> None:
        if match := _FROM_ENTRY.match(line):
            self._entry = int(match[1])
        if line.startswith("pg_restore: "):
            self._close()
            if match := _COUNT.match(line):
                self.announced = int(match[1])
            elif match := _ERROR.match(line):
                self._open = RestoreError(self._entry, match[1], self._secrets)
        elif self._open is not None and len(self._open.text) < LONGEST_ERROR:
            self._open.text += "\n" + line

    def _close(self) -> None:
        if (error := self._open) is None:
            return
        self._open = None
        self.errors.append(error)
        # Nothing that comes after can make up for it, so the rest need not be loaded.
        if not self.may_be_tolerated(error):
            self._hopeless.set()

    def finish(self) -> None:
        self._close()

    def may_be_tolerated(self, error: RestoreError) -> bool:
        if error.command is None:
            return False
        if _NEWER_SETTING.fullmatch(error.command):
            return True
        return self.kind(error) in {"ACL", "DEFAULT ACL", "COMMENT", "FK CONSTRAINT"}


def load_archive(
    archive: OpenedArchive,
    target: ConnectionParams,
    program: Program,
    reporter: Reporter,
) -> LoadReport:
    """Pipes ``archive`` into pg_restore and returns what was left out.

    :class:`RestoreFailed` for any error that is not one of these, each proven by trying the
    statement again: a grant to a role that does not exist here; a foreign key to rows that the
    dump left out, which is made NOT VALID; a comment on an extension that a superuser installed;
    a setting that a newer pg_restore sets and this server does not have.

    The caller drops the target database after any error, also when this process dies.
    """
    hopeless = threading.Event()
    secrets = (target.password,) if target.password else ()
    collector = _ErrorCollector(archive.contents, hopeless, secrets)
    options = " ".join(filter(None, [target.options.get("options"), SCRATCH_OPTIONS]))
    with target.child_environment() as environment:
        command = restore_command(
            program,
            {**environment, "PGOPTIONS": options},
            role=target.role,
            secrets=secrets,
        )
        with Child(command, stdin=subprocess.PIPE, on_line=collector.take) as child:
            _feed(archive, child, hopeless, reporter)
            if hopeless.is_set():
                child.terminate()
            status = child.wait()
    collector.finish()
    _check_end(child, status, collector)
    if not collector.errors:
        return LoadReport()
    with target.session() as connection:
        remove_session_limits(connection)
        return _Judge(connection, archive.contents, collector).judge()


def _feed(
    archive: OpenedArchive, child: Child, hopeless: threading.Event, reporter: Reporter
) -> None:
    """Stops where pg_restore stops reading; whether that was right is told by its end."""
    try:
        for block in archive.blocks():
            reporter.check()
            view = memoryview(block)
            while view:
                view = view[child.stdin.write(view) :]
            if hopeless.is_set():
                return
        child.stdin.close()
    except BrokenPipeError:
        return


def _check_end(child: Child, status: int, collector: _ErrorCollector) -> None:
    """Raises unless pg_restore succeeded, or failed in nothing but what the judge may decide."""
    for error in collector.errors:
        if not collector.may_be_tolerated(error):
            raise _failure(error)
    if status < 0:
        raise child.failure(status)
    if status and collector.announced != len(collector.errors):
        raise RestoreFailed(str(child.failure(status)))


def _failure(error: RestoreError) -> RestoreFailed:
    return RestoreFailed(
        f"pg_restore failed: {error.message}",
        hint="The live database was not touched.",
    )


class _Judge:
    """Tries again, as the same role, what pg_restore could not do."""

    def __init__(
        self, connection: Connection, contents: Contents | None, collector: _ErrorCollector
    ) -> None:
        self._connection = connection
        self._collector = collector
        self._without_data = contents.tables_without_data if contents else frozenset()
        self._report = LoadReport()

    def judge(self) -> LoadReport:
        for error in self._collector.errors:
            command = error.command
            if command is None:
                raise _failure(error)
            match self._collector.kind(error):
                case "ACL" | "DEFAULT ACL":
                    self._replay_grants(error, command)
                case "FK CONSTRAINT":
                    self._add_unchecked(error, command)
                case "COMMENT":
                    self._comment(error, command)
                case _:
                    self._setting(error, command)
        return self._report

    def _try(self, statement: str) -> psycopg2.Error | None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
        except psycopg2.Error as error:
            return error
        return None

    def _replay_grants(self, error: RestoreError, command: str) -> None:
        """One by one: pg_restore sends them together, and one missing role undoes them all.

        What another role had granted stands between SET and RESET SESSION AUTHORIZATION. Only a
        superuser can grant in somebody else's name, or set somebody else's default privileges.
        """
        skippable = {errorcodes.UNDEFINED_OBJECT}
        if self._collector.kind(error) == "DEFAULT ACL":
            skippable.add(errorcodes.INSUFFICIENT_PRIVILEGE)
        not_the_grantor: psycopg2.Error | None = None
        for statement in filter(None, re.split(r"(?<=;)\n+", command)):
            if statement.startswith("RESET SESSION AUTHORIZATION") and not_the_grantor is not None:
                not_the_grantor = None
                continue
            problem = not_the_grantor or self._try(statement)
            if problem is None:
                continue
            if statement.startswith("SET SESSION AUTHORIZATION "):
                not_the_grantor = problem
                continue
            if not_the_grantor is None and problem.pgcode not in skippable:
                raise _failure(error) from problem
            self._report.skipped_grants.append(f"{statement} ({problem.diag.message_primary})")

    def _add_unchecked(self, error: RestoreError, command: str) -> None:
        match = _REFERENCES.search(command)
        if match is None or not self._lacks_rows(".".join(filter(None, match.groups()))):
            raise _failure(error)
        problem = self._try(command)
        if problem is not None and problem.pgcode == errorcodes.FOREIGN_KEY_VIOLATION:
            problem = self._try(command.rstrip().removesuffix(";") + " NOT VALID")
        if problem is not None:
            raise _failure(error) from problem
        self._report.unchecked_foreign_keys.append(command)

    def _lacks_rows(self, table: str) -> bool:
        """Whether the dump left out the rows of a table, given as SQL, or of a partition of it.

        A partitioned table has no rows of its own, so an archive never holds data for it.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(
                """
                WITH RECURSIVE part(oid) AS (
                    SELECT to_regclass(%s)::oid
                     UNION SELECT i.inhrelid FROM pg_inherits i JOIN part ON i.inhparent = part.oid
                             JOIN pg_class child ON child.oid = i.inhrelid
                            WHERE child.relispartition
                )
                SELECT n.nspname, c.relname
                  FROM part JOIN pg_class c USING (oid)
                  JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind <> 'p'
                """,
                [table],
            )
            return any(row in self._without_data for row in cursor.fetchall())

    def _comment(self, error: RestoreError, command: str) -> None:
        problem = self._try(command)
        if problem is None:
            return
        if (
            not command.startswith("COMMENT ON EXTENSION ")
            or problem.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE
        ):
            raise _failure(error) from problem
        self._report.tolerated.append(command)

    def _setting(self, error: RestoreError, command: str) -> None:
        if not _NEWER_SETTING.fullmatch(command):
            raise _failure(error)
        problem = self._try(command)
        if problem is not None and problem.pgcode != errorcodes.UNDEFINED_OBJECT:
            raise _failure(error) from problem
        self._report.tolerated.append(command)


def verify_archive(archive: OpenedArchive, program: Program, reporter: Reporter) -> None:
    """Has pg_restore read the whole archive without a database.

    :class:`RestoreFailed` when it cannot; pg_restore's list of contents would not notice an
    archive that is cut short.
    """
    with Child(parse_command(program), stdin=subprocess.PIPE) as child:
        _feed(archive, child, threading.Event(), reporter)
        try:
            child.finish()
        except ProcessFailed as error:
            raise RestoreFailed(f"the archive cannot be read: {error}") from error
