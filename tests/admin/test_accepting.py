"""What stands in the way and can be accepted: settings that are lost, sessions on a standby."""

from __future__ import annotations

import html
import re

import pytest
from django.test import override_settings
from django.urls import reverse

from pgclone_admin import runner
from pgclone_admin.models import RestoreRun
from pgclone_admin.services import requests
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.local_databases import local_databases
from pgclone_admin.services.restores import Variant
from tests.support.standby import Standby

from .conftest import Pages

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

LOST = ["log_duration", "reader:work_mem"]
LOSSES = "Accept that these settings and grants are lost"
STANDBYS = "Accept that sessions on standbys go on reading what is replaced"
WAY = "This stands in the way:"


def lose(site):
    """The live database has settings that only a superuser may carry."""
    for statement in (
        'ALTER DATABASE "{db}" SET log_duration = on',
        "ALTER ROLE reader IN DATABASE \"{db}\" SET work_mem = '8MB'",
    ):
        site.server.admin(statement.format(db=site.name))


def url_of(dump):
    return reverse("admin:pgclone_admin_dump_restore", args=[dump.pk])


def swap_url(held):
    return reverse("admin:pgclone_admin_localdatabase_swap", args=[f"default-{held.oid}"])


def text_of(response):
    return html.unescape(response.content.decode())


def inputs(text, name):
    """Values of the visible inputs of this name that are checked, and of all of them."""
    found = re.findall(rf'<input type="checkbox" name="{name}"([^>]*)>', text)
    values = [re.findall(r'value="([^"]*)"', each) or ["on"] for each in found]
    checked = [value[0] for value, each in zip(values, found, strict=True) if "checked" in each]
    return checked, [value[0] for value in values]


def confirmed(pages, **more):
    return {
        "database": "default",
        "what": "over",
        "confirm_oid": str(pages.site.oid),
        "confirm_name": pages.site.name,
        **more,
    }


def test_settings_that_cannot_be_carried_are_lost_only_by_name(pages):
    dump, client = pages.made_dump(), pages.client("restore_database")
    lose(pages.site)
    url = url_of(dump)
    assert LOSSES not in text_of(client.get(url))

    refused = client.post(url, confirmed(pages))
    text = text_of(refused)
    assert (refused.status_code, RestoreRun.objects.count()) == (200, 0)
    assert f"{WAY} Settings or grants of the database" in re.sub(r"</?strong>", "", text)
    assert inputs(text, "lose_settings") == ([], LOST)
    assert STANDBYS not in text

    some = client.post(url, confirmed(pages, lose_settings=LOST[:1]))
    assert inputs(text_of(some), "lose_settings") == (LOST[:1], LOST)
    assert RestoreRun.objects.count() == 0

    # Looking at the plan proves nothing, and shows what was accepted.
    chosen = {"looked": 1, "database": "default", "what": "over", "lose_settings": LOST}
    looked = text_of(client.get(url, chosen))
    assert inputs(looked, "lose_settings") == (LOST, LOST)
    assert looked.count('type="hidden" name="lose_settings"') == len(LOST)
    assert WAY not in looked

    assert client.post(url, confirmed(pages, lose_settings=LOST)).status_code == 302
    run = RestoreRun.objects.get()
    assert run.options["variant"]["lose_settings"] == LOST
    assert runner.run_restore(run) == "succeeded"
    assert "log_duration" not in str(pages.site.database_properties()["settings"])
    page = text_of(
        pages.superuser().get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
    )
    assert "Settings and grants that may be lost" in page


def test_what_a_person_accepts_is_added_to_what_the_settings_accept(pages):
    dump, client = pages.made_dump(), pages.client("restore_database")
    lose(pages.site)
    with override_settings(PGCLONE_LOSE_SETTINGS=LOST[1:]):
        refused = text_of(client.post(url_of(dump), confirmed(pages)))
        assert "log_duration (permission denied" in refused
        accepted = confirmed(pages, lose_settings=LOST[:1])
        assert client.post(url_of(dump), accepted).status_code == 302
        run = RestoreRun.objects.get()
        assert sorted(run.options["variant"]["lose_settings"]) == LOST
        assert runner.run_restore(run) == "succeeded"


def held_of(dump):
    """A restore that waits to be swapped in, made before there was anything to accept."""
    given = {"dump_key": dump.key, "storage_location": dump.location, "pre_swap_hooks": []}
    run = requests.request_restore(Actor.system("a test"), given, variant=Variant(hold=True))
    assert runner.run_restore(run) == "succeeded"
    run.delete()
    return local_databases().get()


def test_a_held_restore_is_swapped_in_without_what_may_be_lost(pages):
    held = held_of(pages.made_dump())
    lose(pages.site)
    client, url, was_live = pages.client("restore_database"), swap_url(held), pages.site.oid

    refused = client.post(url, confirmed(pages, reversible="on"))
    text = text_of(refused)
    assert (refused.status_code, RestoreRun.objects.count()) == (200, 0)
    assert inputs(text, "lose_settings") == ([], LOST)
    assert inputs(text, "reversible") == (["on"], ["on"])
    assert WAY in text

    accepted = confirmed(pages, reversible="on", lose_settings=LOST)
    assert client.post(url, accepted).status_code == 302
    run = RestoreRun.objects.get()
    assert runner.run_restore(run) == "succeeded"
    assert pages.site.oid == held.oid
    assert pages.site.server.oid(f"{pages.site.name}__pre") == was_live


@pytest.fixture
def replicated(own_pg, admin_database, use_database, storage_root):
    """``pages`` of a site whose server has a standby that is not among its databases."""
    primary = own_pg()
    site = admin_database(primary)
    use_database(site)
    with override_settings(
        PGCLONE_STORAGE_LOCATION=f"{storage_root}/",
        PGCLONE_INSTANCE="here",
        PGCLONE_BIN_DIR=str(primary.bin_dir),
    ):
        yield Pages(site, storage_root)


def test_sessions_on_a_standby_go_on_only_where_that_is_accepted(replicated):
    pages = replicated
    dump = pages.made_dump()
    held = held_of(dump)
    client = pages.client("restore_database")
    with Standby(pages.site.server):
        for url in (url_of(dump), swap_url(held)):
            refused = text_of(client.post(url, confirmed(pages, reversible="on")))
            assert "a server replicates from this one" in refused.lower()
            assert inputs(refused, "ignore_standbys") == ([], ["on"])
            assert LOSSES not in refused
            assert RestoreRun.objects.count() == 0
        looked = {"looked": 1, "database": "default", "what": "over", "reversible": "on"}
        assert WAY in text_of(client.get(url_of(dump), looked))
        looked["ignore_standbys"] = "on"
        assert WAY not in text_of(client.get(url_of(dump), looked))

        accepted = confirmed(pages, reversible="on", ignore_standbys="on")
        assert client.post(swap_url(held), accepted).status_code == 302
        run = RestoreRun.objects.get()
        assert runner.run_restore(run) == "succeeded"
        assert any("a server replicates" in event.text for event in run.events.all())
