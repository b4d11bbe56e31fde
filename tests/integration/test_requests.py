"""Asking: who may, what becomes of it, and what a queue that fails does to it."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone
from django_q.models import OrmQ

from pgclone_admin import tasks
from pgclone_admin.core.errors import (
    Conflict,
    DatabaseProtected,
    NotAllowed,
    StorageError,
    UnknownHook,
    UsageError,
)
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Dump, Kind, RestoreRun, RunEvent, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import actors, dump_care, dumps, requests, run_control
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.refresh import Refreshed, refresh
from pgclone_admin.services.restores import Variant
from pgclone_admin.storage.files import FileBackend
from tests.support import CANARY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("nothing_left_behind", "office"),
]

SYSTEM = Actor.system("a schedule")
HERE = {"database": "default"}
KEY = "here/default/none/2026-01-02-03-04-05-000006.dump"


def person(*permissions, name="ada"):
    user = User.objects.create_user(name, is_staff=True)
    codenames = [permission.partition(".")[2] for permission in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return Actor.of(User.objects.get(pk=user.pk))


def made_dump(**fields):
    return Dump.objects.create(
        **{
            "status": Status.SUCCEEDED,
            "location": "dumps/",
            "key": KEY,
            "database": "default",
            "taken_at": timezone.now(),
            **fields,
        }
    )


def restore(actor, **given):
    return requests.request_restore(actor, {"dump_key": KEY, **HERE, **given}, variant=Variant())


def copied(office, kind="copy"):
    """An empty database that passes for a local one of this site."""
    name = f"{office.name}_{kind}"
    if name not in office.server.databases():
        office.server.create_database(name)
        mark = Mark.new(name=name, kind=kind, of=office.name)
        office.run(f'COMMENT ON DATABASE "{name}" IS %s', params=(mark.comment(),))
    return name


def broken_queue(monkeypatch):
    def refuse(*_args, **_options):
        raise ConnectionError(f"redis://:{CANARY}@nowhere")

    monkeypatch.setattr("django_q.tasks.async_task", refuse)


# -- who may


ASKING = {
    "dump": (actors.DUMP, lambda actor, office: requests.request_dump(actor, HERE)),
    "restore": (actors.RESTORE, lambda actor, office: restore(actor)),
    "drill": (actors.RESTORE, lambda actor, office: requests.request_drill(actor, made_dump())),
    "verify": (
        actors.DUMP,
        lambda actor, office: requests.request_verification(actor, made_dump()),
    ),
    "swap": (actors.RESTORE, lambda actor, office: requests.request_swap(actor, "default")),
    "copy": (actors.COPY, lambda actor, office: requests.request_copy(actor, "default", ":x_y")),
    "drop": (
        actors.COPY,
        lambda actor, office: requests.request_drop(actor, "default", copied(office)),
    ),
    "pin": (
        actors.DELETE,
        lambda actor, office: dump_care.pin_dump(actor, made_dump(), pinned=True),
    ),
    "delete": (
        actors.DELETE,
        lambda actor, office: dump_care.delete_dump(actor, made_dump(key="", status="failed")),
    ),
    "refresh": (actors.REFRESH, lambda actor, office: refresh(actor, f"{office.storage_root}/")),
}

EVERY_PERMISSION = {
    actors.DUMP,
    actors.DOWNLOAD,
    actors.DELETE,
    actors.RESTORE,
    actors.COPY,
    actors.CANCEL,
}


@pytest.mark.parametrize("what", ASKING)
def test_each_thing_needs_its_own_permission_and_no_other(office, what):
    needed, ask = ASKING[what]
    any_of = {needed} if isinstance(needed, str) else set(needed)
    with pytest.raises(NotAllowed, match="do not have the permission"):
        ask(person(*(EVERY_PERMISSION - any_of), name="without"), office)
    assert OrmQ.objects.count() == 0
    assert not RunEvent.objects.exists()
    Dump.objects.all().delete()
    for one in any_of:
        ask(person(one, name=f"with {one}"), office)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("PGCLONE_ALLOW_DUMP", ["dump"]),
        ("PGCLONE_ALLOW_RESTORE", ["restore", "drill", "swap"]),
        ("PGCLONE_ALLOW_COPY", ["copy"]),
    ],
)
def test_f32_what_the_settings_forbid_nobody_can_ask_for(office, setting, names):
    with override_settings(**{setting: False}):
        for name in names:
            with pytest.raises(NotAllowed, match=setting):
                ASKING[name][1](SYSTEM, office)
            Dump.objects.all().delete()
    assert not RestoreRun.objects.exists()


def test_f59_people_choose_hooks_that_are_declared_and_type_none(office):
    ada = person(actors.DUMP, actors.RESTORE)
    with pytest.raises(NotAllowed, match="not declared"):
        restore(ada, pre_swap_hooks=["flush"])
    with pytest.raises(NotAllowed, match="not declared"):
        requests.request_dump(ada, {**HERE, "pre_dump_hooks": ["flush"]})
    with pytest.raises(UnknownHook):
        restore(SYSTEM, pre_swap_hooks=["migrate; rm -rf /"])
    assert not RestoreRun.objects.exists()
    assert not Dump.objects.exists()
    restore(ada, pre_swap_hooks=["migrate"])


# -- what becomes of it


def test_a_request_is_a_row_an_action_and_a_task(office):
    ada = person(actors.DUMP)
    dump = requests.request_dump(ada, HERE)
    assert (dump.status, dump.requested_by, dump.options) == (Status.QUEUED, "ada", HERE)
    (event,) = dump.events.all()
    assert (event.level, event.person, event.text) == ("audit", "ada", "requested a dump")
    (entry,) = LogEntry.objects.all()
    assert (entry.user_id, entry.change_message) == (ada.user.pk, "requested a dump")
    (row,) = OrmQ.objects.all()
    assert (row.task["func"], row.task["args"]) == ("pgclone_admin.tasks.run_dump", (dump.pk,))


def test_a_schedule_asks_as_people_do_and_its_failures_are_seen(office, logged_warnings):
    assert tasks.ask_for_dump(database="default") == f"dump {Dump.objects.get().pk}"
    dump = Dump.objects.get()
    assert (dump.requested_by, dump.options) == ("a schedule", HERE)
    assert dump.events.get().person == "a schedule"
    assert OrmQ.objects.count() == 1
    with pytest.raises(tasks.NotAskedFor, match=r"^unknown_configuration$"):
        tasks.ask_for_dump(config="nightly")
    with (
        override_settings(PGCLONE_ALLOW_DUMP=False),
        pytest.raises(tasks.NotAskedFor, match=r"^not_allowed$"),
    ):
        tasks.ask_for_dump()
    assert OrmQ.objects.count() == 1
    assert len(logged_warnings) == 2


def test_f32_a_restore_remembers_which_database_was_confirmed(office):
    run = restore(SYSTEM)
    assert (run.live_oid, run.target) == (office.oid, office.name)
    assert run.system_identifier.isdecimal()
    run.move(Status.CANCELLED)
    with pytest.raises(Conflict, match="another one than when you confirmed"):
        requests.request_restore(
            SYSTEM, {"dump_key": KEY, **HERE}, variant=Variant(), confirmed_oid=1
        )


def test_f48_a_second_click_is_the_first_one(office):
    first = requests.request_dump(SYSTEM, HERE)
    assert requests.request_dump(SYSTEM, HERE) == first
    # A worker was fast.
    first.move(Status.RUNNING)
    first.move(Status.SUCCEEDED)
    assert requests.request_dump(SYSTEM, HERE) == first
    assert requests.request_dump(Actor.system("grace"), HERE) != first
    Dump.objects.filter(pk=first.pk).update(requested_at=timezone.now() - timedelta(seconds=4))
    Dump.objects.exclude(pk=first.pk).update(status=Status.SUCCEEDED)
    assert requests.request_dump(SYSTEM, HERE).pk > first.pk
    assert requests.request_dump(SYSTEM, {**HERE, "exclude": ["auth.User"]}).pk > first.pk + 1


def in_threads(number, work):
    together = threading.Barrier(number)
    done = []

    def at_once():
        together.wait(20)
        try:
            done.append(work())
        except Conflict as error:
            done.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=at_once) for _number in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_f48_clicks_at_the_same_moment_are_one_dump(office):
    done = in_threads(6, lambda: requests.request_dump(SYSTEM, HERE).pk)
    assert len(done) == 6
    assert len(set(done)) == 1
    assert Dump.objects.count() == OrmQ.objects.count() == 1


def test_f48_clicks_at_the_same_moment_are_one_drill_one_check_and_one_copy(office):
    dump = made_dump()
    for ask in (
        lambda: requests.request_drill(SYSTEM, dump),
        lambda: requests.request_verification(SYSTEM, dump),
        lambda: requests.request_copy(SYSTEM, "default", ":look"),
    ):
        OrmQ.objects.all().delete()
        done = in_threads(4, lambda ask=ask: ask().pk)
        assert len(done) == 4
        assert len(set(done)) == OrmQ.objects.count() == 1
        # What is over is asked for anew.
        RestoreRun.objects.update(status=Status.SUCCEEDED)
        assert ask().pk not in done
    assert requests.request_drill(SYSTEM, dump) != requests.request_drill(SYSTEM, dump, [])


def test_f39_f48_of_restores_asked_for_at_the_same_moment_there_is_one(office):
    done = in_threads(4, lambda: restore(SYSTEM))
    (run,) = [each for each in done if isinstance(each, RestoreRun)]
    refused = [each for each in done if isinstance(each, Conflict)]
    assert len(refused) == 3
    for error in refused:
        assert f"run {run.pk}, requested by a schedule" in error.message
    assert RestoreRun.objects.count() == OrmQ.objects.count() == 1


def replacing_run(office, identifier):
    return RestoreRun.objects.create(
        key=KEY,
        database="default",
        target=office.name,
        system_identifier=identifier,
        requested_by="grace",
    )


def test_a_restore_on_another_server_of_a_database_of_the_same_name_stops_nobody(office):
    elsewhere = replacing_run(office, "1")
    here = restore(SYSTEM)
    assert RestoreRun.objects.filter(status=Status.QUEUED).count() == 2
    here.move(Status.CANCELLED)
    elsewhere.move(Status.CANCELLED)
    commanded = replacing_run(office, "")
    with pytest.raises(Conflict, match=f"run {commanded.pk}, requested by grace"):
        restore(SYSTEM)


@pytest.mark.parametrize("fields", [{"key": ""}, {"status": "missing"}, {"status": "failed"}])
@pytest.mark.parametrize("ask", [requests.request_drill, requests.request_verification])
def test_what_has_no_file_is_neither_drilled_nor_verified(office, ask, fields):
    dump = made_dump(config="weekly", **fields)
    with (
        override_settings(PGCLONE_CONFIGS={"weekly": {"dump_key": "another.dump"}}),
        pytest.raises(Conflict, match=f"the dump {dump.pk} has no file"),
    ):
        ask(SYSTEM, dump)
    assert RestoreRun.objects.count() == OrmQ.objects.count() == 0


def test_what_is_live_cannot_be_dropped(office):
    with pytest.raises(DatabaseProtected):
        requests.request_drop(SYSTEM, "default", office.name)


def test_what_belongs_to_a_run_and_what_was_not_confirmed_cannot_be_dropped(office):
    with pytest.raises(DatabaseProtected, match="belongs to a run"):
        requests.request_drop(SYSTEM, "default", copied(office, "parked"))
    with pytest.raises(Conflict, match="another one than when you confirmed"):
        requests.request_drop(SYSTEM, "default", copied(office), confirmed_oid=1)
    assert not RestoreRun.objects.exists()


@pytest.mark.parametrize("kind", ["copy", "beside"])
def test_a_name_that_is_taken_is_nobody_s_to_take(office, kind):
    actor = person(actors.RESTORE, actors.COPY)
    name = copied(office, kind)
    oid = office.server.oid(name)
    given = {"dump_key": office.pgclone("dump").ok().lines[0], **HERE}
    asks = [
        lambda: requests.request_copy(actor, "default", f":{name}"),
        lambda: requests.request_restore(actor, given, variant=Variant(beside=f":{name}")),
    ]
    for ask in asks:
        with pytest.raises(DatabaseProtected, match=f'there is a database "{name}" already'):
            ask()
    assert not OrmQ.objects.exists()

    office.run(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')
    runs = [ask() for ask in asks]
    office.run(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
    for run in runs:
        tasks.run_restore(run.pk)
        run.refresh_from_db()
        assert (run.status, run.error_code) == (Status.FAILED, DatabaseProtected.code), run.error
    assert office.server.oid(name) == oid


def test_a_drill_proves_the_restore_that_would_be_made(office):
    hook = {"name": "own", "code": "SELECT 1"}
    with override_settings(PGCLONE_CONFIGS={"nightly": {"pre_swap_hooks": [hook]}}):
        run = requests.request_drill(SYSTEM, made_dump(config="nightly", database="elsewhere"))
    assert run.options["arguments"]["config"] == "nightly"
    assert run.database == "default"
    run.move(Status.CANCELLED)
    Dump.objects.all().delete()
    run = requests.request_drill(SYSTEM, made_dump(config="of another site"))
    assert "config" not in run.options["arguments"]


def test_nothing_to_restore_is_said(office):
    with pytest.raises(UsageError, match="no dump was named"):
        requests.request_restore(SYSTEM, HERE, variant=Variant())


# -- the queue


def test_f47_what_is_rolled_back_is_in_no_queue(office):
    with transaction.atomic():
        requests.request_dump(SYSTEM, HERE)
        restore(SYSTEM)
        transaction.set_rollback(True)
    assert Dump.objects.count() == RestoreRun.objects.count() == OrmQ.objects.count() == 0


def test_f47_what_no_queue_took_says_so_and_can_be_queued_again(
    office, monkeypatch, logged_warnings
):
    with monkeypatch.context() as broken:
        broken_queue(broken)
        dump = requests.request_dump(SYSTEM, HERE)
        assert (dump.status, dump.error_code) == (Status.QUEUED, "not_queued")
        assert dump.error == "the queue cannot be reached: ConnectionError"
        with pytest.raises(Conflict, match="cannot be reached"):
            run_control.requeue(SYSTEM, dump)
    run_control.requeue(SYSTEM, dump)
    dump.refresh_from_db()
    assert (dump.status, dump.error_code, dump.error, dump.hint) == (Status.QUEUED, "", "", "")
    assert OrmQ.objects.get().task["args"] == (dump.pk,)
    assert logged_warnings
    assert CANARY not in " ".join(record.getMessage() for record in logged_warnings)


def test_f47_asking_again_queues_what_no_queue_took(office, monkeypatch, logged_warnings):
    with monkeypatch.context() as broken:
        broken_queue(broken)
        dump = requests.request_dump(SYSTEM, HERE)
    assert requests.request_dump(SYSTEM, HERE) == dump
    assert OrmQ.objects.count() == 1
    assert len(logged_warnings) == 1


def test_only_what_waits_is_queued_again(office):
    dump = requests.request_dump(person(actors.DUMP), HERE)
    with pytest.raises(NotAllowed):
        run_control.requeue(person(actors.RESTORE, name="grace"), dump)
    User.objects.get(username="ada").user_permissions.clear()
    with pytest.raises(NotAllowed):
        run_control.requeue(Actor.of(User.objects.get(username="ada")), dump)
    dump.move(Status.RUNNING)
    with pytest.raises(Conflict, match="only what is queued"):
        run_control.requeue(SYSTEM, dump)
    assert OrmQ.objects.count() == 1


# -- cancelling


def test_f49_who_asked_may_cancel_and_others_need_the_permission(office):
    ada = person(actors.DUMP)
    dump = requests.request_dump(ada, HERE)
    with pytest.raises(NotAllowed):
        run_control.cancel(person(actors.DUMP, name="grace"), dump)
    run_control.cancel(ada, dump)
    dump.refresh_from_db()
    assert dump.status == Status.CANCELLED
    assert dump.finished_at is not None
    run_control.cancel(person(actors.CANCEL, name="margaret"), dump)
    assert dump.events.filter(text="cancelled").count() == 1


@pytest.mark.parametrize("phase", run_control.TOO_LATE)
def test_f49_it_can_be_too_late(office, phase):
    dump = requests.request_dump(SYSTEM, HERE)
    dump.move(Status.RUNNING, phase=phase)
    with pytest.raises(Conflict, match="too late"):
        run_control.cancel(SYSTEM, dump)
    dump.refresh_from_db()
    assert not dump.cancel_requested
    assert not dump.events.filter(text="cancelled").exists()


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.LOST])
def test_f49_what_is_over_cannot_be_cancelled(office, status):
    dump = made_dump(status=status)
    with pytest.raises(Conflict, match="too late"):
        run_control.cancel(SYSTEM, dump)


# -- dumps that are there


def test_a_dump_is_deleted_with_its_file_unless_somebody_needs_it(office):
    manifest = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    location = f"{office.storage_root}/"
    assert refresh(SYSTEM, location).added == 1
    dump = Dump.objects.get(key=manifest.key)
    dump_care.pin_dump(SYSTEM, dump, pinned=True)
    with pytest.raises(Conflict, match="pinned"):
        dump_care.delete_dump(SYSTEM, dump)
    dump_care.pin_dump(SYSTEM, dump, pinned=False)
    run = requests.request_verification(SYSTEM, dump)
    with pytest.raises(Conflict, match=f"needed by the run {run.pk}"):
        dump_care.delete_dump(SYSTEM, dump)
    run_control.cancel(SYSTEM, run)
    assert len(office.files()) == 2
    other = made_dump(instance=dump.instance, config="weekly")
    with pytest.raises(Conflict, match="last good dump of its database and configuration"):
        dump_care.delete_dump(SYSTEM, dump)
    Dump.objects.filter(pk=other.pk).update(config=dump.config, status="missing")
    with pytest.raises(Conflict, match="last good dump"):
        dump_care.delete_dump(SYSTEM, dump)
    other.delete()
    dump_care.delete_dump(SYSTEM, dump, although_last=True)
    assert office.files() == []
    assert not Dump.objects.exists()


def test_f21_a_deletion_that_failed_half_way_is_told_and_can_be_made_again(office, monkeypatch):
    dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    refresh(SYSTEM, f"{office.storage_root}/")
    dump = Dump.objects.get()
    delete = FileBackend.delete

    def refuse(backend, name):
        if name.endswith(".dump"):
            raise StorageError("it is locked")
        delete(backend, name)

    monkeypatch.setattr(FileBackend, "delete", refuse)
    with pytest.raises(StorageError, match="it is locked"):
        dump_care.delete_dump(SYSTEM, dump, although_last=True)
    assert office.files() == [dump.key], "the manifest goes first, the row last"
    assert Dump.objects.get() == dump
    assert refresh(SYSTEM, dump.location) == Refreshed(0, 0, 0)
    monkeypatch.undo()
    dump_care.delete_dump(SYSTEM, dump, although_last=True)
    assert office.files() == []
    assert not Dump.objects.exists()


def test_f20_refreshing_brings_rows_in_line_and_deletes_nothing(office):
    first = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    location = f"{office.storage_root}/"
    file = office.storage_root / first.key
    manifest = file.with_name(f"{file.name}.json")
    gone = made_dump(location=location)
    found = refresh(SYSTEM, location)
    assert (found.added, found.missing, found.returned) == (1, 1, 0)
    gone.refresh_from_db()
    assert gone.status == Status.MISSING
    row = Dump.objects.get(key=first.key)
    assert (row.status, row.size, row.manifest["sha256"]) == (
        Status.SUCCEEDED,
        first.size,
        first.sha256,
    )
    # A manifest that PostgreSQL could not store makes it a foreign dump, and stops nobody.
    text = manifest.read_text().replace('"here"', '"he\\u0000re"')
    row.delete()
    manifest.write_text(text)
    assert refresh(SYSTEM, location).added == 1
    assert Dump.objects.get(key=first.key).is_foreign
    assert refresh(SYSTEM, location) == type(found)(0, 0, 0)


def test_kinds_have_their_permission(office):
    assert {kind: run_control.needed_for(RestoreRun(kind=kind)) for kind in Kind} == {
        Kind.RESTORE: actors.RESTORE,
        Kind.SWAP: actors.RESTORE,
        Kind.DRILL: actors.RESTORE,
        Kind.VERIFY: actors.DUMP,
        Kind.COPY: actors.COPY,
        Kind.DROP: actors.COPY,
    }
