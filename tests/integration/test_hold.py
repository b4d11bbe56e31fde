"""A restore that is held, and swapped in when somebody says so."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.sites import fingerprint

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def site(make_quick):
    return make_quick(apps=("django.contrib.sessions",))


@pytest.fixture
def key(site):
    """A dump; the site has one more person since."""
    key = site.pgclone("dump").ok().lines[0]
    site.add_person("later")
    return key


def held_name(site):
    return f"{site.name}__held"


def log_in(site, *names):
    """Rows of a kept table."""
    for name in names:
        site.run("INSERT INTO django_session VALUES (%s, '', 'infinity')", params=(name,))


def logins(site, dbname=None):
    return [
        row[0]
        for row in site.run("SELECT session_key FROM django_session ORDER BY 1", dbname=dbname)
    ]


def local(site):
    """Local copies by kind."""
    entries = site.pgclone("ls", "--local", "--json").ok().json()
    return {entry["key"]: (entry["kind"], entry["source"]) for entry in entries if entry["kind"]}


@contextlib.contextmanager
def live_unchanged(site):
    before = (site.oid, fingerprint(site.server, site.name), site.database_properties())
    yield
    assert (site.oid, fingerprint(site.server, site.name), site.database_properties()) == before


@contextlib.contextmanager
def site_at_work(site):
    """A writer to a kept table that does not end."""
    with (
        contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as writer,
        writer.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO django_session VALUES ('unfinished', '', 'infinity')")
        yield


def test_a_held_restore_leaves_the_live_database_and_its_sessions_alone(site, key):
    log_in(site, "ada")
    with live_unchanged(site), site.server.held_session(site.name) as session:
        done = site.pgclone("restore", key, "--hold", "--json").ok().json()
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert (done["key"], done["database"]) == (key, held_name(site))
    assert done["swap_seconds"] is None
    assert local(site) == {":held": ("held", key)}
    assert "later" not in site.people(held_name(site))
    assert logins(site, held_name(site)) == []


def test_a_swap_puts_what_is_held_in_place_with_the_rows_of_today(site, key):
    log_in(site, "ada")
    site.pgclone("restore", key, "--hold").ok()
    held = site.server.oid(held_name(site))
    properties = site.database_properties()
    site.run("DELETE FROM django_session")
    log_in(site, "grace", "zoë")

    swapped = site.pgclone("swap", "--json").ok().json()

    assert swapped["database"] == site.name
    assert swapped["swap_seconds"] > 0
    assert site.oid == held
    assert "later" not in site.people()
    assert logins(site) == ["grace", "zoë"]
    assert site.database_properties() == properties
    assert local(site) == {}


def test_a_swap_says_that_nothing_is_held(site, key):
    with live_unchanged(site):
        missing = site.pgclone("swap").failed()
    assert f'error: no restore of the database "{site.name}" is held' in missing.stderr
    assert "hint: Make one with: pgclone restore KEY --hold" in missing.stderr
    site.pgclone("restore", key, "--hold").ok()
    assert site.pgclone("swap").ok().lines == [site.name]
    again = site.pgclone("swap").failed()
    assert f'error: no restore of the database "{site.name}" is held' in again.stderr


def test_a_reversible_swap_keeps_what_was_and_what_was_held(site, key):
    log_in(site, "ada")
    site.pgclone("restore", key, "--hold").ok()
    live = site.oid
    site.pgclone("swap", "--reversible").ok()
    assert {name: kind for name, (kind, _) in local(site).items()} == {
        ":pre": "pre",
        ":post": "post",
    }
    assert site.server.oid(f"{site.name}__pre") == live
    assert site.people(f"{site.name}__pre")[-1] == "later"
    assert "later" not in site.people(f"{site.name}__post")
    assert logins(site, f"{site.name}__post") == []
    assert logins(site) == ["ada"]
    site.pgclone("restore", ":pre").ok()
    assert site.people()[-1] == "later"


def test_whether_a_swap_is_reversible_is_asked_when_it_is_made(site, key):
    site.pgclone("restore", key, "--hold", "--reversible").ok()
    assert list(local(site)) == [":held"]
    assert '"becomes": "pre"' in site.server.comment(held_name(site))
    site.pgclone("swap").ok()
    assert local(site) == {}
    site.pgclone("restore", key, "--hold").ok()
    site.pgclone("swap", settings={"PGCLONE_REVERSIBLE": True}).ok()
    assert set(local(site)) == {":pre", ":post"}


def test_other_restores_leave_what_is_held_alone_and_another_hold_replaces_it(site, key):
    site.pgclone("restore", key, "--hold").ok()
    held = site.server.oid(held_name(site))
    site.pgclone("restore", key, "--reversible").ok()
    site.pgclone("restore", ":pre").ok()
    site.pgclone("restore", key).ok()
    assert site.server.oid(held_name(site)) == held
    assert local(site)[":held"] == ("held", key)

    site.add_person("even later")
    newer = site.pgclone("dump").ok().lines[0]
    site.pgclone("restore", newer, "--hold").ok()
    assert local(site)[":held"] == ("held", newer)
    assert site.server.oid(held_name(site)) != held
    site.pgclone("swap").ok()
    assert site.people()[-1] == "even later"


def test_a_swap_that_fails_leaves_it_held(site, key):
    site.pgclone("restore", key, "--hold").ok()
    before = local(site), site.server.oid(held_name(site))
    with live_unchanged(site), site_at_work(site):
        failed = site.pgclone("swap", "--reversible", settings={"PGCLONE_SWAP_TIMEOUT": 0}).failed()
        assert "error: kept tables could not be locked" in failed.stderr
        assert "public.django_session" in failed.stderr
    with live_unchanged(site), site.server.held_session(site.name, "postgres"):
        failed = site.pgclone("swap").failed()
        assert "a superuser is connected" in failed.stderr
    assert (local(site), site.server.oid(held_name(site))) == before
    site.pgclone("swap").ok()
    assert site.oid == before[1]


def test_what_a_site_was_too_busy_for_is_held_for_another_try(site, key):
    with live_unchanged(site), site_at_work(site):
        failed = site.pgclone("restore", key, "-r", settings={"PGCLONE_SWAP_TIMEOUT": 0}).failed()
    assert "error: kept tables could not be locked" in failed.stderr
    assert "What was restored is held: swap it in later, in the admin or with" in failed.stderr
    assert local(site) == {":held": ("held", key)}
    assert '"becomes": "pre"' in site.server.comment(held_name(site))
    held = site.server.oid(held_name(site))
    log_in(site, "ada")
    site.pgclone("swap", "--reversible").ok()
    assert site.oid == held
    assert "later" not in site.people()
    assert logins(site) == ["ada"]
    assert set(local(site)) == {":pre", ":post"}


def test_an_undo_that_a_site_was_too_busy_for_is_held_and_still_an_undo(site, key):
    site.pgclone("restore", key, "--reversible").ok()
    live, people = site.oid, site.people()
    with site_at_work(site):
        failed = site.pgclone("restore", ":pre", settings={"PGCLONE_SWAP_TIMEOUT": 0}).failed()
    assert (site.oid, site.people()) == (live, people)
    assert "What was restored is held: swap it in later" in failed.stderr
    assert set(local(site)) == {":pre", ":post", ":held"}
    site.pgclone("swap").ok()
    assert site.people()[-1] == "later"
    assert set(local(site)) == {":pre", ":post", ":undo"}


def test_what_a_site_was_too_busy_for_does_not_take_the_place_of_what_is_held(site, key):
    site.pgclone("restore", key, "--hold").ok()
    before = local(site), site.server.oid(held_name(site))
    newer = site.pgclone("dump").ok().lines[0]
    with live_unchanged(site), site_at_work(site):
        failed = site.pgclone("restore", newer, settings={"PGCLONE_SWAP_TIMEOUT": 0}).failed()
    assert (
        "What was restored is dropped, as it cannot be held: there is a database" in failed.stderr
    )
    assert (local(site), site.server.oid(held_name(site))) == before


def test_what_a_site_was_too_busy_for_is_dropped_where_nothing_is_to_be_kept(site, key):
    settings = {"PGCLONE_SWAP_TIMEOUT": 0, "PGCLONE_KEEP_FAILED": False}
    with live_unchanged(site), site_at_work(site):
        failed = site.pgclone("restore", key, settings=settings).failed()
    assert "held" not in failed.stderr
    assert local(site) == {}


def test_what_is_held_is_swapped_and_not_restored(site, key):
    site.pgclone("restore", key, "--hold").ok()
    with live_unchanged(site):
        for named in (":held", f":{held_name(site)}"):
            refused = site.pgclone("restore", named).failed()
            assert "is a restore that is held" in refused.stderr
            assert "hint: Swap it in with: pgclone swap" in refused.stderr
    plan = site.pgclone("restore", ":held", "--plan", "--json").failed().json()
    assert [obstacle["code"] for obstacle in plan["obstacles"]] == ["conflict"]
    assert local(site) == {":held": ("held", key)}


def test_what_is_held_gets_the_tables_that_a_kept_app_has_got_since(site, key):
    site.pgclone("restore", key, "--hold").ok()
    site.run("ALTER TABLE django_session ADD COLUMN ip text")
    log_in_with_ip = "INSERT INTO django_session VALUES ('ada', '', 'infinity', '127.0.0.1')"
    site.run(log_in_with_ip)
    site.pgclone("swap").ok()
    assert site.run("SELECT session_key, ip FROM django_session") == [("ada", "127.0.0.1")]


def test_a_held_copy_parks_what_it_replaces_for_an_undo(site, key):
    site.pgclone("restore", key, "--reversible").ok()
    site.add_person("today")
    site.pgclone("restore", ":pre", "--hold").ok()
    site.pgclone("swap").ok()
    assert site.people()[-1] == "later"
    assert set(local(site)) == {":pre", ":post", ":undo"}
    site.pgclone("restore", ":undo").ok()
    assert site.people()[-1] == "today"


def test_an_undo_of_an_undo_is_undone_as_often_as_wanted(site, key):
    site.pgclone("restore", key, "--to", ":other").ok()
    log_in(site, "ada")
    site.pgclone("restore", ":other").ok()
    assert "later" not in site.people()
    for person in ("later", None, "later"):
        # What was live each time is what the next undo brings back.
        live = site.oid
        log_in(site, f"session in {live}")
        today = logins(site)
        site.pgclone("restore", ":undo").ok()
        assert ("later" in site.people()) is (person == "later")
        assert site.server.oid(f"{site.name}__undo") == live
        assert logins(site) == today
    assert set(local(site)) == {":other", ":undo"}


def test_a_plan_tells_that_it_stops_before_the_swap(site, key):
    with live_unchanged(site):
        plan = site.pgclone("restore", key, "--hold", "--plan", "--json").ok().json()
        lines = site.pgclone("restore", key, "--hold", "--plan").ok().lines
    assert (plan["held"], plan["replaces"]) == (True, True)
    (replaces,) = [line for line in lines if line.startswith("replaces")]
    assert 'at "pgclone swap", the live database of ' in replaces
    assert local(site) == {}


def test_where_restores_are_not_allowed_nothing_is_held_or_swapped(site, key):
    site.pgclone("restore", key, "--hold").ok()
    with live_unchanged(site):
        for arguments in (("restore", key, "--hold"), ("swap",)):
            refused = site.pgclone(*arguments, settings={"PGCLONE_ALLOW_RESTORE": False}).failed()
            assert "error: restores are not allowed here" in refused.stderr
    assert local(site) == {":held": ("held", key)}


def test_where_there_is_no_live_database_there_is_nothing_to_wait_for(site, key):
    databases = {"default": site.dsn_dict()}
    databases["default"]["NAME"] = missing = site.server.fresh_name("missing")
    site.pgclone("restore", key, "--hold", database=databases).ok()
    assert "later" not in site.people(missing)
    assert f"{missing}__held" not in site.server.databases()
    refused = site.pgclone("swap", database=databases).failed()
    assert "is held" in refused.stderr


def test_a_restore_is_held_or_made_beside_the_live_database_but_not_both(site, key):
    refused = site.pgclone("restore", key, "--hold", "--to", ":look").failed()
    assert "not both" in refused.stderr
    assert local(site) == {}


def test_a_database_of_that_name_that_was_not_made_here_is_left_alone(site, key):
    site.server.create_database(held_name(site))
    oid = site.server.oid(held_name(site))
    for arguments in (("restore", key, "--hold"), ("swap",)):
        with live_unchanged(site):
            refused = site.pgclone(*arguments).failed()
        assert "was not made by pgclone_admin and is left alone" in refused.stderr
    assert site.server.oid(held_name(site)) == oid
