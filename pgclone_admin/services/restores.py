"""Restores a dump or a local copy over a database of this site, or beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg2
from django.db import connections

from ..core.connection import ConnectionParams
from ..core.errors import (
    InvalidName,
    PermissionMissing,
    PgcloneError,
    ServerUnavailable,
    UsageError,
)
from ..core.names import DumpKey, LocalKey, role_of
from ..core.progress import Phase, Reporter
from ..core.replicas import is_standby
from ..core.restore import restore_dump, restore_local, swap_held
from ..core.server import Server
from ..core.target import RestoreRequest, RestoreResult
from ..databases import live_name, maintenance_params, protected_names, standby_candidates
from ..dump_migrations import check_migrations
from ..hooks import AnyHook, HookResult, Stage, check_params, load_hooks, run_hooks
from ..kept import keeping
from ..models import REPLACING, Kind, RestoreRun
from ..options import Options
from ..plan import Plan, make_plan, plan_swap
from ..settings import settings
from ..storage import Note
from ..store import DumpStore
from .accounts import carry_accounts
from .allowed import require_allowed
from .anonymity import check_restore, require_anonymized, require_evidence
from .keys import Resolved, resolve_key


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is special about one restore."""

    beside: str | None = None
    """A local copy (``:name``) to make instead of replacing the live database."""
    replaces_beside: bool = True
    """Whether an older one of that name may be replaced."""
    hold: bool = False
    """Stop before the swap."""
    drill: bool = False
    """Drop the result instead of swapping it in."""
    trust_foreign: bool = False
    ignore_standbys: bool = False
    lose_settings: Sequence[str] | None = None
    """Names of settings and grants that may be lost; ``None`` for those of the settings."""
    accounts: Sequence[str] = ()
    """Usernames whose accounts are carried from the live database into the restored one."""
    confirmed_oid: int | None = None
    """The database that a person has confirmed to be replaced, and the server it is on."""
    system_identifier: str = ""

    def stored(self) -> dict[str, Any]:
        """What somebody has chosen, as the row of a run keeps it."""
        return {
            "beside": self.beside,
            # What waits for a worker has asked for a name that was free.
            "replaces_beside": False,
            "hold": self.hold,
            "trust_foreign": self.trust_foreign,
            "ignore_standbys": self.ignore_standbys,
            "lose_settings": self.lose_settings and list(self.lose_settings),
            "accounts": list(self.accounts),
        }

    @classmethod
    def of_run(cls, run: RestoreRun) -> Variant:
        """What the row of a run says: what was chosen, what was confirmed, and what kind it is."""
        chosen = run.options.get("variant", {})
        replaces = run.kind in REPLACING and chosen.get("beside") is None
        return cls(
            **chosen,
            # What replaces nothing may be made beside whatever is live by now.
            confirmed_oid=run.live_oid if replaces else None,
            system_identifier=run.system_identifier,
            drill=run.kind == Kind.DRILL,
        )


DEFAULT = Variant()


@dataclass(frozen=True)
class Restored:
    """What was restored, and what came of it."""

    key: DumpKey | LocalKey
    result: RestoreResult
    hooks: list[HookResult] = field(default_factory=list)


def restore(
    options: Options,
    reporter: Reporter,
    *,
    variant: Variant = DEFAULT,
) -> Restored:
    """Restores what ``options.dump_key`` means.

    The connections of this thread to the database are closed: they would be ended by the swap.
    """
    prepared = _prepare(options, variant, note=reporter.note)
    if prepared.resolved.explanation:
        reporter.note(prepared.resolved.explanation)
    request, hooks = prepared.request, prepared.hooks
    results: list[HookResult] = []

    def pre_swap_hooks(temporary: str) -> None:
        alias = options.database
        results.extend(run_hooks(hooks, alias=alias, name=temporary, reporter=reporter))
        if options.require_anonymized:
            require_evidence(alias, temporary)
        if variant.accounts:
            carry_accounts(variant.accounts, alias=alias, name=temporary, reporter=reporter)
        connections[alias].close()

    close_connections(request.live)
    key = prepared.resolved.key
    kept_apps = request.keeping.apps if request.beside is None else ()
    if isinstance(key, LocalKey):
        result = restore_local(request, key, reporter, pre_swap_hooks=pre_swap_hooks)
    else:
        result = restore_dump(
            request,
            key,
            prepared.store,
            reporter,
            pre_swap_hooks=pre_swap_hooks,
            check_manifest=partial(check_migrations, kept_apps=kept_apps),
        )
    if result.database == request.live:
        results += _run_post_swap_hooks(prepared.post_swap_hooks, options, request.live, reporter)
    return Restored(key, result, results)


def swap(options: Options, reporter: Reporter, *, variant: Variant = DEFAULT) -> Restored:
    """Puts the database in place that a restore with ``hold`` has made."""
    hooks = ready_swap_hooks(options)
    request = _request(options, variant)
    close_connections(request.live)

    def check_held(held: str) -> None:
        if options.require_anonymized:
            require_anonymized(options.database, held)

    result = swap_held(request, reporter, check_held=check_held)
    results = _run_post_swap_hooks(hooks, options, request.live, reporter)
    return Restored(LocalKey("held"), result, results)


def wanted_key(options: Options) -> str:
    """What is to be restored; :class:`~pgclone_admin.core.errors.UsageError` when nobody said."""
    if not options.dump_key:
        raise UsageError(
            "no dump was named",
            hint='Name a dump, see "pgclone ls", or a configuration that has a "dump_key".',
        )
    return options.dump_key


def ready_hooks(options: Options) -> tuple[list[AnyHook], list[AnyHook]]:
    """The hooks before and after the swap of a restore that can be made, as far as that can be told
    before.

    :class:`~pgclone_admin.core.errors.NotAllowed` where the settings forbid restores, what
    :func:`wanted_key`, :func:`~pgclone_admin.hooks.load_hooks` and
    :func:`~pgclone_admin.hooks.check_params` raise, and
    :class:`~pgclone_admin.core.errors.NotAnonymized` where that is required.
    """
    require_allowed("restore")
    key = wanted_key(options)
    before = load_hooks(options.pre_swap_hooks, params=options.hook_params)
    after = _post_swap_hooks(options)
    check_params(options.given_params, [*before, *after])
    if options.require_anonymized:
        check_restore(options.database, live_name(options.database), key, before)
    return before, after


def ready_swap_hooks(options: Options) -> list[AnyHook]:
    """As :func:`ready_hooks`, of the swap of what is held: only hooks after the swap run."""
    require_allowed("restore")
    hooks = _post_swap_hooks(options)
    check_params(options.given_params, hooks)
    return hooks


def _post_swap_hooks(options: Options) -> list[AnyHook]:
    return load_hooks(options.post_swap_hooks, stage=Stage.POST_SWAP, params=options.hook_params)


def _run_post_swap_hooks(
    hooks: Sequence[AnyHook], options: Options, live: str, reporter: Reporter
) -> list[HookResult]:
    """The restore is done, whatever becomes of them: an error is told, and the others run, unless
    the run is to end."""
    results: list[HookResult] = []
    if hooks:
        reporter.phase(Phase.HOOKS_AFTER_SWAP)
    for hook in hooks:
        name = hook.labels.name
        if reporter.is_to_end():
            reporter.warn(f'the restore is done, but interrupted: the hook "{name}" has not run')
            continue
        try:
            results += run_hooks([hook], alias=options.database, name=live, reporter=reporter)
        except (PgcloneError, psycopg2.Error) as error:
            reporter.warn(f"the restore is done, but {error}")
        except KeyboardInterrupt:
            reporter.warn(f'the restore is done, but the hook "{name}" was interrupted')
    return results


def plan_restore(options: Options, *, variant: Variant = DEFAULT, prove: bool = True) -> Plan:
    """What :func:`restore` with the same arguments would do, and what stands in its way."""
    notes: list[str] = []
    prepared = _prepare(options, variant, note=notes.append)
    request = prepared.request
    with Server.connected(request.maintenance) as server:
        plan = make_plan(
            request,
            prepared.resolved.key,
            prepared.store,
            server,
            {Stage.PRE_SWAP: prepared.hooks, Stage.POST_SWAP: prepared.post_swap_hooks},
            prove=prove,
        )
    plan.warnings += notes
    return plan


def plan_of_swap(options: Options, *, variant: Variant = DEFAULT, prove: bool = True) -> Plan:
    """What :func:`swap` with the same arguments means, and what stands in its way."""
    require_allowed("restore")
    hooks: list[AnyHook] = []
    with contextlib.suppress(PgcloneError):  # whoever confirms it is told
        hooks = _post_swap_hooks(options)
    request = _request(options, variant)
    with Server.connected(request.maintenance) as server:
        return plan_swap(request, server, hooks, prove=prove)


@dataclass(frozen=True)
class _Prepared:
    request: RestoreRequest
    resolved: Resolved
    store: DumpStore
    hooks: list[AnyHook]
    post_swap_hooks: list[AnyHook]


def _prepare(options: Options, variant: Variant, *, note: Note) -> _Prepared:
    """Reads what was asked for; nothing is touched."""
    if variant.hold and variant.beside is not None:
        raise UsageError("a restore is held or made beside the live database, not both")
    hooks, post_swap_hooks = ready_hooks(options)
    swaps = variant.beside is None and not variant.hold and not variant.drill
    store = DumpStore(options.storage_location, note)
    # First what can be refused without the server.
    live_name(options.database)
    resolved = resolve_key(wanted_key(options), store)
    return _Prepared(
        _request(options, variant),
        resolved,
        store,
        hooks,
        post_swap_hooks if swaps else [],
    )


def _request(options: Options, variant: Variant) -> RestoreRequest:
    live = live_name(options.database)
    return RestoreRequest(
        live=live,
        maintenance=maintenance_params(options.database),
        reversible=options.reversible,
        beside=None if variant.beside is None else local_target(variant.beside, live),
        replaces_beside=variant.replaces_beside,
        hold=variant.hold,
        drill=variant.drill,
        # A drill may have run other hooks than those that anonymize, and nobody looks at it.
        keep_failed=settings.keep_failed and not variant.drill,
        confirmed_oid=variant.confirmed_oid,
        system_identifier=variant.system_identifier,
        keeping=keeping(options.database),
        standbys=_standbys(options.database),
        ignore_standbys=variant.ignore_standbys or settings.ignore_standbys,
        lose_settings=settings.lose_settings
        if variant.lose_settings is None
        else variant.lose_settings,
        swap_patience=settings.swap_timeout,
        protected=protected_names() - {live},
        trust_foreign=variant.trust_foreign,
        program_directories=settings.bin_dirs,
        jobs=settings.jobs,
        tolerated=settings.tolerated_errors,
        most_bytes=settings.max_disk_bytes,
        statement_timeout=settings.statement_timeout,
        lock_timeout=settings.lock_timeout,
    )


def _standbys(alias: str) -> list[ConnectionParams]:
    """The standbys among the databases of the settings; one that is down has no sessions."""
    found = []
    for params in standby_candidates(alias):
        with contextlib.suppress(ServerUnavailable, PermissionMissing):
            if is_standby(params, of=maintenance_params(alias)):
                found.append(params)
    return found


def local_target(text: str, live: str) -> LocalKey:
    """The local key ``text``, which may be made beside ``live``.

    :class:`~pgclone_admin.core.errors.InvalidName` for what is none, and for one of those that
    restores make.
    """
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
