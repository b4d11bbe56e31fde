"""Builds the constraints and indexes of large tables while later tables are still being loaded."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .archive import Entry
from .judge import ErrorCollector, RestoreError
from .process import Child
from .programs import Command

LARGE_TABLE = 4 * 1024 * 1024
"""Bytes of rows in the archive from which a table's indexes are worth a pg_restore each. Those of
smaller ones are built with the rest: starting a program takes longer than building them."""

PROCESSING_DATA = "pg_restore: processing data for table "
"""What pg_restore says before the rows of each table. The n-th such line is the n-th data entry;
the name in it is not read, as it is not quoted."""

Step = tuple[int, ...]
"""Entries that one pg_restore builds, one after the other."""


@dataclass
class TablePlan:
    """What is to be built for one table: the steps of a phase side by side, the phases in order."""

    phases: deque[list[Step]] = field(default_factory=deque)
    running: int = 0


def plan_tables(entries: Iterable[Entry]) -> list[TablePlan]:
    """One plan for each entry of table data, in the order of the archive.

    Constraints come first, together, as each locks the table alone; then the indexes, GIN first, as
    they take longest. An index that is also made the one of CLUSTER or REPLICA IDENTITY comes last
    and alone: that locks the table, and would wait for the other indexes while they wait for it.
    """
    plans: list[TablePlan] = []
    of_table: dict[int, list[Entry]] = defaultdict(list)
    tables: list[int] = []
    for entry in entries:
        if entry.kind == "TABLE DATA":
            tables.append(entry.dependencies[0] if entry.dependencies else 0)
        elif entry.kind in ("INDEX", "CONSTRAINT") and entry.dependencies:
            of_table[entry.dependencies[0]].append(entry)
    for table in tables:
        entries_of_table = of_table.get(table, [])
        constraints = [e.dump_id for e in entries_of_table if e.kind == "CONSTRAINT"]
        indexes = [e for e in entries_of_table if e.kind == "INDEX"]
        plain = sorted((e for e in indexes if not e.alters_table), key=lambda e: not e.is_gin)
        phases: list[list[Step]] = [
            [tuple(constraints)] if constraints else [],
            [(entry.dump_id,) for entry in plain],
        ]
        phases += [[(entry.dump_id,)] for entry in indexes if entry.alters_table]
        plans.append(TablePlan(deque(phase for phase in phases if phase)))
    return plans


class IndexBuilders:
    """Threads that run one pg_restore each: one fewer than ``jobs`` while data is being loaded.

    ``command`` gives the command that builds a step. ``fed`` tells how many bytes of the archive
    were written to the loading pg_restore; between two tables that is the size of the first, but
    for what a pipe holds. Leaving the ``with`` block ends every program.
    """

    def __init__(
        self,
        plans: Iterable[TablePlan],
        command: Callable[[Step], Command],
        fed: Callable[[], int],
        *,
        jobs: int,
    ) -> None:
        self._plans = iter(plans)
        self._command = command
        self._fed = fed
        self._fed_before = 0
        self._loading: TablePlan | None = None
        self._jobs = jobs
        self._allowed = jobs - 1
        self._changed = threading.Condition()
        self._ready: deque[tuple[TablePlan, Step]] = deque()
        self._running: set[Child] = set()
        self._busy = 0
        self._stopped = False
        self._errors: list[RestoreError] = []
        self._failure: Exception | None = None
        self.built: set[int] = set()
        """Entries that the rest need not build any more."""
        self._threads = [
            threading.Thread(target=self._work, name=f"pgclone index {number}", daemon=True)
            for number in range(jobs)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            running = list(self._running)
            self._changed.notify_all()
        for child in running:
            child.terminate()
        for thread in self._threads:
            thread.join()

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    def take(self, line: str) -> None:
        """Takes what the loading pg_restore says; begins with a table when the next one comes."""
        if line.startswith(PROCESSING_DATA):
            self._end_table()
            self._loading = next(self._plans, None)

    def data_is_loaded(self) -> None:
        """The last table is loaded too, and nothing else needs a session any more."""
        self._end_table()
        with self._changed:
            self._allowed = self._jobs
            self._changed.notify_all()

    def _end_table(self) -> None:
        fed = self._fed()
        if self._loading is not None and fed - self._fed_before >= LARGE_TABLE:
            with self._changed:
                self._begin_phase(self._loading)
                self._changed.notify_all()
        self._loading, self._fed_before = None, fed

    def finish(self) -> list[RestoreError]:
        """Waits until all is built; returns what has failed and can be judged."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure is not None or not (self._ready or self._busy)
            )
        if self._failure is not None:
            raise self._failure
        return self._errors

    def _begin_phase(self, plan: TablePlan) -> None:
        if plan.phases:
            steps = plan.phases.popleft()
            plan.running = len(steps)
            self._ready.extend((plan, step) for step in steps)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or (self._ready and self._busy < self._allowed)
                )
                if self._stopped:
                    return
                plan, step = self._ready.popleft()
                self._busy += 1
            try:
                self._build(step)
            except Exception as error:  # noqa: BLE001 - told to the thread that waits
                self._failure = self._failure or error
            with self._changed:
                self._busy -= 1
                plan.running -= 1
                if not plan.running:
                    self._begin_phase(plan)
                self._changed.notify_all()

    def _build(self, step: Step) -> None:
        collector = ErrorCollector(retryable=True)
        with Child(self._command(step), on_line=collector.take) as child:
            with self._changed:
                if self._stopped:
                    return
                self._running.add(child)
            try:
                status = child.wait()
            finally:
                with self._changed:
                    self._running.discard(child)
        collector.finish(child, status)
        with self._changed:
            self._errors += collector.errors
            self.built.update(step)
