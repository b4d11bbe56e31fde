"""Restores a dump or a local copy over a database of this site, or beside it."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connections

from ..core.errors import InvalidName, NotAllowed, UsageError
from ..core.names import DumpKey, LocalKey, role_of
from ..core.progress import Reporter
from ..core.restore import RestoreRequest, RestoreResult, restore_dump, restore_local
from ..core.server import Server
from ..databases import live_name, maintenance_params, protected_names
from ..hooks import CommandHook, load_hooks, run_hooks
from ..options import Options
from ..plan import Plan, Question, make_plan
from ..settings import settings
from ..store import DumpStore
from .keys import Resolved, resolve_key


@dataclass(frozen=True)
class Restored:
    """What was restored, and what came of it."""

    key: DumpKey | LocalKey
    result: RestoreResult


def restore(
    options: Options,
    reporter: Reporter,
    *,
    beside: str | None = None,
    trust_foreign: bool = False,
) -> Restored:
    """Restores what ``options.dump_key`` means.

    Over the live database, or ``beside`` it as a local copy (``:name``). The connections of this
    thread to the database are closed: they would be ended by the swap.
    """
    prepared = _prepare(options, beside=beside, trust_foreign=trust_foreign)
    if prepared.resolved.explanation:
        reporter.note(prepared.resolved.explanation)
    request, hooks = prepared.request, prepared.hooks

    def pre_swap_hooks(temporary: str) -> None:
        run_hooks(hooks, alias=options.database, database=temporary, reporter=reporter)
        connections[options.database].close()

    close_connections(request.live)
    key = prepared.resolved.key
    if isinstance(key, LocalKey):
        result = restore_local(request, key, reporter, pre_swap_hooks=pre_swap_hooks)
    else:
        result = restore_dump(request, key, prepared.store, reporter, pre_swap_hooks=pre_swap_hooks)
    return Restored(key, result)


def plan_restore(
    options: Options, *, beside: str | None = None, trust_foreign: bool = False
) -> Plan:
    """What :func:`restore` with the same arguments would do, and what stands in its way."""
    prepared = _prepare(options, beside=beside, trust_foreign=trust_foreign)
    request = prepared.request
    question = Question(
        live=request.live,
        reversible=request.reversible,
        beside=request.beside,
        protected=request.protected,
        trust_foreign=trust_foreign,
        program_directories=settings.bin_dirs,
    )
    with Server.connected(request.maintenance) as server:
        return make_plan(question, prepared.resolved.key, prepared.store, server, prepared.hooks)


@dataclass(frozen=True)
class _Prepared:
    request: RestoreRequest
    resolved: Resolved
    store: DumpStore
    hooks: list[CommandHook]


def _prepare(options: Options, *, beside: str | None, trust_foreign: bool) -> _Prepared:
    """Reads what was asked for; nothing is touched."""
    if not settings.allow_restore:
        raise NotAllowed("restores are not allowed here: PGCLONE_ALLOW_RESTORE is False")
    if not options.dump_key:
        raise UsageError(
            "it was not said what to restore",
            hint='Name a dump, see "pgclone ls", or a configuration that has a "dump_key".',
        )
    hooks = load_hooks(options.pre_swap_hooks)
    live = live_name(options.database)
    store = DumpStore(options.storage_location)
    request = RestoreRequest(
        live=live,
        maintenance=maintenance_params(options.database),
        reversible=options.reversible,
        beside=None if beside is None else local_target(beside, live),
        protected=protected_names() - {live},
        trust_foreign=trust_foreign,
        program_directories=settings.bin_dirs,
        jobs=settings.jobs,
        tolerated=settings.tolerated_errors,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )
    return _Prepared(request, resolve_key(options.dump_key, store), store, hooks)


def local_target(text: str, live: str) -> LocalKey:
    """A local key that may be made beside ``live``: not one of those that restores make."""
    key = LocalKey.parse(text)
    if key.is_reserved or role_of(key.name, live):
        raise InvalidName(
            f"{key} is made by restores and cannot be made by hand",
            hint="Choose another name.",
        )
    return key


def close_connections(database: str) -> None:
    """Closes this thread's connections to the database; Django opens them again when needed."""
    for alias in connections:
        if connections[alias].settings_dict.get("NAME") == database:
            connections[alias].close()
