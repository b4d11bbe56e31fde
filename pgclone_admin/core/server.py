"""One PostgreSQL server: its databases, the marks on ours, its sessions and locks."""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import psycopg2
from psycopg2 import errorcodes, sql

from .connection import Connection, ConnectionParams
from .errors import (
    Conflict,
    DatabaseProtected,
    NoRoom,
    PermissionMissing,
    PgcloneError,
    ServerUnavailable,
    TooBusy,
    UnknownDatabase,
)
from .marks import (
    NEW_DATABASE_NAME,
    NEW_DATABASE_PREFIX,
    Database,
    Mark,
    Session,
    new_database_name,
    option,
    options_like,
    set_comment,
)
from .names import check_database_name

LOCK_SPACE = 0x7067636C
"""First half of the advisory locks of this app: "pgcl"."""

SESSION_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
"""Settings of a role or database that could end a session of ours half-way."""


class Server:
    """The maintenance connection to one server.

    It is connected to the maintenance database, never to a database that is created, copied,
    renamed or dropped.
    """

    def __init__(self, params: ConnectionParams, connection: Connection) -> None:
        self.params = params
        self.connection = connection

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
        """What tells this server from every other, also from a copy under the same address."""
        return str(self.rows("SELECT system_identifier FROM pg_control_system()")[0][0])

    def database(self, name: str) -> Database | None:
        """The database ``name``, or ``None``."""
        found = self._databases("d.datname = %s", [name])
        return found[0] if found else None

    def existing(self, name: str) -> Database:
        """The database ``name``; :class:`UnknownDatabase` when there is none."""
        check_database_name(name)
        database = self.database(name)
        if database is None:
            raise UnknownDatabase(f'there is no database "{name}" on {self.params.where}')
        return database

    def pattern(self) -> Database:
        """What a database is made like when there is none to be replaced: as CREATE DATABASE of
        this role would make it."""
        return replace(self.existing("template0"), owner=self.role()[0])

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
        """Bytes of the database on the disk of the server."""
        return int(self.rows("SELECT pg_database_size(%s)", [name])[0][0])

    def sizes(self, *oids: int) -> dict[int, int]:
        """Bytes of those databases that this role may look into, by oid."""
        rows = self.rows(
            "SELECT oid::bigint, pg_database_size(oid) FROM pg_database"
            " WHERE oid = ANY(%s::oid[]) AND has_database_privilege(oid, 'CONNECT')",
            [list(oids)],
        )
        return dict(rows)

    def sessions(self, *oids: int) -> list[Session]:
        """Clients that are connected to one of the databases, without this connection."""
        rows = self.rows(
            """
            SELECT a.pid, coalesce(r.rolname, ''), coalesce(r.rolsuper, false),
                   coalesce(a.application_name, '')
              FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
             WHERE a.datid = ANY(%s) AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
            """,
            [list(oids)],
        )
        return [
            Session(pid=pid, user=user, is_superuser=is_superuser, application=application)
            for pid, user, is_superuser, application in rows
        ]

    def role(self) -> tuple[str, bool, bool]:
        """Name of the current role, whether it is a superuser, whether it may create databases."""
        name, is_superuser, can_create = self.rows(
            "SELECT rolname, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )[0]
        return name, is_superuser, can_create

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
        return None if self.rows("SELECT session_user")[0][0] == owner else owner

    def extension_creator(self, database: Database) -> ConnectionParams | None:
        """How this role reaches a database of another owner, who may not create every extension."""
        if self.role_to_take(database.owner) is None:
            return None
        return self.params.with_dbname(database.name)

    # -- privileges and locks

    def check_may_create(self, owner: str) -> None:
        """:class:`PermissionMissing` unless this role can create databases that ``owner`` owns."""
        name, is_superuser, can_create = self.role()
        if is_superuser:
            return
        if not can_create:
            raise PermissionMissing(
                f'the role "{name}" may not create databases',
                hint=f'As a superuser: ALTER ROLE "{name}" CREATEDB. Or let PGCLONE_CONNECTIONS '
                "name a role that may.",
            )
        if not self.rows("SELECT pg_has_role(%s, 'MEMBER')", [owner])[0][0]:
            raise PermissionMissing(
                f'the database belongs to the role "{owner}", which the role "{name}" is no '
                "member of",
                hint=f'As a superuser: GRANT "{owner}" TO "{name}".',
            )

    def lock(self, database: str, *, exclusive: bool) -> None:
        """Holds the lock of the live database until this connection is closed.

        Dumps share it, a restore has it alone. :class:`Conflict` when it is taken. The lock is
        held in the maintenance database, as advisory locks of PostgreSQL count per database, and
        goes when this process dies.
        """
        function = "pg_try_advisory_lock" if exclusive else "pg_try_advisory_lock_shared"
        if not self.rows(f"SELECT {function}(%s, %s)", [LOCK_SPACE, _lock_number(database)])[0][0]:
            other = "a dump or a restore" if exclusive else "a restore"
            raise Conflict(
                f'{other} of the database "{database}" is running',
                hint="Nothing was changed. Try again when it is done.",
            )

    def unlock(self) -> None:
        """Gives every lock of :meth:`lock` back, while the connection stays."""
        self.execute("SELECT pg_advisory_unlock_all()")

    def is_locked(self, database: str | None = None) -> bool:
        """Whether somebody else holds the lock of a live database, or of any on this server.

        Asks without taking it, which would turn a dump away that begins just now.
        """
        own = None if database is None else _lock_number(database) % 2**32
        rows = self.rows(
            """
            SELECT 1 FROM pg_locks
             WHERE locktype = 'advisory' AND classid::bigint = %s AND objsubid = 2 AND granted
               AND pid <> pg_backend_pid() AND (%s::bigint IS NULL OR objid::bigint = %s)
            """,
            [LOCK_SPACE, own, own],
        )
        return bool(rows)

    def check_lock(self) -> None:
        """:class:`Conflict` when the connection is gone that held the lock, and the lock with it.

        Somebody else may have it by now, and be making databases under the same names.
        """
        try:
            self.execute("SELECT 1")
        except psycopg2.Error as error:
            raise Conflict(
                "the connection that kept other restores away was lost",
                hint="The live database was not touched. Try again.",
            ) from error

    # -- making and dropping databases

    def create_like(self, model: Database, mark: Mark) -> Database:
        """A new, empty, marked database with owner, encoding and locale of ``model``.

        It is made under a name of its own, and only gets the mark's name together with the mark,
        in one transaction: nothing under that name is ever unmarked.
        """
        name = new_database_name()
        self._create(name, "template0", options_like(model))
        return self.settle(name, mark)

    def clone(
        self, source: Database, mark: Mark, *, replaces: Collection[str] | None = None
    ) -> Database:
        """A marked copy of a database that nobody is connected to; ``replaces`` as in
        :meth:`settle`.

        Connections to ``source`` wait meanwhile. :class:`TooBusy` when a session does not leave
        within the five seconds that the server waits.
        """
        name = new_database_name()
        options = [option("OWNER", sql.Identifier(source.owner))]
        if self.major >= 15:
            options.append(option("STRATEGY", sql.SQL("FILE_COPY")))
        self._create(name, source.name, options)
        return self.settle(name, mark, replaces=replaces)

    def _create(self, name: str, template: str, options: list[sql.Composable]) -> None:
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.SQL(" ").join(options)
        )
        try:
            self.execute(command)
        except psycopg2.Error as error:
            raise explained(error, "the database could not be created") from error
        except BaseException:
            # A signal that came while the server was at work is only heard when it is done.
            self._drop_new(name)
            raise

    def settle(self, name: str, mark: Mark, *, replaces: Collection[str] | None = None) -> Database:
        """Marks the database ``name`` and gives it the mark's name, in one transaction.

        An older database of that name is dropped before, if it was made for the same live one and
        is of one of the kinds ``replaces``; any other is left alone, and it is
        :class:`DatabaseProtected`. Looked at here, too: a run takes hours, and a name that was free
        when it began may have been taken since, by another site on the same server.
        """
        try:
            check_database_name(mark.name)
            self.drop_older(mark.name, live=mark.of, kinds=replaces)
            with self.transaction() as cursor:
                if name != mark.name:
                    cursor.execute(
                        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                            sql.Identifier(name), sql.Identifier(mark.name)
                        )
                    )
                set_comment(cursor, mark.name, mark.comment())
        except BaseException:
            if name.startswith(NEW_DATABASE_PREFIX):
                self._drop_new(name)
            raise
        return self.existing(mark.name)

    def _drop_new(self, name: str) -> None:
        """Drops what this process has created under a name that nobody else can have."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))

    def drop_abandoned(self, database: Database) -> None:
        """Drops a database under a name of :func:`new_database_name`, if nobody is connected.

        For one whose maker has died before it was marked.
        """
        if not NEW_DATABASE_NAME.fullmatch(database.name):
            raise DatabaseProtected(f'the database "{database.name}" is left alone')
        try:
            self.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database.name)))
        except psycopg2.Error as error:
            what = f'the database "{database.name}" could not be dropped'
            raise explained(error, what) from error

    def drop(self, name: str, *, missing_ok: bool = False) -> None:
        """Drops a marked database, whoever is connected to it.

        :class:`DatabaseProtected` when it carries no mark of ours; it is left alone then.
        """
        if missing_ok and self.database(name) is None:
            return
        database = self.existing(name)
        self.require_mark(database)
        quoted = sql.Identifier(name)
        try:
            try:
                self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))
            except psycopg2.errors.InsufficientPrivilege as refused_by_force:
                # Autovacuum counts as a superuser, whom FORCE may not end; a plain DROP may.
                self.end_sessions(database.oid)
                try:
                    self.execute(sql.SQL("DROP DATABASE {}").format(quoted))
                except psycopg2.errors.ObjectInUse:
                    raise refused_by_force from None
        except psycopg2.Error as error:
            raise explained(error, f'the database "{name}" could not be dropped') from error

    def drop_older(self, name: str, *, live: str, kinds: Collection[str] | None = None) -> None:
        """Drops the database ``name``, if there is one, as :meth:`check_replaceable` allows."""
        if self.check_replaceable(name, live=live, kinds=kinds):
            self.drop(name)

    @staticmethod
    def require_mark(database: Database) -> Mark:
        if (mark := database.mark) is None:
            raise DatabaseProtected(
                f'the database "{database.name}" was not made by pgclone_admin and is left alone',
                hint="Rename or drop it yourself if it is not needed, then try again.",
            )
        return mark

    def check_target(
        self,
        name: str,
        protected: Collection[str],
        *,
        live: str,
        kinds: Collection[str] | None = None,
    ) -> None:
        """:class:`DatabaseProtected` unless ``name`` is one that may be used for a database of
        ``live``, and is free or may become so."""
        check_database_name(name)
        if name in protected:
            raise DatabaseProtected(
                f'the database "{name}" is named in the settings of this site and is left alone',
                hint="Choose another name.",
            )
        self.check_replaceable(name, live=live, kinds=kinds)

    def check_replaceable(
        self, name: str, *, live: str, kinds: Collection[str] | None = None
    ) -> bool:
        """Whether there is a database ``name``, which may be dropped then.

        :class:`DatabaseProtected` unless it was made for ``live`` and is of one of these ``kinds``:
        another site on the same server has marks like ours.
        """
        if (database := self.database(name)) is None:
            return False
        mark = self.require_mark(database)
        if mark.of != live:
            raise DatabaseProtected(
                f'the database "{name}" was made for the database "{mark.of}", not for "{live}", '
                "and is left alone",
                hint="Choose another name, or drop it where it belongs.",
            )
        if kinds is not None and mark.kind not in kinds:
            raise DatabaseProtected(
                f'there is a database "{name}" already, and it is left alone',
                hint="Choose another name, or drop it first.",
            )
        return True

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A transaction on this connection; gives its cursor."""
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    # -- sessions

    def end_sessions(self, *oids: int, spared: Collection[int] = ()) -> list[Session]:
        """Asks every session of the databases to end, but those of the processes ``spared``;
        returns those that may not be asked.

        One by one: a single refused pid would fail a statement that names all of them.
        """
        refused = []
        for session in self.sessions(*oids):
            if session.pid in spared:
                continue
            try:
                self.execute("SELECT pg_terminate_backend(%s)", [session.pid])
            except psycopg2.errors.InsufficientPrivilege:
                refused.append(session)
        return refused

    def check_sessions_can_be_ended(self, *oids: int) -> None:
        """:class:`TooBusy` when a superuser is connected and this role is none."""
        if self.role()[1]:
            return
        if superusers := [session for session in self.sessions(*oids) if session.is_superuser]:
            raise TooBusy(
                "a superuser is connected to the database and cannot be sent away: "
                + ", ".join(str(session) for session in superusers),
                hint="Nothing was changed. End these sessions and try again.",
            )

    def wait_for_empty(self, *oids: int, seconds: float = 2.0) -> bool:
        """Whether the databases have no session left, after waiting for a while."""
        end = time.monotonic() + seconds
        while self.sessions(*oids):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


def _lock_number(database: str) -> int:
    """The second half of the advisory lock of a live database."""
    return zlib.crc32(database.encode()) - 2**31


def remove_session_limits(connection: Connection) -> None:
    """Sets every limit that could end this session to "none" (where the version has it)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)",
            [list(SESSION_LIMITS)],
        )


def refused(error: psycopg2.Error) -> PgcloneError:
    """An error of the server that nobody expected, as one of ours."""
    return explained(error, "the PostgreSQL server refused")


def explained(error: psycopg2.Error, what: str) -> PgcloneError:
    """An error of the server as one of ours."""
    reason = error.diag.message_primary or str(error).strip()
    message = f"{what}: {reason}"
    if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
        return PermissionMissing(message)
    if error.pgcode == errorcodes.DISK_FULL:
        return NoRoom(message, hint="Make room on the disk of the server, then try again.")
    if error.pgcode in (errorcodes.OBJECT_IN_USE, errorcodes.LOCK_NOT_AVAILABLE):
        return TooBusy(message, hint="Nothing was changed. Try again when fewer are connected.")
    if isinstance(error, psycopg2.OperationalError):
        return ServerUnavailable(message)
    return Conflict(message)
