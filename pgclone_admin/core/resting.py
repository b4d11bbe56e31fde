"""Triggers that rest while rows come whose writing they have seen before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql

from .catalog import ENABLE
from .kept import KeptTable


def rest_triggers(cursor: Any, tables: Sequence[KeptTable]) -> list[sql.Composable]:
    """Has the triggers of the tables rest; returns what wakes them."""
    if not tables:
        return []
    cursor.execute(
        "SELECT n.nspname, c.relname, t.tgname, t.tgenabled FROM pg_trigger t"
        " JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN unnest(%s::text[], %s::text[]) AS kept(schema, name)"
        " ON n.nspname = kept.schema AND c.relname = kept.name"
        " WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'",
        [[table.name.schema for table in tables], [table.name.name for table in tables]],
    )
    alter = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
    found = [
        (sql.Identifier(schema, name), sql.Identifier(trigger), mode)
        for schema, name, trigger, mode in cursor.fetchall()
    ]
    if found:
        rest = [alter.format(table, sql.SQL("DISABLE"), trigger) for table, trigger, _ in found]
        cursor.execute(sql.SQL("; ").join(rest))
    return [alter.format(table, sql.SQL(ENABLE[mode]), trigger) for table, trigger, mode in found]
