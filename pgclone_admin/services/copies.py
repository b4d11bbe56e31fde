"""Makes a local copy of a database of this site."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.copy import CopyResult, copy_database
from ..core.errors import Conflict, DatabaseProtected
from ..core.locks import take_lock
from ..core.marks import LOCAL_COPIES, Mark, MarkKind
from ..core.own_databases import check_target, drop_marked, require_mark
from ..core.preflight import RestoreNames
from ..core.progress import Phase, Reporter
from ..core.server import Server
from ..core.sessions import sessions_in
from ..core.space import check_room_for_copy
from ..databases import live_name, maintenance_params, protected_names
from ..options import Options
from ..settings import settings
from .allowed import require_allowed
from .restores import close_connections, local_target

DROPPABLE = LOCAL_COPIES | {MarkKind.HELD, MarkKind.FAILED}
"""Kinds of local databases that can be dropped. The others belong to a run; recovery looks after
them."""

COPY_RATE = 400_000_000
"""Bytes per second that a server copies, for the forecast of how long clients wait: the slowest of
what was measured with STRATEGY FILE_COPY, 1.3 GB in 0.9 to 1.4 s, cut in half."""


def copy_live(
    options: Options,
    target: str,
    reporter: Reporter,
    *,
    end_sessions: bool = False,
    replaces: bool = True,
    lose_settings: Sequence[str] | None = None,
) -> CopyResult:
    """Copies the live database to the local key ``target``; an older copy of that name is replaced
    only if that is wanted, anything else never.

    Without ``end_sessions`` no session is ended: the copy is made by the server when nobody is
    connected, else it is piped. ``lose_settings`` are names of settings and grants that it may
    lack, by default those of the settings.
    """
    require_allowed("copy")
    live = live_name(options.database)
    name = local_target(target, live).name
    close_connections(live)
    with Server.connected(
        maintenance_params(options.database),
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    ) as server:
        reporter.phase(Phase.CHECKING)
        take_lock(server, live, exclusive=False)
        source = server.existing(live)
        server.check_may_create(source.owner)
        kinds = {MarkKind.COPY} if replaces else ()
        check_target(server, name, protected_names(), live=live, kinds=kinds)
        names, most = RestoreNames(live), settings.max_disk_bytes
        check_room_for_copy(server, names, live, f":{name}", most)
        if end_sessions:
            seconds = max(1, round(server.size(live) / COPY_RATE))
            reporter.warn(
                f"{len(sessions_in(server, source.oid))} sessions are ended; clients that connect "
                f"wait until the copy is done, about {seconds} s"
            )
        reporter.phase(Phase.COPYING)
        return copy_database(
            server,
            source,
            Mark.new(name=name, kind=MarkKind.COPY, of=live, source=live),
            reporter,
            end_sessions=end_sessions,
            replaces=kinds,
            lose_settings=settings.lose_settings if lose_settings is None else lose_settings,
            program_directories=settings.bin_dirs,
            jobs=settings.jobs,
        )


def drop_local(
    options: Options, name: str, reporter: Reporter, *, confirmed_oid: int | None = None
) -> None:
    """Drops a local database that was made here; sessions in it are ended.

    :class:`DatabaseProtected` for one that was not, and for those of a run that is not over;
    :class:`Conflict` when it is not ``confirmed_oid``: a restore since then has made another one
    under the same name, which may be the only way back.
    """
    live = live_name(options.database)
    with Server.connected(maintenance_params(options.database)) as server:
        reporter.phase(Phase.DROPPING)
        take_lock(server, live, exclusive=True)
        check_droppable(server, name, live, confirmed_oid)
        drop_marked(server, name)


def check_droppable(server: Server, name: str, live: str, confirmed_oid: int | None) -> int:
    """The oid of a local database of ``live`` that may be dropped; raises as :func:`drop_local`."""
    check_target(server, name, protected_names(), live=live)
    database = server.existing(name)
    if confirmed_oid is not None and database.oid != confirmed_oid:
        raise Conflict(
            f'the database "{name}" is another one than when you confirmed',
            hint="Nothing was dropped. Look at the list again.",
        )
    if require_mark(database).kind not in DROPPABLE:
        raise DatabaseProtected(
            f'the database "{name}" belongs to a run',
            hint="Wait for its end; what a dead run has left is removed by pgclone recover.",
        )
    return database.oid
