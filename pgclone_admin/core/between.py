"""Rows on their way from one database to another: two sessions that mean the same by a value."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import Connection


def speak_alike(connection: Connection) -> None:
    """Prepares a session: values travel as text, and both sides have to mean the same by it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3;"
            " SET bytea_output = 'hex'; SET TimeZone = 'UTC';"
            # What was committed while a lock was waited for has to be seen when it is there.
            " SET default_transaction_isolation = 'read committed';"
            " SET default_transaction_read_only = off"
        )
    connection.commit()


@contextmanager
def snapshot(live: Connection) -> Iterator[Any]:
    """A transaction that sees the live database as of its first query."""
    with live.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            yield cursor
        finally:
            if not live.closed:
                live.rollback()


def pipe(there: Any, out: sql.Composable, here: Any, into: sql.Composable) -> None:
    """Copies from one connection into the other, in pieces, as they come."""
    reading, writing = os.pipe()
    failed: list[BaseException] = []

    def send() -> None:
        try:
            with os.fdopen(writing, "wb") as output:
                there.copy_expert(out, output)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)

    sender = threading.Thread(target=send, name="pgclone kept rows", daemon=True)
    sender.start()
    try:
        with os.fdopen(reading, "rb") as rows:
            here.copy_expert(into, rows)
    except psycopg2.Error:
        # What the reader then says of the end is the consequence of what has failed here.
        if not any(isinstance(error, psycopg2.Error) for error in failed):
            raise
    finally:
        sender.join()
    if failed:
        raise failed[0]
