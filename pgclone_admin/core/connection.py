"""How one PostgreSQL database is reached, by this process and by its children."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from .errors import ConfigurationError, PermissionMissing, ServerUnavailable
from .temporary import PASSFILE, own_prefix, room_for

Connection = psycopg2.extensions.connection

# https://www.postgresql.org/docs/current/libpq-envars.html: every option of a connection that a
# child can be given by its environment. What has no variable cannot be forwarded.
ENVIRONMENT_VARIABLES = {
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "gssdelegation": "PGGSSDELEGATION",
    "gssencmode": "PGGSSENCMODE",
    "gsslib": "PGGSSLIB",
    "hostaddr": "PGHOSTADDR",
    "krbsrvname": "PGKRBSRVNAME",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "max_protocol_version": "PGMAXPROTOCOLVERSION",
    "min_protocol_version": "PGMINPROTOCOLVERSION",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "service": "PGSERVICE",
    "servicefile": "PGSERVICEFILE",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "sslcert": "PGSSLCERT",
    "sslcertmode": "PGSSLCERTMODE",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslkey": "PGSSLKEY",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslrootcert": "PGSSLROOTCERT",
    "sslsni": "PGSSLSNI",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}

# A service names a database too, and libpq lets that one win over PGDATABASE: a pg_restore for the
# temporary database would write into the live one. So children are given what it stands for.
SERVICE_OPTIONS = {"service", "servicefile"}

KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 30,  # seconds
    "keepalives_interval": 10,  # seconds
    "keepalives_count": 3,
}


OWN_OPTIONS = {*KEEPALIVES, "tcp_user_timeout"}
"""Options of the connections of this process alone, which children are not given."""

TOO_MANY_CONNECTIONS = (
    "too many connections",
    "too many clients",
    "connection slots are reserved",
)
"""What a server says of its limits, if it speaks English; in another language only a hint is less
to the point."""


SESSION_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
"""Settings of a role or database that could end a session of ours half-way."""


@dataclass(frozen=True)
class ConnectionParams:
    """One database of one server and the role that connects to it.

    ``options`` are libpq's own keywords (``sslmode``, ``sslrootcert``, ...). ``role`` is taken with
    SET ROLE after connecting. The password appears in no ``repr``.
    """

    dbname: str
    host: str = ""
    port: str = ""
    user: str = ""
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    role: str | None = None

    def __post_init__(self) -> None:
        if "\0" in "".join([self.dbname, self.host, self.port, self.user, self.password or ""]):
            raise ConfigurationError("a connection setting holds a NUL character")
        if self.password is not None and ("\n" in self.password or "\r" in self.password):
            raise ConfigurationError("a password with a line break cannot be put into a passfile")
        if unknown := set(self.options) - set(ENVIRONMENT_VARIABLES) - OWN_OPTIONS:
            raise ConfigurationError(
                f"connection options that cannot be handed to pg_dump: {', '.join(sorted(unknown))}"
            )

    def with_dbname(self, dbname: str) -> ConnectionParams:
        return replace(self, dbname=dbname)

    def with_role(self, role: str | None) -> ConnectionParams:
        return replace(self, role=role)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error output of a child may show."""
        return (self.password,) if self.password else ()

    @property
    def where(self) -> str:
        """The server, for people."""
        if not self.host or self.host.startswith(("/", "@")):
            return f"the unix socket {self.host or 'directory of libpq'}"
        return f"{self.host}:{self.port or '5432'}"

    def connect(
        self, *, autocommit: bool = True, factory: type[Connection] = Connection
    ) -> Connection:
        """A new connection; :class:`ServerUnavailable` when there is none to be had."""
        keywords: dict[str, Any] = {
            # Named although it is empty: a PGHOSTADDR of the environment would win over the host.
            "hostaddr": "" if self.host else None,
            **KEEPALIVES,
            **self.options,
            "dbname": self.dbname,
            # Left to libpq where the settings do, as Django does, not set to nothing.
            "host": self.host or None,
            "port": self.port or None,
            "user": self.user or None,
        }
        if self.password is not None:
            keywords["password"] = self.password
        try:
            connection: Connection = psycopg2.connect(
                connection_factory=factory,
                **{k: v for k, v in keywords.items() if v is not None},
            )
        except psycopg2.OperationalError as error:
            raise _refused(self, error) from error
        if autocommit:
            connection.autocommit = True
        try:
            # Names are text here, whatever the encoding of the database that is connected to.
            connection.set_client_encoding("UTF8")
        except psycopg2.Error as error:
            connection.close()
            raise _refused(self, error) from error
        if self.role is not None:
            self._set_role(connection, self.role)
        return connection

    def _set_role(self, connection: Connection, role: str) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        except psycopg2.Error as error:
            connection.close()
            raise PermissionMissing(
                f'the role "{self.user}" cannot become the role "{role}"',
                hint=f'As a superuser: GRANT "{role}" TO "{self.user}".',
            ) from error

    @contextmanager
    def session(self, *, autocommit: bool = True) -> Iterator[Connection]:
        """A connection that is closed at the end of the block."""
        connection = self.connect(autocommit=autocommit)
        try:
            yield connection
        finally:
            connection.close()

    def resolved(self, connection: Connection) -> ConnectionParams:
        """These parameters with the host, port and user that ``connection`` really uses.

        Children are started from an empty environment. Where the settings leave a value to libpq,
        a child could otherwise reach another server than this process does.
        """
        used = connection.get_dsn_parameters()
        options = dict(self.options)
        if SERVICE_OPTIONS & set(options):
            known = set(ENVIRONMENT_VARIABLES) - SERVICE_OPTIONS
            kept = {name: value for name, value in options.items() if name in OWN_OPTIONS}
            options = {name: value for name, value in used.items() if name in known and value}
            options |= kept
        elif not self.host and used.get("hostaddr"):
            options["hostaddr"] = used["hostaddr"]
        return replace(
            self,
            host=self.host or used.get("host", ""),
            port=self.port or used.get("port", ""),
            user=self.user or used.get("user", ""),
            password=self.password if self.password is not None else connection.info.password,
            options=options,
        )

    @contextmanager
    def child_environment(self) -> Iterator[dict[str, str]]:
        """The ``PG*`` environment of a child, built from nothing.

        Names travel in the environment because libpq takes them literally there: as arguments a
        name with ``=`` becomes a connection string. The password lies in a file with mode 0600
        which is removed at the end of the block; a killed process leaves it behind in the
        directory for temporary files, readable by its user alone.
        """
        values = {"PGHOST": self.host, "PGPORT": self.port, "PGUSER": self.user}
        for option, value in self.options.items():
            if option in ENVIRONMENT_VARIABLES and option not in SERVICE_OPTIONS:
                values[ENVIRONMENT_VARIABLES[option]] = str(value)
        environment = {variable: value for variable, value in values.items() if value}
        environment["PGDATABASE"] = self.dbname
        if not self.password:
            yield environment
            return
        with _passfile(self.password) as path:
            yield {**environment, "PGPASSFILE": path}


@contextmanager
def _passfile(password: str) -> Iterator[str]:
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    with ExitStack() as stack:
        with room_for("the file with the password"):
            file = stack.enter_context(
                tempfile.NamedTemporaryFile(prefix=own_prefix(), suffix=PASSFILE)
            )
            path = Path(file.name)
            path.chmod(0o600)
            # Not through ``file``: what found no room would be written again when it is closed.
            path.write_bytes(f"*:*:*:*:{escaped}\n".encode())
        yield file.name


def remove_session_limits(connection: Connection) -> None:
    """Sets every limit that could end this session to "none" (where the version has it)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)",
            [list(SESSION_LIMITS)],
        )


def backend_pid(connection: Connection) -> int:
    """The number of the server's process behind this session, as the server's own views have it.

    What libpq was told at the start, ``info.backend_pid``, is made up where a pooler stands before
    the server. It begins a transaction where the connection has no autocommit.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(one_row(cursor)[0])


def one_row(cursor: Any) -> tuple[Any, ...]:
    """The row of a query that always gives one."""
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)


def _refused(params: ConnectionParams, error: psycopg2.Error) -> ServerUnavailable:
    # One line for each address that was tried, and in lines that begin with a tab a question.
    lines = [line for line in str(error).splitlines() if line.strip() and line[0] != "\t"]
    reason = lines[-1].rpartition(" failed: ")[2].strip() if lines else "no reason was given"
    hint = "Check that the server runs and that HOST, PORT, USER and PASSWORD are right."
    # psycopg2 has no SQLSTATE of a connection that was refused, which is 53300 here.
    if any(words in reason for words in TOO_MANY_CONNECTIONS):
        hint = (
            "Try again when fewer are connected, or admit more: CONNECTION LIMIT of the database "
            "and of the role, max_connections of the server."
        )
    return ServerUnavailable(
        f'cannot connect to the database "{params.dbname}" on {params.where}: {reason}', hint=hint
    )
