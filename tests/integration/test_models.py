"""The rows of runs: their statuses, and what the database itself holds to be impossible."""

from __future__ import annotations

import threading

import pytest
from django.db import IntegrityError, connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgclone_admin.core.errors import ConfigurationError
from pgclone_admin.models import (
    ACTIVE,
    TRANSITIONS,
    Configuration,
    Dump,
    Kind,
    RestoreRun,
    RunEvent,
    Status,
)
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.local_databases import local_databases

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("office")]


def make_dump(**fields):
    return Dump.objects.create(**{"location": "dumps/", "database": "default", **fields})


def make_run(**fields):
    return RestoreRun.objects.create(**{"database": "default", "target": "live", **fields})


# -- statuses


def test_every_status_has_its_transitions():
    assert set(TRANSITIONS) == set(Status)
    assert all(status not in targets for status, targets in TRANSITIONS.items())


def test_what_is_over_does_not_begin_again():
    for status, targets in TRANSITIONS.items():
        if status not in ACTIVE:
            assert not targets & set(ACTIVE)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wishes=st.lists(st.sampled_from(list(Status)), max_size=6), is_dump=st.booleans())
def test_a_run_moves_as_the_table_says_and_not_otherwise(office, wishes, is_dump):
    with transaction.atomic():
        run = make_dump() if is_dump else make_run()
        expected = Status.QUEUED
        for number, wish in enumerate(wishes):
            allowed = wish in TRANSITIONS[expected]
            assert run.move(wish, error=str(number)) is allowed
            if allowed:
                expected = wish
                assert (run.status, run.error) == (wish, str(number))
            stored = type(run).objects.get(pk=run.pk)
            assert stored.status == expected
        transaction.set_rollback(True)


def test_f44_of_two_that_claim_one_run_one_succeeds(office):
    run = make_dump()
    together = threading.Barrier(8)
    won = []

    def claim(number):
        mine = Dump.objects.get(pk=run.pk)
        together.wait(10)
        if mine.move(Status.RUNNING, worker=str(number)):
            won.append(number)
        connections.close_all()

    threads = [threading.Thread(target=claim, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.refresh_from_db()
    assert [run.worker] == [str(number) for number in won]


def test_a_run_that_is_deleted_cannot_move():
    run = make_dump()
    Dump.objects.all().delete()
    assert run.move(Status.RUNNING) is False


# -- what there cannot be


def test_f39_there_is_one_restore_of_a_target_at_a_time():
    first = make_run()
    with pytest.raises(IntegrityError), transaction.atomic():
        make_run(kind=Kind.SWAP)
    make_run(target="another")
    make_run(kind=Kind.DRILL)
    make_run(kind=Kind.COPY)
    first.move(Status.RUNNING)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_run()
    first.move(Status.LOST)
    make_run()


def test_f48_one_dump_is_queued_once():
    first = make_dump(options={"exclude": ["a.B"], "database": "default"})
    with pytest.raises(IntegrityError), transaction.atomic():
        make_dump(options={"database": "default", "exclude": ["a.B"]})
    make_dump(options={"database": "default"})
    first.move(Status.RUNNING)
    make_dump(options={"exclude": ["a.B"], "database": "default"})


def test_one_file_has_one_row():
    make_dump(key="a/b/c/d.dump", status=Status.SUCCEEDED)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_dump(key="a/b/c/d.dump", status=Status.SUCCEEDED)
    make_dump(key="a/b/c/d.dump", location="elsewhere/", status=Status.SUCCEEDED)


def test_an_event_belongs_to_one_run():
    dump, run = make_dump(), make_run()
    for owners in ({}, {"dump": dump, "run": run}, {"dump": dump, "about": "x"}, {"about": ""}):
        with pytest.raises(IntegrityError), transaction.atomic():
            RunEvent.objects.create(text="x", **owners)
    RunEvent.objects.create(text="x", about="a dump that was deleted")


# -- the rest


def test_a_run_names_from_where_and_to_where_as_far_as_there_is_such_a_thing():
    assert str(make_run(key="a/dump", target="shop")).endswith(" a/dump → shop")
    assert str(make_run(kind=Kind.VERIFY, key="a/dump", target="")).endswith(" a/dump")


def test_a_configuration_is_as_strict_as_one_in_the_settings():
    Configuration.objects.create(name="a", exclude={"auth.User": 1})
    with pytest.raises(ConfigurationError, match='"exclude" of the configuration "a"'):
        resolve(Arguments(config="a"), verb="dump")


def test_a_configuration_sets_what_is_not_empty():
    assert Configuration(name="a", reversible=False, instance="").as_options() == {
        "reversible": False
    }


def test_local_databases_are_those_that_were_made_here(office):
    office.pgclone("copy", f":{office.name}_copy").ok()
    office.server.create_database(f"{office.name}_other")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        (found,) = local_databases().filter(name__startswith=office.name)
        assert found.name == f"{office.name}_copy"
        assert (found.mark.kind, found.mark.of) == ("copy", office.name)
        assert str(found.key) == f":{office.name}_copy"
        assert found.size > 1_000_000
    finally:
        office.server.drop_database(f"{office.name}_copy")
        office.server.drop_database(f"{office.name}_other")
