"""Reads what pg_restore says, and judges every error in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import errorcodes

from .archive import Contents
from .catalog import with_partitions
from .connection import Connection
from .errors import InvalidScript, RestoreFailed
from .names import TableName, readable
from .owned import LostOwner, told
from .process import Child, scrubbed
from .progress import Reporter
from .statements import split

LONGEST_ERROR = 256 * 1024
"""Characters of one error of pg_restore that are kept."""

MOST_ERRORS = 100_000
"""Errors of one pg_restore that are kept; with more the restore has failed. A role that does not
exist here makes one for every object with a grant to it."""

_FROM_ENTRY = re.compile(r"pg_restore: from TOC entry \d+; \d+ \d+ (.*)")
_ERROR = re.compile(r"pg_restore: error: (.*)", re.DOTALL)
_CREATING = re.compile(r"pg_restore: creating (.*)")
# The server's own words for a warning come in its language, but always before two spaces.
_NOTICE = re.compile(r"pg_restore: [^:]+:  (.*)")
_COUNT = re.compile(r"pg_restore: warning: errors ignored on restore: \d+")
_COMMAND = "\nCommand was: "
_REFERENCES = re.compile(
    r'\bREFERENCES (?:("(?:[^"]|"")+"|[^\s."(]+)\.)?("(?:[^"]|"")+"|[^\s."(]+)\s*\('
)
_NEWER_SETTING = re.compile(r"SET (transaction_timeout|idle_session_timeout) = 0;?\s*")

_TABLES_OF = f"""
{with_partitions("to_regclass({table})::oid")}
SELECT textsend(n.nspname::text), textsend(c.relname::text)
  FROM part JOIN pg_class c USING (oid)
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind <> 'p'
"""  # noqa: S608 - of constants
"""A table, or the partitions that have its rows; names are in the encoding of the session, which is
that of the archive."""

Tolerated = frozenset[tuple[str, str]]
"""Pairs of a kind of entry, as the table of contents calls it, and a SQLSTATE."""

_GRANTS = ("ACL", "DEFAULT ACL")
_GRANT_STARTS = tuple(f"{kind} " for kind in _GRANTS)
_JUDGED_KINDS = (*_GRANTS, "COMMENT", "FK CONSTRAINT")


@dataclass
class RestoreError:
    """One error of pg_restore: the kind of entry it belongs to, and what was said."""

    entry: str
    """Kind, schema, name and owner of the entry, as pg_restore writes them."""
    text: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    retryable: bool = False
    """Whether trying the statement again makes up for it: nothing that came after needed it."""
    tolerated: frozenset[str] = frozenset()
    """Kinds of entries that the settings allow to fail."""

    @property
    def message(self) -> str:
        first = self.text.split("\n", 1)[0].removeprefix("could not execute query: ")
        return scrubbed(readable(first), self.secrets)

    @property
    def command(self) -> str | None:
        """The whole command; ``None`` when there was none, or one too long to be kept."""
        _before, found, command = self.text.partition(_COMMAND)
        return command.strip() if found and len(self.text) < LONGEST_ERROR else None

    def is_a(self, *kinds: str) -> bool:
        return self.entry.startswith(tuple(f"{kind} " for kind in kinds))

    @property
    def is_setting(self) -> bool:
        return self.command is not None and bool(_NEWER_SETTING.fullmatch(self.command))

    @property
    def can_be_judged(self) -> bool:
        """Whether a second try may prove it harmless; everything else fails the restore."""
        if self.command is None:
            return False
        return self.retryable or self.is_setting or self.is_a(*_JUDGED_KINDS, *self.tolerated)


@dataclass
class LoadReport:
    """What was not brought back exactly as it was, and why that was accepted."""

    skipped_grants: list[str] = field(default_factory=list)
    unchecked_foreign_keys: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    tolerated: list[str] = field(default_factory=list)
    lost_owners: list[LostOwner] = field(default_factory=list)
    analyzed: list[TableName] = field(default_factory=list)
    """Tables that have their statistics already."""

    def tell(self, reporter: Reporter) -> None:
        for statement in self.skipped_grants:
            reporter.warn(f"left out: {statement}")
        for sentence in told(self.lost_owners):
            reporter.warn(sentence)
        for statement in self.unchecked_foreign_keys:
            said = "made NOT VALID, as the dump leaves out the rows it refers to"
            reporter.warn(f"{said}: {statement}")
        for statement in self.tolerated:
            reporter.note(f"not possible here and not needed: {statement}")


class ErrorCollector:
    """Takes the error output of one pg_restore, line by line.

    ``retryable`` says of all its errors that their statements can be tried again later.
    """

    def __init__(
        self,
        secrets: tuple[str, ...] = (),
        *,
        retryable: bool = False,
        tolerated: Tolerated = frozenset(),
    ) -> None:
        self.errors: list[RestoreError] = []
        self.skipped_grants: dict[str, None] = {}
        """Grants that the server only warns of having left out: of what belongs to somebody else,
        such as the objects of an extension."""
        self.went_on_to_the_end = False
        """Whether pg_restore has counted its errors, which it does only at its end."""
        self._secrets = secrets
        self._retryable = retryable
        self._tolerated = frozenset(kind for kind, _sqlstate in tolerated)
        self._entry = ""
        self._creating = ""
        self._open: RestoreError | None = None

    def take(self, line: str) -> None:
        if match := _FROM_ENTRY.match(line):
            self._entry = match[1]
        if line.startswith("pg_restore: "):
            self._close()
            if match := _CREATING.match(line):
                self._creating = match[1]
            elif (match := _NOTICE.match(line)) and self._creating.startswith(_GRANT_STARTS):
                self.skipped_grants[readable(f"{self._creating} ({match[1]})")] = None
            elif _COUNT.match(line):
                self.went_on_to_the_end = True
            elif match := _ERROR.match(line):
                self._open = RestoreError(
                    self._entry, match[1], self._secrets, self._retryable, self._tolerated
                )
        elif self._open is not None and len(self._open.text) < LONGEST_ERROR:
            self._open.text += "\n" + line

    @property
    def is_hopeless(self) -> bool:
        """Whether an error was seen that nothing that comes after can make up for."""
        return bool(self.errors) and not self.errors[-1].can_be_judged

    def finish(self, child: Child, status: int) -> None:
        """Raises unless pg_restore succeeded, or failed in nothing but what can be judged."""
        self._close()
        for error in self.errors:
            if not error.can_be_judged:
                raise failure(error)
        if len(self.errors) >= MOST_ERRORS:
            raise RestoreFailed(
                f"pg_restore reported more than {MOST_ERRORS:,} errors, the first is: "
                f"{self.errors[0].message}",
                hint="The live database was not touched.",
            )
        if status < 0:
            raise child.failure(status)
        if status and not (self.errors and self.went_on_to_the_end):
            raise RestoreFailed(str(child.failure(status)))

    def _close(self) -> None:
        if self._open is not None and not self.is_hopeless and len(self.errors) < MOST_ERRORS:
            self.errors.append(self._open)
        self._open = None


def failure(error: RestoreError) -> RestoreFailed:
    return RestoreFailed(
        f"pg_restore failed: {error.message}", hint="The live database was not touched."
    )


class Judge:
    """Tries again, as the same role, what pg_restore could not do.

    ``connection`` is to the restored database. Judgement is by SQLSTATE: what the server says is in
    its own language. Commands are sent byte by byte as they stand in the archive.
    """

    def __init__(
        self,
        connection: Connection,
        contents: Contents | None,
        report: LoadReport,
        tolerated: Tolerated = frozenset(),
    ) -> None:
        self._connection = connection
        without_data = contents.tables_without_data if contents else frozenset()
        self._without_data = {(_raw(schema or ""), _raw(name)) for schema, name in without_data}
        self._report = report
        self._tolerated = tolerated
        if contents is not None:
            self._try(f"SET client_encoding = '{contents.outline.encoding}'")
        # As pg_restore has it: every name in an archive is qualified.
        self._try("SELECT pg_catalog.set_config('search_path', '', false)")
        self._try("SET check_function_bodies = false")

    def judge(self, errors: Sequence[RestoreError]) -> None:
        """:class:`RestoreFailed` for the first error that is one."""
        for error in errors:
            command = error.command
            if command is None:
                raise failure(error)
            if error.is_setting:
                self._setting(error, command)
            elif error.is_a(*_GRANTS):
                self._replay_grants(error, command)
            elif error.is_a("FK CONSTRAINT"):
                self._add_unchecked(error, command)
            elif error.is_a("COMMENT"):
                self._comment(error, command)
            else:
                self._try_again(error, command)

    def _try_again(self, error: RestoreError, command: str) -> None:
        problem = self._try(command)
        if problem is None:
            if error.retryable:
                return
        elif any(error.is_a(kind) and problem.pgcode == code for kind, code in self._tolerated):
            self._report.tolerated.append(readable(command))
            return
        raise failure(error) from problem

    def _try(self, statement: str) -> psycopg2.Error | None:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(_raw(statement))
        except psycopg2.Error as error:
            return error
        return None

    def _replay_grants(self, error: RestoreError, command: str) -> None:
        """One by one: pg_restore sends them together, and one missing role undoes them all.

        What another role had granted stands between SET and RESET SESSION AUTHORIZATION. Only a
        superuser can grant in somebody else's name, set somebody else's default privileges, or
        grant what belongs to the system or an extension; all else belongs to the role at work.
        """
        skippable = {errorcodes.UNDEFINED_OBJECT, errorcodes.INSUFFICIENT_PRIVILEGE}
        not_the_grantor: psycopg2.Error | None = None
        try:
            statements = [statement.text for statement in split(command)]
        except InvalidScript as unreadable:
            raise failure(error) from unreadable
        for statement in statements:
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
                raise failure(error) from problem
            self._report.skipped_grants.append(
                f"{readable(statement)} ({problem.diag.message_primary})"
            )

    def _add_unchecked(self, error: RestoreError, command: str) -> None:
        problem = self._try(command)
        match = _REFERENCES.search(command)
        if (
            problem is not None
            and problem.pgcode == errorcodes.FOREIGN_KEY_VIOLATION
            and match is not None
            and self._lacks_rows(".".join(filter(None, match.groups())))
        ):
            problem = self._try(command.rstrip().removesuffix(";") + " NOT VALID")
            self._report.unchecked_foreign_keys.append(readable(command))
        if problem is not None:
            raise failure(error) from problem

    def _lacks_rows(self, table: str) -> bool:
        """Whether the dump left out the rows of a table, given as SQL, or of a partition of it.

        A partitioned table has no rows of its own, so an archive never holds data for it.
        """
        with self._connection.cursor() as cursor:
            cursor.execute(_raw(_TABLES_OF.format(table="'" + table.replace("'", "''") + "'")))
            return any(tuple(map(bytes, row)) in self._without_data for row in cursor.fetchall())

    def _comment(self, error: RestoreError, command: str) -> None:
        problem = self._try(command)
        if problem is None:
            return
        if (
            not command.startswith("COMMENT ON EXTENSION ")
            or problem.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE
        ):
            raise failure(error) from problem
        self._report.tolerated.append(readable(command))

    def _setting(self, error: RestoreError, command: str) -> None:
        problem = self._try(command)
        if problem is not None and problem.pgcode != errorcodes.UNDEFINED_OBJECT:
            raise failure(error) from problem
        # Every session of pg_restore sets it.
        if command not in self._report.tolerated:
            self._report.tolerated.append(command)


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
