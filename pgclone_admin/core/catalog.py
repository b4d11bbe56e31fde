"""What the system catalog says about tables, for whoever asks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import Conflict
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


MIGRATIONS = "django_migrations"
"""Where Django writes down which migrations are applied."""


def tables_meant(cursor: Any, names: Sequence[str]) -> dict[str, TableName]:
    """Which tables the quoted SQL ``names`` mean in the session of ``cursor``, by its search_path.

    Those that mean none are left out. Another role may have another search_path, and mean others.
    """
    cursor.execute(
        "SELECT name, n.nspname, c.relname FROM unnest(%s::text[]) AS name"
        " JOIN pg_class c ON c.oid = to_regclass(name)"
        " JOIN pg_namespace n ON n.oid = c.relnamespace",
        [list(names)],
    )
    return {name: TableName(schema, table) for name, schema, table in cursor.fetchall()}


def table_oids(cursor: Any, tables: Sequence[TableName]) -> dict[TableName, int]:
    """The oids of the tables, by no search_path and whatever the role may see.

    :class:`Conflict` when one is missing that the site has: this is another database then.
    """
    cursor.execute(
        "SELECT n.nspname, c.relname, c.oid::bigint FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN unnest(%s::text[], %s::text[]) AS wanted(schema, name)"
        " ON n.nspname = wanted.schema AND c.relname = wanted.name",
        [[table.schema for table in tables], [table.name for table in tables]],
    )
    found = {TableName(schema, name): oid for schema, name, oid in cursor.fetchall()}
    if missing := [str(table) for table in tables if table not in found]:
        raise Conflict(
            f"the site has tables that are not in this database: {', '.join(missing)}",
            hint="Nothing was changed. Let DATABASES and PGCLONE_CONNECTIONS lead to the same "
            "database of the same server.",
        )
    return found


def migrations_table(cursor: Any) -> TableName | None:
    """:data:`MIGRATIONS` as the session of ``cursor`` finds it; ``None`` where there is none."""
    return tables_meant(cursor, [MIGRATIONS]).get(MIGRATIONS)


def applied_migrations(cursor: Any, table: TableName) -> tuple[tuple[str, str], ...]:
    """App and name of each migration that is applied, in that order; ``table`` is where Django has
    written it down."""
    cursor.execute(f"SELECT app, name FROM {table.quoted} ORDER BY id")  # noqa: S608 - quoted
    return tuple(cursor.fetchall())
