"""Builds the constraints and indexes of large tables while later tables are still being loaded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from .judge import ErrorCollector, RestoreError
from .names import TableName
from .process import Child
from .programs import Command
from .steps import Step, TablePlan, batched

LARGE_TABLE = 4 * 1024 * 1024
"""Bytes of rows in the archive from which a table's indexes are worth a pg_restore each. Those of
smaller ones are built with the rest: starting a program takes longer than building them."""

GIN_FACTOR = 4
"""How much longer a GIN index takes than a B-tree; on jsonb it is more, on few words less."""

PROCESSING_DATA = "pg_restore: processing data for table "
"""What pg_restore says before the rows of each table. The n-th such line is the n-th data entry;
the name in it is not read, as it is not quoted."""


class IndexBuilders:
    """Threads that run one pg_restore each: one fewer than ``jobs`` while data is being loaded.

    ``command`` gives the command that builds a step. ``fed`` tells how many bytes of the archive
    were written to the loading pg_restore; between two tables that is the size of the first, but
    for what a pipe holds. ``analyze`` is called for a table whose indexes are built, while others
    are being built; ``break_off`` ends that. Unless ``early``, nothing is built before all rows are
    there. Leaving the ``with`` block ends every program.

    What takes longest is begun first. Who loads rows with more than one session is lent the others,
    and what can as well be built later gives way to that.
    """

    def __init__(
        self,
        command: Callable[[Step], Command],
        fed: Callable[[], int],
        *,
        jobs: int,
        analyze: Callable[[TableName], None] = lambda _table: None,
        break_off: Callable[[], None] = lambda: None,
        early: bool = True,
    ) -> None:
        self._command = command
        self._fed = fed
        self._analyze = analyze
        self._break_off = break_off
        self._early = early
        self._fed_before = 0
        self._plans: Iterator[TablePlan] = iter(())
        self._small: list[TablePlan] = []
        self._loading: TablePlan | None = None
        self._jobs = jobs
        self._allowed = jobs - 1
        self.changed = threading.Condition()
        """Held while anything of this is looked at or changed, and by who calls :meth:`lend`."""
        self.give_way: Callable[[], bool] = lambda: False
        """Whether somebody waits for a session to load rows with."""
        self._lent = 0
        self._loaded = 0
        self._ready: deque[tuple[TablePlan, Step]] = deque()
        self._running: set[Child] = set()
        self._busy: list[Step] = []
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
        with self.changed:
            self._stopped = True
            running = list(self._running)
            self.changed.notify_all()
        self._break_off()
        for child in running:
            child.terminate()
        for thread in self._threads:
            thread.join()

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    def begin(self, plans: Iterable[TablePlan], others: Iterable[TablePlan]) -> None:
        """``plans`` are those of the tables that are going to be loaded, in their order."""
        self._plans = iter(plans)
        self._small = list(others)

    def take(self, line: str) -> None:
        """Takes what the loading pg_restore says; begins with a table when the next one comes."""
        if line.startswith(PROCESSING_DATA):
            self._end_table()
            self._loading = next(self._plans, None)

    def data_is_loaded(self) -> None:
        """The last table is loaded too: the small tables' turn, with a session more."""
        self._end_table()
        self._small += self._plans
        by_table = (Step(tuple(plan.entries)) for plan in self._small if plan.entries)
        self._allowed = self._jobs
        self.add(batched(by_table, self._jobs, self._jobs))

    def add(self, steps: Iterable[Step]) -> None:
        """Steps that wait for nothing but the tables they lock."""
        with self.changed:
            self._begin_phase(TablePlan(deque([list(steps)])))
            self.changed.notify_all()

    def table_is_loaded(self, size: int) -> None:
        """The next table of the plans has got its rows, of so many bytes."""
        self._table_is_loaded(next(self._plans), size)

    def _end_table(self) -> None:
        fed = self._fed()
        if self._loading is not None:
            self._table_is_loaded(self._loading, fed - self._fed_before)
        self._loading, self._fed_before = None, fed

    def _table_is_loaded(self, plan: TablePlan, size: int) -> None:
        self._loaded += size
        if size < LARGE_TABLE or not self._early:
            self._small.append(plan)
            return
        plan.size = size
        with self.changed:
            self._begin_phase(plan)
            self.changed.notify_all()

    def lend(self) -> bool:
        """Takes away one session, if one has nothing to build now."""
        if self.is_urgent or len(self._busy) + self._lent >= self._allowed:
            return False
        self._lent += 1
        return True

    def take_back(self) -> None:
        self._lent -= 1
        self.changed.notify_all()

    @property
    def is_urgent(self) -> bool:
        """Whether something waits that all else would have to wait for in the end."""
        return any(self._is_urgent(*ready) for ready in self._ready)

    def _is_urgent(self, plan: TablePlan, step: Step) -> bool:
        """A large GIN index takes longer than loading its table, and only one process builds it."""
        return plan.leads_to_gin(step) and plan.size * 2 >= self._loaded > 0

    def finish(self) -> list[RestoreError]:
        """Waits until all is built; returns what has failed and can be judged."""
        with self.changed:
            self.changed.wait_for(
                lambda: self._failure is not None or not (self._ready or self._busy)
            )
        if self._failure is not None:
            raise self._failure
        errors, self._errors = self._errors, []
        return errors

    def _begin_phase(self, plan: TablePlan) -> None:
        if plan.phases:
            steps = plan.phases.popleft()
            plan.running = len(steps)
            self._ready.extend((plan, step) for step in steps)

    def _next(self) -> tuple[TablePlan, Step] | None:
        """Takes the longest step that may run now; of equal ones the first."""
        if len(self._busy) + self._lent >= self._allowed:
            return None
        gives_way = self.give_way()
        possible = (
            (plan, step)
            for plan, step in self._ready
            if all(step.tables.isdisjoint(other.tables) for other in self._busy)
            and (not gives_way or self._is_urgent(plan, step))
        )
        longest = max(possible, key=_length, default=None)
        if longest is not None:
            self._ready.remove(longest)
            self._busy.append(longest[1])
        return longest

    def _work(self) -> None:
        while True:
            with self.changed:
                taken = None
                while not self._stopped and (taken := self._next()) is None:
                    self.changed.wait()
                if taken is None:
                    return
            plan, step = taken
            try:
                self._build(step)
                if plan.table is not None and plan.running == 1 and not plan.phases:
                    self._analyze(plan.table)
            except Exception as error:  # noqa: BLE001 - told to the thread that waits
                self._failure = self._failure or error
            with self.changed:
                self._busy.remove(step)
                plan.running -= 1
                if not plan.running:
                    self._begin_phase(plan)
                self.changed.notify_all()

    def _build(self, step: Step) -> None:
        command = self._command(step)
        collector = ErrorCollector(command.secrets, retryable=True)
        with Child(command, on_line=collector.take) as child:
            with self.changed:
                if self._stopped:
                    return
                self._running.add(child)
            try:
                status = child.wait()
            finally:
                with self.changed:
                    self._running.discard(child)
        collector.finish(child, status)
        with self.changed:
            self._errors += collector.errors
            self.built.update(step.entries)


def _length(ready: tuple[TablePlan, Step]) -> int:
    """About how long a step keeps others waiting, in no unit."""
    plan, step = ready
    return plan.size * (GIN_FACTOR if plan.leads_to_gin(step) else 1)
