"""Restores by a role as managed servers give it: the first of all roles, and yet no superuser."""

from __future__ import annotations

import pytest

from tests.support import postgres
from tests.support.postgres import available

from .operations import foreign, restore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

PASSWORD = "the first of all"

MAJORS = [major for major in (15, 18) if major in available()]


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def managed(request, own_pg, monkeypatch):
    """A server with a provider, whose superuser nobody else can be, and a customer ``master``."""
    monkeypatch.setitem(postgres.PASSWORDS, "master", PASSWORD)
    server = own_pg(request.param)
    server.run(
        f"""
        CREATE ROLE provider SUPERUSER;
        CREATE ROLE provider_admin NOLOGIN CREATEDB CREATEROLE;
        GRANT pg_monitor, pg_signal_backend TO provider_admin WITH ADMIN OPTION;
        CREATE ROLE master LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}';
        GRANT provider_admin TO master;
        GRANT app TO master WITH ADMIN OPTION;
        ALTER ROLE app NOCREATEDB
        """
    )
    return server


def as_provider(site, statements):
    site.run(f"SET ROLE provider; {statements}", user="postgres")


THEIRS = """
CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER telling ON ddl_command_end EXECUTE FUNCTION told();
COMMENT ON EVENT TRIGGER telling IS 'tells';
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION a_schema FOR TABLES IN SCHEMA public;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_logdir() TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO app;
CREATE TABLE of_the_provider (id integer PRIMARY KEY);
INSERT INTO of_the_provider VALUES (1), (2);
GRANT SELECT ON of_the_provider TO reader;
ALTER TYPE order_state OWNER TO provider;
GRANT USAGE ON SCHEMA public TO reader;
"""

KINDS = ("DEFAULT PRIVILEGES", "FUNCTION", "TABLE")


def _kind(statement):
    return next(number for number, kind in enumerate(KINDS) if f" {kind} " in statement)


LEFT_OUT = [
    "COMMENT EVENT TRIGGER telling",
    "EVENT TRIGGER telling",
    "PUBLICATION TABLES IN SCHEMA a_schema public",
    "PUBLICATION everything",
]


def test_a_dump_of_a_managed_server_is_restored_and_what_is_left_out_is_listed(
    managed, make_site, storage_root
):
    site = make_site(managed)
    site.run(
        "CREATE PUBLICATION one FOR TABLE customer;"
        " GRANT SELECT ON customer TO other WITH GRANT OPTION"
    )
    as_provider(
        site,
        THEIRS + "SET ROLE other; GRANT SELECT ON public.customer TO pg_monitor; RESET ROLE",
    )
    before = site.fingerprint()
    key = foreign(storage_root, site.archive(user="postgres"))
    site.run('DELETE FROM order_line; DROP TABLE "my.tab"')
    site.run("DROP EVENT TRIGGER telling; DROP FUNCTION told()", user="postgres")

    result = restore(site, key, storage_root, user="master")

    assert sorted(result.report.left_out) == LEFT_OUT
    default, function, table = sorted(result.report.skipped_grants, key=_kind)
    assert default.startswith("ALTER DEFAULT PRIVILEGES FOR ROLE provider IN SCHEMA public GRANT ")
    assert "ON FUNCTION pg_catalog.pg_ls_logdir(" in function
    assert "GRANT SELECT ON TABLE public.customer TO pg_monitor" in table
    after = site.fingerprint()
    assert after.rows == before.rows
    owned = ("relations", "functions", "types")
    theirs = ("event triggers", "publications", "default privileges", "comments")
    assert after.without(*owned, *theirs) == before.without(*owned, *theirs)
    belongs_to_them = (
        "SELECT relname FROM pg_class WHERE relowner = 'provider'::regrole"
        " UNION ALL SELECT typname FROM pg_type WHERE typowner = 'provider'::regrole"
        " UNION ALL SELECT proname FROM pg_proc WHERE proowner = 'provider'::regrole"
    )
    assert site.run(belongs_to_them) == []
    assert after["publications"] == [
        '["a_schema", "app", false]',
        '["one", "app", false]',
    ]
    assert site.run("SELECT has_table_privilege('reader', 'of_the_provider', 'SELECT')") == [
        (True,)
    ]
    assert site.database_properties()["owner"] == "app"


def test_the_plan_and_the_result_of_the_command_name_it(managed, make_project):
    project = make_project(managed)
    project.run(THEIRS.replace("ALTER TYPE order_state OWNER TO provider;", ""), user="postgres")
    project.settings["PGCLONE_CONNECTIONS"] = {"default": {"USER": "master", "PASSWORD": PASSWORD}}
    archive = project.folder / "theirs.dump"
    archive.write_bytes(project.archive(user="postgres"))
    key = project.pgclone("import", str(archive)).ok().lines[0]

    planned = project.pgclone("restore", key, "--plan", "--json").ok().json()
    shown = project.pgclone("restore", key, "--plan").ok().stdout
    restored = project.pgclone("restore", key, "--json").ok()

    defaults = 'DEFAULT PRIVILEGES FOR TABLES of the role "postgres"'
    assert planned["left_out"] == sorted([defaults, *LEFT_OUT])
    assert planned["lost_owners"] == [
        'FUNCTION public.told() of the role "postgres"',
        'PUBLICATION a_schema of the role "postgres"',
        'TABLE public.of_the_provider of the role "postgres"',
    ]
    assert sorted(restored.json()["lost_owners"]) == planned["lost_owners"]
    assert sorted(restored.json()["left_out"]) == LEFT_OUT
    for entry in LEFT_OUT:
        assert entry in shown
        assert f"left out, as this role cannot create it here: {entry}" in restored.stderr
    assert project.run("SELECT count(*) FROM of_the_provider") == [(2,)]


@pytest.mark.skipif(15 not in available(), reason="needs extensions that come with PostgreSQL 15")
def test_an_extension_that_only_the_first_role_may_create_is_created_by_it(
    own_pg, make_site, storage_root, monkeypatch
):
    monkeypatch.setitem(postgres.PASSWORDS, "master", PASSWORD)
    server = own_pg(15)
    server.run(f"CREATE ROLE master LOGIN CREATEDB PASSWORD '{PASSWORD}'; GRANT app TO master")
    site = make_site(server, empty=True)
    server.admin(f'REVOKE CREATE ON DATABASE "{site.name}" FROM app')
    server.admin(f'GRANT CREATE ON DATABASE "{site.name}" TO master')
    site.run(
        "CREATE EXTENSION hstore; COMMENT ON EXTENSION hstore IS 'of the provider';"
        " GRANT EXECUTE ON FUNCTION hstore(text, text) TO reader WITH GRANT OPTION",
        user="postgres",
    )
    site.run(
        "CREATE TABLE pair (id integer PRIMARY KEY, kept hstore);"
        " INSERT INTO pair SELECT i, hstore('a', i::text) FROM generate_series(1, 100) AS i;"
        " CREATE INDEX pair_kept ON pair USING gist (kept)"
    )
    before = site.fingerprint()
    key = foreign(storage_root, site.archive())
    site.run("DROP TABLE pair")

    result = restore(site, key, storage_root, user="master")

    different = ("comments", "functions")
    assert site.fingerprint().without(*different) == before.without(*different)
    assert site.run(
        "SELECT pg_get_userbyid(extowner) FROM pg_extension WHERE extname = 'hstore'"
    ) == [("master",)]
    assert result.report.tolerated == ["COMMENT ON EXTENSION hstore IS 'of the provider';"]
    # The server only warns of a grant of what belongs to somebody else.
    (skipped,) = result.report.skipped_grants
    assert skipped.startswith(
        'ACL "public.FUNCTION hstore(text, text)" (no privileges were granted'
    )


@pytest.mark.skipif(15 not in available(), reason="needs extensions that come with PostgreSQL 15")
def test_an_extension_in_a_public_schema_that_somebody_else_owns_comes_back(
    own_pg, make_site, storage_root
):
    """As after an upgrade from a version before 15: the archive holds an entry without a statement
    for the schema, which is in every database."""
    server = own_pg(15)
    site = make_site(server, empty=True)
    site.run("ALTER SCHEMA public OWNER TO app; CREATE EXTENSION hstore", user="postgres")
    site.run("CREATE TABLE pair AS SELECT hstore('a', '1') AS kept")
    before = site.fingerprint()
    key = foreign(storage_root, site.archive())
    site.run("DROP TABLE pair")

    restore(site, key, storage_root, user="postgres", trust_foreign=True)

    # The schema belongs to pg_database_owner then, which is the same role.
    assert site.fingerprint().without("schemas") == before.without("schemas")


@pytest.mark.skipif(15 not in available(), reason="needs extensions that come with PostgreSQL 15")
def test_servers_of_a_foreign_data_wrapper_come_back(own_pg, make_site, storage_root):
    server = own_pg(15)
    site = make_site(server, empty=True)
    site.run(
        "CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO app",
        user="postgres",
    )
    site.run(
        "CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');"
        " CREATE USER MAPPING FOR app SERVER elsewhere OPTIONS (user 'x', password 'y');"
        " CREATE FOREIGN TABLE far (id integer) SERVER elsewhere OPTIONS (table_name 'z')"
    )
    before = site.fingerprint()
    key = foreign(storage_root, site.archive())
    site.run("DROP SERVER elsewhere CASCADE")

    result = restore(site, key, storage_root, user="postgres", trust_foreign=True)

    assert site.fingerprint() == before
    assert result.report.skipped_grants == []
