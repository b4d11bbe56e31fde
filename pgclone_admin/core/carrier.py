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
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql

from .between import pipe, snapshot
from .connection import Connection, one_row
from .kept import KeptTable
from .kept_rows import (
    CAME,
    FEW_KEYS,
    all_candidates,
    all_changed,
    copy_in,
    copy_out,
    delete_keys,
    make_staging,
    names_of,
    names_of_tables,
    sequence_values,
    set_sequences,
    staging_table,
    still_there,
    take_over,
)
from .resting import rest_triggers

BATCH = 5_000
"""Rows that are looked at together when some are to be left behind."""

Keys = list[tuple[int, list[str]]]
"""Places of tables, and keys of their rows."""


class TooSlow(Exception):
    """Somebody would have to wait for too long."""


@dataclass(frozen=True)
class _State:
    """The live database at the time of the last copy."""

    horizon: str
    """The oldest transaction that was running then."""
    files: tuple[int, ...]
    """The file of each table: another one after TRUNCATE, which leaves no trace in the rows."""
    snapshot: str
    """Its name, for other sessions, as long as the transaction goes on."""
    sequences: list[tuple[int, int]]
    """Where each sequence was, and whether it was called."""


@dataclass
class Carrier:
    """The kept tables on their way.

    Its methods take connections that ``speak_alike``; ``live`` and ``temporary`` are without
    autocommit. ``past`` is a second one to the live database, with autocommit, the same one in
    every call: between two calls its transaction goes on seeing what was there at the first, and
    holds no lock on a table.
    """

    tables: Sequence[KeptTable]
    _state: _State | None = None
    _filtered: dict[int, bool] = field(default_factory=dict)
    _until: float = math.inf
    _waking: list[sql.Composable] = field(default_factory=list)

    @property
    def can_catch_up(self) -> bool:
        """Whether the rows were copied, and are known to be those of some moment."""
        return self._state is not None

    @contextmanager
    def opened(self, temporary: Connection) -> Iterator[None]:
        """A transaction on the temporary database with all that is made before writers have to
        wait: tables for what has changed; and the triggers of the site rest, as what they did was
        done when the rows were written first. It is rolled back unless rows were brought over."""
        with temporary.cursor() as here:
            try:
                self._waking = rest_triggers(here, self.tables)
                here.execute(make_staging(self.tables))
                yield
            finally:
                if not temporary.closed:
                    temporary.rollback()

    def copy(
        self,
        live: Connection,
        temporary: Connection,
        past: Connection,
        *,
        until: float = math.inf,
    ) -> None:
        """Copies all rows, as of one moment, without a lock. What was copied before is replaced.

        :class:`TooSlow` when it takes until the time ``until`` (of the monotonic clock); rows are
        then as if nothing had been copied yet.
        """
        self._state, self._until = None, until
        with snapshot(live) as there, temporary.cursor() as here:
            with self.opened(temporary):
                self._look_at_rules(there, here)
                state = self._look(there)
                self._copy_all(there, here)
                self._finish(here, state)
            self._remember(there, past, state)
        with temporary.cursor() as here:
            here.execute(sql.SQL("ANALYZE {}").format(names_of_tables(self.tables)))
        temporary.commit()

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
        the tables, and goes on, and ``temporary`` is :meth:`opened`; afterwards both databases hold
        the same rows. How often the servers are asked does not depend on the number of tables that
        have not changed. Otherwise it is done to leave less for then. :class:`TooSlow`, with
        nothing done, when it takes until the time ``until`` (of the monotonic clock).
        """
        before = self._state
        assert before is not None, "nothing was copied yet"
        self._until = until
        with (
            live.cursor() if locked else snapshot(live) as there,
            nullcontext() if locked else self.opened(temporary),
            temporary.cursor() as here,
        ):
            try:
                state = self._look(there)
                if state.files != before.files:
                    changed = self._copy_all(there, here)
                else:
                    changed = self._bring_changes(there, past, here, before, locked=locked)
                self._finish(here, state)
            except BaseException as error:
                self._forget_look(past)
                if until < math.inf and isinstance(error, psycopg2.errors.QueryCanceled):
                    raise TooSlow from error
                raise
            # Only now: had the transaction failed, the next one would have had to begin where it
            # did.
            self._remember(there, past, state)
        return changed

    def _left(self) -> int:
        """Milliseconds that writers may have to wait still, for a statement_timeout; 0 when nobody
        waits. :class:`TooSlow` when there are none."""
        if self._until == math.inf:
            return 0
        left = round((self._until - time.monotonic()) * 1000)
        if left <= 0:
            raise TooSlow
        return left

    def _execute(self, cursor: Any, statement: sql.Composable) -> None:
        """Executes statements in one go, each within the time that is left."""
        if left := self._left():
            limit = sql.SQL("SELECT set_config('statement_timeout', {}, true); ")
            statement = limit.format(sql.Literal(str(left))) + statement
        cursor.execute(statement)

    def _look(self, there: Any) -> _State:
        """One query, which also limits those that come after it in the same transaction."""
        limit = self._left()
        there.execute(
            sql.SQL(
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text, ARRAY("
                " SELECT pg_relation_filenode(oid)::bigint FROM unnest({}::oid[])"
                " WITH ORDINALITY AS kept(oid, place) ORDER BY place), pg_export_snapshot(), {}, {}"
            ).format(
                sql.Literal([table.oid for table in self.tables]),
                sequence_values(self.tables),
                sql.SQL("set_config('statement_timeout', {}, true)").format(sql.Literal(str(limit)))
                if limit
                else sql.SQL("NULL"),
            )
        )
        horizon, files, exported, sequences, _limit = one_row(there)
        return _State(
            horizon, tuple(files), exported, [(last, called) for last, called in sequences]
        )

    def _remember(self, there: Any, past: Connection, state: _State) -> None:
        """Has ``past`` see from now on what ``there`` saw when ``state`` was."""
        self._state = None
        with past.cursor() as then:
            try:
                then.execute(
                    "ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
                    " SET TRANSACTION SNAPSHOT %s; SAVEPOINT pgclone_looking_back",
                    [state.snapshot],
                )
            except psycopg2.Error:
                # A snapshot goes with the session that has it: then that is what has happened.
                there.execute("SELECT 1")
                raise
        self._state = state

    def _forget_look(self, past: Connection) -> None:
        """After a look of ``past`` at the tables it still sees what it saw, and locks nothing."""
        try:
            with past.cursor() as then:
                then.execute("ROLLBACK TO SAVEPOINT pgclone_looking_back")
        except psycopg2.Error:
            self._state = None

    def _finish(self, here: Any, state: _State) -> None:
        """Commits, with the sequences where they are in the live database, and triggers awake."""
        self._set_sequences(here, state)
        # The checks of foreign keys that wait for the end of the transaction forbid ALTER TABLE.
        end = [sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"), *self._waking]
        self._execute(here, sql.SQL("; ").join(end))
        here.connection.commit()

    def _set_sequences(self, here: Any, state: _State) -> None:
        # Not undone by a rollback: what was set before is not compared with, but set again.
        if state.sequences:
            self._execute(here, set_sequences(self.tables, state.sequences))

    # -- the whole

    def _copy_all(self, there: Any, here: Any) -> int:
        self._execute(here, sql.SQL("TRUNCATE {}").format(names_of_tables(self.tables)))
        return sum(self._copy_table(there, here, table) for table in self.tables)

    def _look_at_rules(self, there: Any, here: Any) -> None:
        self._filtered = {
            table.oid: table.rule is not None and table.rule.prepare(there, here)
            for table in self.tables
        }

    def _copy_table(self, there: Any, here: Any, table: KeptTable) -> int:
        self._left()
        pipe(there, copy_out(table), here, copy_in(table.identifier, table.columns))
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
                self._left()
                width = len(table.key)
                gone = [row[:width] for row in batch if table.rule.is_left_behind(row[width:])]
                if gone:
                    self._execute(
                        here,
                        sql.SQL("DELETE FROM {} AS t WHERE ({}) IN {}").format(
                            table.identifier, names_of(table.key, "t"), sql.Literal(tuple(gone))
                        ),
                    )

    # -- the changes

    def _bring_changes(
        self, there: Any, past: Connection, here: Any, before: _State, *, locked: bool
    ) -> int:
        came = copy_in(CAME, ("place", "line"))
        with ThreadPoolExecutor(1) as at_once, past.cursor() as then:
            # Each looks through the whole tables, in a session of its own.
            first = at_once.submit(self._first_candidates, then, before.horizon)
            try:
                pipe(there, all_changed(self.tables, before.horizon), here, came)
                changed = int(here.rowcount)
                whole, gone = self._delete_missing(there, here, then, first.result())
            except BaseException:
                # Otherwise its end would be waited for, while writers wait for ours.
                with suppress(psycopg2.Error):
                    past.cancel()
                raise
        counts: dict[int, int] = {}
        if changed:
            self._execute(
                here, sql.SQL("SELECT place, count(*) FROM {} GROUP BY place").format(CAME)
            )
            counts = dict(here.fetchall())
        for place, table in enumerate(self.tables):
            if not table.key and (place in counts or place in whole):
                # Without a key nobody can say which row is which.
                self._execute(here, sql.SQL("TRUNCATE {}").format(table.identifier))
                gone += self._copy_table(there, here, table)
            elif place in counts:
                self._take_over(here, table, place, analyze=not locked)
        return changed + gone

    def _first_candidates(self, then: Any, horizon: str) -> Keys:
        declare = sql.SQL(
            "DECLARE pgclone_keys NO SCROLL CURSOR FOR {}; FETCH {} FROM pgclone_keys"
        )
        candidates = all_candidates(self.tables, horizon)
        # It waits behind whoever waits for our lock, and the server does not know that we wait for
        # it: no longer than there is time.
        self._execute(then, declare.format(candidates, sql.Literal(FEW_KEYS)))
        keys: Keys = then.fetchall()
        return keys

    def _delete_missing(
        self, there: Any, here: Any, then: Any, candidates: Keys
    ) -> tuple[set[int], int]:
        """Deletes those rows that the live database has no longer; ``candidates`` are the first
        keys to look at. Returns the tables without a key that have lost rows, by their places, and
        how many rows were deleted."""
        deleted, whole = 0, set()
        while candidates:
            keys: dict[int, list[tuple[str, ...]]] = {}
            for place, key in candidates:
                if self.tables[place].key:
                    keys.setdefault(place, []).append(tuple(key))
                else:
                    whole.add(place)
            for place, of_table in keys.items():
                table = self.tables[place]
                self._execute(there, still_there(table, of_table))
                if gone := set(of_table) - set(there.fetchall()):
                    self._execute(here, delete_keys(table, sorted(gone)))
                    deleted += len(gone)
            if len(candidates) < FEW_KEYS:
                break
            self._execute(then, sql.SQL("FETCH {} FROM pgclone_keys").format(sql.Literal(FEW_KEYS)))
            candidates = then.fetchall()
        return whole, deleted

    def _take_over(self, here: Any, table: KeptTable, place: int, *, analyze: bool) -> None:
        self._execute(here, take_over(table, place, analyze=analyze))
        self._leave_behind(here, table, staging_table(place))
