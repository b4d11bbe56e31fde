"""What comes of a run: its row, whatever happens, and what the command line writes down."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from datetime import timedelta

import psycopg2
import pytest
from django.db import connection, connections
from django.test import override_settings
from django.utils import timezone

from pgclone_admin import interrupts, runner, tasks
from pgclone_admin.core import stall
from pgclone_admin.core.errors import (
    Conflict,
    DatabaseProtected,
    Interrupted,
    PgcloneError,
    Stalled,
    StorageError,
    TimedOut,
)
from pgclone_admin.core.locks import is_locked
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.recovery import Outcome
from pgclone_admin.core.server import Server
from pgclone_admin.databases import maintenance_params
from pgclone_admin.identity import is_gone, own_process, worker_name
from pgclone_admin.models import Configuration, Dump, Kind, RestoreRun, RunEvent, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import copies, dumps, fate, lost, requests, restores, run_control
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.recovery import recover_stored
from pgclone_admin.services.refresh import refresh
from pgclone_admin.services.restores import Variant
from tests.support import CANARY

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("nothing_left_behind", "office"),
]

ADA = Actor.system("ada")
HERE = {"database": "default"}


def asked_dump(**given):
    return requests.request_dump(ADA, {**HERE, **given})


def failing(monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(dumps, "create_dump", fail)


# -- outcomes


def test_a_dump_that_is_made_tells_all_about_itself(office):
    dump = asked_dump()
    assert runner.run_dump(dump) == "succeeded"
    dump.refresh_from_db()
    assert (dump.status, dump.worker, dump.process) == (
        Status.SUCCEEDED,
        worker_name(),
        own_process(),
    )
    assert dump.requested_at <= dump.started_at <= dump.taken_at <= dump.finished_at
    assert (dump.instance, dump.database, dump.config) == ("here", "default", "none")
    assert not dump.is_foreign
    phases = dump.events.filter(level=RunEvent.Level.PHASE).values_list("text", flat=True)
    assert list(phases) == ["checking", "hooks", "dumping", "finishing"]


ERRORS = {
    "ours": (StorageError("the disk is full", hint="Make room."), "storage_error", "Make room."),
    "of the server": (psycopg2.OperationalError("gone"), "server_unavailable", None),
    "with a password": (ValueError(f"password={CANARY}"), "internal", ""),
    "with a NUL": (StorageError("a\0b" + "c" * 10_000), "storage_error", ""),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_ends_a_run_stands_in_its_row_and_no_secret_does(monkeypatch, kind, caplog):
    error, code, hint = ERRORS[kind]
    failing(monkeypatch, error)
    dump = asked_dump()
    result = tasks.run_dump(dump.pk)
    dump.refresh_from_db()
    assert dump.status == Status.FAILED
    assert dump.error
    if code != "server_unavailable":
        assert dump.error_code == code
    if hint is not None:
        assert dump.hint == hint
    assert dump.finished_at is not None
    everything = f"{result} {dump.error} {dump.hint} {caplog.text}"
    assert CANARY not in everything
    assert "\0" not in dump.error
    assert len(dump.error) < 5_000


@pytest.mark.parametrize(
    ("stall_timeout", "time_limit", "code"),
    [(1, None, "stalled"), (600, 1.0, "timed_out")],
    ids=["by the stall", "by the time limit"],
)
def test_f07_a_run_whose_storage_never_returns_ends_and_frees_the_next_one(
    office, faulty, settings, monkeypatch, *, stall_timeout, time_limit, code
):
    monkeypatch.setattr(stall, "FAREWELL", 0.5)
    settings.STORAGES = {**settings.STORAGES, "box": faulty.alias_config}
    settings.PGCLONE_STORAGE_LOCATION = "storages:box/"
    settings.PGCLONE_STALL_TIMEOUT = stall_timeout
    faulty.stall_at = 1000
    dump = asked_dump()
    with pytest.raises((Stalled, TimedOut)):
        runner.run_dump(dump, time_limit=time_limit)
    dump.refresh_from_db()
    assert (dump.status, dump.error_code) == (Status.FAILED, code)
    settings.PGCLONE_STORAGE_LOCATION = f"{office.storage_root}/"
    assert runner.run_dump(asked_dump()) == "succeeded"


def test_f44_a_run_that_is_not_queued_is_not_done(office):
    dump = asked_dump()
    run_control.cancel(ADA, dump)
    assert runner.run_dump(dump) == "already taken"
    assert tasks.run_dump(dump.pk) == "already taken"
    assert tasks.run_dump(dump.pk + 1) == "already taken"
    assert office.files() == []


@pytest.mark.parametrize(
    ("setting", "ask"),
    [
        ("PGCLONE_ALLOW_DUMP", asked_dump),
        (
            "PGCLONE_ALLOW_RESTORE",
            lambda: requests.request_restore(ADA, {**HERE, "dump_key": ":pre"}, variant=Variant()),
        ),
        ("PGCLONE_ALLOW_COPY", lambda: requests.request_copy(ADA, "default", ":a_b")),
    ],
)
def test_f32_the_worker_refuses_what_is_not_allowed_any_more(office, setting, ask):
    run = ask()
    with override_settings(**{setting: False}):
        execute = tasks.run_dump if isinstance(run, Dump) else tasks.run_restore
        assert execute(run.pk) == "not_allowed"
    run.refresh_from_db()
    assert (run.status, run.error_code) == (Status.FAILED, "not_allowed")


def test_f32_another_database_than_the_confirmed_one_is_not_replaced(office):
    dump = asked_dump()
    runner.run_dump(dump)
    dump.refresh_from_db()
    run = requests.request_restore(ADA, {**HERE, "dump_key": dump.key}, variant=Variant())
    RestoreRun.objects.update(live_oid=run.live_oid + 1)
    before = office.oid
    assert tasks.run_restore(run.pk) == "conflict"
    assert office.oid == before
    RestoreRun.objects.update(live_oid=before, system_identifier="1", status=Status.QUEUED)
    assert tasks.run_restore(run.pk) == "conflict"
    assert office.oid == before
    run.refresh_from_db()
    assert "another one than the one that was confirmed" in run.error


def test_f32_where_nothing_was_confirmed_nothing_is_replaced(office):
    dump = asked_dump()
    runner.run_dump(dump)
    dump.refresh_from_db()
    run = requests.request_restore(ADA, {**HERE, "dump_key": dump.key}, variant=Variant())
    # As it is stored where there was no live database.
    RestoreRun.objects.update(live_oid=0)
    before = office.oid
    assert tasks.run_restore(run.pk) == "conflict"
    assert office.oid == before


def test_a_drop_is_of_the_database_that_was_confirmed_and_of_no_later_one(office):
    copies.copy_live(resolve(Arguments(), verb=""), ":look", SilentReporter())
    run = requests.request_drop(ADA, "default", "look")
    copies.copy_live(resolve(Arguments(), verb=""), ":look", SilentReporter())
    assert tasks.run_restore(run.pk) == "conflict"
    run.refresh_from_db()
    assert "another one than when you confirmed" in run.error
    run = requests.request_drop(ADA, "default", "look")
    assert tasks.run_restore(run.pk) == "succeeded"
    assert "look" not in office.server.databases()


def test_what_another_site_has_made_on_the_same_server_is_left_alone(office):
    name = "their_copy"
    dump = asked_dump()
    runner.run_dump(dump)
    dump.refresh_from_db()
    beside = Variant(beside=f":{name}")
    given = {**HERE, "dump_key": dump.key, "pre_swap_hooks": []}
    asks = [
        lambda: requests.request_copy(ADA, "default", f":{name}"),
        lambda: requests.request_restore(ADA, given, variant=beside),
    ]
    runs = [ask() for ask in asks]
    office.server.create_database(name)
    mark = Mark.new(name=name, kind="copy", of="their_site").comment()
    office.run(f'COMMENT ON DATABASE "{name}" IS %s', params=(mark,))
    oid = office.server.oid(name)
    for ask in asks:
        with pytest.raises(DatabaseProtected):
            ask()
    for run in runs:
        assert tasks.run_restore(run.pk) == "database_protected"
        run.refresh_from_db()
        assert 'was made for the database "their_site"' in run.error
    with pytest.raises(DatabaseProtected):
        requests.request_drop(ADA, "default", name)
    assert office.server.oid(name) == oid


def test_a_dump_goes_where_its_row_says_whatever_the_configuration_says_by_now(office, tmp_path):
    Configuration.objects.create(name="nightly", storage_location=str(tmp_path / "a"))
    dump = requests.request_dump(ADA, {**HERE, "config": "nightly"})
    Configuration.objects.update(storage_location=str(tmp_path / "b"))
    with override_settings(PGCLONE_INSTANCE="worker"):
        assert runner.run_dump(dump) == "succeeded"
    dump.refresh_from_db()
    assert (dump.location, dump.config) == (str(tmp_path / "a"), "nightly")
    assert dump.key.startswith(f"{dump.instance}/default/nightly/")
    assert (tmp_path / "a" / dump.key).is_file()
    assert not (tmp_path / "b").exists()


def test_nothing_is_kept_of_a_drill_whose_hook_has_failed(office):
    dump = asked_dump()
    runner.run_dump(dump)
    dump.refresh_from_db()
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=[{"name": "broken", "code": "SELECT nonsense"}]):
        run = requests.request_drill(ADA, dump)
        assert tasks.run_restore(run.pk) == "hook_failed"
    assert office.server.oid(f"{office.name}__temp") is None


def test_what_replaces_nothing_may_meet_another_live_database(office):
    dump = asked_dump()
    runner.run_dump(dump)
    dump.refresh_from_db()
    run = requests.request_drill(ADA, dump, hooks=[])
    RestoreRun.objects.update(live_oid=1)
    assert tasks.run_restore(run.pk) == "succeeded"
    dump.refresh_from_db()
    assert dump.drilled_at is not None


def test_a_dump_that_a_refresh_has_seen_first_is_one_row(office, monkeypatch):
    location = f"{office.storage_root}/"
    create = dumps.create_dump

    def seen_by_a_refresh(*args, **options):
        manifest = create(*args, **options)
        assert refresh(ADA, location).added == 1
        return manifest

    monkeypatch.setattr(dumps, "create_dump", seen_by_a_refresh)
    dump = asked_dump()
    assert runner.run_dump(dump) == "succeeded"
    (row,) = Dump.objects.all()
    assert (row.pk, row.status, row.requested_by) == (dump.pk, Status.SUCCEEDED, "ada")
    assert row.key != ""


# -- the end before the end


def slow(monkeypatch, work=time.sleep, seconds=30):
    monkeypatch.setattr(dumps, "create_dump", lambda *_args, **_options: work(seconds))


def test_f45_who_does_not_ask_is_interrupted_when_the_time_is_over(monkeypatch):
    slow(monkeypatch)
    dump = asked_dump()
    started = time.monotonic()
    with pytest.raises(TimedOut, match="after 1 seconds because it took too long"):
        runner.run_dump(dump, time_limit=1)
    assert 1 < time.monotonic() - started < 12
    dump.refresh_from_db()
    assert (dump.status, dump.error_code) == (Status.FAILED, "timed_out")
    assert "PGCLONE_RUN_TIMEOUT" in dump.hint


def test_f45_sigterm_ends_a_run_once_and_then_the_process(monkeypatch):
    ends = []
    monkeypatch.setattr(signal, "raise_signal", ends.append)
    cleaned = []

    def work(*_args, **_options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.2)
            cleaned.append(True)

    monkeypatch.setattr(dumps, "create_dump", work)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    dump = asked_dump()
    with pytest.raises(Interrupted):
        runner.run_dump(dump)
    dump.refresh_from_db()
    assert (dump.status, dump.error_code) == (Status.FAILED, "interrupted")
    assert (cleaned, ends) == ([True], [signal.SIGTERM])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


def test_f59_a_hook_that_swallows_its_end_is_interrupted_again(monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN_AFTER", 1)
    seen = []

    def stubborn(*_args, **_options):
        for _try in range(2):
            try:
                os.kill(os.getpid(), signal.SIGALRM)
                time.sleep(1.5)
            except TimedOut:
                seen.append("ended")
                time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGALRM)

    monkeypatch.setattr(dumps, "create_dump", stubborn)
    dump = asked_dump()
    with pytest.raises(TimedOut):
        runner.run_dump(dump)
    assert seen == ["ended", "ended"]
    dump.refresh_from_db()
    assert dump.error_code == "timed_out"


def test_in_another_thread_a_run_is_done_without_signals(office):
    dump = asked_dump()
    thread = threading.Thread(target=lambda: (tasks.run_dump(dump.pk), connections.close_all()))
    thread.start()
    thread.join(60)
    dump.refresh_from_db()
    assert dump.status == Status.SUCCEEDED


def test_f49_cancelling_interrupts_who_does_not_ask(monkeypatch):
    slow(monkeypatch)
    dump = asked_dump()

    def cancel():
        time.sleep(1)
        run_control.cancel(ADA, Dump.objects.get(pk=dump.pk))
        connections.close_all()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert tasks.run_dump(dump.pk) == "cancelled"
    thread.join()
    dump.refresh_from_db()
    assert (dump.status, dump.error_code) == (Status.CANCELLED, "cancelled")


# -- lost runs


def running(office, process, *, heard=0, **fields):
    """A row as a worker leaves it that died ``heard`` seconds ago."""
    moment = timezone.now() - timezone.timedelta(seconds=heard)
    return RestoreRun.objects.create(
        **{
            "kind": Kind.DRILL,
            "status": Status.RUNNING,
            "database": "default",
            "target": office.name,
            "started_at": moment,
            "heard_at": moment,
            "process": process,
            "worker": "somewhere:1",
            **fields,
        }
    )


def of_another_machine():
    return f"elsewhere:{own_process().partition(':')[2]}"


def of_another_process(pid, started="5"):
    return f"{own_process().partition(':')[0]}:{pid}:{started}"


def test_a_run_of_a_process_that_is_gone_is_lost_at_once(office):
    run = running(office, of_another_process(2**22 + 1))
    (swept,) = lost.sweep(ADA)
    assert swept.run == run
    run.refresh_from_db()
    assert (run.status, run.error_code) == (Status.LOST, "lost")
    (event,) = run.events.filter(level=RunEvent.Level.AUDIT)
    assert (event.person, event.text) == ("ada", "marked as lost: its process is gone")
    assert lost.sweep(ADA) == []


def test_a_run_is_given_up_though_its_server_breaks_off_while_it_is_asked(office, monkeypatch):
    with Server.connected(maintenance_params("default")) as server:
        where = {"system_identifier": server.system_identifier, "live_oid": office.oid}
    run = running(office, of_another_process(2**22 + 1), kind=Kind.RESTORE, **where)

    def break_off(server, _live):
        office.server.admin(
            "SELECT pg_terminate_backend(%s)", (server.connection.info.backend_pid,)
        )
        return False

    monkeypatch.setattr(fate, "is_locked", break_off)
    (swept,) = lost.sweep(ADA)
    assert swept.run == run
    run.refresh_from_db()
    # Nobody can tell whether it had swapped.
    assert run.error == "the worker did not finish it: its process is gone"


def test_what_a_run_that_is_heard_of_has_stored_is_kept(office, tmp_path):
    options = resolve(Arguments(storage_location=str(tmp_path)), verb="")
    partial = (
        tmp_path / "here/default/none/2026-01-01-00-00-00-000000.dump.partial-0123456789abcdef"
    )
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"PGDMP")
    moment = timezone.now()
    dump = Dump.objects.create(
        status=Status.RUNNING,
        location=str(tmp_path),
        database="default",
        started_at=moment,
        heard_at=moment,
        process=of_another_machine(),
    )
    found = partial_of(options)
    assert [item.outcome for item in found] == [Outcome.KEPT]
    dump.move(Status.LOST)
    assert [item.outcome for item in partial_of(options)] == [Outcome.REMOVED]


def partial_of(options):
    return list(recover_stored(options, older_than=timedelta(0), dry_run=False))


def test_a_number_that_another_process_has_now_helps_nobody(office):
    running(office, of_another_process(os.getppid()))
    assert len(lost.sweep(ADA)) == 1


def test_a_run_of_this_very_process_that_is_not_at_work_is_lost(office):
    running(office, own_process())
    assert len(lost.sweep(ADA)) == 1


@pytest.mark.parametrize(
    ("seconds", "phase", "is_lost"),
    [
        (5, "restoring", False),
        (120, "restoring", True),
        (120, "swapping", False),
        (1000, "swapping", True),
    ],
)
def test_a_run_elsewhere_is_lost_when_it_is_silent(office, monkeypatch, seconds, phase, is_lost):
    monkeypatch.setattr(lost, "SECOND_LOOK", 0)
    run = running(office, of_another_machine(), heard=seconds, phase=phase)
    assert run.is_silent is is_lost
    assert len(lost.sweep(ADA, dry_run=True)) == is_lost
    assert len(lost.sweep(ADA)) == is_lost
    run.refresh_from_db()
    assert run.status == (Status.LOST if is_lost else Status.RUNNING)
    RestoreRun.objects.all().delete()


def test_a_run_that_is_heard_of_at_the_second_look_is_left_alone(office, monkeypatch):
    run = running(office, of_another_machine(), heard=120)

    def meanwhile(_seconds):
        RestoreRun.objects.filter(pk=run.pk).update(heard_at=timezone.now())

    monkeypatch.setattr(lost.time, "sleep", meanwhile)
    assert lost.sweep(ADA) == []
    run.refresh_from_db()
    assert run.status == Status.RUNNING


def test_a_worker_that_was_given_up_stops_and_changes_nothing(monkeypatch):
    def work(options, reporter, **_options):
        (row,) = Dump.objects.filter(status=Status.RUNNING)
        row.move(Status.LOST)
        for _second in range(100):
            time.sleep(0.1)
            reporter.check()

    monkeypatch.setattr(dumps, "create_dump", work)
    dump = asked_dump()
    with pytest.raises(Conflict, match="marked as lost"):
        runner.run_dump(dump)
    dump.refresh_from_db()
    assert dump.status == Status.LOST


def test_a_lost_run_that_has_succeeded_all_the_same_says_so(office, monkeypatch):
    create = dumps.create_dump

    def given_up_at_last(*args, **options):
        manifest = create(*args, **options)
        Dump.objects.get().move(Status.LOST)
        return manifest

    monkeypatch.setattr(dumps, "create_dump", given_up_at_last)
    assert runner.run_dump(asked_dump()) == "succeeded"
    assert Dump.objects.get().status == Status.SUCCEEDED


# -- the command line


def commanded(office, *arguments, **options):
    connections.close_all()
    return office.pgclone(*arguments, **options)


def test_commands_write_down_what_they_do(office):
    key = commanded(office, "dump").ok().lines[0]
    commanded(office, "copy", ":a_copy").ok()
    commanded(office, "restore", key, "--to", ":beside_it", "--pre-swap-hook").ok()
    commanded(office, "restore", key, "--hold", "--pre-swap-hook").ok()
    commanded(office, "swap").ok()
    dump = Dump.objects.get()
    assert (dump.status, dump.key) == (Status.SUCCEEDED, key)
    runs = RestoreRun.objects.order_by("pk").values_list("kind", "status", "key", "target")
    assert list(runs) == [
        ("copy", "succeeded", ":a_copy", "a_copy"),
        ("restore", "succeeded", key, "beside_it"),
        ("restore", "succeeded", key, office.name),
        ("swap", "succeeded", ":held", office.name),
    ]
    assert RestoreRun.objects.get(kind=Kind.COPY).result["piped"] is False
    people = {dump.requested_by, *RestoreRun.objects.values_list("requested_by", flat=True)}
    (person,) = people
    assert person.endswith(" (command line)")
    for run in [dump, *RestoreRun.objects.all()]:
        assert run.events.filter(level=RunEvent.Level.AUDIT, person=person).exists()
    for name in ("a_copy", "beside_it"):
        office.server.drop_database(name)


def test_an_error_of_a_command_is_what_it_was_and_is_written_down(office):
    failed = commanded(office, "restore", "no/such/dump").failed(1)
    assert failed.stderr.splitlines() == [
        f'error: no dump in {office.storage_root}/ matches "no/such/dump"',
        "hint: See what there is with: pgclone ls",
    ]
    run = RestoreRun.objects.get()
    assert (run.status, run.error_code, run.hint) == (
        Status.FAILED,
        "dump_not_found",
        "See what there is with: pgclone ls",
    )


def test_a_command_that_is_interrupted_is_cancelled(office):
    connections.close_all()
    with office.server.table_locked(office.name, '"MyTable"'):
        started = office.start_pgclone("dump")
        until = time.monotonic() + 20
        while "dumping" not in started.stderr():
            assert time.monotonic() < until
            time.sleep(0.05)
        started.signal(signal.SIGINT)
        assert started.wait(20).returncode == 130
    assert Dump.objects.get().status == Status.CANCELLED


def lost_lock(office):
    """Whether the lock of a run that was killed is still held: its sessions end a moment later."""
    with Server.connected(office.server.params("postgres")) as server:
        return is_locked(server, office.name)


@contextlib.contextmanager
def older_in_use(office, role="pre"):
    """What is done after the swap has to wait within the block: somebody describes ``:pre``.

    Gives what waits until it does.
    """
    pre = f"{office.name}__{role}"
    with contextlib.closing(office.server.connect(autocommit=False)) as holder:
        with holder.cursor() as cursor:
            cursor.execute(f'COMMENT ON DATABASE "{pre}" IS %s', (office.server.comment(pre),))

        def wait():
            query = (
                "SELECT 1 FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query LIKE 'DROP DATABASE%'"
            )
            until = time.monotonic() + 60
            while not office.server.admin(query):
                assert time.monotonic() < until
                time.sleep(0.02)

        yield wait


DONE_BUT_INTERRUPTED = "the restore is done, but was interrupted while it cleaned up"
HOOK_HAS_NOT_RUN = 'the restore is done, but interrupted: the hook "good_hook" has not run'


def local_copies(office):
    """The oids of ``:pre`` and ``:post``."""
    return [office.server.oid(f"{office.name}__{role}") for role in ("pre", "post")]


def pair_is_of_the_last_restore(office, before, older):
    """Whether ``:pre`` is what was live ``before`` it, and ``:post`` not an ``older`` one."""
    pre, post = local_copies(office)
    assert pre == before
    assert post not in (None, *older)
    assert "later" in office.people(dbname=f"{office.name}__pre")
    assert office.people(dbname=f"{office.name}__post") == office.people()
    return not [name for name in office.server.databases() if name.startswith("pgclone_new_")]


def restored_and_interrupted(office, before, older):
    """Whether what was restored is live, and ``recover`` does what was not done any more."""
    connections.close_all()
    assert "later" not in office.people()
    parked = office.server.oid(f"{office.name}__swap")
    assert parked == before
    office.pgclone("recover").ok()
    assert pair_is_of_the_last_restore(office, before, older)
    assert not [note for note in office.notes() if office.name in note]
    cleaned = RunEvent.objects.filter(about__contains=f"{office.name}__swap")
    (event,) = cleaned
    assert event.person.endswith(" (command line)")
    assert event.text.startswith("cleaned up: ")
    return True


@pytest.mark.parametrize(
    ("number", "role"),
    [(signal.SIGINT, "pre"), (signal.SIGTERM, "post"), (signal.SIGHUP, "pre")],
)
def test_a_command_that_is_interrupted_after_its_swap_has_succeeded(office, number, role):
    key = commanded(office, "dump").ok().lines[0]
    arguments = ["restore", key, "--reversible", "--pre-swap-hook"]
    commanded(office, *arguments).ok()
    office.add_person("later")
    before, older = office.oid, local_copies(office)
    with older_in_use(office, role) as wait:
        started = office.start_pgclone(*arguments, "--post-swap-hook", "good_hook")
        wait()
        started.signal(number)
        time.sleep(0.2)
    done = started.wait(30).ok()
    assert done.lines == [key]
    assert f"warning: {DONE_BUT_INTERRUPTED}" in done.stderr
    assert f"warning: {HOOK_HAS_NOT_RUN}" in done.stderr
    assert "cancelled" not in done.stderr
    run = RestoreRun.objects.latest("pk")
    assert (run.status, run.error, run.result["database"]) == (Status.SUCCEEDED, "", office.name)
    assert restored_and_interrupted(office, before, older)


@pytest.mark.parametrize("role", ["pre", "post"])
def test_after_the_death_of_a_command_after_its_swap_pre_and_post_are_of_one_restore(office, role):
    key = commanded(office, "dump").ok().lines[0]
    arguments = ["restore", key, "--reversible", "--pre-swap-hook"]
    commanded(office, *arguments).ok()
    office.add_person("later")
    connections.close_all()
    before, older = office.oid, local_copies(office)
    with older_in_use(office, role) as wait:
        started = office.start_pgclone(*arguments)
        wait()
        started.signal(signal.SIGKILL)
        started.wait(30)
    until = time.monotonic() + 30
    while office.server.oid(f"{office.name}__swap"):  # its session ends when it is noticed
        assert time.monotonic() < until
        office.pgclone("recover").ok()
    assert "later" not in office.people()
    assert pair_is_of_the_last_restore(office, before, older)


def test_a_run_whose_worker_is_stopped_after_its_swap_has_succeeded(office, monkeypatch):
    ends = []
    monkeypatch.setattr(signal, "raise_signal", ends.append)
    key = commanded(office, "dump").ok().lines[0]
    commanded(office, "restore", key, "--reversible", "--pre-swap-hook").ok()
    office.add_person("later")
    before, older = office.oid, local_copies(office)
    given = {**HERE, "dump_key": key, "pre_swap_hooks": [], "reversible": True}
    with override_settings(PGCLONE_POST_SWAP_HOOKS=["good_hook"]):
        run = requests.request_restore(ADA, given, variant=Variant())
        with contextlib.ExitStack() as stack:
            wait = stack.enter_context(older_in_use(office))

            def stop():
                wait()
                os.kill(os.getpid(), signal.SIGTERM)
                stack.close()

            stopping = threading.Thread(target=stop)
            stopping.start()
            assert tasks.run_restore(run.pk) == "succeeded"
            stopping.join()
    assert ends == [signal.SIGTERM]
    run.refresh_from_db()
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    told = list(run.events.filter(level=RunEvent.Level.WARNING).values_list("text", flat=True))
    assert told[0].startswith(DONE_BUT_INTERRUPTED)
    assert told[1:] == [HOOK_HAS_NOT_RUN]
    assert restored_and_interrupted(office, before, older)


def test_a_command_that_is_interrupted_in_a_hook_after_the_swap_has_succeeded(office):
    key = commanded(office, "dump").ok().lines[0]
    office.add_person("later")
    connections.close_all()
    hooks = ["--post-swap-hook", "hang_hook", "good_hook"]
    started = office.start_pgclone("restore", key, "--pre-swap-hook", *hooks)
    until = time.monotonic() + 60
    while not (office.folder / "hook-hangs").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    started.signal(signal.SIGINT)
    done = started.wait(30).ok()
    assert 'warning: the restore is done, but the hook "hang_hook" was interrupted' in done.stderr
    assert f"warning: {HOOK_HAS_NOT_RUN}" in done.stderr
    assert RestoreRun.objects.get().status == Status.SUCCEEDED
    assert "later" not in office.people()


@pytest.mark.parametrize("stage", ["pre", "post"])
def test_a_run_that_is_given_up_says_whether_its_swap_has_happened(office, stage):
    key = commanded(office, "dump").ok().lines[0]
    connections.close_all()
    before = office.oid
    hooks = [f"--{stage}-swap-hook", "good_hook", "hang_hook"]
    if stage == "post":
        hooks += ["good_hook", "--pre-swap-hook"]
    started = office.start_pgclone("restore", key, *hooks)
    until = time.monotonic() + 60
    while not (office.folder / "hook-hangs").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    if stage == "post":
        while not RunEvent.objects.filter(text="running the hook hang_hook").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
    started.signal(signal.SIGKILL)
    started.wait(30)
    while RestoreRun.objects.get().status == Status.RUNNING:
        assert time.monotonic() < until
        if not lost_lock(office):
            lost.sweep(ADA)
    run = RestoreRun.objects.get()
    assert (run.status, run.live_oid) == (Status.LOST, before)
    if stage == "pre":
        assert office.oid == before
        assert run.error == "the worker did not finish it: its process is gone, before its swap"
        assert run.hint == (
            "The live database was not replaced. Look at what is there, then request it again."
        )
    else:
        assert office.oid != before
        assert run.error == "the worker did not finish it: its process is gone, but after its swap"
        assert run.hint == (
            "What it has restored is live. Do not request it again. Hooks after the swap that may "
            "not have run, or not to their end: hang_hook, good_hook"
        )


def test_a_run_on_another_server_or_of_no_known_database_says_nothing_of_a_swap(office):
    for fields in ({"live_oid": 1, "system_identifier": "1"}, {}):
        running(office, of_another_process(2**22 + 1), kind=Kind.RESTORE, **fields)
        (swept,) = lost.sweep(ADA)
        assert swept.run.error == "the worker did not finish it: its process is gone"
        assert swept.run.hint == "Look at what is there, then request it again."


def test_a_command_that_the_admin_cancels_stops(office):
    connections.close_all()
    with office.server.table_locked(office.name, '"MyTable"'):
        started = office.start_pgclone("dump")
        until = time.monotonic() + 20
        while not Dump.objects.filter(phase="dumping").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        run_control.cancel(ADA, Dump.objects.get())
        completed = started.wait(20).failed(1)
    assert "error: cancelled" in completed.stderr
    assert Dump.objects.get().status == Status.CANCELLED


def test_without_the_tables_a_command_works_and_says_nothing_of_it(office):
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TABLE pgclone_admin_runevent, pgclone_admin_dump, pgclone_admin_restorerun"
        )
    made = commanded(office, "dump").ok()
    assert made.stderr.splitlines() == office_lines(made)
    commanded(office, "restore", made.lines[0]).ok()
    commanded(office, "recover").ok()


def office_lines(made):
    """What a dump says anyway."""
    return [line for line in made.stderr.splitlines() if "record" not in line.lower()]


def test_without_the_database_a_command_fails_as_ever(office):
    down = office.databases(PORT="1")
    failed = commanded(office, "dump", database=down).failed(1)
    first, *_rest = failed.stderr.splitlines()
    assert first == "checking"
    assert "error: " in failed.stderr
    assert failed.seconds < 30


def test_a_row_of_another_restore_does_not_stop_a_command(office):
    key = commanded(office, "dump").ok().lines[0]
    running(office, of_another_machine(), kind=Kind.RESTORE)
    ((identifier,),) = office.server.admin("SELECT system_identifier FROM pg_control_system()")
    RestoreRun.objects.update(system_identifier=identifier)
    commanded(office, "restore", key, "--pre-swap-hook").ok()
    assert RestoreRun.objects.count() == 1


def test_restores_are_called_with_what_was_asked_for(monkeypatch):
    seen = []

    def look(options, reporter, *, variant):
        seen.append((options.dump_key, options.pre_swap_hooks, variant))
        raise PgcloneError("enough")

    monkeypatch.setattr(restores, "restore", look)
    variant = Variant(beside=":a_b", trust_foreign=True, ignore_standbys=True)
    run = requests.request_restore(
        ADA, {**HERE, "dump_key": "x/y.dump", "pre_swap_hooks": []}, variant=variant
    )
    assert tasks.run_restore(run.pk) == "error"
    ((key, hooks, used),) = seen
    assert (key, hooks) == ("x/y.dump", [])
    assert (used.beside, used.trust_foreign, used.ignore_standbys) == (":a_b", True, True)
    assert (used.confirmed_oid, used.drill) == (None, False)


def test_f43_a_process_that_the_system_hides_is_not_taken_for_dead(office, monkeypatch):
    """As with hidepid or ProtectProc: what cannot be looked at is only as silent as it is."""
    machine = own_process().partition(":")[0]
    hidden, ended = 4_194_301, 4_194_302  # no system gives such numbers

    def kill(pid, _signal):
        raise PermissionError if pid == hidden else ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    assert not is_gone(RestoreRun(process=f"{machine}:{hidden}:12345"))
    assert is_gone(RestoreRun(process=f"{machine}:{ended}:12345"))
