"""Hooks in the admin: chosen by name among those that settings declare, with their parameters."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.test import override_settings
from django.urls import reverse

from pgclone_admin import runner
from pgclone_admin.core.errors import HookFailed, NotAllowed
from pgclone_admin.management.recorded import _said
from pgclone_admin.models import Configuration, Dump, RestoreRun, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import requests, run_control
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.declared import hook_names, in_declared_order
from pgclone_admin.services.refresh import refresh
from pgclone_admin.services.restores import Variant

from .test_restore_page import RESTORE, confirmation, url_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

NOTE = {
    "name": "a <b>note</b>",
    "code": 'INSERT INTO "MyTable" (text) VALUES ({text} || {times}::text)',
    "parameters": [
        {"name": "text", "default": "by default ", "description": "What it <i>says</i>."},
        {"name": "times", "type": "integer", "default": 1, "values": [1, 2]},
    ],
}
LOUD = {"name": "loud", "command": "good_hook"}
AFTER = {"name": "after", "code": "INSERT INTO \"MyTable\" (text) VALUES ('after')"}
ANONYMIZE = {"anonymize": {"people.Person": {"name": "name"}}, "seed": "hush-hush"}


@pytest.fixture
def declared():
    with override_settings(
        PGCLONE_PRE_SWAP_HOOKS=["migrate", NOTE, LOUD],
        PGCLONE_POST_SWAP_HOOKS=[AFTER],
        PGCLONE_HOOK_PARAMS={"text": "by setting "},
    ):
        yield


@pytest.fixture
def dump(pages):
    return pages.made_dump()


def executed(pages, client, dump, **changes):
    """The restore that a person confirms, after a worker has done it."""
    shown = client.get(url_of(dump))
    assert shown.status_code == 200, shown.content
    response = client.post(url_of(dump), confirmation(pages, shown, **changes))
    assert response.status_code == 302, response.content
    run = RestoreRun.objects.latest("pk")
    runner.run_restore(run)
    run.refresh_from_db()
    return run


def notes(pages):
    return [row[0] for row in pages.site.run('SELECT text FROM "MyTable" ORDER BY id')]


def test_hooks_and_parameters_that_are_chosen_are_those_that_run(pages, dump, declared):
    client = pages.client(RESTORE, "view_restorerun")
    text = client.get(url_of(dump)).content.decode()
    assert "a &lt;b&gt;note&lt;/b&gt; (SQL: INSERT INTO" in text
    assert "loud (management command: good_hook)" in text
    assert "after (SQL: INSERT INTO" in text
    assert "What it &lt;i&gt;says&lt;/i&gt;." in text
    assert "<b>note" not in text
    # A parameter is asked for where its hook is chosen.
    asked = ["id_hooks", "id_post_swap_hooks", "id_param-text", "id_param-times", "id_reversible"]
    places = [text.index(f'"{name}') for name in asked]
    assert places == sorted(places)

    run = executed(
        pages,
        client,
        dump,
        **{
            "hooks": ["loud", NOTE["name"]],
            "post_swap_hooks": ["after"],
            "param-text": "it's {mine} ",
            "param-times": "2",
        },
    )

    assert run.status == Status.SUCCEEDED, run.error
    assert run.options["arguments"]["pre_swap_hooks"] == [NOTE["name"], "loud"]
    # Their values are gone with the end: they may be passwords.
    assert run.options["arguments"]["hook_params"] == {"text": None, "times": None}
    assert notes(pages)[-3:] == ["it's {mine} 2", f"good hook in {pages.site.name}__temp", "after"]
    assert [hook["name"] for hook in run.result["hooks"]] == [NOTE["name"], "loud", "after"]
    # The account was younger than the dump.
    page = (
        pages.client("view_restorerun")
        .get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
        .content.decode()
    )
    assert "good hook ran in" in page
    assert "done, 0." in page
    # Not its value: it may be a password.
    assert "<dd>text, times</dd>" in page or "text, times" in page
    assert "it&#x27;s {mine}" not in page


def test_what_is_left_empty_is_as_the_settings_say(pages, dump, declared):
    run = executed(pages, pages.client(RESTORE), dump, hooks=[NOTE["name"]])
    assert run.status == Status.SUCCEEDED, run.error
    assert "hook_params" not in run.options["arguments"]
    assert run.options["arguments"]["post_swap_hooks"] == []
    assert notes(pages)[-1] == "by setting 1"


def test_what_is_held_leaves_out_the_parameters_of_hooks_after_the_swap(pages, dump):
    after = {"code": "SELECT {later}", "parameters": [{"name": "later", "default": "x"}]}
    client = pages.client(RESTORE)
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=[NOTE], PGCLONE_POST_SWAP_HOOKS=[after]):
        chosen = {
            "database": "default",
            "what": "hold",
            "hooks": ["a <b>note</b>"],
            "post_swap_hooks": hook_names("post_swap_hooks"),
            "param-text": "now ",
            "param-later": "then",
        }
        response = client.post(url_of(dump), chosen)
    assert response.status_code == 302
    given = RestoreRun.objects.get().options["arguments"]
    assert (given["post_swap_hooks"], given["hook_params"]) == ([], {"text": "now "})


def test_a_parameter_without_a_value_is_asked_for(pages, dump):
    parameter = {"name": "text", "description": "What it says", "type": "text"}
    times = {"name": "times", "type": "integer", "default": 2, "description": "How often"}
    note = {**NOTE, "name": "note", "parameters": [parameter, times]}
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=["migrate", note]):
        client = pages.client(RESTORE)
        shown = client.get(url_of(dump), {"what": "over", "hooks": ["migrate", "note"]})
        text = shown.content.decode()
        assert "The parameter &quot;text&quot; has no value" in text
        assert "in the form of the admin" in text
        assert "How often. Usually: 2" in text
        assert "Replace database" not in text
        with_value = {"hooks": ["migrate", "note"], "param-text": "asked for "}
        # The value may be a password, and addresses are written into logs.
        assert re.search(r'<form method="post"[^>]*aria-labelledby="pgclone-choices"', text)
        looked = {"looked": "1", "database": "default", "what": "over", **with_value}
        shown = client.post(url_of(dump), looked)
        assert RestoreRun.objects.count() == 0
        response = client.post(url_of(dump), confirmation(pages, shown, **with_value))
        assert response.status_code == 302, response.content
        runner.run_restore(RestoreRun.objects.get())
    assert notes(pages)[-1] == "asked for 2"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"param-times": "3"}, "Select a valid choice"),
        ({"hooks": ["no such hook"]}, "Select a valid choice"),
        ({"hooks": ['{"code": "SELECT 1"}']}, "Select a valid choice"),
        ({"hooks": ["/etc/passwd.sql"]}, "Select a valid choice"),
        ({"post_swap_hooks": ["loud"]}, "Select a valid choice"),
    ],
)
def test_f59_nobody_types_a_hook_or_a_value_that_is_not_allowed(
    pages, dump, declared, changes, said
):
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump))
    response = client.post(url_of(dump), confirmation(pages, shown, **changes))
    assert said in response.content.decode()
    assert RestoreRun.objects.count() == 0


def test_a_hook_that_fails_stands_first_with_what_it_has_said(pages, dump):
    broken = {"name": "broken", "code": "SELECT 1; SELECT nonsense"}
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=["migrate", broken], PGCLONE_KEEP_FAILED=False):
        client = pages.client(RESTORE, "view_restorerun")
        with pytest.raises(HookFailed):
            executed(pages, client, dump, hooks=["migrate", "broken"])
    run = RestoreRun.objects.get()
    page = client.get(
        reverse("admin:pgclone_admin_restorerun_change", args=[run.pk])
    ).content.decode()
    problem = page.index('class="pgclone-problem"')
    said = page.index("<details open><summary>What it said</summary>")
    assert problem < page.index("The hook &quot;broken&quot; failed") < said
    assert said < page.index("in the statement of line 1: SELECT nonsense") < page.index("Progress")
    assert "failed, 0." in page
    assert 'id="pgclone-hook-2" open' in page
    assert "in the statement of line 1: SELECT nonsense" in page


def test_what_the_configuration_of_a_dump_requires_is_required_here(pages):
    configs = {"local": {"pre_swap_hooks": ["migrate", ANONYMIZE], "require_anonymized": True}}
    with override_settings(PGCLONE_CONFIGS=configs):
        made = pages.made_dump()
        # As if it had been taken where its configuration was allowed to.
        renamed = made.key.replace("/none/", "/local/")
        (pages.storage_root / renamed).parent.mkdir(parents=True)
        (pages.storage_root / made.key).rename(pages.storage_root / renamed)
        made.delete()
        refresh(Actor.system("tests"), pages.location)
        client = pages.superuser()
        dump = type(made).objects.get(config="local")
        text = client.get(url_of(dump)).content.decode()
        assert "anonymize (local) (anonymizing: 1 fields)" in text
        assert "hush-hush" not in text
        chosen = {"looked": 1, "database": "default", "what": "over", "hooks": ["migrate"]}
        refused = client.get(url_of(dump), chosen).content.decode()
        assert "none of the pre-swap hooks anonymizes" in refused
        assert "Replace database" not in refused


def test_a_configuration_of_the_admin_names_hooks_and_values_of_the_settings(pages, declared):
    client = pages.superuser()
    add = reverse("admin:pgclone_admin_configuration_add")
    posted = {
        "name": "mine",
        "reversible": "unknown",
        "pre_swap_hooks": f"migrate\n{NOTE['name']}",
        "post_swap_hooks": "after",
        "hook_params": "text = a = b\n times=2",
        "require_anonymized": "on",
    }
    assert client.post(add, posted).status_code == 302
    row = Configuration.objects.get()
    assert row.hook_params == {"text": "a = b", "times": "2"}
    options = resolve(Arguments(config="mine"), verb="restore")
    assert options.pre_swap_hooks == ["migrate", NOTE]
    assert options.post_swap_hooks == [AFTER]
    assert options.hook_params == {"text": "a = b", "times": "2"}
    assert options.require_anonymized is True
    page = client.get(reverse("admin:pgclone_admin_configuration_change", args=[row.pk]))
    assert "text = a = b\ntimes = 2" in page.content.decode()
    for wrong, said in (
        ({"hook_params": "no pair"}, "is no pair"),
        ({"hook_params": "times = 3"}, "Allowed: 1, 2."),
        ({"hook_params": "other = 3"}, "has a parameter other"),
        ({"post_swap_hooks": "loud"}, "Not declared as hooks here: loud"),
    ):
        response = client.post(add, {**posted, "name": "other", **wrong})
        assert response.status_code == 200
        assert said in response.content.decode()
    with override_settings(PGCLONE_POST_SWAP_HOOKS=[]), pytest.raises(Exception, match="declare"):
        resolve(Arguments(config="mine"), verb="restore")


def test_what_is_in_a_hook_of_the_command_line_is_not_written_down():
    hooks: list[Any] = ["migrate", json.dumps(ANONYMIZE), ANONYMIZE]
    said = _said(Arguments(pre_swap_hooks=hooks, hook_params={"a": "b"}))
    assert said == {
        "pre_swap_hooks": ["migrate", "anonymize", "anonymize"],
        "hook_params": {"a": None},
    }


@pytest.mark.parametrize("end", ["cancelled", "lost"])
def test_values_of_parameters_end_with_the_run_however_it_ends(pages, dump, declared, end):
    actor = Actor.system("a schedule")
    given = {"dump_key": dump.key, "hook_params": {"text": "hush"}, "pre_swap_hooks": [NOTE]}
    run = requests.request_restore(actor, given, variant=Variant())
    assert run.options["arguments"]["hook_params"] == {"text": "hush"}
    if end == "cancelled":
        run_control.cancel(actor, run)
    else:
        run.move(Status.RUNNING)
        run.move(Status.LOST)
    run.refresh_from_db()
    assert run.status == end
    assert run.options["arguments"]["hook_params"] == {"text": None}


def test_what_is_not_declared_any_more_cannot_be_chosen(pages, dump):
    """A configuration in the database declares nothing."""
    Configuration.objects.create(name="old", pre_swap_hooks=["migrate", "good_hook"])
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=["migrate"]):
        client = pages.client(RESTORE)
        shown = client.get(url_of(dump))
        posted = confirmation(pages, shown, hooks=["migrate", "good_hook"])
        response = client.post(url_of(dump), posted)
        assert "Select a valid choice" in response.content.decode()
        with pytest.raises(NotAllowed):
            in_declared_order("pre_swap_hooks", ["good_hook"])


def test_values_of_parameters_in_the_settings_are_on_no_page(pages):
    configs = {"a": {"hook_params": {"password": "hush-hush"}, "pre_swap_hooks": [ANONYMIZE]}}
    with override_settings(PGCLONE_CONFIGS=configs):
        client = pages.client("view_configuration")
        text = client.get(reverse("admin:pgclone_admin_configuration_changelist")).content.decode()
    assert "password" in text
    assert "hush-hush" not in text


# -- dumps ----------------------------------------------------------------------------------------

CREATE = "/admin/pgclone_admin/dump/dump-now/"
BEFORE = {**NOTE, "name": "before", "parameters": [{"name": "text"}, NOTE["parameters"][1]]}


def dumped(client, **posted):
    """The dump that a person asks for, after a worker has made it."""
    answer = client.post(CREATE, {"database": "default", **posted})
    assert answer.status_code == 302, answer.content
    dump = Dump.objects.latest("pk")
    assert runner.run_dump(dump) == Status.SUCCEEDED
    dump.refresh_from_db()
    return dump


def test_a_dump_runs_the_usual_hooks_of_its_configuration_unless_others_are_chosen(pages):
    client = pages.client("create_dump")
    Configuration.objects.create(name="of-the-admin", pre_dump_hooks=["tidy"])
    tidy = {"name": "tidy", "code": "INSERT INTO \"MyTable\" (text) VALUES ('tidy')"}
    configs = {"nightly": {"pre_dump_hooks": [LOUD, tidy]}, "bare": {"pre_dump_hooks": []}}
    with override_settings(PGCLONE_PRE_DUMP_HOOKS=[tidy], PGCLONE_CONFIGS=configs):
        form = client.get(CREATE).content.decode()
        usual = "usual: tidy; with “bare”: none; with “nightly”: loud, tidy; "
        assert f"{usual}with “of-the-admin”: tidy." in form
        before = len(notes(pages))
        loud = f"good hook in {pages.site.name}"
        for posted, config, ran in (
            ({}, "none", ["tidy"]),
            ({"config": "nightly"}, "nightly", [loud, "tidy"]),
            ({"config": "bare"}, "bare", []),
            ({"config": "of-the-admin"}, "of-the-admin", ["tidy"]),
            ({"config": "nightly", "choose_hooks": "on"}, "none", []),
            ({"choose_hooks": "on", "pre_dump_hooks": ["loud"]}, "none", [loud]),
        ):
            dump = dumped(client, **posted)
            assert (dump.config, notes(pages)[before:]) == (config, ran)
            before += len(ran)


def test_a_dump_asks_for_the_parameters_of_its_hooks(pages):
    client = pages.client("create_dump")
    with override_settings(PGCLONE_PRE_DUMP_HOOKS=[BEFORE]):
        form = client.get(CREATE).content.decode()
        assert 'name="param-text"' in form
        refused = client.post(CREATE, {"database": "default"}).content.decode()
        assert "The parameter &quot;text&quot; has no value" in refused
        for wrong, said in (
            ({"param-text": "x", "param-times": "3"}, "Select a valid choice"),
            ({"choose_hooks": "on", "pre_dump_hooks": ["migrate"]}, "Select a valid choice"),
            ({"param-text": "x", "pre_dump_hooks": ["before"]}, "Tick “Choose hooks” too"),
        ):
            assert said in client.post(CREATE, {"database": "default", **wrong}).content.decode()
        assert not Dump.objects.exists()

        usual = dumped(client, **{"param-text": "usual ", "param-times": "2"})
        assert usual.options["hook_params"] == {"text": None, "times": None}
        assert notes(pages)[-1] == "usual 2"
        chosen = {"choose_hooks": "on", "pre_dump_hooks": ["before"], "param-text": "chosen "}
        assert "pre_dump_hooks" in dumped(client, **chosen).options
        assert notes(pages)[-1] == "chosen 1"


def test_hooks_without_names_in_two_configurations_are_told_apart(pages, dump):
    other = {"anonymize": {"people.Person": {"name": "text"}}, "seed": "another"}
    configs = {
        "a": {"pre_swap_hooks": ["migrate", ANONYMIZE]},
        "b": {"pre_swap_hooks": ["migrate", other]},
    }
    with override_settings(PGCLONE_CONFIGS=configs):
        run = executed(pages, pages.client(RESTORE), dump, hooks=["anonymize (b)"])
        of_a = resolve(Arguments(config="a"), verb="restore").pre_swap_hooks[1]
        assert of_a == {**ANONYMIZE, "name": "anonymize (a)"}
        assert hook_names("pre_swap_hooks") == ["migrate", "anonymize (a)", "anonymize (b)"]
    assert run.status == Status.SUCCEEDED, run.error
    assert not {"A", "B"} & {name[:1] for name in people(pages)}


def people(pages):
    return [row[0] for row in pages.site.run("SELECT name FROM people_person")]
