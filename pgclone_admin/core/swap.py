"""Puts a temporary database into the place of the live one.

``ALTER DATABASE ... RENAME`` takes its lock first and waits up to five seconds for sessions to
leave; new connections wait for the lock and do not count. So the terminator ends the sessions
*while* the swapper holds the lock, which has both renames in one transaction: there is no instant
at which the name is missing, whichever process dies.

No row of a kept table may be lost that somebody was told is there. So the keeper locks these tables
before, the last changes are brought over, and its session is the last to leave the live database:
with everybody else gone, nobody is left who could write when its locks go. The renames are
committed only if it was alive then. Had it died before, somebody who waited for its locks may have
written a row that only the parked database has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import errorcodes, sql

from .connection import Connection, ConnectionParams, backend_pid, remove_session_limits
from .errors import Conflict, PgcloneError, ServerUnavailable, TooBusy
from .keeper import Keeper
from .kept import Keeping
from .kept_definitions import Agreed
from .marks import Database, Mark, set_comment
from .progress import Reporter
from .properties import Uncarried
from .refusals import explained
from .server import Server
from .sessions import (
    POLL,
    Session,
    check_sessions_can_be_ended,
    end_sessions,
    has_locked,
    sessions_in,
)
from .swapper import LOCK_TIMEOUT, SHORTEST_LOCK_TIMEOUT, Swapper

SESSIONS_LEAVE_WITHIN = 3.0
"""Seconds after which a session that was told to end is one that cannot be ended."""

DECIDED_WITHIN = 10.0
"""Seconds after which the server has noticed that the client of a renaming transaction is gone."""

ANSWERS_WITHIN = 30.0
"""Seconds within which a server that was there is there again."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts, in which others get their turn."""

NOTE_EVERY = 10.0
"""Seconds between two notes of what is in the way: it is the same one for most of the time."""


@dataclass(frozen=True)
class SwapResult:
    seconds: float
    """How long connections to the live name had to wait, at most."""
    kept_seconds: float = 0.0
    """How long writers to kept tables had to wait, at most, in the attempt that succeeded."""
    attempts: int = 1
    lost_settings: list[Uncarried] = field(default_factory=list)
    """What of the live database could not be carried over, as was accepted."""


@dataclass(frozen=True, kw_only=True)
class SwapRequest:
    """What takes whose place. ``maintenance`` reaches the server as a role that owns both, or as a
    member of their owner."""

    maintenance: ConnectionParams
    live: Database
    temporary: Database
    parked: Mark
    keeping: Keeping = field(default_factory=Keeping)
    agreed: Agreed | None = None
    """The definitions of the kept tables, which must not have changed since."""
    lose_settings: Collection[str] = ()
    """Names of settings and grants of the live database that may be lost."""
    patience: float = 60.0
    """Seconds for which a swap is tried again when the site is too busy for it."""


def swap(
    request: SwapRequest, reporter: Reporter, *, check_lock: Callable[[], None] = lambda: None
) -> SwapResult:
    """Renames the live database to the name of ``parked`` and the temporary one to its name.

    The temporary database gets the rows of the kept tables before, and settings, grants,
    connection limit and comment of the live one in the same transaction. Sessions of both are
    ended. ``check_lock`` raises when this run may not replace the database any more; it is asked
    before each attempt.

    After an error the live database is as before, and open to everybody. :class:`TooBusy` when
    kept tables cannot be locked, or a session cannot be ended, in time, or there are prepared
    transactions; :class:`NotCarried` for properties that are not to be lost; :class:`Conflict` when
    the kept tables of both databases differ, or another database is under the name of one of them;
    :class:`PermissionMissing`, and what ``check_lock`` and ``reporter`` raise.
    :class:`ServerUnavailable` also when the server is gone for so long that nobody can tell whether
    it has renamed them.

    When this process or one of its sessions dies, either both renames have happened or none:
    :func:`has_swapped` tells which.
    """
    maintenance = request.maintenance
    done: list[SwapResult] = []
    with ExitStack() as stack:
        # Who interrupts the closing of the sessions below comes too late.
        stack.push(lambda *_error: bool(done))
        terminating = stack.enter_context(maintenance.session())
        swapping = stack.enter_context(maintenance.session(autocommit=False))
        for connection in (terminating, swapping):
            remove_session_limits(connection)
        pid = backend_pid(swapping)
        swapping.commit()
        terminator = Server(maintenance, terminating)
        keeper = Keeper(
            terminator,
            request.live,
            request.temporary,
            request.keeping,
            reporter,
            patience=request.patience,
            agreed=request.agreed,
        )
        stack.callback(keeper.leave)
        keeper.prepare()
        deadline = keeper.gives_up_at = time.monotonic() + request.patience
        pause, noted_at = FIRST_PAUSE, -NOTE_EVERY
        attempts = 1
        while True:
            reporter.check()
            check_lock()
            check_sessions_can_be_ended(terminator, request.live.oid, request.temporary.oid)
            _check_nothing_is_prepared(terminator, request.live)
            try:
                won = _attempt(request, terminator, swapping, pid, keeper)
                done.append(SwapResult(won.seconds, keeper.seconds, attempts, won.lost_settings))
                break
            except _MayPass as busy:
                if time.monotonic() + pause > deadline:
                    raise busy.error from busy.error.__cause__
                if time.monotonic() > noted_at + NOTE_EVERY:
                    noted_at = time.monotonic()
                    reporter.note(f"{busy.error}; trying again")
            finally:
                keeper.let_go()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            attempts += 1
    return done[0]


def put_in_place(server: Server, temporary: Database, name: str) -> None:
    """Gives ``temporary`` the name of a live database that does not exist yet."""
    try:
        with server.transaction() as cursor:
            cursor.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(temporary.name), sql.Identifier(name)
                )
            )
            set_comment(cursor, name, None)
    except psycopg2.Error as error:
        raise explained(error, f'the database "{name}" could not be put in place') from error


def has_swapped(
    maintenance: ConnectionParams, live: Database, temporary: Database, *, by: int | None = None
) -> bool:
    """Whether the live name belongs to what was the temporary database.

    Told by the oids, which a rename does not change, and by nothing that could be written apart
    from the rename. ``by`` is a process of the server that may still be doing it. A server that
    recovers, or has no room for a connection just now, is asked again.
    """
    with _session_in_time(maintenance) as connection:
        server = Server(maintenance, connection)
        end = time.monotonic() + DECIDED_WITHIN
        while server.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [by]):
            if time.monotonic() > end:
                break
            time.sleep(POLL)
        present = server.database(live.name)
    return present is not None and present.oid == temporary.oid


@contextmanager
def _session_in_time(maintenance: ConnectionParams) -> Iterator[Connection]:
    end = time.monotonic() + ANSWERS_WITHIN
    with ExitStack() as stack:
        while True:
            try:
                connection = stack.enter_context(maintenance.session())
                break
            except ServerUnavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(FIRST_PAUSE)
        yield connection


class _MayPass(Exception):
    """An attempt was in somebody's way and was given up; another one may do."""

    def __init__(self, error: PgcloneError) -> None:
        super().__init__(error.message)
        self.error = error


def _attempt(
    request: SwapRequest, terminator: Server, swapping: Connection, pid: int, keeper: Keeper
) -> Swapper:
    """One swap, or nothing; returns the swapper, which tells how it was.

    ``pid`` is the server's process of ``swapping``.
    """
    try:
        keeper.hold()
    except (TooBusy, ServerUnavailable) as busy:
        # Too many connections for a moment are no reason to throw a whole restore away.
        raise _MayPass(busy) from busy
    swapper = Swapper(
        swapping,
        request.live,
        request.temporary,
        request.parked,
        request.lose_settings,
        pid=pid,
    )
    # Connecting sessions hold it for moments; writers to kept tables wait meanwhile.
    swapper.lock_timeout = min(LOCK_TIMEOUT, max(SHORTEST_LOCK_TIMEOUT, keeper.left))
    swapper.start()
    stayed: list[Session] = []
    interruption: BaseException | None = None
    try:
        stayed = _end_sessions_until_done(terminator, swapper, keeper, request)
    except psycopg2.Error as error:
        swapper.refuse(explained(error, "the sessions could not be watched"))
    except BaseException as error:  # noqa: BLE001 - it came too late if the swap is done
        interruption = error
        swapper.refuse(Conflict("the swap was interrupted"))
    while swapper.is_alive():
        try:
            swapper.wait()
        except BaseException as error:  # noqa: BLE001 - as above
            interruption = error
            swapper.refuse(Conflict("the swap was interrupted"))
    # A connection can also break after the server has committed, or while it does.
    by = swapper.pid if swapping.closed else None
    databases = request.live, request.temporary
    if swapper.error is None or has_swapped(request.maintenance, *databases, by=by):
        return swapper
    if interruption is not None:
        raise interruption
    raise _as_error(swapper.error, stayed) from swapper.error


def _end_sessions_until_done(
    terminator: Server, swapper: Swapper, keeper: Keeper, request: SwapRequest
) -> list[Session]:
    """Sends away whoever is connected, from the moment the swapper holds its lock.

    Not before: whose session is ended earlier comes back at once and is in the way again. Then the
    keeper goes as well, and the renames are approved. Returns who was still there at last.
    """
    oids = request.live.oid, request.temporary.oid
    holding_since: float | None = None
    others: list[Session] = []
    while swapper.is_alive() and not swapper.is_refused:
        if holding_since is None and has_locked(
            terminator, request.live.oid, by=swapper.pid, mode="AccessExclusiveLock"
        ):
            holding_since = time.monotonic()
        if holding_since is not None and not swapper.is_decided:
            spared = keeper.pids
            end_sessions(terminator, *oids, spared=spared)
            others = [s for s in sessions_in(terminator, *oids) if s.pid not in spared]
            if not others and keeper.is_alive():
                swapper.approve()
                keeper.leave()
            elif not others:
                swapper.refuse(TooBusy("the session that held the kept tables was ended"))
            elif time.monotonic() - holding_since > SESSIONS_LEAVE_WITHIN:
                swapper.refuse(_sessions_stay(others))
        swapper.join(POLL)
    return others


def _check_nothing_is_prepared(terminator: Server, live: Database) -> None:
    """:class:`TooBusy` when there is what a rename waits for like for a session, five seconds long,
    and nobody can send away."""
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = %s ORDER BY 1"
    if names := [str(row[0]) for row in terminator.rows(query, [live.name])]:
        raise TooBusy(
            f'the database "{live.name}" has prepared transactions: {", ".join(names)}',
            hint="The live database is as it was. Finish them, then try again.",
        )


def _sessions_stay(sessions: list[Session]) -> TooBusy:
    return TooBusy(
        "sessions could not be ended: " + ", ".join(map(str, sessions)),
        hint="The live database is as it was. As a superuser, grant pg_signal_backend to the "
        "role that restores.",
    )


PASSING = (
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.OBJECT_IN_USE,
    errorcodes.QUERY_CANCELED,
    errorcodes.DEADLOCK_DETECTED,
)


def _as_error(error: Exception, stayed: list[Session]) -> Exception:
    if isinstance(error, TooBusy):
        return error if stayed else _MayPass(error)
    if isinstance(error, PgcloneError) or not isinstance(error, psycopg2.Error):
        return error
    told = explained(error, "the databases could not be swapped")
    if error.pgcode not in PASSING:
        return told
    return _sessions_stay(stayed) if stayed else _MayPass(told)
