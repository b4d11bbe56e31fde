"""How much of the server's disk a database and its copies take while one is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import NoRoom
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
    """What is replaced is dropped only after the swap, so for a while there is all of it."""
    there = {"live": names.live, ":pre": names.pre, ":post": names.post, ":undo": names.undo}
    there[":held"] = names.held
    if names.beside:
        there[names.beside] = names.beside
    found = [
        Space(label, server.size(name), is_new=False)
        for label, name in there.items()
        if server.database(name) is not None
    ]
    found.append(Space("temporary", restored_size, is_new=True))
    if makes_post:
        found.append(Space(":post", restored_size, is_new=True))
    return found


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
            f"with this restore the database and its copies would take about {peak:,} bytes on the "
            f"disk of the server, PGCLONE_MAX_DISK_BYTES allows {most:,}",
            hint="Nothing was made. Drop local copies that nobody needs, or raise the limit if "
            "there is room.",
        )
