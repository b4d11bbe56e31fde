"""How the pages say things: statuses, times, sizes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.template.defaultfilters import date as format_date
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _

from ..core.errors import PgcloneError
from ..models import Run, Status
from ..moments import aware

NOTHING = "—"

ICONS = {
    Status.QUEUED: "◷",
    Status.RUNNING: "▶",
    Status.SUCCEEDED: "✓",
    Status.FAILED: "✕",
    Status.CANCELLED: "⊘",
    Status.LOST: "?",
    Status.MISSING: "∅",
}


def badge(run: Run) -> SafeString:
    """A status as icon, word and colour."""
    status = Status(run.status)
    return format_html(
        '<span class="pgclone-status pgclone-{}"><span aria-hidden="true">{}</span> {}</span>',
        status.value,
        ICONS[status],
        status.label,
    )


def ago(moment: datetime | None) -> SafeString | str:
    """How long ago that was; exactly when, for who points at it."""
    if moment is None:
        return NOTHING
    moment = aware(moment)
    if datetime.now(UTC) - moment < timedelta(minutes=1):
        said = _("just now")
    else:
        said = _("%(time)s ago") % {"time": timesince(moment, depth=1)}
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), absolute(moment), said
    )


def absolute(moment: datetime) -> str:
    return format_date(timezone.localtime(aware(moment)), "Y-m-d H:i:s T")


def clock(moment: datetime) -> str:
    """The time of the day alone."""
    return f"{timezone.localtime(aware(moment)):%H:%M:%S}"


def size(count: int | None) -> str:
    return NOTHING if count is None else filesizeformat(count)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return _("%(n)s s") % {"n": f"{seconds:.1f}"}
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return _("%(h)s h %(m)s min") % {"h": hours, "m": minutes_rest}
    if minutes and not rest:
        return _("%(m)s min") % {"m": minutes}
    if minutes:
        return _("%(m)s min %(s)s s") % {"m": minutes, "s": rest}
    return _("%(n)s s") % {"n": rest}


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentences(error: PgcloneError) -> str:
    """What an error says, and what to do."""
    return " — ".join(filter(None, [capitalized(error.message), error.hint]))


def two_lines(first: str, second: str) -> SafeString:
    """What matters, and below it what explains it."""
    return format_html('{}<span class="pgclone-second">{}</span>', first, second)
