"""A proxy in front of a PostgreSQL server that writes down what its clients ask, in order.

>>> with CountingProxy(server.port) as proxy:  # doctest: +SKIP
...     params = server.params("postgres", port=str(proxy.port))
...     proxy.queries  # one for each way to the server and back, of all connections
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

CHUNK = 64 * 1024
STARTUP = 8
"""Bytes of a packet that has no type: its length, and which one it is."""
ASKS_FOR_ENCRYPTION = {80877103, 80877104}
CANCELS = 80877102


class CountingProxy:
    """Forwards connections to ``port`` of this machine, without TLS, until the block ends."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listening.getsockname()[1]
        self.queries: list[str] = []
        """What was sent as a simple query, which is all that psycopg2 sends."""
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> CountingProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connection in self._open:
            connection.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                return
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open += [client, server]
            self._start(self._forward, client, server, _Reader(self._note))
            self._start(self._forward, server, client, None)

    def _note(self, query: str) -> None:
        with self._lock:
            self.queries.append(query)

    def _forward(
        self, source: socket.socket, target: socket.socket, reader: _Reader | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if reader is not None:
                    reader.feed(data)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class _Reader:
    """Finds the queries in what one client sends."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._pending = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._pending += data
        while (message := self._next()) is not None:
            kind, body = message
            if kind == b"Q":
                self._note(body.rstrip(b"\0").decode(errors="replace").strip())

    def _next(self) -> tuple[bytes, bytes] | None:
        typed = 1 if self._started else 0
        if len(self._pending) < typed + 4:
            return None
        (length,) = struct.unpack_from("!I", self._pending, typed)
        if len(self._pending) < typed + length:
            return None
        kind, body = self._pending[:typed], self._pending[typed + 4 : typed + length]
        self._pending = self._pending[typed + length :]
        if not self._started and length >= STARTUP:
            (code,) = struct.unpack_from("!I", body)
            self._started = code not in ASKS_FOR_ENCRYPTION | {CANCELS}
        return kind, body
