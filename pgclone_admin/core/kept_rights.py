"""Whether a role may do with kept tables what a restore does with them at its end."""

from __future__ import annotations

from typing import Any

from .connection import remove_session_limits
from .errors import Conflict, PermissionMissing
from .kept import Keeping, KeptTable, find_kept
from .marks import Database
from .names import TableName, quote_identifier
from .server import Server

MAINTAIN_SINCE = 17_00_00


def kept_in_live(server: Server, live: Database, keeping: Keeping) -> list[KeptTable]:
    """The kept tables in the live database, as the role sees them that a restore works as.

    Raises as :func:`find_kept`, :class:`PermissionMissing` when this role may not read and lock
    them, and :class:`Conflict` when policies would hide rows from it.
    """
    if not keeping.tables:
        return []
    access = server.params.with_dbname(live.name).with_role(server.role_to_take(live.owner))
    with access.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        tables = find_kept(cursor, keeping)
        _check_rights(cursor, tables, keeping.migrations)
    return tables


def _check_rights(cursor: Any, tables: list[KeptTable], migrations: TableName | None) -> None:
    # Any of these rights admits LOCK TABLE ... IN SHARE ROW EXCLUSIVE MODE.
    locking = "UPDATE, DELETE, TRUNCATE"
    if cursor.connection.server_version >= MAINTAIN_SINCE:
        locking += ", MAINTAIN"
    kept = {table.name for table in tables}
    sequences = {sequence for table in tables for sequence in table.sequences}
    asked = {name for table in tables if table.rule is not None for name in table.rule.reads}
    names = sorted({*kept, *sequences, *asked, *([migrations] if migrations else [])})
    cursor.execute(
        """
        SELECT current_user::text, n.nspname, c.relname, c.relkind,
               has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
               has_table_privilege(c.oid, %s), row_security_active(c.oid)
          FROM unnest(%s::text[], %s::text[]) AS wanted(schema, name)
          JOIN pg_namespace n ON n.nspname = wanted.schema
          JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
         ORDER BY 2, 3
        """,
        [locking, [name.schema for name in names], [name.name for name in names]],
    )
    grants: list[str] = []
    refused: list[str] = []
    hidden: list[str] = []
    role = ""
    for role, schema, name, kind, may_enter, may_read, may_lock, has_policies in cursor.fetchall():
        table = TableName(schema, name)
        to = f"TO {quote_identifier(role)}"
        lacking: list[str] = []
        if not may_enter:
            lacking.append(f"USAGE ON SCHEMA {quote_identifier(schema)} {to}")
        what = "SEQUENCE " if kind == "S" else ""
        needed = [] if may_read else ["SELECT"]
        needed += ["UPDATE"] if table in kept and not may_lock else []
        if needed:
            lacking.append(f"{', '.join(needed)} ON {what}{table.quoted} {to}")
        if lacking:
            refused.append(str(table))
            grants += [f"GRANT {grant}" for grant in lacking]
        elif kind != "S" and has_policies:
            hidden.append(str(table))
    if refused:
        raise PermissionMissing(
            f'the role "{role}", which owns the database, may not read and lock what a restore '
            f"keeps: {', '.join(refused)}",
            hint=f"Nothing was changed. As the owner of the tables: "
            f"{'; '.join(dict.fromkeys(grants))}.",
        )
    if hidden:
        raise Conflict(
            f'policies hide rows that a restore reads from the role "{role}": {", ".join(hidden)}',
            hint="Nothing was changed. These rows would be lost. ALTER TABLE ... NO FORCE ROW "
            "LEVEL SECURITY, give the role BYPASSRLS, or take the app out of PGCLONE_KEEP_APPS.",
        )
