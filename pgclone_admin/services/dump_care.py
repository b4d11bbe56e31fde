"""Protects dumps from being deleted, and deletes them."""

from __future__ import annotations

from django.db import router, transaction

from ..core.errors import Conflict
from ..core.names import DumpKey
from ..models import ACTIVE, Dump, RestoreRun, Status
from ..store import DumpStore
from . import actors
from .actors import Actor
from .audit import audit, audit_deletion


def pin_dump(actor: Actor, dump: Dump, *, pinned: bool) -> None:
    """Protects a dump from being deleted, or lets it go."""
    actor.require(actors.DELETE)
    Dump.objects.filter(pk=dump.pk).update(is_pinned=pinned)
    audit(dump, actor, "pinned" if pinned else "unpinned")


def delete_dump(actor: Actor, dump: Dump, *, although_last: bool = False) -> None:
    """Deletes the file of a dump and its manifest, and then the row; what people did to it stays
    written down. A row that has gone meanwhile is done: of two clicks one was faster.

    The last good dump of an instance, a database and a configuration is refused, unless
    ``although_last`` says that it is meant.
    """
    actor.require(actors.DELETE)
    rows = Dump.objects.filter(pk=dump.pk)
    if (found := rows.first()) is None:
        return
    dump = found
    if dump.is_active:
        raise Conflict("the dump is being made", hint="Cancel it first.")
    if dump.is_pinned:
        raise Conflict("the dump is pinned", hint="Unpin it first.")
    users = RestoreRun.objects.filter(location=dump.location, key=dump.key, status__in=ACTIVE)
    if dump.key and (user := users.first()) is not None:
        raise Conflict(f"the dump is needed by the run {user.pk}", hint="Cancel that first.")
    if not although_last and _is_last_good(dump):
        raise Conflict(
            f'"{dump}" is the last good dump of its database and configuration',
            hint="It was not deleted. Tick the box that says so, where it is meant.",
        )
    if dump.key:
        DumpStore(dump.location).delete(DumpKey.parse(dump.key))
    with transaction.atomic(using=router.db_for_write(Dump)):
        if rows.select_for_update().exists():
            audit_deletion(dump, actor)
            dump.delete()


def _is_last_good(dump: Dump) -> bool:
    good = Dump.objects.filter(
        status=Status.SUCCEEDED,
        instance=dump.instance,
        database=dump.database,
        config=dump.config,
    )
    return dump.status == Status.SUCCEEDED and not good.exclude(pk=dump.pk).exists()
