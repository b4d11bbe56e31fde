"""Kept tables: tables that belong to the running site, not to its data.

History, queue and logins of a site lie in the database that a restore replaces. The tables that
hold them keep the definition and the rows of the live database. Here are their definitions; the
rows are brought over by :mod:`.carrier`, at the time of the swap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg2
from psycopg2 import sql

from .connection import Connection, ConnectionParams, one_row, remove_session_limits
from .errors import Conflict
from .names import TableName
from .refusals import explained


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


def definitions(cursor: Any, tables: Sequence[TableName]) -> dict[TableName, tuple[Any, ...]]:
    """What each table that exists is made of; equal for tables that are alike."""
    found = {}
    for table in tables:
        cursor.execute("SELECT to_regclass(%s)::oid", [table.quoted])
        oid = one_row(cursor)[0]
        if oid is not None:
            found[table] = tuple(_rows(cursor, query, oid) for query in _DEFINITION)
    return found


_DEFINITION = (
    """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
           a.attgenerated, pg_get_expr(d.adbin, d.adrelid), c.collname
      FROM pg_attribute a
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_collation c ON c.oid = a.attcollation
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname
    """,
    # Only what 18 lists as a constraint, and others as a property of the column, is left out.
    """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE conrelid = %s AND contype <> 'n' ORDER BY conname
    """,
    "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s ORDER BY 1",
    """
    SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger
     WHERE tgrelid = %s AND NOT tgisinternal ORDER BY tgname
    """,
    """
    SELECT n.nspname, s.relname, q.seqincrement, q.seqmax, q.seqmin, q.seqcycle,
           format_type(q.seqtypid, NULL)
      FROM pg_depend d JOIN pg_class s ON s.oid = d.objid JOIN pg_sequence q ON q.seqrelid = s.oid
      JOIN pg_namespace n ON n.oid = s.relnamespace
     WHERE d.refobjid = %s AND d.refclassid = 'pg_class'::regclass
       AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') ORDER BY 1, 2
    """,
    "SELECT relrowsecurity, relforcerowsecurity, relpersistence FROM pg_class WHERE oid = %s",
)


def _rows(cursor: Any, query: str, oid: int) -> tuple[tuple[Any, ...], ...]:
    cursor.execute(query, [oid])
    return tuple(cursor.fetchall())


CopyDefinitions = Callable[[Sequence[TableName]], None]
"""Makes tables of the live database in the temporary one, without their rows."""

Definitions = dict[TableName, tuple[Any, ...]]


@dataclass(frozen=True)
class Agreed:
    """The definitions of the kept tables in both databases when they were made the same.

    As text they can differ: an expression that went through pg_dump comes back written in another
    way.
    """

    live: Definitions
    temporary: Definitions


def put_definitions(
    live: ConnectionParams,
    temporary: ConnectionParams,
    keeping: Keeping,
    copy_definitions: CopyDefinitions,
) -> Agreed:
    """Makes the kept tables of ``temporary`` those of ``live``, and empties them.

    Before the hooks, so that ``migrate`` meets tables that exist and knows their migrations.
    """
    with live.session() as of_live, temporary.session(autocommit=False) as of_temporary:
        for connection in (of_live, of_temporary):
            remove_session_limits(connection)
        with of_live.cursor() as there, of_temporary.cursor() as here:
            tables = [table.name for table in find_kept(there, keeping)]
            if not tables:
                return Agreed({}, {})
            migrations = _migrations_table(there)
            wanted, present = definitions(there, tables), definitions(here, tables)
            # All or none: they may refer to one another.
            missing = tables if present != wanted else []
            if migrations is not None and not definitions(here, [migrations]):
                # Its definition is Django's affair; only where there is none at all, it is made.
                missing = [*missing, migrations]
            _drop(here, [table for table in missing if table in present])
            of_temporary.commit()
            if missing:
                copy_definitions(missing)
            _empty(here, tables)
            if migrations is not None:
                _copy_migrations(there, here, migrations, keeping.apps)
            of_temporary.commit()
            return Agreed(wanted, definitions(here, tables))


def _migrations_table(cursor: Any) -> TableName | None:
    cursor.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = to_regclass('django_migrations')"
    )
    row = cursor.fetchone()
    return None if row is None else TableName(*row)


def _drop(cursor: Any, tables: list[TableName]) -> None:
    if not tables:
        return
    names = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in tables)
    try:
        cursor.execute(sql.SQL("DROP TABLE {}").format(names))
    except psycopg2.Error as error:
        raise explained(
            error, "the kept tables of the dump cannot be replaced by those of the site"
        ) from error


def _empty(cursor: Any, tables: list[TableName]) -> None:
    names = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in tables)
    try:
        cursor.execute(sql.SQL("TRUNCATE {}").format(names))
    except psycopg2.Error as error:
        raise explained(error, "the kept tables of the dump cannot be emptied") from error


def _copy_migrations(there: Any, here: Any, table: TableName, apps: Sequence[str]) -> None:
    name = sql.Identifier(table.schema, table.name)
    there.execute(
        sql.SQL("SELECT app, name, applied FROM {} WHERE app = ANY(%s) ORDER BY id").format(name),
        [list(apps)],
    )
    applied = there.fetchall()
    # An app that the live database does not know keeps the tables and migrations it came with.
    known = sorted({row[0] for row in applied})
    here.execute(sql.SQL("DELETE FROM {} WHERE app = ANY(%s)").format(name), [known])
    for row in applied:
        here.execute(
            sql.SQL("INSERT INTO {} (app, name, applied) VALUES (%s, %s, %s)").format(name), row
        )


def check_definitions(
    live: Connection, temporary: Connection, tables: Sequence[KeptTable], agreed: Agreed | None
) -> None:
    """:class:`Conflict` unless the kept tables of both databases are alike, or as they were when
    they were ``agreed``: rows of one would not fit the other."""
    names = [table.name for table in tables]
    with live.cursor() as there, temporary.cursor() as here:
        of_live, of_temporary = definitions(there, names), definitions(here, names)
    if agreed is None:
        different = [name for name in names if of_temporary.get(name) != of_live[name]]
    else:
        different = [
            name
            for name in names
            if of_temporary.get(name) != agreed.temporary.get(name)
            or of_live[name] != agreed.live.get(name)
        ]
    if different:
        raise Conflict(
            "kept tables would be other ones after the restore than they are now: "
            + ", ".join(map(str, different)),
            hint="The live database was not touched. Run migrate on it first, so that its kept "
            "tables are what the code of the site expects.",
        )
