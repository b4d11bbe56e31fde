"""Writes down what a run tells, while it works."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    router,
    transaction,
)
from django.db.models.functions import Now
from django.utils import timezone

from .core.errors import Cancelled, Conflict, PgcloneError, TimedOut
from .core.process import scrubbed
from .core.progress import Phase, Reporter
from .databases import secrets
from .hooks.running import BEGINS, ENDED
from .models import Dump, Kind, RestoreRun, Run, RunEvent, Status

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two notes of where a run is."""

CLOSING_PHASE = Phase.SWAPPING
"""In this phase the database that is written to may be the one that is replaced: what is said waits
in memory until the next phase. From here on nothing can be cancelled."""

PATIENCE = 60.0
"""Seconds in which the last word of a run has to find its database."""

HANDOVER = 10.0
"""Seconds that a run waits until it is written down that it is swapping."""

DEAF_FOR = 2.0
"""Seconds in which a run that is to end has to ask; after them it is interrupted."""

MOST_NOTES = 5_000
LAST_NOTES = 100
LONGEST_TEXT = 4_000
"""How much of a run's log is kept, of each hook: one may say more than anybody can read. The last
of it is kept in any case, since it tells how it ended."""


MORE = "more was said, of which only the last is kept"


class RunReporter:
    """A reporter that writes into the row of its run, from a thread of its own.

    While hooks run, the connections of the working thread lead to another database; those of
    another thread do not. What cannot be written is kept until it can.

    ``time_limit`` is in seconds, from now. ``also`` is told everything too.
    """

    def __init__(
        self,
        run: Run,
        also: Reporter | None = None,
        *,
        time_limit: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._run = run
        self._also = also
        self._patience = patience
        self._time_limit = time_limit
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._secrets = secrets()
        self._lock = threading.Lock()
        self._events: list[RunEvent] = []
        self._notes = 0
        self._last_notes: deque[RunEvent] = deque(maxlen=LAST_NOTES)
        self._fields: dict[str, Any] = {}
        self._wake = threading.Event()
        self._stopped = threading.Event()
        # A copy is made at once only where nobody is connected.
        self._wants_quiet = isinstance(run, RestoreRun) and run.kind == Kind.COPY
        self._is_quiet = threading.Event()
        self._is_done = False
        self._ends_because: PgcloneError | None = None
        self.asked_to_end_at = 0.0
        self.knows_of_end = False
        """Whether the run has been told that it is to end."""
        self.interrupt_thread: int | None = None
        """The thread to be interrupted when the run does not ask."""
        self._thread = threading.Thread(target=self._write, name="pgclone record", daemon=True)

    # -- what operations call

    def phase(self, name: Phase, *, total: int | None = None) -> None:
        with self._lock:
            self._fields |= {"phase": name, "bytes_done": 0, "bytes_total": total}
            self._add(RunEvent.Level.PHASE, name)
            if name == CLOSING_PHASE:
                self._wants_quiet = True
            elif total is not None or not self._is_copy:
                self._wants_quiet = False
                self._is_quiet.clear()
        if name == CLOSING_PHASE and self._thread.is_alive():
            self._wake.set()
            self._is_quiet.wait(HANDOVER)
        if self._also is not None:
            self._also.phase(name, total=total)

    @property
    def _is_copy(self) -> bool:
        return isinstance(self._run, RestoreRun) and self._run.kind == Kind.COPY

    def advance(self, count: int) -> None:
        with self._lock:
            self._fields["bytes_done"] = self._fields.get("bytes_done", 0) + count
        if self._also is not None:
            self._also.advance(count)

    def note(self, message: str) -> None:
        with self._lock:
            self._add(RunEvent.Level.NOTE, message)
        if self._also is not None:
            self._also.note(message)

    def warn(self, message: str) -> None:
        with self._lock:
            self._add(RunEvent.Level.WARNING, message)
        if self._also is not None:
            self._also.warn(message)

    def check(self) -> None:
        if (reason := self.reason_to_end()) is not None:
            self.knows_of_end = True
            raise reason
        if self._also is not None:
            self._also.check()

    def is_to_end(self) -> bool:
        return self.reason_to_end() is not None or (
            self._also is not None and self._also.is_to_end()
        )

    def _add(self, level: RunEvent.Level, text: str) -> None:
        events: list[RunEvent] | deque[RunEvent] = self._events
        if level == RunEvent.Level.NOTE:
            if text.startswith((BEGINS, ENDED)):
                # What a hook says is not at the cost of what comes after it.
                self._notes = 0
                self._keep_last_notes()
            self._notes += 1
            if self._notes == MOST_NOTES:
                self._events.append(self._event(level, MORE))
            if self._notes >= MOST_NOTES:
                events = self._last_notes
        events.append(self._event(level, text))

    def _event(self, level: RunEvent.Level, text: str) -> RunEvent:
        owner = {"dump_id" if isinstance(self._run, Dump) else "run_id": self._run.pk}
        text = storable(text, self._secrets)
        return RunEvent(level=level, text=text, at=timezone.now(), **owner)

    def _keep_last_notes(self) -> None:
        self._events += self._last_notes
        self._last_notes.clear()

    # -- the end before the end

    def end(self, reason: PgcloneError) -> None:
        """Has the run end: when it asks next, or soon by an interruption. The first reason counts.

        Takes no lock: handlers of signals call it.
        """
        if self._ends_because is None:
            self.asked_to_end_at = time.monotonic()
            self._ends_because = reason

    def reason_to_end(self) -> PgcloneError | None:
        if self._is_done:
            return None
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.end(took_too_long(self._time_limit))
        return self._ends_because

    def _interrupt_if_deaf(self) -> None:
        """For the phases in which nobody asks: hooks, indexes, one long statement."""
        thread = self.interrupt_thread
        if thread is None or self.knows_of_end or self.reason_to_end() is None:
            return
        with self._lock:
            if self._wants_quiet or time.monotonic() - self.asked_to_end_at < DEAF_FOR:
                return
            signal.pthread_kill(thread, signal.SIGALRM)

    # -- what the runner calls

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_done = True
        self._stopped.set()
        self._wake.set()
        self._thread.join(self._patience)

    def finish(self, status: Status, **fields: Any) -> None:
        """Writes all that is left, and how the run has ended; after a swap, too, in which the
        database was another one for a moment."""
        self._is_done = True
        with self._lock:
            self._keep_last_notes()
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._flush()
                self._make_way(fields)
                self._run.move(status, finished_at=timezone.now(), **fields)
                return
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() > deadline:
                    self._lament("the end of a run could not be written down", error)
                    return
            except DatabaseError as error:
                # After the swap there are no such tables.
                self._lament("the end of a run could not be written down", error)
                return
            connections.close_all()
            time.sleep(0.2)

    def _make_way(self, fields: dict[str, Any]) -> None:
        """Takes the row away that a refresh has made of the dump before this run could."""
        if isinstance(self._run, Dump) and (key := fields.get("key")):
            same = Dump.objects.filter(location=self._run.location, key=key)
            same.exclude(pk=self._run.pk).delete()

    def _lament(self, what: str, error: Exception) -> None:
        # Where somebody looks on, it has been told already.
        level = logging.WARNING if self._also is None else logging.INFO
        logger.log(level, "%s: %s", what, storable(str(error), self._secrets))

    # -- the writing thread

    def _write(self) -> None:
        try:
            while not self._stopped.is_set():
                self._wake.wait(INTERVAL)
                self._wake.clear()
                if self._stopped.is_set():
                    break
                if not self._is_quiet.is_set():
                    self._write_once()
                self._interrupt_if_deaf()
        finally:
            connections.close_all()

    def _write_once(self) -> None:
        wants_quiet = self._wants_quiet
        try:
            if not (wants_quiet and self._is_copy):
                self._flush()
        except (OperationalError, InterfaceError):
            connections.close_all()
        except DatabaseError as error:
            self._lament("the progress of a run could not be written down", error)
        if wants_quiet:
            # Nobody is to wait for this session, and it is not to wait for a lock.
            connections.close_all()
            with self._lock:
                if self._wants_quiet:
                    self._is_quiet.set()

    def _flush(self) -> None:
        with self._lock:
            events, self._events = self._events, []
            fields = dict(self._fields)
        alias = router.db_for_write(type(self._run))
        rows = type(self._run)._base_manager.using(alias).filter(pk=self._run.pk)
        running = rows.filter(status=Status.RUNNING)
        if fields.get("phase") == CLOSING_PHASE:
            # Whoever cancels asks for the phase: either is first.
            running = running.filter(cancel_requested=False)
        try:
            with transaction.atomic(using=alias):
                running.update(heard_at=Now(), **fields)
                RunEvent.objects.using(alias).bulk_create(events)
        except IntegrityError as error:
            # The site does not keep these tables: after the swap the run is not in them.
            self._lament("the log of a run has nowhere to go", error)
        except BaseException:
            with self._lock:
                self._events = events + self._events
            raise
        row = rows.values_list("status", "cancel_requested").first()
        if row is not None and row[0] != Status.RUNNING:
            self.end(
                Conflict(
                    "the run was marked as lost, as nothing was heard of it",
                    hint="Request it again.",
                )
            )
        elif row is not None and row[1]:
            self.end(Cancelled("cancelled", hint="Nothing was changed."))


def took_too_long(seconds: float | None) -> TimedOut:
    limit = "" if seconds is None else f"after {seconds:g} seconds "
    return TimedOut(
        f"the run was ended {limit}because it took too long",
        hint="Nothing was changed. Raise PGCLONE_RUN_TIMEOUT, and the timeout and retry of "
        "Q_CLUSTER above it.",
    )


def storable(text: str, secrets: Iterable[str]) -> str:
    """``text`` as it may be shown and as a database takes it.

    Of several lines that are too long the first is kept, and the last of the others: an error is
    told by the first, and what it came from is said last.
    """
    clean = scrubbed(text, secrets).replace("\0", "\N{REPLACEMENT CHARACTER}")
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= LONGEST_TEXT:
        return clean
    first, _newline, rest = clean.partition("\n")
    left = LONGEST_TEXT - len(first)
    return f"{first}\n... {rest[-left:]}" if left > 0 and rest else clean[:LONGEST_TEXT] + " ..."
