"""The definitions of kept tables: put into the temporary database before the hooks, and compared
with those of the live one before the swap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import sql

from .connection import Connection, ConnectionParams, one_row, remove_session_limits
from .errors import Conflict
from .kept import Keeping, KeptTable, find_kept
from .names import TableName
from .refusals import explained
from .server import Server

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
    server: Server,
    live: ConnectionParams,
    temporary: ConnectionParams,
    keeping: Keeping,
    copy_definitions: CopyDefinitions,
    *,
    patience: float,
) -> Agreed:
    """Makes the kept tables of ``temporary`` those of ``live``, and empties them.

    Both are on ``server``. ``patience``: seconds for which ``live`` may admit no connection.

    Before the hooks, so that ``migrate`` meets tables that exist and knows their migrations.
    """
    with ExitStack() as stack:
        of_live = stack.enter_context(closing(server.connect_in_time(live, patience)))
        remove_session_limits(of_live)
        of_temporary = stack.enter_context(temporary.session(autocommit=False))
        remove_session_limits(of_temporary)
        with of_live.cursor() as there, of_temporary.cursor() as here:
            tables = [table.name for table in find_kept(there, keeping)]
            if not tables:
                return Agreed({}, {})
            migrations = keeping.migrations
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


def definitions(cursor: Any, tables: Sequence[TableName]) -> dict[TableName, tuple[Any, ...]]:
    """What each table that exists is made of; equal for tables that are alike."""
    found = {}
    for table in tables:
        cursor.execute("SELECT to_regclass(%s)::oid", [table.quoted])
        oid = one_row(cursor)[0]
        if oid is not None:
            found[table] = tuple(_rows(cursor, query, oid) for query in _DEFINITION)
    return found


def _rows(cursor: Any, query: str, oid: int) -> tuple[tuple[Any, ...], ...]:
    cursor.execute(query, [oid])
    return tuple(cursor.fetchall())


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
