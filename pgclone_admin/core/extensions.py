"""Creates the extensions of an archive, for which the owner of a database may lack the right."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import psycopg2
from psycopg2 import sql

from .archive import Contents, Entry
from .connection import ConnectionParams, remove_session_limits
from .errors import RestoreFailed
from .names import quote_identifier
from .statements import split

CONFIGURATIONS = """
SELECT CASE WHEN c.relkind = 'S' THEN 'UPDATE' ELSE 'INSERT' END, c.oid::regclass::text
  FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig) AS configuration(of)
  JOIN pg_class c ON c.oid = configuration.of
 WHERE CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(%(role)s, c.oid, 'UPDATE')
            ELSE NOT has_table_privilege(%(role)s, c.oid, 'INSERT') END
"""

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


@contextlib.contextmanager
def configurations_lent(
    contents: Contents, role: str | None, creator: ConnectionParams | None
) -> Iterator[None]:
    """Lets ``role`` write for the length of the block into those tables and sequences of extensions
    whose rows are in dumps, such as PostGIS's own ``spatial_ref_sys``.

    They belong to the ``creator`` of the extensions. Where it may not lend them, what is written
    into them fails.
    """
    has_extensions = any(entry.kind == "EXTENSION" for entry in contents.entries)
    if role is None or creator is None or not has_extensions:
        yield
        return
    with creator.session() as connection, connection.cursor() as cursor:
        remove_session_limits(connection)
        # Every name with its schema.
        cursor.execute("SELECT set_config('search_path', '', false)")
        cursor.execute(CONFIGURATIONS, {"role": role})
        lent = []
        for privilege, name in cursor.fetchall():
            with contextlib.suppress(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(_lending("GRANT", privilege, name, "TO", role))
                lent.append((privilege, name))
    yield
    # What a failed load leaves behind is dropped.
    with creator.session() as connection, connection.cursor() as cursor:
        for privilege, name in lent:
            cursor.execute(_lending("REVOKE", privilege, name, "FROM", role))


def _lending(verb: str, privilege: str, name: str, preposition: str, role: str) -> sql.Composable:
    # The privilege and the name are as the server writes them.
    start = sql.SQL(f"{verb} {privilege} ON {name} {preposition} ")
    return start + sql.Identifier(role)


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
