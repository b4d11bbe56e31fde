"""The pages of configurations: what can be saved is what ``-c`` then uses."""

from __future__ import annotations

import pytest
from django.test import Client, override_settings
from django.urls import reverse

from pgclone_admin.models import Configuration, RunEvent
from pgclone_admin.options import Arguments, resolve
from tests.support import CANARY

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

LIST = "admin:pgclone_admin_configuration_changelist"
ADD = "admin:pgclone_admin_configuration_add"
CHANGE = "admin:pgclone_admin_configuration_change"

DECLARED = override_settings(
    PGCLONE_CONFIGS={
        "weekly": {
            "exclude": ["people.Secret"],
            "pre_dump_hooks": ["where_am_i"],
            "pre_swap_hooks": ["migrate", "good_hook"],
            "reversible": True,
            "storage_location": "/weekly/<b>",
        }
    }
)


@pytest.fixture(autouse=True)
def _declared():
    with DECLARED:
        yield


def posted(**changes):
    return {"name": "mine", "reversible": "unknown", **changes}


def refused(client, **changes):
    response = client.post(reverse(ADD), posted(**changes))
    assert response.status_code == 200
    assert Configuration.objects.count() == 0
    return response.context["adminform"].form.errors


def test_lines_become_the_options_that_minus_c_uses(pages):
    client = pages.superuser()

    response = client.post(
        reverse(ADD),
        posted(
            database="default",
            instance="elsewhere",
            exclude=" people.Note \r\n\r\npeople.Secret\r\npeople.Note",
            pre_dump_hooks="none",
            pre_swap_hooks="good_hook\nmigrate",
            reversible="true",
            dump_key=":pre",
            storage_location="/weekly/<b>",
        ),
    )

    assert response.status_code == 302
    row = Configuration.objects.get()
    assert row.as_options() == {
        "database": "default",
        "instance": "elsewhere",
        "exclude": ["people.Note", "people.Secret"],
        "pre_dump_hooks": [],
        "pre_swap_hooks": ["good_hook", "migrate"],
        "reversible": True,
        "dump_key": ":pre",
        "storage_location": "/weekly/<b>",
    }
    options = resolve(Arguments(config="mine"), verb="restore")
    assert (options.config, options.instance, options.reversible) == ("mine", "elsewhere", True)
    assert options.pre_swap_hooks == ["good_hook", "migrate"]
    assert options.pre_dump_hooks == []
    assert options.dump_key == ":pre"
    # What was saved is shown as it was written, and saving it again changes nothing.
    page = client.get(reverse(CHANGE, args=[row.pk])).content.decode()
    assert "people.Note\npeople.Secret</textarea>" in page
    assert "none</textarea>" in page


def test_what_is_left_empty_is_as_the_settings_say(pages):
    assert pages.superuser().post(reverse(ADD), posted()).status_code == 302
    assert Configuration.objects.get().as_options() == {}
    options = resolve(Arguments(config="mine"), verb="dump")
    assert options.storage_location == pages.location


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"exclude": "people.Nobody\nnonsense"}, "exclude", "no model people.Nobody, nonsense"),
        ({"pre_swap_hooks": "flush"}, "pre_swap_hooks", "Not declared as hooks here: flush"),
        # Declared for restored databases is not declared for the live one.
        ({"pre_dump_hooks": "good_hook"}, "pre_dump_hooks", "PGCLONE_PRE_DUMP_HOOKS"),
        ({"name": "weekly"}, "name", "The settings have a configuration with this name"),
        ({"name": "a b"}, "name", "valid"),
        ({"dump_key": "../x"}, "dump_key", "is no dump key"),
        ({"dump_key": ":"}, "dump_key", "cannot be empty"),
        ({"storage_location": "storages:nowhere/"}, "storage_location", "nowhere"),
        ({"database": "nowhere"}, "database", "not one of the available choices"),
    ],
)
def test_what_cannot_be_used_is_told_at_its_field(pages, changes, field, told):
    found = refused(pages.superuser(), **changes)
    assert list(found) == [field]
    assert told in " ".join(found[field])


def test_only_a_superuser_names_a_place_that_the_settings_do_not(pages):
    staff = pages.client("add_configuration", "change_configuration", "view_configuration")
    found = refused(staff, storage_location="/somewhere/else/")
    assert "Only a superuser" in " ".join(found["storage_location"])
    assert staff.post(reverse(ADD), posted(storage_location="/weekly/<b>")).status_code == 302
    boss = pages.superuser()
    other = posted(name="other", storage_location="/somewhere/else/")
    assert boss.post(reverse(ADD), other).status_code == 302
    # Staff can save it again, as long as they leave that as it is.
    url = reverse(CHANGE, args=[Configuration.objects.get(name="other").pk])
    assert staff.post(url, {**other, "reversible": "true"}).status_code == 302
    assert Configuration.objects.get(name="other").reversible is True


def test_configurations_of_the_settings_are_shown_beside_them(pages):
    text = pages.client("view_configuration").get(reverse(LIST)).content.decode()
    assert "<h3>weekly</h3>" in text
    assert "migrate, good_hook" in text
    assert "/weekly/&lt;b&gt;" in text
    with override_settings(PGCLONE_CONFIGS={"bad": {"nonsense": 1}}):
        response = pages.superuser().get(reverse(LIST))
        assert response.status_code == 200
        assert "is not known" in response.content.decode()


def test_values_of_hook_parameters_are_shown_to_those_only_who_may_change_them(pages):
    row = Configuration.objects.create(name="there", hook_params={"token": CANARY})
    url = reverse(CHANGE, args=[row.pk])
    text = pages.client("view_configuration").get(url).content.decode()
    assert "token" in text
    assert CANARY not in text
    changer = pages.client("change_configuration", "view_configuration")
    assert f"token = {CANARY}" in changer.get(url).content.decode()


def test_every_person_gets_what_they_may(pages):
    row = Configuration.objects.create(name="there", exclude=["people.Note"])
    urls = [reverse(LIST), reverse(ADD), reverse(CHANGE, args=[row.pk])]
    people = {
        "nobody": (pages.client(), [403, 403, 403]),
        "others": (pages.client("restore_database", "create_dump"), [403, 403, 403]),
        "viewer": (pages.client("view_configuration"), [200, 403, 200]),
        "adder": (pages.client("add_configuration"), [403, 200, 403]),
        "superuser": (pages.superuser(), [200, 200, 200]),
    }
    for url in urls:
        assert "/login/" in Client().get(url)["Location"]
        assert "/login/" in Client().post(url, posted())["Location"]
    for name, (client, expected) in people.items():
        assert [client.get(url).status_code for url in urls] == expected, name
        if name in {"nobody", "others", "viewer"}:
            assert client.post(urls[1], posted()).status_code == 403, name
            assert client.post(urls[2], posted()).status_code == 403, name
    assert list(Configuration.objects.values_list("name", flat=True)) == ["there"]


def test_who_changed_which_fields_is_written_down_and_no_value_is(pages):
    client = pages.superuser()

    def said():
        return list(RunEvent.objects.values_list("level", "about", "text", "person"))

    client.post(reverse(ADD), posted(instance=CANARY))
    row = Configuration.objects.get()
    change = reverse(CHANGE, args=[row.pk])
    client.post(change, posted(name="yours", instance=CANARY, require_anonymized="on"))
    client.post(change, posted(name="yours", instance=CANARY, require_anonymized="on"))
    client.post(
        reverse(LIST),
        {"_selected_action": [row.pk], "action": "delete_selected", "post": "yes"},
    )
    Configuration.objects.create(pk=77, name="other")
    client.post(reverse("admin:pgclone_admin_configuration_delete", args=[77]), {"post": "yes"})

    who = client.user.username
    assert said() == [
        ("audit", 'configuration "mine"', "added, with: name, instance", who),
        ("audit", 'configuration "mine"', "changed: name, require_anonymized", who),
        ("audit", 'configuration "yours"', "deleted", who),
        ("audit", 'configuration "other"', "deleted", who),
    ]


def test_no_configuration_is_called_as_none_is(pages):
    errors = refused(pages.superuser(), name="none")
    assert "made without a configuration" in errors["name"][0]
