"""Writes a table anew with other values in it: heap and indexes once, and no dead row is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2 import sql

from ...core.connection import one_row
from ...core.names import TableName
from .catalog import FAMILY, Relation, identifier

_FINAL = ("08", "22", "23", "40", "53", "55P03", "57")
"""Errors that are those of the rows, or of the moment: an UPDATE would fare no better."""

_MARK = "pgclone_rewriting"

_FORMS = f"""
{FAMILY}
SELECT n.nspname, c.relname, attname, format_type(atttypid, atttypmod), quote_ident(cn.nspname)
       || '.' || quote_ident(collname), attstorage, to_jsonb(a) ->> 'attcompression'
  FROM family JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
  LEFT JOIN pg_collation l ON l.oid = attcollation
  LEFT JOIN pg_namespace cn ON cn.oid = collnamespace
 WHERE attname = ANY(%(columns)s)
"""  # noqa: S608 - of constants

# Everything that hangs on a table or a column of it, but oids of what is made anew.
_STATE = f"""
{FAMILY}, state(what) AS (
    SELECT jsonb_build_array('table', c.oid, c.relname, c.relnamespace, c.reltype, c.relowner,
           c.relam, c.reltablespace, c.relpersistence, c.relreplident, c.relacl::text,
           c.reloptions, t.reloptions)
      FROM family JOIN pg_class c USING (oid) LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    UNION ALL
    SELECT jsonb_build_array('column', col_description(attrelid, attnum),
           pg_get_expr(adbin, adrelid), to_jsonb(a)
           - '{{attndims,attcacheoff,atthasmissing,attmissingval}}'::text[])
      FROM family JOIN pg_attribute a ON attrelid = oid AND attnum > 0
      LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
    UNION ALL
    SELECT jsonb_build_array('index', pg_get_indexdef(indexrelid), relowner, reltablespace,
           reloptions, obj_description(indexrelid, 'pg_class'),
           (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = indexrelid),
           (SELECT jsonb_agg(to_jsonb(a) - 'attrelid' - 'attcacheoff' ORDER BY attnum)
              FROM pg_attribute a WHERE attrelid = indexrelid),
           to_jsonb(i) - '{{indexrelid,indcheckxmin,indexprs,indpred}}'::text[])
      FROM family JOIN pg_index i ON indrelid = family.oid JOIN pg_class c ON c.oid = indexrelid
    UNION ALL
    SELECT jsonb_build_array('constraint', pg_get_constraintdef(c.oid), conname, conrelid,
           contype, condeferrable, condeferred, convalidated, conislocal, coninhcount,
           connoinherit, obj_description(c.oid, 'pg_constraint'),
           (SELECT p.conname FROM pg_constraint p WHERE p.oid = c.conparentid),
           (SELECT jsonb_agg(DISTINCT tgenabled) FROM pg_trigger WHERE tgconstraint = c.oid))
      FROM pg_constraint c WHERE conrelid IN (TABLE family) OR confrelid IN (TABLE family)
    UNION ALL
    SELECT jsonb_build_array('statistics', pg_get_statisticsobjdef(s.oid), stxowner,
           to_jsonb(s) -> 'stxstattarget', obj_description(s.oid, 'pg_statistic_ext'))
      FROM family JOIN pg_statistic_ext s ON stxrelid = family.oid)
SELECT coalesce(jsonb_agg(what ORDER BY what), '[]')::text FROM state
"""  # noqa: S608 - of constants

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def rewrite(
    cursor: Any, relation: Relation, new: Mapping[str, sql.Composed]
) -> frozenset[TableName] | None:
    """Gives the columns of all rows the values ``new``; which tables now lie in new files.

    None, and nothing has happened, where PostgreSQL does not change a column so, such as one that a
    view shows, or where anything but the rows would not be as it was. It raises where an UPDATE
    would raise, too.
    """
    cursor.execute(f"SAVEPOINT {_MARK}")
    try:
        before = _files(cursor, relation)
        is_done = _alter(cursor, relation, new)
        after = _files(cursor, relation)
    except psycopg2.Error as error:
        if error.pgcode is None or error.pgcode.startswith(_FINAL):
            raise
        is_done = False
    if not is_done:
        cursor.execute(f"ROLLBACK TO SAVEPOINT {_MARK}")
    cursor.execute(f"RELEASE SAVEPOINT {_MARK}")
    if not is_done:
        return None
    # A column that becomes what it was is no reason to write a table.
    return frozenset(name for name in after if after[name] != before[name])


def count(cursor: Any, relation: Relation) -> int:
    cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(relation.identifier))
    return int(one_row(cursor)[0])


def _alter(cursor: Any, relation: Relation, new: Mapping[str, sql.Composed]) -> bool:
    """Whether all but the rows is as it was."""
    state = _state(cursor, relation)
    forms = _forms(cursor, relation, new)
    parts = []
    for name in new:
        type_, collation, *stored = forms[relation.name, name]
        form = type_ if collation is None else f"{type_} COLLATE {collation}"
        parts.append(
            sql.SQL("ALTER {} TYPE {} USING {}").format(
                sql.Identifier(name), sql.SQL(form), new[name]
            )
        )
        # A new type brings its own, and in the same statement the rows are written as these say.
        parts += _stored(name, *stored)
    cursor.execute(
        sql.SQL("ALTER TABLE {} {}").format(relation.identifier, sql.SQL(", ").join(parts))
    )
    # Partitions and what inherits may store a column in another way than their parent.
    for (table, name), (_, _, *stored) in forms.items():
        parts = _stored(name, *stored)
        if table != relation.name and parts:
            cursor.execute(
                sql.SQL("ALTER TABLE ONLY {} {}").format(
                    identifier(table), sql.SQL(", ").join(parts)
                )
            )
    return _state(cursor, relation) == state


def _stored(name: str, storage: str, compression: str | None) -> list[sql.Composed]:
    column = sql.Identifier(name)
    method = _COMPRESSION.get(compression or "", "default")
    parts = [sql.SQL("ALTER {} SET STORAGE {}").format(column, sql.SQL(_STORAGE[storage]))]
    # Before version 14 there is one method, and no word for it.
    if compression is not None:
        parts.append(sql.SQL("ALTER {} SET COMPRESSION {}").format(column, sql.SQL(method)))
    return parts


def _forms(
    cursor: Any, relation: Relation, new: Mapping[str, sql.Composed]
) -> dict[tuple[TableName, str], tuple[Any, ...]]:
    """Of each column of each table: type, collation, storage, compression."""
    cursor.execute(_FORMS, {"oid": relation.oid, "columns": list(new)})
    return {(TableName(*row[:2]), row[2]): row[3:] for row in cursor.fetchall()}


def _state(cursor: Any, relation: Relation) -> str:
    cursor.execute(_STATE, {"oid": relation.oid})
    return str(one_row(cursor)[0])


def _files(cursor: Any, relation: Relation) -> dict[TableName, int]:
    found = {}
    for name in relation.leaves:
        cursor.execute("SELECT pg_relation_filenode(%s::regclass)", [name.quoted])
        found[name] = int(one_row(cursor)[0])
    return found
