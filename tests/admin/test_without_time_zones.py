"""A site with ``USE_TZ = False``, whose rows have times without a zone."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from django.db import connections
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from pgclone_admin.models import Dump, RestoreRun, Status
from pgclone_admin.runner import run_restore
from pgclone_admin.services import lost, requests
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.local_databases import local_databases
from tests.admin.test_local_pages import marked
from tests.integration.test_runner import of_another_process

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def site_without_zones(pages):
    """``pages`` in a zone that is never UTC, with a dump, a run that was done, and copies."""
    connections.close_all()  # what is open has the zone of before
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        dump = pages.made_dump()
        drill = requests.request_drill(Actor.system("a test"), dump)
        assert run_restore(drill) == Status.SUCCEEDED
        pages.run(status=Status.RUNNING, started_at=timezone.now() - timedelta(hours=1))
        for kind in ("pre", "held"):
            marked(pages, kind)
        yield pages
        connections.close_all()


def addresses():
    for model, rows, names in (
        ("dump", Dump.objects.all(), ["change", "restore", "delete", "progress", "log"]),
        ("restorerun", RestoreRun.objects.all(), ["change", "progress", "log"]),
        ("localdatabase", local_databases(), ["change", "drop"]),
        ("localdatabase", local_databases().filter(name__endswith="pre"), ["restore"]),
        ("localdatabase", local_databases().filter(name__endswith="held"), ["swap"]),
    ):
        yield reverse(f"admin:pgclone_admin_{model}_changelist")
        for row in rows:
            for name in names:
                yield reverse(f"admin:pgclone_admin_{model}_{name}", args=[row.pk])
    yield reverse("admin:app_list", args=["pgclone_admin"])
    yield reverse("admin:index")


def test_every_page_is_shown(site_without_zones):
    client = site_without_zones.superuser()
    for url in addresses():
        assert client.get(url).status_code == 200, url


def test_what_was_just_made_is_of_now_in_the_zone_of_the_site(site_without_zones):
    client = site_without_zones.superuser()
    dump = Dump.objects.get()
    for model, row in (("localdatabase", local_databases().first()), ("dump", dump)):
        address = reverse(f"admin:pgclone_admin_{model}_change", args=[row.pk])
        text = client.get(address).content.decode()
        told = re.search(r'title="([^"]*)">just now', text)
        said = datetime.strptime(told[1], "%Y-%m-%d %H:%M:%S JST")  # noqa: DTZ007 - as it is shown
        assert abs(said - timezone.now()) < timedelta(minutes=2)


def test_what_a_lost_dump_has_left_is_cleaned_up(site_without_zones):
    pages = site_without_zones
    begun = timezone.now()
    dump = pages.dump(status=Status.RUNNING, started_at=begun, taken_at=None, key="")
    Dump.objects.filter(pk=dump.pk).update(
        process=of_another_process(2**22 + 1), heard_at=begun - timedelta(hours=1)
    )
    made = Dump.objects.get(status=Status.SUCCEEDED)
    left = pages.storage_root / f"{made.key}.partial-0123456789abcdef"
    left.write_bytes(b"x")

    lost.give_up(Actor.system("a test"), dump)

    assert not left.exists()
