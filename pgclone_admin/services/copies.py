"""Makes a local copy of a database of this site."""

from __future__ import annotations

from ..core.copy import CopyResult, copy_database
from ..core.errors import NotAllowed
from ..core.marks import Mark
from ..core.progress import Reporter
from ..core.server import Server
from ..databases import live_name, maintenance_params, protected_names
from ..options import Options
from ..settings import settings
from .restores import close_connections, local_target

COPY_RATE = 400_000_000
"""Bytes per second that a server copies, for the forecast of how long clients wait: the slowest of
what was measured with STRATEGY FILE_COPY, 1.3 GB in 0.9 to 1.4 s, cut in half."""


def copy_live(
    options: Options, target: str, reporter: Reporter, *, end_sessions: bool = False
) -> CopyResult:
    """Copies the live database to the local key ``target``.

    Without ``end_sessions`` nobody is sent away: the copy is made by the server when nobody is
    connected, else it is piped.
    """
    if not settings.allow_copy:
        raise NotAllowed("copies are not allowed here: PGCLONE_ALLOW_COPY is False")
    live = live_name(options.database)
    name = local_target(target, live).name
    close_connections(live)
    with Server.connected(
        maintenance_params(options.database),
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    ) as server:
        reporter.phase("checking")
        server.lock(live, exclusive=False)
        source = server.existing(live)
        server.check_may_create(source.owner)
        server.check_target(name, protected_names())
        if end_sessions:
            seconds = max(1, round(server.size(live) / COPY_RATE))
            reporter.warn(
                f"{len(server.sessions(source.oid))} sessions are ended; clients that connect wait "
                f"until the copy is done, about {seconds} s"
            )
        reporter.phase("copying")
        return copy_database(
            server,
            source,
            Mark.new(name=name, kind="copy", of=live, source=live),
            reporter,
            end_sessions=end_sessions,
            program_directories=settings.bin_dirs,
            jobs=settings.jobs,
        )


def drop_local(options: Options, name: str, reporter: Reporter) -> None:
    """Drops a local database that was made here; sessions in it are ended.

    :class:`DatabaseProtected` for one that was not, and for those of a run that is not over.
    """
    live = live_name(options.database)
    with Server.connected(maintenance_params(options.database)) as server:
        reporter.phase("dropping")
        server.lock(live, exclusive=True)
        server.check_target(name, protected_names())
        server.drop(name)
