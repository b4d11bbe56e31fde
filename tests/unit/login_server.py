"""Just enough of a PostgreSQL server to see what a client logs in with."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

REFUSAL = "no database here"


@dataclass
class Login:
    """What one client said."""

    startup: dict[str, str] = field(default_factory=dict)
    password: str | None = None


class LoginServer:
    """Asks every client for its password in clear text, keeps it, and refuses the login.

    ``refusals`` are the fields of its errors by their letters, one for each client; the last is
    used again and again.
    """

    def __init__(self, *refusals: Mapping[str, str], encoding: str = "utf-8") -> None:
        self.logins: list[Login] = []
        errors = refusals or ({"S": "FATAL", "C": "28000", "M": REFUSAL},)
        self._refusals = itertools.chain(errors, itertools.repeat(errors[-1]))
        self._encoding = encoding
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    self._talk(connection)
                except (OSError, EOFError):
                    continue

    def _talk(self, connection: socket.socket) -> None:
        login = Login()
        startup = _message(connection)
        if startup[:4] == struct.pack("!I", 80877103):  # it asks for TLS
            connection.sendall(b"N")
            startup = _message(connection)
        words = startup[4:].rstrip(b"\0").decode().split("\0")
        login.startup = dict(zip(words[::2], words[1::2], strict=False))
        self.logins.append(login)
        connection.sendall(b"R" + struct.pack("!II", 8, 3))
        if connection.recv(1) == b"p":
            login.password = _message(connection).rstrip(b"\0").decode()
        said = "".join(f"{letter}{text}\0" for letter, text in next(self._refusals).items())
        fields = f"{said}\0".encode(self._encoding)
        connection.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)


def _message(connection: socket.socket) -> bytes:
    (length,) = struct.unpack("!I", _exactly(connection, 4))
    return _exactly(connection, length - 4)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
