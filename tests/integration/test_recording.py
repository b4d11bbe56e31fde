"""What a run tells, and how it is written down."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connections
from django.test import override_settings

from pgclone_admin import recording
from pgclone_admin.core.errors import Cancelled, Conflict, TimedOut
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Dump, Kind, RestoreRun, RunEvent, Status
from pgclone_admin.recording import RunReporter
from pgclone_admin.services import run_control
from pgclone_admin.services.actors import Actor
from tests.support import CANARY, S3_CANARY

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("office")]

ADA = Actor.system("ada")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(recording, "INTERVAL", 0.05)


def make_dump():
    return Dump.objects.create(location="dumps/", database="default", status=Status.RUNNING)


def make_run(**fields):
    return RestoreRun.objects.create(
        **{"database": "default", "target": "x", "status": Status.RUNNING, **fields}
    )


def eventually(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def fresh(run):
    return type(run).objects.get(pk=run.pk)


def texts(run, level=RunEvent.Level.NOTE):
    return list(run.events.filter(level=level).values_list("text", flat=True))


def test_what_is_told_stands_in_the_row_while_the_run_works():
    dump, also = make_dump(), SilentReporter()
    with RunReporter(dump, also) as reporter:
        reporter.phase("dumping", total=1000)
        reporter.advance(300)
        reporter.advance(100)
        reporter.note("a note")
        reporter.warn("a warning")
        eventually(lambda: fresh(dump).bytes_done == 400)
        row = fresh(dump)
        assert (row.phase, row.bytes_total) == ("dumping", 1000)
        assert row.heard_at is not None
        eventually(lambda: texts(dump) == ["a note"])
        assert texts(dump, "warning") == ["a warning"]
        reporter.phase("finishing")
        eventually(lambda: fresh(dump).phase == "finishing")
        assert (fresh(dump).bytes_done, fresh(dump).bytes_total) == (0, None)
    reporter.finish(Status.SUCCEEDED, size=5)
    assert (fresh(dump).status, fresh(dump).size) == (Status.SUCCEEDED, 5)
    assert (also.phases, also.notes, also.warnings) == (
        ["dumping", "finishing"],
        ["a note"],
        ["a warning"],
    )


def test_a_run_is_heard_of_also_when_it_has_nothing_to_tell():
    dump = make_dump()
    with RunReporter(dump):
        eventually(lambda: fresh(dump).heard_at is not None)
        before = fresh(dump).heard_at
        eventually(lambda: fresh(dump).heard_at > before)


def test_f49_cancelling_is_noticed_at_the_next_look():
    dump = make_dump()
    with RunReporter(dump) as reporter:
        reporter.check()
        run_control.cancel(ADA, dump)
        eventually(lambda: reporter.reason_to_end() is not None)
        with pytest.raises(Cancelled):
            reporter.check()


def test_f49_either_the_swap_or_the_cancelling_is_first():
    for number in range(20):
        run = make_run(target=f"target {number}")
        refused = []

        def cancel(run=run, refused=refused):
            try:
                run_control.cancel(ADA, fresh(run))
            except Conflict as error:
                refused.append(error)
            finally:
                connections.close_all()

        with RunReporter(run) as reporter:
            thread = threading.Thread(target=cancel)
            thread.start()
            time.sleep(number * 0.002)
            reporter.phase("swapping")
            try:
                reporter.check()
                swaps = True
            except Cancelled:
                swaps = False
            thread.join()
        assert swaps is bool(refused), number
        assert (fresh(run).phase == "swapping") is swaps


def test_f34_nothing_is_written_and_nobody_is_connected_during_the_swap(office):
    run = make_run()
    with RunReporter(run) as reporter:
        reporter.phase("hooks")
        eventually(lambda: fresh(run).phase == "hooks")
        reporter.phase("swapping")
        connections.close_all()
        eventually(lambda: office.server.sessions(office.name) == 0)
        reporter.note("said during the swap")
        for _look in range(10):
            time.sleep(0.05)
            assert office.server.sessions(office.name) == 0
        assert fresh(run).phase == "swapping"
        assert texts(run) == []
        reporter.phase("cleaning up")
        eventually(lambda: texts(run) == ["said during the swap"])
        assert fresh(run).phase == "cleaning up"


def test_who_copies_is_not_disturbed_until_the_copy_is_piped(office):
    run = make_run(kind=Kind.COPY, phase="copying")
    connections.close_all()
    with RunReporter(run) as reporter:
        for phase in ("checking", "copying"):
            reporter.phase(phase)
            for _look in range(5):
                time.sleep(0.05)
                assert office.server.sessions(office.name) == 0
        reporter.phase("copying", total=100)
        reporter.advance(40)
        eventually(lambda: fresh(run).bytes_done == 40)


def test_sessions_that_are_ended_lose_nothing(office):
    dump = make_dump()
    with RunReporter(dump) as reporter:
        for number in range(20):
            reporter.note(str(number))
            office.server.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (office.name,),
            )
            time.sleep(0.05)
        connections.close_all()
    reporter.finish(Status.SUCCEEDED)
    assert texts(dump) == [str(number) for number in range(20)]
    assert fresh(dump).status == Status.SUCCEEDED


def test_f45_the_time_limit_ends_who_asks():
    reporter = RunReporter(make_dump(), time_limit=0.2)
    reporter.check()
    time.sleep(0.3)
    with pytest.raises(TimedOut, match=r"after 0\.2 seconds"):
        reporter.check()


def test_f54_secrets_are_in_no_event():
    secrets = {"AWS_ACCESS_KEY_ID": "public", "AWS_SECRET_ACCESS_KEY": S3_CANARY}
    dump = make_dump()
    with override_settings(PGCLONE_S3_CONFIG=secrets), RunReporter(dump) as reporter:
        reporter.note(f"connecting with {CANARY} and {S3_CANARY} as public")
    reporter.finish(Status.FAILED)
    assert texts(dump) == ["connecting with *** and *** as public"]


def test_f59_what_cannot_be_stored_is_stored_otherwise_and_no_more_than_enough(monkeypatch):
    monkeypatch.setattr(recording, "MOST_NOTES", 10)
    dump = make_dump()
    with RunReporter(dump) as reporter:
        reporter.note("NUL \0, surrogate \udc80")
        reporter.note("long " + "x" * 100_000)
        for number in range(100):
            reporter.note(str(number))
        reporter.warn("a warning is always kept")
    reporter.finish(Status.SUCCEEDED)
    found = texts(dump)
    assert found[0] == "NUL \N{REPLACEMENT CHARACTER}, surrogate ?"
    assert len(found[1]) < 4_100
    assert found[9] == "more was said, of which only the last is kept"
    assert found[10:] == [str(number) for number in range(100 - recording.LAST_NOTES, 100)][7:]
    assert texts(dump, "warning") == ["a warning is always kept"]
    assert fresh(dump).status == Status.SUCCEEDED


def test_a_hook_that_says_too_much_silences_nobody_after_it(monkeypatch):
    monkeypatch.setattr(recording, "MOST_NOTES", 5)
    monkeypatch.setattr(recording, "LAST_NOTES", 2)
    dump = make_dump()
    with RunReporter(dump) as reporter:
        reporter.note("running the hook loud")
        for number in range(50):
            reporter.note(f"  {number}")
        reporter.note("the hook loud took 1.0 s")
        reporter.note("running the hook next")
        reporter.note("  said by the next")
        reporter.note("the hook next took 0.1 s")
    reporter.finish(Status.SUCCEEDED)
    assert texts(dump) == [
        "running the hook loud",
        *(f"  {number}" for number in range(3)),
        "more was said, of which only the last is kept",
        "  48",
        "  49",
        "the hook loud took 1.0 s",
        "running the hook next",
        "  said by the next",
        "the hook next took 0.1 s",
    ]


def test_of_a_long_error_what_it_is_and_what_was_said_last_are_kept():
    said = "".join(f"row {number}\n" for number in range(2_000)) + "the cause"
    kept = recording.storable(f'the hook "x" failed: boom\n{said}', [])
    assert kept.startswith('the hook "x" failed: boom\n... ')
    assert kept.endswith("row 1999\nthe cause")
    assert len(kept) < recording.LONGEST_TEXT + 10


def test_a_row_that_is_gone_stops_nobody(logged_warnings):
    dump = make_dump()
    with RunReporter(dump) as reporter:
        reporter.note("one")
        eventually(lambda: texts(dump) == ["one"])
        Dump.objects.all().delete()
        reporter.note("two")
        reporter.phase("swapping")
        reporter.check()
        time.sleep(0.2)
    reporter.finish(Status.SUCCEEDED)
    assert not Dump.objects.exists()
    assert {record.getMessage().partition(":")[0] for record in logged_warnings} == {
        "the log of a run has nowhere to go"
    }


def test_tables_that_are_gone_stop_nobody(office, logged_warnings):
    dump = make_dump()
    with RunReporter(dump) as reporter:
        office.run("DROP TABLE pgclone_admin_runevent, pgclone_admin_dump")
        reporter.note("one")
        time.sleep(0.3)
        reporter.check()
    reporter.finish(Status.SUCCEEDED)
    assert logged_warnings


def test_the_last_word_waits_for_its_database(office):
    dump = make_dump()
    reporter = RunReporter(dump)
    connections.close_all()
    office.server.admin(f'ALTER DATABASE "{office.name}" RENAME TO "{office.name}_away"')

    def come_back():
        time.sleep(1)
        office.server.admin(f'ALTER DATABASE "{office.name}_away" RENAME TO "{office.name}"')

    thread = threading.Thread(target=come_back)
    thread.start()
    reporter.finish(Status.SUCCEEDED)
    thread.join()
    assert fresh(dump).status == Status.SUCCEEDED


def test_a_database_that_does_not_come_back_is_not_waited_for_for_ever(office, logged_warnings):
    dump = make_dump()
    reporter = RunReporter(dump, patience=0.5)
    connections.close_all()
    office.server.admin(f'ALTER DATABASE "{office.name}" RENAME TO "{office.name}_away"')
    try:
        reporter.finish(Status.SUCCEEDED)
    finally:
        office.server.admin(f'ALTER DATABASE "{office.name}_away" RENAME TO "{office.name}"')
    assert fresh(dump).status == Status.RUNNING
    (record,) = logged_warnings
    assert record.getMessage().startswith("the end of a run could not be written down")
