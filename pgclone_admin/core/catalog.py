"""What the system catalog says about tables, for whoever asks it."""

from __future__ import annotations

from typing import Any

from .names import TableName

ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
"""What brings a trigger or rule back to the state that the catalog calls so."""


def with_partitions(table: str) -> str:
    """The beginning of a query in which ``part(oid)`` is a table, by an SQL expression for its oid,
    and all of its partitions."""
    return f"""
        WITH RECURSIVE part(oid) AS (
            SELECT {table}
             UNION SELECT i.inhrelid FROM pg_inherits i JOIN part ON i.inhparent = part.oid
                     JOIN pg_class child ON child.oid = i.inhrelid
                    WHERE child.relispartition
        )
        """  # noqa: S608 - of an expression that is a literal of the caller


def migrations_table(cursor: Any) -> TableName | None:
    """Where Django has written down which migrations are applied; ``None`` where it has not."""
    cursor.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = to_regclass('django_migrations')"
    )
    row = cursor.fetchone()
    return None if row is None else TableName(*row)
