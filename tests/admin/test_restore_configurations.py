"""The configuration of a restore: chosen on its page, or led to from its own."""

from __future__ import annotations

import html
import re

import pytest
from django.test import override_settings
from django.urls import reverse

from pgclone_admin import runner
from pgclone_admin.models import Configuration, RestoreRun, Status

from .test_local_pages import reverted
from .test_local_pages import url_of as url_of_local
from .test_restore_page import RESTORE, confirmation, url_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

ANONYMIZE = {"anonymize": {"auth.User.email": "email"}, "seed": "hush-hush"}
LATER = {"name": "later", "code": "SELECT 1"}
LOCAL = {
    "pre_swap_hooks": ["migrate", ANONYMIZE],
    "post_swap_hooks": [LATER],
    "require_anonymized": True,
    "reversible": True,
}
CHANGELIST = "admin:pgclone_admin_configuration_changelist"
LEAD = "admin:pgclone_admin_configuration_to_restore"


@pytest.fixture(autouse=True)
def local():
    with override_settings(
        PGCLONE_CONFIGS={"local": LOCAL, "plain": {"pre_swap_hooks": []}},
    ):
        yield


def ticked(text):
    return re.findall(r'type="checkbox" name="\w+" value="([^"]*)"[^>]* checked', text) + (
        ["reversible"] if re.search(r'type="checkbox" name="reversible"[^>]* checked', text) else []
    )


def looked(config, made_with="", **more):
    return {
        "looked": 1,
        "database": "default",
        "what": "over",
        "config": config,
        "made_with": made_with,
        **more,
    }


def test_another_configuration_fills_in_what_it_says_and_then_that_can_be_changed(pages):
    dump = pages.made_dump()
    client = pages.client(RESTORE)
    text = client.get(url_of(dump)).content.decode()
    assert ticked(text) == ["migrate"]
    assert re.findall(r'<option value="(\w*)"( selected)?>', text)[:3] == [
        ("", " selected"),
        ("local", ""),
        ("plain", ""),
    ]

    text = client.get(url_of(dump), looked("local", hooks=["migrate"])).content.decode()
    assert ticked(text) == ["migrate", "anonymize (local)", "later", "reversible"]
    assert 'name="made_with" value="local"' in text
    assert "anonymize (local) (anonymizing: 1 fields" in text
    assert f"Replace database {pages.site.name}</button>" in text

    text = client.get(url_of(dump), looked("local", "local", hooks=["migrate"])).content.decode()
    assert ticked(text) == ["migrate"]
    assert "none of the pre-swap hooks anonymizes" in text
    assert "Replace database" not in text


def test_what_is_confirmed_is_what_minus_c_would_do(pages):
    dump = pages.made_dump()
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump), looked("local"))
    chosen = {
        "config": "local",
        "made_with": "local",
        "hooks": ["migrate", "anonymize (local)"],
        "post_swap_hooks": ["later"],
        "reversible": "on",
    }

    # As no browser posts it: the choices are not those of this configuration yet.
    early = client.post(url_of(dump), confirmation(pages, shown, **{**chosen, "made_with": ""}))
    assert (early.status_code, RestoreRun.objects.count()) == (200, 0)
    response = client.post(url_of(dump), confirmation(pages, shown, **chosen))

    assert response.status_code == 302, response.content
    run = RestoreRun.objects.get()
    given = run.options["arguments"]
    assert (given["config"], given["reversible"]) == ("local", True)
    assert runner.run_restore(run) == Status.SUCCEEDED
    assert pages.site.run("SELECT fields FROM pgclone_anonymized") == [(["auth.User.email"],)]


def test_a_configuration_that_requires_anonymized_data_gives_way_to_its_like_alone(pages):
    made = pages.made_dump()
    type(made).objects.update(config="local")
    with override_settings(
        PGCLONE_CONFIGS={"local": LOCAL, "plain": {}, "strict": {"require_anonymized": True}}
    ):
        client = pages.client(RESTORE)
        text = client.get(url_of(made)).content.decode()
        assert re.findall(r'<option value="(\w+)"', text)[:2] == ["local", "strict"]
        assert ticked(text)[:2] == ["migrate", "anonymize (local)"]
        for config in ("", "plain"):
            text = client.get(url_of(made), looked(config, config)).content.decode()
            assert "Replace database" not in text


def test_a_configuration_with_a_dump_key_leads_to_the_restore_that_it_means(pages):
    dump = pages.made_dump()
    configs = {"local": {**LOCAL, "dump_key": "here/default"}, "plain": {}}
    with override_settings(PGCLONE_CONFIGS=configs):
        Configuration.objects.create(name="back", dump_key=":gone")
        client = pages.client(RESTORE, "view_configuration")
        text = html.unescape(client.get(reverse(CHANGELIST)).content.decode())
        lead = f"{reverse(LEAD)}?config="
        assert re.findall(r'href="([^"]*/restore/\?[^"]*)"', text) == [
            f"{lead}back",
            f"{lead}local",
        ]

        response = client.get(f"{lead}local", follow=True)

        assert response.redirect_chain == [(f"{url_of(dump)}?config=local", 302)]
        assert ticked(response.content.decode())[:2] == ["migrate", "anonymize (local)"]
        missing = client.get(f"{lead}back", follow=True).content.decode()
        assert "There is no local database" in missing
        nobody = pages.client("view_configuration")
        assert "/restore/?" not in nobody.get(reverse(CHANGELIST)).content.decode()
        assert nobody.get(f"{lead}local").status_code == 403


def test_going_back_with_a_configuration_runs_its_hooks(pages):
    older = reverted(pages)
    client = pages.superuser()
    text = client.get(url_of_local("restore", older)).content.decode()
    assert ticked(text) == []
    text = client.get(url_of_local("restore", older), looked("local")).content.decode()
    assert ticked(text) == ["migrate", "anonymize (local)", "later"]
