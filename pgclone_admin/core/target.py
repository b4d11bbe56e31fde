"""The database that a restore replaces, and how it does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import psycopg2

from .connection import ConnectionParams
from .copy import copy_database, load_from_database
from .errors import INTERRUPTIONS, Conflict, DatabaseProtected, HookFailed, PgcloneError
from .judge import LoadReport, Tolerated
from .kept import Keeping
from .kept_definitions import Agreed, put_definitions
from .kept_rights import kept_in_live
from .locks import check_lock, take_lock
from .marks import Database, Mark, MarkKind, new_database_name, set_comment
from .names import LocalKey, TableName
from .own_databases import (
    check_target,
    clean_up,
    drop_marked,
    dropped_on_error,
    mark_and_rename,
    require_mark,
)
from .parked import settle_parked
from .preflight import RestoreNames, TargetChecks, run_checks
from .progress import Phase, Reporter
from .properties import carry
from .replicas import end_sessions_on_standbys
from .server import Server
from .swap import SwapRequest, SwapResult, swap


@dataclass(frozen=True, kw_only=True)
class RestoreRequest:
    """``live`` is the name of the database to replace, or to make; ``maintenance`` reaches its
    server."""

    live: str
    maintenance: ConnectionParams
    reversible: bool = False
    beside: LocalKey | None = None
    """Keeps the result under this name and swaps nothing."""
    replaces_beside: bool = True
    """Whether an older one under that name may be replaced."""
    hold: bool = False
    """Keeps the result for a swap that somebody asks for later."""
    drill: bool = False
    """Drops the result, after the hooks: the proof that it can be made."""
    keep_failed: bool = True
    """Whether a database stays for a look at it when a hook has failed on it, and for another try
    when the swap could not be made."""
    confirmed_oid: int | None = None
    """The database that somebody has confirmed to be replaced."""
    system_identifier: str = ""
    """The server on which that was."""
    keeping: Keeping = field(default_factory=Keeping)
    """The tables that stay those of the live database."""
    standbys: Sequence[ConnectionParams] = ()
    """Servers on which sessions of the live database are to be ended, too."""
    ignore_standbys: bool = False
    """Whether others may go on reading the database that is replaced."""
    lose_settings: Collection[str] = ()
    """Names of settings and grants of the live database that may be lost, where they cannot be
    carried over."""
    swap_patience: float = 60.0
    """Seconds for which the swap is tried when the site is busy."""
    protected: frozenset[str] = frozenset()
    """Names of databases that are never made, replaced or dropped."""
    trust_foreign: bool = False
    program_directories: Sequence[str] = ()
    jobs: int = 2
    """Sessions that load data and build indexes at the same time."""
    tolerated: Tolerated = frozenset()
    most_bytes: int | None = None
    """What the database and its copies may take on the disk of the server."""
    statement_timeout: int | None = None
    """Milliseconds, for statements on the maintenance connection."""
    lock_timeout: int | None = None


def target_checks(
    request: RestoreRequest,
    server: Server,
    live: Database | None,
    model: Database,
    *,
    keeps_parked: bool,
) -> TargetChecks:
    """What has to hold on the server before this is restored, for the plan and for the work.

    ``keeps_parked``: whether what is live now stays on the server.
    """
    return TargetChecks(
        server,
        RestoreNames(request.live, request.beside),
        live,
        model,
        request.protected,
        keeps_parked=keeps_parked,
        reached_standbys=len(request.standbys),
        ignore_standbys=request.ignore_standbys,
        lose_settings=request.lose_settings,
        replaces_beside=request.replaces_beside,
    )


@dataclass(frozen=True)
class RestoreResult:
    """What came of a restore."""

    database: str
    """The database that now holds what was restored."""
    swap: SwapResult | None
    """``None`` when nothing was swapped."""
    report: LoadReport


@dataclass(frozen=True)
class Target:
    """A live database that this run alone may replace, as long as it holds the lock."""

    request: RestoreRequest
    server: Server
    names: RestoreNames
    live: Database | None
    """``None`` when there is none yet."""
    model: Database
    """What the new database is made like."""
    checks: TargetChecks
    reporter: Reporter

    @classmethod
    @contextmanager
    def locked(
        cls, request: RestoreRequest, reporter: Reporter, *, keeps_parked: bool
    ) -> Iterator[Target]:
        """Checks and locks the target for the length of the block.

        ``keeps_parked``: whether what is live now stays on the server.
        """
        reporter.phase(Phase.CHECKING)
        with Server.connected(
            request.maintenance,
            statement_timeout=request.statement_timeout,
            lock_timeout=request.lock_timeout,
        ) as server:
            names = RestoreNames(request.live, request.beside)
            take_lock(server, names.live, exclusive=True)
            live = server.database(names.live)
            _check_identity(request, server, live)
            model = live or server.default_model()
            checks = target_checks(request, server, live, model, keeps_parked=keeps_parked)
            run_checks(checks.all(), reporter)
            if live is not None and request.beside is None:
                kept_in_live(server, live, request.keeping)
            settle_parked(server, names)
            yield cls(request, server, names, live, model, checks, reporter)

    def mark(
        self, name: str, kind: MarkKind, source: str, *, becomes: str = "", copy: int = 0
    ) -> Mark:
        return Mark.new(
            name=name, kind=kind, of=self.names.live, source=source, becomes=becomes, copy=copy
        )

    def check_carried(self, live: Database, temporary: Database) -> None:
        """:class:`NotCarried` while it is still nobody's trouble: the transaction that renames
        would find it only after everybody was sent away."""
        with self.server.transaction(undone=True) as cursor:
            carry(
                cursor,
                live,
                temporary,
                temporary.name,
                lose_settings=self.request.lose_settings,
            )

    def keep_definitions(self, temporary: Database) -> Agreed | None:
        """Gives the temporary database the kept tables of the live one, without their rows."""
        request, server = self.request, self.server
        if not request.keeping.tables:
            return None
        role = server.role_to_take(temporary.owner)
        live = server.params.with_dbname(request.live).with_role(role)
        target = server.params.with_dbname(temporary.name).with_role(role)

        def copy_definitions(tables: Sequence[TableName]) -> None:
            report = load_from_database(
                live,
                target,
                server,
                self.reporter,
                program_directories=request.program_directories,
                definitions_of=tables,
            )
            report.tell(self.reporter)

        writing = target.with_role(server.role_to_write(temporary.owner))
        return put_definitions(
            server,
            live,
            writing,
            request.keeping,
            copy_definitions,
            patience=request.swap_patience,
        )

    def set_aside(self, temporary: Database, name: str, kind: MarkKind) -> None:
        """Keeps a finished database under another name instead of swapping it in."""
        mark = self._finished(temporary, name, kind)
        mark_and_rename(self.server, temporary.name, mark, replaces=self.checks.replaces(name))

    def _finished(self, temporary: Database, name: str, kind: MarkKind) -> Mark:
        comes_back = kind is MarkKind.HELD and self.request.reversible
        becomes = MarkKind.PRE if comes_back else ""
        return replace(require_mark(temporary), name=name, kind=kind, becomes=becomes)

    def hold_for_later(self, temporary: Database, error: PgcloneError) -> None:
        """Keeps as held what is finished, but could not be swapped in: hours of work.

        What is held already stays, and this one is not kept then. ``error`` tells; nothing is
        raised.
        """

        def hold(server: Server, name: str) -> None:
            names = self.names
            protected = self.request.protected | {names.live}
            try:
                check_target(server, names.held, protected, live=names.live, kinds=())
            except DatabaseProtected as refused:
                told = f"What was restored is dropped, as it cannot be held: {refused.message}."
            else:
                held = self._finished(temporary, names.held, MarkKind.HELD)
                mark_and_rename(server, name, held, replaces=())
                told = (
                    "What was restored is held: swap it in later, in the admin or with pgclone "
                    "swap, and the -d, -c, --reversible and hooks that this restore had."
                )
            error.hint = f"{told} {error.hint}" if error.hint else told

        try:
            # There may be no other connection to be had, which can be why the swap has failed.
            present = self.server.database(temporary.name)
            if present is not None and present.oid == temporary.oid:
                hold(self.server, present.name)
        except (PgcloneError, psycopg2.Error):
            clean_up(self.server, temporary, error, hold)

    def take_over(
        self,
        live: Database,
        temporary: Database,
        source: str,
        *,
        parked_as: MarkKind,
        agreed: Agreed | None,
    ) -> SwapResult:
        """Swaps a finished database in, with the copies that the request wants around it.

        ``parked_as`` is PRE or UNDO: what becomes of the live one if it is kept. ``agreed``
        is what :meth:`keep_definitions` has returned.
        """
        request, server, names = self.request, self.server, self.names
        check_lock(server)
        self.check_carried(live, temporary)
        becomes = parked_as if request.reversible or parked_as is MarkKind.UNDO else ""
        post = 0
        with ExitStack() as made:
            if request.reversible and parked_as is MarkKind.PRE:
                # After the hooks: a copy of what was there before them could hold the raw rows of
                # an anonymized restore.
                self.reporter.phase(Phase.COPYING)
                # Under its own name only after the swap: until then an older one is the right one.
                unfinished = self.mark(new_database_name(), MarkKind.TEMPORARY, source)
                copied = copy_database(
                    server,
                    temporary,
                    unfinished,
                    self.reporter,
                    end_sessions=True,
                    lose_settings=request.lose_settings,
                    program_directories=request.program_directories,
                )
                made.enter_context(dropped_on_error(server, copied.database))
                post = copied.database.oid
            parked = self.mark(names.parked, MarkKind.PARKED, source, becomes=becomes, copy=post)
            if request.swap_patience > 0:
                # What is noted during the swap may be seen after it only.
                self.reporter.note(
                    "swapping as soon as nobody is in the way, which is waited for at most "
                    f"{request.swap_patience:g} s"
                )
            self.reporter.phase(Phase.SWAPPING)
            swapped = swap(
                SwapRequest(
                    maintenance=server.params,
                    live=live,
                    temporary=temporary,
                    parked=parked,
                    keeping=request.keeping,
                    agreed=agreed,
                    lose_settings=request.lose_settings,
                    patience=request.swap_patience,
                ),
                self.reporter,
                check_lock=partial(check_lock, server),
            )
        try:
            for left in swapped.lost_settings:
                self.reporter.warn(left.told(names.live))
            self.reporter.phase(Phase.CLEANING_UP)
            end_sessions_on_standbys(request.standbys, live, names.live, self.reporter)
            self._settle()
        except INTERRUPTIONS:
            # It comes too late: to call this cancelled would be to hide what is live now.
            self.reporter.warn(
                "the restore is done, but was interrupted while it cleaned up: pgclone recover, or "
                "the next restore, does the rest"
            )
        return swapped

    def _settle(self) -> None:
        try:
            settle_parked(self.server, self.names)
        except INTERRUPTIONS:
            raise
        except (PgcloneError, psycopg2.Error) as error:
            self.reporter.warn(f"the restore is done, but the next one has to clean up: {error}")


def _check_identity(request: RestoreRequest, server: Server, live: Database | None) -> None:
    """:class:`Conflict` unless this is what somebody has looked at and confirmed."""
    confirmed = request.confirmed_oid
    is_other = confirmed is not None and confirmed != (0 if live is None else live.oid)
    if is_other or request.system_identifier not in ("", server.system_identifier):
        raise Conflict(
            f'the database "{request.live}" is another one than the one that was confirmed',
            hint="Nothing was changed. Look at the plan again, and confirm it again.",
        )


@contextmanager
def dropped_unless_kept(
    server: Server, temporary: Database, *, keep_failed: bool
) -> Iterator[None]:
    """Drops the temporary database after any error; with ``keep_failed`` not after that of a hook,
    which can be looked into."""
    try:
        yield
    except HookFailed as error:
        is_kept = keep_failed and error.may_be_kept
        told = (
            f'The live database was not touched. The temporary database "{temporary.name}" is kept '
            "for a look at it until the next restore."
            if is_kept
            else "The live database was not touched, and what was restored is dropped."
        )
        error.hint = f"{error.hint} {told}" if error.hint else told
        clean_up(server, temporary, error, _mark_failed if is_kept else drop_marked)
        raise
    except BaseException as error:
        clean_up(server, temporary, error, drop_marked)
        raise


def _mark_failed(server: Server, name: str) -> None:
    mark = require_mark(server.existing(name))
    with server.transaction() as cursor:
        set_comment(cursor, name, replace(mark, kind=MarkKind.FAILED).comment())
