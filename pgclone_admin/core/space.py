"""How much of the server's disk a database and its copies take while one is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import NoRoom
from .marks import LOCAL_COPIES, Database
from .preflight import RestoreNames
from .server import Server


@dataclass
class Space:
    """A database on the disk of the server at the moment when there are most of them."""

    name: str
    """``live``, ``temporary``, or the key of a local copy."""
    size: int
    is_new: bool
    """Whether the restore makes it; else it is there now."""


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def spaces(
    server: Server, names: RestoreNames, restored_size: int, *, makes_post: bool
) -> list[Space]:
    """What is replaced is dropped only after the swap, so for a while there is all of it.

    :class:`PermissionMissing` where this role may not see how large a database is.
    """
    found = _present(server, names)
    found.append(Space("temporary", restored_size, is_new=True))
    if makes_post:
        found.append(Space(":post", restored_size, is_new=True))
    return found


def check_room_for_copy(
    server: Server, names: RestoreNames, source: str, key: str, most: int | None
) -> None:
    """:class:`NoRoom` when a copy of the database ``source``, to be known as ``key``, would be more
    than ``most`` bytes with all that is there; raises as :func:`spaces`."""
    if most is not None:
        new = Space(key, server.size(source), is_new=True)
        check_limit([*_present(server, names), new], most)


def _present(server: Server, names: RestoreNames) -> list[Space]:
    """The live database, and the copies of it that are there to stay or to be swapped in."""
    labels = {
        names.live: "live",
        names.pre: ":pre",
        names.post: ":post",
        names.undo: ":undo",
        names.held: ":held",
    }
    return [
        Space(labels.get(each.name, f":{each.name}"), server.size(each.name), is_new=False)
        for each in server.databases()
        if each.name in {*labels, names.beside} or _is_copy(each, names.live)
    ]


def _is_copy(database: Database, live: str) -> bool:
    mark = database.mark
    return mark is not None and mark.of == live and mark.kind in LOCAL_COPIES


def check_size_is_known(restored_size: int | None, most: int | None) -> list[str]:
    if restored_size is not None or most is None:
        return []
    told = (
        "how large the dump is when it is restored is not known, so PGCLONE_MAX_DISK_BYTES cannot "
        "be looked at"
    )
    return [told]


def check_limit(found: Sequence[Space], most: int | None) -> None:
    """:class:`NoRoom` when all of it together is more than ``most`` bytes."""
    peak = sum(space.size for space in found)
    if most is not None and peak > most:
        raise NoRoom(
            f"the database and its copies would take about {peak:,} bytes on the disk of the "
            f"server, PGCLONE_MAX_DISK_BYTES allows {most:,}",
            hint="Nothing was made. Drop local copies that nobody needs, or raise the limit if "
            "there is room.",
        )
