"""Statements about the rows of a kept table: which have changed, and which may be gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from .kept import KeptTable

FEW_KEYS = 500
"""Keys that are looked up by one statement."""


def copy_out(table: KeptTable, columns: Sequence[str], since: str | None = None) -> sql.Composable:
    query = sql.SQL("SELECT {} FROM {} AS t WHERE ({})").format(
        names_of(columns, "t"), table.identifier, sql.SQL(table.condition)
    )
    if since is not None:
        # The other side is computed once, not for each row.
        changed = sql.SQL(" AND age(t.xmin) <= (SELECT age({}::xid))")
        query += changed.format(sql.Literal(since))
    return sql.SQL("COPY ({}) TO STDOUT").format(query)


def copy_in(target: sql.Composable, columns: Sequence[str]) -> sql.Composable:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(target, names_of(columns))


def staging_table(here: Any, table: KeptTable) -> sql.Composable:
    """A table of its own for the rows that have changed."""
    here.execute("DROP TABLE IF EXISTS pg_temp.pgclone_changed")
    here.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE pgclone_changed ON COMMIT DROP AS SELECT {} FROM {} LIMIT 0"
        ).format(names_of(table.columns), table.identifier)
    )
    return sql.Identifier("pg_temp", "pgclone_changed")


def first_candidates(candidates: Any, table: KeptTable, horizon: str) -> list[Any]:
    """The first keys of rows that were there at the last copy and may have been deleted since.

    An ``xmax`` that was there before is that of somebody who only locked the row. It is told by its
    age, unless it may be the number of a multixact, whose age tells nothing here.
    """
    candidates.execute(
        sql.SQL(
            "SELECT {} FROM {} AS t WHERE ({}) AND t.xmax <> '0'::xid"
            " AND (age(t.xmax) <= (SELECT age({}::xid)) OR mxid_age(t.xmax) > 0)"
        ).format(
            keys_as_text(table),
            table.identifier,
            sql.SQL(table.condition),
            sql.Literal(horizon),
        )
    )
    keys: list[Any] = candidates.fetchmany(FEW_KEYS)
    return keys


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
