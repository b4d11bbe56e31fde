"""How things stand, at a glance: the newest good dumps, what is running, what failed last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from ..core.names import sanitized
from ..databases import replaceable_aliases
from ..models import ACTIVE, Dump, RestoreRun, Run, Status
from ..services.actors import CANCEL, WATCH
from ..services.allowed import refusal
from ..settings import settings
from . import formats
from .progress import waits_in_vain
from .shared import link_to

MOST_ROWS = 20
"""Lines of one table; there are lists for more."""

MOST_FAILURES = 3


@dataclass(frozen=True)
class Newest:
    """The newest good dump of a database, by instance and configuration."""

    dump: Dump
    url: str | None
    age: SafeString | str
    size: str
    is_here: bool
    """Whether it was taken by this instance."""
    proof: str


@dataclass(frozen=True)
class Work:
    """A dump or a restore run, in a line."""

    text: str
    url: str | None
    badge: SafeString
    when: SafeString | str
    error: str = ""


@dataclass
class Overview:
    """Only what the person may see; every text is still to be escaped."""

    newest: list[Newest] = field(default_factory=list)
    has_more: bool = False
    may_see_dumps: bool = False
    running: list[Work] = field(default_factory=list)
    failed: list[Work] = field(default_factory=list)
    may_see_work: bool = False
    warnings: list[str] = field(default_factory=list)
    kept_days: int = 0
    """After how many days what is held is dropped by cleaning up."""
    clean_up_url: str | None = None
    """Where something is lost and the person may give it up."""
    refusals: list[str] = field(default_factory=list)


def overview_of(request: HttpRequest) -> Overview:
    """A handful of queries, however many dumps and runs there are; no storage is asked."""
    user: Any = request.user
    overview = Overview(
        may_see_dumps=user.has_perm("pgclone_admin.view_dump"),
        may_see_work=user.has_perm(WATCH),
    )
    overview.refusals = [said for verb in ("dump", "restore") if (said := refusal(verb))]
    models: list[type[Run]] = []
    if overview.may_see_dumps:
        _add_newest(overview)
        models.append(Dump)
    if overview.may_see_work:
        models.append(RestoreRun)
    active = [run for model in models for run in _active(model)]
    overview.running = [_work(run) for run in sorted(active, key=lambda run: run.requested_at)]
    failed = [run for model in models for run in _failed(model)]
    failed.sort(key=lambda run: run.finished_at or run.requested_at, reverse=True)
    overview.failed = [_work(run) for run in failed[:MOST_FAILURES]]
    _look_for_worker(overview, active)
    if any(run.is_silent for run in active) and user.has_perm(CANCEL):
        overview.clean_up_url = link_to("pgclone_admin_restorerun_clean_up")
        overview.kept_days = settings.temporary_days
    return overview


def _add_newest(overview: Overview) -> None:
    parts = ("instance", "database", "config")
    newest = list(
        Dump.objects.filter(status=Status.SUCCEEDED)
        .exclude(key="")
        .exclude(size=0)
        .order_by(*parts, "-taken_at", "-pk")
        .distinct(*parts)
        .defer("manifest", "options")
    )
    here = sanitized(settings.instance)
    newest.sort(key=lambda d: (d.instance != here, d.database, d.instance, d.config))
    overview.has_more = len(newest) > MOST_ROWS
    overview.newest = [_newest(dump, here) for dump in newest[:MOST_ROWS]]
    dumped = {dump.database for dump in newest if dump.instance == here}
    for alias in replaceable_aliases():
        if sanitized(alias) not in dumped:
            overview.warnings.append(
                _("There is no good dump of the database “%(alias)s” from here.") % {"alias": alias}
            )


def _newest(dump: Dump, here: str) -> Newest:
    if dump.drilled_at is not None:
        proof = _("restored in a drill")
    elif dump.verified_at is not None:
        proof = _("verified")
    else:
        proof = _("not verified")
    return Newest(
        dump=dump,
        url=link_to("pgclone_admin_dump_change", dump.pk),
        age=formats.ago(dump.taken_at),
        size=formats.size(dump.size),
        is_here=dump.instance == here,
        proof=proof,
    )


def _active(model: type[Run]) -> QuerySet[Run]:
    rows: QuerySet[Run] = model._base_manager.filter(status__in=ACTIVE)
    return rows.order_by("requested_at")[:MOST_ROWS]


def _failed(model: type[Run]) -> QuerySet[Run]:
    rows: QuerySet[Run] = model._base_manager.filter(status__in=(Status.FAILED, Status.LOST))
    return rows.order_by("-requested_at", "-pk")[:MOST_FAILURES]


def _work(run: Run) -> Work:
    if isinstance(run, Dump):
        text = _("Dump of %(database)s") % {"database": run.database or run.key}
    else:
        text = formats.capitalized(str(run))
    return Work(
        text=text,
        url=link_to(f"pgclone_admin_{run._meta.model_name}_change", run.pk),
        badge=formats.badge(run),
        when=formats.ago(run.finished_at or run.started_at or run.requested_at),
        error=formats.capitalized(run.error.partition("\n")[0]),
    )


def _look_for_worker(overview: Overview, active: list[Run]) -> None:
    """The queue tells other processes of its workers through the cache, which they may not share;
    so it is looked for in what workers do."""
    at_work = [run for run in active if run.status == Status.RUNNING and not run.is_silent]
    waits = [run for run in active if waits_in_vain(run)]
    if waits and not at_work:
        overview.warnings.append(
            _("Runs are waiting and no worker takes them. Is “manage.py qcluster” running?")
        )
    if any(run.is_silent for run in active):
        overview.warnings.append(
            _("Nothing was heard of a worker that should be at work: it may have died.")
        )
