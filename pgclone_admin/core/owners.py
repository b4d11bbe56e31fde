"""Gives the objects of a restored database the owners that the dump names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psycopg2

from .archive import Contents, Outline
from .connection import ConnectionParams, remove_session_limits
from .errors import PermissionMissing
from .names import quote_identifier
from .owned import LostOwner, Owned, decoded
from .refusals import explained

REFUSALS = ("0A", "0L", "2B", "3F", "42")
"""Classes of errors that say that an owner cannot be given, and not that something is broken."""


@dataclass
class Given:
    """What has come of it."""

    ids: set[int] = field(default_factory=set)
    """The entries whose objects have their owners."""
    lost: list[LostOwner] = field(default_factory=list)


def give_owners(
    outline: Outline,
    objects: Mapping[int, Owned],
    creator: ConnectionParams,
    role: str | None,
    *,
    heir: str,
) -> Given:
    """Gives ``objects`` of other roles to these; what belongs to the owner of the dumped database
    stays that of the live one.

    As ``creator``, who may be a superuser or a member of both, else as ``role``, in whose name the
    objects were made. Before the grants on these objects: they are made anew by their owner. Until
    then they are those of ``heir``.
    """
    waiting = [(i, owned) for i, owned in objects.items() if owned.owner != heir]
    given = Given(objects.keys() - dict(waiting).keys())
    if not waiting:
        return given
    with creator.session() as connection, connection.cursor() as cursor:
        try:
            remove_session_limits(connection)
            cursor.execute("SELECT set_config('client_encoding', %s, false)", [outline.encoding])
            cursor.execute("SELECT set_config('search_path', '', false)")
            problems = dict(_give(cursor, waiting, role))
            # A sequence of a column goes with its table, and cannot go before it.
            again = [(i, owned) for i, owned in waiting if i in problems]
            problems = dict(_give(cursor, again, role))
        except psycopg2.Error as error:
            raise explained(error, "the owners of objects cannot be given") from error
    given.ids.update(i for i, _owned in waiting if i not in problems)
    given.lost = [_lost(owned, outline, heir, problems[i]) for i, owned in waiting if i in problems]
    return given


def _give(
    cursor: Any, objects: Sequence[tuple[int, Owned]], role: str | None
) -> Iterator[tuple[int, str]]:
    """Those that cannot be given, with the reasons."""
    for dump_id, owned in objects:
        for altered in owned.altered:
            statement = f"ALTER {altered} OWNER TO {quote_identifier(owned.owner)}"
            if (problem := _refusal(cursor, statement, role)) is not None:
                yield dump_id, problem.diag.message_primary or str(problem).strip()
                break


def _refusal(cursor: Any, statement: str, role: str | None) -> psycopg2.Error | None:
    """Why this session, and ``role`` as well, may not do it; ``None`` when it is done."""
    first: psycopg2.Error | None = None
    for each in [None] if role is None else [None, role]:
        cursor.execute("SELECT set_config('role', %s, false)", [each or "none"])
        try:
            cursor.execute(statement.encode(errors="surrogateescape"))
        except psycopg2.Error as error:
            if not str(error.pgcode).startswith(REFUSALS):
                raise
            first = first or error
        else:
            return None
    return first


def _lost(owned: Owned, outline: Outline, heir: str, reason: str) -> LostOwner:
    name, owner = (decoded(text, outline.encoding) for text in (owned.name, owned.owner))
    return LostOwner(name, owner, heir, reason, owned.is_definer)


def accesses_for_grants(
    outline: Outline,
    given: AbstractSet[int],
    creator: ConnectionParams,
    target: ConnectionParams,
    *,
    is_superuser: bool,
) -> list[tuple[ConnectionParams, set[int]]]:
    """Who makes the grants of other roles than the owner of the database, by their entries.

    A superuser makes them in the name of whose the objects are. Everybody else has to become that
    role; where that is refused the ``target`` makes them, as it makes all others.
    """
    if is_superuser:
        return [(creator, set(outline.others.grants))]

    @cache
    def may_become(role: str) -> bool:
        try:
            with creator.with_role(role).session():
                return True
        except (PermissionMissing, UnicodeError):
            return False

    roles: dict[str | None, set[int]] = defaultdict(set)
    for dump_id, grants in outline.others.grants.items():
        is_its_own = grants.is_default or not given.isdisjoint(grants.on)
        role = grants.owner if is_its_own and may_become(grants.owner) else target.role
        roles[role].add(dump_id)
    return [(target.with_role(role), entries) for role, entries in roles.items()]


def foretold(
    cursor: Any, contents: Contents, *, heir: str, is_superuser: bool
) -> tuple[list[LostOwner], list[str]]:
    """Objects that cannot be given to their owners here, and default privileges that cannot be set;
    as far as it can be told before.

    ``cursor`` is of a session on the server, ``heir`` the owner of the database.
    """
    outline = contents.outline
    left_out = frozenset() if is_superuser else outline.superuser_only.keys()
    objects = [owned for i, owned in outline.others.objects.items() if i not in left_out]
    owners = {owned.owner for owned in objects} - {heir}
    setters = {g.owner for g in outline.others.grants.values() if g.is_default} - {heir}
    reasons = {
        name: reason
        for name in owners | setters
        if (reason := _reason(cursor, decoded(name, outline.encoding))) is not None
    }
    lost = [
        _lost(owned, outline, heir, reasons[owned.owner])
        for owned in objects
        if owned.owner in reasons
    ]
    defaults = [
        f'{decoded(grants.name, outline.encoding)} of the role "{decoded(grants.owner, "UTF8")}"'
        for grants in outline.others.grants.values()
        if grants.is_default and grants.owner in reasons
    ]
    return lost, defaults


def _reason(cursor: Any, role: str) -> str | None:
    """Why nothing can be given to a role; ``None`` when it can."""
    cursor.execute(
        "SELECT pg_has_role(session_user, oid, %s) FROM pg_roles WHERE rolname = %s",
        [_how(cursor), role],
    )
    row = cursor.fetchone()
    if row is None:
        return "there is no such role here"
    return None if row[0] else "the role that restores is no member of it"


def _how(cursor: Any) -> str:
    """The right to become a role: since 16 a member may lack it."""
    return "SET" if cursor.connection.server_version >= 160_000 else "MEMBER"


def objects_of_others(cursor: Any) -> list[tuple[str, int]]:
    """Roles whose objects in this database a restore by this session could not give to them, with
    the number of the objects."""
    cursor.execute(
        """
        SELECT pg_get_userbyid(o.owner), count(*)
          FROM (SELECT 'pg_class'::regclass AS class, oid, relowner AS owner FROM pg_class
                 WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
                 UNION ALL SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc
                 UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace
                 -- What temporary tables lie in belongs to the first superuser, and is in no dump.
                 WHERE nspname !~ '^pg_(toast_)?temp_') AS o
          JOIN pg_database d ON d.datname = current_database()
         WHERE o.oid >= 16384 AND o.owner <> d.datdba AND NOT pg_has_role(session_user, o.owner, %s)
           AND NOT EXISTS (SELECT FROM pg_depend e
                            WHERE e.classid = o.class AND e.objid = o.oid AND e.deptype = 'e')
         GROUP BY 1 ORDER BY 1
        """,
        [_how(cursor)],
    )
    return list(cursor.fetchall())
