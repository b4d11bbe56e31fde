"""Restores of a server that has a real streaming standby, with sessions open on it."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import time

import psycopg2
import pytest
from django.db import connections

from pgclone_admin.core.replicas import is_standby
from pgclone_admin.databases import replaceable_aliases
from pgclone_admin.services.declared import usual_alias
from tests.support.postgres import PostgresServer, available
from tests.support.standby import Standby

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module", params=[18])
def servers_of_two(request):
    """A primary and its standby, for all tests of this file."""
    if request.param not in available():
        pytest.skip(f"PostgreSQL {request.param} is not installed on this machine")
    with (
        PostgresServer(available()[request.param], request.param) as primary,
        Standby(primary) as standby,
    ):
        yield primary, standby


@pytest.fixture
def standby(servers_of_two):
    return servers_of_two[1]


@pytest.fixture
def site(servers_of_two, make_quick):
    project = make_quick(servers_of_two[0])
    project.settings["PGCLONE_PRE_SWAP_HOOKS"] = []
    return project


@pytest.fixture
def key(site):
    """A dump; the site has one more person since."""
    key = site.pgclone("dump").ok().lines[0]
    site.add_person("later")
    return key


@pytest.fixture
def reader(site, standby, key):
    """A session that reads on the standby."""
    standby.catch_up()
    with contextlib.closing(standby.connect(site.name, "app")) as connection:
        assert read(connection)[-1] == "later"
        yield connection


def read(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM people_person ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def read_anew(site, standby):
    with contextlib.closing(standby.connect(site.name, "app")) as connection:
        return read(connection)


def both(site, standby):
    """DATABASES with the standby in it."""
    return {**site.databases(), "replica": standby.dsn_dict(site.name)}


REFUSED = "a server replicates from this one, and sessions that are open there go on reading"


def test_a_reversible_restore_is_refused_where_a_standby_cannot_be_reached(
    site, standby, key, reader
):
    oid, databases = site.oid, site.server.databases()
    for settings in ({}, {"PGCLONE_REVERSIBLE": True}):
        arguments = [] if settings else ["--reversible"]
        refused = site.pgclone("restore", key, *arguments, settings=settings).failed()
        assert f"error: {REFUSED}" in refused.stderr
        assert "Name these servers in DATABASES" in refused.stderr
        assert "--ignore-standbys" in refused.stderr
    plan = site.pgclone("restore", key, "--reversible", "--plan", "--json").failed().json()
    assert [obstacle["code"] for obstacle in plan["obstacles"]] == ["standby_unreached"]
    assert (site.oid, site.server.databases()) == (oid, databases)
    assert read(reader)[-1] == "later"


@pytest.mark.parametrize("by", ["argument", "setting"])
def test_who_accepts_it_leaves_sessions_on_a_standby_alone(site, standby, key, reader, by):
    arguments = ["--ignore-standbys"] if by == "argument" else []
    settings = {"PGCLONE_IGNORE_STANDBYS": True} if by == "setting" else {}
    done = site.pgclone("restore", key, "--reversible", *arguments, settings=settings).ok()
    assert f"warning: {REFUSED}" in done.stderr
    standby.catch_up()
    assert read(reader)[-1] == "later"
    assert "later" not in read_anew(site, standby)


@pytest.mark.parametrize("servers_of_two", [18, 15], indirect=True)
def test_what_is_dropped_ends_the_sessions_on_a_standby_by_itself(site, standby, key, reader):
    done = site.pgclone("restore", key).ok()
    assert "replicates" not in done.stderr
    standby.catch_up()
    with pytest.raises(psycopg2.OperationalError):
        read(reader)
    assert "later" not in read_anew(site, standby)


@pytest.mark.parametrize("servers_of_two", [18, 15], indirect=True)
def test_sessions_on_a_standby_in_databases_are_ended(site, standby, key, reader):
    databases = both(site, standby)
    plan = site.pgclone("restore", key, "-r", "--plan", "--json", database=databases).ok().json()
    assert "replicates" not in " ".join(plan["warnings"])

    done = site.pgclone("restore", key, "--reversible", database=databases).ok()

    assert "standby" not in done.stderr
    # It was waited for: without it the new session could still see the old database.
    with pytest.raises(psycopg2.OperationalError):
        read(reader)
    assert "later" not in read_anew(site, standby)

    with contextlib.closing(standby.connect(site.name, "app")) as again:
        site.pgclone("restore", ":pre", database=databases).ok()
        with pytest.raises(psycopg2.OperationalError):
            read(again)
    assert read_anew(site, standby)[-1] == "later"


def test_sessions_are_ended_only_when_the_standby_has_replayed_the_swap(site, standby, key, reader):
    oid = site.oid
    standby.pause(True)
    try:
        running = site.start_pgclone("restore", key, "-r", database=both(site, standby))
        until = time.monotonic() + 30
        while site.oid in (oid, None):
            assert time.monotonic() < until, running.stderr()
            time.sleep(0.02)
        time.sleep(0.5)
        assert running.process.poll() is None
        # Whoever is sent away now would come back to the same database.
        assert read(reader)[-1] == "later"
    finally:
        standby.pause(False)
    done = running.wait().ok()
    assert "standby" not in done.stderr
    with pytest.raises(psycopg2.OperationalError):
        read(reader)
    assert "later" not in read_anew(site, standby)


def test_a_session_on_a_standby_that_may_not_be_ended_is_told_of(site, standby, key):
    standby.catch_up()
    with contextlib.closing(standby.connect(site.name, "postgres")) as superuser:
        done = site.pgclone("restore", key, "-r", database=both(site, standby)).ok()
        assert f"warning: sessions on the standby {standby.host}:{standby.port}" in done.stderr
        assert "postgres (tests, pid" in done.stderr
        standby.catch_up()
        assert read(superuser)[-1] == "later"


def test_an_alias_that_is_down_does_not_count_as_reached(site, standby, key):
    databases = both(site, standby)
    databases["replica"]["PORT"] = "1"
    oid = site.oid
    refused = site.pgclone("restore", key, "--reversible", database=databases).failed()
    assert f"error: {REFUSED}" in refused.stderr
    assert site.oid == oid


def test_a_local_copy_that_was_held_parks_what_it_replaces_and_is_refused_as_well(
    site, standby, key
):
    site.pgclone("restore", key, "--to", ":copy").ok()
    site.pgclone("restore", ":copy", "--hold", "--ignore-standbys").ok()
    oid = site.oid
    refused = site.pgclone("swap").failed()
    assert f"error: {REFUSED}" in refused.stderr
    assert site.oid == oid
    held = site.server.oid(f"{site.name}__held")
    site.pgclone("swap", "--ignore-standbys").ok()
    assert site.oid == held


def test_a_standby_belongs_to_its_own_server_only(site, standby, pg):
    own, other = (server.params("postgres") for server in (site.server, pg))
    assert is_standby(standby.params("postgres"), of=own)
    assert not is_standby(standby.params("postgres"), of=other)
    assert not is_standby(own, of=own)


def test_who_only_stores_the_log_is_no_standby(site, standby, key, tmp_path):
    receiver = subprocess.Popen(
        [site.server.program("pg_receivewal"), "--no-password", "-D", str(tmp_path)],
        env=site.server.psql_env("postgres", "postgres"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 20
        while site.server.admin("SELECT count(*) FROM pg_stat_replication") != [(2,)]:
            assert time.monotonic() < until
            time.sleep(0.05)
        site.pgclone("restore", key, "--reversible", database=both(site, standby)).ok()
    finally:
        receiver.terminate()
        receiver.wait(10)


def test_a_standby_is_none_of_the_databases_that_can_be_replaced(site, standby, use_database):
    use_database(site)
    standby.catch_up()
    default = copy.deepcopy(connections.settings["default"])
    connections.settings["replica"] = {**default, **standby.dsn_dict(site.name)}
    try:
        assert replaceable_aliases() == ["default"]
        assert usual_alias("replica") == "default"  # where its dumps are restored and drilled
    finally:
        connections["replica"].close()
        del connections["replica"], connections.settings["replica"]
