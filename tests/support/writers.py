"""Clients that write to kept tables, and remember what they were told is there.

What a client was told counts: a row whose commit has returned must be there afterwards, changed or
deleted as the last commit said. A commit that broke may have happened or not; both are right then,
and nobody touches that row again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extensions

Connect = Callable[[], psycopg2.extensions.connection]

TABLES = """
CREATE TABLE kept_queue (
    id bigserial PRIMARY KEY, writer integer NOT NULL, number integer NOT NULL,
    value integer NOT NULL, UNIQUE (writer, number)
);
CREATE TABLE kept_login (key varchar(40) PRIMARY KEY, value integer NOT NULL);
CREATE TABLE kept_line (line text, value integer NOT NULL);
"""
"""With a key from a sequence, with a key of text, and without a key."""


@dataclass(frozen=True)
class Shape:
    """How one table is written and read; a row is called "<writer>/<number>"."""

    insert: str
    update: str
    delete: str
    select: str


def _by_name(table: str, key: str, value: str = "value", more: str = "") -> Shape:
    return Shape(
        f"INSERT INTO {table} ({key}, {value}{', ' if more else ''}{more.partition(' = ')[0]})"
        f" VALUES (%(name)s, %(value)s{', ' if more else ''}{more.partition(' = ')[2]})",
        f"UPDATE {table} SET {value} = %(value)s WHERE {key} = %(name)s",
        f"DELETE FROM {table} WHERE {key} = %(name)s",
        f"SELECT {key}, {value}::integer FROM {table} WHERE {key} LIKE '%/%'",
    )


SHAPES = {
    "kept_queue": Shape(
        "INSERT INTO kept_queue (writer, number, value) VALUES (%(writer)s, %(number)s, %(value)s)",
        "UPDATE kept_queue SET value = %(value)s WHERE writer = %(writer)s AND number = %(number)s",
        "DELETE FROM kept_queue WHERE writer = %(writer)s AND number = %(number)s",
        "SELECT writer || '/' || number, value FROM kept_queue",
    ),
    "kept_login": _by_name("kept_login", "key"),
    "kept_line": _by_name("kept_line", "line"),
    "django_session": _by_name(
        "django_session", "session_key", "session_data", "expire_date = now() + interval '9 days'"
    ),
}

NAMES = ("kept_queue", "kept_login", "kept_line")

LONG = 0.02
"""Seconds from which on a wait is noted."""

CONNECTION_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)


@dataclass(frozen=True)
class Change:
    """One statement, and what there is under a name after it (None: no row)."""

    statement: str
    values: Mapping[str, object]
    key: str
    value: int | None


@dataclass
class Ledger:
    """What one client was told."""

    told: dict[str, int | None] = field(default_factory=dict)
    doubtful: dict[str, set[int | None]] = field(default_factory=dict)
    acknowledged: int = 0
    surprises: list[str] = field(default_factory=list)
    """Errors that no swap explains, and rows that were missing while it was still at work."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end (of the monotonic clock) of what took long, reconnecting included."""

    def acknowledge(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.told[change.key] = change.value
        self.acknowledged += len(changes)

    def doubt(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.doubtful[change.key] = {self.told.pop(change.key, None), change.value}


class Writers:
    """Threads that insert, update and delete without a pause until the block ends.

    ``staying`` clients keep their connection and come back when it is taken away, ``returning``
    ones connect for every transaction.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        staying: int = 0,
        returning: int = 0,
        tables: Sequence[str] = NAMES,
        pause: float = 0.001,
    ) -> None:
        self._connect = connect
        self._tables = tables
        self._pause = pause
        self._stop = threading.Event()
        self.ledgers = [Ledger() for _ in range(staying + returning)]
        self._threads = [
            threading.Thread(
                target=self._work, args=(number, ledger, number < staying), daemon=True
            )
            for number, ledger in enumerate(self.ledgers)
        ]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        self.wait_for(2 * len(self._threads))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> int:
        """Writes whose commit has returned."""
        return sum(ledger.acknowledged for ledger in self.ledgers)

    def wait_for(self, more: int, seconds: float = 60) -> None:
        """Returns when so many more writes were acknowledged."""
        wanted = self.acknowledged + more
        until = time.monotonic() + seconds
        while self.acknowledged < wanted:
            assert time.monotonic() < until, "the clients cannot write any more"
            time.sleep(0.005)

    def problems(self) -> list[str]:
        """What was lost, what has come back, and what should not have happened.

        To be asked when nobody writes any more.
        """
        found: list[str] = []
        with contextlib.closing(self._connect()) as connection:
            present = contents(connection, self._tables)
        known: set[str] = set()
        for ledger in self.ledgers:
            found += ledger.surprises
            known |= ledger.told.keys() | ledger.doubtful.keys()
            for key, value in ledger.told.items():
                if present.get(key) != value:
                    found.append(f"{key} should be {value}, and is {present.get(key)}")
            for key, values in ledger.doubtful.items():
                if present.get(key) not in values:
                    found.append(f"{key} should be one of {values}, and is {present.get(key)}")
        found += [f"{key} was never written" for key in present.keys() - known]
        return found

    # -- one client

    def _work(self, number: int, ledger: Ledger, stays: bool) -> None:
        client = _Client(number, ledger, self._tables)
        connection: psycopg2.extensions.connection | None = None
        while not self._stop.is_set():
            changes = client.next_changes()
            started = time.monotonic()
            while not self._stop.is_set():
                done, connection = self._try(ledger, changes, connection)
                if done:
                    break
            ended = time.monotonic()
            if ended - started > LONG:
                ledger.waits.append((started, ended))
            if connection is not None and not stays:
                connection.close()
                connection = None
            # Connecting costs both sides ten times as much as writing.
            time.sleep(self._pause if stays else 10 * self._pause)
        if connection is not None:
            connection.close()

    def _try(
        self,
        ledger: Ledger,
        changes: Sequence[Change],
        connection: psycopg2.extensions.connection | None,
    ) -> tuple[bool, psycopg2.extensions.connection | None]:
        """Whether the changes need not be tried again, and the connection if it still is one."""
        if connection is None:
            try:
                connection = self._connect()
            except CONNECTION_LOST:
                time.sleep(0.01)
                return False, None
            connection.autocommit = False
        committing = False
        try:
            with connection.cursor() as cursor:
                for change in changes:
                    cursor.execute(change.statement, change.values)
                    if cursor.rowcount != 1:
                        ledger.surprises.append(f"{change.key} was not there any more")
            committing = True
            connection.commit()
        except CONNECTION_LOST:
            # Before the commit was sent nothing can have happened.
            if committing:
                ledger.doubt(changes)
            connection.close()
            return committing, None
        except psycopg2.Error as error:
            ledger.surprises.append(f"{type(error).__name__}: {error}")
            connection.close()
            return True, None
        ledger.acknowledge(changes)
        return True, connection


class _Client:
    """Thinks of what to write next."""

    def __init__(self, number: int, ledger: Ledger, tables: Sequence[str]) -> None:
        self._number = number
        self._ledger = ledger
        self._tables = tables
        self._count = 0
        self._random = random.Random(number)

    def next_changes(self) -> list[Change]:
        """One transaction: an insert or two, or a change to something of one's own."""
        self._count += 1
        turn = self._count % 8
        if turn in (3, 5) and (key := self._something_told()):
            return [self._change("update" if turn == 3 else "delete", key)]
        table = self._tables[turn % len(self._tables)]
        changes = [self._change("insert", f"{table} {self._number}/{self._count}")]
        if turn == 7 and len(self._tables) > 1:
            other = self._tables[(turn + 1) % len(self._tables)]
            changes.append(self._change("insert", f"{other} {self._number}/{self._count}"))
        return changes

    def _something_told(self) -> str | None:
        """Mostly something new: that is what a swap may lose."""
        told = self._ledger.told
        keys = [key for key in itertools.islice(reversed(told), 60) if told[key] is not None]
        return self._random.choice(keys) if keys else None

    def _change(self, what: str, key: str) -> Change:
        table, _, name = key.partition(" ")
        writer, number = name.split("/")
        values = {
            "name": name,
            "writer": int(writer),
            "number": int(number),
            "value": self._count,
        }
        return Change(
            getattr(SHAPES[table], what), values, key, None if what == "delete" else self._count
        )


def contents(connection: Any, tables: Sequence[str] = NAMES) -> dict[str, int]:
    """All rows of the tables by the names that a `Change` has for them."""
    found: dict[str, int] = {}
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(SHAPES[table].select)
            for name, value in cursor.fetchall():
                assert f"{table} {name}" not in found, f"{table} {name} is there twice"
                found[f"{table} {name}"] = value
    return found
