"""The index of the app: how things stand, at a glance."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone

from pgclone_admin.models import Dump, Kind, Status

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

ALL = ("view_dump", "view_restorerun")

MISSING = "There is no good dump of the database “default” from here."
NO_WORKER = "no worker takes them"


def index(client):
    response = client.get(reverse("admin:app_list", args=["pgclone_admin"]))
    assert response.status_code == 200
    return response.content.decode()


def overview(client):
    response = client.get(reverse("admin:app_list", args=["pgclone_admin"]))
    return response.context["overview"]


def test_f66_the_newest_good_dump_of_each_database_and_configuration_is_shown(pages):
    older = pages.dump()
    newest = pages.dump(verified_at=timezone.now())
    pages.dump(status=Status.FAILED, key="", finished_at=timezone.now())
    pages.dump(status=Status.MISSING)
    anonymous = pages.dump(config="anonymous", drilled_at=timezone.now())
    production = pages.dump(instance="production", database="shop")

    rows = overview(pages.client(*ALL)).newest

    assert [row.dump for row in rows] == [anonymous, newest, production]
    assert [row.proof for row in rows] == ["restored in a drill", "verified", "not verified"]
    assert [row.is_here for row in rows] == [True, True, False]
    assert older not in [row.dump for row in rows]


def test_what_is_under_way_and_what_failed_last_is_shown_with_links(pages):
    now = timezone.now()
    pages.dump()
    for days in (5, 4, 3):
        pages.dump(
            status=Status.FAILED,
            key="",
            requested_at=now - timedelta(days=days),
            finished_at=now - timedelta(days=days),
            error=f"failed {days} days ago\nand more",
        )
    lost = pages.run(status=Status.LOST, finished_at=now, requested_at=now, error="<b>lost</b>")
    drill = pages.run(status=Status.RUNNING, kind=Kind.DRILL, started_at=now, heard_at=now)

    text = index(pages.client(*ALL))

    assert MISSING not in text
    assert NO_WORKER not in text
    for run in (lost, drill):
        assert reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]) in text
    assert "&lt;b&gt;lost&lt;/b&gt;" in text
    assert "Failed 3 days ago" in text
    assert "Failed 4 days ago" in text
    assert "Failed 5 days ago" not in text
    assert "and more" not in text


def test_f66_what_failed_is_gone_or_empty_is_no_good_dump(pages):
    pages.dump(status=Status.FAILED, key="", finished_at=timezone.now())
    pages.dump(status=Status.MISSING)
    pages.dump(size=0)
    found = overview(pages.client(*ALL))
    assert found.warnings == [MISSING]
    assert found.newest == []
    old = pages.dump(taken_at=timezone.now() - timedelta(days=97))
    (newest,) = overview(pages.client(*ALL)).newest
    assert newest.dump == old
    assert "3\xa0months ago" in newest.age


def test_what_is_wrong_is_told(pages):
    client = pages.client(*ALL)
    assert overview(client).warnings == [MISSING]
    pages.dump(instance="production")
    assert overview(client).warnings == [MISSING]
    pages.dump()
    waits = pages.dump(status=Status.QUEUED, key="", requested_at=timezone.now())
    assert overview(client).warnings == []
    Dump.objects.filter(pk=waits.pk).update(requested_at=timezone.now() - timedelta(minutes=2))
    assert NO_WORKER in index(client)
    now = timezone.now()
    run = pages.run(status=Status.RUNNING, kind=Kind.DRILL, started_at=now, heard_at=now)
    assert overview(client).warnings == []  # one is at work, and takes the next one after it
    type(run).objects.update(heard_at=now - timedelta(minutes=10))
    told = overview(client).warnings
    assert [NO_WORKER in told[0], "it may have died" in told[1]] == [True, True]
    clean_up = reverse("admin:pgclone_admin_restorerun_clean_up")
    assert clean_up not in index(client)
    assert clean_up in index(pages.client(*ALL, "cancel_run"))
    with override_settings(PGCLONE_ALLOW_RESTORE=False, PGCLONE_ALLOW_DUMP=False):
        text = index(client)
        assert "Restores are not allowed here: PGCLONE_ALLOW_RESTORE is False." in text
        assert "Dumps are not allowed here: PGCLONE_ALLOW_DUMP is False." in text


def test_nobody_sees_more_than_they_may(pages):
    dump = pages.dump(config="secret-config", error="")
    pages.run(status=Status.FAILED, error="secret failure", finished_at=timezone.now())
    url = reverse("admin:app_list", args=["pgclone_admin"])
    assert "/login/" in Client().get(url)["Location"]
    assert "/login/" in Client().post(url)["Location"]
    assert pages.client().get(url).status_code == 404
    runs_only, dumps_only = pages.client("view_restorerun"), pages.client("view_dump")
    assert "secret-config" not in index(runs_only)
    assert "Secret failure" in index(runs_only)
    assert "secret-config" in index(dumps_only)
    assert "Secret failure" not in index(dumps_only)
    text = index(pages.client("view_configuration"))
    assert "secret" not in text.lower().replace("secrets", "")
    assert str(dump.key) not in text


def test_ten_thousand_dumps_need_as_few_queries_as_one(pages, django_assert_max_num_queries):
    client = pages.client(*ALL)
    pages.dump()
    url = reverse("admin:app_list", args=["pgclone_admin"])
    client.get(url)
    row = Dump.objects.get()
    Dump.objects.bulk_create(
        Dump(
            location=row.location,
            key=f"here/default/c{number % 30}/{number}.dump",
            instance="here",
            database="default",
            config=f"c{number % 30}",
            status=Status.SUCCEEDED,
            taken_at=row.taken_at + timedelta(minutes=number),
            manifest={"key": "x"},
        )
        for number in range(10_000)
    )
    with django_assert_max_num_queries(12):
        shown = client.get(url).context["overview"]
    assert len(shown.newest) == 20
    assert shown.has_more
