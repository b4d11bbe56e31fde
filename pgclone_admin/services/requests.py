"""What people ask for: each becomes a row, and work for a worker.

Permission, precondition, row, audit, queue; in this order. Nothing is done here that takes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, connections, router, transaction
from django.db.models import Q
from django.utils import timezone

from ..core.errors import Conflict, DatabaseProtected, NotAllowed, UsageError
from ..core.names import LocalKey
from ..core.own_databases import check_target
from ..core.preflight import RestoreNames
from ..core.server import Server
from ..databases import live_name, maintenance_params, protected_names
from ..models import ACTIVE, REPLACING, Dump, Kind, RestoreRun, Run, Status
from ..options import Arguments, resolve
from ..queue import NOT_QUEUED, enqueue_after_commit
from . import actors, dumps, restores
from .accounts import has_accounts
from .actors import Actor, is_superuser
from .allowed import require_allowed
from .anonymity import require_anonymized_copy
from .audit import audit
from .copies import check_droppable
from .declared import in_declared_order, usual_alias, usual_options
from .restores import Variant, local_target, wanted_key

Given = Mapping[str, Any]
"""What a person said, under the names of :class:`~pgclone_admin.options.Arguments`."""


REQUESTS = 0x70677271
"""First half of an advisory lock in the database of the runs: "pgrq"."""

DOUBLE_CLICK = timedelta(seconds=3)
"""Within which the same request of the same person is meant once."""

UNDER_WAY = (Status.QUEUED, Status.RUNNING, Status.SUCCEEDED)


# -- dumps


def request_dump(actor: Actor, given: Given) -> Dump:
    """A dump that a worker is going to make.

    A second request for the same thing, before the first has begun or within a moment, is the
    first one.
    """
    actor.require(actors.DUMP)
    if actor.user is not None:
        in_declared_order("pre_dump_hooks", given.get("pre_dump_hooks") or [])
    options = resolve(Arguments(**given), verb="dump")
    dumps.ready_hooks(options)
    dump = Dump(
        location=options.storage_location,
        instance=options.instance,
        database=options.database,
        config=options.config,
        options=dict(given),
        requested_by=actor.name,
    )
    if (twin := _twin(dump)) is not None:
        return twin
    try:
        with transaction.atomic(using=router.db_for_write(Dump)):
            dump.save()
            _begin(dump, actor, "requested a dump")
    except IntegrityError:
        # The other click was a moment faster.
        if (twin := _twin(dump)) is None:
            raise
        return twin
    return dump


def _twin(dump: Dump) -> Dump | None:
    """The request that this one repeats; queued again where the queue had not taken it."""
    same = Dump.objects.filter(
        location=dump.location,
        instance=dump.instance,
        database=dump.database,
        config=dump.config,
        options=dump.options,
    )
    is_of_now = Q(requested_by=dump.requested_by, requested_at__gt=timezone.now() - DOUBLE_CLICK)
    twins = same.filter(Q(status=Status.QUEUED) | is_of_now & Q(status__in=UNDER_WAY))
    twin = twins.order_by("-requested_at").first()
    if twin is not None and twin.error_code == NOT_QUEUED:
        enqueue_after_commit(twin)
    return twin


# -- restores


def request_restore(
    actor: Actor,
    given: Given,
    *,
    variant: Variant,
    confirmed_oid: int | None = None,
    kind: Kind = Kind.RESTORE,
) -> RestoreRun:
    """A restore that a worker is going to make; ``given`` names the key in full.

    ``confirmed_oid`` is the database that the person has seen and confirmed: no other one is
    replaced. :class:`Conflict` names the run that is there already. A name beside the live database
    has to be free, now and when the worker is there.
    """
    actor.require(actors.RESTORE)
    options = resolve(Arguments(**given), verb="restore")
    key = wanted_key(options)
    if actor.user is not None:
        _check_choices(actor, given, variant)
    restores.ready_hooks(options)
    if variant.accounts and not has_accounts(options.database):
        raise UsageError("the accounts of the site are not in the database that is replaced")
    live = live_name(options.database)
    target = live if variant.beside is None else local_target(variant.beside, live).name
    oid, identifier = live_identity(options.database)
    if variant.beside is None:
        _check_confirmed(live, oid, confirmed_oid)
    else:
        _check_free(target, options.database, live)
    return _request(
        actor,
        RestoreRun(
            kind=kind,
            key=key,
            location="" if key.startswith(":") else options.storage_location,
            database=options.database,
            target=target,
            live_oid=oid or 0,
            system_identifier=identifier,
            options={"arguments": dict(given), "variant": variant.stored()},
        ),
    )


def _check_choices(actor: Actor, given: Given, variant: Variant) -> None:
    """People choose among what the site declares; only superusers vouch for what others made."""
    for option in ("pre_swap_hooks", "post_swap_hooks"):
        in_declared_order(option, given.get(option) or [])
    if variant.trust_foreign and not is_superuser(actor.user):
        raise NotAllowed("only a superuser can trust a dump that was made by somebody else")


def request_drill(actor: Actor, dump: Dump, hooks: list[str] | None = None) -> RestoreRun:
    """A restore of a dump that stops before the swap and is dropped: proof that it restores, with
    the hooks that a restore of it would usually run."""
    actor.require(actors.RESTORE)
    _check_stored(dump)
    given: dict[str, Any] = {
        "dump_key": dump.key,
        "storage_location": dump.location,
        "database": usual_alias(dump.database),
    }
    config, _options = usual_options(dump.config)
    if config is not None:
        given["config"] = config
    if hooks is not None:
        given["pre_swap_hooks"] = hooks
    return request_restore(actor, given, variant=Variant(), kind=Kind.DRILL)


def request_verification(actor: Actor, dump: Dump) -> RestoreRun:
    """A dump that a worker reads to its end."""
    actor.require(actors.DUMP)
    _check_stored(dump)
    return _request(
        actor,
        RestoreRun(
            kind=Kind.VERIFY,
            key=dump.key,
            location=dump.location,
            database=dump.database,
            options={"arguments": {"storage_location": dump.location}},
        ),
    )


def _check_stored(dump: Dump) -> None:
    """Without a key the dump of the configuration would be meant, or none."""
    if not dump.key or dump.status != Status.SUCCEEDED:
        raise Conflict(
            f"the dump {dump.pk} has no file: its status is {dump.get_status_display()}",
            hint="Choose a dump that has succeeded.",
        )


def request_swap(
    actor: Actor,
    alias: str,
    given: Given | None = None,
    *,
    variant: Variant | None = None,
    confirmed_oid: int | None = None,
) -> RestoreRun:
    """The swap of a restore that is held: ``given`` says whether it can be gone back from, and
    which hooks run after it; ``variant`` what is accepted. ``confirmed_oid`` as for
    :func:`request_restore`."""
    actor.require(actors.RESTORE)
    live = live_name(alias)
    given = {**(given or {}), "database": alias}
    options = resolve(Arguments(**given), verb="restore")
    if actor.user is not None:
        in_declared_order("post_swap_hooks", given.get("post_swap_hooks") or [])
    restores.ready_swap_hooks(options)
    if options.require_anonymized:
        require_anonymized_copy(alias, RestoreNames(live, None).held)
    oid, identifier = live_identity(options.database)
    _check_confirmed(live, oid, confirmed_oid)
    return _request(
        actor,
        RestoreRun(
            kind=Kind.SWAP,
            key=":held",
            database=alias,
            target=live,
            live_oid=oid or 0,
            system_identifier=identifier,
            options={"arguments": given, "variant": (variant or Variant()).stored()},
        ),
    )


def request_copy(actor: Actor, alias: str, target: str) -> RestoreRun:
    """A local copy of a live database, which ends no session; its name has to be free."""
    actor.require(actors.COPY)
    require_allowed("copy")
    live = live_name(alias)
    name = local_target(target, live).name
    _check_free(name, alias, live)
    return _request(
        actor,
        RestoreRun(
            kind=Kind.COPY,
            key=target,
            database=alias,
            target=name,
            options={"arguments": {"database": alias}},
        ),
    )


def request_drop(
    actor: Actor, alias: str, name: str, *, confirmed_oid: int | None = None
) -> RestoreRun:
    """The end of a local database that was made here: of the one that has the name now, which has
    to be ``confirmed_oid``, and of no later one."""
    actor.require(actors.COPY)
    live = live_name(alias)
    if name == live:
        raise DatabaseProtected(f'the database "{name}" is live')
    with Server.connected(maintenance_params(alias)) as server:
        oid = check_droppable(server, name, live, confirmed_oid)
    return _request(
        actor,
        RestoreRun(
            kind=Kind.DROP,
            key=str(LocalKey.of_database(name, live)),
            database=alias,
            target=name,
            live_oid=oid,
            options={"arguments": {"database": alias}},
        ),
    )


def _request(actor: Actor, run: RestoreRun) -> RestoreRun:
    """What is asked for, or what waits or works already and is the same."""
    run.requested_by = actor.name
    database = router.db_for_write(RestoreRun)
    try:
        with transaction.atomic(using=database):
            if run.kind not in REPLACING:
                _one_at_a_time(database)
                if (same := _same(run)) is not None:
                    return same
            else:
                _check_alone(run)
            run.save()
            _begin(run, actor, f"requested: {run}")
    except IntegrityError:
        _check_alone(run)
        raise
    return run


def replacing(target: str, identifier: str) -> RestoreRun | None:
    """What replaces this database of this server, or is going to; ``identifier`` as of
    :func:`live_identity`. A run of which no server is known is of any."""
    runs = RestoreRun.objects.filter(target=target, status__in=ACTIVE, kind__in=REPLACING)
    return runs.filter(system_identifier__in=("", identifier)).first()


def _check_alone(run: RestoreRun) -> None:
    if (other := replacing(run.target, run.system_identifier)) is not None:
        raise Conflict(
            f'a restore of the database "{run.target}" is {other.get_status_display()} already: '
            f"run {other.pk}, requested by {other.requested_by}",
            hint="Wait for its end, or cancel it.",
        )


def _one_at_a_time(database: str) -> None:
    """Until the end of the transaction: of two clicks the second is to find the first."""
    if connections[database].vendor == "postgresql":
        with connections[database].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, 0)", [REQUESTS])


def _same(run: RestoreRun) -> RestoreRun | None:
    same = ("kind", "key", "location", "database", "target", "live_oid", "options")
    found = RestoreRun.objects.filter(
        status__in=ACTIVE, **{name: getattr(run, name) for name in same}
    )
    twin = found.order_by("pk").first()
    if twin is not None and twin.error_code == NOT_QUEUED:
        enqueue_after_commit(twin)
    return twin


def live_identity(alias: str) -> tuple[int | None, str]:
    """The oid of the live database, ``None`` where there is none, and what tells its server from
    every other.

    Raises what :func:`~pgclone_admin.databases.live_name` does, and
    :class:`~pgclone_admin.core.errors.ServerUnavailable`.
    """
    with Server.connected(maintenance_params(alias)) as server:
        database = server.database(live_name(alias))
        return None if database is None else database.oid, server.system_identifier


def _check_free(name: str, alias: str, live: str) -> None:
    with Server.connected(maintenance_params(alias)) as server:
        check_target(server, name, protected_names(), live=live, kinds=())


def _check_confirmed(live: str, oid: int | None, confirmed_oid: int | None) -> None:
    """0 is confirmed where there was none."""
    if confirmed_oid is not None and confirmed_oid != (oid or 0):
        raise Conflict(
            f'the database "{live}" is another one than when you confirmed',
            hint="Nothing was changed. Look at the plan again.",
        )


def _begin(run: Run, actor: Actor, what: str) -> None:
    audit(run, actor, what)
    enqueue_after_commit(run)
