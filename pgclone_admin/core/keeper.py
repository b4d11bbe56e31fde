"""The session that guards the kept tables while the databases are swapped."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import errorcodes, sql

from .between import speak_alike
from .carrier import Carrier, TooSlow
from .catalog import table_oids
from .connection import Connection, backend_pid, remove_session_limits
from .errors import Conflict, ServerUnavailable, TooBusy
from .kept import Keeping, find_kept
from .kept_definitions import Agreed, check_definitions
from .marks import Database
from .progress import Reporter
from .refusals import explained
from .server import Server

LOCK_WITHIN = 200
"""Milliseconds in which all kept tables have to be locked. Who comes after us waits as well."""

HELD_AT_MOST = 500
"""Milliseconds from the wish for the locks until the last changes are there: as long as writers
wait in one attempt, whatever has changed and however many tables there are. The rename comes on
top."""

HELD_IN_THE_END = 2_000
"""The same in the second half of the time for attempts, if there was not enough of it before: some
tables are so large that looking through them takes longer, and a restore would be thrown away."""

FEW_CHANGES = 1_000
"""Rows that are brought over fast enough for writers to wait for it."""

MOST_CATCH_UPS = 5
"""Rounds without a lock to have only few changes left for when there is one."""

CONFLICTING_MODES = (
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)


class Keeper:
    """Holds the kept tables of the live database still, and brings their last rows over.

    Its session is the last one in the live database: as long as it is there, nobody has written to
    a kept table since :meth:`hold`. A second one remembers what there was at the last copy. When
    this process dies, the locks are gone and the rows are where they were.
    """

    def __init__(
        self,
        server: Server,
        live: Database,
        temporary: Database,
        keeping: Keeping,
        reporter: Reporter,
        *,
        patience: float,
        agreed: Agreed | None = None,
    ) -> None:
        """``patience``: seconds for which somebody may keep the tables from being read."""
        self._agreed = agreed
        self._server = server
        self._patience = max(1, round(patience * 1000))
        role = server.role_to_take(live.owner)
        self._to_live = server.params.with_dbname(live.name).with_role(role)
        writer = server.role_to_write(live.owner)
        self._to_temporary = server.params.with_dbname(temporary.name).with_role(writer)
        self._live = live
        self._keeping = keeping
        self._reporter = reporter
        self._session: Connection | None = None
        self._past: Connection | None = None
        self._pids: dict[Connection, int] = {}
        self._carrier = Carrier(())
        self._held_since = 0.0
        self.gives_up_at = math.inf
        """When (of the monotonic clock) there are to be no more attempts."""
        self._was_too_slow = False
        self.seconds = 0.0
        """How long writers to kept tables had to wait in the last attempt, at most."""

    @property
    def pids(self) -> set[int]:
        """The server's processes of the sessions in the live database."""
        return {pid for session, pid in self._pids.items() if not session.closed}

    def prepare(self) -> None:
        """Copies the rows of all kept tables while everybody goes on writing.

        :class:`Conflict` when they do not fit the tables of the temporary database.
        """
        if not self._keeping.tables:
            return
        with (
            self._live_session() as live,
            self._to_temporary.session(autocommit=False) as temporary,
        ):
            _prepare(temporary)
            with live.cursor() as cursor:
                tables = find_kept(cursor, self._keeping)
            check_definitions(live, temporary, tables, self._agreed)
            live.rollback()
            temporary.rollback()
            self._carrier = Carrier(tables)
            if tables:
                self._bring_nearly_all(live, temporary)

    def hold(self) -> None:
        """Locks the kept tables and brings over what has changed; writers wait from here.

        :class:`TooBusy` when they cannot be locked at once, or the changes are too many to let
        anybody wait for; nothing is locked then.
        """
        if not self._carrier.tables:
            return
        if self._past is None or self._past.closed or not self._carrier.can_catch_up:
            self._again()
        with self._to_temporary.session(autocommit=False) as temporary:
            _prepare(temporary)
            self._session = live = self._stay()
            try:
                with self._carrier.opened(temporary):
                    self._prepare_to_lock(live)
                    until = time.monotonic() + self._may_hold / 1000
                    self._held_since = time.monotonic()
                    self._lock(live)
                    self._check_again(live)
                    assert self._past is not None
                    self._carrier.catch_up(live, temporary, self._past, locked=True, until=until)
            except BaseException as error:
                self.let_go()
                if isinstance(error, psycopg2.Error | TooSlow):
                    self._recover(error)
                raise

    def _check_again(self, live: Connection) -> None:
        """Somebody may have migrated the site since the rows were copied. Only what rows would be
        lost by is looked at: writers wait."""
        try:
            with live.cursor() as cursor:
                tables = find_kept(cursor, self._keeping)
        except psycopg2.errors.QueryCanceled as error:
            raise TooSlow from error
        if [table.shape for table in tables] != [t.shape for t in self._carrier.tables]:
            raise Conflict(
                "the kept tables have changed since their rows were copied",
                hint="The live database is as it was. Was it migrated meanwhile? Try again.",
            )

    @property
    def left(self) -> int:
        """Milliseconds of this attempt for which writers may still wait."""
        if self._session is None:
            return HELD_AT_MOST
        return round(self._may_hold - (time.monotonic() - self._held_since) * 1000)

    @property
    def _may_hold(self) -> int:
        """Milliseconds for which writers may wait in an attempt."""
        left = self.gives_up_at - time.monotonic()
        is_near_the_end = left < self._patience / 2000
        return HELD_IN_THE_END if self._was_too_slow and is_near_the_end else HELD_AT_MOST

    def is_alive(self) -> bool:
        """Whether the session, and with it the locks, has been there all the time."""
        if self._session is None:
            return not self._carrier.tables
        try:
            with self._session.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error:
            return False
        return True

    def let_go(self) -> None:
        """Ends the session: who waited for the locks goes on, or is ended with the others."""
        if self._session is not None:
            self._session.close()
            self._session = None
            self.seconds = time.monotonic() - self._held_since

    def leave(self) -> None:
        """Ends everything that is in the live database; :meth:`let_go` keeps what another attempt
        can make use of."""
        if self._past is not None:
            self._past.close()
            self._past = None
        self.let_go()

    # -- how

    def _stay(self, *, autocommit: bool = False, lock_timeout: int = 0) -> Connection:
        """A session in the live database that is to be spared as long as it is open."""
        session = self._connect(autocommit=autocommit)
        try:
            _prepare(session, lock_timeout=lock_timeout)
            self._pids[session] = backend_pid(session)
            session.rollback()
        except BaseException:
            session.close()
            raise
        return session

    @contextmanager
    def _live_session(self) -> Iterator[Connection]:
        try:
            session = self._connect(autocommit=False)
        except ServerUnavailable as error:
            error.hint = (
                "The rows of the kept tables are in this database, so it has to be connected to. "
                "PGCLONE_KEEP_APPS = [] restores without them."
            )
            raise
        try:
            _prepare(session, lock_timeout=self._patience)
            yield session
        except psycopg2.errors.LockNotAvailable as error:
            session.rollback()
            blockers = self._blockers(self._names(session))
            raise TooBusy(
                "kept tables could not be read: "
                + (blockers or "another session holds them exclusively"),
                hint="The live database is as it was. Try again when this work is done.",
            ) from error
        finally:
            session.close()

    def _prepare_to_lock(self, live: Connection) -> None:
        """For all tables together: each one has its own lock_timeout."""
        with live.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(LOCK_WITHIN)])

    def _connect(self, *, autocommit: bool) -> Connection:
        """A session in the live database, where others may have all connections for a moment."""
        left = min(self._patience / 1000, self.gives_up_at - time.monotonic())
        return self._server.connect_in_time(self._to_live, left, autocommit=autocommit)

    def _lock(self, live: Connection) -> None:
        tables = list(self._carrier.tables)
        # A transaction that takes them in another order than we do is in our way for as long as we
        # are in its: in one order or the other they can be had.
        random.shuffle(tables)
        names = sql.SQL(", ").join(table.identifier for table in tables)
        try:
            with live.cursor() as cursor:
                cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names))
        except psycopg2.errors.QueryCanceled as error:
            live.rollback()
            blockers = self._blockers({t.oid: str(t.name) for t in self._carrier.tables})
            raise TooBusy(
                "kept tables could not be locked: " + (blockers or "somebody else is at work"),
                hint="The live database is as it was. Try again when fewer are at work, or end "
                "these sessions.",
            ) from error

    def _names(self, session: Connection) -> dict[int, str]:
        """The kept tables, without looking into them."""
        with session.cursor() as cursor:
            oids = table_oids(cursor, [kept.table for kept in self._keeping.tables])
        return {oid: str(table) for table, oid in oids.items()}

    def _blockers(self, names: dict[int, str]) -> str:
        """Who holds what, for people."""
        rows = self._server.rows(
            """
            SELECT l.relation::bigint, a.pid, coalesce(a.usename, a.backend_type),
                   coalesce(a.application_name, ''),
                   coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::int
              FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'relation' AND l.granted AND l.database = %s
               AND l.relation = ANY(%s::oid[]) AND l.mode = ANY(%s)
             ORDER BY 2, 1
            """,
            [self._live.oid, list(names), list(CONFLICTING_MODES)],
        )
        return ", ".join(
            f"{user} ({application or 'no application name'}, pid {pid}) has been at work in "
            f"{names[oid]} for {seconds} s"
            for oid, pid, user, application, seconds in rows
        )

    def _recover(self, error: psycopg2.Error | TooSlow) -> None:
        """Prepares another attempt; raises what the first one came to."""
        if isinstance(error, TooSlow):
            self._was_too_slow = True
            self._reporter.note("too much has changed; bringing it over before the next attempt")
            self._again()
            raise _too_fast() from error
        if isinstance(error, psycopg2.IntegrityError):
            # Rows that exchanged a unique value stand in each other's way.
            self._again(copy=True)
            raise TooBusy("the rows of the kept tables have to be copied again") from error
        if error.pgcode == errorcodes.DEADLOCK_DETECTED:
            raise TooBusy("kept tables could not be locked: deadlock") from error
        raise explained(error, "the kept tables could not be brought over") from error

    def _again(self, *, copy: bool = False) -> None:
        """Brings over what has changed, without a lock; :class:`TooBusy` when that takes longer
        than there is still to be tried."""
        try:
            with (
                self._live_session() as live,
                self._to_temporary.session(autocommit=False) as temporary,
            ):
                _prepare(temporary)
                until = self.gives_up_at
                self._bring_nearly_all(live, temporary, copy=copy, until=until)
        except (TooSlow, psycopg2.errors.QueryCanceled) as error:
            raise _too_fast() from error

    def _bring_nearly_all(
        self,
        live: Connection,
        temporary: Connection,
        *,
        copy: bool = False,
        until: float = math.inf,
    ) -> None:
        """Leaves only few changes for the time in which there is a lock; :class:`TooSlow` when it
        has not come so far until that time of the monotonic clock."""
        past = self._past
        if past is None or past.closed:
            copy = True
            self._past = past = self._stay(autocommit=True, lock_timeout=self._patience)
        for _ in range(MOST_CATCH_UPS):
            self._reporter.check()
            if copy or not self._carrier.can_catch_up:
                copy = False
                self._carrier.copy(live, temporary, past, until=until)
                continue
            try:
                if self._carrier.catch_up(live, temporary, past, until=until) < FEW_CHANGES:
                    return
            except psycopg2.IntegrityError:
                copy = True


def _too_fast() -> TooBusy:
    return TooBusy(
        "the kept tables change too fast, or are too large, for their last changes to be brought "
        "over in the time there is",
        hint="The live database is as it was. Try again when fewer are at work, or give "
        "PGCLONE_SWAP_TIMEOUT more seconds. Each kept table is looked through while writers wait: "
        "delete what nobody needs, as with manage.py clearsessions.",
    )


def _prepare(connection: Connection, *, lock_timeout: int = 0) -> None:
    """The limit is in milliseconds, 0 for none."""
    remove_session_limits(connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [str(lock_timeout)])
    speak_alike(connection)
