"""What is to be built for the tables of an archive, in steps for one program each."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .archive import Entry
from .names import TableName


@dataclass(frozen=True)
class Step:
    """Entries that one pg_restore builds, one after the other.

    No two steps with a table in common run at the same time; indexes, which share their table,
    name none.
    """

    entries: tuple[int, ...]
    tables: frozenset[int] = frozenset()
    is_gin: bool = field(default=False, compare=False)


@dataclass
class TablePlan:
    """What is to be built for one table: the steps of a phase side by side, the phases in order."""

    phases: deque[list[Step]] = field(default_factory=deque)
    table: TableName | None = None
    """The table to analyze when all is built, if it can be then."""
    size: int = 0
    """Bytes of the table's rows in the archive; 0 unless it is a large one."""
    running: int = 0

    @property
    def entries(self) -> list[int]:
        return [entry for phase in self.phases for step in phase for entry in step.entries]

    def leads_to_gin(self, step: Step) -> bool:
        """Whether ``step`` builds a GIN index, or such an index waits for it."""
        return step.is_gin or any(later.is_gin for phase in self.phases for later in phase)


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
        [Step((entry.dump_id,), is_gin=entry.is_gin) for entry in plain],
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
