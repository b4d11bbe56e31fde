"""How far a run is: steps, bytes, what its hooks and its log say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, zip_longest
from typing import Any

from django.db.models import Q, QuerySet, Value
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import gettext as _

from ..hooks.running import BEGINS, ENDED, FAILED_AFTER, TOOK
from ..models import Dump, Run, RunEvent, Status
from ..queue import NOT_QUEUED
from ..services.run_control import TOO_LATE
from . import formats

LOG_LINES = 400
"""Events that a page shows at most, the last of them; without what hooks have said."""

HOOK_LINES = 100
"""Lines of each hook that a page shows at most, the last of them."""

LOG_BLOCK = 500
"""Events of a whole log that are read together."""

LOG_TEXT = 2_000
"""Characters of one event that a page shows at most."""

TOLD = 8_000
"""Characters of what came with an error that a page shows at most."""

MOST_STEPS = 100

MOST_MARKS = 300
"""Phases, beginnings and ends of hooks that a page looks at."""

BY_HOOK = Q(level=RunEvent.Level.NOTE, text__startswith="  ")
"""What a hook has said."""

MARK = Q(level=RunEvent.Level.PHASE) | Q(level=RunEvent.Level.NOTE) & (
    Q(text__startswith=BEGINS) | Q(text__startswith=ENDED)
)

PATIENCE = timedelta(seconds=30)
"""A worker takes a run that waits in less."""

GIVE_UP, REQUEUE = "give_up", "requeue"

PARTS = ("state", "steps", "hooks", "log")
"""Pieces of the page that its script replaces."""


@dataclass(frozen=True)
class Step:
    name: str
    state: str
    """``done``, ``now``, or how the run ended in it."""
    label: str
    icon: str
    duration: str


@dataclass
class HookOutput:
    name: str
    lines: list[str] = field(default_factory=list)
    is_cut: bool = False
    """Whether there are more lines before these."""
    state: str = "now"
    """``now``, ``done`` or ``failed``."""
    duration: str = ""

    def end(self, said: str) -> bool:
        """Whether ``said`` tells that this hook has ended, and how."""
        for words, state in ((TOOK, "done"), (FAILED_AFTER, "failed")):
            start = f"{ENDED}{self.name} {words} "
            if said.startswith(start):
                self.state, self.duration = state, said.removeprefix(start)
                return True
        return False

    @property
    def icon(self) -> str:
        return {"now": "…", "done": "✓", "failed": "✗"}[self.state]

    @property
    def label(self) -> str:
        return {"now": _("running"), "done": _("done"), "failed": _("failed")}[self.state]


@dataclass(frozen=True)
class Line:
    at: datetime
    time: str
    when: str
    level: str
    text: str
    person: str


@dataclass(frozen=True)
class Progress:
    """What a page shows of a run; all texts are still to be escaped."""

    run: Run
    steps: list[Step]
    hooks: list[HookOutput]
    log: list[Line]
    is_cut: bool
    """Whether there is more of the log than this."""
    rate: float | None
    """Bytes per second in the current phase."""

    @property
    def percent(self) -> int | None:
        done, total = self.run.bytes_done, self.run.bytes_total
        if self.run.status != Status.RUNNING or not total:
            return None
        return min(100, done * 100 // total)

    @property
    def amount(self) -> str:
        """Bytes, and how fast they move."""
        if self.run.status != Status.RUNNING or not self.run.bytes_done:
            return ""
        said = formats.size(self.run.bytes_done)
        if self.run.bytes_total:
            total = formats.size(self.run.bytes_total)
            said = _("%(done)s of %(total)s") % {"done": said, "total": total}
        if self.rate:
            said += _(", %(rate)s per second") % {"rate": formats.size(round(self.rate))}
        return said

    @property
    def announcement(self) -> str:
        """One sentence, for who listens to the page."""
        status = str(Status(self.run.status).label)
        return f"{status}: {self.run.phase}" if self.run.is_active and self.run.phase else status

    @property
    def badge(self) -> str:
        return formats.badge(self.run)

    @property
    def duration(self) -> str:
        return "" if self.run.seconds is None else formats.duration(self.run.seconds)

    @property
    def silence(self) -> str:
        """How long nothing was heard of a run that should be talking, or nothing."""
        heard = self.run.heard_at or self.run.started_at
        if not self.run.is_silent or heard is None:
            return ""
        return formats.duration((timezone.now() - heard).total_seconds())

    @property
    def is_stoppable(self) -> bool:
        """Whether it is not yet too late to cancel it."""
        return self.run.is_active and self.run.phase not in TOO_LATE

    @property
    def offer(self) -> str:
        """What a person may want to do about a run that does not go on."""
        if self.run.is_silent:
            return GIVE_UP
        return REQUEUE if waits_in_vain(self.run) else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "status": self.run.status,
            "active": self.run.is_active,
            "phase": self.run.phase,
            "bytes_done": self.run.bytes_done,
            "bytes_total": self.run.bytes_total,
            "announcement": self.announcement,
            "offer": self.offer,
            "stoppable": self.is_stoppable,
            "parts": {
                part: render_to_string(f"pgclone_admin/run_{part}.html", {"progress": self})
                for part in PARTS
            },
        }


def progress_of(run: Run) -> Progress:
    """What is known of a run, in two queries, and a third where hooks have run."""
    events = _events(run)
    newest = list(events.exclude(BY_HOOK).order_by("-at", "-pk")[: LOG_LINES + 1])
    marks = list(events.filter(MARK)[:MOST_MARKS])
    phases = [mark for mark in marks if mark.level == RunEvent.Level.PHASE][:MOST_STEPS]
    return Progress(
        run=run,
        steps=_steps(run, phases),
        hooks=_hooks(events.filter(BY_HOOK), marks),
        log=_log(reversed(newest[:LOG_LINES])),
        is_cut=len(newest) > LOG_LINES,
        rate=_rate(run, phases),
    )


def whole_log(run: Run) -> Iterator[bytes]:
    """All that is kept of what was said and done in a run, as text, block by block."""
    events = _events(run).iterator(chunk_size=LOG_BLOCK)
    while block := list(islice(events, LOG_BLOCK)):
        yield "".join(map(_as_text, block)).encode()


def _as_text(event: RunEvent) -> str:
    said = f"{event.person}: {event.text}" if event.person else event.text
    return f"{formats.absolute(event.at)}  {event.get_level_display():<7}  {said}\n"


def _events(run: Run) -> QuerySet[RunEvent]:
    return RunEvent.objects.filter(**({"dump": run} if isinstance(run, Dump) else {"run": run}))


def waits_in_vain(run: Run) -> bool:
    """Whether it is in no queue, or so it seems."""
    waited = timezone.now() - run.requested_at
    return run.status == Status.QUEUED and (run.error_code == NOT_QUEUED or waited > PATIENCE)


def problem_of(run: Run) -> dict[str, str]:
    """The sentence of an error, and what was said beside it."""
    sentence, _newline, rest = run.error.partition("\n")
    return {"sentence": _shown(sentence), "rest": rest[-TOLD:]}


def _steps(run: Run, phases: list[RunEvent]) -> list[Step]:
    ends = [phase.at for phase in phases[1:]]
    last_end = run.finished_at or (timezone.now() if run.is_active else None)
    steps = []
    for number, phase in enumerate(phases):
        is_last = number == len(phases) - 1
        end = last_end if is_last else ends[number]
        state, label, icon = _state(run) if is_last else DONE
        seconds = None if end is None else max(0.0, (end - phase.at).total_seconds())
        duration = "" if seconds is None else formats.duration(seconds)
        steps.append(Step(_shown(phase.text), state, label, icon, duration))
    return steps


DONE = ("done", "done", "✓")


def _state(run: Run) -> tuple[str, str, str]:
    """How the last step stands."""
    status = Status(run.status)
    if status in (Status.SUCCEEDED, Status.MISSING):
        return DONE
    return status.value, str(status.label), formats.ICONS[status]


def _rate(run: Run, phases: list[RunEvent]) -> float | None:
    if not run.is_active or not phases or phases[-1].text != run.phase or run.heard_at is None:
        return None
    seconds = (run.heard_at - phases[-1].at).total_seconds()
    return run.bytes_done / seconds if seconds > 1 else None


def _hooks(said: QuerySet[RunEvent], marks: list[RunEvent]) -> list[HookOutput]:
    """The hooks that have begun, each with how it has ended and the last that it has said."""
    hooks: list[HookOutput] = []
    begins: list[RunEvent] = []
    for mark in marks:
        text = _shown(mark.text)
        if mark.level == RunEvent.Level.PHASE:
            continue
        if text.startswith(BEGINS):
            hooks.append(HookOutput(text.removeprefix(BEGINS)))
            begins.append(mark)
        elif hooks:
            hooks[-1].end(text)
    for number, text in _last_of_each(said, begins):
        hooks[number].lines.append(_shown(text)[2:])
    for hook in hooks:
        hook.is_cut = len(hook.lines) > HOOK_LINES
        hook.lines = hook.lines[-HOOK_LINES:]
    return hooks


def _last_of_each(said: QuerySet[RunEvent], begins: list[RunEvent]) -> list[tuple[int, str]]:
    """The last lines of each hook, with its number; in one query, however many hooks there are."""
    parts = []
    for number, (begin, following) in enumerate(zip_longest(begins, begins[1:])):
        lines = said.filter(_after(begin))
        if following is not None:
            lines = lines.exclude(_after(following))
        lines = lines.annotate(number=Value(number)).order_by("-at", "-pk")
        parts.append(lines.values_list("number", "at", "pk", "text")[: HOOK_LINES + 1])
    if not parts:
        return []
    first, *others = parts
    found = sorted(first.union(*others, all=True) if others else first)
    return [(number, text) for number, _at, _pk, text in found]


def _after(event: RunEvent) -> Q:
    return Q(at__gt=event.at) | Q(at=event.at, pk__gt=event.pk)


def _log(events: Iterable[RunEvent]) -> list[Line]:
    return [
        Line(
            at=event.at,
            time=formats.clock(event.at),
            when=formats.absolute(event.at),
            level=event.level,
            text=_shown(event.text),
            person=event.person,
        )
        for event in events
    ]


def _shown(text: str) -> str:
    return text if len(text) <= LOG_TEXT else text[:LOG_TEXT] + " …"
