"""Finds runs whose worker is gone, and cleans up after them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError
from django.db.models import DurationField, ExpressionWrapper, Q
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from ..core.errors import Conflict, PgcloneError
from ..core.locks import is_locked
from ..core.names import sanitized
from ..core.recovery import Outcome, Recovered
from ..core.server import Server
from ..databases import live_name, maintenance_params
from ..identity import is_gone, local_pid
from ..models import SILENT_AFTER, Dump, RestoreRun, Run, RunEvent, Status
from ..moments import aware
from ..options import Arguments, resolve
from . import actors
from .actors import Actor
from .audit import audit, audit_without_row, tell
from .fate import fate_of
from .recovery import recover_beside, recover_site, recover_stored, recover_temporary

logger = logging.getLogger(__name__)

SYSTEM = Actor.system("the system")

SECOND_LOOK = 3.0
"""Seconds after which a run that was not heard of is looked at again: whatever has kept it from
telling may have kept us from looking."""


@dataclass(frozen=True)
class Swept:
    """A run that was found lost, and what was cleaned up after it."""

    run: Run
    recovered: list[Recovered]


def sweep_quietly() -> None:
    """:func:`sweep` for workers, who have something else to do when it cannot be done."""
    try:
        sweep(SYSTEM)
    except (PgcloneError, DatabaseError) as error:
        # The tables may not be there yet.
        logger.info("lost runs could not be looked for: %s", type(error).__name__)


def sweep_for_command(actor: Actor, *, dry_run: bool) -> Iterator[Recovered]:
    """:func:`sweep`, and what it has done; nothing where no runs are recorded."""
    try:
        for swept in sweep(actor, dry_run=dry_run):
            yield given_up(swept.run)
            yield from swept.recovered
    except (PgcloneError, DatabaseError) as error:
        logger.info("lost runs could not be looked for: %s", type(error).__name__)


def sweep_site(actor: Actor) -> list[Recovered]:
    """:func:`sweep`, and then what dead processes have left anywhere; tells what was done."""
    done = [item for swept in sweep(actor) for item in (given_up(swept.run), *swept.recovered)]
    left = [item for item in recover_site() if item.outcome is not Outcome.KEPT]
    audit_cleaning(actor, left)
    done += left
    for item in done:
        logger.info("%s had it cleaned up: %s %s", actor.name, item.outcome, item.what)
    return done


def audit_cleaning(actor: Actor, done: Iterable[Recovered]) -> None:
    """Writes down what was finished or cleaned up without a run to write it down with."""
    for item in done:
        if item.outcome is not Outcome.KEPT:
            audit_without_row(item.what, actor, f"cleaned up: {item.outcome}: {item.why}")


def give_up(actor: Actor, run: Run) -> Swept:
    """:func:`sweep` for one run; :class:`Conflict` when it is not lost."""
    swept = sweep(actor, only=run)
    if not swept:
        raise Conflict(
            "this run is not lost: it was heard of, or is over",
            hint="Wait for its end, or cancel it.",
        )
    return swept[0]


def sweep(actor: Actor, *, only: Run | None = None, dry_run: bool = False) -> list[Swept]:
    """Gives up the runs whose process on this machine is gone, or that have told nothing for long.

    What they have left is cleaned up, where no other run is at work. Waits three seconds when a
    run is merely silent. A dry run changes nothing.
    """
    actor.require(actors.CANCEL)
    lost = [run for run in _lost() if only in (None, run)]
    if dry_run:
        return [Swept(run, []) for run in lost]
    gone = [run for run in lost if is_gone(run)]
    silent = [run for run in lost if run not in gone]
    swept = [_give_up(run, actor, "its process is gone") for run in gone]
    if silent:
        time.sleep(SECOND_LOOK)
        swept += [_give_up(run, actor, "nothing was heard of it") for run in silent]
    return [each for each in swept if each is not None]


def given_up(run: Run) -> Recovered:
    """How it is told that a run was given up."""
    what = f"the {run._meta.verbose_name} {run.pk}"
    return Recovered(Outcome.GIVEN_UP, what, f"its worker, {run.worker}, is gone")


def _lost() -> Iterator[Run]:
    # By the clock of the database, with which the rows were written.
    since = Coalesce("heard_at", "started_at", "requested_at")
    silence = ExpressionWrapper(Now() - since, output_field=DurationField())
    for model in (Dump, RestoreRun):
        running: Iterable[Run] = model._base_manager.filter(status=Status.RUNNING)
        for run in running.annotate(silence=silence):  # type: ignore[attr-defined]
            if is_gone(run) or run.silence > run.may_be_silent:
                yield run


def _give_up(run: Run, actor: Actor, why: str) -> Swept | None:
    """``None`` when it was heard of again, or somebody else was first."""
    fate = fate_of(run)
    fields = {
        "finished_at": timezone.now(),
        "error_code": "lost",
        "error": f"the worker did not finish it: {why}{fate.told}",
        "hint": fate.hint,
    }
    if not run.move(Status.LOST, provided=Q(heard_at=run.heard_at), **fields):
        return None
    audit(run, actor, f"marked as lost: {why}")
    recovered = [item for item in clean_up(run) if item.outcome is not Outcome.KEPT]
    for item in recovered:
        tell(run, f"{item.outcome}: {item.what}: {item.why}", level=RunEvent.Level.NOTE)
    return Swept(run, recovered)


def clean_up(run: Run) -> Iterator[Recovered]:
    """Finishes or drops what a run has left whose process is gone."""
    alias = run.database  # type: ignore[attr-defined]
    options = resolve(Arguments(database=alias), verb="")
    yield from recover_beside(options, dry_run=False)
    if (pid := local_pid(run)) is not None and is_gone(run):
        directory = tempfile.gettempdir()
        yield from recover_temporary(
            directory, older_than=timedelta(0), dry_run=False, of_process=pid
        )
    if isinstance(run, Dump) and _is_alone(run):
        given = resolve(Arguments(storage_location=run.location), verb="")
        yield from recover_stored(
            given,
            older_than=timedelta(0),
            dry_run=False,
            under=f"{sanitized(run.instance)}/{sanitized(run.database)}/",
            since=aware(run.started_at or timezone.now()) - SILENT_AFTER,
        )


def _is_alone(dump: Dump) -> bool:
    """Whether nobody can be writing where the dump was written to."""
    others = Dump.objects.filter(
        location=dump.location,
        instance=dump.instance,
        database=dump.database,
        status=Status.RUNNING,
    )
    try:
        with Server.connected(maintenance_params(dump.database)) as server:
            return not is_locked(server, live_name(dump.database)) and not others.exists()
    except PgcloneError:
        return False
