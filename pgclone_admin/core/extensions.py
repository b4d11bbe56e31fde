"""Creates the extensions of an archive, for which the owner of a database may lack the right."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import psycopg2
from psycopg2 import sql

from .archive import Contents, Entry
from .connection import ConnectionParams, remove_session_limits
from .errors import RestoreFailed
from .names import quote_identifier
from .statements import split

_IN_SCHEMA = re.compile(r" WITH SCHEMA (.+);")


def create_extensions(
    contents: Contents, owner: str | None, creator: ConnectionParams
) -> frozenset[int]:
    """Creates the extensions of the archive, and the schemas they lie in.

    As the ``owner`` of the database, who may create trusted ones; the others as ``creator``, which
    may be a superuser or the first role of a managed server. What neither may create is left
    to pg_restore to fail with. Returns the entries that need not be restored any more.
    """
    done: set[int] = set()
    schemas = {e.name: e for e in contents.entries if e.kind == "SCHEMA"}
    schemas |= {quote_identifier(name): entry for name, entry in schemas.items()}
    with creator.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        for entry in contents.entries:
            if entry.kind != "EXTENSION":
                continue
            match = _IN_SCHEMA.search(entry.definition)
            schema = schemas.get(match[1]) if match else None
            try:
                if schema is not None and schema.dump_id not in done and _is_made(schema):
                    _create_schema(cursor, schema, owner)
                    done.add(schema.dump_id)
                _create_extension(cursor, entry, owner)
            except psycopg2.Error as error:
                reason = error.diag.message_primary or str(error)
                raise RestoreFailed(
                    f'the extension "{entry.name}" cannot be created: {reason}',
                    hint="The live database was not touched.",
                ) from error
        for dump_id, statements in contents.outline.wrapper_grants.items():
            if _grant_wrapper(cursor, statements):
                done.add(dump_id)
    return frozenset(done)


def _create_extension(cursor: Any, extension: Entry, owner: str | None) -> None:
    for role in (owner, None):
        cursor.execute("SELECT set_config('role', %s, false)", [role or "none"])
        with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(extension.definition)
            break
    cursor.execute("RESET ROLE")


def _grant_wrapper(cursor: Any, statements: str) -> bool:
    """Now, as the servers of the wrapper need it; again at the end where a role is missing."""
    done = True
    for statement in split(statements):
        try:
            cursor.execute(statement.text)
        except psycopg2.Error:
            done = False
    return done


def _is_made(schema: Entry) -> bool:
    """Not so for "public" with another owner than usual: it is in every new database, and its entry
    holds a comment instead of a statement."""
    return not schema.definition.lstrip().startswith("--")


def _create_schema(cursor: Any, schema: Entry, owner: str | None) -> None:
    cursor.execute(schema.definition)
    if owner is not None:
        cursor.execute(
            sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(
                sql.Identifier(schema.name), sql.Identifier(owner)
            )
        )
