"""The connection of SQL and Python hooks: one transaction, which none of them ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from ..core.connection import one_row, remove_session_limits
from ..core.errors import TransactionControl
from ..core.statements import refuse_transaction_control, require_standard_strings, split
from ..databases import site_params

WHY = "Everything that hooks do before a swap is undone when a later one fails."


def _refuse(what: str) -> NoReturn:
    raise TransactionControl(f"a hook may not call {what}", hint=WHY)


class HookCursor(psycopg2.extensions.cursor):
    """Refuses what would end the transaction; takes and returns what psycopg 3's cursors do."""

    def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002 - psycopg2's own name
        super().execute(self._checked(query), vars)
        return self

    def executemany(self, query: Any, vars_list: Any) -> None:
        super().executemany(self._checked(query), vars_list)

    def _checked(self, query: Any) -> Any:
        if hasattr(query, "as_string"):
            # psycopg2 takes only what it has composed itself.
            query = text_of(query, self)
        check_query(query, self)
        return query


class HookConnection(psycopg2.extensions.connection):
    """A psycopg2 connection in a transaction that its owner ends; with psycopg 3's ``execute``."""

    def cursor(
        self,
        name: Any = None,
        cursor_factory: Any = None,
        withhold: bool = False,
        scrollable: bool | None = None,
    ) -> Any:
        """A cursor of the class that the hook asks for, which refuses what a HookCursor does."""
        own: Any = self.cursor_factory  # None until somebody sets it
        wanted = cursor_factory or own or HookCursor
        if not isinstance(wanted, type):
            _refuse("connection.cursor() with a cursor_factory that is no class")
        if not issubclass(wanted, HookCursor):
            # Its own methods call those of HookCursor's base, after HookCursor has looked.
            wanted = type(wanted.__name__, (HookCursor, wanted), {})
        return super().cursor(name, wanted, withhold=withhold, scrollable=scrollable)

    def execute(self, query: Any, params: Any = None) -> psycopg2.extensions.cursor:
        cursor: psycopg2.extensions.cursor = self.cursor().execute(query, params)
        return cursor

    def commit(self) -> None:
        _refuse("connection.commit()")

    def rollback(self) -> None:
        _refuse("connection.rollback()")

    def set_session(self, *_args: Any, **_keywords: Any) -> None:
        _refuse("connection.set_session()")

    def set_isolation_level(self, *_args: Any) -> None:
        _refuse("connection.set_isolation_level()")

    def tpc_begin(self, *_args: Any) -> None:
        _refuse("connection.tpc_begin()")

    def reset(self) -> None:
        _refuse("connection.reset()")

    def __enter__(self) -> NoReturn:
        # Leaving such a block would commit.
        _refuse("with connection")

    @property
    def autocommit(self) -> bool:
        return False

    @autocommit.setter
    def autocommit(self, _value: bool) -> None:
        _refuse("connection.autocommit = ...")

    def end(self, *, commit: bool) -> None:
        """Ends the transaction; for the owner of the connection."""
        if commit:
            super().commit()
        else:
            super().rollback()


def check_query(query: Any, context: Any) -> None:
    """:class:`TransactionControl` for a query that would end the transaction or begin one."""
    require_standard_strings(getattr(context, "connection", context))
    for statement in split(text_of(query, context)):
        refuse_transaction_control(statement)


def text_of(query: Any, context: Any) -> str:
    """The SQL in a text, in bytes, or in what ``psycopg2.sql`` or ``psycopg.sql`` compose."""
    if isinstance(query, bytes):
        return query.decode()
    if isinstance(query, sql.Composable):
        return str(query.as_string(context))
    if hasattr(query, "as_string"):
        # psycopg 3 composes by itself where it is given no connection of its own.
        return str(query.as_string(None))
    return str(query)


def is_composed(query: Any) -> bool:
    """Whether values and names stand in the query already: a brace in them is no placeholder.

    A bare ``SQL`` is a text that nothing was put into yet. It is known by its name, as only one of
    the two modules that compose need be there.
    """
    return hasattr(query, "as_string") and type(query).__name__ != "SQL"


class Transaction:
    """One transaction for hooks in a row, and the proof that it is still the same one."""

    def __init__(self, connection: HookConnection) -> None:
        self.connection = connection
        self._number = self._current()

    def check(self, name: str) -> None:
        """:class:`TransactionControl` when the hook has ended the transaction all the same."""
        try:
            same = self._current() == self._number
        except psycopg2.InterfaceError as error:
            raise TransactionControl(f'the hook "{name}" has closed its connection') from error
        if not same:
            raise TransactionControl(f'the hook "{name}" has ended the transaction', hint=WHY)

    def _current(self) -> int:
        with psycopg2.extensions.connection.cursor(
            self.connection, cursor_factory=psycopg2.extensions.cursor
        ) as cursor:
            cursor.execute("SELECT pg_catalog.txid_current()")
            return int(one_row(cursor)[0])


@contextmanager
def transaction(alias: str, name: str) -> Iterator[Transaction]:
    """A transaction on the database ``name`` with the site's own role: committed at the end of the
    block, undone by any error, also by the death of this process."""
    params = site_params(alias, name)
    connection = params.connect(autocommit=False, factory=HookConnection)
    assert isinstance(connection, HookConnection)
    try:
        connection.execute("SET standard_conforming_strings = on")
        remove_session_limits(connection)
        yield Transaction(connection)
        connection.end(commit=True)
    finally:
        connection.close()
