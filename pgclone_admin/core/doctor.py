"""Looks at what dumps and restores of a database need from its server, before they need it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg2

from .connection import ConnectionParams
from .errors import PgcloneError
from .findings import FIXES, Finding, Level, fine, problem
from .kept import Keeping
from .kept_rights import kept_in_live
from .marks import Database
from .owners import objects_of_others
from .pooler import check_sessions_last
from .preflight import Check, RestoreNames, TargetChecks
from .programs import choose_program, find_programs, open_flaws, version_without_flaws
from .refusals import refused
from .server import Server
from .space import megabytes

OLDEST_SERVER = 13

CHECKS = {
    "is_no_system_database": (
        "database",
        "what a restore replaces is no template and not the maintenance database",
    ),
    "may_create": ("role", "the role may create databases for the owner of the live one"),
    "names_are_free": ("names", "the names that a restore uses are free, or those of its own"),
    "live_is_not_parked": ("database", None),
    "sessions_can_be_ended": ("sessions", "nobody is connected whom a swap could not send away"),
    "nothing_pins_it": (
        "replication",
        "no prepared transactions, logical replication slots or subscriptions",
    ),
    "standbys": ("replication", "no standby is connected that a restore would not reach"),
}
"""What the checks of a restore are about, and what is true when they find nothing."""


@dataclass(frozen=True, kw_only=True)
class ServerExamination:
    """``live`` is the name of the live database; ``maintenance`` reaches its server.

    Without ``restores`` only what dumps need is looked at.
    """

    live: str
    maintenance: ConnectionParams
    protected: frozenset[str] = frozenset()
    program_directories: Sequence[str] = ()
    restores: bool = True
    reached_standbys: int = 0
    """How many standbys have their sessions ended by a restore, too."""
    lose_settings: Collection[str] = ()
    """Names of settings and grants that a restore may lose."""
    keeping: Callable[[], Keeping] = Keeping
    """Finds the tables that a restore keeps."""


def examine_server(examination: ServerExamination) -> Iterator[Finding]:
    """Tells what is right and wrong with a server; never raises for what it finds.

    As for a plan a tiny database is created, connected to and dropped; nothing else is changed.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Server.connected(examination.maintenance))
            examiner = _Examiner(server, examination)
        except PgcloneError as error:
            yield _unreachable(examination, error)
            yield from _programs_without_server(examination.program_directories)
            return
        except psycopg2.Error as error:
            yield problem("server", refused(error))
            yield from _programs_without_server(examination.program_directories)
            return
        yield from examiner.all()


def _unreachable(examination: ServerExamination, error: PgcloneError) -> Finding:
    """No maintenance connection; perhaps only because of the database it is made to."""
    try:
        with examination.maintenance.with_dbname(examination.live).session():
            pass
    except PgcloneError:
        return problem("server", error)
    return Finding(
        Level.PROBLEM,
        "server",
        error.message,
        f'The database "{examination.live}" can be connected to. Let PGCLONE_CONN_DB name another '
        "database that the role can connect to, or let pg_hba.conf admit it to this one.",
    )


def _programs_without_server(directories: Sequence[str]) -> Iterator[Finding]:
    for name in ("pg_dump", "pg_restore"):
        if programs := find_programs(name, directories):
            versions = ", ".join(sorted({program.version for program in programs}))
            found = f"{name} {versions}; the version of the server tells which one is used"
            yield fine("programs", found)
        else:
            found = f"{name} is not installed"
            yield Finding(Level.PROBLEM, "programs", found, FIXES["programs"])


class _Examiner:
    def __init__(self, server: Server, examination: ServerExamination) -> None:
        self._server = server
        self._asked = examination
        self._live = server.database(examination.live)
        self._names = RestoreNames(examination.live)
        self._can_connect = False
        """Whether the live database is there and lets this role in; told once."""

    def all(self) -> Iterator[Finding]:
        steps: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
            ("database", self._database),
            ("server", self._version),
            ("pooler", self._pooler),
            ("programs", self._programs),
            ("role", self._rights),
        ]
        if self._asked.restores:
            steps += [("restore", self._restore), ("kept tables", self._kept)]
            steps += [("owners", self._owners)]
            steps += [("space", self._space)]
        for about, step in steps:
            try:
                yield from step()
            except PgcloneError as error:
                yield problem(about, error)
            except psycopg2.Error as error:
                yield problem(about, refused(error))

    def _database(self) -> Iterator[Finding]:
        if self._live is None:
            yield Finding(
                Level.PROBLEM,
                "database",
                f'there is no database "{self._asked.live}" on {self._server.params.where}',
                "Restore a dump, which makes it, or check NAME in DATABASES.",
            )
            return
        with self._server.params.with_dbname(self._live.name).session():
            self._can_connect = True
        yield fine(
            "database",
            f'"{self._live.name}" of the role "{self._live.owner}" can be connected to',
        )

    def _version(self) -> Iterator[Finding]:
        params = self._server.params
        found = (
            f'PostgreSQL {self._server.version} on {params.where}, as the role "'
            f'{self._server.role().name}", maintenance database "{params.dbname}"'
        )
        if self._server.major < OLDEST_SERVER:
            fix = f"Upgrade the server to PostgreSQL {OLDEST_SERVER} or newer."
            yield Finding(Level.PROBLEM, "server", found, fix)
        else:
            yield fine("server", found)

    def _pooler(self) -> Iterator[Finding]:
        found = "the maintenance connection keeps its session and its locks"
        yield from _run(lambda: check_sessions_last(self._server), "pooler", found)

    def _programs(self) -> Iterator[Finding]:
        for name in ("pg_dump", "pg_restore"):
            try:
                program = choose_program(
                    name,
                    server_major=self._server.major,
                    directories=self._asked.program_directories,
                )
            except PgcloneError as error:
                yield problem("programs", error)
                continue
            found = f"{name} {program.version} ({program.path})"
            flaws = open_flaws(program) if name == "pg_restore" else []
            if flaws:
                yield Finding(
                    Level.WARNING,
                    "programs",
                    f"{found} has {', '.join(flaws)}: a crafted dump can run code here",
                    f"Install version {version_without_flaws(program.major)} or newer; until then "
                    "restore no dump that others could have altered.",
                )
            else:
                yield fine("programs", found)

    def _rights(self) -> Iterator[Finding]:
        name = self._server.role().name
        if (danger := self._server.danger()) is not None:
            yield Finding(
                Level.WARNING,
                "role",
                f'the role "{name}" {danger}: code in a dump has its rights',
                "Use a role that owns its database, has CREATEDB and is no superuser; see "
                "PGCLONE_CONNECTIONS.",
            )
        else:
            yield fine("role", f'"{name}" is no superuser and may run no programs on the server')

    # -- what a restore needs

    def _restore(self) -> Iterator[Finding]:
        model = self._live or self._server.default_model()
        target = TargetChecks(
            self._server,
            self._names,
            self._live,
            model,
            self._asked.protected - {self._asked.live},
            # The restore for which there is most in the way; it can be told to go on.
            keeps_parked=True,
            reached_standbys=self._asked.reached_standbys,
            ignore_standbys=True,
            lose_settings=self._asked.lose_settings,
        )
        may_create = True
        for check in target.all():
            if check == target.sessions_last:
                continue  # was looked at, also where there are no restores
            about, found = CHECKS.get(check.__name__, (check.__name__, None))
            for finding in _run(check, about, found):
                may_create = may_create and (finding.level, about) != (Level.PROBLEM, "role")
                yield finding
        if may_create:
            yield from self._proof(target, model)

    def _proof(self, target: TargetChecks, model: Database) -> Iterator[Finding]:
        access = self._server.params.with_role(self._server.role_to_take(model.owner))
        try:
            lost = target.losses_are_accepted(target.can_make_one(access))
        except PgcloneError as error:
            yield problem("proof", error)
            return
        for warning in lost:
            fix = "As a superuser, set it again after a restore."
            yield Finding(Level.WARNING, "proof", warning, fix)
        found = "a new database can be created, connected to and dropped"
        if self._live is not None:
            which = "all other" if lost else "all"
            found += f", and takes {which} settings and grants of the live one"
        yield fine("proof", found)

    def _kept(self) -> Iterator[Finding]:
        if self._live is None or not self._can_connect:
            return
        tables = kept_in_live(self._server, self._live, self._asked.keeping())
        names = ", ".join(sorted(str(table.name) for table in tables))
        yield fine("kept tables", names or "no tables are kept")

    def _owners(self) -> Iterator[Finding]:
        if self._live is None or not self._can_connect:
            return
        with (
            self._server.params.with_dbname(self._live.name).session() as connection,
            connection.cursor() as cursor,
        ):
            others = objects_of_others(cursor)
        for role, count in others:
            objects = "one object" if count == 1 else f"{count} objects"
            name = self._server.role().name
            yield Finding(
                Level.WARNING,
                "owners",
                f'{objects} of the role "{role}" would belong to "{self._live.owner}" after a '
                f'restore, as the role "{name}" may not give them to it',
                f'As a superuser: GRANT "{role}" TO "{name}", or let PGCLONE_CONNECTIONS name a '
                "superuser.",
            )

    def _space(self) -> Iterator[Finding]:
        if self._live is None:
            return
        size = self._server.size(self._live.name)
        copies = sum(
            self._server.size(database.name)
            for database in self._server.databases()
            if database.mark is not None and database.mark.of == self._live.name
        )
        yield fine(
            "space",
            f"the database has {megabytes(size)}, its copies {megabytes(copies)}; the server "
            "does not tell how much is free: a restore of as much needs "
            f"{megabytes(size)} more until its end, a reversible one {megabytes(2 * size)}",
        )


def _run(check: Check, about: str, found: str | None) -> Iterator[Finding]:
    try:
        warnings = check()
    except PgcloneError as error:
        yield problem(about, error)
        return
    for warning in warnings:
        yield Finding(Level.WARNING, about, warning, FIXES.get(about, "Look at it."))
    if not warnings and found is not None:
        yield fine(about, found)
