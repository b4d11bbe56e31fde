"""The page of a restore: what it shows, whom it lets, and what it makes."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group, Permission, PermissionsMixin, User
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from pgclone_admin import runner
from pgclone_admin.core.errors import HookFailed, NotAllowed, UsageError
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Configuration, Dump, RestoreRun, RunEvent, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import accounts, copies, dumps, requests
from pgclone_admin.services.accounts import Stay
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.declared import in_declared_order
from pgclone_admin.services.local_databases import local_databases
from pgclone_admin.services.refresh import refresh
from pgclone_admin.services.restores import Variant
from tests.support.places import no_database_is_made

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

RESTORE = "restore_database"


def url_of(dump):
    return reverse("admin:pgclone_admin_dump_restore", args=[dump.pk])


@pytest.fixture
def dump(pages):
    """A row with a real dump behind it; its database had no account yet."""
    dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    refresh(Actor.system("tests"), pages.location)
    return Dump.objects.get()


def hidden(response, name):
    """The value of a hidden input of the form that confirms."""
    found = re.findall(rf'name="{name}" value="([^"]*)"', response.content.decode())
    assert found, name
    return found[-1]


def confirmation(pages, response, **changes):
    """What the browser posts, with the right name unless told otherwise."""
    return {
        "database": "default",
        "what": "over",
        "hooks": ["migrate"],
        "confirm_oid": hidden(response, "confirm_oid"),
        "confirm_name": pages.site.name,
        **changes,
    }


def test_the_plan_is_shown_and_looking_at_it_changes_nothing(pages, dump):
    databases, oid = pages.site.server.databases(), pages.site.oid

    response = pages.client(RESTORE).get(url_of(dump))

    text = response.content.decode()
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    for expected in (
        dump.key,
        f"Replace database {pages.site.name}</button>",
        "Hooks run on it: migrate.",
        "none: it is up to date",
        "public.django_session",
        "There is no way back",
        "you will be logged out",
        "more are needed on the server",
    ):
        assert expected in text, expected
    assert hidden(response, "confirm_oid") == str(oid)
    assert "Keep what is live now as :pre" in text
    assert "Trust this dump" not in text
    assert (RestoreRun.objects.count(), OrmQ.objects.count()) == (0, 0)
    assert (pages.site.server.databases(), pages.site.oid) == (databases, oid)


def test_the_right_name_makes_a_run_that_a_worker_executes(pages, dump):
    client = pages.client(RESTORE, "view_restorerun")
    shown = client.get(url_of(dump), {"looked": 1, "database": "default", "what": "over"})
    oid = pages.site.oid

    response = client.post(
        url_of(dump), confirmation(pages, shown, reversible="on", hooks=["migrate"])
    )

    run = RestoreRun.objects.get()
    assert response.status_code == 302
    assert response["Location"] == reverse("admin:pgclone_admin_restorerun_change", args=[run.pk])
    assert (run.status, run.requested_by) == (Status.QUEUED, client.user.username)
    assert (run.key, run.location, run.target) == (dump.key, dump.location, pages.site.name)
    assert (run.live_oid, bool(run.system_identifier)) == (oid, True)
    assert run.options["arguments"] == {
        "dump_key": dump.key,
        "database": "default",
        "pre_swap_hooks": ["migrate"],
        "reversible": True,
        "storage_location": dump.location,
    }
    assert OrmQ.objects.count() == 1
    assert runner.run_restore(run) == "succeeded"
    assert pages.site.oid != oid
    assert f"{pages.site.name}__pre" in pages.site.server.databases()


@pytest.mark.parametrize("name", ["", "other", "{name}x"])
def test_a_wrong_name_is_told_in_the_form_and_makes_no_run(pages, dump, name):
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump))
    typed = name.format(name=pages.site.name)

    response = client.post(url_of(dump), confirmation(pages, shown, confirm_name=typed))

    assert response.status_code == 200
    text = response.content.decode()
    assert ("This is not the name of the database" if name else "This field is required") in text
    assert f"Replace database {pages.site.name}</button>" in text
    assert RestoreRun.objects.count() == 0


def test_a_database_that_is_another_one_than_was_shown_is_not_replaced(pages, dump):
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump))
    posted = confirmation(pages, shown, confirm_oid="4711")

    response = client.post(url_of(dump), posted)

    assert response.status_code == 409
    assert "is another one than when you confirmed" in response.content.decode()
    assert hidden(response, "confirm_oid") == str(pages.site.oid)
    # Also when the name is mistyped: the plan on the page is that of another database.
    response = client.post(url_of(dump), {**posted, "confirm_name": "x"})
    assert "is another one than when you saw the plan" in response.content.decode()
    assert RestoreRun.objects.count() == 0


def test_f39_f48_of_two_people_one_restores_and_the_other_is_told_which_run(pages, dump):
    ada, grace = (pages.client(RESTORE, "view_restorerun") for _ in "ab")
    seen = [client.get(url_of(dump)) for client in (ada, grace)]

    first = ada.post(url_of(dump), confirmation(pages, seen[0]))
    second = grace.post(url_of(dump), confirmation(pages, seen[1]))

    assert (first.status_code, second.status_code) == (302, 409)
    run = RestoreRun.objects.get()
    run_url = reverse("admin:pgclone_admin_restorerun_change", args=[run.pk])
    for response in (second, grace.get(url_of(dump))):
        text = response.content.decode()
        assert f'<a href="{run_url}">Run #{run.pk}</a>' in text
        assert f"requested by {ada.user.username}" in text
        assert "Replace database" not in text
    assert OrmQ.objects.count() == 1


def test_f59_hooks_that_are_not_declared_are_refused_by_page_and_service(pages, dump):
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump))

    response = client.post(url_of(dump), confirmation(pages, shown, hooks=["migrate", "flush"]))

    assert "flush is not one of the available choices" in response.content.decode()
    given = {"dump_key": dump.key, "pre_swap_hooks": ["flush"]}
    with pytest.raises(NotAllowed, match="not declared as hooks here: flush"):
        requests.request_restore(Actor.of(client.user), given, variant=Variant())
    assert RestoreRun.objects.count() == 0


def test_chosen_hooks_run_in_the_order_in_which_they_are_declared_together(pages):
    Configuration.objects.create(name="mine", pre_swap_hooks=["good_hook", "migrate"])
    more = {"pre_swap_hooks": ["migrate", "where_am_i", "good_hook"]}
    with override_settings(PGCLONE_CONFIGS={"more": more}):
        together = in_declared_order("pre_swap_hooks", ["migrate", "good_hook"])
        others = in_declared_order("pre_swap_hooks", ["good_hook", "where_am_i"])
    assert together == ["good_hook", "migrate"]
    assert others == ["where_am_i", "good_hook"]


def test_f59_a_configuration_of_the_admin_declares_no_hook(pages, dump):
    """It may still name what the settings have declared once."""
    Configuration.objects.create(name="old", pre_swap_hooks=["migrate", "flush"])
    client = pages.client(RESTORE)
    shown = client.get(url_of(dump))
    response = client.post(url_of(dump), confirmation(pages, shown, hooks=["migrate", "flush"]))
    assert "flush is not one of the available choices" in response.content.decode()
    given = {"dump_key": dump.key, "pre_swap_hooks": ["flush"]}
    with pytest.raises(NotAllowed, match="not declared as hooks here: flush"):
        requests.request_restore(Actor.of(client.user), given, variant=Variant())
    assert RestoreRun.objects.count() == 0


def test_only_a_superuser_can_trust_a_dump_of_somebody_else(pages):
    foreign = pages.made_dump()
    (pages.storage_root / f"{foreign.key}.json").unlink()
    Dump.objects.update(manifest=None)
    boss, client = pages.superuser(), pages.client(RESTORE)

    assert "Trust this dump" in boss.get(url_of(foreign)).content.decode()
    assert "Trust this dump" not in client.get(url_of(foreign)).content.decode()
    client.post(
        url_of(foreign),
        {
            "database": "default",
            "what": "over",
            "confirm_oid": str(pages.site.oid),
            "confirm_name": pages.site.name,
            "trust_foreign": "on",
        },
    )
    assert [run.options["variant"]["trust_foreign"] for run in RestoreRun.objects.all()] == [False]
    with pytest.raises(NotAllowed, match="only a superuser"):
        requests.request_restore(
            Actor.of(client.user), {"dump_key": foreign.key}, variant=Variant(trust_foreign=True)
        )


def test_what_stands_in_the_way_is_told_and_leaves_no_button(pages):
    without_file = pages.dump()

    text = pages.client(RESTORE).get(url_of(without_file)).content.decode()

    assert "This stands in the way:" in text
    assert 'class="button pgclone-danger"' not in text
    missing = pages.dump(status=Status.MISSING)
    response = pages.client(RESTORE).get(url_of(missing))
    assert response.status_code == 409
    assert "This dump has no file that could be restored" in response.content.decode()


def test_who_looks_makes_nothing_on_the_server_and_who_confirms_proves_that_it_works(pages, dump):
    server, live = pages.site.server, pages.site.name
    client = pages.client(RESTORE)
    with no_database_is_made(server):
        shown = client.get(url_of(dump))
        client.head(url_of(dump))
    hook = {"code": "SELECT {n}", "parameters": [{"name": "n", "type": "integer", "default": 1}]}
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=["migrate", hook]):
        # Then the choices are posted, as the value of a parameter may be a password.
        with no_database_is_made(server):
            looked = client.post(url_of(dump), {"looked": 1, "database": "default", "what": "over"})
        assert "Replace database" in looked.content.decode()
    # A setting that only a superuser may give to another database.
    server.run(f'ALTER DATABASE "{live}" SET log_min_duration_statement = 60000')
    answer = client.post(url_of(dump), confirmation(pages, shown))
    text = html.unescape(answer.content.decode())
    assert "log_min_duration_statement" in text.partition("This stands in the way:")[2]
    assert not RestoreRun.objects.exists()
    server.run(f'ALTER DATABASE "{live}" RESET log_min_duration_statement')
    assert client.post(url_of(dump), confirmation(pages, shown)).status_code == 302


def test_where_restores_are_disabled_the_page_says_so_and_makes_none(pages, dump):
    client = pages.client(RESTORE)
    posted = confirmation(pages, client.get(url_of(dump)))
    with override_settings(PGCLONE_ALLOW_RESTORE=False):
        for response in (client.get(url_of(dump)), client.post(url_of(dump), posted)):
            assert response.status_code == 403
            assert "PGCLONE_ALLOW_RESTORE is False" in response.content.decode()
            assert "confirm_name" not in response.content.decode()
    assert RestoreRun.objects.count() == 0


@pytest.mark.parametrize("reversible", [{}, {"reversible": "on"}])
def test_older_copies_that_a_restore_drops_are_told_with_size_and_age(pages, dump, reversible):
    options = resolve(Arguments(), verb="dump")
    copies.copy_live(options, ":older", SilentReporter())
    name = f"{pages.site.name}__pre"
    mark = Mark.new(name=name, kind="pre", of=pages.site.name).comment()
    pages.site.server.run(f'ALTER DATABASE "older" RENAME TO "{name}"')
    pages.site.server.run(f'COMMENT ON DATABASE "{name}" IS %s', params=(mark,))
    looked = {"looked": 1, "database": "default", "what": "over", **reversible}

    text = pages.client(RESTORE).get(url_of(dump), looked).content.decode()

    assert re.search(
        r"Older local databases are dropped: :pre \([\d.]+\xa0MB, <time [^>]*>just now</time>\)\.",
        text,
    )
    assert "What is in :pre now is gone for good then" in text


def test_beside_the_live_database_needs_a_name_and_no_confirmation(pages, dump):
    client = pages.client(RESTORE)
    chosen = {"looked": 1, "database": "default", "what": "beside", "beside": "review"}

    refused = client.get(url_of(dump), {**chosen, "beside": pages.site.name + "__pre"})
    assert "cannot be made by hand" in refused.content.decode()
    assert "Give it a name." in client.get(url_of(dump), {**chosen, "beside": ""}).content.decode()
    text = client.get(url_of(dump), chosen).content.decode()
    assert "Make database review</button>" in text
    assert "confirm_name" not in text
    assert "Your account:" not in text

    del chosen["looked"]
    assert client.post(url_of(dump), chosen).status_code == 302
    run = RestoreRun.objects.get()
    assert (run.target, run.options["variant"]["beside"]) == ("review", ":review")


def test_f58_texts_of_others_are_escaped(pages):
    evil = "<script>alert(1)</script>"
    dump = pages.dump(
        key=f"{evil[:8]}here.dump", instance=evil, config=evil, database=evil, manifest=None
    )
    pages.run(status=Status.QUEUED, requested_by=evil, key=evil)
    User.objects.create_user(evil, is_staff=True)
    client = pages.superuser()
    Configuration.objects.create(name="x", pre_swap_hooks=[evil])

    text = client.get(url_of(dump)).content.decode()

    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<script>here" not in text


# -- every person


def test_every_person_gets_what_they_may(pages, dump):
    url = url_of(dump)
    boss = pages.superuser()
    posted = confirmation(pages, boss.get(url))
    may_not = {
        "anonymous": Client(),
        "nobody": pages.client(),
        "others": pages.client("view_dump", "create_dump", "copy_database", "delete_dump"),
    }
    for name, client in may_not.items():
        for response in (client.get(url), client.post(url, posted)):
            expected = 302 if name == "anonymous" else 403
            assert response.status_code == expected, name
            assert expected == 403 or "/login/" in response["Location"]
    assert RestoreRun.objects.count() == 0
    for client in (pages.client(RESTORE), boss):
        assert client.get(url).status_code == 200
        assert client.post(url, {}).status_code == 200
        assert client.put(url).status_code == 405
        assert client.get(url_of(Dump(pk=4711))).status_code == 404
        with_csrf = Client(enforce_csrf_checks=True)
        with_csrf.force_login(client.user)
        assert with_csrf.post(url, posted).status_code == 403
        assert RestoreRun.objects.count() == 0
        assert client.post(url, posted).status_code == 302
        RestoreRun.objects.all().delete()


# -- accounts


def test_it_is_told_honestly_whether_somebody_stays_logged_in(pages, dump):
    user = pages.client(RESTORE).user
    manifest, taken_at = dump.manifest, dump.taken_at

    def stay(**changes):
        return accounts.outlook_of_dump(user, "default", {**manifest, **changes}, taken_at).stay

    assert stay() is Stay.NO  # younger than the dump
    user.date_joined = taken_at - timedelta(days=1)
    # Nobody knows what they were allowed then.
    assert stay() is Stay.MAYBE
    user.is_superuser = True
    assert stay() is Stay.YES
    assert stay(instance="production") is Stay.MAYBE
    assert stay(source_database="other") is Stay.MAYBE
    assert stay(origin="imported") is Stay.MAYBE
    assert accounts.outlook_of_dump(user, "default", None, taken_at).stay is Stay.MAYBE
    with override_settings(PGCLONE_KEEP_APPS=["pgclone_admin", "django_q"]):
        assert stay() is Stay.NO
    with override_settings(PGCLONE_KEEP_APPS=["auth", "contenttypes"]):
        assert stay(origin="imported") is Stay.YES


def test_accounts_are_carried_over_and_their_people_stay_logged_in(pages, dump):
    client = pages.client(RESTORE, "view_restorerun")
    user = client.user
    Group.objects.create(name="only here").user_set.add(user)
    user.user_permissions.add(Permission.objects.get(codename="view_dump"))
    shown = client.get(
        url_of(dump),
        {"looked": 1, "database": "default", "what": "over", "accounts": user.username},
    )
    assert "Your account is carried over" in shown.content.decode()
    assert f"Accounts are carried over to it: {user.username}." in shown.content.decode()
    pages.client(RESTORE)  # somebody who is not chosen

    client.post(url_of(dump), confirmation(pages, shown, accounts=[user.username]))
    run = RestoreRun.objects.get()
    assert runner.run_restore(run) == "succeeded"

    carried = User.objects.get()  # the dump had none
    assert (carried.pk, carried.username) == (user.pk, user.username)
    assert carried.password == user.password
    assert (carried.is_staff, carried.is_superuser) == (True, False)
    permissions = set(carried.user_permissions.values_list("codename", flat=True))
    assert permissions == {RESTORE, "view_restorerun", "view_dump"}
    assert carried.groups.count() == 0
    texts = list(RunEvent.objects.filter(run=run).values_list("level", "text"))
    assert ("note", f'account "{user.username}": made') in texts
    warned = f'not there for the account "{user.username}": group only here'
    assert ("warning", warned) in texts
    page = client.get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
    assert page.status_code == 200, "still logged in"
    assert User.objects.create_user("new").pk > user.pk, "numbers go on"


def test_of_many_staff_who_asks_is_offered_first_and_others_are_typed(pages, dump, monkeypatch):
    monkeypatch.setattr(accounts, "MOST_CHOICES", 3)
    client = pages.client(RESTORE)
    User.objects.filter(pk=client.user.pk).update(username="zoe")
    for name in ("ada", "bob", "cyd", "dee", "eve, the second"):
        User.objects.create_user(name, is_staff=True)
    User.objects.create_user("no staff")
    looked = {"looked": 1, "database": "default", "what": "over"}

    text = client.get(url_of(dump), looked).content.decode()
    assert re.findall(r'name="accounts" value="([^"]*)"', text) == ["zoe", "ada", "bob"]
    assert "You can carry it over" in text

    typed = {**looked, "accounts": "zoe", "more_accounts": "dee, cyd\r\neve, the second\r\nzoe"}
    text = html.unescape(client.get(url_of(dump), typed).content.decode())
    assert "Accounts are carried over to it: zoe, dee, cyd, eve, the second." in text

    for unknown in ("no staff", "dee, nobody"):
        text = client.get(url_of(dump), {**looked, "more_accounts": unknown}).content.decode()
        assert f"Not among the active staff: {unknown.removeprefix('dee, ')}." in text
        assert "Replace database" not in text


def test_an_account_that_is_there_takes_over_password_and_rights(pages):
    ada = User.objects.create_user("ada", password="then", last_name="Then")
    dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    refresh(Actor.system("tests"), pages.location)
    dump = Dump.objects.get()
    ada.delete()
    ada = User.objects.create_user(
        "ada", password="now", last_name="Now", is_staff=True, is_superuser=True
    )
    run = requests.request_restore(
        Actor.of(pages.superuser().user),
        {"dump_key": dump.key, "storage_location": dump.location},
        variant=Variant(accounts=["ada"]),
    )

    assert runner.run_restore(run) == "succeeded"

    there = User.objects.get(username="ada")
    assert there.pk != ada.pk
    assert there.check_password("now")
    assert (there.is_staff, there.is_superuser, there.last_name) == (True, True, "Then")
    told = RunEvent.objects.filter(run=run, text__contains="has another number")
    assert told.count() == 1


@pytest.mark.allow_left_behind("*__temp")  # kept, as after every hook that fails
def test_an_account_that_cannot_be_carried_stops_the_restore_before_the_swap(
    pages, dump, monkeypatch
):
    user = pages.client(RESTORE).user
    oid = pages.site.oid
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=[]):
        run = requests.request_restore(
            Actor.of(user), {"dump_key": dump.key}, variant=Variant(accounts=[user.username])
        )

    def fail(*_arguments):
        raise ValueError("canary")

    monkeypatch.setattr(accounts, "_make", fail)
    with pytest.raises(HookFailed, match=f'the account "{user.username}" cannot be carried'):
        runner.run_restore(run)
    run.refresh_from_db()
    assert (run.status, run.error_code) == (Status.FAILED, "hook_failed")
    assert "canary" not in run.error
    assert pages.site.oid == oid


def test_accounts_of_another_database_are_not_carried(pages, dump):
    user = pages.client(RESTORE).user
    with (
        override_settings(PGCLONE_KEEP_APPS=["auth", "contenttypes"]),
        pytest.raises(UsageError, match="not in the database"),
    ):
        requests.request_restore(
            Actor.of(user), {"dump_key": dump.key}, variant=Variant(accounts=["x"])
        )


def test_what_is_held_replaces_nothing_and_asks_for_the_way_back_later(pages, dump):
    client = pages.client(RESTORE)
    chosen = {"looked": 1, "database": "default", "what": "hold", "hooks": [], "reversible": "on"}
    text = client.get(url_of(dump), chosen).content.decode()
    assert "is asked when it is swapped in" in text
    assert "Your account, once it is swapped in:" in text
    assert "Your account:" not in text
    assert "Older local databases are dropped" not in text
    assert ":post" not in text.partition("In detail")[2]
    held = {"database": "default", "what": "hold", "reversible": "on"}
    response = client.post(url_of(dump), held)
    assert response.status_code == 302
    given = RestoreRun.objects.get().options["arguments"]
    assert (given["reversible"], given["post_swap_hooks"]) == (False, [])
    runner.run_restore(RestoreRun.objects.get())
    text = client.get(url_of(dump), chosen).content.decode()
    assert re.search(r"Older local databases are dropped: [^.]*:held", text)


class PlainUser:
    """What Django's admin asks of a user, of a model without ``PermissionsMixin``."""

    def __init__(self, user):
        self._user = user

    def __getattr__(self, name):
        if name in ("is_superuser", "has_perms", "groups", "user_permissions"):
            raise AttributeError(name)
        return getattr(self._user, name)

    def has_perm(self, _permission, _obj=None):
        return True

    def has_module_perms(self, _label):
        return True


class PlainBackend(ModelBackend):
    def get_user(self, user_id):
        return PlainUser(super().get_user(user_id))


def test_people_of_a_user_model_without_superusers_restore_as_well(pages, monkeypatch):
    monkeypatch.delattr(PermissionsMixin, "has_perms")
    client = Client()
    backend = f"{__name__}.PlainBackend"
    user = pages.user(RESTORE, "view_restorerun", date_joined=timezone.now() - timedelta(days=1))
    options = resolve(Arguments(), verb="dump")
    copies.copy_live(options, ":before", SilentReporter())
    dump = pages.made_dump()
    foreign = pages.dump(manifest=None)
    local = reverse("admin:pgclone_admin_localdatabase_restore", args=[local_databases().get().pk])
    with override_settings(AUTHENTICATION_BACKENDS=[backend]):
        client.force_login(user, backend=backend)
        own, theirs, copy = (client.get(url) for url in (url_of(dump), url_of(foreign), local))
        new = client.get(reverse("admin:pgclone_admin_configuration_add"))
        confirmed = client.post(url_of(dump), confirmation(pages, own))
    assert [page.status_code for page in (own, theirs, copy, new)] == [200] * 4
    assert "Trust this dump" not in theirs.content.decode()
    assert "with the same password" in copy.content.decode()
    assert confirmed.status_code == 302
