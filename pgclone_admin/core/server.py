"""One PostgreSQL server: what is on it, and what this role may do there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple, Self

import psycopg2
from psycopg2 import sql

from .connection import Connection, ConnectionParams, remove_session_limits
from .errors import PermissionMissing, ServerUnavailable, UnknownDatabase
from .marks import Database
from .names import check_database_name
from .refusals import explained

BETWEEN_TRIES = 0.2
"""Seconds between two attempts to connect."""


class Role(NamedTuple):
    """A role of the server, as far as it matters here."""

    name: str
    is_superuser: bool
    can_create: bool
    """Whether it may create databases."""


class Server:
    """The maintenance connection to one server.

    It is connected to the maintenance database, never to a database that is created, copied,
    renamed or dropped.
    """

    def __init__(self, params: ConnectionParams, connection: Connection) -> None:
        self.params = params
        self.connection = connection
        self.has_locks = False
        """Whether there are advisory locks to give back."""

    @classmethod
    @contextmanager
    def connected(
        cls,
        params: ConnectionParams,
        *,
        statement_timeout: int | None = None,
        lock_timeout: int | None = None,
    ) -> Iterator[Self]:
        """A server for the length of the block; the limits are milliseconds per statement."""
        with params.session() as connection:
            remove_session_limits(connection)
            server = cls(params.resolved(connection), connection)
            limits = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
            for setting, milliseconds in limits.items():
                if milliseconds is not None:
                    server.execute("SELECT set_config(%s, %s, false)", [setting, str(milliseconds)])
            yield server
            if server.has_locks:
                # Whoever comes next would be turned away until the server has noticed that the
                # connection is closed.
                with suppress(psycopg2.Error):
                    server.release_locks()

    def release_locks(self) -> None:
        """Gives every advisory lock back, while the connection stays."""
        self.execute("SELECT pg_advisory_unlock_all()")

    def connect_in_time(
        self, params: ConnectionParams, seconds: float, *, autocommit: bool = True
    ) -> Connection:
        """A new connection to a database of this server, tried for again for so many seconds: too
        many connections for a moment are no reason to throw away what took hours.

        :class:`ServerUnavailable` when there is none to be had, at once when the server is gone.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return params.connect(autocommit=autocommit)
            except ServerUnavailable as refused:
                if time.monotonic() > end:
                    raise
                try:
                    self.value("SELECT 1")
                except psycopg2.Error:
                    raise refused from None
                time.sleep(BETWEEN_TRIES)

    def execute(self, statement: sql.Composable | str, values: list[Any] | None = None) -> None:
        """Runs one statement in its own transaction."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)

    def rows(
        self, statement: sql.Composable | str, values: list[Any] | None = None
    ) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    def value(self, statement: sql.Composable | str, values: list[Any] | None = None) -> Any:
        """The first column of the first row, of a query that always gives one."""
        return self.rows(statement, values)[0][0]

    @contextmanager
    def transaction(self, *, undone: bool = False) -> Iterator[Any]:
        """A transaction on this connection; gives its cursor. ``undone`` is one that only tries
        whether its statements are accepted."""
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("ROLLBACK" if undone else "COMMIT")

    # -- what there is

    @property
    def major(self) -> int:
        return int(self.connection.server_version) // 10_000

    @property
    def version(self) -> str:
        number = int(self.connection.server_version)
        return f"{number // 10_000}.{number % 10_000}"

    @property
    def system_identifier(self) -> str:
        """What tells this server and its standbys from every other, also from a copy under the
        same address."""
        return str(self.value("SELECT system_identifier FROM pg_control_system()"))

    def database(self, name: str) -> Database | None:
        """The database ``name``, or ``None``."""
        found = self._databases("d.datname = %s", [name])
        return found[0] if found else None

    def existing(self, name: str, *, hint: str | None = None) -> Database:
        """The database ``name``; :class:`UnknownDatabase` with the ``hint`` when there is none."""
        check_database_name(name)
        database = self.database(name)
        if database is None:
            raise UnknownDatabase(
                f'there is no database "{name}" on {self.params.where}', hint=hint
            )
        return database

    def default_model(self) -> Database:
        """What a database is made like when there is none to be replaced: as CREATE DATABASE of
        this role would make it."""
        return replace(self.existing("template0"), owner=self.role().name)

    def usable_databases(self) -> list[Database]:
        """The databases that this role may copy: those whose owner it is or can be."""
        return self._databases(
            "d.datallowconn AND NOT d.datistemplate AND pg_has_role(d.datdba, 'MEMBER')", []
        )

    def _databases(self, condition: str, values: list[Any]) -> list[Database]:
        rows = self.rows(
            f"""
            SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), d.datistemplate, d.datallowconn,
                   d.datconnlimit, shobj_description(d.oid, 'pg_database'), t.spcname,
                   pg_encoding_to_char(d.encoding), to_jsonb(d)
              FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
             WHERE {condition} ORDER BY d.datname
            """,  # noqa: S608 - the condition is one of the literals above
            values,
        )
        return [
            Database(
                oid=row[0],
                name=row[1],
                owner=row[2],
                is_template=row[3],
                allows_connections=row[4],
                connection_limit=row[5],
                comment=row[6],
                tablespace=row[7],
                encoding=row[8],
                row=row[9],
            )
            for row in rows
        ]

    def databases(self) -> list[Database]:
        """Every database of the server but the templates."""
        return self._databases("NOT d.datistemplate", [])

    def size(self, name: str) -> int:
        """Bytes of the database on the disk of the server; :class:`PermissionMissing` for one that
        this role may not look into."""
        try:
            return int(self.value("SELECT pg_database_size(%s)", [name]))
        except psycopg2.Error as error:
            raise explained(error, f'how large "{name}" is cannot be told') from error

    def sizes(self, *oids: int) -> dict[int, int]:
        """Bytes of those databases that this role may look into, by oid."""
        rows = self.rows(
            "SELECT oid::bigint, pg_database_size(oid) FROM pg_database"
            " WHERE oid = ANY(%s::oid[]) AND has_database_privilege(oid, 'CONNECT')",
            [list(oids)],
        )
        return dict(rows)

    def role(self) -> Role:
        """The role that statements of this session run as."""
        rows = self.rows(
            "SELECT rolname, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
        return Role(*rows[0])

    def danger(self) -> str | None:
        """Why code that runs with the rights of this session could take over the server.

        It is the session that counts: code can undo a SET ROLE.
        """
        is_superuser, may_run_programs = self.rows(
            "SELECT rolsuper, pg_has_role(session_user, 'pg_execute_server_program', 'MEMBER')"
            " FROM pg_roles WHERE rolname = session_user"
        )[0]
        if is_superuser:
            return "is a superuser"
        return "may run programs on the server" if may_run_programs else None

    def role_to_take(self, owner: str) -> str | None:
        """What a new connection has to SET ROLE to, so that what it makes belongs to ``owner``."""
        return None if self.value("SELECT session_user") == owner else owner

    def role_to_write(self, owner: str) -> str | None:
        """What a new connection has to SET ROLE to, so that it may write into the tables of a
        restored database of ``owner``, some of which this session may have given to others."""
        may_write = self.value(
            "SELECT rolsuper OR pg_has_role(oid, %s, 'USAGE') FROM pg_roles"
            " WHERE rolname = session_user",
            [owner],
        )
        return None if may_write else owner

    def extension_creator(self, database: Database) -> ConnectionParams | None:
        """How this role reaches a database of another owner, who may not create every extension."""
        if self.role_to_take(database.owner) is None:
            return None
        return self.params.with_dbname(database.name)

    # -- what this role may do

    def is_member_of(self, role: str) -> bool:
        """Whether this role is ``role``, or may become it."""
        return bool(self.value("SELECT pg_has_role(%s, 'MEMBER')", [role]))

    def check_may_create(self, owner: str) -> None:
        """:class:`PermissionMissing` unless this role can create databases that ``owner`` owns."""
        role = self.role()
        if role.is_superuser:
            return
        if not role.can_create:
            raise PermissionMissing(
                f'the role "{role.name}" may not create databases',
                hint=f'As a superuser: ALTER ROLE "{role.name}" CREATEDB. Or let '
                "PGCLONE_CONNECTIONS name a role that may.",
            )
        if not self.is_member_of(owner):
            raise PermissionMissing(
                f'the database belongs to the role "{owner}", which the role "{role.name}" is no '
                "member of",
                hint=f'As a superuser: GRANT "{owner}" TO "{role.name}".',
            )
