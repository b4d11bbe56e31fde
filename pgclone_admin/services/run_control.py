"""Cancels a run, or queues it again."""

from __future__ import annotations

from django.db import router, transaction
from django.utils import timezone

from ..core.errors import Conflict
from ..core.progress import Phase
from ..models import Kind, RestoreRun, Run, Status, without_values
from ..queue import enqueue
from . import actors
from .actors import Actor
from .audit import audit

TOO_LATE = (Phase.SWAPPING, Phase.CLEANING_UP, Phase.HOOKS_AFTER_SWAP, Phase.FINISHING)
"""Phases that are short, and cannot be undone."""


def cancel(actor: Actor, run: Run) -> None:
    """Ends a run that waits, or asks its worker to stop; asking twice is asking once.

    Whoever has asked for a run may cancel it. :class:`Conflict` when it is too late.
    """
    if run.requested_by != actor.name:
        actor.require(actors.CANCEL)
    rows = type(run)._base_manager.filter(pk=run.pk)
    with transaction.atomic(using=router.db_for_write(type(run))):
        waits = rows.filter(status=Status.QUEUED)
        can_stop = rows.filter(status=Status.RUNNING, cancel_requested=False)
        if not waits.update(
            status=Status.CANCELLED,
            finished_at=timezone.now(),
            cancel_requested=True,
            options=without_values(run.options),
        ) and not can_stop.exclude(phase__in=TOO_LATE).update(cancel_requested=True):
            if rows.filter(cancel_requested=True).exclude(status=Status.SUCCEEDED).exists():
                return
            raise Conflict("it is too late to cancel this run", hint="Look at what came of it.")
        audit(run, actor, "cancelled")


def requeue(actor: Actor, run: Run) -> None:
    """Puts a run into the queue again that waits for a task which is not there any more.

    It takes what asking takes, also from who has asked: that may have been taken away since.
    Harmless when its task is there: the run is done once. :class:`Conflict` when it does not wait.
    """
    actor.require(needed_for(run))
    run.refresh_from_db()
    if run.status != Status.QUEUED:
        raise Conflict("only what is queued can be queued again", hint="Request it again.")
    audit(run, actor, "queued it again")
    if not enqueue(run):
        raise Conflict(run.error, hint=run.hint)


def needed_for(run: Run) -> str:
    """The permission that it takes to ask for the run."""
    match run:
        case RestoreRun(kind=Kind.COPY | Kind.DROP):
            return actors.COPY
        case RestoreRun(kind=Kind.RESTORE | Kind.SWAP | Kind.DRILL):
            return actors.RESTORE
        case _:
            return actors.DUMP
