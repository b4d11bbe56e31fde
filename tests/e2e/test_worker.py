"""Runs that services ask for and a real qcluster does, in the database that they work on."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil
import psycopg2
import pytest
from django.contrib.auth.models import User
from django.db import Error, connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Schedule, Task

from pgclone_admin import tasks
from pgclone_admin.core.errors import Conflict
from pgclone_admin.models import Dump, Kind, RestoreRun, RunEvent, Status
from pgclone_admin.services import dump_care, lost, requests, run_control
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.restores import Variant
from tests.support import CANARY

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_behind")]

ADA = Actor.system("ada")
GRACE = Actor.system("grace")


def eventually(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while True:
        # Who is connected during a swap is sent away once.
        with contextlib.suppress(psycopg2.OperationalError, Error):
            if found := condition():
                return found
        connections.close_all()
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def ended(run, seconds=30.0):
    """The run, when it is over."""

    def is_over():
        run.refresh_from_db()
        return not run.is_active

    eventually(is_over, seconds)
    return run


def outcome(run):
    ended(run)
    return run.status, run.error_code, run.error


def begun(run, phase):
    """The run, when it is in the phase."""

    def is_there():
        run.refresh_from_db()
        assert run.is_active, (run.status, run.error)
        return run.phase == phase

    eventually(is_there)
    return run


def worker_of(run):
    eventually(lambda: run.refresh_from_db() or run.worker)
    return int(run.worker.rpartition(":")[2])


@contextlib.contextmanager
def cluster(office, *arguments, **changes):
    """A qcluster at work, which ends well."""
    options = {"settings": {"Q_CLUSTER": {**office.settings["Q_CLUSTER"], **changes}}}
    running = office.start("qcluster", *arguments, **options)
    yield running
    running.signal(signal.SIGTERM)
    completed = running.wait(30).ok()
    assert "Traceback" not in completed.stderr, completed
    assert CANARY not in completed.stderr + completed.stdout


def lines(run):
    return list(run.events.values_list("text", flat=True))


def with_hanging_hook(office):
    """``hang_hook`` among those that may be chosen."""
    office.settings["PGCLONE_CONFIGS"] = {"hanging": {"pre_swap_hooks": ["hang_hook"]}}


def asked_restore(key, **given):
    return requests.request_restore(
        ADA, {"dump_key": key, "database": "default", **given}, variant=Variant()
    )


# -- what is asked for is done


def test_a_dump_that_is_asked_for_is_made(office):
    with cluster(office):
        dump = requests.request_dump(ADA, {"database": "default"})
        assert outcome(dump) == (Status.SUCCEEDED, "", "")
        assert dump.key in office.files()
        assert dump.manifest["taken_by"] == "ada"
        assert (dump.size, dump.manifest["size"]) == (
            (office.storage_root / dump.key).stat().st_size,
        ) * 2
        eventually(lambda: Task.objects.filter(name=f"dump {dump.pk}").exists())
        task = Task.objects.get(name=f"dump {dump.pk}")
        assert (task.args, task.kwargs, task.result) == ((dump.pk,), {}, "succeeded")
    assert "dumping" in lines(dump)


def test_a_dump_of_a_schedule_is_made(office):
    office.settings["PGCLONE_CONFIGS"] = {"nightly": {"exclude": ["people.Secret"]}}
    Schedule.objects.create(
        func="pgclone_admin.tasks.ask_for_dump",
        kwargs="config='nightly', database='default'",
        schedule_type=Schedule.ONCE,
        next_run=timezone.now(),
    )
    with cluster(office):
        dump = eventually(Dump.objects.first, 60)
        assert outcome(dump) == (Status.SUCCEEDED, "", "")
    assert (dump.config, dump.requested_by) == ("nightly", "a schedule")
    assert dump.key in office.files()


def test_f34_a_restore_of_the_database_that_holds_the_run_ends_in_the_new_one(office):
    with cluster(office):
        dump = requests.request_dump(ADA, {"database": "default"})
        ended(dump)
        office.add_person("after the dump")
        before = office.oid
        run = asked_restore(dump.key, reversible=True)
        assert outcome(run) == (Status.SUCCEEDED, "", "")
        assert office.oid != before
        assert "after the dump" not in office.people()
        assert run.result["swap"]["attempts"] >= 1
        said = lines(run)
        for phase in ("checking", "restoring", "hooks", "swapping", "cleaning up"):
            assert phase in said, said
        assert "running the hook migrate" in said

        # The queue goes on, nobody has started anything.
        other = requests.request_dump(GRACE, {"database": "default"})
        assert outcome(other) == (Status.SUCCEEDED, "", "")
        eventually(lambda: OrmQ.objects.count() == 0)
        eventually(lambda: Task.objects.filter(success=True).count() == 3)
        back = asked_restore(":pre")
        assert outcome(back) == (Status.SUCCEEDED, "", "")
    assert "after the dump" in office.people()
    assert RestoreRun.objects.count() == 2


def test_every_kind_of_run_is_done(office):
    with cluster(office):
        dump = ended(requests.request_dump(ADA, {"database": "default"}))
        live = office.oid
        for run in (
            requests.request_verification(ADA, dump),
            requests.request_drill(ADA, dump),
            ended(requests.request_copy(ADA, "default", f":{office.name}_copy")),
            requests.request_drop(ADA, "default", f"{office.name}_copy"),
            requests.request_restore(
                ADA,
                {"dump_key": dump.key, "database": "default"},
                variant=Variant(hold=True),
            ),
        ):
            assert outcome(run) == (Status.SUCCEEDED, "", ""), run
        dump.refresh_from_db()
        assert dump.verified_at is not None
        assert dump.drilled_at is not None
        assert office.oid == live
        swap = requests.request_swap(ADA, "default")
        assert outcome(swap) == (Status.SUCCEEDED, "", "")
        assert office.oid != live


# -- workers that die


def test_f43_a_run_whose_worker_is_killed_is_lost_and_cleaned_up(office):
    with_hanging_hook(office)
    key = ended_dump(office)
    before = office.oid
    office.settings["PGCLONE_RUN_TIMEOUT"] = 13
    with cluster(office, timeout=14, retry=16) as running:
        run = asked_restore(key, pre_swap_hooks=["hang_hook"])
        eventually((office.folder / "hook-hangs").exists)
        os.kill(worker_of(run), signal.SIGKILL)
        # The worker that takes its place finds it.
        assert ended(run).status == Status.LOST
        assert run.error == "the worker did not finish it: its process is gone, before its swap"
        assert run.hint.startswith("The live database was not replaced.")
        eventually(lambda: f"{office.name}__temp" not in office.server.databases())
        # The task is delivered again, and finds nothing to do.
        eventually(lambda: Task.objects.filter(name=f"restorerun {run.pk}").exists(), 45)
        task = Task.objects.get(name=f"restorerun {run.pk}")
        assert (task.success, task.result) == (True, "already taken")
        run.refresh_from_db()
        assert run.status == Status.LOST
        assert running.process.poll() is None
    assert office.oid == before
    actions = run.events.filter(level=RunEvent.Level.AUDIT).values_list("person", "text")
    assert ("the system", "marked as lost: its process is gone") in actions


def ended_dump(office):
    return office.pgclone("dump").ok().lines[0]


def test_f43_a_dump_whose_worker_is_killed_leaves_no_partial_file(office):
    with cluster(office), office.server.table_locked(office.name, '"MyTable"'):
        dump = requests.request_dump(ADA, {"database": "default"})
        begun(dump, "dumping")
        os.kill(worker_of(dump), signal.SIGKILL)
        assert ended(dump).status == Status.LOST
        assert dump.key == ""
    assert [name for name in office.files() if "partial" in name] == []


def test_f43_killing_everything_leaves_a_run_that_the_next_cluster_gives_up(office):
    with_hanging_hook(office)
    key = ended_dump(office)
    running = office.start("qcluster")
    run = asked_restore(key, pre_swap_hooks=["hang_hook"])
    eventually((office.folder / "hook-hangs").exists)
    running.kill()
    assert RestoreRun.objects.get().status == Status.RUNNING
    with cluster(office):
        assert ended(run).status == Status.LOST
        eventually(lambda: f"{office.name}__temp" not in office.server.databases())


def test_the_command_gives_up_what_is_lost_and_says_so(office):
    with_hanging_hook(office)
    key = ended_dump(office)
    running = office.start("qcluster")
    run = asked_restore(key, pre_swap_hooks=["hang_hook"])
    eventually((office.folder / "hook-hangs").exists)
    running.kill()
    wished = office.pgclone("recover", "--dry-run").ok()
    assert f"would give up the restore run {run.pk}: its worker, " in wished.stdout
    assert RestoreRun.objects.get().status == Status.RUNNING
    done = office.pgclone("recover").ok()
    assert f"given up the restore run {run.pk}: its worker, " in done.stdout
    assert "dropped the temporary database" in done.stdout
    assert ended(run).status == Status.LOST


def test_f45_a_run_that_takes_too_long_is_ended_and_cleaned_up(office):
    with_hanging_hook(office)
    office.settings["PGCLONE_RUN_TIMEOUT"] = 4
    key = ended_dump(office)
    with cluster(office):
        run = asked_restore(key, pre_swap_hooks=["hang_hook"])
        assert outcome(run) == (
            Status.FAILED,
            "timed_out",
            "the run was ended after 4 seconds because it took too long",
        )
        assert f"{office.name}__temp" not in office.server.databases()
        assert outcome(requests.request_dump(ADA, {"database": "default"}))[0] == "succeeded"


def test_f45_a_dump_that_waits_too_long_is_ended_with_its_children(office):
    office.settings["PGCLONE_RUN_TIMEOUT"] = 3
    with cluster(office), office.server.table_locked(office.name, '"MyTable"'):
        dump = requests.request_dump(ADA, {"database": "default"})
        assert outcome(dump)[:2] == (Status.FAILED, "timed_out")
        children = psutil.Process(worker_of(dump)).children()
        assert [child.name() for child in children if child.name() == "pg_dump"] == []


def test_f45_the_time_out_of_the_queue_ends_a_run_that_has_time_left(office):
    with_hanging_hook(office)
    office.settings["PGCLONE_RUN_TIMEOUT"] = 60
    key = ended_dump(office)
    # The system checks would not let it begin.
    with cluster(office, "--skip-checks", timeout=4):
        run = asked_restore(key, pre_swap_hooks=["hang_hook"])
        assert outcome(run)[:2] == (Status.FAILED, "timed_out")
        assert f"{office.name}__temp" not in office.server.databases()


def test_f45_sigterm_to_a_whole_cluster_ends_its_run_as_interrupted(office):
    with_hanging_hook(office)
    key = ended_dump(office)
    running = office.start("qcluster")
    run = asked_restore(key, pre_swap_hooks=["hang_hook"])
    eventually((office.folder / "hook-hangs").exists)
    worker = psutil.Process(worker_of(run))
    os.killpg(running.pid, signal.SIGTERM)
    assert outcome(run) == (Status.FAILED, "interrupted", "the worker was stopped")
    assert f"{office.name}__temp" not in office.server.databases()
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    running.kill()


# -- cancelling


def test_f49_what_is_cancelled_while_it_is_queued_never_starts(office):
    dump = requests.request_dump(ADA, {"database": "default"})
    run_control.cancel(ADA, dump)
    with cluster(office):
        eventually(lambda: Task.objects.filter(name=f"dump {dump.pk}").exists())
        assert Task.objects.get().result == "already taken"
    assert ended(dump).status == Status.CANCELLED
    assert office.files() == []


def test_f49_what_is_cancelled_while_it_dumps_stops(office):
    with cluster(office), office.server.table_locked(office.name, '"MyTable"'):
        dump = requests.request_dump(ADA, {"database": "default"})
        begun(dump, "dumping")
        run_control.cancel(ADA, dump)
        run_control.cancel(ADA, dump)
        asked = time.monotonic()
        assert outcome(dump) == (Status.CANCELLED, "cancelled", "cancelled")
        assert time.monotonic() - asked < 8
        run_control.cancel(ADA, dump)
    assert office.files() == []
    actions = dump.events.filter(level=RunEvent.Level.AUDIT).values_list("text", flat=True)
    assert list(actions) == ["requested a dump", "cancelled"]


def test_f49_what_is_cancelled_in_a_hook_stops(office):
    with_hanging_hook(office)
    key = ended_dump(office)
    with cluster(office):
        run = asked_restore(key, pre_swap_hooks=["hang_hook"])
        eventually((office.folder / "hook-hangs").exists)
        run_control.cancel(ADA, run)
        assert outcome(run)[0] == Status.CANCELLED
        assert f"{office.name}__temp" not in office.server.databases()


def test_f49_what_swaps_cannot_be_cancelled_any_more(office):
    key = ended_dump(office)
    before = office.oid
    # The swap waits for the table that is kept, and gives up when its patience is over.
    office.settings["PGCLONE_SWAP_TIMEOUT"] = 4
    with cluster(office):
        blocker = office.connect()
        blocker.autocommit = False
        blocker.cursor().execute("LOCK TABLE django_session IN ROW EXCLUSIVE MODE")
        run = asked_restore(key, pre_swap_hooks=[])
        begun(run, "swapping")
        with pytest.raises(Conflict, match="too late to cancel"):
            run_control.cancel(ADA, run)
        assert outcome(run)[:2] == (Status.FAILED, "too_busy")
        blocker.close()
    assert office.oid == before


# -- two at once


def test_f39_f48_of_two_restores_that_are_asked_for_one_is_made(office):
    key = ended_dump(office)
    first = asked_restore(key)
    with pytest.raises(Conflict) as caught:
        requests.request_restore(GRACE, {"dump_key": key, "database": "default"}, variant=Variant())
    assert f"run {first.pk}, requested by ada" in str(caught.value)
    with cluster(office):
        assert outcome(first)[0] == Status.SUCCEEDED
    assert RestoreRun.objects.count() == 1


def test_f44_a_run_that_is_delivered_to_two_workers_is_done_once(office):
    dump = requests.request_dump(ADA, {"database": "default"})
    for _again in range(3):
        run_control.requeue(ADA, dump)
    with cluster(office, workers=3, queue_limit=3):
        eventually(lambda: Task.objects.count() == 4)
        results = sorted(task.result for task in Task.objects.all())
        assert results == ["already taken"] * 3 + ["succeeded"]
    assert len([name for name in office.files() if name.endswith(".dump")]) == 1


# -- secrets


def everything_shown(person, runs):
    """The text of every page and every JSON that the admin shows of the runs."""
    client = Client()
    client.force_login(person)
    lists = (
        *(f"pgclone_admin_{model}" for model in ("dump", "restorerun", "localdatabase")),
        "pgclone_admin_configuration",
        *(f"django_q_{model}" for model in ("success", "failure", "ormq")),
    )
    urls = [reverse("admin:index"), reverse("admin:app_list", args=["pgclone_admin"])]
    urls += [reverse(f"admin:{name}_changelist") for name in lists]
    tasks = Task.objects.values_list("pk", flat=True)
    urls += [reverse("admin:django_q_success_change", args=[task]) for task in tasks]
    for run in runs:
        for page in ("change", "progress", "history"):
            name = f"admin:pgclone_admin_{run._meta.model_name}_{page}"
            urls.append(reverse(name, args=[run.pk]))
        if isinstance(run, Dump) and run.key:
            urls.append(reverse("admin:pgclone_admin_dump_restore", args=[run.pk]))
    texts = []
    for url in urls:
        answer = client.get(url)
        assert answer.status_code == 200, url
        texts.append(answer.content.decode())
    return "\n".join(texts)


@pytest.mark.allow_left_behind("*__temp")
def test_f54_f60_a_password_is_nowhere_after_dumps_and_restores_that_failed(office):
    office.settings["PGCLONE_CONFIGS"] = {
        "leaky": {"pre_swap_hooks": ["leaky_hook"], "pre_dump_hooks": ["leaky_hook"]}
    }
    person = User.objects.create_superuser("root", password="x")
    actor = Actor.of(person)
    with cluster(office) as running:
        dump = ended(requests.request_dump(ADA, {"database": "default"}))
        told = ended(requests.request_dump(ADA, {"pre_dump_hooks": ["leaky_hook"]}))
        office.run("CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO postgres", "postgres")
        not_ours = ended(requests.request_dump(ADA, {"instance": "there"}))
        office.run("DROP TABLE theirs", "postgres")
        run = ended(asked_restore(dump.key, pre_swap_hooks=["leaky_hook"]))
        (office.storage_root / dump.key).write_bytes(b"PGDMP" + bytes(5000))
        broken = ended(asked_restore(dump.key))
        dump_care.pin_dump(actor, dump, pinned=True)
        runs = [dump, told, not_ours, run, broken]
        assert [each.status for each in runs] == ["succeeded", *["failed"] * 4]
        eventually(lambda: Task.objects.count() == len(runs))
        said = running.stderr() + running.stdout()
    rows = office.run(
        "SELECT t::text FROM pgclone_admin_dump t UNION ALL"
        " SELECT t::text FROM pgclone_admin_restorerun t UNION ALL"
        " SELECT t::text FROM pgclone_admin_runevent t UNION ALL"
        " SELECT t::text FROM django_admin_log t UNION ALL"
        " SELECT t::text FROM django_q_task t"
    )
    assert len(rows) > 20
    shown = everything_shown(person, runs)
    assert "***" in shown
    assert "permission denied for table theirs" in shown
    everything = "\n".join(row[0] for row in rows) + said + shown
    assert CANARY not in everything
    assert {str(task.result) for task in Task.objects.all()} == {
        "succeeded",
        *(each.error_code for each in runs[1:]),
    }


# -- the command line


def test_a_restore_by_the_command_ends_in_the_new_database_too(office):
    key = ended_dump(office)
    before = office.oid
    office.pgclone("restore", key).ok()
    assert office.oid != before
    connections.close_all()
    run = RestoreRun.objects.get()
    assert (run.kind, run.status, run.key, run.target) == (
        Kind.RESTORE,
        Status.SUCCEEDED,
        key,
        office.name,
    )
    assert run.requested_by.endswith(" (command line)")
    assert {"swapping", "cleaning up", "running the hook migrate"} <= set(lines(run))
    assert Dump.objects.get().status == Status.SUCCEEDED


def test_sweeping_leaves_those_alone_that_live(office):
    with cluster(office), office.server.table_locked(office.name, '"MyTable"'):
        dump = requests.request_dump(ADA, {"database": "default"})
        begun(dump, "dumping")
        assert lost.sweep(GRACE) == []
        assert tasks.run_dump(dump.pk) == "already taken"
        run_control.cancel(ADA, dump)
        ended(dump)
