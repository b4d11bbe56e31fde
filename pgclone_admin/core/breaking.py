"""Connections of other threads that can be broken: who waits for the server in one wakes up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2

from .connection import Connection


class Breakable:
    """The connections that are in use somewhere. Once all are broken, a new one is at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._broken = False

    @contextmanager
    def held(self, connection: Connection) -> Iterator[None]:
        """Lets the connection be broken within the block."""
        with self._lock:
            self._connections.add(connection)
            if self._broken:
                _break(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)

    def break_all(self) -> None:
        with self._lock:
            self._broken = True
            for connection in self._connections:
                _break(connection)


def _break(connection: Connection) -> None:
    """The server may not answer any more: only its socket can be relied on."""
    with (
        suppress(psycopg2.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as shared,
    ):
        shared.shutdown(socket.SHUT_RDWR)
