"""A second server that replays what another one does."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import time
from pathlib import Path

from . import postgres
from .postgres import PASSWORDS, PostgresServer, make_reachable


class Standby(PostgresServer):
    """A streaming standby of ``primary``, open for reading. It has the same roles and databases.

    To be destroyed before its primary.
    """

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(primary.bin_dir, primary.major)
        self.primary = primary

    def __repr__(self) -> str:
        return f"<Standby of {self.primary!r} port={self.port}>"

    def create(self) -> None:
        """Copy the primary and follow it from there."""
        make_reachable(self.bin_dir, self.user)
        self.path = Path(tempfile.mkdtemp(prefix="pgct-", dir=postgres.data_root()))
        postgres._created.append(self)
        try:
            self.socket_dir.mkdir()
            if self.user is not None:
                entry = pwd.getpwnam(self.user)
                for path in (self.path, self.socket_dir):
                    os.chown(path, entry.pw_uid, entry.pw_gid)
            self._copy_primary()
            with (self.data_dir / "postgresql.auto.conf").open("a") as file:
                file.write(f"unix_socket_directories = '{self.socket_dir}'\n")
                # So that a session never waits for it: conflicts end sessions at once.
                file.write("max_standby_streaming_delay = 0\n")
            self.start()
        except BaseException:
            self.destroy()
            raise

    def _copy_primary(self) -> None:
        subprocess.run(
            [
                self.program("pg_basebackup"),
                f"--pgdata={self.data_dir}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--no-sync",
            ],
            cwd="/",
            env={
                **self._environment(),
                "PGHOST": self.primary.host,
                "PGPORT": str(self.primary.port),
                "PGUSER": "postgres",
                "PGPASSWORD": PASSWORDS["postgres"],
            },
            check=True,
            capture_output=True,
            timeout=120,
            **self._as_user(),
        )

    def temporary_databases(self) -> set[str]:
        """None of its own: they go when those of the primary do."""
        return set()

    def catch_up(self, timeout: float = 20.0) -> None:
        """Wait until it has replayed all that the primary has done so far."""
        ((position,),) = self.primary.admin("SELECT pg_current_wal_insert_lsn()")
        until = time.monotonic() + timeout
        while not self.admin("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,))[0][0]:
            if time.monotonic() > until:
                raise TimeoutError(f"{self!r} is behind")
            time.sleep(0.02)

    def pause(self, paused: bool) -> None:
        """Stop replaying, or go on."""
        self.admin(f"SELECT pg_wal_replay_{'pause' if paused else 'resume'}()")
