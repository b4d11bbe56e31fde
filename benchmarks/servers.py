"""The PostgreSQL server that the benchmark runs on, started for it alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from tests.support import processes
from tests.support.postgres import available, free_port, make_reachable, system_user, version_of

ROLE = "bench"
PASSWORD = "benchmark"

CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 30min
autovacuum = off
max_locks_per_transaction = 512
timezone = 'UTC'
"""
"""Rare checkpoints and no autovacuum: background work would hit the tools by chance. A pg_dump of
very many tables locks all of them."""

HOST_BASED_ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


class BenchmarkServer:
    """A server with its data in ``folder`` and one role, which may create databases.

    The role is no superuser. Its databases are owned by it.
    """

    def __init__(self, major: int, folder: Path, *, fsync: bool) -> None:
        self.major = major
        self.bin_dir = available()[major]
        self.version = version_of(self.bin_dir / "postgres")
        self.port = 0
        self.fsync = fsync
        self._folder = folder
        self._user = system_user()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BenchmarkServer:
        make_reachable(self.bin_dir, self._user)
        self._folder.mkdir()
        self._give_away(self._folder)
        password_file = self._folder / "password"
        password_file.write_text(PASSWORD)
        self._give_away(password_file)
        self._initialise(password_file)
        (self._data / "pg_hba.conf").write_text(HOST_BASED_ACCESS)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)
            file.write(f"fsync = {'on' if self.fsync else 'off'}\n")
        try:
            self._start()
            self.run(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{PASSWORD}'", user="postgres")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _give_away(self, path: Path) -> None:
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _as_user(self) -> dict[str, Any]:
        """Arguments of subprocess: PostgreSQL does not run as root."""
        if self._user is None:
            return {}
        group = pwd.getpwnam(self._user).pw_gid
        return {"user": self._user, "group": group, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin_dir}:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

    def _initialise(self, password_file: Path) -> None:
        done = subprocess.run(
            [
                str(self.bin_dir / "initdb"),
                f"--pgdata={self._data}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ],
            cwd="/",
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr or done.stdout}")

    def _start(self) -> None:
        self.port = free_port()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.bin_dir / "postgres"), "-D", str(self._data), "-p", str(self.port)],
                cwd="/",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user(),
            )
        # Should this process be killed, its lifeline ends the server.
        processes.register(self._process.pid, "benchmark server", self._folder)
        until = time.monotonic() + 60
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(psycopg2.OperationalError):
                self.connect("postgres", user="postgres").close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience in ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0)):
            process.send_signal(number)
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        processes.unregister(process.pid)

    # -- talking to it ----------------------------------------------------------------------------

    def connect(self, dbname: str, *, user: str = ROLE) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            password=PASSWORD,
            dbname=dbname,
            connect_timeout=10,
        )
        connection.autocommit = True
        return connection

    @contextlib.contextmanager
    def cursor(self, dbname: str, *, user: str = ROLE) -> Iterator[psycopg2.extensions.cursor]:
        with contextlib.closing(self.connect(dbname, user=user)) as connection:
            yield connection.cursor()

    def run(
        self, *statements: str, dbname: str = "postgres", user: str = ROLE
    ) -> Sequence[tuple[Any, ...]]:
        """Runs statements, each for itself, and returns the rows of the last."""
        with self.cursor(dbname, user=user) as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_empty(self, name: str) -> None:
        """A new empty database of this name, in place of what was there."""
        self.drop(name)
        self.run(f'CREATE DATABASE "{name}"')

    def drop(self, name: str) -> None:
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def settle(self) -> None:
        """Has everything on disk that was written before, so that no case pays for another."""
        self.run("CHECKPOINT", user="postgres")
        os.sync()

    def django(self, dbname: str) -> dict[str, str]:
        """This server in an entry of Django's DATABASES."""
        return {
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "USER": ROLE,
            "PASSWORD": PASSWORD,
            "NAME": dbname,
        }

    def client_environment(self, dbname: str) -> dict[str, str]:
        """What makes a bare client program reach the database."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": ROLE,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": dbname,
        }
