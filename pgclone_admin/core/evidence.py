"""What an anonymized database says of itself, in a table that travels with its dumps and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2 import sql

from .catalog import migrations_table
from .names import TableName

TABLE = "pgclone_anonymized"

COMMENT = (
    "Written by pgclone_admin: the fields listed here were anonymized at this time. A database "
    "without this table holds raw rows."
)

_COLUMNS = {"at": "timestamp with time zone", "digest": "text", "fields": "text[]"}


@dataclass(frozen=True)
class Evidence:
    """By which map, which fields and when. ``digest`` is that of the :class:`Anonymization`."""

    digest: str
    fields: tuple[str, ...]
    at: datetime


def read(cursor: Any) -> Evidence | None:
    """What the database of ``cursor`` says; None where it was not anonymized.

    A table of this name that was not made by :func:`write` counts as none.
    """
    table = _table(cursor)
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r'"
        " AND attnum > 0 AND NOT attisdropped",
        [table.schema, table.name],
    )
    if dict(cursor.fetchall()) != _COLUMNS:
        return None
    query = "SELECT digest, fields, at FROM {} ORDER BY at DESC LIMIT 1"
    cursor.execute(query.format(table.quoted))
    row = cursor.fetchone()
    return None if row is None else Evidence(row[0], tuple(row[1]), row[2])


def write(cursor: Any, *, digest: str, fields: Sequence[str]) -> None:
    """Leaves the evidence, in place of what there was."""
    table = _table(cursor)
    name = sql.Identifier(table.schema, table.name)
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    cursor.execute(
        sql.SQL(
            "CREATE TABLE {} (at timestamptz NOT NULL, digest text NOT NULL,"
            " fields text[] NOT NULL)"
        ).format(name)
    )
    cursor.execute(
        sql.SQL("INSERT INTO {} VALUES (clock_timestamp(), %s, %s)").format(name),
        [digest, list(fields)],
    )
    cursor.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(name, sql.Literal(COMMENT)))


def _table(cursor: Any) -> TableName:
    """In the schema in which Django keeps its tables."""
    migrations = migrations_table(cursor)
    return TableName("public" if migrations is None else migrations.schema, TABLE)
