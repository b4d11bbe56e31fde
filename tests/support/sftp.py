"""An SFTP server on 127.0.0.1: OpenSSH's own, behind an SSH transport that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

from . import processes

PROGRAM = Path("/usr/lib/openssh/sftp-server")

USER, PASSWORD = "keeper", "canary-of-sftp-1f0c"

BLOCK = 32 * 1024


class SftpServer:
    """Serves directories of this machine to :data:`USER`, to any number of clients."""

    def __init__(self) -> None:
        self._key = paramiko.ECDSAKey.generate()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self._rules: list[Callable[[_Connection], bool]] = []
        self.sent = 0
        """Bytes of answers, over all connections."""
        self.taken = 0
        """Bytes of requests, over all connections."""
        self.connections = 0
        """How many were made."""
        self.kilobytes = 0
        """The largest file that is taken, if there is one."""
        self._refusals = 0
        self._refused = 0
        threading.Thread(target=self._accept, daemon=True, name="sftp").start()

    def storage_options(self, root: Path) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "root_path": str(root),
            "known_host_file": "/nonexistent/known_hosts",
            "params": {
                "port": self.port,
                "username": USER,
                "password": PASSWORD,
                "allow_agent": False,
                "look_for_keys": False,
            },
        }

    def cut_answers(self, after: int, times: int = 1) -> None:
        """Break the connection once it has answered with so many bytes; the next ones, too."""
        self._cut(lambda connection: connection.sent >= after, times)

    def cut_requests(self, after: int, times: int = 1) -> None:
        """Break the connection once it was asked with so many bytes."""
        self._cut(lambda connection: connection.taken >= after, times)

    def cut_at_rename(self, *, done: bool) -> None:
        """Break the connection when a file is to be renamed, or when it was and nobody knows."""
        self._rules.append(lambda connection: connection.renames(done=done))

    def _cut(self, is_due: Callable[[_Connection], bool], times: int) -> None:
        self._rules.extend([is_due] * times)

    @contextlib.contextmanager
    def refuses_after_a_cut(self, times: int = 1_000_000) -> Iterator[None]:
        """Who was cut off finds no server any more, so many times."""
        self._refusals = times
        try:
            yield
        finally:
            self._refusals = self._refused = 0

    @contextlib.contextmanager
    def with_room_for(self, *, kilobytes: int) -> Iterator[None]:
        """Connections that begin in the block cannot write larger files."""
        self.kilobytes = kilobytes
        try:
            yield
        finally:
            self.kilobytes = 0

    @property
    def open_connections(self) -> int:
        return sum(connection.is_open for connection in self._connections)

    def check(self, connection: _Connection) -> None:
        """Cut this connection if it is time; a rule is used once."""
        with self._lock:
            if connection.is_open and self._rules and self._rules[0](connection):
                del self._rules[0]
                self._refused = self._refusals
                connection.cut()

    def clear(self) -> None:
        self._rules.clear()
        for connection in self._connections:
            connection.cut()
        self._connections.clear()
        self.sent = self.taken = self.connections = 0

    def close(self) -> None:
        self._socket.close()
        self.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._socket.accept()
            except OSError:
                return
            if self._refused:
                self._refused -= 1
                client.close()
                continue
            transport = paramiko.Transport(client)
            transport.add_server_key(self._key)
            self.connections += 1
            connection = _Connection(self, transport)
            self._connections.append(connection)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=connection)


class _Connection(paramiko.ServerInterface):
    def __init__(self, server: SftpServer, transport: paramiko.Transport) -> None:
        self._server = server
        self._transport = transport
        self._process: subprocess.Popen[bytes] | None = None
        self.sent = 0
        self.taken = 0
        self._asked = b""
        self._keeps_answer = False

    def check_auth_password(self, username: str, password: str) -> int:
        is_known = (username, password) == (USER, PASSWORD)
        return paramiko.AUTH_SUCCESSFUL if is_known else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if name != "sftp":
            return False
        # In blocks of 512 bytes. Who is not ended by the signal is told that there is no room.
        limit = f"trap '' XFSZ; ulimit -f {2 * self._server.kilobytes};" * bool(
            self._server.kilobytes
        )
        self._process = subprocess.Popen(
            ["sh", "-c", f"{limit} exec {PROGRAM} -u 022"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.register(self._process.pid, "sftp")
        for work in (self._ask, self._answer):
            threading.Thread(target=work, args=[channel], daemon=True, name="sftp").start()
        return True

    @property
    def is_open(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def renames(self, *, done: bool) -> bool:
        is_asked = self._asked[4:5] == bytes([paramiko.sftp.CMD_RENAME])
        self._keeps_answer = is_asked and done
        return is_asked and not done

    def cut(self) -> None:
        self._transport.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ask(self, channel: paramiko.Channel) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, EOFError), self._process.stdin as requests:
            while data := channel.recv(BLOCK):
                self.taken += len(data)
                self._server.taken += len(data)
                self._asked = data
                self._server.check(self)
                requests.write(data)
                requests.flush()
        self.cut()

    def _answer(self, channel: paramiko.Channel) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, EOFError), self._process.stdout as answers:
            while data := answers.read1(BLOCK):  # type: ignore[attr-defined]
                if self._keeps_answer:
                    self.cut()
                    break
                channel.sendall(data)
                self.sent += len(data)
                self._server.sent += len(data)
                self._server.check(self)
