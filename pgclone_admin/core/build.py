"""Builds the constraints and indexes of large tables while later tables are still being loaded."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .archive import Entry
from .judge import ErrorCollector, RestoreError
from .names import TableName
from .process import Child
from .programs import Command

LARGE_TABLE = 4 * 1024 * 1024
"""Bytes of rows in the archive from which a table's indexes are worth a pg_restore each. Those of
smaller ones are built with the rest: starting a program takes longer than building them."""

PROCESSING_DATA = "pg_restore: processing data for table "
"""What pg_restore says before the rows of each table. The n-th such line is the n-th data entry;
the name in it is not read, as it is not quoted."""


@dataclass(frozen=True)
class Step:
    """Entries that one pg_restore builds, one after the other.

    No two steps with a table in common run at the same time; indexes, which share their table,
    name none.
    """

    entries: tuple[int, ...]
    tables: frozenset[int] = frozenset()


@dataclass
class TablePlan:
    """What is to be built for one table: the steps of a phase side by side, the phases in order."""

    phases: deque[list[Step]] = field(default_factory=deque)
    table: TableName | None = None
    """The table to analyze when all is built, if it can be then."""
    running: int = 0

    @property
    def entries(self) -> list[int]:
        return [entry for phase in self.phases for step in phase for entry in step.entries]


def plan_tables(entries: Iterable[Entry]) -> tuple[list[TablePlan], list[TablePlan]]:
    """A plan for each entry of table data, in the order of the archive, and one for each table or
    materialized view without such an entry.

    Constraints come first, together, as each locks the table alone; then the indexes, GIN first, as
    they take longest. An index that is also made the one of CLUSTER or REPLICA IDENTITY comes last
    and alone: that locks the table, and would wait for the other indexes while they wait for it.
    """
    of_table: dict[int, list[Entry]] = defaultdict(list)
    with_data: list[tuple[int, TableName]] = []
    later: set[int] = set()
    for entry in entries:
        table = entry.dependencies[0] if entry.dependencies else 0
        if entry.kind == "TABLE DATA":
            with_data.append((table, TableName(entry.schema or "public", entry.name)))
        elif entry.kind in ("INDEX", "CONSTRAINT") and entry.dependencies:
            of_table[table].append(entry)
        elif entry.kind == "STATISTICS":
            # They are made later, and filled by an ANALYZE after that.
            later.update(entry.dependencies)
    plans = [
        _plan_table(of_table.pop(table, []), None if table in later else name)
        for table, name in with_data
    ]
    return plans, [_plan_table(entries_of_table) for entries_of_table in of_table.values()]


def _plan_table(entries: list[Entry], table: TableName | None = None) -> TablePlan:
    constraints = tuple(e.dump_id for e in entries if e.kind == "CONSTRAINT")
    indexes = [e for e in entries if e.kind == "INDEX"]
    plain = sorted((e for e in indexes if not e.alters_table), key=lambda e: not e.is_gin)
    phases = [
        [Step(constraints)] if constraints else [],
        [Step((entry.dump_id,)) for entry in plain],
    ]
    phases += [[Step((entry.dump_id,))] for entry in indexes if entry.alters_table]
    return TablePlan(deque(phase for phase in phases if phase), table)


def plan_foreign_keys(entries: Iterable[Entry]) -> list[Step]:
    """One step for each foreign key; each locks the table that has it and the one it names."""
    tables: set[int] = set()
    table_of: dict[int, int] = {}
    foreign_keys: list[Entry] = []
    for entry in entries:
        if entry.kind == "TABLE":
            tables.add(entry.dump_id)
        elif entry.kind == "CONSTRAINT" and entry.dependencies:
            table_of[entry.dump_id] = entry.dependencies[0]
        elif entry.kind == "FK CONSTRAINT":
            foreign_keys.append(entry)
    return [
        Step(
            (entry.dump_id,),
            frozenset(tables & {table_of.get(needed, needed) for needed in entry.dependencies}),
        )
        for entry in foreign_keys
    ]


def batched(steps: Iterable[Step], largest: int, count: int) -> list[Step]:
    """``steps`` as they are when they are few, else in ``count`` batches of about the same length.

    Each pg_restore reads the whole table of contents before it begins.
    """
    listed = list(steps)
    if len(listed) <= largest:
        return listed
    size = -(-len(listed) // count)
    return [
        Step(
            tuple(entry for step in listed[start : start + size] for entry in step.entries),
            frozenset().union(*(step.tables for step in listed[start : start + size])),
        )
        for start in range(0, len(listed), size)
    ]


class IndexBuilders:
    """Threads that run one pg_restore each: one fewer than ``jobs`` while data is being loaded.

    ``command`` gives the command that builds a step. ``fed`` tells how many bytes of the archive
    were written to the loading pg_restore; between two tables that is the size of the first, but
    for what a pipe holds. ``analyze`` is called for a table whose indexes are built, while others
    are being built. Leaving the ``with`` block ends every program.
    """

    def __init__(
        self,
        command: Callable[[Step], Command],
        fed: Callable[[], int],
        *,
        jobs: int,
        analyze: Callable[[TableName], None] = lambda _table: None,
    ) -> None:
        self._command = command
        self._fed = fed
        self._analyze = analyze
        self._fed_before = 0
        self._plans: Iterator[TablePlan] = iter(())
        self._small: list[TablePlan] = []
        self._loading: TablePlan | None = None
        self._jobs = jobs
        self._allowed = jobs - 1
        self._changed = threading.Condition()
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
        with self._changed:
            self._begin_phase(TablePlan(deque([list(steps)])))
            self._changed.notify_all()

    def _end_table(self) -> None:
        fed = self._fed()
        if self._loading is not None:
            if fed - self._fed_before >= LARGE_TABLE:
                with self._changed:
                    self._begin_phase(self._loading)
                    self._changed.notify_all()
            else:
                self._small.append(self._loading)
        self._loading, self._fed_before = None, fed

    def finish(self) -> list[RestoreError]:
        """Waits until all is built; returns what has failed and can be judged."""
        with self._changed:
            self._changed.wait_for(
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
        """Takes the first step that may run now."""
        if len(self._busy) >= self._allowed:
            return None
        for ready in self._ready:
            if all(ready[1].tables.isdisjoint(step.tables) for step in self._busy):
                self._ready.remove(ready)
                self._busy.append(ready[1])
                return ready
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                taken = None
                while not self._stopped and (taken := self._next()) is None:
                    self._changed.wait()
                if taken is None:
                    return
            plan, step = taken
            try:
                self._build(step)
                if plan.table is not None and plan.running == 1 and not plan.phases:
                    self._analyze(plan.table)
            except Exception as error:  # noqa: BLE001 - told to the thread that waits
                self._failure = self._failure or error
            with self._changed:
                self._busy.remove(step)
                plan.running -= 1
                if not plan.running:
                    self._begin_phase(plan)
                self._changed.notify_all()

    def _build(self, step: Step) -> None:
        command = self._command(step)
        collector = ErrorCollector(command.secrets, retryable=True)
        with Child(command, on_line=collector.take) as child:
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
            self.built.update(step.entries)
