"""What django-q2 calls. A primary key goes in, a status comes out, and no error: its text would be
shown to whoever may look at the queue. Schedules name a configuration and a database instead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import connections

from . import runner
from .core.errors import PgcloneError
from .models import Dump, RestoreRun, Status
from .services import lost
from .services.actors import Actor
from .services.requests import request_dump
from .settings import settings

logger = logging.getLogger(__name__)

SCHEDULE = Actor.system("a schedule")


def run_dump(pk: int) -> str:
    """Makes the dump ``pk``."""
    return _execute(Dump, pk, runner.run_dump)


def run_restore(pk: int) -> str:
    """Does what the restore run ``pk`` says."""
    return _execute(RestoreRun, pk, runner.run_restore)


class NotAskedFor(Exception):
    """A scheduled dump that could not even be asked for; its text is the code of the error."""


def ask_for_dump(config: str | None = None, database: str | None = None) -> str:
    """For schedules: asks for a dump, as *Dump now* does, which another task then makes.

    What is asked for in vain is among the failed tasks; :class:`NotAskedFor`.
    """
    given = {"config": config, "database": database}
    try:
        dump = request_dump(SCHEDULE, {name: value for name, value in given.items() if value})
    except PgcloneError as error:
        logger.error("a scheduled dump cannot be requested: %s", error.code)
        raise NotAskedFor(error.code) from None
    return f"dump {dump.pk}"


def _execute(model: Any, pk: int, execute: Callable[..., str]) -> str:
    lost.sweep_quietly()
    run = model.objects.filter(pk=pk, status=Status.QUEUED).first()
    if run is None:
        return runner.ALREADY_TAKEN
    try:
        return execute(run, time_limit=settings.run_timeout)
    except PgcloneError as error:
        return error.code
    except Exception as error:  # noqa: BLE001 - the row tells it, without secrets
        logger.error("%s %s failed: %s", model._meta.model_name, pk, type(error).__name__)
        return "failed"


def watch_workers() -> None:
    """Has every worker that begins look for lost runs: often it takes the place of their worker."""
    from django_q.signals import post_spawn  # noqa: PLC0415 - needs its models

    post_spawn.connect(_look_for_lost_runs, dispatch_uid="pgclone_admin")


def _look_for_lost_runs(**_kwargs: Any) -> None:
    try:
        lost.sweep_quietly()
    finally:
        connections.close_all()
