"""The pages of local databases: what is shown, and what can be done with it."""

from __future__ import annotations

import copy
import html
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client, override_settings
from django.urls import reverse

from pgclone_admin import runner
from pgclone_admin.admin import formats
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Kind, RestoreRun
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import copies, dumps, restores
from pgclone_admin.services.accounts import Stay, outlook_of_local
from pgclone_admin.services.local_databases import local_databases

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

RESTORE, COPY = "restore_database", "copy_database"

LIST = "admin:pgclone_admin_localdatabase_changelist"


def url_of(page, row):
    return reverse(f"admin:pgclone_admin_localdatabase_{page}", args=[row.pk])


def marked(pages, kind, name=None, of=None):
    """A row of an empty database with a mark of ours."""
    live = pages.site.name
    name = name or f"{live}__{kind}"
    server = pages.site.server
    server.create_database(name)
    mark = Mark.new(name=name, kind=kind, of=of or live, source="<b>source</b>")
    server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark.comment(),))
    return local_databases().get(name=name)


def reverted(pages, name="before"):
    """A real copy of the live database, which can be gone back to."""
    options = resolve(Arguments(), verb="dump")
    copies.copy_live(options, f":{name}", SilentReporter())
    return local_databases().get(name=name)


@pytest.fixture
def held(pages):
    options = resolve(Arguments(pre_swap_hooks=[]), verb="restore")
    manifest = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    options = resolve(Arguments(dump_key=manifest.key, pre_swap_hooks=[]), verb="restore")
    restores.restore(options, SilentReporter(), variant=restores.Variant(hold=True))
    return local_databases().get()


def links(text, page):
    return re.findall(rf'href="[^"]*/localdatabase/\d+/{page}/"', text)


def test_only_databases_with_our_mark_are_shown(pages):
    pages.site.server.create_database("not_ours")
    pages.site.server.create_database("pretends")
    other = Mark.new(name="renamed", kind="copy", of=pages.site.name).comment()
    pages.site.server.run(
        'COMMENT ON DATABASE "pretends" IS %s', dbname="pretends", params=(other,)
    )
    for kind in ("pre", "held", "failed"):
        marked(pages, kind)
    marked(pages, "copy", "their_copy", of="their_site")

    text = pages.superuser().get(reverse(LIST)).content.decode()

    live = pages.site.name
    assert "not_ours" not in text
    for key, name in ((":pre", f"{live}__pre"), (":held", f"{live}__held")):
        assert f"<code>{key}</code>" in text
        assert name in text
    assert "&lt;b&gt;source&lt;/b&gt;" in text
    assert "<b>source" not in text
    assert "pretends" not in text
    assert "copy, of another site (their_site)" in text
    assert [len(links(text, page)) for page in ("restore", "swap", "drop")] == [1, 1, 3]
    # Whoever hears the links alone knows of which database each one is.
    for label in ("Revert… :pre", "Drop… :pre", "Swap in… :held", "Drop… :held"):
        assert f'aria-label="{label}"' in text


def test_a_list_of_many_needs_a_fixed_number_of_queries(pages, django_assert_max_num_queries):
    for number in range(3):
        marked(pages, "copy", f"copy_{number}")
    client = pages.superuser()
    with django_assert_max_num_queries(8):
        client.get(reverse(LIST))


def test_buttons_are_those_of_what_a_person_may(pages):
    marked(pages, "pre")
    marked(pages, "held")
    for permissions, expected in (
        (["view_localdatabase"], [0, 0, 0]),
        ([RESTORE], [1, 1, 0]),
        ([COPY], [0, 0, 2]),
    ):
        text = pages.client(*permissions).get(reverse(LIST)).content.decode()
        assert [len(links(text, page)) for page in ("restore", "swap", "drop")] == expected
        assert ("Copy a database" in text) is (COPY in permissions)
    with override_settings(PGCLONE_ALLOW_RESTORE=False, PGCLONE_ALLOW_COPY=False):
        text = pages.superuser().get(reverse(LIST)).content.decode()
        assert "Restores are not allowed here: PGCLONE_ALLOW_RESTORE is False." in text
        assert "Copies are not allowed here: PGCLONE_ALLOW_COPY is False." in text
        assert [len(links(text, page)) for page in ("restore", "swap", "drop")] == [0, 0, 2]


def test_going_back_runs_no_hooks_and_can_be_undone(pages):
    row = reverted(pages)
    client = pages.client(RESTORE)
    pages.site.run("DELETE FROM auth_user WHERE username = 'nobody'")

    text = client.get(url_of("restore", row)).content.decode()

    assert "No hook runs on it." in text
    assert "What is live now is kept as :undo." in text
    assert "Your account is not there" in text
    oid = re.findall(r'name="confirm_oid" value="(\d+)"', text)[0]
    response = client.post(
        url_of("restore", row),
        {
            "database": "default",
            "what": "over",
            "confirm_oid": oid,
            "confirm_name": pages.site.name,
        },
    )
    assert response.status_code == 302
    run = RestoreRun.objects.get()
    assert (run.key, run.location) == (":before", "")
    assert run.options["arguments"]["pre_swap_hooks"] == []
    assert runner.run_restore(run) == "succeeded"
    assert {"before", f"{pages.site.name}__undo"} <= set(pages.site.server.databases())


def test_the_accounts_of_a_local_database_are_read(pages):
    user = pages.client(RESTORE).user
    weak, changed = pages.client(RESTORE).user, pages.client(RESTORE).user
    watcher = pages.client(RESTORE).user
    reverted(pages)
    before = pages.site.run("SELECT count(*) FROM auth_user")

    def stay(person):
        return outlook_of_local(person, "default", "before").stay

    assert stay(user) is Stay.YES
    pages.site.run(
        f"DELETE FROM auth_user_user_permissions WHERE user_id = {weak.pk}", dbname="before"
    )
    assert stay(weak) is Stay.MAYBE
    # Allowed to watch since, and would see no run of theirs afterwards.
    watcher.user_permissions.add(Permission.objects.get(codename="view_restorerun"))
    assert stay(User.objects.get(pk=watcher.pk)) is Stay.MAYBE
    changed.set_password("another")
    assert stay(changed) is Stay.NO
    assert stay(pages.client(RESTORE).user) is Stay.NO
    assert outlook_of_local(user, "default", "missing").stay is Stay.MAYBE
    assert pages.site.run("SELECT count(*) FROM auth_user")[0][0] == before[0][0] + 1


def test_a_held_restore_is_swapped_in_by_the_name_of_the_live_database(pages, held):
    client = pages.client(RESTORE)
    url = url_of("swap", held)
    text = client.get(url).content.decode()
    oid = re.findall(r'name="confirm_oid" value="(\d+)"', text)[0]
    assert oid == str(pages.site.oid)
    assert f"Replace database {pages.site.name}</button>" in text

    wrong = client.post(url, {"confirm_oid": oid, "confirm_name": "other"})
    assert (wrong.status_code, RestoreRun.objects.count()) == (200, 0)
    assert "This is not the name of the database" in wrong.content.decode()
    changed = client.post(url, {"confirm_oid": "4711", "confirm_name": pages.site.name})
    assert (changed.status_code, RestoreRun.objects.count()) == (409, 0)
    posted = {"confirm_oid": oid, "confirm_name": pages.site.name}
    assert client.post(url, posted).status_code == 302
    second = client.post(url, posted)
    run = RestoreRun.objects.get()
    assert second.status_code == 409
    assert f"run {run.pk}, requested by {client.user.username}" in second.content.decode()
    assert runner.run_restore(run) == "succeeded"
    assert str(pages.site.oid) == str(held.oid)


def test_who_swaps_a_held_restore_in_decides_on_the_way_back_and_on_hooks(pages, held):
    client = pages.client(RESTORE)
    url, was_live = url_of("swap", held), pages.site.oid
    ran = {
        "name": "mark it",
        "code": "CREATE TABLE after_the_swap AS SELECT {word} AS word",
        "parameters": [{"name": "word"}],
    }
    with override_settings(PGCLONE_POST_SWAP_HOOKS=[ran], PGCLONE_REVERSIBLE=False):
        text = client.get(url).content.decode()
        assert "Otherwise there is no way back: what is live now is dropped." in text
        posted = {
            "confirm_oid": str(was_live),
            "confirm_name": pages.site.name,
            "reversible": "on",
            "post_swap_hooks": ["mark it"],
        }
        missing = client.post(url, posted)
        assert missing.status_code == 400
        assert "The parameter &quot;word&quot; has no value" in missing.content.decode()
        unknown = client.post(url, {**posted, "post_swap_hooks": ["flush"]})
        assert "Select a valid choice" in unknown.content.decode()
        assert not RestoreRun.objects.exists()
        assert client.post(url, {**posted, "param-word": "it's on"}).status_code == 302
        run = RestoreRun.objects.get()
        assert runner.run_restore(run) == "succeeded"
    assert pages.site.server.oid(f"{pages.site.name}__pre") == was_live
    assert pages.site.run("SELECT word FROM after_the_swap") == [("it's on",)]


def test_until_when_a_held_restore_is_kept_is_told_where_it_is_held_and_dropped(pages, held):
    dump = pages.made_dump()
    client = pages.superuser()
    made = held.mark.made
    with override_settings(PGCLONE_TEMPORARY_DAYS=3):
        until = formats.absolute(made + timedelta(days=3))
        for address in (
            reverse(LIST),
            reverse("admin:pgclone_admin_localdatabase_change", args=[held.pk]),
            url_of("swap", held),
        ):
            assert f"ept until {until}, then dropped" in client.get(address).content.decode()
        restore = reverse("admin:pgclone_admin_dump_restore", args=[dump.pk])
        looked = {"looked": 1, "database": "default", "what": "hold"}
        text = client.get(restore, looked).content.decode()
        assert "Build it and hold it for 3 days" in text
        assert "not been swapped in after 3 days, the next “Clean up” drops it" in text
        runs = client.get(reverse("admin:pgclone_admin_restorerun_changelist")).content.decode()
        assert "once it is older than 3 days" in runs
    copy_of_it = reverse("admin:pgclone_admin_localdatabase_change", args=[reverted(pages).pk])
    assert "ept until" not in client.get(copy_of_it).content.decode()


def test_a_held_restore_of_a_local_copy_keeps_what_it_replaces(pages):
    reverted(pages)
    options = resolve(Arguments(dump_key=":before", pre_swap_hooks=[]), verb="restore")
    restores.restore(options, SilentReporter(), variant=restores.Variant(hold=True))
    held = local_databases().get(name=f"{pages.site.name}__held")
    marked(pages, "undo")
    client, was_live = pages.superuser(), pages.site.oid

    text = client.get(url_of("swap", held)).content.decode()

    assert "no way back" not in text
    assert "What is live now is kept as :undo." in text
    assert "Older local databases are dropped: :undo (" in text
    assert 'name="reversible"' not in text
    posted = {"confirm_oid": str(was_live), "confirm_name": pages.site.name}
    assert client.post(url_of("swap", held), posted).status_code == 302
    assert runner.run_restore(RestoreRun.objects.get()) == "succeeded"
    assert pages.site.server.oid(f"{pages.site.name}__undo") == was_live


@pytest.mark.parametrize("kind", ["pre", "undo"])
def test_who_swaps_in_or_reverts_is_told_which_older_databases_are_dropped(pages, held, kind):
    marked(pages, kind)
    client = pages.superuser()

    swap = client.get(url_of("swap", held)).content.decode()
    revert = client.get(url_of("restore", reverted(pages))).content.decode()

    assert (f"Older local databases are dropped: :{kind} (" in swap) is (kind == "pre")
    assert (f"What is in :{kind} now is gone for good then" in swap) is (kind == "pre")
    assert (f"Older local databases are dropped: :{kind} (" in revert) is (kind == "undo")


def test_what_an_older_database_lacks_is_told_before_it_takes_the_place_of_the_live_one(
    pages, held
):
    older = reverted(pages)
    for name in (older.name, held.name):
        pages.site.run(
            "DELETE FROM django_migrations WHERE app = 'auth' AND name LIKE '0012%%'", dbname=name
        )
        pages.site.run(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('auth', '9999_new', now())",
            dbname=name,
        )
    client = pages.superuser()
    lacks = "1 migration of this code is not in it, and the hook migrate is not chosen"

    for address in (url_of("restore", older), url_of("swap", held)):
        text = client.get(address).content.decode()
        assert lacks in text
        assert "auth.0012_alter_user_first_name_max_length" in text
        assert "auth.9999_new" in text
        assert "It has 1 migration that this code does not know" in text

    looked = {"looked": 1, "database": "default", "what": "over", "hooks": "migrate"}
    text = client.get(url_of("restore", older), looked).content.decode()
    assert lacks not in text
    assert "auth.0012_alter_user_first_name_max_length" in text


def test_a_database_is_copied_and_dropped(pages):
    client = pages.client(COPY)
    url = reverse("admin:pgclone_admin_localdatabase_copy")
    for name, told in (("", "required"), (f"{pages.site.name}__pre", "cannot be made by hand")):
        assert told in client.post(url, {"database": "default", "name": name}).content.decode()
    assert RestoreRun.objects.count() == 0
    assert client.post(url, {"database": "default", "name": "review"}).status_code == 302
    run = RestoreRun.objects.get()
    assert (run.kind, run.target, run.requested_by) == (Kind.COPY, "review", client.user.username)
    assert runner.run_restore(run) == "succeeded"

    row = local_databases().get(name="review")
    assert "Drop database review</button>" in client.get(url_of("drop", row)).content.decode()
    assert client.post(url_of("drop", row)).status_code == 302
    run = RestoreRun.objects.get(kind=Kind.DROP)
    assert runner.run_restore(run) == "succeeded"
    assert "review" not in pages.site.server.databases()
    assert client.post(url_of("drop", row)).status_code == 404


def test_what_is_not_ours_to_touch_has_no_pages(pages):
    theirs = marked(pages, "copy", "their_copy", of="their_site")
    parked = marked(pages, "parked", f"{pages.site.name}__old")
    boss = pages.superuser()
    for row in (theirs, parked):
        for method in (boss.get, boss.post):
            assert method(url_of("drop", row)).status_code == 404
            assert method(url_of("swap", row)).status_code == 404
            response = method(url_of("restore", row))
            assert response.status_code == 409
            assert "cannot be reverted to" in response.content.decode()
    unmarked = pages.site.oid
    url = reverse("admin:pgclone_admin_localdatabase_drop", args=[unmarked])
    assert boss.post(url).status_code == 404
    assert RestoreRun.objects.count() == 0


def test_where_copies_are_disabled_none_is_made(pages):
    url = reverse("admin:pgclone_admin_localdatabase_copy")
    with override_settings(PGCLONE_ALLOW_COPY=False):
        client = pages.client(COPY)
        assert "PGCLONE_ALLOW_COPY is False" in client.get(url).content.decode()
        response = client.post(url, {"database": "default", "name": "review"})
    assert (response.status_code, RestoreRun.objects.count()) == (403, 0)


def test_every_person_gets_what_they_may(pages):
    pre, held = marked(pages, "pre"), marked(pages, "held")
    restore, swap = url_of("restore", pre), url_of("swap", held)
    drop, copy = url_of("drop", pre), reverse("admin:pgclone_admin_localdatabase_copy")
    show, listing = url_of("change", pre), reverse(LIST)
    actions = [restore, swap, drop, copy]
    everything = [*actions, show, listing]
    may_get = {
        "nobody": (pages.client(), []),
        "viewer": (pages.client("view_localdatabase"), [show, listing]),
        "restorer": (pages.client(RESTORE), [restore, swap, show, listing]),
        "copier": (pages.client(COPY), [drop, copy, show, listing]),
        "superuser": (pages.superuser(), everything),
    }
    anonymous = Client()
    for url in everything:
        for response in (anonymous.get(url), anonymous.post(url)):
            assert response.status_code == 302
            assert "/login/" in response["Location"]
    for name, (client, allowed) in may_get.items():
        for url in everything:
            assert client.get(url).status_code == (200 if url in allowed else 403), (name, url)
            if url not in allowed:
                refusal = 405 if url == show else 403
                assert client.post(url).status_code == refusal, (name, url)
            assert url not in actions or RestoreRun.objects.count() == 0, "a GET made a run"
        if show in allowed:
            assert client.post(show).status_code == 405
        for url in allowed:
            if url in actions:
                assert client.put(url).status_code == 405
    boss = may_get["superuser"][0]
    for page in ("delete", "history"):
        assert boss.post(url_of(page, pre)).status_code == 403
    assert boss.post(reverse("admin:pgclone_admin_localdatabase_add")).status_code == 403
    assert RestoreRun.objects.count() == 0


# -- other roles and servers ----------------------------------------------------------------------


def test_what_the_role_of_maintenance_has_made_is_shown_to_a_site_with_a_lesser_one(pages):
    server, live = pages.site.server, pages.site.name
    marked(pages, "pre")
    for name in (live, f"{live}__pre"):
        server.run(f'ALTER DATABASE "{name}" OWNER TO postgres')
        server.run(f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
    server.run(f'GRANT CONNECT ON DATABASE "{live}" TO app')
    run = pages.run(
        status="succeeded", database="default", target=live, live_oid=server.oid(f"{live}__pre")
    )
    client = pages.superuser()
    assert f"{live}__pre" not in client.get(reverse(LIST)).content.decode()

    own = {
        "default": {"USER": "postgres", "PASSWORD": server.dsn_dict(live, "postgres")["PASSWORD"]}
    }
    with override_settings(PGCLONE_CONNECTIONS=own):
        text = client.get(reverse(LIST)).content.decode()
        assert f"{live}__pre" in text
        assert re.search(r"<td[^>]*>\d+(\.\d+)?\xa0[kM]B", text), "its size"
        assert links(text, "restore")
        page = client.get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
        assert links(page.content.decode(), "restore")


@pytest.fixture
def identity_is_secret(pages):
    """The role may not ask which server this is."""
    ask = "EXECUTE ON FUNCTION pg_control_system()"
    pages.site.server.admin(f"REVOKE {ask} FROM PUBLIC")
    yield
    pages.site.server.admin(f"GRANT {ask} TO PUBLIC")


@pytest.mark.parametrize("page", ["restore", "swap"])
def test_what_the_server_refuses_when_it_is_confirmed_is_told_as_when_it_is_looked_at(
    pages, request, page
):
    if page == "swap":
        url = url_of("swap", request.getfixturevalue("held"))
    else:
        url = reverse("admin:pgclone_admin_dump_restore", args=[pages.made_dump().pk])
    client = pages.superuser()
    posted = {
        "database": "default",
        "what": "over",
        "confirm_name": pages.site.name,
        "confirm_oid": pages.site.oid,
    }
    request.getfixturevalue("identity_is_secret")
    for answer in (client.get(url), client.post(url, posted)):
        assert answer.status_code in (200, 400)
        assert "permission denied for function pg_control_system" in answer.content.decode()
    assert not RestoreRun.objects.exists()


@pytest.fixture
def warehouse(pages, servers, make_site):
    """A database of the same site on another server."""
    if 16 not in servers.majors():
        pytest.skip("PostgreSQL 16 is not installed on this machine")
    site = make_site(server=servers.get(16))
    alias = copy.deepcopy(connections.settings["default"])
    connections.settings["warehouse"] = {**alias, **site.dsn_dict("app")}
    yield site
    connections["warehouse"].close()
    del connections["warehouse"], connections.settings["warehouse"]


def test_every_server_of_the_site_has_its_list(pages, warehouse):
    here, there = marked(pages, "pre"), f"{warehouse.name}__pre"
    warehouse.server.create_database(there)
    mark = Mark.new(name=there, kind="pre", of=warehouse.name).comment()
    warehouse.server.run(f'COMMENT ON DATABASE "{there}" IS %s', dbname=there, params=(mark,))
    oid = warehouse.server.oid(there)
    run = pages.run(status="succeeded", database="warehouse", target=warehouse.name, live_oid=oid)
    client = pages.superuser()

    first = client.get(reverse(LIST)).content.decode()
    assert (here.name in first, there in first) == (True, False)
    assert 'href="?server=warehouse"' in first
    second = client.get(reverse(LIST), {"server": "warehouse"}).content.decode()
    assert (here.name in second, there in second) == (False, True)
    assert "PostgreSQL" in second or f":{warehouse.server.port}" in second

    row = local_databases("warehouse").get()
    address = reverse("admin:pgclone_admin_localdatabase_restore", args=[f"warehouse-{oid}"])
    assert f'href="{address}"' in second
    page = client.get(address)
    assert (page.status_code, str(row) in page.content.decode()) == (200, True)
    assert f'Type the name of the database, "{warehouse.name}"' in html.unescape(
        page.content.decode()
    )
    undo = client.get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
    assert f'href="{address}"' in undo.content.decode()

    drop = reverse("admin:pgclone_admin_localdatabase_drop", args=[f"warehouse-{oid}"])
    assert client.post(drop).status_code == 302
    run = RestoreRun.objects.get(kind=Kind.DROP)
    assert (run.database, runner.run_restore(run)) == ("warehouse", "succeeded")
    assert warehouse.server.oid(there) is None
    assert client.get(address).status_code == 404
    for wrong in (f"nowhere-{oid}", "warehouse-x", "-1"):
        url = reverse("admin:pgclone_admin_localdatabase_change", args=[wrong])
        assert client.get(url).status_code == 404


def test_a_server_that_cannot_be_reached_is_said_on_every_page(pages, warehouse):
    row = marked(pages, "pre")
    client = pages.superuser()
    one = [url_of(page, row) for page in ("change", "restore", "swap", "drop")]
    with override_settings(PGCLONE_CONNECTIONS={"default": {"PORT": "1"}}):
        answers = [client.get(url) for url in (reverse(LIST), *one)]
        answers.append(client.post(url_of("drop", row)))
        other = client.get(reverse(LIST), {"server": "warehouse"})
    for answer in answers:
        text = answer.content.decode()
        assert "Connection refused" in text
        assert f'href="{reverse(LIST)}?server=warehouse"' in text
    assert {answer.status_code for answer in answers} == {400}
    assert other.status_code == 200
    assert not RestoreRun.objects.exists()
