"""Loads the rows of tables with several COPY sessions, which take turns at one stream of rows.

One session works all the time. Another one joins while pieces queue up, that is while the server
is what everything waits for, and if nothing more urgent needs its place. A piece ends where a row
ends, so each session gets whole rows, and rows that were neighbors mostly stay it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psycopg2

from .archive import Entry, Outline
from .blocks import named
from .breaking import Breakable
from .build import IndexBuilders
from .connection import Connection, remove_session_limits
from .errors import RestoreFailed
from .judge import LoadReport, Tolerated
from .pieces import PIECE, Piece, cut
from .process import scrubbed
from .progress import Reporter
from .refusals import explained

MOST_PIECES = 8
"""Pieces that wait; with so many the server is behind."""

LOOK_EVERY = 0.5
"""Seconds between two looks at whether the restore is still wanted."""


def prepare_row_session(connection: Connection, outline: Outline) -> None:
    """Makes the session as that of pg_restore is when it loads rows."""
    try:
        remove_session_limits(connection)
        standard = "'off'" not in outline.settings.get("STDSTRINGS", "")
        settings = {
            "search_path": "",
            "client_encoding": outline.encoding,
            "standard_conforming_strings": "on" if standard else "off",
            "check_function_bodies": "off",
            "xmloption": "content",
            "client_min_messages": "warning",
            "row_security": "off",
            "synchronous_commit": "off",
        }
        with connection.cursor() as cursor:
            for name, value in settings.items():
                cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
    except psycopg2.Error as error:
        raise explained(error, "no session to load rows with can be opened") from error


@dataclass
class _Table:
    entry: Entry
    pieces: deque[Piece] = field(default_factory=deque)
    is_begun: bool = False
    has_ended: bool = False
    """Whether no more pieces come."""
    is_left_out: bool = False
    sessions: int = 0
    inside_row: _Rows | None = None
    """Who has to take the next piece."""


class RowLoader:
    """Threads with a session each, of which ``jobs`` load rows at most.

    ``connect`` opens a session and ``prepare`` makes it ready. Sessions beyond the first are lent
    by ``builders``, and nobody waits for one that is slow to come. A COPY that is refused before
    its first row with one of the ``tolerated`` errors is listed in ``report``, and its table left
    empty. Leaving the ``with`` block ends every session; a COPY under way is undone.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        prepare: Callable[[Connection], None],
        builders: IndexBuilders,
        reporter: Reporter,
        report: LoadReport,
        *,
        jobs: int,
        tolerated: Tolerated = frozenset(),
        secrets: Collection[str] = (),
    ) -> None:
        self._connect = connect
        self._prepare = prepare
        self._builders = builders
        self._changed = builders.changed
        self._reporter = reporter
        self._report = report
        self._tolerated = tolerated
        self._secrets = secrets
        self._table: _Table | None = None
        self._stopped = False
        self._failure: Exception | None = None
        self._breakable = Breakable()
        self._connecting: set[threading.Thread] = set()
        self._idle_helpers = 0
        self.most_sessions = 0
        """How many have loaded one table at the same time."""
        self._threads = [
            threading.Thread(
                target=self._work, args=(number > 0,), name=f"pgclone rows {number}", daemon=True
            )
            for number in range(jobs)
        ]

    def __enter__(self) -> Self:
        self._builders.give_way = self._wants_help
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            self._builders.give_way = lambda: False
            if error is not None:
                self._breakable.break_all()
            self._changed.notify_all()
        for thread in self._threads:
            # One that still waits for a server to answer ends by itself then, and has done nothing.
            while thread.is_alive() and thread not in self._connecting:
                thread.join(LOOK_EVERY)

    def load(self, entry: Entry, texts: Iterable[bytes]) -> int:
        """Loads the rows of one table; returns their bytes. When it returns they are committed.

        :class:`RestoreFailed` when the server refuses one; also when an index could not be built
        meanwhile.
        """
        table = _Table(entry)
        size = 0
        self._table = table
        for piece in cut(texts):
            self._wait(lambda: len(table.pieces) < MOST_PIECES)
            size += len(piece.text)
            with self._changed:
                if not table.is_left_out:
                    table.pieces.append(piece)
                    self._changed.notify_all()
        with self._changed:
            table.has_ended = True
            self._changed.notify_all()
        self._wait(lambda: not table.pieces and not table.sessions)
        self._table = None
        return size

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Until something is so; raises when something has failed meanwhile."""

        def is_over() -> bool:
            return self._failure is not None or self._builders.has_failed or condition()

        is_so = False
        while not is_so:
            self._reporter.check()
            with self._changed:
                is_so = self._changed.wait_for(is_over, LOOK_EVERY)
        if self._failure is not None:
            raise self._failure
        if self._builders.has_failed:
            self._builders.finish()

    # -- the sessions ------------------------------------------------------------------------------

    def _wants_help(self) -> bool:
        table = self._table
        return (
            table is not None
            and len(table.pieces) >= MOST_PIECES
            and table.inside_row is None
            and table.is_begun  # who helps leaves when nothing waits; only the first one stays
            and self._idle_helpers > 0
        )

    def _work(self, helps: bool) -> None:
        with ExitStack() as stack:
            connection: Connection | None = None
            while (table := self._next(helps)) is not None:
                problem: Exception | None = None
                has_joined = not helps
                try:
                    connection = connection or self._open(stack)
                    has_joined = has_joined or self._join(table)
                    if has_joined:
                        self._copy(connection, table, helps)
                except Exception as error:  # noqa: BLE001 - told to the thread that waits
                    problem = error
                with self._changed:
                    # Together: who waits for the session to leave must see why it does.
                    if problem is not None and not (helps and connection is None):
                        self._failure = self._failure or problem
                    table.sessions -= has_joined
                    if helps:
                        self._builders.take_back()
                    self._changed.notify_all()
                if problem is not None:
                    break

    def _next(self, helps: bool) -> _Table | None:
        """Waits for a table to load rows of; ``None`` at the end."""
        with self._changed:
            self._idle_helpers += helps
            while not self._stopped:
                table = self._table
                if helps:
                    may_begin = self._wants_help() and self._builders.lend()
                else:
                    may_begin = table is not None and bool(table.pieces) and not table.is_begun
                if table is not None and may_begin:
                    if not helps:
                        table.is_begun = True
                        self._count(table)
                    self._idle_helpers -= helps
                    return table
                self._changed.wait()
        return None

    def _open(self, stack: ExitStack) -> Connection:
        """A session until the end of ``stack``; the server may not even answer."""
        thread = threading.current_thread()
        self._connecting.add(thread)
        try:
            connection = self._connect()
            stack.callback(connection.close)
            stack.enter_context(self._breakable.held(connection))
        finally:
            self._connecting.discard(thread)
        self._prepare(connection)
        return connection

    def _join(self, table: _Table) -> bool:
        """Whether a session still has something to do for a table, which waits for it then."""
        with self._changed:
            if self._stopped:
                raise _Abandoned
            if table.has_ended and not table.pieces:
                return False
            self._count(table)
            return True

    def _count(self, table: _Table) -> None:
        table.sessions += 1
        self.most_sessions = max(self.most_sessions, table.sessions)

    def _copy(self, connection: Connection, table: _Table, helps: bool) -> None:
        rows = _Rows(lambda: self._take(table, rows, helps))
        refused: RestoreFailed | None = None
        try:
            with connection.cursor() as cursor:
                cursor.copy_expert(table.entry.copy, rows, PIECE)
        except psycopg2.Error as error:
            if rows.were_read or ("TABLE DATA", error.pgcode) not in self._tolerated:
                refused = self._refused(table, error)
            else:
                self._leave_out(table)
        if refused is not None:
            # Not while the error of the server is handled: it quotes the row.
            raise refused

    def _refused(self, table: _Table, error: psycopg2.Error) -> RestoreFailed:
        reason = error.diag.message_primary or str(error).strip().partition("\n")[0]
        message = f"the rows of the table {named(table.entry)} cannot be loaded: {reason}"
        return RestoreFailed(
            scrubbed(message, self._secrets), hint="The live database was not touched."
        )

    def _leave_out(self, table: _Table) -> None:
        with self._changed:
            if not table.is_left_out:
                self._report.tolerated.append(table.entry.copy.decode(errors="replace").strip())
            table.is_left_out = True
            table.pieces.clear()

    def _take(self, table: _Table, rows: _Rows, helps: bool) -> bytes:
        """The next piece of a table; empty when this session is not needed any more."""
        with self._changed:
            while True:
                if self._stopped or self._failure is not None:
                    raise _Abandoned
                may_leave = helps and table.inside_row is not rows
                if may_leave and self._builders.is_urgent:
                    return b""
                if table.pieces and table.inside_row in (None, rows):
                    piece = table.pieces.popleft()
                    table.inside_row = None if piece.ends_row else rows
                    self._changed.notify_all()
                    return piece.text
                if may_leave or (table.has_ended and not table.pieces):
                    return b""
                self._changed.wait()


class _Abandoned(Exception):
    """Ends a COPY whose rows nobody wants any more."""


class _Rows:
    """What psycopg2 reads for one COPY: a piece at a time, whatever it asks for."""

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take
        self.were_read = False

    def read(self, _size: int = -1, /) -> bytes:
        self.were_read = True
        return self._take()

    readline = read
    """Asked for by the type of the argument, and not used."""
