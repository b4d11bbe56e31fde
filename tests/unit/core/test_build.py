"""What is built for each table, in which order, and never at the same time as what."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.archive import Entry
from pgclone_admin.core.build import LARGE_TABLE, PROCESSING_DATA, IndexBuilders
from pgclone_admin.core.errors import KilledBySignal, ProgramMissing, RestoreFailed
from pgclone_admin.core.programs import Command
from pgclone_admin.core.steps import Step, TablePlan, batched, plan_foreign_keys, plan_tables
from tests.support.fake_programs import (
    exit_with,
    kill_self,
    sleep,
    stderr,
    touch,
    wait_for,
    write_program,
)
from tests.unit import PROPERTY
from tests.unit.helpers import wait_for_file

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def entry(dump_id: int, kind: str, *needs: int, **changes: Any) -> Entry:
    fields: dict[str, Any] = {"schema": "public", "name": f"e{dump_id}"}
    fields |= {"alters_table": False, "is_gin": False}
    return Entry(dump_id=dump_id, kind=kind, dependencies=needs, **{**fields, **changes})


def phases(plan: TablePlan) -> list[list[tuple[int, ...]]]:
    return [[step.entries for step in phase] for phase in plan.phases]


# -- plans ----------------------------------------------------------------------------------------


def test_constraints_come_first_together_then_the_indexes_side_by_side_gin_first() -> None:
    with_data, others = plan_tables(
        [
            entry(1, "TABLE"),
            entry(2, "TABLE DATA", 1),
            entry(3, "INDEX", 1),
            entry(4, "CONSTRAINT", 1),
            entry(5, "INDEX", 1, is_gin=True),
            entry(6, "CONSTRAINT", 1),
            entry(7, "INDEX", 1, 4),
        ]
    )
    assert [phases(plan) for plan in with_data] == [[[(4, 6)], [(5,), (3,), (7,)]]]
    assert others == []


def test_an_index_that_locks_the_table_comes_last_and_alone() -> None:
    (plan,), _others = plan_tables(
        [
            entry(2, "TABLE DATA", 1),
            entry(3, "INDEX", 1, alters_table=True),
            entry(4, "INDEX", 1),
            entry(5, "INDEX", 1, alters_table=True),
        ]
    )
    assert phases(plan) == [[(4,)], [(3,)], [(5,)]]
    assert plan.entries == [4, 3, 5]


def test_plans_are_in_the_order_of_the_data_and_those_without_data_are_apart() -> None:
    with_data, others = plan_tables(
        [
            entry(11, "TABLE DATA", 10),
            entry(21, "TABLE DATA", 20),
            entry(31, "TABLE DATA", 30),
            entry(42, "INDEX", 40),
            entry(32, "INDEX", 30),
            entry(12, "CONSTRAINT", 10),
            entry(99, "FK CONSTRAINT", 12, 32),
        ]
    )
    assert [plan.entries for plan in with_data] == [[12], [], [32]]
    assert [plan.entries for plan in others] == [[42]]


def test_a_foreign_key_locks_its_own_table_and_the_one_it_names() -> None:
    steps = plan_foreign_keys(
        [
            entry(1, "TABLE"),
            entry(2, "TABLE"),
            entry(3, "CONSTRAINT", 1),
            # What it needs are its table, the table it names and the key it refers to.
            entry(4, "FK CONSTRAINT", 2, 3, 1),
            entry(5, "FK CONSTRAINT", 2, 3),
            entry(6, "FK CONSTRAINT", 1, 3, 77),
        ]
    )
    assert steps == [
        Step((4,), frozenset({1, 2})),
        Step((5,), frozenset({1, 2})),
        Step((6,), frozenset({1})),
    ]


steps_lists = st.lists(
    st.builds(
        Step,
        st.lists(st.integers(1, 999), min_size=1, max_size=3).map(tuple),
        st.frozensets(st.integers(1, 5), max_size=3),
    ),
    max_size=40,
)


@PROPERTY
@given(steps=steps_lists, largest=st.integers(0, 20), count=st.integers(1, 8))
def test_batches_hold_every_entry_in_order_and_lock_every_table(
    steps: list[Step], largest: int, count: int
) -> None:
    batches = batched(iter(steps), largest, count)
    assert [e for batch in batches for e in batch.entries] == [e for s in steps for e in s.entries]
    assert frozenset().union(*(batch.tables for batch in batches)) == frozenset().union(
        *(step.tables for step in steps)
    )
    if len(steps) <= largest:
        assert batches == steps
    else:
        assert len(batches) <= count


# -- building -------------------------------------------------------------------------------------


class Programs:
    """Stands in for pg_restore: writes down what was begun, and waits until it may end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fed = 0
        self.steps: dict[tuple[int, ...], Path] = {}

    def does(self, *entries: int, steps: tuple[dict[str, Any], ...]) -> None:
        """What the program for these entries does, other than to succeed at once."""
        name = "-".join(map(str, entries))
        self.steps[entries] = write_program(self.folder / name, "pg_restore", *steps)

    def begun(self, *entries: int) -> Path:
        return self.folder / f"{'-'.join(map(str, entries))}.begun"

    def begins(self, *entries: int) -> bool:
        """Whether the program for these entries begins soon: starting one takes less."""
        time.sleep(0.2)
        return self.begun(*entries).exists()

    def waits(self, *entries: int) -> Callable[[], None]:
        """The program for these entries waits for the function that is returned."""
        go_on = self.folder / f"{'-'.join(map(str, entries))}.go"
        self.does(*entries, steps=(touch(self.begun(*entries)), wait_for(go_on)))
        return go_on.touch

    def command(self, step: Step) -> Command:
        program = self.steps.get(step.entries)
        return Command((str(program) if program else "/bin/true",))


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@contextlib.contextmanager
def builders(programs: Programs, *, jobs: int = 3) -> Iterator[IndexBuilders]:
    with IndexBuilders(programs.command, lambda: programs.fed, jobs=jobs) as running:
        yield running


def plan(*phases_of_entries: list[int]) -> TablePlan:
    made = TablePlan()
    made.phases.extend([Step((e,)) for e in phase] for phase in phases_of_entries)
    return made


def load_table(programs: Programs, running: IndexBuilders, size: int = LARGE_TABLE) -> None:
    running.take(PROCESSING_DATA + '"public.any"')
    programs.fed += size


def test_the_indexes_of_a_large_table_are_built_when_the_next_table_begins(
    programs: Programs,
) -> None:
    go_on = programs.waits(4)
    with builders(programs) as running:
        running.begin([plan([4]), plan([5])], [])
        load_table(programs, running)
        assert not programs.begins(4)
        load_table(programs, running, size=10)
        wait_for_file(programs.begun(4))
        assert running.built == set()
        go_on()
        running.data_is_loaded()
        assert running.finish() == []
        assert running.built == {4, 5}


def test_nothing_is_built_before_the_end_where_rows_go_from_one_table_to_another(
    programs: Programs,
) -> None:
    programs.does(4, steps=(touch(programs.begun(4)),))
    with IndexBuilders(programs.command, lambda: programs.fed, jobs=3, early=False) as running:
        running.begin([plan([4]), plan([5])], [])
        running.table_is_loaded(LARGE_TABLE)
        assert not programs.begins(4)
        running.table_is_loaded(LARGE_TABLE)
        running.data_is_loaded()
        assert running.finish() == []
        assert running.built == {4, 5}


def test_those_of_small_tables_wait_for_the_end_and_share_a_program(programs: Programs) -> None:
    programs.does(1, steps=(kill_self("KILL"),))
    with builders(programs, jobs=1) as running:
        running.begin([plan([1], [2]), plan([3])], [plan([4])])
        load_table(programs, running, size=LARGE_TABLE - 1)
        load_table(programs, running, size=1)
        running.data_is_loaded()
        # Had entry 1 been built alone, it would have failed.
        assert running.finish() == []
        assert running.built == {1, 2, 3, 4}


def test_a_phase_begins_when_the_one_before_it_has_ended(programs: Programs) -> None:
    first, second = programs.waits(1), programs.waits(2)
    third = programs.waits(3)
    with builders(programs) as running:
        running.begin([plan([1, 2], [3])], [])
        load_table(programs, running)
        running.data_is_loaded()
        wait_for_file(programs.begun(1))
        wait_for_file(programs.begun(2))
        first()
        assert not programs.begins(3)
        second()
        wait_for_file(programs.begun(3))
        third()
        assert running.finish() == []
        assert running.built == {1, 2, 3}


def test_steps_that_lock_one_table_do_not_run_together(programs: Programs) -> None:
    go_on = programs.waits(1)
    programs.does(2, steps=(touch(programs.begun(2)),))
    programs.does(3, steps=(touch(programs.begun(3)),))
    with builders(programs) as running:
        running.data_is_loaded()
        running.add(
            [
                Step((1,), frozenset({10, 11})),
                Step((2,), frozenset({11, 12})),
                Step((3,), frozenset({13})),
            ]
        )
        wait_for_file(programs.begun(1))
        wait_for_file(programs.begun(3))
        assert not programs.begins(2)
        go_on()
        assert running.finish() == []
        assert programs.begun(2).exists()


def test_while_data_is_loaded_one_session_is_left_to_it(programs: Programs) -> None:
    go_on = [programs.waits(number) for number in (1, 2)]
    with builders(programs, jobs=2) as running:
        running.begin([plan([1, 2]), plan([])], [])
        load_table(programs, running)
        load_table(programs, running)
        wait_for_file(programs.begun(1))
        assert not programs.begins(2)
        running.data_is_loaded()
        wait_for_file(programs.begun(2))
        for go in go_on:
            go()
        assert running.finish() == []


def test_what_takes_longest_is_begun_first(programs: Programs) -> None:
    go_on = {number: programs.waits(number) for number in (1, 2, 3, 4)}
    large, gin, small = plan([1]), plan([2], [3]), plan([4])
    gin.phases[1] = [Step((3,), is_gin=True)]
    with builders(programs, jobs=2) as running:
        running.begin([small, large, gin], [])
        running.give_way = lambda: True
        running.table_is_loaded(LARGE_TABLE)
        running.table_is_loaded(LARGE_TABLE * 3)
        running.table_is_loaded(LARGE_TABLE)
        running.give_way = lambda: False
        running.add([])
        # A B-tree of a table three times as large, against a GIN index that 2 leads to.
        wait_for_file(programs.begun(2))
        go_on[2]()
        wait_for_file(programs.begun(3))
        assert not programs.begins(1)
        go_on[3]()
        wait_for_file(programs.begun(1))
        assert not programs.begins(4)
        for go in go_on.values():
            go()
        running.data_is_loaded()
        assert running.finish() == []


def test_a_session_is_lent_only_while_it_has_nothing_to_build(programs: Programs) -> None:
    go_on = programs.waits(1)
    with builders(programs, jobs=2) as running:
        running.begin([plan([1])], [])
        with running.changed:
            assert running.lend()
            assert not running.lend()
        running.table_is_loaded(LARGE_TABLE)
        assert not programs.begins(1)
        with running.changed:
            running.take_back()
        wait_for_file(programs.begun(1))
        with running.changed:
            assert not running.lend()
        go_on()
        running.data_is_loaded()
        assert running.finish() == []


def test_indexes_give_way_to_rows_but_not_the_gin_index_of_a_large_table(
    programs: Programs,
) -> None:
    go_on = [programs.waits(number) for number in (1, 2, 3)]
    first, second = plan(), plan([3])
    first.phases.append([Step((1,), is_gin=True), Step((2,))])
    second.phases[0] = [Step((3,), is_gin=True)]
    with builders(programs, jobs=4) as running:
        running.begin([first, second], [])
        running.give_way = lambda: True
        running.table_is_loaded(2 * LARGE_TABLE)
        wait_for_file(programs.begun(1))
        assert not programs.begins(2)
        # Less than half of all rows: nobody will have to wait for its index in the end.
        running.table_is_loaded(LARGE_TABLE)
        assert not programs.begins(3)
        assert not running.is_urgent
        running.give_way = lambda: False
        running.data_is_loaded()
        for go in go_on:
            go()
        assert running.finish() == []
        assert running.built == {1, 2, 3}


def test_no_session_is_lent_while_an_urgent_index_waits_for_one(programs: Programs) -> None:
    go_on = programs.waits(1)
    gin = plan()
    gin.phases.append([Step((1,), is_gin=True)])
    with builders(programs, jobs=2) as running:
        running.begin([gin], [])
        with running.changed:
            assert running.lend()
        running.table_is_loaded(LARGE_TABLE)
        assert running.is_urgent
        with running.changed:
            running.take_back()
            assert not running.lend()
        wait_for_file(programs.begun(1))
        assert not running.is_urgent
        go_on()
        running.data_is_loaded()
        assert running.finish() == []


def test_errors_that_can_be_judged_are_handed_over_once(programs: Programs) -> None:
    said = (
        "pg_restore: from TOC entry 1; 1259 16400 INDEX public a_idx app\n"
        "pg_restore: error: could not execute query: ERROR:  deadlock detected\n"
        "Command was: CREATE INDEX a_idx ON public.a USING btree (id);\n\n"
        "pg_restore: warning: errors ignored on restore: 1\n"
    )
    programs.does(1, steps=(stderr(said), exit_with(1)))
    with builders(programs) as running:
        running.data_is_loaded()
        running.add([Step((1,))])
        (error,) = running.finish()
        assert error.retryable
        assert error.message == "ERROR:  deadlock detected"
        assert not running.has_failed
        assert running.finish() == []


@pytest.mark.parametrize(
    ("step", "kind"), [(exit_with(1), RestoreFailed), (kill_self("KILL"), KilledBySignal)]
)
def test_f28_a_program_that_fails_fails_the_restore(
    programs: Programs, step: dict[str, Any], kind: type[Exception]
) -> None:
    programs.does(1, steps=(step,))
    with builders(programs) as running:
        running.data_is_loaded()
        running.add([Step((1,)), Step((2,))])
        with pytest.raises(kind):
            running.finish()
        assert running.has_failed
        assert 1 not in running.built


def test_f28_a_failure_is_told_while_others_still_run(programs: Programs) -> None:
    programs.does(1, steps=(touch(programs.begun(1)), sleep()))
    programs.does(2, steps=(wait_for(programs.begun(1)), exit_with(1)))
    with builders(programs) as running:
        running.data_is_loaded()
        running.add([Step((1,)), Step((2,))])
        with pytest.raises(RestoreFailed):
            running.finish()


def test_leaving_ends_every_program_and_thread(programs: Programs) -> None:
    programs.does(1, steps=(touch(programs.begun(1)), sleep()))
    before = threading.active_count()

    def fail() -> None:
        with builders(programs) as running:
            running.begin([plan([1])], [])
            load_table(programs, running)
            running.data_is_loaded()
            wait_for_file(programs.begun(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert threading.active_count() == before


def test_a_program_that_cannot_be_started_fails_the_restore(programs: Programs) -> None:
    programs.steps[(1,)] = programs.folder / "not there"
    with builders(programs) as running:
        running.data_is_loaded()
        running.add([Step((1,))])
        with pytest.raises(ProgramMissing, match="not there cannot be started"):
            running.finish()
