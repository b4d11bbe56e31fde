"""Takes what is personal out of a restored database, before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from ...core import evidence
from ...core.connection import Connection, one_row
from ...core.errors import HookFailed, PermissionMissing
from ...core.names import TableName
from . import catalog, mapping, rewriting, statements
from .mapping import TableChange

_STATISTICS = (
    TableName("pg_catalog", "pg_statistic"),
    TableName("pg_catalog", "pg_statistic_ext_data"),
)
"""What the planner has learned from rows holds some of their values."""

_SESSION = {"row_security": "off", "TimeZone": "UTC", "DateStyle": "ISO, YMD"}
"""No policy hides a row without an error, and a primary key has one spelling."""

_QUOTING = ("22", "P0")
"""Classes of errors whose messages quote values: of data, and raised by functions."""

_NOT_DONE = "Nothing of it is committed."
_STILL_THERE = "Raw rows are still in the files of the database: drop it, or try again."


@dataclass(frozen=True)
class Changed:
    """What was done: the number of rows of each model, and the tables that were written anew."""

    counts: dict[str, int]
    rewritten: frozenset[TableName]


@dataclass(frozen=True)
class Anonymization:
    """What is changed of which tables."""

    tables: tuple[TableChange, ...]
    seed: str = field(default="", repr=False)

    @classmethod
    def parse(cls, mapping_: Mapping[str, Any], *, seed: str = "") -> Anonymization:
        """Reads a map; :class:`UnknownModel` or :class:`ConfigurationError` before anything runs.

        ``seed`` decides which made-up values a row gets, and is the key of the rule "hash".
        """
        return cls(mapping.read(mapping_, seed=seed), seed)

    @property
    def fields(self) -> tuple[str, ...]:
        """What is changed, such as "auth.User.email", sorted; without fields that are kept."""
        return tuple(
            sorted(f"{table.label}.{each.name}" for table in self.tables for each in table.changed)
        )

    @property
    def digest(self) -> str:
        """The same for maps that say the same. It tells nothing of the seed or a password."""
        return mapping.digest(self.tables)

    def run(
        self,
        connection: Connection,
        *,
        note: Callable[[str], None],
        check: Callable[[], None],
    ) -> Changed:
        """Changes every row, and leaves the evidence.

        Works in the transaction of ``connection``, which the caller commits or rolls back. All
        that can be refused is refused before a row is changed. ``check`` is called before each
        table and may raise. Until :meth:`finish` has run, raw rows remain in the files.

        A table is written anew with its indexes, which is faster than an UPDATE and leaves no
        dead rows. Where PostgreSQL does not do that, it is updated.
        """
        if connection.autocommit:
            raise ValueError("an anonymization needs a transaction")
        counts: dict[str, int] = {}
        rewritten: set[TableName] = set()
        with connection.cursor() as cursor, _session(cursor):
            changed = [table for table in self.tables if table.changed]
            relations = [catalog.find(cursor, table) for table in changed]
            with _told("rows that were changed before break a constraint"):
                # A table with checks that wait for the commit, also of earlier hooks, cannot be
                # altered. From here on none waits.
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for table, relation in zip(changed, relations, strict=True):
                check()
                with (
                    _told(f"{table.label} could not be anonymized"),
                    catalog.undisturbed(cursor, relation),
                ):
                    new = statements.values(table, relation, seed=self.seed)
                    written = rewriting.rewrite(cursor, relation, new)
                    if written is None:
                        cursor.execute(statements.update(relation, new))
                        counts[table.label] = cursor.rowcount
                        # Also one that was written anew before, as the part of another.
                        rewritten.difference_update(relation.leaves)
                    else:
                        counts[table.label] = rewriting.count(cursor, relation)
                        rewritten |= written
                names = ", ".join(each.name for each in table.changed)
                note(f"{table.label}: {counts[table.label]:,} rows, {names}")
            for view in catalog.materialized_views(cursor):
                check()
                with _told(f"the rows of {view} could not be made anew"):
                    cursor.execute(f"REFRESH MATERIALIZED VIEW {view.quoted}")
                note(f"{view}: refreshed")
            with _told("that it is anonymized could not be written into the database"):
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
                evidence.write(cursor, digest=self.digest, fields=self.fields)
        return Changed(counts, frozenset(rewritten))

    def finish(self, connection: Connection, *, rewritten: Collection[TableName] = ()) -> None:
        """Removes what is left of the raw rows; to be run after the commit, in autocommit.

        That is dead rows in tables, their TOAST tables and indexes, and statistics of columns.
        ``rewritten``, of what :meth:`run` gives, are the tables that have no dead rows.
        :class:`PermissionMissing` where the role may not: it has to own the tables and, for the
        statistics, the database.
        """
        if not connection.autocommit:
            raise ValueError("what is left of raw rows is removed outside of transactions")
        with connection.cursor() as cursor:
            relations = [catalog.find(cursor, table) for table in self.tables if table.changed]
            for relation in relations:
                for leaf in relation.leaves:
                    if leaf in rewritten:
                        _analyze(cursor, leaf)
                    else:
                        _rewrite(cursor, leaf)
            # Of a parent, the statistics over all of its parts, once these are clean.
            parents = [relation.name for relation in relations if relation.has_parts]
            for name in [*parents, *catalog.materialized_views(cursor)]:
                _analyze(cursor, name)
            for name in _STATISTICS:
                _rewrite(cursor, name)


def _analyze(cursor: Any, name: TableName) -> None:
    with _told(f"{name} could not be analyzed", _STILL_THERE):
        cursor.execute(f"ANALYZE {name.quoted}")


def _rewrite(cursor: Any, name: TableName) -> None:
    """Writes a table anew. VACUUM only warns where it is not allowed, so its work is looked at."""
    before = _file(cursor, name)
    with _told(f"raw rows could not be removed from {name}", _STILL_THERE):
        cursor.execute(f"VACUUM (FULL, ANALYZE) {name.quoted}")
    if _file(cursor, name) == before:
        raise PermissionMissing(
            f"raw rows could not be removed from {name}: the role may not vacuum it",
            hint="The role has to own the table, or the database for a table of the catalog. "
            + _STILL_THERE,
        )


def _file(cursor: Any, name: TableName) -> int:
    cursor.execute("SELECT pg_relation_filenode(%s::regclass)", [name.quoted])
    return int(one_row(cursor)[0])


@contextmanager
def _session(cursor: Any) -> Iterator[None]:
    """Settings for the transaction, and back; a rollback brings them back after an error."""
    before = {}
    for name, value in _SESSION.items():
        cursor.execute("SELECT current_setting(%s), set_config(%s, %s, true)", [name, name, value])
        before[name] = one_row(cursor)[0]
    yield
    for name, value in before.items():
        cursor.execute("SELECT set_config(%s, %s, true)", [name, value])


@contextmanager
def _told(what: str, hint: str = _NOT_DONE) -> Iterator[None]:
    """Errors of the server, without the values of rows that they quote.

    Neither the detail of an error nor the error itself goes on: both would show them.
    """
    try:
        yield
    except psycopg2.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        if (error.pgcode or "").startswith(_QUOTING):
            reason = f"error {error.pgcode}, {type(error).__name__}"
        raise HookFailed(f"{what}: {reason}", hint=hint) from None
