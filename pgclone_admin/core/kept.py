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

from .errors import Conflict
from .names import TableName

Reference = tuple[int, int, str]
"""A foreign key between two tables: the oid of the one that has it, that of the other, and how to
call it."""


class RowRule(Protocol):
    """Says which rows of a kept table do not come along, beside those its condition leaves out."""

    columns: Sequence[str]
    reads: Sequence[TableName]
    """Other tables of the live database that it looks into."""

    def prepare(self, live: Any, temporary: Any) -> bool:
        """Looks at both databases, by their cursors; whether any row may have to stay behind."""

    def is_left_behind(self, values: Sequence[Any]) -> bool:
        """Whether the row with these values of ``columns`` does."""


@dataclass(frozen=True, kw_only=True)
class KeptName:
    """What a site says of one table that it keeps.

    ``table`` exists in the live database. ``condition`` is SQL that is true for the rows to bring
    over; it has to say the same of the same row at any time.
    """

    table: TableName
    condition: str = "true"
    rule: RowRule | None = None


@dataclass(frozen=True)
class Keeping:
    """The tables that a site keeps, and the labels of the apps that own them: their migrations
    count as applied in the restored database exactly as far as they are in the live one."""

    tables: Sequence[KeptName] = ()
    apps: Sequence[str] = ()
    migrations: TableName | None = None
    """Where the live database says which migrations are applied."""


@dataclass(frozen=True, kw_only=True)
class KeptTable:
    """One kept table as the catalog of the live database has it."""

    oid: int
    name: TableName
    columns: tuple[str, ...]
    """Without generated ones."""
    key: tuple[str, ...]
    """The columns of the primary key; empty for a table that has none, or one that is deferrable:
    that one may hold a value twice for a while."""
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
    """The kept tables in the database of ``cursor``, those that are referred to first. One query,
    however many there are: writers may be waiting.

    :class:`Conflict` when one is missing, or is no ordinary table, or a foreign key leads from a
    kept table to another one or back: such a row could not be kept without the other.
    """
    wanted = {kept.table: kept for kept in keeping.tables}
    cursor.execute(_DESCRIPTION, [[t.schema for t in wanted], [t.name for t in wanted]])
    rows = cursor.fetchall()
    found: dict[int, KeptTable] = {}
    for oid, schema, name, kind, columns, key, sequences, _references in rows:
        kept = wanted[TableName(schema, name)]
        if kind != "r":
            raise Conflict(
                f"{kept.table} cannot be kept: it is no ordinary table",
                hint="Nothing was changed. Take its app out of PGCLONE_KEEP_APPS.",
            )
        found[oid] = KeptTable(
            oid=oid,
            name=kept.table,
            columns=tuple(columns),
            key=tuple(key),
            sequences=tuple(TableName(*sequence) for sequence in sequences),
            condition=kept.condition,
            rule=kept.rule,
        )
    if missing := sorted(wanted.keys() - {table.name for table in found.values()}):
        raise Conflict(
            f"the site has kept tables that are not here: {', '.join(map(str, missing))}",
            hint="The live database is as it was. Let DATABASES and PGCLONE_CONNECTIONS lead to "
            "the same database of the same server, and migrate nothing meanwhile.",
        )
    # Two tables may both tell of the same key.
    keys = {(one, other, text) for row in rows for one, other, text in row[-1]}
    references = sorted(keys, key=lambda key: key[2])
    _check_closed(references, found)
    return _in_order(found, references)


_DESCRIPTION = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                AND NOT attisdropped AND attgenerated = '' ORDER BY attnum),
       ARRAY(SELECT a.attname::text
               FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, place)
               JOIN pg_attribute a ON a.attnum = k.num
              WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate
                AND a.attrelid = c.oid ORDER BY k.place),
       ARRAY(SELECT ARRAY[m.nspname::text, s.relname::text]
               FROM pg_class s JOIN pg_namespace m ON m.oid = s.relnamespace
              WHERE s.relkind = 'S' AND s.oid IN (
                 SELECT d.objid FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')
                  UNION ALL  -- what a default uses and the table does not own
                 SELECT d.refobjid FROM pg_attrdef a JOIN pg_depend d ON d.objid = a.oid
                  WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND a.adrelid = c.oid)
              ORDER BY 1),
       coalesce((SELECT json_agg(json_build_array(
                           conrelid::bigint, confrelid::bigint,
                           format('%%s (from %%s to %%s)', conname, conrelid::regclass,
                                  confrelid::regclass)))
                   FROM pg_constraint
                  WHERE contype = 'f' AND conrelid <> confrelid AND c.oid IN (conrelid, confrelid)),
                '[]')
  FROM unnest(%s::text[], %s::text[]) AS kept(schema, name)
  JOIN pg_namespace n ON n.nspname = kept.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = kept.name
"""


def _check_closed(references: Sequence[Reference], found: dict[int, KeptTable]) -> None:
    if open_keys := [text for one, other, text in references if not {one, other} <= found.keys()]:
        raise Conflict(
            f"kept tables have foreign keys from or to other tables: {', '.join(open_keys)}",
            hint="Nothing was changed. A kept table may refer to kept tables only: change "
            "PGCLONE_KEEP_APPS, or the models.",
        )


def _in_order(found: dict[int, KeptTable], references: Sequence[Reference]) -> list[KeptTable]:
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
