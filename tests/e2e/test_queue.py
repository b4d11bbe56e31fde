"""A real qcluster whose queue lies in the database that is dumped and restored."""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import pickle
import signal
import time

import psycopg2
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_behind")]

STALL = 15.0
"""Seconds after which a queue goes on at the latest: when the swap meets it in the middle of a
query, django-q2 waits for ten seconds before it looks again."""


@pytest.fixture
def site(make_project):
    project = make_project(apps=("django.contrib.sessions", "django_q"))
    project.settings["Q_CLUSTER"] = {
        "name": "tests",
        "orm": "default",
        "workers": 1,
        # What is not at work waits in the table, but for two that are taken out before.
        "queue_limit": 1,
        "poll": 0.1,
        "timeout": 40,
        "retry": 60,
        "max_attempts": 1,
        "ack_failures": True,
    }
    return project


def eventually(condition, seconds=STALL):
    until = time.monotonic() + seconds
    while True:
        # Who connects during a swap is sent away once; the site's own connections are not.
        with contextlib.suppress(psycopg2.OperationalError):
            if condition():
                return
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


@contextlib.contextmanager
def cluster(site, **options):
    """A qcluster at work, which is never started anew; it loses no result and ends well."""
    running = site.start("qcluster", **options)
    yield running
    running.signal(signal.SIGTERM)
    completed = running.wait(20).ok()
    assert "Could not save task result" not in completed.stderr, completed


def enqueue(site, *tasks, **options):
    site.manage("enqueue", *map(json.dumps, tasks), **options).ok()


def runs(site):
    """How often each task has run."""
    file = site.folder / "runs"
    lines = file.read_text().splitlines() if file.exists() else []
    return collections.Counter(line.rpartition(" ")[0] for line in lines)


def ran_at(site, name):
    lines = (site.folder / "runs").read_text().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def queued(site):
    return [row[0] for row in site.run("SELECT id FROM django_q_ormq ORDER BY id")]


def results(site):
    """What the tasks returned that succeeded."""
    rows = site.run("SELECT name, result FROM django_q_task WHERE success")
    return {name: result and unpickled(result) for name, result in rows}


def unpickled(text):
    return pickle.loads(base64.b64decode(text))


def test_a_dump_made_by_a_task_holds_no_task_and_runs_none_again(site):
    with cluster(site):
        enqueue(site, ["pgclone", "the dump", "dump"])
        eventually(lambda: "the dump" in results(site))
        key = results(site)["the dump"]
        archive = site.pgclone("cat", key).ok().output
        text = site.server.archive_as_sql(archive)
        assert "CREATE TABLE public.django_q_ormq (" in text
        assert "COPY public.django_q_" not in text
        site.add_person("after the dump")

        site.pgclone("restore", key).ok()
        assert queued(site) == []

        enqueued = time.time()
        enqueue(site, ["note", "after the swap"])
        eventually(lambda: "after the swap" in results(site))
        assert ran_at(site, "after the swap") - enqueued < STALL
        eventually(lambda: queued(site) == [])
    assert "after the dump" not in site.people()
    assert runs(site) == {"the dump": 1, "after the swap": 1}
    assert set(results(site)) == {"the dump", "after the swap"}


@pytest.mark.parametrize("max_age", [0, 60])
def test_tasks_that_wait_or_are_at_work_during_a_swap_run_once(site, max_age):
    options = {"database": site.databases(CONN_MAX_AGE=max_age, CONN_HEALTH_CHECKS=True)}
    key = site.pgclone("dump").ok().lines[0]
    waiting = [f"waiting {number}" for number in range(4)]
    later = [f"later {number}" for number in range(3)]
    with cluster(site, **options):
        enqueue(site, ["wait", "at work", "go on"], *(["note", name] for name in waiting))
        eventually(lambda: runs(site))
        # The task at work, and another row for each that waits, taken out or not.
        before = queued(site)
        assert len(before) == 5

        site.pgclone("restore", key).ok()

        assert queued(site) == before
        # The dump is older than the tasks: their numbers must not be given again, as that of the
        # task at work is deleted when it is done.
        enqueue(site, *(["note", name] for name in later))
        assert min(set(queued(site)) - set(before)) > max(before)
        assert runs(site) == {"at work": 1}
        (site.folder / "go on").touch()
        eventually(lambda: queued(site) == [])
    everything = ["at work", *waiting, *later]
    assert runs(site) == dict.fromkeys(everything, 1)
    assert results(site) == {name: name for name in everything}


def test_a_task_may_restore_the_database_that_its_own_queue_is_in(site):
    options = {"database": site.databases(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)}
    key = site.pgclone("dump").ok().lines[0]
    site.add_person("after the dump")
    with cluster(site, **options):
        enqueue(
            site,
            ["pgclone", "the restore", "restore", key, "--reversible"],
            ["note", "behind it"],
            **options,
        )
        eventually(lambda: "behind it" in results(site), 30)
        eventually(lambda: queued(site) == [])
    assert "after the dump" not in site.people()
    assert results(site) == {"the restore": key, "behind it": "behind it"}
    assert runs(site) == {"the restore": 1, "behind it": 1}
