"""The tables of a map as they are in the database, and how they are changed undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from ...core.catalog import ENABLE
from ...core.connection import one_row
from ...core.errors import ConfigurationError, PermissionMissing
from ...core.names import TableName
from .mapping import TableChange

_ALTER = "ALTER TABLE ONLY {table}"


@dataclass(frozen=True)
class Relation:
    """One table. ``types`` has the type of each column, ``leaves`` the tables that hold rows: the
    table itself, its partitions and what inherits from it."""

    oid: int
    name: TableName
    types: dict[str, str]
    leaves: tuple[TableName, ...]
    has_parts: bool

    @property
    def identifier(self) -> sql.Composed:
        return identifier(self.name)


def identifier(name: TableName) -> sql.Composed:
    return sql.SQL("{}.{}").format(sql.Identifier(name.schema), sql.Identifier(name.name))


FAMILY = """
WITH RECURSIVE family(oid) AS (
    SELECT %(oid)s::oid UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = oid)
"""

_MEMBERS = f"""
{FAMILY}
SELECT n.nspname, c.relname, c.relkind, pg_has_role(c.relowner, 'USAGE')
  FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY c.oid <> %(oid)s, n.nspname, c.relname
"""  # noqa: S608 - of constants

# Before version 15 what a partition has of a trigger of its parent is internal.
_ACTIVE = f"""
{FAMILY}
SELECT n.nspname, c.relname, found.*
  FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL (
    SELECT 'TRIGGER', tgname, tgenabled FROM pg_trigger
     WHERE tgrelid = c.oid AND tgenabled <> 'D'
       AND (NOT tgisinternal OR tgparentid <> 0 AND tgconstraint = 0)
    UNION ALL
    SELECT 'RULE', rulename, ev_enabled FROM pg_rewrite
     WHERE ev_class = c.oid AND ev_enabled <> 'D') AS found(kind, name, state)
 ORDER BY c.oid <> %(oid)s, c.oid, kind, name
"""  # noqa: S608 - of constants


def find(cursor: Any, change: TableChange) -> Relation:
    """The table of a change; an error of ours where it could not be changed in all of its rows."""
    cursor.execute("SELECT to_regclass(%s)::oid", [change.table])
    oid = one_row(cursor)[0]
    if oid is None:
        raise ConfigurationError(
            f"{change.label} cannot be anonymized: the database has no table {change.table}",
            hint=_OLDER,
        )
    cursor.execute(_MEMBERS, {"oid": oid})
    family = cursor.fetchall()
    for schema, name, kind, is_owner in family:
        if kind not in {"r", "p"}:
            raise ConfigurationError(
                f"{change.label} cannot be anonymized: {schema}.{name} is no table of this "
                "database",
                hint="Views and foreign tables show rows of other tables. Nothing was changed.",
            )
        if not is_owner:
            raise PermissionMissing(
                f"{change.label} cannot be anonymized: the role does not own {schema}.{name}",
                hint="Only the owner can remove what is left of its rows. Nothing was changed.",
            )
    return Relation(
        oid=oid,
        name=TableName(*family[0][:2]),
        types=_types(cursor, change, oid),
        leaves=tuple(TableName(*row[:2]) for row in family if row[2] == "r"),
        has_parts=len(family) > 1,
    )


_OLDER = "The dump may be older than the model: let `migrate` run before. Nothing was changed."


def _types(cursor: Any, change: TableChange, oid: int) -> dict[str, str]:
    cursor.execute(
        "SELECT attname, format_type(atttypid, -1), attgenerated <> '' FROM pg_attribute"
        " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
        [oid],
    )
    found = {row[0]: row for row in cursor.fetchall()}
    for field in change.changed:
        if field.column not in found:
            raise ConfigurationError(
                f"{change.label}.{field.name} cannot be anonymized: {change.table} has no column "
                f'"{field.column}"',
                hint=_OLDER,
            )
        if found[field.column][2]:
            raise ConfigurationError(
                f"{change.label}.{field.name} cannot be anonymized: the database computes it",
                hint="Anonymize the columns that it is computed from. Nothing was changed.",
            )
    return {name: row[1] for name, row in found.items()}


@contextmanager
def undisturbed(cursor: Any, relation: Relation) -> Iterator[None]:
    """No trigger of users, no rule and no policy takes part; after it they are as they were.

    An error leaves it to the rollback to bring them back.
    """
    restoring = []
    for name, kind, own_name, state in _active(cursor, relation):
        names: dict[str, sql.Composable] = {
            "table": identifier(name),
            "name": sql.Identifier(own_name),
        }
        cursor.execute(sql.SQL(f"{_ALTER} DISABLE {kind} {{name}}").format(**names))
        restoring.append(sql.SQL(f"{_ALTER} {ENABLE[state]} {kind} {{name}}").format(**names))
    if _forces_policies(cursor, relation):
        names = {"table": relation.identifier}
        cursor.execute(sql.SQL(f"{_ALTER} NO FORCE ROW LEVEL SECURITY").format(**names))
        restoring.append(sql.SQL(f"{_ALTER} FORCE ROW LEVEL SECURITY").format(**names))
    yield
    for statement in restoring:
        cursor.execute(statement)


def _active(cursor: Any, relation: Relation) -> list[tuple[TableName, str, str, str]]:
    """Triggers of users and rules for updates: table, kind, name, state."""
    cursor.execute(_ACTIVE, {"oid": relation.oid})
    return [(TableName(*row[:2]), *row[2:]) for row in cursor.fetchall()]


def _forces_policies(cursor: Any, relation: Relation) -> bool:
    cursor.execute("SELECT relforcerowsecurity FROM pg_class WHERE oid = %s", [relation.oid])
    return bool(one_row(cursor)[0])


def materialized_views(cursor: Any) -> list[TableName]:
    """Those that hold rows, each after what it is made of."""
    cursor.execute(
        """
        WITH RECURSIVE source AS (
            SELECT DISTINCT r.ev_class AS view, d.refobjid AS of
              FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
               AND d.refobjid <> r.ev_class),
        level(oid, depth) AS (
            SELECT oid, 0 FROM pg_class WHERE relkind IN ('v', 'm')
            UNION SELECT source.view, depth + 1 FROM level JOIN source ON source.of = level.oid)
        SELECT n.nspname, c.relname FROM level JOIN pg_class c USING (oid)
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'm' AND c.relispopulated
         GROUP BY 1, 2 ORDER BY max(depth), 1, 2
        """
    )
    return [TableName(*row) for row in cursor.fetchall()]
