"""What was live before a swap."""

from __future__ import annotations

from dataclasses import replace

from .marks import MarkKind
from .own_databases import drop_marked, mark_and_rename, require_mark
from .preflight import RestoreNames
from .server import Server


def settle_parked(server: Server, names: RestoreNames) -> str | None:
    """Gives the parked database its last name, or drops it; also that of a run that died.

    Returns that name, ``""`` when it was dropped, and ``None`` when there was none.
    """
    parked = server.database(names.parked)
    if parked is None:
        return None
    mark = require_mark(parked)
    last: dict[str, str] = {MarkKind.PRE: names.pre, MarkKind.UNDO: names.undo}
    name = last.get(mark.becomes)
    if name is None:
        drop_marked(server, parked.name)
        return ""
    mark_and_rename(server, parked.name, replace(mark, name=name, kind=mark.becomes, becomes=""))
    return name
