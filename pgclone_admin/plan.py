"""What a restore would do, and what stands in its way."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from django.db.migrations.loader import MigrationLoader

from .core.archive import Contents, OpenedArchive
from .core.errors import PgcloneError
from .core.manifest import Manifest
from .core.names import DumpKey, LocalKey
from .core.preflight import (
    Check,
    DumpChecks,
    RestoreNames,
    TargetChecks,
    check_extensions,
)
from .core.programs import choose_program
from .core.progress import SilentReporter
from .core.server import Server
from .core.streams import ArchiveReader, StoredReader
from .hooks import CommandHook
from .hooks.command import MIGRATE
from .store import DumpStore


@dataclass
class Obstacle:
    """Something that would stop the restore before it has begun."""

    code: str
    message: str
    hint: str | None


@dataclass
class Plan:
    """Sizes are in bytes; ``None`` is what cannot be told."""

    key: str
    database: str
    server: str
    replaces: bool = False
    """Whether a live database is replaced; not so beside it, or when there is none."""
    dump_size: int | None = None
    taken_at: datetime | None = None
    taken_from: str = ""
    restored_size: int | None = None
    live_size: int | None = None
    sessions: int = 0
    """Clients that would be sent away by the swap, as of now."""
    keeps: list[str] = field(default_factory=list)
    """Local copies that there would be afterwards."""
    drops: list[str] = field(default_factory=list)
    """Local copies that there would not be any more."""
    hooks: list[str] = field(default_factory=list)
    migrations: list[str] | None = None
    """Migrations that the hook ``migrate`` would run."""
    unknown_migrations: list[str] = field(default_factory=list)
    """Migrations in the dump that this code does not have: it was made by a newer or other code."""
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)

    @property
    def peak_size(self) -> int | None:
        """Bytes that the restore needs on the disk of the server beside what is there."""
        if self.restored_size is None:
            return None
        return self.restored_size * (2 if ":post" in self.keeps else 1)

    def collect(self, checks: Iterable[Check]) -> None:
        """Runs every check, also after one that would stop the restore."""
        for check in checks:
            try:
                self.warnings += check()
            except PgcloneError as error:
                self.add(error)

    def add(self, error: PgcloneError) -> None:
        self.obstacles.append(Obstacle(error.code, error.message, error.hint))


@dataclass(frozen=True)
class Question:
    """What is asked of the plan: the same as of the restore."""

    live: str
    reversible: bool
    beside: LocalKey | None
    protected: frozenset[str]
    trust_foreign: bool
    program_directories: list[str]


def make_plan(
    question: Question,
    key: DumpKey | LocalKey,
    store: DumpStore,
    server: Server,
    hooks: list[CommandHook],
) -> Plan:
    """Looks at everything that a restore needs, changes nothing that lasts.

    A tiny database is made, entered and dropped: the proof that a restore can work here.
    """
    live = server.database(question.live)
    model = live or server.pattern()
    names = RestoreNames(question.live, question.beside)
    plan = Plan(
        key=str(key),
        database=names.beside or question.live,
        server=f"{server.params.where}, PostgreSQL {server.version}",
        replaces=live is not None and not names.beside,
        hooks=[hook.name for hook in hooks],
    )
    target = TargetChecks(server, names, live, model, question.protected)
    plan.collect(target.all())
    if not plan.obstacles:
        access = server.params.with_role(server.role_to_take(model.owner))
        try:
            target.can_make_one(access)
        except PgcloneError as error:
            plan.add(error)
    if live is not None:
        plan.live_size = server.size(live.name)
    if live is not None and plan.replaces:
        plan.sessions = len(server.sessions(live.oid))
        _foretell_copies(plan, key, server, names, reversible=question.reversible)
    try:
        if isinstance(key, LocalKey):
            plan.restored_size = server.size(server.existing(key.database_name(question.live)).name)
            plan.taken_from = "a database of the same server"
        else:
            _examine_dump(plan, question, key, store, server)
    except PgcloneError as error:
        plan.add(error)
    return plan


def _foretell_copies(
    plan: Plan, key: DumpKey | LocalKey, server: Server, names: RestoreNames, *, reversible: bool
) -> None:
    if isinstance(key, LocalKey):
        plan.keeps = [str(key), ":undo"]
    elif reversible:
        plan.keeps = [":pre", ":post"]
    else:
        copies = {":pre": names.pre, ":post": names.post}
        plan.drops = [copy for copy, name in copies.items() if server.database(name) is not None]


def _examine_dump(
    plan: Plan, question: Question, key: DumpKey, store: DumpStore, server: Server
) -> None:
    plan.dump_size = store.size(key)
    plan.taken_at = key.taken_at
    manifest = store.manifest(key)
    plan.collect(DumpChecks(server, key, plan.dump_size, manifest, question.trust_foreign).all())
    contents = read_contents(store, key)
    if contents is not None:
        plan.taken_from = f'"{contents.database}", PostgreSQL {contents.server_version}'
        if not server.role()[1]:
            plan.left_out = sorted(contents.outline.superuser_only.values())
    choose_program(
        "pg_restore",
        server_major=server.major,
        directories=question.program_directories,
        oldest=contents.oldest_reader if contents else 0,
    )
    plan.collect([lambda: check_extensions(server, contents)])
    if manifest is not None:
        plan.restored_size = manifest.source_size
        _compare_migrations(plan, manifest)


def read_contents(store: DumpStore, key: DumpKey) -> Contents | None:
    """The table of contents of a dump, of which only the beginning is read."""
    with ExitStack() as stack:
        stored = StoredReader(store.open(key), SilentReporter())
        stack.callback(stored.close)
        reading = ArchiveReader(stored)
        stack.callback(reading.close)
        archive = OpenedArchive(reading)
        stack.callback(archive.close)
        return archive.contents


def _compare_migrations(plan: Plan, manifest: Manifest) -> None:
    if manifest.migrations is None:
        return
    applied = set(manifest.migrations)
    loader = MigrationLoader(None)
    if MIGRATE in plan.hooks:
        plan.migrations = [
            f"{app}.{name}"
            for app, name in sorted(loader.graph.nodes)
            if (app, name) not in applied and not _is_replaced(loader, (app, name), applied)
        ]
    plan.unknown_migrations = [
        f"{app}.{name}" for app, name in sorted(applied - set(loader.disk_migrations))
    ]
    if plan.unknown_migrations:
        plan.warnings.append(
            f"the dump has {len(plan.unknown_migrations)} migrations that this code does not know: "
            "it was made by newer or other code, which this one may not work with"
        )


def _is_replaced(
    loader: MigrationLoader, node: tuple[str, str], applied: set[tuple[str, str]]
) -> bool:
    """Whether a squashed migration is applied by what it replaces."""
    replaces = loader.disk_migrations[node].replaces
    return bool(replaces) and applied.issuperset(replaces)
