"""What stands in the way of a restore, looked for before anything is made.

A check raises what stops the restore, and returns sentences that a person should read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from .connection import ConnectionParams
from .errors import (
    Conflict,
    DatabaseProtected,
    PreflightError,
    StandbyUnreached,
)
from .marks import Database, Mark, MarkKind, new_database_name
from .names import LocalKey, derived_name
from .own_databases import check_target, create_like, drop_marked
from .pooler import check_sessions_last
from .progress import Reporter
from .properties import Uncarried, carry_what_can_be, check_accepted
from .server import Server
from .sessions import check_sessions_can_be_ended

Check = Callable[[], list[str]]

PINS = {
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts WHERE database = %s",
    "logical replication slots": "SELECT slot_name FROM pg_replication_slots WHERE database = %s",
    "subscriptions": """SELECT s.subname FROM pg_subscription s
                          JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s""",
}

STANDBYS = """
SELECT count(*) FROM pg_stat_replication JOIN pg_stat_activity a USING (pid)
 WHERE a.datid IS NULL AND a.application_name NOT IN ('pg_basebackup', 'pg_receivewal')
"""
"""Who receives all that is written. In a database of its own is who receives its changes only; and
what only stores the log has no sessions."""


WAS_LIVE = "was live until the last swap, and what took its place is missing"


def how_to_have_back(live: str) -> str:
    """What to do with a parked database when the live one is missing."""
    return f'rename it to "{live}" to have it back, or drop it'


class RestoreNames:
    """The names that one restore of ``live`` may use."""

    def __init__(self, live: str, beside: LocalKey | None = None) -> None:
        self.live = live
        self.temporary = derived_name(live, "temp")
        self.parked = derived_name(live, "swap")
        self.pre = derived_name(live, "pre")
        self.post = derived_name(live, "post")
        self.undo = derived_name(live, "undo")
        self.held = derived_name(live, "held")
        self.beside = "" if beside is None else beside.name

    @property
    def made(self) -> list[str]:
        """Every name that has to be free, or that of a database made here."""
        names = [self.temporary, self.parked, self.pre, self.post, self.undo, self.held]
        return [*names, self.beside] if self.beside else names


def run_checks(checks: Iterable[Check], reporter: Reporter) -> None:
    """Raises the first thing that stops the restore."""
    for check in checks:
        for warning in check():
            reporter.warn(warning)


@dataclass(frozen=True)
class TargetChecks:
    """``live`` is the database to replace, ``None`` when there is none yet; ``model`` is what the
    new one is made like."""

    server: Server
    names: RestoreNames
    live: Database | None
    model: Database
    protected: frozenset[str]
    keeps_parked: bool = False
    """Whether what is live now stays on the server after the swap."""
    reached_standbys: int = 0
    """How many standbys have their sessions ended, too."""
    ignore_standbys: bool = False
    lose_settings: Collection[str] = ()
    """Names of settings and grants of the live database that may be lost."""
    replaces_beside: bool = True
    """Whether an older restore beside the live database may be replaced."""

    def all(self) -> list[Check]:
        checks: list[Check] = [
            self.sessions_last,
            self.is_no_system_database,
            self.may_create,
            self.names_are_free,
            self.live_is_not_parked,
        ]
        if self.live is not None and not self.names.beside:
            checks += [self.sessions_can_be_ended, self.nothing_pins_it, self.standbys]
        return checks

    def sessions_last(self) -> list[str]:
        return check_sessions_last(self.server)

    def is_no_system_database(self) -> list[str]:
        live = self.live
        maintenance = self.server.params.dbname
        if live is not None and (live.is_template or live.name == maintenance):
            raise DatabaseProtected(
                f'the database "{live.name}" is a template or the maintenance database and is '
                "never replaced",
                hint="Check NAME in DATABASES.",
            )
        return []

    def may_create(self) -> list[str]:
        self.server.check_may_create(self.model.owner)
        return []

    def names_are_free(self) -> list[str]:
        protected, live = self.protected | {self.names.live}, self.names.live
        refused = []
        for name in self.names.made:
            try:
                check_target(self.server, name, protected, live=live, kinds=self.replaces(name))
            except DatabaseProtected as error:
                refused.append(error)
        if refused:
            messages = "; ".join(error.message for error in refused)
            raise DatabaseProtected(messages, hint=refused[0].hint)
        return []

    def replaces(self, name: str) -> Collection[str] | None:
        """The kinds of older databases that give way to one under this name; ``None`` for all, as
        only restores make databases under their own names."""
        if name != self.names.beside:
            return None
        return {MarkKind.BESIDE} if self.replaces_beside else ()

    def live_is_not_parked(self) -> list[str]:
        """Somebody has dropped what a swap put in place, and means to have the old one back: the
        next restore would drop it."""
        parked = self.server.database(self.names.parked)
        mark = None if parked is None else parked.mark
        if self.live is None and mark is not None and mark.kind == MarkKind.PARKED:
            raise Conflict(
                f'the database "{self.names.parked}" {WAS_LIVE}',
                hint=f"Nothing was changed. You can {how_to_have_back(self.names.live)}.",
            )
        return []

    def sessions_can_be_ended(self) -> list[str]:
        assert self.live is not None
        check_sessions_can_be_ended(self.server, self.live.oid)
        return []

    def nothing_pins_it(self) -> list[str]:
        """A prepared transaction keeps a database from being renamed; what replicates it would go
        on with the parked one."""
        assert self.live is not None
        for what, statement in PINS.items():
            if names := [str(row[0]) for row in self.server.rows(statement, [self.live.name])]:
                raise Conflict(
                    f'the database "{self.live.name}" has {what}: {", ".join(names)}',
                    hint="Nothing was changed. Finish or drop them, then try again.",
                )
        return []

    def standbys(self) -> list[str]:
        """Sessions on a standby go on in a database that was renamed; one that is dropped ends
        them."""
        standbys = self.server.value(STANDBYS)
        if standbys <= self.reached_standbys or not self.keeps_parked:
            return []
        who = "a server replicates" if standbys == 1 else f"{standbys} servers replicate"
        told = (
            f"{who} from this one, and sessions that are open there go on reading the database "
            "that is replaced, until they end"
        )
        if self.ignore_standbys:
            return [told]
        raise StandbyUnreached(
            told,
            hint="Nothing was changed. Name these servers in DATABASES, so that their sessions are "
            "ended, or accept it with --ignore-standbys.",
        )

    def can_make_one(self, access: ConnectionParams) -> list[Uncarried]:
        """Makes, enters and drops a tiny database: the proof that a restore can work here at all.

        Returns what of the live database could not be carried to it; whether that is in the way is
        told by :meth:`losses_are_accepted`.

        ``pg_hba.conf`` often lets a role into its own database only, poolers know nothing of new
        ones, and a setting of the live database may be one that this role cannot set.
        """
        name = new_database_name()
        mark = Mark.new(name=name, kind=MarkKind.TEMPORARY, of=self.names.live)
        tiny = create_like(self.server, self.model, mark)
        try:
            try:
                with access.with_dbname(name).session():
                    pass
            except PreflightError as error:
                raise PreflightError(
                    f"a new database can be created, but not connected to: {error}",
                    hint="Let pg_hba.conf admit the role to all databases of the server, or give "
                    "PGCLONE_CONNECTIONS a connection past the pooler.",
                ) from error
            if self.live is None:
                return []
            with self.server.transaction() as cursor:
                return carry_what_can_be(cursor, self.live, tiny, tiny.name)
        finally:
            drop_marked(self.server, name, missing_ok=True)

    def losses_are_accepted(self, left: list[Uncarried]) -> list[str]:
        check_accepted(left, self.names.live, self.lose_settings)
        return [each.told(self.names.live) for each in left]
