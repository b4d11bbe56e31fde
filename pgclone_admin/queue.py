"""Hands runs to django-q2. With ``tasks`` the only module that knows it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from django.db import router, transaction

from .models import Dump, RestoreRun, Run, Status

logger = logging.getLogger(__name__)

TASKS = {Dump: "pgclone_admin.tasks.run_dump", RestoreRun: "pgclone_admin.tasks.run_restore"}

NOT_QUEUED = "not_queued"
"""Error code of a run that is queued but in no queue."""


def enqueue_after_commit(run: Run) -> None:
    """Has a worker execute the run, once the transaction that made its row is committed.

    When the queue cannot be reached the row says so, and can be queued again.
    """
    transaction.on_commit(partial(enqueue, run), using=router.db_for_write(type(run)))


def enqueue(run: Run) -> bool:
    """Puts a task for the run into the queue; whether that succeeded stands in its row, too."""
    told: dict[str, Any]
    try:
        # Without django-q2 among the installed apps the import is what fails.
        from django_q.tasks import async_task  # noqa: PLC0415

        name = f"{run._meta.model_name} {run.pk}"
        async_task(TASKS[type(run)], run.pk, task_name=name, ack_failure=True)
        told = {"error_code": "", "error": "", "hint": ""}
    except Exception as error:  # noqa: BLE001 - every broker has errors of its own
        # Without its words: the address of a broker can hold a password.
        logger.warning("a run could not be queued: %s", type(error).__name__)
        told = {
            "error_code": NOT_QUEUED,
            "error": f"the queue cannot be reached: {type(error).__name__}",
            "hint": "Start the broker of django-q2, then queue it again.",
        }
    rows = type(run)._base_manager.filter(pk=run.pk, status=Status.QUEUED)
    if told["error_code"] or run.error_code:
        rows.update(**told)
        run.refresh_from_db()
    return not told["error_code"]
