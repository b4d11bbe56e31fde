"""A pooler in session mode: each client has one session of the server, under a made-up number.

>>> with SessionPooler(server) as pooler:  # doctest: +SKIP
...     project.settings["PGCLONE_CONNECTIONS"] = {"default": {"PORT": str(pooler.port)}}
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading

from .postgres import PostgresServer

CANCEL, SSL, GSS = 80877102, 80877103, 80877104
"""Codes of the messages that a client may begin with instead of a startup message."""

FIRST_NUMBER = 900_000


class SessionPooler:
    """Listens on ``port`` and passes everything on, but for the number of the server's process that
    a client is told. It takes that number back when a statement is to be cancelled."""

    def __init__(self, server: PostgresServer) -> None:
        self._address = (server.host, server.port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listening.getsockname()[1]
        self._numbers = itertools.count(FIRST_NUMBER)
        self._pids: dict[int, int] = {}
        self._open: set[socket.socket] = set()

    def __enter__(self) -> SessionPooler:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            first = self._first_message(client)
            with socket.create_connection(self._address) as server:
                self._open |= {client, server}
                server.sendall(first)
                threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
                self._tell_other_number(server, client)
                _pass_on(server, client)
        self._open.discard(client)

    def _first_message(self, client: socket.socket) -> bytes:
        """The startup message, or a cancel request with the number of the server."""
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!II", head)
            if code in (SSL, GSS):
                client.sendall(b"N")
                continue
            rest = _exactly(client, length - 8)
            if code == CANCEL:
                (number,) = struct.unpack("!I", rest[:4])
                return head + struct.pack("!I", self._pids[number]) + rest[4:]
            return head + rest

    def _tell_other_number(self, server: socket.socket, client: socket.socket) -> None:
        """Passes on what comes until the server is ready for a statement."""
        kind = b""
        while kind != b"Z":
            head = _exactly(server, 5)
            kind = head[:1]
            body = _exactly(server, struct.unpack("!I", head[1:])[0] - 4)
            if kind == b"K":
                number = next(self._numbers)
                (self._pids[number],) = struct.unpack("!I", body[:4])
                body = struct.pack("!I", number) + body[4:]
            client.sendall(head + body)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = source.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return data


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
