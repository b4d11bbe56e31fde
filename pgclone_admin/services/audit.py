"""Writes down who did what."""

from __future__ import annotations

from django.apps import apps

from ..models import Dump, Run, RunEvent
from .actors import Actor


def audit(run: Run, actor: Actor, what: str) -> None:
    """Writes down who did what: for good with the run, and where Django keeps such things."""
    tell(run, what, level=RunEvent.Level.AUDIT, person=actor.name)
    log(run, actor, what)


def audit_without_row(about: str, actor: Actor, what: str) -> None:
    """The same for what has no row: ``about`` says what it was done to."""
    RunEvent.objects.create(level=RunEvent.Level.AUDIT, about=about, text=what, person=actor.name)


def audit_deletion(dump: Dump, actor: Actor) -> None:
    """Writes down who deletes the dump, and lets what others did to it outlive its row."""
    about = dump.key or f"dump {dump.pk} of {dump.database}"
    where = f"from {dump.location}" if dump.key else "that had no file"
    actions = RunEvent.objects.filter(dump=dump, level=RunEvent.Level.AUDIT)
    actions.update(dump=None, about=about)
    audit_without_row(about, actor, f"deleted the dump {where}")
    log(dump, actor, "deleted the dump", is_deletion=True)


def tell(
    run: Run, what: str, *, level: RunEvent.Level = RunEvent.Level.NOTE, person: str = ""
) -> None:
    """A line for the log of a run."""
    owner = {"dump": run} if isinstance(run, Dump) else {"run": run}
    RunEvent.objects.create(level=level, text=what, person=person, **owner)


def log(run: Run, actor: Actor, what: str, *, is_deletion: bool = False) -> None:
    """The entry in the history of the admin; what is no person, or has no admin, has none."""
    if actor.user is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import (  # noqa: PLC0415 - needs its app
        CHANGE,
        DELETION,
        LogEntry,
    )

    LogEntry.objects.log_actions(
        actor.user.pk,
        [run],
        DELETION if is_deletion else CHANGE,
        change_message=what,
        single_object=True,
    )
