"""Who owns what after a restore: whoever did before, where that role is here."""

from __future__ import annotations

import pytest

from pgclone_admin.core.kept import Keeping, KeptName
from pgclone_admin.core.names import TableName
from tests.support import postgres
from tests.support.postgres import PASSWORDS

from .operations import copy, foreign, restore, take

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

OF_OTHERS = """
CREATE SCHEMA vault AUTHORIZATION other;
CREATE TABLE vault.secret (id serial PRIMARY KEY, code integer GENERATED ALWAYS AS IDENTITY);
INSERT INTO vault.secret DEFAULT VALUES;
CREATE SEQUENCE public.a_counter; CREATE TABLE public.z_counted (id integer);
ALTER SEQUENCE public.a_counter OWNED BY public.z_counted.id;
CREATE FUNCTION public.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER
    AS 'SELECT count(*) FROM vault.secret';
CREATE VIEW public.looked AS SELECT id FROM vault.secret;
CREATE MATERIALIZED VIEW public.counted AS SELECT count(*) FROM vault.secret;
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE DOMAIN public.few AS integer CHECK (value < 9);
CREATE TYPE public.pair AS (a integer, b integer);
CREATE AGGREGATE public.together(text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE PROCEDURE public.nothing_much() LANGUAGE sql AS '';
CREATE OPERATOR public.=== (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text);
CREATE COLLATION public.plain_c (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION public.simply (COPY = simple);
CREATE STATISTICS public.both ON id, code FROM vault.secret;
SELECT lo_from_bytea(4711, 'kept'::bytea), lo_from_bytea(4712, 'kept'::bytea);
CREATE TABLE public."of the reader" (id integer);
ALTER TABLE vault.secret OWNER TO other; ALTER TABLE public.z_counted OWNER TO other;
ALTER FUNCTION public.peek() OWNER TO other; ALTER VIEW public.looked OWNER TO other;
ALTER MATERIALIZED VIEW public.counted OWNER TO other; ALTER TYPE public.mood OWNER TO other;
ALTER DOMAIN public.few OWNER TO other; ALTER TYPE public.pair OWNER TO other;
ALTER AGGREGATE public.together(text) OWNER TO other;
ALTER PROCEDURE public.nothing_much() OWNER TO other; ALTER OPERATOR public.=== (text, text)
OWNER TO other; ALTER COLLATION public.plain_c OWNER TO other;
ALTER TEXT SEARCH CONFIGURATION public.simply OWNER TO other;
ALTER STATISTICS public.both OWNER TO other; ALTER LARGE OBJECT 4711 OWNER TO other;
ALTER LARGE OBJECT 4712 OWNER TO other; ALTER TABLE public."of the reader" OWNER TO reader;
GRANT USAGE ON SCHEMA vault TO reader;
REVOKE ALL ON vault.secret FROM other; GRANT SELECT ON vault.secret TO other;
GRANT SELECT (id), UPDATE (id) ON vault.secret TO reader WITH GRANT OPTION;
SET ROLE reader; GRANT SELECT (id) ON vault.secret TO app; RESET ROLE;
GRANT SELECT ON public.counted TO reader; GRANT SELECT ON LARGE OBJECT 4711 TO reader;
REVOKE EXECUTE ON FUNCTION public.peek() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.peek() TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE other IN SCHEMA vault GRANT SELECT ON TABLES TO reader;
"""

OWNERS = """
SELECT relname, pg_get_userbyid(relowner), relacl::text FROM pg_class WHERE oid > 16383
   AND relkind IN ('r', 'S', 'v', 'm')
 UNION ALL SELECT proname, pg_get_userbyid(proowner), proacl::text FROM pg_proc WHERE oid > 16383
 UNION ALL SELECT oid::text, pg_get_userbyid(lomowner), lomacl::text FROM pg_largeobject_metadata
 UNION ALL SELECT stxname, pg_get_userbyid(stxowner), '' FROM pg_statistic_ext
 UNION ALL SELECT oprname, pg_get_userbyid(oprowner), '' FROM pg_operator WHERE oid > 16383
 UNION ALL SELECT collname, pg_get_userbyid(collowner), '' FROM pg_collation WHERE oid > 16383
 UNION ALL SELECT cfgname, pg_get_userbyid(cfgowner), '' FROM pg_ts_config WHERE oid > 16383
 ORDER BY 1, 2
"""


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_objects_of_three_roles_keep_owners_and_grants(any_pg, make_site, storage_root, codec):
    site = make_site(any_pg)
    site.run(OF_OTHERS, user="postgres")
    before, owners = site.fingerprint(), site.run(OWNERS, user="postgres")
    key = take(site, storage_root, user="postgres", codec=codec)
    site.run("DROP SCHEMA vault CASCADE; DROP VIEW IF EXISTS public.looked", user="postgres")

    result = restore(site, key, storage_root, user="postgres", reversible=True)

    assert site.run(OWNERS, user="postgres") == owners
    assert site.fingerprint() == before
    assert site.fingerprint(f"{site.name}__post") == before
    assert (result.report.lost_owners, result.report.skipped_grants) == ([], [])


def test_a_copy_of_a_database_in_use_keeps_owners_and_grants(make_site):
    site = make_site()
    site.run(OF_OTHERS, user="postgres")
    with site.server.held_session(site.name):
        copied = copy(site, ":beside", user="postgres")
    assert copied.piped
    assert site.fingerprint("beside") == site.fingerprint()


def test_a_site_whose_tables_belong_to_another_role_than_its_database_works_after_a_restore(
    make_project,
):
    project = make_project(apps=["django.contrib.sessions"])
    project.server.admin(f'ALTER DATABASE "{project.name}" OWNER TO postgres')
    project.run("GRANT CREATE ON SCHEMA public TO app", user="postgres")
    maintenance = {"USER": "postgres", "PASSWORD": PASSWORDS["postgres"]}
    project.settings["PGCLONE_CONNECTIONS"] = {"default": maintenance}
    people = project.people()
    key = project.pgclone("dump").ok().lines[0]
    project.run("TRUNCATE people_person CASCADE")

    restored = project.pgclone("restore", key, "--json").ok()

    assert project.people() == people
    assert restored.json()["lost_owners"] == []
    assert {
        row[0]
        for row in project.run("SELECT tableowner FROM pg_tables WHERE schemaname = 'public'")
    } == {"app"}


def test_an_owner_that_is_not_here_is_named_before_and_after(own_pg, make_project):
    source, server = own_pg(), own_pg()
    project = make_project(server)
    source.run("CREATE ROLE auditor")
    made = make_project(source)
    source.run(
        "CREATE TABLE one (id integer); CREATE TABLE two (id integer);"
        " CREATE FUNCTION see() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
        " AS 'SELECT count(*) FROM public.one';"
        " ALTER TABLE one OWNER TO auditor; ALTER TABLE two OWNER TO auditor;"
        " ALTER FUNCTION see() OWNER TO auditor;"
        " ALTER DEFAULT PRIVILEGES FOR ROLE auditor GRANT SELECT ON TABLES TO reader",
        made.name,
    )
    archive = project.folder / "elsewhere.dump"
    archive.write_bytes(source.archive(made.name, user="postgres"))
    key = project.pgclone("import", str(archive)).ok().lines[0]
    lost = [
        f'{name} of the role "auditor"'
        for name in ("FUNCTION public.see()", "TABLE public.one", "TABLE public.two")
    ]

    planned = project.pgclone("restore", key, "--plan", "--json").ok().json()
    shown = project.pgclone("restore", key, "--plan").ok().stdout
    restored = project.pgclone("restore", key, "--json", "--pre-swap-hook").ok()

    assert planned["lost_owners"] == lost
    assert planned["left_out"] == ['DEFAULT PRIVILEGES FOR TABLES of the role "auditor"']
    assert sorted(restored.json()["lost_owners"]) == lost
    assert project.run("SELECT tableowner FROM pg_tables WHERE tablename = 'one'") == [("app",)]
    definer = (
        'FUNCTION public.see() is SECURITY DEFINER: it runs with the rights of "app" now, not with'
        ' those of "auditor"'
    )
    for text in (shown, restored.stderr):
        assert 'the owner of 3 objects was "auditor", now it is "app": ' in text
        assert definer in text


def test_a_plain_role_gives_what_it_may_to_roles_that_it_is_a_member_of(
    own_pg, make_site, storage_root, monkeypatch
):
    monkeypatch.setitem(postgres.PASSWORDS, "master", "canary-of-the-master")
    server = own_pg()
    server.admin("CREATE ROLE master LOGIN CREATEDB PASSWORD 'canary-of-the-master'")
    server.admin("CREATE ROLE clerk; CREATE ROLE guest; GRANT app, clerk, guest TO master")
    site = make_site(server)
    site.run(
        "SET search_path = public; GRANT CREATE ON SCHEMA public TO clerk;"
        " CREATE TABLE papers (id integer);"
        " CREATE TABLE notes (id integer); CREATE TABLE others (id integer);"
        " GRANT SELECT ON papers, notes, others TO reader;"
        " ALTER TABLE papers OWNER TO clerk; ALTER TABLE notes OWNER TO guest;"
        " ALTER TABLE others OWNER TO other;"
        " ALTER DEFAULT PRIVILEGES FOR ROLE clerk GRANT SELECT ON TABLES TO reader",
        user="postgres",
    )
    grants = site.run("SELECT relacl::text FROM pg_class WHERE relname = 'papers'")
    defaults = site.run("SELECT defaclrole::regrole::text FROM pg_default_acl ORDER BY 1")
    key = foreign(storage_root, site.archive(user="postgres"))

    result = restore(site, key, storage_root, user="master")

    assert site.run(
        "SELECT tablename, tableowner FROM pg_tables"
        " WHERE tablename IN ('papers', 'notes', 'others') ORDER BY 1"
    ) == [("notes", "app"), ("others", "app"), ("papers", "clerk")]
    assert site.run("SELECT relacl::text FROM pg_class WHERE relname = 'papers'") == grants
    assert site.run("SELECT defaclrole::regrole::text FROM pg_default_acl ORDER BY 1") == defaults
    assert site.run("SELECT has_table_privilege('reader', 'notes', 'SELECT')") == [(True,)]
    notes, others = sorted(result.report.lost_owners, key=lambda each: each.name)
    assert (str(notes), notes.reason) == (
        'TABLE public.notes of the role "guest"',
        "permission denied for schema public",
    )
    assert str(others) == 'TABLE public.others of the role "other"'
    assert result.report.skipped_grants == []


def test_what_only_a_superuser_can_create_is_created_by_one_for_another_owner(
    make_site, storage_root
):
    site = make_site()
    site.run(
        "CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER telling ON ddl_command_end EXECUTE FUNCTION told();"
        " COMMENT ON EVENT TRIGGER telling IS 'tells';"
        " CREATE PUBLICATION everything FOR ALL TABLES;"
        " CREATE PUBLICATION ours FOR TABLE customer; ALTER PUBLICATION ours OWNER TO app",
        user="postgres",
    )
    before = site.fingerprint()
    key = take(site, storage_root)

    report = restore(site, key, storage_root, user="postgres").report

    assert site.fingerprint() == before
    assert (report.left_out, report.lost_owners) == ([], [])


@pytest.mark.parametrize("is_other", [False, True], ids=["as it was", "with another definition"])
def test_a_kept_table_of_another_role_stays_it_with_its_rows(make_site, storage_root, is_other):
    site = make_site(empty=True)
    site.run(
        "CREATE TABLE public.kept (id serial PRIMARY KEY, text text);"
        " INSERT INTO public.kept (text) VALUES ('of the dump');"
        " CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN new; END';"
        " CREATE TRIGGER calm BEFORE INSERT ON public.kept FOR EACH ROW"
        " EXECUTE FUNCTION public.nothing();"
        " ALTER TABLE public.kept OWNER TO other; GRANT SELECT, UPDATE ON public.kept TO app;"
        " GRANT SELECT ON public.kept_id_seq TO app",
        user="postgres",
    )
    key = take(site, storage_root, user="postgres")
    change = "ALTER TABLE public.kept ADD more integer;" if is_other else ""
    site.run(f"{change} UPDATE public.kept SET text = 'of the site'", user="postgres")
    before = site.fingerprint()
    keeping = Keeping(tables=[KeptName(table=TableName("public", "kept"))])

    restore(site, key, storage_root, user="postgres", keeping=keeping)

    assert site.fingerprint() == before
    assert site.run("SELECT text FROM public.kept") == [("of the site",)]
    assert site.run("SELECT tableowner FROM pg_tables WHERE tablename = 'kept'") == [("other",)]
