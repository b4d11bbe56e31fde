"""``doctor`` finds what is wrong, says how to mend it, and changes nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from pgclone_admin.core.connection import Connection, ConnectionParams
from pgclone_admin.core.doctor import ServerExamination, examine_server
from pgclone_admin.core.findings import Finding, Level
from pgclone_admin.core.names import derived_name
from pgclone_admin.core.own_databases import create_like
from tests.integration.operations import connected, mark
from tests.support import CANARY, S3_CANARY
from tests.support.places import no_database_is_made
from tests.support.postgres import PostgresServer
from tests.support.sites import Site
from tests.support.standby import Standby

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(empty=True, properties=False)


def examine(site: Site, *, user: str = "app", **changes: Any) -> list[Finding]:
    examination = ServerExamination(
        **{
            "live": site.name,
            "maintenance": site.server.params("postgres", user),
            "protected": frozenset({site.name, "postgres"}),
            "program_directories": [str(site.server.bin_dir)],
            **changes,
        }
    )
    return list(examine_server(examination))


def wrong(findings: list[Finding]) -> list[Finding]:
    """What is not as it should be; the programs of the tests may be older than they should."""
    return [f for f in findings if f.level is not Level.OK and "CVE" not in f.found]


def the_problem(findings: list[Finding]) -> Finding:
    (found,) = wrong(findings)
    assert found.level is Level.PROBLEM
    assert found.fix
    return found


@contextlib.contextmanager
def nothing_changes(site: Site) -> Iterator[None]:
    state = "SELECT oid, datname, shobj_description(oid, 'pg_database') FROM pg_database ORDER BY 1"
    before = site.server.admin(state)
    yield
    assert site.server.admin(state) == before


# -- all is well -----------------------------------------------------------------------------------


def test_where_all_is_well_everything_was_looked_at(any_pg, make_site) -> None:
    site = make_site(any_pg, empty=True)
    with nothing_changes(site):
        findings = examine(site)
    assert wrong(findings) == []
    assert {finding.about for finding in findings} == {
        "database",
        "server",
        "pooler",
        "programs",
        "role",
        "names",
        "kept tables",
        "sessions",
        "replication",
        "proof",
        "space",
    }
    (server,) = (finding.found for finding in findings if finding.about == "server")
    assert server.startswith(f"PostgreSQL {any_pg.version} on 127.0.0.1:")


def test_f42_the_flaws_of_a_pg_restore_are_named_with_the_version_to_install(pg15, make_site):
    if int(pg15.version.partition(".")[2]) >= 20:
        pytest.skip("this pg_restore has no known flaw")
    findings = examine(make_site(pg15, empty=True))
    (found,) = (f for f in findings if "CVE-2026-116314" in f.found)
    assert (found.level, found.about) == (Level.WARNING, "programs")
    assert found.found.startswith(f"pg_restore {pg15.version} ")
    assert found.fix is not None
    assert found.fix.startswith("Install version 15.20 or newer")


# -- the server ------------------------------------------------------------------------------------


def test_a_server_that_is_down_is_the_first_finding(site: Site) -> None:
    params = site.server.params("postgres", port="1")
    first, *others = examine(site, maintenance=params)
    assert (first.level, first.about) == (Level.PROBLEM, "server")
    assert "refused" in first.found
    assert {finding.about for finding in others} == {"programs"}


def test_a_missing_live_database_is_the_first_finding_and_the_rest_is_looked_at(site: Site) -> None:
    findings = examine(site, live="nowhere")
    assert findings[0] == the_problem(findings)
    assert findings[0].found.startswith('there is no database "nowhere" on 127.0.0.1:')
    assert "proof" in {finding.about for finding in findings}


def test_a_missing_maintenance_database_is_told_from_a_server_that_is_down(site: Site) -> None:
    found = examine(site, maintenance=site.server.params("nowhere"))[0]
    assert (found.level, found.about) == (Level.PROBLEM, "server")
    assert found.fix is not None
    assert "PGCLONE_CONN_DB" in found.fix


def test_a_live_database_that_cannot_be_entered_is_told(site: Site) -> None:
    site.server.admin(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(site.name))
    )
    found = the_problem(examine(site))
    assert found.about == "database"
    assert "not currently accepting connections" in found.found


def test_a_pooler_is_seen_by_what_two_sessions_share(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler lends one connection of the server to whoever begins a transaction."""
    shared = site.server.params("postgres").connect()

    @contextlib.contextmanager
    def session(self: ConnectionParams, *, autocommit: bool = True) -> Iterator[Connection]:
        yield shared

    with contextlib.closing(shared):
        with monkeypatch.context() as patched:
            patched.setattr(ConnectionParams, "session", session)
            findings = wrong(examine(site, restores=False))
        locks = site.server.admin("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    assert [(f.level, f.about) for f in findings] == [(Level.PROBLEM, "pooler")]
    assert "PGCLONE_CONNECTIONS" in str(findings[0].fix)
    assert locks == [(0,)]


# -- programs --------------------------------------------------------------------------------------


def test_f08_missing_programs_are_problems(site: Site, tmp_path: Path) -> None:
    found = wrong(examine(site, program_directories=[str(tmp_path)]))
    assert [(f.level, f.about) for f in found] == [(Level.PROBLEM, "programs")] * 2
    assert [f.found.split(" is ")[0] for f in found] == ["pg_dump", "pg_restore"]
    assert all("PGCLONE_BIN_DIR" in str(f.fix) for f in found)


def test_f08_missing_programs_are_problems_also_without_a_server(
    site: Site, tmp_path: Path
) -> None:
    params = site.server.params("postgres", port="1")
    found = examine(site, maintenance=params, program_directories=[str(tmp_path)])[1:]
    assert [(f.level, f.found) for f in found] == [
        (Level.PROBLEM, "pg_dump is not installed"),
        (Level.PROBLEM, "pg_restore is not installed"),
    ]


def test_f08_programs_that_are_too_old_are_problems(pg18, pg16, make_site) -> None:
    site = make_site(pg18, empty=True)
    found = wrong(examine(site, program_directories=[str(pg16.bin_dir)]))
    assert [f.about for f in found] == ["programs"] * 2
    assert all("is too old: the server is version 18" in f.found for f in found)


# -- the role --------------------------------------------------------------------------------------


@contextlib.contextmanager
def altered(server: PostgresServer, how: str, back: str) -> Iterator[None]:
    server.admin(how)
    try:
        yield
    finally:
        server.admin(back)


def test_f41_a_superuser_is_warned_of(site: Site) -> None:
    (found,) = wrong(examine(site, user="postgres"))
    assert (found.level, found.about) == (Level.WARNING, "role")
    assert found.found.startswith('the role "postgres" is a superuser')


def test_f41_a_role_that_may_run_programs_is_warned_of(site: Site) -> None:
    name = "pg_execute_server_program"
    with altered(site.server, f"GRANT {name} TO app", f"REVOKE {name} FROM app"):
        (found,) = wrong(examine(site))
    assert (found.level, found.about) == (Level.WARNING, "role")
    assert "may run programs on the server" in found.found


def test_a_role_without_createdb_is_a_problem_and_makes_no_database(site: Site) -> None:
    with (
        altered(site.server, "ALTER ROLE app NOCREATEDB", "ALTER ROLE app CREATEDB"),
        no_database_is_made(site.server),
    ):
        found = the_problem(examine(site))
    assert (found.about, found.found) == ("role", 'the role "app" may not create databases')
    assert "CREATEDB" in str(found.fix)


def test_a_role_that_is_no_member_of_the_owner_is_a_problem(pg, site: Site) -> None:
    site.server.admin(
        sql.SQL("ALTER DATABASE {} OWNER TO reader").format(sql.Identifier(site.name))
    )
    found = the_problem(examine(site))
    assert found.about == "role"
    assert 'GRANT "reader" TO "app"' in str(found.fix)


# -- what would stop a restore ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ["temp", "pre", "held"])
@pytest.mark.allow_left_behind("*__temp")
def test_an_unmarked_database_in_the_way_is_a_problem(site: Site, role: str) -> None:
    name = site.server.create_database(derived_name(site.name, role), template="template0")
    found = the_problem(examine(site))
    assert found.about == "names"
    assert name in found.found


@pytest.mark.allow_left_behind("*__pre", "*__post")
def test_all_databases_in_the_way_are_named_at_once(site: Site) -> None:
    names = [
        site.server.create_database(derived_name(site.name, role), template="template0")
        for role in ("pre", "post")
    ]
    found = the_problem(examine(site))
    assert all(f'"{name}"' in found.found for name in names)


def test_a_prepared_transaction_is_a_problem(site: Site) -> None:
    site.run("BEGIN; CREATE TABLE half (id integer); PREPARE TRANSACTION 'half done'")
    found = the_problem(examine(site))
    assert (found.about, "prepared transactions: half done" in found.found) == ("replication", True)


def test_a_logical_slot_is_a_problem(site: Site) -> None:
    site.run("SELECT pg_create_logical_replication_slot('doctor_test', 'pgoutput')", "postgres")
    found = the_problem(examine(site))
    assert (found.about, "slots: doctor_test" in found.found) == ("replication", True)


def test_the_session_of_a_superuser_is_a_problem(site: Site) -> None:
    with site.server.held_session(site.name, "postgres"):
        found = the_problem(examine(site))
    assert found.about == "sessions"
    assert "postgres" in found.found


def test_the_session_of_another_role_is_a_problem_without_pg_signal_backend(site: Site) -> None:
    with site.server.held_session(site.name, "other"):
        found = the_problem(examine(site))
        allowing = "GRANT pg_signal_backend TO app", "REVOKE pg_signal_backend FROM app"
        with altered(site.server, *allowing):
            assert wrong(examine(site)) == []
    assert found.about == "sessions"
    assert found.found.startswith('the role "app" may not end sessions that are connected: other (')
    assert found.fix is not None
    assert found.fix.startswith('As a superuser: GRANT pg_signal_backend TO "app".')


def test_a_setting_that_cannot_be_carried_is_a_problem(site: Site) -> None:
    site.server.admin(
        sql.SQL("ALTER DATABASE {} SET log_min_duration_statement = 5000").format(
            sql.Identifier(site.name)
        )
    )
    with nothing_changes(site):
        found = the_problem(examine(site))
    assert found.about == "proof"
    assert "cannot be carried over" in found.found
    with nothing_changes(site):
        findings = examine(site, lose_settings=["log_min_duration_statement"])
    accepted, proof = [finding for finding in findings if finding.about == "proof"]
    assert (accepted.level, proof.level) == (Level.WARNING, Level.OK)
    assert accepted.found.startswith("log_min_duration_statement of the database")
    assert "takes all other settings" in proof.found


def test_a_pg_hba_that_knows_only_the_live_database_is_a_problem(own_pg, make_site) -> None:
    server = own_pg()
    site = make_site(server, empty=True, properties=False)
    rules = server.path / "data" / "pg_hba.conf"
    rules.write_text(
        f"host {site.name},postgres app 127.0.0.1/32 scram-sha-256\n"
        "host all app 127.0.0.1/32 reject\n" + rules.read_text()
    )
    server.run("SELECT pg_reload_conf()")
    with nothing_changes(site):
        found = the_problem(examine(site))
    assert found.about == "proof"
    assert found.found.startswith("a new database can be created, but not connected to")
    assert "pg_hba.conf" in str(found.fix)


def test_where_restores_are_not_allowed_no_database_is_made(site: Site) -> None:
    with no_database_is_made(site.server):
        findings = examine(site, restores=False)
    assert wrong(findings) == []
    assert "proof" not in {finding.about for finding in findings}


# -- the command -----------------------------------------------------------------------------------


def doctor(project, *arguments: str, status: int = 0, **options: Any) -> list[dict[str, Any]]:
    """The findings that are not ok, after looking that each has a fix."""
    completed = project.pgclone("doctor", "--json", *arguments, **options)
    assert completed.returncode == status, completed
    assert CANARY not in completed.stdout + completed.stderr
    assert S3_CANARY not in completed.stdout + completed.stderr
    findings = completed.json()
    assert all(f["fix"] for f in findings if f["level"] != "ok")
    return [f for f in findings if f["level"] != "ok" and "CVE" not in f["found"]]


def test_the_command_finds_nothing_wrong_and_leaves_nothing(project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    files = project.files()
    with nothing_changes(project):
        completed = project.pgclone("doctor").ok()
    assert project.files() == files
    assert key in files[0]
    abouts = {line.split()[1] for line in completed.lines if line.startswith("ok ")}
    assert {"storage", "leftovers", "settings", "server", "proof"} <= abouts
    last = completed.lines[-1]
    assert last in ("all is well", "1 warning")


def test_the_command_fails_when_there_is_a_problem(project) -> None:
    project.settings["PGCLONE_BIN_DIR"] = str(project.folder)
    completed = project.pgclone("doctor").failed(1)
    problems = [line for line in completed.lines if line.startswith("problem  programs")]
    assert len(problems) == 2
    assert completed.lines[-1].startswith("2 problems")


def test_without_a_server_the_storage_is_looked_at(project) -> None:
    database = {**project.dsn_dict(), "PORT": "1"}
    completed = project.pgclone("doctor", "--json", database=database).failed(1)
    findings = completed.json()
    assert (findings[0]["level"], findings[0]["about"]) == ("problem", "server")
    assert [f["level"] for f in findings if f["about"] == "storage"] == ["ok"]
    assert [f["about"] for f in findings if f["level"] == "problem"] == ["server"]


def test_a_storage_that_cannot_be_written_to_is_a_problem(project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    (found,) = doctor(project, "-s", f"{tmp_path}/file/dumps/", status=1)
    assert (found["level"], found["about"]) == ("problem", "storage")
    assert "Not a directory" in found["found"]


def test_a_bucket_is_tried_without_a_trace_and_a_missing_one_is_a_problem(
    project, s3_bucket
) -> None:
    assert doctor(project, settings=s3_bucket.settings("p/")) == []
    assert s3_bucket.keys() == []
    settings = s3_bucket.settings() | {"PGCLONE_STORAGE_LOCATION": "s3://nowhere-at-all/p/"}
    (found,) = doctor(project, settings=settings, status=1)
    assert found["about"] == "storage"
    assert found["found"].startswith("s3://nowhere-at-all/p/: ")
    assert "bucket" in found["fix"]


def test_where_dumps_are_not_allowed_nothing_is_stored(project, s3_bucket, s3_proxy) -> None:
    settings = s3_bucket.settings("p/", endpoint_url=s3_proxy.endpoint_url)
    assert doctor(project, settings=settings | {"PGCLONE_ALLOW_DUMP": False}) == []
    assert s3_proxy.seen("PutObject") == []


def test_leftovers_are_told_and_left_to_recover(project) -> None:
    name = derived_name(project.name, "temp")
    with connected(project.server) as server:
        create_like(server, server.existing(project.name), mark(name, of=project.name))
    path = project.storage_root / "a.dump.partial-0123456789abcdef"
    path.write_bytes(b"PGDMP")
    os.utime(path, (0, 0))

    found = doctor(project)

    assert [(f["level"], f["about"], f["fix"]) for f in found] == [
        ("warning", "leftovers", "Run: manage.py pgclone recover")
    ] * 2
    assert path.exists()
    assert project.server.oid(name) is not None
    project.pgclone("recover").ok()
    assert doctor(project) == []


def test_a_standby_is_warned_of_unless_a_restore_would_reach_it(own_pg, make_project) -> None:
    primary = own_pg()
    project = make_project(primary)
    with Standby(primary) as standby:
        (found,) = doctor(project)
        replica = {**project.dsn_dict(), "PORT": str(standby.port)}
        databases = {"default": project.dsn_dict(), "replica": replica}
        findings = project.pgclone("doctor", "--json", database=databases).ok().json()
    assert (found["level"], found["about"]) == ("warning", "replication")
    assert found["found"].startswith("a server replicates from this one")
    assert "DATABASES" in found["fix"]
    replication = [f for f in findings if f["about"] == "replication"]
    assert {f["level"] for f in replication} == {"ok"}
    assert any(f"127.0.0.1:{standby.port} is a standby" in f["found"] for f in replication)


def test_an_alias_of_a_server_that_cannot_be_reached_may_be_a_replica(project) -> None:
    replica = {**project.dsn_dict(), "PORT": "1"}
    databases = {"default": project.dsn_dict(), "replica": replica}
    (found,) = doctor(project, database=databases)
    assert (found["level"], found["about"]) == ("warning", "replication")
    assert found["found"].startswith("whether 127.0.0.1:1, which is in DATABASES, is a standby")


def test_what_the_system_checks_find_is_told(project) -> None:
    project.settings["PRE_SWAP_HOOKS"] = ["no_such_hook"]
    found = doctor(project, status=1)
    assert {(f["level"], f["about"]) for f in found} == {
        ("problem", "settings"),
        ("warning", "settings"),
    }
    assert any("no_such_hook" in f["found"] for f in found)


def test_a_connection_setting_that_cannot_be_used_is_a_problem(project) -> None:
    project.settings["PGCLONE_CONNECTIONS"] = {"default": {"SERVER": "x"}}
    found = doctor(project, status=1)
    assert [(f["level"], f["about"]) for f in found] == [("problem", "settings")]


def test_what_is_not_allowed_here_is_told(project) -> None:
    project.settings["PGCLONE_ALLOW_RESTORE"] = False
    completed = project.pgclone("doctor", "--json").ok()
    assert any(
        f["level"] == "ok" and f["found"].startswith("PGCLONE_ALLOW_RESTORE is False")
        for f in completed.json()
    )


def test_objects_that_a_restore_could_not_give_back_to_their_owners_are_counted(site) -> None:
    site.run(
        "CREATE TABLE ours (id serial); CREATE TABLE theirs (id serial);"
        " CREATE FUNCTION told() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        " ALTER TABLE theirs OWNER TO other; ALTER FUNCTION told() OWNER TO other",
        user="postgres",
    )
    site.run("ALTER TABLE ours OWNER TO app", user="postgres")

    (found,) = wrong(examine(site))

    assert (found.level, found.about) == (Level.WARNING, "owners")
    # The sequence of a column is one, too.
    assert found.found == (
        '3 objects of the role "other" would belong to "app" after a restore, as the role "app" may'
        " not give them to it"
    )
    assert 'GRANT "other" TO "app"' in found.fix
    assert [each.about for each in wrong(examine(site, user="postgres"))] == ["role"]


def test_what_temporary_tables_lie_in_is_nothing_that_a_restore_gives_back(site) -> None:
    with site.server.held_session(site.name) as session, session.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE passing (id serial)")
        assert wrong(examine(site)) == []
    assert site.run("SELECT count(*) > 0 FROM pg_namespace WHERE nspname ~ '^pg_temp_'")[0][0]
    assert wrong(examine(site)) == []
    with site.server.held_session(site.name, "postgres") as session, session.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE theirs (id serial)")
        assert "owners" not in [each.about for each in wrong(examine(site))]
