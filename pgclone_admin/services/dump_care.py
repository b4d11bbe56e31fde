"""Protects dumps from being deleted, and deletes them."""

from __future__ import annotations

from django.db import router, transaction

from ..core.errors import Conflict
from ..core.names import DumpKey
from ..models import ACTIVE, Dump, RestoreRun
from ..store import DumpStore
from . import actors
from .actors import Actor
from .audit import audit, audit_deletion


def pin_dump(actor: Actor, dump: Dump, *, pinned: bool) -> None:
    """Protects a dump from being deleted, or lets it go."""
    actor.require(actors.DELETE)
    Dump.objects.filter(pk=dump.pk).update(is_pinned=pinned)
    audit(dump, actor, "pinned" if pinned else "unpinned")


def delete_dump(actor: Actor, dump: Dump) -> None:
    """Deletes the file of a dump and its manifest, and then the row; what people did to it stays
    written down. A row that has gone meanwhile is done: of two clicks one was faster."""
    actor.require(actors.DELETE)
    rows = Dump.objects.filter(pk=dump.pk)
    if (found := rows.first()) is None:
        return
    dump = found
    if dump.is_active:
        raise Conflict("the dump is being made", hint="Cancel it first.")
    if dump.is_pinned:
        raise Conflict("the dump is pinned", hint="Unpin it first.")
    if dump.key:
        users = RestoreRun.objects.filter(location=dump.location, key=dump.key, status__in=ACTIVE)
        if (user := users.first()) is not None:
            raise Conflict(f"the dump is needed by the run {user.pk}", hint="Cancel that first.")
        DumpStore(dump.location).delete(DumpKey.parse(dump.key))
    with transaction.atomic(using=router.db_for_write(Dump)):
        if rows.select_for_update().exists():
            audit_deletion(dump, actor)
            dump.delete()
