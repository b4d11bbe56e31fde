"""What a swap leaves to be done: what was live before it, and the copy of what it put in place.

What is to become of both is said by the mark of what was live, which the swap itself writes: as
long as it is there, the swap has happened and this was not done, whichever process died.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .errors import DatabaseProtected
from .marks import NEW_DATABASE_NAME, Database, MarkKind
from .own_databases import drop_marked, drop_older, mark_and_rename, require_mark
from .preflight import RestoreNames
from .server import Server


def settle_parked(server: Server, names: RestoreNames) -> None:
    """Does what is to be done after a swap, if there was one; also that of a run that died.

    The parked database becomes what its mark says, and the copy ``:post``. An older ``:pre`` and
    ``:post`` are of another restore, and never stay beside what a newer one has put in place. May
    be ended at any moment and done again.

    :class:`DatabaseProtected` when another site has one of these names by now: its database stays,
    and all else is done.
    """
    parked = server.database(names.parked)
    if parked is None:
        return
    mark = require_mark(parked)
    name = last_name(names, mark.becomes)
    refusal: DatabaseProtected | None = None
    if mark.becomes == MarkKind.PRE:
        try:
            _settle_copy(server, mark.copy, names)
        except DatabaseProtected as error:
            refusal = error
            _drop_copy(server, mark.copy)
    elif name is None:
        for older in replaced_by_swap(names, mark.becomes):
            try:
                drop_older(server, older, live=names.live)
            except DatabaseProtected as error:
                refusal = error
    # Last, as its mark tells that all this is still to be done.
    if name is None:
        drop_marked(server, parked.name)
    else:
        settled = replace(mark, name=name, kind=mark.becomes, becomes="", copy=0)
        mark_and_rename(server, parked.name, settled)
    if refusal is not None:
        raise refusal


def last_name(names: RestoreNames, becomes: str) -> str | None:
    """The name of a parked database in the end; ``None`` when it is dropped."""
    last: dict[str, str] = {MarkKind.PRE: names.pre, MarkKind.UNDO: names.undo}
    return last.get(becomes)


def replaced_by_swap(names: RestoreNames, becomes: str) -> list[str]:
    """The names whose databases of now are gone when a swap is settled after which what was live
    becomes this: others take their names, or nobody does."""
    return [names.undo] if becomes == MarkKind.UNDO else [names.pre, names.post]


def copies_to_settle(databases: Iterable[Database]) -> set[int]:
    """The oids of those that a parked database waits for, of whichever live database."""
    marks = [database.mark for database in databases]
    return {mark.copy for mark in marks if mark is not None and mark.kind == MarkKind.PARKED}


def _copy(server: Server, oid: int) -> Database | None:
    return next((database for database in server.databases() if database.oid == oid), None)


def _drop_copy(server: Server, oid: int) -> None:
    copy = _copy(server, oid)
    if copy is not None and NEW_DATABASE_NAME.fullmatch(copy.name):
        drop_marked(server, copy.name)


def _settle_copy(server: Server, oid: int, names: RestoreNames) -> None:
    copy = _copy(server, oid)
    if copy is not None and copy.name == names.post:
        return
    # What takes long comes first: the copy would be lost if its renaming were interrupted.
    drop_older(server, names.post, live=names.live)
    if copy is not None and NEW_DATABASE_NAME.fullmatch(copy.name):
        mark = replace(require_mark(copy), name=names.post, kind=MarkKind.POST)
        mark_and_rename(server, copy.name, mark)
