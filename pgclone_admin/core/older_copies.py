"""The local copies that are gone after a restore, told before it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from .marks import Database, MarkKind
from .names import LocalKey
from .parked import last_name, replaced_by_swap
from .preflight import RestoreNames
from .server import Server


@dataclass(frozen=True)
class LocalCopy:
    """A local copy as there is one now: its size in bytes, ``None`` where this role may not look
    into it, and when it was made."""

    key: str
    database: str
    size: int | None
    made_at: datetime | None
    source: str
    """The key that it was made from, or that took its place; empty where its mark names none."""


def gone_after(server: Server, names: RestoreNames, replaced: Collection[str]) -> list[LocalCopy]:
    """The local copies that there are now, and are gone after a run that replaces or drops what has
    one of the names ``replaced``; nothing is changed."""
    gone = {*replaced}
    parked = server.database(names.parked)
    if parked is not None and parked.mark is not None:
        # Of a run that died: the next one does first what that has left to be done.
        if last_name(names, parked.mark.becomes) in {None, *replaced}:
            gone.add(names.parked)
        gone |= set(replaced_by_swap(names, parked.mark.becomes))
    found = [there for name in names.made if name in gone and (there := server.database(name))]
    # What is being built just now is another run's.
    found = [there for there in found if there.name != names.temporary or _has_failed(there)]
    sizes = server.sizes(*(database.oid for database in found))
    return [_local_copy(database, names.live, sizes.get(database.oid)) for database in found]


def _has_failed(database: Database) -> bool:
    return database.mark is not None and database.mark.kind == MarkKind.FAILED


def _local_copy(database: Database, live: str, size: int | None) -> LocalCopy:
    mark = database.mark
    return LocalCopy(
        str(LocalKey.of_database(database.name, live)),
        database.name,
        size,
        None if mark is None else mark.made,
        "" if mark is None else mark.source,
    )
