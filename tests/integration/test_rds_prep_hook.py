"""The example hook for Amazon RDS: what PostGIS made there is handed over before a dump."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support import postgres
from tests.support.django_project import Project
from tests.support.postgres import DEFAULT_MAJOR, PostgresServer, available

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

PASSWORD = "one of many superusers"

# As on a managed server: the objects belong to the provider, and the role that dumps may read only
# what a role of another name owns. Here the role of the site is a member of both.
ROLES = f"""
CREATE ROLE provider NOLOGIN;
CREATE ROLE rds_superuser NOLOGIN;
GRANT provider, rds_superuser TO app;
CREATE ROLE master LOGIN PASSWORD '{PASSWORD}';
GRANT rds_superuser TO master
"""

POSTGIS = """
CREATE SCHEMA tiger AUTHORIZATION provider;
CREATE SCHEMA topology AUTHORIZATION provider;
GRANT ALL ON SCHEMA tiger, topology TO rds_superuser;
SET ROLE provider;
CREATE TABLE tiger."Loader ""variables" (id serial PRIMARY KEY, os text);
INSERT INTO tiger."Loader ""variables" (os) VALUES ('linux');
CREATE TABLE tiger.streets (name text, place text) PARTITION BY LIST (place);
CREATE TABLE tiger.streets_here PARTITION OF tiger.streets FOR VALUES IN ('here');
CREATE SEQUENCE topology.topology_id_seq;
CREATE TABLE topology.layer (id integer);
CREATE VIEW topology.layers AS SELECT id FROM topology.layer;
CREATE MATERIALIZED VIEW topology.counted AS SELECT count(*) FROM topology.layer;
RESET ROLE;
REVOKE ALL ON SCHEMA topology FROM PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO master;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO master
"""

OWNERS = """
SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('tiger', 'topology')
ORDER BY 1
"""

HOOK = ["--pre-dump-hook", "rds_prep_hook"]


@pytest.fixture(scope="module")
def managed() -> Iterator[PostgresServer]:
    server = PostgresServer(available()[DEFAULT_MAJOR], DEFAULT_MAJOR)
    with server, pytest.MonkeyPatch.context() as patch:
        patch.setitem(postgres.PASSWORDS, "master", PASSWORD)
        server.run(ROLES)
        yield server


@pytest.fixture
def project(managed: PostgresServer, make_project: Callable[..., Project]) -> Project:
    """Its dumps are made by ``master``, its hooks run as ``app``; neither is a superuser."""
    project = make_project(managed)
    project.apps = ["example_project.shop"]
    project.settings["RDS_OWNER"] = "rds_superuser"
    project.settings["PGCLONE_CONNECTIONS"] = {"default": {"USER": "master", "PASSWORD": PASSWORD}}
    return project


def owners(project: Project) -> list[str]:
    return [owner for (owner,) in project.run(OWNERS, user="postgres")]


def test_what_cannot_be_dumped_is_handed_over_and_then_can(project: Project) -> None:
    project.run(POSTGIS, user="postgres")
    refused = project.pgclone("dump").failed()
    assert "permission denied" in refused.stderr
    assert project.files() == []

    done = project.pgclone("dump", *HOOK).ok()

    assert "7 relations handed to rds_superuser" in done.stderr
    assert owners(project) == ["rds_superuser"]
    archive = project.pgclone("cat", done.lines[0]).ok().output
    for name in ("Loader", "streets_here", "topology_id_seq", "layers", "counted"):
        assert name.encode() in archive


def test_it_can_run_before_every_dump(project: Project) -> None:
    project.run(POSTGIS, user="postgres")
    project.pgclone("dump", *HOOK).ok()
    done = project.pgclone("dump", *HOOK).ok()
    assert "0 relations handed to rds_superuser" in done.stderr
    assert owners(project) == ["rds_superuser"]


def test_it_does_nothing_where_postgis_is_not(project: Project) -> None:
    before = project.fingerprint()
    project.settings["RDS_OWNER"] = "nobody we know"
    done = project.manage("rds_prep_hook").ok()
    assert done.stdout == "0 relations handed to nobody we know\n"
    assert project.fingerprint() == before


def test_all_of_it_is_handed_over_or_nothing(project: Project) -> None:
    project.run(POSTGIS, user="postgres")
    project.run(
        "CREATE TABLE topology.zzz (id integer); ALTER TABLE topology.zzz OWNER TO postgres",
        user="postgres",
    )
    failed = project.pgclone("dump", *HOOK).failed()
    assert 'the hook "rds_prep_hook" failed: must be owner of table zzz' in failed.stderr
    assert owners(project) == ["postgres", "provider"]
    assert project.files() == []


def test_a_role_that_does_not_exist_is_named(project: Project) -> None:
    project.run(POSTGIS, user="postgres")
    failed = project.manage("rds_prep_hook", "--owner", 'x"; DROP SCHEMA tiger').failed()
    assert 'there is no role "x"; DROP SCHEMA tiger" to hand anything to' in failed.stderr
    assert owners(project) == ["provider"]


@pytest.mark.parametrize(
    "settings",
    [
        {"PGCLONE_PRE_DUMP_HOOKS": ["rds_prep_hook"]},
        {"PGCLONE_DUMP_CONFIGS": {"default": {"pre_dump_hooks": "rds_prep_hook"}}},
    ],
    ids=["today", "1.x"],
)
def test_it_is_named_in_the_settings_of_today_and_of_1_x(
    project: Project, settings: dict[str, object]
) -> None:
    project.run(POSTGIS, user="postgres")
    project.pgclone("dump", settings=settings).ok()
    assert owners(project) == ["rds_superuser"]
