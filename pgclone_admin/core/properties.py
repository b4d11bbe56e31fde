"""What a database has besides its contents: settings, grants, connection limit.

A dump does not hold them, and a rename does not carry them: they stay with the parked database
unless they are put onto the new one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import one_row
from .errors import PermissionMissing
from .marks import Database
from .server import explained

# Settings whose value is a list of quoted names (GUC_LIST_QUOTE in guc_tables.c). As one literal
# such a value would become a single name.
LIST_SETTINGS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}

CLOSING_SETTINGS = {"default_transaction_read_only"}

_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*?))\s*(?:,|$)')


@dataclass(frozen=True)
class Properties:
    """Settings as (role or ``None``, name, value); grants as (role or ``None`` for PUBLIC,
    privilege, with grant option), or ``None`` for the grants every new database has."""

    settings: frozenset[tuple[str | None, str, str]]
    grants: frozenset[tuple[str | None, str, bool]] | None
    connection_limit: int

    @classmethod
    def read(cls, cursor: Any, database: Database) -> Properties:
        cursor.execute(
            """
            SELECT CASE WHEN s.setrole <> 0 THEN pg_get_userbyid(s.setrole) END, c.entry
              FROM pg_db_role_setting s, unnest(s.setconfig) AS c(entry)
             WHERE s.setdatabase = %s
            """,
            [database.oid],
        )
        settings = frozenset((role, *entry.split("=", 1)) for role, entry in cursor.fetchall())
        cursor.execute(
            """
            SELECT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END,
                   a.privilege_type, a.is_grantable
              FROM pg_database d, aclexplode(d.datacl) a WHERE d.oid = %s
            """,
            [database.oid],
        )
        grants = frozenset(cursor.fetchall())
        cursor.execute(
            "SELECT datacl IS NULL, datconnlimit FROM pg_database WHERE oid = %s", [database.oid]
        )
        untouched, connection_limit = one_row(cursor)
        return cls(settings, None if untouched else grants, connection_limit)

    def without_what_closes(self) -> Properties:
        """Without connection limit and read-only transactions."""
        settings = {entry for entry in self.settings if entry[1] not in CLOSING_SETTINGS}
        return replace(self, settings=frozenset(settings), connection_limit=-1)


def carry(
    cursor: Any,
    source: Database,
    target: Database,
    target_name: str,
    *,
    still_to_be_filled: bool = False,
) -> None:
    """Makes the properties of ``target`` those of ``source``; within the caller's transaction.

    :class:`PermissionMissing` names what this role may not carry. ``target_name`` is the name that
    ``target`` has at this point of the transaction. ``still_to_be_filled`` leaves out what keeps
    people from a database that is closed for a while, and would keep its restore from it too.
    """
    wanted = Properties.read(cursor, source)
    if still_to_be_filled:
        wanted = wanted.without_what_closes()
    present = Properties.read(cursor, target)
    name = sql.Identifier(target_name)
    try:
        if wanted.settings != present.settings:
            _carry_settings(cursor, wanted, present, name, owner=source.owner)
        if wanted.grants != present.grants:
            _carry_grants(cursor, wanted, present, name, owner=source.owner)
        if wanted.connection_limit != present.connection_limit:
            cursor.execute(
                sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(
                    name, sql.Literal(wanted.connection_limit)
                )
            )
    except psycopg2.errors.InsufficientPrivilege as error:
        raise PermissionMissing(
            f'a setting or grant of the database "{source.name}" cannot be carried over: '
            f"{error.diag.message_primary}",
            hint="Restore with a role that may set it, see PGCLONE_CONNECTIONS.",
        ) from error
    except psycopg2.Error as error:
        raise explained(error, "the settings of the database cannot be carried over") from error


def _carry_settings(
    cursor: Any, wanted: Properties, present: Properties, name: sql.Composable, *, owner: str
) -> None:
    statements = [
        sql.SQL("ALTER {} RESET {}").format(_whose(role, name), _setting_name(setting))
        for role, setting, _value in sorted(present.settings - wanted.settings, key=str)
    ]
    statements += [
        sql.SQL("ALTER {} SET {} TO {}").format(
            _whose(role, name), _setting_name(setting), _setting_value(setting, value)
        )
        for role, setting, value in sorted(wanted.settings - present.settings, key=str)
    ]
    for statement in statements:
        _execute_as_either(cursor, statement, owner)


def _execute_as_either(cursor: Any, statement: sql.Composable, owner: str) -> None:
    """As this role or, where that is refused, as the owner of the database.

    This one may be a superuser, which may set everything; but settings of the owner itself can
    only be changed by the owner, not by another member of it.
    """
    cursor.execute("SAVEPOINT as_this_role")
    try:
        cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege:
        cursor.execute("ROLLBACK TO SAVEPOINT as_this_role")
        cursor.execute("SELECT current_setting('role')")
        (role,) = one_row(cursor)
        cursor.execute("SELECT set_config('role', %s, true)", [owner])
        cursor.execute(statement)
        cursor.execute("SELECT set_config('role', %s, true)", [role])
    cursor.execute("RELEASE SAVEPOINT as_this_role")


def _whose(role: str | None, name: sql.Composable) -> sql.Composable:
    if role is None:
        return sql.SQL("DATABASE {}").format(name)
    return sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), name)


def _setting_name(setting: str) -> sql.Composable:
    """The parts of ``extension.setting`` are identifiers each."""
    return sql.SQL(".").join(sql.Identifier(part) for part in setting.split("."))


def _setting_value(setting: str, value: str) -> sql.Composable:
    if setting.lower() not in LIST_SETTINGS:
        return sql.Literal(value)
    return sql.SQL(", ").join(sql.Literal(item) for item in split_list_setting(value))


def split_list_setting(value: str) -> list[str]:
    """The names in the stored value of a list setting: ``"$user", public`` are two."""
    items = []
    position = 0
    while position < len(value) and (match := _LIST_ITEM.match(value, position)):
        quoted, plain = match.groups()
        items.append(quoted.replace('""', '"') if quoted is not None else plain)
        position = match.end()
    return items or [""]


def _carry_grants(
    cursor: Any, wanted: Properties, present: Properties, name: sql.Composable, *, owner: str
) -> None:
    """Takes all grants away and gives those of ``wanted``.

    Grants that every new database has cannot be un-said, so they are given by name where
    ``present`` has others.
    """
    grants = wanted.grants
    if grants is None:
        grants = frozenset(
            {(None, "CONNECT", False), (None, "TEMPORARY", False)}
            | {(owner, privilege, False) for privilege in ("CREATE", "CONNECT", "TEMPORARY")}
        )
    holders = {role for role, _privilege, _grantable in present.grants or ()} | {None, owner}
    for role in sorted(holders, key=str):
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(name, _grantee(role)))
    for role, privilege, grantable in sorted(grants, key=str):
        cursor.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                name,
                _grantee(role),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )


def _grantee(role: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if role is None else sql.Identifier(role)
