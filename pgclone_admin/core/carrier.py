"""Brings the rows of the kept tables from the live database to the temporary one.

Everything is copied while the site goes on writing. Later, in a moment in which it may not write,
only what has changed since is brought over:

- A row that was inserted or updated has an ``xmin`` that is not older than the oldest transaction
  that was running when the copy began. (Some rows that are older have one too: they come twice.)
- A row that was deleted is still there for a session whose snapshot is as old as the copy, and has
  an ``xmax``. (So have rows that were updated or locked, which the live database still has.)

Both take one look at each row and no sorting, hashing or comparing: a million rows are looked at in
some tenths of a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql

from .between import pipe, snapshot
from .catalog import ENABLE
from .connection import Connection, one_row
from .kept import KeptTable
from .kept_rows import (
    FEW_KEYS,
    copy_in,
    copy_out,
    first_candidates,
    is_among,
    keys_as_text,
    names_of,
    same_key,
    staging_table,
)

BATCH = 5_000
"""Rows that are looked at together when some are to be left behind."""


class TooSlow(Exception):
    """Somebody would have to wait for too long."""


@dataclass(frozen=True)
class _State:
    """The live database at the time of the last copy."""

    horizon: str
    """The oldest transaction that was running then."""
    files: dict[int, int]
    """The file of each table: another one after TRUNCATE, which leaves no trace in the rows."""


@dataclass
class Carrier:
    """The kept tables on their way.

    Its methods take connections without autocommit that ``speak_alike``. ``past`` is a second one
    to the live database, the same one in every call: between two calls its transaction goes on
    seeing what was there at the first, and holds no lock on a table.
    """

    tables: Sequence[KeptTable]
    _state: _State | None = None
    _filtered: dict[int, bool] = field(default_factory=dict)
    _until: float = math.inf

    @property
    def can_catch_up(self) -> bool:
        """Whether the rows were copied, and are known to be those of some moment."""
        return self._state is not None

    def copy(self, live: Connection, temporary: Connection, past: Connection) -> None:
        """Copies all rows, as of one moment, without a lock. What was copied before is replaced."""
        self._state = None
        with snapshot(live) as there:
            with self._target(temporary) as here:
                self._look_at_rules(there, here)
                state = self._look_at_tables(there)
                self._copy_all(there, here)
                self._set_sequences(there, here)
            self._remember(there, past, state)
        with self._target(temporary) as here:
            for table in self.tables:
                here.execute(sql.SQL("ANALYZE {}").format(table.identifier))

    def catch_up(
        self,
        live: Connection,
        temporary: Connection,
        past: Connection,
        *,
        locked: bool = False,
        until: float = math.inf,
    ) -> int:
        """Brings over what has changed since the last call; returns the number of rows.

        With ``locked`` the transaction of ``live`` holds locks by which nobody else can write to
        the tables, and goes on; afterwards both databases hold the same rows. Otherwise it is done
        to leave less for then. :class:`TooSlow`, with nothing done, when it takes until the time
        ``until`` (of the monotonic clock) or a ``statement_timeout`` is over.
        """
        before = self._state
        assert before is not None, "nothing was copied yet"
        self._until = until
        with live.cursor() if locked else snapshot(live) as there:
            try:
                with self._target(temporary) as here:
                    state = self._look_at_tables(there)
                    if state.files != before.files:
                        changed = self._copy_all(there, here)
                    else:
                        changed = sum(
                            self._catch_up(there, past, here, table, before.horizon)
                            for table in self.tables
                        )
                    self._set_sequences(there, here)
            except psycopg2.errors.QueryCanceled as error:
                if locked:
                    raise TooSlow from error
                raise
            # Only now: had the transaction failed, the next one would have had to begin where it
            # did.
            self._remember(there, past, state)
        return changed

    @contextmanager
    def _target(self, temporary: Connection) -> Iterator[Any]:
        """A transaction on the temporary database, in which the triggers of the site rest: what
        they did was done when the rows were written first."""
        with temporary.cursor() as cursor:
            try:
                with _resting_triggers(cursor, self.tables):
                    yield cursor
                temporary.commit()
            finally:
                if not temporary.closed:
                    temporary.rollback()

    def _look_at_tables(self, there: Any) -> _State:
        there.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text")
        horizon = str(one_row(there)[0])
        there.execute(
            "SELECT oid::bigint, pg_relation_filenode(oid)::bigint FROM pg_class"
            " WHERE oid = ANY(%s::oid[])",
            [[table.oid for table in self.tables]],
        )
        return _State(horizon, dict(there.fetchall()))

    def _remember(self, there: Any, past: Connection, state: _State) -> None:
        """Has ``past`` see from now on what ``there`` sees."""
        self._state = None
        there.execute("SELECT pg_export_snapshot()")
        snapshot = one_row(there)[0]
        past.rollback()
        with past.cursor() as then:
            then.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            then.execute("SET TRANSACTION SNAPSHOT %s", [snapshot])
        self._state = state

    # -- the whole

    def _copy_all(self, there: Any, here: Any) -> int:
        self._empty(here)
        return sum(self._copy_table(there, here, table) for table in self.tables)

    def _look_at_rules(self, there: Any, here: Any) -> None:
        self._filtered = {
            table.oid: table.rule is not None and table.rule.prepare(there, here)
            for table in self.tables
        }

    def _empty(self, here: Any) -> None:
        if self.tables:
            names = sql.SQL(", ").join(table.identifier for table in self.tables)
            here.execute(sql.SQL("TRUNCATE {}").format(names))

    def _copy_table(self, there: Any, here: Any, table: KeptTable) -> int:
        into = copy_in(table.identifier, table.columns)
        pipe(there, copy_out(table, table.columns), here, into)
        count = int(here.rowcount)
        self._leave_behind(here, table, table.identifier)
        return count

    def _leave_behind(self, here: Any, table: KeptTable, source: sql.Composable) -> None:
        """Deletes those rows of the table that its rule does not let come along.

        ``source`` is where to look: the table itself, or the rows that have just come.
        """
        if not self._filtered[table.oid] or table.rule is None:
            return
        columns = (*table.key, *table.rule.columns)
        query = sql.SQL("SELECT {} FROM {}").format(names_of(columns), source)
        with here.connection.cursor(name="pgclone_rows") as rows:
            rows.itersize = BATCH
            rows.execute(query)
            while batch := rows.fetchmany(BATCH):
                width = len(table.key)
                gone = [row[:width] for row in batch if table.rule.is_left_behind(row[width:])]
                if gone:
                    here.execute(
                        sql.SQL("DELETE FROM {} AS t WHERE ({}) IN {}").format(
                            table.identifier, names_of(table.key, "t"), sql.Literal(tuple(gone))
                        )
                    )

    def _set_sequences(self, there: Any, here: Any) -> None:
        for table in self.tables:
            for sequence in table.sequences:
                name = sql.Identifier(sequence.schema, sequence.name)
                there.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(name))
                here.execute(
                    "SELECT setval(%s::regclass, %s, %s)", [sequence.quoted, *one_row(there)]
                )

    # -- the changes

    def _catch_up(
        self, there: Any, past: Connection, here: Any, table: KeptTable, horizon: str
    ) -> int:
        if not table.key:
            # Without a key nobody can say which row is which.
            here.execute(sql.SQL("TRUNCATE {}").format(table.identifier))
            return self._copy_table(there, here, table)
        staged = staging_table(here, table)
        out = copy_out(table, table.columns, since=horizon)
        with (
            self._looking_back(past),
            past.cursor(name="pgclone_keys") as candidates,
            ThreadPoolExecutor(1) as at_once,
        ):
            # Each looks through the whole table, in a session of its own.
            first = at_once.submit(first_candidates, candidates, table, horizon)
            try:
                pipe(there, out, here, copy_in(staged, table.columns))
                changed = int(here.rowcount)
                gone = self._delete_missing(there, here, table, first.result(), candidates)
            except BaseException:
                # Otherwise its end would be waited for, while writers wait for ours.
                with suppress(psycopg2.Error):
                    past.cancel()
                raise
        if changed:
            self._take_over(here, table, staged)
        return changed + gone

    @contextmanager
    def _looking_back(self, past: Connection) -> Iterator[None]:
        """A look of ``past`` at a table, after which it still sees what it saw.

        No longer than until the end of the time: it waits behind whoever waits for our lock, and
        the server does not know that we wait for it.
        """
        with past.cursor() as cursor:
            cursor.execute("SAVEPOINT pgclone_looking_back")
            if self._until < math.inf:
                left = max(1, round((self._until - time.monotonic()) * 1000))
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(left)])
            try:
                yield
            except BaseException:
                try:
                    cursor.execute("ROLLBACK TO SAVEPOINT pgclone_looking_back")
                except psycopg2.Error:
                    self._state = None
                raise

    def _delete_missing(
        self, there: Any, here: Any, table: KeptTable, keys: list[Any], candidates: Any
    ) -> int:
        """Deletes those rows that the live database has no longer; ``keys`` are the first."""
        deleted = 0
        while keys:
            if time.monotonic() > self._until:
                raise TooSlow
            there.execute(
                sql.SQL("SELECT {} FROM {} AS t WHERE {} AND ({})").format(
                    keys_as_text(table),
                    table.identifier,
                    is_among(table, keys),
                    sql.SQL(table.condition),
                )
            )
            if gone := set(keys) - set(there.fetchall()):
                here.execute(
                    sql.SQL("DELETE FROM {} AS t WHERE {}").format(
                        table.identifier, is_among(table, sorted(gone))
                    )
                )
                deleted += len(gone)
            keys = candidates.fetchmany(FEW_KEYS)
        return deleted

    def _take_over(self, here: Any, table: KeptTable, staged: sql.Composable) -> None:
        others = [column for column in table.columns if column not in table.key]
        if others:
            here.execute(
                sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}").format(
                    table.identifier,
                    sql.SQL(", ").join(
                        sql.SQL("{} = s.{}").format(sql.Identifier(c), sql.Identifier(c))
                        for c in others
                    ),
                    staged,
                    same_key(table, "s"),
                )
            )
        here.execute(
            sql.SQL(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s"
                " WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})"
            ).format(
                table.identifier,
                names_of(table.columns),
                names_of(table.columns, "s"),
                staged,
                table.identifier,
                same_key(table, "s"),
            )
        )
        self._leave_behind(here, table, staged)


@contextmanager
def _resting_triggers(cursor: Any, tables: Sequence[KeptTable]) -> Iterator[None]:
    """Without the triggers of the tables; an error rolls their rest back, too."""
    woken: list[sql.Composable] = []
    for table in tables:
        cursor.execute(
            "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = %s::regclass"
            " AND NOT tgisinternal AND tgenabled <> 'D'",
            [table.name.quoted],
        )
        for name, mode in cursor.fetchall():
            statement = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
            trigger = sql.Identifier(name)
            cursor.execute(statement.format(table.identifier, sql.SQL("DISABLE"), trigger))
            woken.append(statement.format(table.identifier, sql.SQL(ENABLE[mode]), trigger))
    yield
    # The checks of foreign keys that wait for the end of the transaction forbid ALTER TABLE.
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for wake in woken:
        cursor.execute(wake)
