"""Finds the databases that a dead process left on a server, and finishes or drops them.

Who works on a live database holds its lock, in the server; the lock goes with the process. So what
is found while the lock is ours belongs to nobody who lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

import psycopg2

from .connection import ConnectionParams
from .errors import Conflict, PgcloneError
from .locks import is_locked, take_lock
from .marks import LOCAL_COPIES, NEW_DATABASE_NAME, Database, Mark, MarkKind
from .names import UNFINISHED_ROLES, role_of
from .own_databases import drop_abandoned, drop_marked
from .parked import copies_to_settle, settle_parked
from .preflight import WAS_LIVE, RestoreNames, how_to_have_back
from .refusals import refused
from .server import Server
from .sessions import sessions_in

SECOND_LOOK = 5.0
"""Seconds after which a database without a mark is looked at again: a process that has just made
it marks it within moments."""

CLIENT_PROGRAMS = ("pg_dump", "pg_restore")


class Outcome(StrEnum):
    """What was done with something that was found; in a dry run, what would be."""

    DROPPED = "dropped"
    FINISHED = "finished"
    REMOVED = "removed"
    ABORTED = "aborted"
    GIVEN_UP = "given up"
    KEPT = "kept"
    FAILED = "failed"
    """It should have been cleaned and could not be."""


@dataclass(frozen=True)
class Recovered:
    """One thing that was found, what was done with it, and why."""

    outcome: Outcome
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class RecoveryRequest:
    """``live`` is the name of the live database; ``maintenance`` reaches its server."""

    live: str
    maintenance: ConnectionParams
    kept_for: timedelta
    """How long results that wait for a look or a swap are kept."""
    protected: frozenset[str] = frozenset()
    """Names of databases that are never dropped."""
    dry_run: bool = False
    second_look: float = SECOND_LOOK
    statement_timeout: int | None = None
    """Milliseconds, for statements on the maintenance connection."""
    lock_timeout: int | None = None


def recover_databases(request: RecoveryRequest) -> Iterator[Recovered]:
    """Finishes or drops what dead restores of ``live`` left on its server, and tells each.

    Does nothing to the databases of a restore or dump that runs. May be ended at any moment and
    run again. :class:`~pgclone_admin.core.errors.ServerUnavailable` when there is no server, or
    none any more.
    """
    try:
        with Server.connected(
            request.maintenance,
            statement_timeout=request.statement_timeout,
            lock_timeout=request.lock_timeout,
        ) as server:
            recovery = _Recovery(server, request)
            if (busy := recovery.take_lock()) is not None:
                yield busy
            else:
                yield from recovery.marked_databases()
                yield from recovery.sessions_of_children()
                # The rest takes a while, and no dump should be turned away for it.
                server.release_locks()
            yield from recovery.new_databases()
    except psycopg2.Error as error:
        raise refused(error) from error


def kept_until(mark: Mark, kept_for: timedelta) -> datetime | None:
    """When a database that waits for a look or a swap is dropped by the next recovery; ``None`` for
    what is not dropped for its age, or whose age cannot be told."""
    if mark.kind not in (MarkKind.FAILED, MarkKind.HELD) or mark.made is None:
        return None
    return mark.made + kept_for


def clean(
    what: str, outcome: Outcome, why: str, action: Callable[[], object], *, dry_run: bool
) -> Recovered:
    """Does ``action``, unless this is a dry run, and tells what came of it."""
    if not dry_run:
        try:
            action()
        except PgcloneError as error:
            return Recovered(Outcome.FAILED, what, _sentence(error))
        except psycopg2.Error as error:
            return Recovered(Outcome.FAILED, what, _sentence(refused(error)))
    return Recovered(outcome, what, why)


def _sentence(error: PgcloneError) -> str:
    return f"{error}. {error.hint}" if error.hint else str(error)


class _Recovery:
    def __init__(self, server: Server, request: RecoveryRequest) -> None:
        self._server = server
        self._request = request
        self._names = RestoreNames(request.live)

    def take_lock(self) -> Recovered | None:
        """What keeps us from the databases of this target, if anything does."""
        live, server = self._request.live, self._server
        what = f'the databases of "{live}"'
        if self._request.dry_run:
            # Taking it, for however short a time, would turn away a dump that begins now.
            if is_locked(server, live):
                return Recovered(Outcome.KEPT, what, "a dump or a restore is running")
            return None
        try:
            take_lock(server, live, exclusive=True)
        except Conflict:
            return Recovered(Outcome.KEPT, what, "a dump or a restore is running")
        return None

    # -- databases with a mark

    def marked_databases(self) -> Iterator[Recovered]:
        live = self._server.database(self._request.live)
        for database in self._server.databases():
            if live is not None and database.oid == live.oid:
                continue
            if NEW_DATABASE_NAME.fullmatch(database.name):
                continue
            mark = database.mark
            if mark is None:
                yield from self._without_mark(database)
            elif mark.of == self._request.live and mark.kind not in LOCAL_COPIES:
                yield self._with_mark(database, mark, live)

    def _without_mark(self, database: Database) -> Iterator[Recovered]:
        what = f'the database "{database.name}"'
        former = Mark.parse(database.comment)
        if former is not None and former.of == self._request.live:
            yield Recovered(
                Outcome.KEPT, what, "it was given another name after it was made, so it is yours"
            )
        elif role_of(database.name, self._request.live) in UNFINISHED_ROLES:
            yield Recovered(
                Outcome.KEPT,
                what,
                "it was not made by pgclone_admin, but has a name that restores need: rename or "
                "drop it",
            )

    def _with_mark(self, database: Database, mark: Mark, live: Database | None) -> Recovered:
        what = f'the {mark.kind} database "{database.name}"'
        if database.name in self._request.protected:
            return Recovered(Outcome.KEPT, what, "it is named in the settings of this site")
        match mark.kind:
            case MarkKind.TEMPORARY:
                return self._drop(database, what, "the restore that made it died before its swap")
            case MarkKind.FAILED | MarkKind.HELD:
                return self._aged(database, mark, what)
            case MarkKind.PARKED:
                return self._parked(mark, what, live)
            case _:
                return Recovered(Outcome.KEPT, what, "this version does not know its kind")

    def _aged(self, database: Database, mark: Mark, what: str) -> Recovered:
        meaning = {
            MarkKind.FAILED: "its hooks have failed, and it is kept for a look at it",
            MarkKind.HELD: "it was restored to be swapped in later",
        }[MarkKind(mark.kind)]
        until = kept_until(mark, self._request.kept_for)
        if until is None:
            return Recovered(Outcome.KEPT, what, f"{meaning}; its age cannot be told")
        if self._now() < until:
            return Recovered(Outcome.KEPT, what, f"{meaning}, until {until:%Y-%m-%d %H:%M} UTC")
        days = self._request.kept_for.days
        return self._drop(database, what, f"{meaning}, but it is older than {days} days")

    def _now(self) -> datetime:
        now: datetime = self._server.value("SELECT now()")
        return now

    def _parked(self, mark: Mark, what: str, live: Database | None) -> Recovered:
        if live is None:
            return Recovered(
                Outcome.FAILED,
                what,
                f"it {WAS_LIVE}: {how_to_have_back(self._request.live)}",
            )
        if mark.name != self._names.parked:
            return Recovered(Outcome.KEPT, what, "it has not the name that restores give")
        outcome = Outcome.FINISHED if mark.becomes else Outcome.DROPPED
        whys: dict[str, str] = {
            MarkKind.PRE: "it becomes :pre, and a copy of what it made :post",
            MarkKind.UNDO: "it becomes :undo",
        }
        why = whys.get(mark.becomes, "nothing of it was to be kept, and no older :pre and :post")
        return clean(
            what,
            outcome,
            f"the restore died after its swap; {why}",
            partial(settle_parked, self._server, self._names),
            dry_run=self._request.dry_run,
        )

    def _drop(self, database: Database, what: str, why: str) -> Recovered:
        return clean(
            what,
            Outcome.DROPPED,
            why,
            partial(drop_marked, self._server, database.name, missing_ok=True),
            dry_run=self._request.dry_run,
        )

    # -- databases that never got their own name

    def new_databases(self) -> Iterator[Recovered]:
        """Those that a process made and died before it could mark or drop them."""
        first = {database.oid: database for database in self._abandoned()}
        if not first:
            return
        if not is_locked(self._server):
            time.sleep(self._request.second_look)
        # Who makes a database to restore or copy into holds a lock, for whichever live database;
        # a plan, whose proof needs no lock, is done with it by now.
        somebody_works = is_locked(self._server)
        still = {database.oid: database.comment for database in self._abandoned()}
        for oid, database in first.items():
            what = f'the new database "{database.name}"'
            if oid not in still:
                continue
            if somebody_works:
                yield Recovered(
                    Outcome.KEPT, what, "a dump, restore or copy is running on this server"
                )
            elif still[oid] == database.comment:
                yield clean(
                    what,
                    Outcome.DROPPED,
                    "the process that made it died before it had a name of its own",
                    partial(drop_abandoned, self._server, database),
                    dry_run=self._request.dry_run,
                )

    def _abandoned(self) -> list[Database]:
        databases = self._server.databases()
        awaited = copies_to_settle(databases)
        return [
            database
            for database in databases
            if database.oid not in awaited
            and NEW_DATABASE_NAME.fullmatch(database.name)
            and database.name not in self._request.protected
            and (database.comment is None or _is_temporary(database.mark))
            and self._server.is_member_of(database.owner)
            and not sessions_in(self._server, database.oid)
        ]

    # -- sessions

    def sessions_of_children(self) -> Iterator[Recovered]:
        """Sessions of client programs in the live database, while none of ours can be at work."""
        live = self._server.database(self._request.live)
        for session in sessions_in(self._server, live.oid) if live is not None else ():
            if session.application in CLIENT_PROGRAMS:
                yield Recovered(
                    Outcome.KEPT,
                    f"the session {session}",
                    "no dump of pgclone_admin is running: it is somebody else's, or left of one "
                    "that died, and ends by itself when it gets its lock or has waited too long",
                )


def _is_temporary(mark: Mark | None) -> bool:
    return mark is not None and mark.kind == MarkKind.TEMPORARY
