"""Lists dumps and local copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..core.names import LocalKey
from ..core.server import Server
from ..databases import live_name, maintenance_params
from ..options import Options
from ..settings import settings
from ..store import DumpEntry, DumpStore
from .keys import of_database, with_prefix


@dataclass(frozen=True)
class LocalEntry:
    """A database of the server that can be restored from or looked at."""

    key: LocalKey
    database: str
    size: int
    """Bytes on the disk of the server."""
    kind: str
    """What the mark says it is; empty for a database that was not made here."""
    made_at: datetime | None
    source: str


def list_dumps(options: Options, text: str | None) -> list[DumpEntry]:
    """Dumps, newest first: all of them, or those under a prefix or of a database."""
    entries = DumpStore(options.storage_location).entries()
    if not text:
        return entries
    wanted = [*with_prefix(entries, text), *of_database(entries, text)]
    return [entry for entry in entries if entry in wanted or entry.key.text == text]


def list_local(options: Options) -> list[LocalEntry]:
    """Databases beside the live one that this role may restore from, newest first."""
    live = live_name(options.database)
    with Server.connected(maintenance_params(options.database)) as server:
        entries = []
        for database in server.usable_databases():
            if database.name in (live, settings.conn_db):
                continue
            mark = database.mark
            entries.append(
                LocalEntry(
                    key=LocalKey.of_database(database.name, live),
                    database=database.name,
                    size=server.size(database.name),
                    kind=mark.kind if mark else "",
                    made_at=datetime.fromisoformat(mark.made_at) if mark else None,
                    source=mark.source if mark else "",
                )
            )
    return sorted(entries, key=lambda e: (e.made_at is None, -_seconds(e.made_at), str(e.key)))


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0
