"""Statements about the rows of kept tables: which have changed, and which may be gone.

Those that are sent while writers wait are about all tables at once: each of them is a way to the
server and back, and a site may keep many tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2 import sql

from .kept import KeptTable

FEW_KEYS = 500
"""Keys that are looked up by one statement."""

CAME = sql.Identifier("pg_temp", "pgclone_came")
"""The rows of all tables that have changed: the place of the table, and the row as text."""


def copy_out(table: KeptTable) -> sql.Composable:
    return sql.SQL("COPY (SELECT {} FROM {} AS t WHERE ({})) TO STDOUT").format(
        names_of(table.columns, "t"), table.identifier, sql.SQL(table.condition)
    )


def copy_in(target: sql.Composable, columns: Sequence[str]) -> sql.Composable:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(target, names_of(columns))


def staging_table(place: int) -> sql.Composable:
    """Where the rows of one table that have changed are put before they are taken over."""
    return sql.Identifier("pg_temp", f"pgclone_changed_{place}")


def make_staging(tables: Sequence[KeptTable]) -> sql.Composable:
    statements: list[sql.Composable] = [
        sql.SQL("CREATE TEMPORARY TABLE pgclone_came (place integer, line text) ON COMMIT DROP")
    ]
    for place, table in enumerate(tables):
        if table.key:
            statements.append(
                sql.SQL(
                    "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} LIMIT 0"
                ).format(
                    sql.Identifier(f"pgclone_changed_{place}"),
                    names_of(table.columns),
                    table.identifier,
                )
            )
    return sql.SQL("; ").join(statements)


def all_changed(tables: Sequence[KeptTable], horizon: str) -> sql.Composable:
    """The rows of all tables that were written since; of a table without a key one, as a sign."""
    branches = [
        sql.SQL(
            "(SELECT {}, {} FROM {} AS t WHERE ({}) AND age(t.xmin) <= (SELECT age({}::xid)) {})"
        ).format(
            sql.Literal(place),
            sql.SQL("ROW({})::text").format(names_of(table.columns, "t"))
            if table.key
            else sql.SQL("NULL::text"),
            table.identifier,
            sql.SQL(table.condition),
            # Computed once, not for each row.
            sql.Literal(horizon),
            sql.SQL("" if table.key else "LIMIT 1"),
        )
        for place, table in enumerate(tables)
    ]
    return sql.SQL("COPY ({}) TO STDOUT").format(sql.SQL(" UNION ALL ").join(branches))


def all_candidates(tables: Sequence[KeptTable], horizon: str) -> sql.Composable:
    """The keys of rows of all tables that were there at the last copy and may have been deleted
    since; of a table without a key one row, as a sign.

    An ``xmax`` that was there before is that of somebody who only locked the row. It is told by its
    age, unless it may be the number of a multixact, whose age tells nothing here.
    """
    branches = [
        sql.SQL(
            "(SELECT {}, {} FROM {} AS t WHERE ({}) AND t.xmax <> '0'::xid"
            " AND (age(t.xmax) <= (SELECT age({}::xid)) OR mxid_age(t.xmax) > 0) {})"
        ).format(
            sql.Literal(place),
            sql.SQL("ARRAY[{}]::text[]").format(keys_as_text(table)),
            table.identifier,
            sql.SQL(table.condition),
            sql.Literal(horizon),
            sql.SQL("" if table.key else "LIMIT 1"),
        )
        for place, table in enumerate(tables)
    ]
    return sql.SQL(" UNION ALL ").join(branches)


def still_there(table: KeptTable, keys: Sequence[tuple[str, ...]]) -> sql.Composable:
    return sql.SQL("SELECT {} FROM {} AS t WHERE {} AND ({})").format(
        keys_as_text(table), table.identifier, is_among(table, keys), sql.SQL(table.condition)
    )


def delete_keys(table: KeptTable, keys: Sequence[tuple[str, ...]]) -> sql.Composable:
    return sql.SQL("DELETE FROM {} AS t WHERE {}").format(table.identifier, is_among(table, keys))


def take_over(table: KeptTable, place: int, *, analyze: bool) -> sql.Composable:
    """Brings the rows of one table that came into the table itself.

    First the changes, then what is new: a value that has to be unique may have gone from one row to
    another. No statement joins with a table that grows meanwhile, whatever the planner believes.
    """
    staged = staging_table(place)
    statements = [
        # The row is read once, not for each of its columns.
        sql.SQL(
            "INSERT INTO {staged} SELECT (r.line).* FROM (SELECT line::{staged} AS line FROM {came}"
            " WHERE place = {place} OFFSET 0) AS r"
        ).format(staged=staged, came=CAME, place=sql.Literal(place)),
        sql.SQL("ANALYZE {}").format(staged),
    ]
    others = [column for column in table.columns if column not in table.key]
    if others:
        changes = sql.SQL(", ").join(
            sql.SQL("{} = s.{}").format(sql.Identifier(c), sql.Identifier(c)) for c in others
        )
        statements.append(
            sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}").format(
                table.identifier, changes, staged, same_key(table, "s")
            )
        )
    statements.append(
        sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s"
            " ON CONFLICT ({}) DO NOTHING"
        ).format(
            table.identifier,
            names_of(table.columns),
            names_of(table.columns, "s"),
            staged,
            names_of(table.key),
        )
    )
    if analyze:
        statements.append(sql.SQL("ANALYZE {}").format(table.identifier))
    return sql.SQL("; ").join(statements)


def sequence_values(tables: Sequence[KeptTable]) -> sql.Composable:
    """An expression: where each sequence of the tables is, and whether it was called."""
    values = [
        sql.SQL("(SELECT ARRAY[last_value, is_called::integer::bigint] FROM {})").format(
            sql.Identifier(sequence.schema, sequence.name)
        )
        for table in tables
        for sequence in table.sequences
    ]
    return sql.SQL("ARRAY[{}]::bigint[]").format(sql.SQL(", ").join(values))


def set_sequences(tables: Sequence[KeptTable], values: Sequence[tuple[int, int]]) -> sql.Composable:
    names = [sequence for table in tables for sequence in table.sequences]
    calls = [
        sql.SQL("setval({}::regclass, {}, {})").format(
            sql.Literal(name.quoted), sql.Literal(last), sql.Literal(bool(called))
        )
        for name, (last, called) in zip(names, values, strict=True)
    ]
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))


def keys_as_text(table: KeptTable) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("t.{}::text").format(sql.Identifier(column)) for column in table.key
    )


def is_among(table: KeptTable, keys: Sequence[tuple[str, ...]]) -> sql.Composable:
    return sql.SQL("({}) IN {}").format(names_of(table.key, "t"), sql.Literal(tuple(keys)))


def same_key(table: KeptTable, alias: str) -> sql.Composable:
    return sql.SQL(" AND ").join(
        sql.SQL("t.{} = {}.{}").format(sql.Identifier(c), sql.SQL(alias), sql.Identifier(c))
        for c in table.key
    )


def names_of(columns: Sequence[str], alias: str = "") -> sql.Composable:
    prefix = sql.SQL(f"{alias}." if alias else "")
    return sql.SQL(", ").join(prefix + sql.Identifier(column) for column in columns)


def names_of_tables(tables: Sequence[KeptTable]) -> sql.Composable:
    return sql.SQL(", ").join(table.identifier for table in tables)
