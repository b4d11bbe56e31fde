"""What a database has besides its contents: settings, grants, security labels, connection limit.

A dump does not hold them, and a rename does not carry them: they stay with the parked database
unless they are put onto the new one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import one_row
from .errors import NotCarried
from .marks import Database
from .refusals import explained

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

NOT_TO_BE_CARRIED = (
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.UndefinedObject,
    psycopg2.errors.InvalidParameterValue,
    psycopg2.errors.CantChangeRuntimeParam,
)
"""What the server answers when a setting or grant is one that it does not take from this role, or
not any more; another try gets the same answer."""

_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*?))\s*(?:,|$)')


@dataclass(frozen=True)
class Properties:
    """Settings as (role or ``None``, name, value); grants as (role or ``None`` for PUBLIC,
    privilege, with grant option), or ``None`` for the grants every new database has; security
    labels as (provider, label). Grants are made by the owner again, whoever had made them."""

    settings: frozenset[tuple[str | None, str, str]]
    grants: frozenset[tuple[str | None, str, bool]] | None
    connection_limit: int
    labels: frozenset[tuple[str, str]] = frozenset()

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
        cursor.execute(
            "SELECT provider, label FROM pg_shseclabel"
            " WHERE classoid = 'pg_database'::regclass AND objoid = %s",
            [database.oid],
        )
        labels = frozenset(cursor.fetchall())
        return cls(settings, None if untouched else grants, connection_limit, labels)

    def without_what_closes(self) -> Properties:
        """Without connection limit and read-only transactions."""
        settings = {entry for entry in self.settings if entry[1] not in CLOSING_SETTINGS}
        return replace(self, settings=frozenset(settings), connection_limit=-1)


@dataclass(frozen=True)
class Uncarried:
    """A setting, grant or security label that cannot be put onto another database."""

    name: str
    """By which its loss is accepted: ``setting``, ``role:setting``, what is granted to whom, or
    ``SECURITY LABEL`` and its provider."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"

    def told(self, database: str) -> str:
        """For one whose loss was accepted."""
        return f'{self.name} of the database "{database}" is not carried over: {self.reason}'


def carry(
    cursor: Any,
    source: Database,
    target: Database,
    target_name: str,
    *,
    still_to_be_filled: bool = False,
    lose_settings: Collection[str] = (),
) -> list[Uncarried]:
    """Makes the properties of ``target`` those of ``source``; within the caller's transaction.

    Returns those of the names ``lose_settings`` that cannot be carried; :class:`NotCarried` lists
    the others. ``target_name`` is the name that ``target`` has at this point of the transaction.
    ``still_to_be_filled`` leaves out what keeps people from a database that is closed for a while,
    and would keep its restore from it too.
    """
    left = carry_what_can_be(
        cursor, source, target, target_name, still_to_be_filled=still_to_be_filled
    )
    check_accepted(left, source.name, lose_settings)
    return left


def check_accepted(
    left: Iterable[Uncarried], database: str, lose_settings: Collection[str]
) -> None:
    """:class:`NotCarried` for what cannot be carried and is not named by ``lose_settings``."""
    if refused := [each for each in left if each.name not in lose_settings]:
        names = shlex.join(each.name for each in refused)
        raise NotCarried(
            f'settings or grants of the database "{database}" cannot be carried over: '
            + ", ".join(map(str, refused)),
            hint="Restore with a role that may set them, see PGCLONE_CONNECTIONS, or accept that "
            f"they are lost with --lose-settings {names} or PGCLONE_LOSE_SETTINGS.",
        )


def carry_what_can_be(
    cursor: Any,
    source: Database,
    target: Database,
    target_name: str,
    *,
    still_to_be_filled: bool = False,
) -> list[Uncarried]:
    """As :func:`carry`, but returns everything that cannot be carried."""
    wanted = Properties.read(cursor, source)
    if still_to_be_filled:
        wanted = wanted.without_what_closes()
    present = Properties.read(cursor, target)
    left: dict[str, Uncarried] = {}
    try:
        for name, statement in _statements(wanted, present, target_name, owner=source.owner):
            try:
                _execute_as_either(cursor, statement, source.owner)
            except NOT_TO_BE_CARRIED as error:
                left[name] = Uncarried(name, error.diag.message_primary or str(error).strip())
                cursor.execute("ROLLBACK TO SAVEPOINT as_this_role")
            cursor.execute("RELEASE SAVEPOINT as_this_role")
    except psycopg2.Error as error:
        raise explained(error, "the settings of the database cannot be carried over") from error
    return sorted(left.values(), key=lambda each: each.name)


def _statements(
    wanted: Properties, present: Properties, target_name: str, *, owner: str
) -> Iterator[tuple[str, sql.Composable]]:
    """What makes the properties ``wanted`` of the ``present`` ones, each with its name."""
    name = sql.Identifier(target_name)
    yield from _settings(wanted, present, name)
    if wanted.grants != present.grants:
        yield from _grants(wanted, present, name, owner=owner)
    for provider, label in sorted(wanted.labels - present.labels):
        yield (
            f"SECURITY LABEL {provider}",
            sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}").format(
                sql.Identifier(provider), name, sql.Literal(label)
            ),
        )
    if wanted.connection_limit != present.connection_limit:
        yield (
            "CONNECTION LIMIT",
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(
                name, sql.Literal(wanted.connection_limit)
            ),
        )


def _settings(
    wanted: Properties, present: Properties, name: sql.Composable
) -> Iterator[tuple[str, sql.Composable]]:
    for role, setting, _value in sorted(present.settings - wanted.settings, key=str):
        yield (
            _name_of(role, setting),
            sql.SQL("ALTER {} RESET {}").format(_whose(role, name), _setting_name(setting)),
        )
    for role, setting, value in sorted(wanted.settings - present.settings, key=str):
        yield (
            _name_of(role, setting),
            sql.SQL("ALTER {} SET {} TO {}").format(
                _whose(role, name), _setting_name(setting), _setting_value(setting, value)
            ),
        )


def _name_of(role: str | None, setting: str) -> str:
    return setting if role is None else f"{role}:{setting}"


def _execute_as_either(cursor: Any, statement: sql.Composable, owner: str) -> None:
    """As this role or, where that is refused, as the owner of the database; after a savepoint,
    which is the caller's to release.

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


def _grants(
    wanted: Properties, present: Properties, name: sql.Composable, *, owner: str
) -> Iterator[tuple[str, sql.Composable]]:
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
        yield (
            f"REVOKE FROM {role or 'PUBLIC'}",
            sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(name, _grantee(role)),
        )
    for role, privilege, grantable in sorted(grants, key=str):
        yield (
            f"{privilege} TO {role or 'PUBLIC'}",
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege),
                name,
                _grantee(role),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            ),
        )


def _grantee(role: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if role is None else sql.Identifier(role)
