"""A role that could not keep the kept tables is refused before anything is made."""

from __future__ import annotations

import pytest

from tests.support.sites import fingerprint

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

SESSIONS = "django.contrib.sessions"


@pytest.fixture
def owned_by_team(own_pg, make_project):
    """The database and its tables belong to a group that the site's role is a member of."""

    def make(major=18):
        project = make_project(own_pg(major), apps=[SESSIONS])
        project.server.admin(
            f'CREATE ROLE team NOLOGIN; GRANT team TO app; ALTER DATABASE "{project.name}"'
            " OWNER TO team"
        )
        return project

    return make


def to_team(project, *tables):
    own = "; ".join(f"ALTER TABLE {table} OWNER TO team" for table in tables)
    project.server.run(f"GRANT ALL ON SCHEMA public TO team; {own}", project.name)


def refused_everywhere(project, key, *expected):
    """By the plan, the doctor and the restore; the restore has made nothing."""
    databases, before = project.server.databases(), fingerprint(project.server, project.name)
    for command in (["restore", key, "--plan"], ["doctor"], ["restore", key, "--pre-swap-hook"]):
        refused = project.pgclone(*command)
        said = refused.stdout + refused.stderr
        assert refused.returncode != 0, command
        for text in expected:
            assert text in said, (command, said)
    assert "restoring" not in refused.stderr
    assert project.server.databases() == databases
    assert fingerprint(project.server, project.name) == before


@pytest.mark.parametrize("major", [18, 15])
def test_tables_of_a_member_are_not_those_of_the_group(owned_by_team, servers, major):
    if major not in servers.majors():
        pytest.skip(f"PostgreSQL {major} is not installed on this machine")
    project = owned_by_team(major)
    key = project.pgclone("dump").ok().lines[0]
    refused_everywhere(
        project,
        key,
        'the role "team"',
        "public.auth_user, public.django_migrations, public.django_session",
        'GRANT SELECT, UPDATE ON "public"."django_session" TO "team"',
        'GRANT SELECT ON "public"."django_migrations" TO "team"',
    )
    project.run("GRANT SELECT ON django_migrations, django_session, auth_user TO team")
    refused_everywhere(project, key, 'GRANT UPDATE ON "public"."django_session" TO "team"')


def test_what_the_hint_says_is_enough(owned_by_team):
    project = owned_by_team()
    to_team(project, "people_person", '"MyTable"', '"my.tab ü"')
    key = project.pgclone("dump").ok().lines[0]
    project.run('GRANT SELECT, UPDATE ON "public"."django_session" TO "team"')
    project.run('GRANT SELECT ON "public"."django_migrations" TO "team"')
    project.run('GRANT SELECT ON "public"."auth_user" TO "team"')
    project.run("INSERT INTO django_session VALUES ('since', 'x', 'infinity')")
    project.pgclone("restore", key, "--pre-swap-hook").ok()
    assert project.run("SELECT session_key FROM django_session") == [("since",)]


@pytest.mark.parametrize("mode", ["forced", "of another owner"])
def test_policies_that_hide_rows_from_the_role_are_refused(owned_by_team, make_project, mode):
    if mode == "forced":
        project = make_project(apps=[SESSIONS])
        project.run("ALTER TABLE django_session FORCE ROW LEVEL SECURITY")
    else:
        project = owned_by_team()
        project.run(
            "GRANT SELECT, UPDATE ON django_session TO team;"
            " GRANT SELECT ON django_migrations, auth_user TO team"
        )
    project.run("ALTER TABLE django_session ENABLE ROW LEVEL SECURITY")
    project.run("CREATE POLICY mine ON django_session USING (session_key <> 'hidden')")
    key = project.pgclone("dump", "--exclude", "people.Note").ok().lines[0]
    refused_everywhere(project, key, "policies hide rows", "public.django_session", "BYPASSRLS")


def test_policies_that_the_owner_is_free_of_are_no_obstacle(make_project):
    project = make_project(apps=[SESSIONS])
    project.run("ALTER TABLE django_session ENABLE ROW LEVEL SECURITY")
    project.run("INSERT INTO django_session VALUES ('mine', 'x', 'infinity')")
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--pre-swap-hook").ok()
    assert project.run("SELECT session_key FROM django_session") == [("mine",)]
