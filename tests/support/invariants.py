"""What must be true after every test of a fault: nothing of ours is left behind.

Fixtures say what there is to look at (`watch_storage`, `watch_bucket`); servers and processes
are found without being told. `Checker.check` waits a little, because a server needs a moment to
notice that a client is gone.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from . import processes
from .postgres import PostgresServer, started_servers

if TYPE_CHECKING:
    from .s3 import Bucket

PATIENCE = 3.0
"""Seconds that a process, a session or a lock may need to disappear."""

UNFINISHED_DATABASE = re.compile(r"^pgclone_new_|__(temp|swap)(_[0-9a-f]+)?$")
"""Databases in the making. A name that would pass 63 bytes may carry a hash at its end."""

UNFINISHED_FILE = "*.partial-*"
PASSFILES = "pgclone-*"


@dataclass
class Watched:
    """What the fixtures of the running test have opened."""

    storages: list[Path] = field(default_factory=list)
    buckets: list[Bucket] = field(default_factory=list)

    def clear(self) -> None:
        self.storages.clear()
        self.buckets.clear()


WATCHED = Watched()


def watch_storage(path: Path) -> Path:
    """Look for unfinished files below ``path`` when this test ends."""
    WATCHED.storages.append(path)
    return path


def watch_bucket(bucket: Bucket) -> Bucket:
    """Look for open multipart uploads in ``bucket`` when this test ends."""
    WATCHED.buckets.append(bucket)
    return bucket


def unfinished_files(roots: Iterable[Path] | None = None) -> list[Path]:
    return sorted(
        path
        for root in (WATCHED.storages if roots is None else roots)
        if root.exists()
        for path in root.rglob(UNFINISHED_FILE)
    )


def unfinished_databases(server: PostgresServer, allow: Iterable[str] = ()) -> list[str]:
    """Databases in the making; ``allow`` are names or patterns of ones that may be there."""
    return sorted(
        name
        for name in server.databases()
        if UNFINISHED_DATABASE.search(name)
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)
    )


def advisory_locks(server: PostgresServer) -> list[str]:
    return [
        f"advisory lock in {name!r} held by session {pid} ({application})"
        for name, pid, application in server.admin(
            "SELECT d.datname, l.pid, a.application_name FROM pg_locks l"
            " LEFT JOIN pg_database d ON d.oid = l.database"
            " LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory'"
        )
    ]


def client_program_sessions(server: PostgresServer) -> list[str]:
    """Sessions of pg_dump and pg_restore that outlived their programs."""
    return [
        f"session {pid} of {application} in {name!r}"
        for name, pid, application in server.admin(
            "SELECT datname, pid, application_name FROM pg_stat_activity"
            " WHERE application_name IN ('pg_dump', 'pg_restore')"
        )
    ]


def passfiles() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(PASSFILES))


class Checker:
    """Asserts that a test left nothing behind; see `check`."""

    def __init__(self) -> None:
        self.allowed: list[str] = []
        self._passfiles = passfiles()
        self._processes = {process.pid for process in processes.children()}

    def allow(self, *databases: str) -> None:
        """Names or patterns of unfinished databases that this test means to leave."""
        self.allowed += databases

    def check(self, allow: Iterable[str] = ()) -> None:
        """Raise AssertionError with one line for each thing left behind."""
        found = self.problems(allow)
        until = time.monotonic() + PATIENCE
        while found and time.monotonic() < until:
            time.sleep(0.05)
            found = self.problems(allow)
        if found:
            raise AssertionError("left behind:\n  " + "\n  ".join(found))

    def problems(self, allow: Iterable[str] = ()) -> list[str]:
        allowed = [*self.allowed, *allow]
        found = [processes.describe(p) for p in processes.leftovers(self._processes)]
        found += [f"unfinished file {path}" for path in unfinished_files()]
        found += [f"file {path}" for path in sorted(passfiles() - self._passfiles)]
        for bucket in WATCHED.buckets:
            found += [f"open upload of {key!r} in {bucket.name}" for key in bucket.open_uploads()]
        for server in started_servers():
            try:
                for name in unfinished_databases(server, allowed):
                    found.append(f"database {name!r} on {server!r}")
                found += advisory_locks(server) + client_program_sessions(server)
            except psycopg2.OperationalError as error:
                found.append(f"{server!r} does not answer: {error}")
        return found

    def clean(self) -> None:
        """Remove what is left, so that a failing test does not make the next one fail."""
        for process in processes.leftovers(self._processes):
            processes.end(process)
        for path in passfiles() - self._passfiles:
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def live_database_is(server: PostgresServer, name: str, oid: int | None) -> None:
    """Assert that the live database exists, takes connections, and is the one with ``oid``."""
    assert server.oid(name) == oid, f"{name!r} is another database than before"
    assert server.run("SELECT 1", name, "app") == [(1,)]
