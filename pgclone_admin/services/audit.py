"""Writes down who did what."""

from __future__ import annotations

from django.apps import apps

from ..models import Dump, Run, RunEvent
from .actors import Actor


def audit(run: Run, actor: Actor, what: str) -> None:
    """Writes down who did what: for good with the run, and where Django keeps such things."""
    tell(run, what, level=RunEvent.Level.AUDIT, person=actor.name)
    log(run, actor, what)


def tell(
    run: Run, what: str, *, level: RunEvent.Level = RunEvent.Level.NOTE, person: str = ""
) -> None:
    """A line for the log of a run."""
    owner = {"dump": run} if isinstance(run, Dump) else {"run": run}
    RunEvent.objects.create(level=level, text=what, person=person, **owner)


def log(run: Run, actor: Actor, what: str) -> None:
    """The entry in the history of the admin; what is no person, or has no admin, has none."""
    if actor.user is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry  # noqa: PLC0415 - needs its app

    LogEntry.objects.log_actions(
        actor.user.pk, [run], CHANGE, change_message=what, single_object=True
    )
