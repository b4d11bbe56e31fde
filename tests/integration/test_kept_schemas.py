"""Kept tables lie where the site has them, not where the role that restores would look."""

from __future__ import annotations

import json

import pytest

from tests.support.postgres import PASSWORDS

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

SESSIONS = "django.contrib.sessions"
AS_POSTGRES = {"default": {"USER": "postgres", "PASSWORD": PASSWORDS["postgres"]}}


def log_in(project, key, schema="shop"):
    project.run(f"INSERT INTO {schema}.django_session VALUES ('{key}', 'x', 'infinity')")


def keys(project, schema="shop"):
    return {row[0] for row in project.run(f"SELECT session_key FROM {schema}.django_session")}


@pytest.fixture
def moved(make_project):
    """A site whose tables are in a schema that only its own role looks into."""
    project = make_project(apps=[SESSIONS])
    project.run(f"""
        CREATE SCHEMA shop; ALTER TABLE django_session SET SCHEMA shop;
        ALTER TABLE "MyTable" SET SCHEMA shop;
        ALTER ROLE app IN DATABASE "{project.name}" SET search_path = shop, public
    """)
    project.settings["PGCLONE_CONNECTIONS"] = AS_POSTGRES
    return project


def test_kept_tables_are_those_that_the_role_of_the_site_sees(moved):
    log_in(moved, "cookie-of-ada")
    key = moved.pgclone("dump", "--exclude", "people.Note").ok().lines[0]
    told = json.loads((moved.storage_root / f"{key}.json").read_text())
    assert told["kept"] == ["shop.django_session"]
    assert told["excluded"] == ["shop.MyTable"]
    text = moved.server.archive_as_sql(moved.pgclone("cat", key).ok().output)
    assert "cookie-of-ada" not in text
    assert 'COPY shop."MyTable"' not in text
    log_in(moved, "logged-in-since")
    plan = moved.pgclone("restore", key, "--plan", "--json").ok().json()
    assert plan["kept"] == ["shop.django_session"]
    doctor = moved.pgclone("doctor")
    assert any("shop.django_session" in line for line in doctor.lines)
    moved.pgclone("restore", key, "--pre-swap-hook").ok()
    assert keys(moved) == {"cookie-of-ada", "logged-in-since"}


def test_options_of_the_connection_of_the_site_say_where_its_tables_are(make_project):
    project = make_project(apps=[SESSIONS])
    project.run("CREATE SCHEMA shop; ALTER TABLE django_session SET SCHEMA shop")
    databases = project.databases(OPTIONS={"options": "-c search_path=shop,public"})
    project.settings["PGCLONE_CONNECTIONS"] = {
        "default": {**AS_POSTGRES["default"], "OPTIONS": {"options": "-c search_path=public"}}
    }
    log_in(project, "before")
    key = project.pgclone("dump", database=databases).ok().lines[0]
    log_in(project, "since")
    project.pgclone("restore", key, "--pre-swap-hook", database=databases).ok()
    assert keys(project) == {"before", "since"}


def test_a_session_is_judged_by_the_users_that_the_site_sees(moved):
    """Somebody else has the number of a user in the restored database: the session stays behind."""
    moved.run("ALTER TABLE auth_user SET SCHEMA shop")
    moved.run(
        "INSERT INTO shop.auth_user (id, username, password, is_superuser, first_name, last_name,"
        " email, is_staff, is_active, date_joined)"
        " VALUES (77, 'mallory', 'x', false, '', '', '', false, true, now())"
    )
    key = moved.pgclone("dump").ok().lines[0]
    moved.run("UPDATE shop.auth_user SET username = 'ada' WHERE id = 77")
    (session,) = moved.manage("logins", "ada").ok().json().values()
    assert session in keys(moved)
    moved.pgclone("restore", key, "--pre-swap-hook").ok()
    assert session not in keys(moved)


def test_a_table_of_the_site_that_is_not_where_restores_go_is_an_obstacle(own_pg, make_project):
    """The same name on another server, as after a move that one setting has not followed."""
    project = make_project(apps=[SESSIONS])
    other = own_pg(18)
    other.create_database(project.name)
    before = other.databases()
    key = project.pgclone("dump").ok().lines[0]
    project.settings["PGCLONE_CONNECTIONS"] = {"default": {"PORT": str(other.port)}}
    for command in (["dump"], ["restore", key], ["restore", key, "--plan"], ["doctor"]):
        refused = project.pgclone(*command)
        assert refused.returncode != 0, command
        said = refused.stdout + refused.stderr
        assert "public.django_session" in said, command
        assert "PGCLONE_CONNECTIONS" in said, command
    assert other.databases() == before


def test_a_table_that_the_site_has_still_to_migrate_to_is_no_obstacle(make_project):
    project = make_project()
    key = project.pgclone("dump", apps=[SESSIONS]).ok().lines[0]
    plan = project.pgclone("restore", key, "--plan", "--json", apps=[SESSIONS]).ok().json()
    assert plan["kept"] == []


def test_without_a_database_nothing_is_kept(make_project):
    project = make_project(apps=[SESSIONS])
    key = project.pgclone("dump").ok().lines[0]
    project.server.drop_database(project.name)
    project.pgclone("restore", key, "--pre-swap-hook").ok()
    assert project.people()


def test_a_site_that_cannot_connect_is_not_guessed_at(own_pg, make_project):
    project = make_project(own_pg(18), apps=[SESSIONS])
    key = project.pgclone("dump").ok().lines[0]
    project.settings["PGCLONE_CONNECTIONS"] = AS_POSTGRES
    project.server.run("ALTER ROLE app NOLOGIN")
    refused = project.pgclone("restore", key)
    assert refused.returncode != 0
    assert "in which schema its tables are" in refused.stderr
    project.pgclone("restore", key, "--pre-swap-hook", settings={"PGCLONE_KEEP_APPS": []}).ok()
