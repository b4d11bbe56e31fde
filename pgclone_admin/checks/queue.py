"""System checks of Q_CLUSTER: a run is delivered once, and can finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError, router
from django.db.models import DurationField, ExpressionWrapper, F, Max

from ..core.errors import PgcloneError
from ..models import Dump, RestoreRun
from ..settings import settings
from ..site_settings import cluster_settings

USUAL_RETRY = 60
"""Seconds; what django-q2 takes where Q_CLUSTER says nothing."""


@register()
def check_queue(**_kwargs: Any) -> list[CheckMessage]:
    """The queue delivers a run once, lets it finish, and does not end it without our knowledge."""
    if not apps.is_installed("django_q"):
        if not apps.is_installed("django.contrib.admin"):
            return []  # there is the command line, which needs no queue
        return [
            checks.Warning(
                "nothing that is asked for in the admin can be done: django-q2 is not installed",
                hint='Write "django_q" in INSTALLED_APPS, and run: manage.py qcluster',
                id="pgclone_admin.W004",
            )
        ]
    cluster = cluster_settings()
    if cluster.get("sync"):
        return []
    return [*_check_times(cluster), *_check_attempts(cluster)]


def _check_times(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    timeout, retry = cluster.get("timeout"), cluster.get("retry", USUAL_RETRY)
    try:
        longest = settings.run_timeout
    except PgcloneError:
        longest = None  # told by check_settings
    if not timeout:
        yield checks.Warning(
            "Q_CLUSTER has no timeout: a run that hangs keeps its worker for ever",
            hint='Write "timeout" in Q_CLUSTER: more seconds than the longest restore takes; and '
            '"retry" above it.',
            id="pgclone_admin.W005",
        )
    elif retry <= timeout:
        yield Error(
            f"retry of Q_CLUSTER ({retry} s) is not larger than its timeout ({timeout} s): tasks "
            "that are at work are delivered again",
            hint=f'Write "retry": {timeout + USUAL_RETRY} in Q_CLUSTER.',
            id="pgclone_admin.E006",
        )
    if longest is not None and timeout and longest >= timeout:
        yield Error(
            f"PGCLONE_RUN_TIMEOUT ({longest} s) is not smaller than the timeout of Q_CLUSTER "
            f"({timeout} s): django-q2 kills a run before it can clean up",
            hint=f'Write "timeout": {longest + 30} in Q_CLUSTER, and "retry" above it.',
            id="pgclone_admin.E007",
        )
    elif longest is not None and (timeout or 0) < retry <= longest:
        yield Error(
            f"retry of Q_CLUSTER ({retry} s) is not larger than what a run may take ({longest} s)",
            hint=f'Write "retry": {longest + USUAL_RETRY} in Q_CLUSTER.',
            id="pgclone_admin.E008",
        )


def _check_attempts(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if not cluster.get("ack_failures"):
        yield checks.Warning(
            "tasks that fail are delivered again and again: ack_failures of Q_CLUSTER is not True",
            hint='Write "ack_failures": True in Q_CLUSTER.',
            id="pgclone_admin.W006",
        )
    if cluster.get("max_attempts", 0) != 1:
        yield checks.Warning(
            "a task that its worker did not survive is tried again: max_attempts of Q_CLUSTER is "
            "not 1",
            hint='Write "max_attempts": 1 in Q_CLUSTER.',
            id="pgclone_admin.W007",
        )


@register(Tags.database, deploy=True)
def check_longest_run(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: no run has taken longer than tasks are left alone for."""
    retry = cluster_settings().get("retry", USUAL_RETRY)
    took = ExpressionWrapper(F("finished_at") - F("started_at"), output_field=DurationField())
    longest = 0.0
    for model in (Dump, RestoreRun):
        if router.db_for_read(model) not in (databases or ()):
            continue
        try:
            found = model._base_manager.aggregate(longest=Max(took))["longest"]
        except DatabaseError:
            continue  # the tables are not there yet
        longest = max(longest, found.total_seconds() if found else 0.0)
    if longest < retry:
        return []
    return [
        checks.Warning(
            f"a run has taken {longest:.0f} s, and tasks are delivered again after {retry} s "
            "(retry of Q_CLUSTER)",
            hint=f'Write "retry": {round(2 * longest) + USUAL_RETRY} in Q_CLUSTER, and "timeout" '
            "below it.",
            id="pgclone_admin.W009",
        )
    ]
