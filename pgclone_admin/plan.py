"""What a restore would do, and what stands in its way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from .core.archive import Contents, open_archive
from .core.dump_checks import ArchiveChecks, DumpChecks, left_out
from .core.errors import PermissionMissing, PgcloneError
from .core.kept_rights import kept_in_live
from .core.locks import is_locked
from .core.marks import Database, MarkKind
from .core.names import DumpKey, LocalKey
from .core.older_copies import LocalCopy, gone_after
from .core.owned import told
from .core.owners import foretold
from .core.parked import replaced_by_swap
from .core.preflight import Check, RestoreNames
from .core.programs import choose_program
from .core.progress import SilentReporter
from .core.restore import SEE_LOCAL, local_source
from .core.server import Server
from .core.sessions import sessions_in
from .core.space import Space, check_limit, check_room_for_copy, check_size_is_known, spaces
from .core.target import RestoreRequest, target_checks
from .dump_migrations import Migration, MigrationState, applied_in
from .hooks import AnyHook, Stage
from .hooks.command import CommandHook
from .store import DumpStore

OF_THE_ARCHIVE = {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"}
"""Kinds of entries that say how to read an archive, and nothing of what it holds."""


@dataclass
class Obstacle:
    """Something that would stop the restore before it has begun."""

    code: str
    message: str
    hint: str | None


@dataclass
class PlannedHook:
    """A hook that will run."""

    name: str
    kind: str
    """``command``, ``sql``, ``python`` or ``anonymize``."""
    source: str
    """A command line, a file, or the beginning of the code."""
    stage: str
    """``pre_swap`` on the restored database, ``post_swap`` on the live one after the swap."""


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
    space: list[Space] = field(default_factory=list)
    needed_size: int | None = None
    """What has to be free on the disk of the server."""
    peak_size: int | None = None
    """What there is on it at most, of this database and its copies together."""
    tablespace: str = ""
    """Where on the server the database is made; tables may lie elsewhere, see the next."""
    tablespaces: list[str] = field(default_factory=list)
    """Those that the dump names for single tables and indexes."""
    entries: dict[str, int] = field(default_factory=dict)
    """What the dump holds: how many of each kind of its table of contents."""
    sessions: int = 0
    """Sessions that would be ended by the swap, as of now."""
    keeps: list[str] = field(default_factory=list)
    """Local copies that there would be afterwards."""
    drops: list[str] = field(default_factory=list)
    """Local copies of now that there would not be any more, also where newer ones take their
    names."""
    dropped: list[LocalCopy] = field(default_factory=list)
    """What ``drops`` names, as it is now."""
    kept: list[str] = field(default_factory=list)
    """Tables that stay those of the live database, with their rows."""
    held: bool = False
    """Whether it stops before the swap."""
    hooks: list[PlannedHook] = field(default_factory=list)
    """In their order."""
    runs_migrations: bool = False
    migrations: list[str] | None = None
    """Migrations that the hook ``migrate`` would run."""
    missing_migrations: list[str] | None = None
    """Those of this code that are not in what is restored, whether or not the hook is chosen."""
    unknown_migrations: list[str] = field(default_factory=list)
    """Those in what is restored that this code does not have: newer or other code made it."""
    left_out: list[str] = field(default_factory=list)
    """What is in the dump and cannot be made here by this role, by kind and name."""
    lost_owners: list[str] = field(default_factory=list)
    """Objects that become those of the owner of the database, and whose they are in the dump."""
    lost_settings: list[str] = field(default_factory=list)
    """Settings and grants of the live database that cannot be carried over, by the names with which
    their loss is accepted; whether it was is among the warnings and obstacles."""
    warnings: list[str] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)

    @property
    def holds(self) -> str:
        """``entries`` in one line, without those that are about the archive itself."""
        counted = (item for item in self.entries.items() if item[0] not in OF_THE_ARCHIVE)
        return ", ".join(f"{kind} {count}" for kind, count in counted)

    def run(self, hooks: Mapping[Stage, Sequence[AnyHook]]) -> None:
        """Notes the hooks that will run."""
        for stage, listed in hooks.items():
            for hook in listed:
                planned = PlannedHook(hook.labels.name, hook.kind, hook.labels.source, stage)
                self.hooks.append(planned)
                if isinstance(hook, CommandHook) and hook.is_migrate:
                    self.runs_migrations = True

    def lose(self, copies: list[LocalCopy]) -> None:
        """Notes local copies that are gone afterwards."""
        self.dropped = copies
        self.drops = [copy.key for copy in copies]

    def collect(self, checks: Iterable[Check]) -> None:
        """Runs every check, also after one that would stop the restore."""
        for check in checks:
            try:
                self.warnings += check()
            except PgcloneError as error:
                self.add(error)

    def add(self, error: PgcloneError) -> None:
        self.obstacles.append(Obstacle(error.code, error.message, error.hint))


def make_plan(
    request: RestoreRequest,
    key: DumpKey | LocalKey,
    store: DumpStore,
    server: Server,
    hooks: Mapping[Stage, Sequence[AnyHook]],
    *,
    prove: bool = True,
) -> Plan:
    """Looks at everything that a restore needs, changes nothing that lasts.

    With ``prove`` a tiny database is created, connected to and dropped: the proof that a restore
    can work here.
    """
    live = server.database(request.live)
    model = live or server.default_model()
    names = RestoreNames(request.live, request.beside)
    plan = Plan(
        key=str(key),
        database=names.beside or request.live,
        server=f"{server.params.where}, PostgreSQL {server.version}",
        replaces=live is not None and not names.beside,
        tablespace=model.tablespace,
    )
    plan.run(hooks)
    keeps_parked = request.reversible or isinstance(key, LocalKey)
    _check_target(plan, request, server, live, model, keeps_parked=keeps_parked, prove=prove)
    if live is not None:
        plan.live_size = server.sizes(live.oid).get(live.oid)
    if live is not None and plan.replaces:
        plan.sessions = len(sessions_in(server, live.oid))
        plan.held = request.hold
        _foretell_copies(plan, str(key), server, names, reversible=request.reversible)
        _look_at_kept_tables(plan, request, server, live)
    elif names.beside:
        plan.lose(gone_after(server, names, [names.temporary, names.beside]))
    try:
        if isinstance(key, LocalKey):
            source = server.existing(local_source(key, request.live), hint=SEE_LOCAL)
            plan.restored_size = server.sizes(source.oid).get(source.oid)
            plan.taken_from = "a database of the same server"
            _compare_migrations(plan, request, server, applied_in(server, source), "it")
        else:
            _examine_dump(plan, request, key, store, server, owner=model.owner)
        _add_up(plan, request, key, server, names)
    except PgcloneError as error:
        plan.add(error)
    return plan


def plan_swap(
    request: RestoreRequest, server: Server, hooks: Sequence[AnyHook] = (), *, prove: bool = True
) -> Plan:
    """What the swap of what is held means, and what stands in its way; ``hooks`` run after it, and
    ``prove`` is as in :func:`make_plan`."""
    live = server.existing(request.live)
    plan = Plan(
        key=":held",
        database=live.name,
        server=f"{server.params.where}, PostgreSQL {server.version}",
        replaces=True,
        sessions=len(sessions_in(server, live.oid)),
    )
    plan.run({Stage.POST_SWAP: hooks})
    names = RestoreNames(live.name)
    held = server.database(names.held)
    source = held.mark.source if held is not None and held.mark is not None else ""
    is_undo = source.startswith(":")
    # What a local copy replaces stays on the server, also if nobody has asked for it.
    keeps_parked = request.reversible or is_undo
    _check_target(plan, request, server, live, live, keeps_parked=keeps_parked, prove=prove)
    _look_at_kept_tables(plan, request, server, live)
    _foretell_copies(plan, source, server, names, reversible=request.reversible)
    if held is not None:
        _compare_migrations(plan, request, server, applied_in(server, held), "it")
    if held is not None and request.reversible and not is_undo:
        try:
            check_room_for_copy(server, names, held.name, ":post", request.most_bytes)
        except PgcloneError as error:
            plan.add(error)
    return plan


def _check_target(
    plan: Plan,
    request: RestoreRequest,
    server: Server,
    live: Database | None,
    model: Database,
    *,
    keeps_parked: bool,
    prove: bool,
) -> None:
    target = target_checks(request, server, live, model, keeps_parked=keeps_parked)
    plan.collect(target.all())
    if prove and not plan.obstacles:
        access = server.params.with_role(server.role_to_take(model.owner))
        try:
            left = target.can_make_one(access)
        except PgcloneError as error:
            plan.add(error)
        else:
            plan.lost_settings = [each.name for each in left]
            plan.collect([lambda: target.losses_are_accepted(left)])
    if is_locked(server, request.live):
        plan.warnings.append(
            f'a dump, a copy or a restore of the database "{request.live}" is running: a restore '
            "that begins before its end is refused"
        )


def _foretell_copies(
    plan: Plan, source: str, server: Server, names: RestoreNames, *, reversible: bool
) -> None:
    """``source`` is the key that is restored, or that what is held was made from."""
    if plan.held:
        # What becomes of the live database is decided when it is swapped in.
        plan.lose(gone_after(server, names, [names.temporary, names.held]))
        return
    is_local = source.startswith(":")
    if is_local:
        # What was held is live then, and an older :undo gives way to what is live now.
        stays = [] if plan.key == ":held" or source == ":undo" else [source]
        plan.keeps = [*stays, ":undo"]
    elif reversible:
        plan.keeps = [":pre", ":post"]
    parked_as = MarkKind.UNDO if is_local else MarkKind.PRE
    replaced = replaced_by_swap(names, parked_as)
    if plan.key != ":held":
        # Of a hook that has failed, kept for a look at it until the next restore.
        replaced.append(names.temporary)
    plan.lose(gone_after(server, names, replaced))


def _look_at_kept_tables(
    plan: Plan, request: RestoreRequest, server: Server, live: Database
) -> None:
    try:
        kept = kept_in_live(server, live, request.keeping)
        plan.kept = sorted(str(table.name) for table in kept)
    except PgcloneError as error:
        plan.add(error)


def _add_up(
    plan: Plan,
    request: RestoreRequest,
    key: DumpKey | LocalKey,
    server: Server,
    names: RestoreNames,
) -> None:
    if plan.restored_size is None:
        plan.collect([lambda: check_size_is_known(None, request.most_bytes)])
        return
    makes_post = isinstance(key, DumpKey) and ":post" in plan.keeps
    try:
        plan.space = spaces(server, names, plan.restored_size, makes_post=makes_post)
    except PermissionMissing as error:
        if request.most_bytes is not None:
            raise
        plan.warnings.append(error.message)
        return
    plan.needed_size = sum(space.size for space in plan.space if space.is_new)
    plan.peak_size = sum(space.size for space in plan.space)
    check_limit(plan.space, request.most_bytes)


def _examine_dump(
    plan: Plan,
    request: RestoreRequest,
    key: DumpKey,
    store: DumpStore,
    server: Server,
    *,
    owner: str,
) -> None:
    plan.dump_size = store.size(key)
    plan.taken_at = key.taken_at
    manifest = store.manifest(key)
    plan.collect(DumpChecks(server, key, plan.dump_size, manifest, request.trust_foreign).all())
    contents = read_contents(store, key)
    if contents is not None:
        plan.taken_from = f'"{contents.database}", PostgreSQL {contents.server_version}'
        plan.entries = dict(contents.outline.kinds.most_common())
        plan.tablespaces = sorted(contents.outline.tablespaces)
        is_superuser = server.role().is_superuser
        with server.connection.cursor() as cursor:
            found = left_out(cursor, contents, owner=owner, is_superuser=is_superuser)
            lost, defaults = foretold(cursor, contents, heir=owner, is_superuser=is_superuser)
        plan.left_out = sorted([*found, *defaults])
        plan.lost_owners = sorted(map(str, lost))
        plan.warnings += told(lost)
    program = choose_program(
        "pg_restore",
        server_major=server.major,
        directories=request.program_directories,
        oldest=contents.oldest_reader if contents else 0,
    )
    plan.collect(ArchiveChecks(server, contents, manifest, program).all())
    if manifest is not None:
        plan.restored_size = manifest.source_size
        _compare_migrations(plan, request, server, manifest.migrations, "the dump")


def read_contents(store: DumpStore, key: DumpKey) -> Contents | None:
    """The table of contents of a dump, of which only the beginning is read."""
    with open_archive(store.open(key), SilentReporter()) as (_stored, archive):
        return archive.contents


def _compare_migrations(
    plan: Plan,
    request: RestoreRequest,
    server: Server,
    applied: Collection[Migration] | None,
    what: str,
) -> None:
    """``what`` has these migrations; what is made beside the live database may be as it is.

    Those of apps whose tables are kept are in the end as they are in the live database.
    """
    if applied is None:
        return
    apps = request.keeping.apps
    live = server.database(request.live) if plan.replaces and apps else None
    if live is not None:
        ours = applied_in(server, live) or ()
        applied = {m for m in applied if m[0] not in apps} | {m for m in ours if m[0] in apps}
    state = MigrationState.of(applied)
    plan.missing_migrations, plan.unknown_migrations = state.missing, state.unknown
    if plan.runs_migrations:
        plan.migrations = state.missing
    is_beside = request.beside is not None
    plan.warnings += state.warnings(what, migrates=plan.runs_migrations or is_beside)
