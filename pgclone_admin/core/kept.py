"""Kept tables: tables that belong to the running site, not to its data.

History, queue and logins of a site lie in the database that a restore replaces. The tables that
hold them keep the definition and the rows of the live database. Here is which tables these are;
their definitions are in :mod:`.kept_definitions`, and their rows are brought over by
:mod:`.carrier`, at the time of the swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from psycopg2 import sql

from .connection import one_row
from .errors import Conflict
from .names import TableName


class RowRule(Protocol):
    """Says which rows of a kept table do not come along, beside those its condition leaves out."""

    columns: Sequence[str]

    def prepare(self, live: Any, temporary: Any) -> bool:
        """Looks at both databases, by their cursors; whether any row may have to stay behind."""

    def is_left_behind(self, values: Sequence[Any]) -> bool:
        """Whether the row with these values of ``columns`` does."""


@dataclass(frozen=True, kw_only=True)
class KeptName:
    """What a site says of one table that it keeps.

    ``name`` is a quoted SQL name. ``condition`` is SQL that is true for the rows to bring over; it
    has to say the same of the same row at any time.
    """

    name: str
    condition: str = "true"
    rule: RowRule | None = None


@dataclass(frozen=True)
class Keeping:
    """The tables that a site keeps, and the labels of the apps that own them: their migrations
    count as applied in the restored database exactly as far as they are in the live one."""

    tables: Sequence[KeptName] = ()
    apps: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class KeptTable:
    """One kept table as the catalog of the live database has it."""

    oid: int
    name: TableName
    columns: tuple[str, ...]
    """Without generated ones."""
    key: tuple[str, ...]
    """The columns of the primary key; empty for a table that has none."""
    sequences: tuple[TableName, ...]
    condition: str
    rule: RowRule | None

    @property
    def shape(self) -> tuple[object, ...]:
        """What has to stay as it is while rows are copied from one moment to another."""
        return self.oid, self.name, self.columns, self.key, self.sequences

    @property
    def identifier(self) -> sql.Composable:
        return sql.Identifier(self.name.schema, self.name.name)


def find_kept(cursor: Any, keeping: Keeping) -> list[KeptTable]:
    """The kept tables that exist in the database of ``cursor``, those that are referred to first.

    :class:`Conflict` when a foreign key leads from a kept table to another one or back: such a row
    could not be kept without the other.
    """
    found: dict[int, KeptTable] = {}
    for kept in keeping.tables:
        cursor.execute("SELECT to_regclass(%s)::oid", [kept.name])
        oid = one_row(cursor)[0]
        if oid is not None and oid not in found:
            found[oid] = _describe(cursor, oid, kept)
    references = _references(cursor, list(found))
    _check_closed(references, found)
    return _in_order(found, references)


def _describe(cursor: Any, oid: int, kept: KeptName) -> KeptTable:
    cursor.execute(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [oid],
    )
    schema, name, kind = one_row(cursor)
    if kind != "r":
        raise Conflict(
            f"{kept.name} cannot be kept: it is no ordinary table",
            hint="Nothing was changed. Take its app out of PGCLONE_KEEP_APPS.",
        )
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [oid],
    )
    columns = tuple(row[0] for row in cursor.fetchall())
    cursor.execute(
        """
        SELECT a.attname FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, place)
          JOIN pg_attribute a ON a.attnum = k.num
         WHERE i.indrelid = %s AND i.indisprimary AND a.attrelid = i.indrelid ORDER BY k.place
        """,
        [oid],
    )
    key = tuple(row[0] for row in cursor.fetchall())
    cursor.execute(
        """
        SELECT n.nspname, s.relname FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
         WHERE s.relkind = 'S' AND s.oid IN (
            SELECT d.objid FROM pg_depend d
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
               AND d.refobjid = %(oid)s AND d.deptype IN ('a', 'i')
             UNION ALL  -- what a default uses and the table does not own
            SELECT d.refobjid FROM pg_attrdef a JOIN pg_depend d ON d.objid = a.oid
             WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
               AND a.adrelid = %(oid)s)
         ORDER BY 1, 2
        """,
        {"oid": oid},
    )
    sequences = tuple(TableName(*row) for row in cursor.fetchall())
    return KeptTable(
        oid=oid,
        name=TableName(schema, name),
        columns=columns,
        key=key,
        sequences=sequences,
        condition=kept.condition,
        rule=kept.rule,
    )


def _references(cursor: Any, oids: list[int]) -> list[tuple[int, int, str]]:
    """Foreign keys from or to the tables: from, to, and how to call them."""
    cursor.execute(
        """
        SELECT conrelid, confrelid, format('%%s (from %%s to %%s)', conname, conrelid::regclass,
                                           confrelid::regclass)
          FROM pg_constraint
         WHERE contype = 'f' AND conrelid <> confrelid
           AND (conrelid = ANY(%(oids)s::oid[]) OR confrelid = ANY(%(oids)s::oid[]))
         ORDER BY conname
        """,
        {"oids": oids},
    )
    return list(cursor.fetchall())


def _check_closed(references: list[tuple[int, int, str]], found: dict[int, KeptTable]) -> None:
    if open_keys := [text for one, other, text in references if not {one, other} <= found.keys()]:
        raise Conflict(
            f"kept tables have foreign keys from or to other tables: {', '.join(open_keys)}",
            hint="Nothing was changed. A kept table may refer to kept tables only: change "
            "PGCLONE_KEEP_APPS, or the models.",
        )


def _in_order(
    found: dict[int, KeptTable], references: list[tuple[int, int, str]]
) -> list[KeptTable]:
    ordered: list[int] = []
    waiting = sorted(found, key=lambda oid: found[oid].name)
    while waiting:
        ready = [
            oid
            for oid in waiting
            if not any(one == oid and other in waiting for one, other, _text in references)
        ]
        # Tables that refer to one another in a circle: any order is as good.
        ordered += ready or waiting
        waiting = [oid for oid in waiting if oid not in ordered]
    return [found[oid] for oid in ordered]
