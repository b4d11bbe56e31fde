"""Clients that connect while a database is swapped: Django connects again, and nothing fails.

psycopg2 cannot tell why a connection failed but by the server's words, so a server that speaks
German is asked too.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import threading
import time

import psycopg2.extensions
import pytest
from django.db import OperationalError, connections
from psycopg2 import sql

from pgclone_admin.routing import configure
from tests.support.postgres import available, quote

from .operations import drop, label, swapped, temporary

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

CLIENTS = 8

WAITING = """
    SELECT count(*) FROM pg_locks
     WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND NOT granted
"""


def ask(outcomes):
    """Connects as Django does and tells which database it is, or how that failed."""
    try:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT content FROM label")
            outcomes.append(cursor.fetchone()[0])
    except UnicodeDecodeError as error:
        outcomes.append(error.object.decode("latin-1"))
    except OperationalError as error:
        outcomes.append(str(error))
    finally:
        connections.close_all()


def connected_during_a_swap(site):
    """What clients met that had to wait for a swap, made by hand; and how long it took after it."""
    made, parked = site.server.fresh_name("made"), site.server.fresh_name("parked")
    site.server.create_database(made)
    label(site, "new", made)
    outcomes = []
    clients = [threading.Thread(target=ask, args=(outcomes,)) for _ in range(CLIENTS)]
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    with (
        contextlib.closing(site.server.connect(user="app", autocommit=False)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(rename.format(quote(site.name), quote(parked)))
        cursor.execute(rename.format(quote(made), quote(site.name)))
        for client in clients:
            client.start()
        until = time.monotonic() + 10
        while site.server.admin(WAITING) != [(CLIENTS,)] and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        assert outcomes == []
        connection.commit()
    started = time.monotonic()
    for client in clients:
        client.join()
    return outcomes, time.monotonic() - started


@pytest.fixture
def failure(caplog):
    """How a connection fails by the settings of a project, and how often it was tried again."""
    caplog.set_level(logging.INFO, "pgclone_admin.reconnecting")

    def fail(database, **changes):
        caplog.clear()
        connection = connections["default"]
        connection.close()
        connection.settings_dict.update(database.dsn_dict() | changes)
        started = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            connection.ensure_connection()
        assert time.monotonic() - started < 0.5
        return str(caught.value), len(caplog.records)

    return fail


@pytest.fixture
def german_pg(own_pg):
    """Starts a server that speaks German in a character set; skips where there is none."""
    majors = [major for major, folder in available().items() if str(folder).startswith("/usr/lib/")]
    if not majors or not shutil.which("localedef"):
        pytest.skip("no server of this machine can speak German")

    def start(charset="UTF-8"):
        server = own_pg(majors[0])
        locales, locale = server.path / "locales", f"de_DE.{charset}"
        locales.mkdir(mode=0o755)
        made = subprocess.run(
            ["localedef", "--no-archive", "-i", "de_DE", "-f", charset, str(locales / locale)],
            check=False,
            capture_output=True,
        )
        if made.returncode:
            pytest.skip("the German locale cannot be made on this machine")
        server.environment = {"LOCPATH": str(locales), "LC_ALL": locale}
        with (server.data_dir / "postgresql.conf").open("a") as file:
            file.write(f"lc_messages = '{locale}'\n")
        server.restart()
        if not server.admin("SELECT 1 FROM pg_settings WHERE short_desc LIKE 'Setzt %'"):
            pytest.skip("the server of this machine has no translations")
        return server

    return start


# -- one swap --------------------------------------------------------------------------------------


def test_without_it_every_client_that_waited_fails_once(install, make_site):
    """What the following tests are about; should it end, so may all of this."""
    site = make_site(empty=True)
    install({"default": site.dsn_dict()})
    outcomes, _seconds = connected_during_a_swap(site)
    assert len(outcomes) == CLIENTS
    for outcome in outcomes:
        assert "It seems to have just been dropped or renamed." in outcome


def test_every_client_that_waited_meets_the_new_database(install, make_site, any_pg):
    site = make_site(any_pg, empty=True)
    install(configure({"default": site.dsn_dict()}))
    outcomes, seconds = connected_during_a_swap(site)
    assert outcomes == ["new"] * CLIENTS
    assert seconds < 2


@pytest.mark.parametrize("charset", ["UTF-8", "ISO-8859-1"])
def test_a_server_that_speaks_german_is_understood(install, make_site, german_pg, charset):
    site = make_site(german_pg(charset), name="Lädchen (2)", empty=True)
    install({"default": site.dsn_dict()})
    outcomes, _seconds = connected_during_a_swap(site)
    assert len(outcomes) == CLIENTS
    for outcome in outcomes:
        assert "Sie wurde anscheinend gerade gelöscht oder umbenannt." in outcome
    install(configure({"default": site.dsn_dict()}))
    outcomes, seconds = connected_during_a_swap(site)
    assert outcomes == ["new"] * CLIENTS
    assert seconds < 2


def test_in_german_every_other_failure_is_soon_told(install, make_site, german_pg, failure):
    site = make_site(german_pg(), name="app", empty=True)
    install(configure({"default": site.dsn_dict()}))
    missing, again = failure(site, NAME="nowhere")
    assert "»nowhere« existiert nicht" in missing
    assert again == 0
    # The role has the name of the database.
    wrong, again = failure(site, PASSWORD="wrong")
    assert "»app« fehlgeschlagen" in wrong
    assert again == 0
    site.server.admin("REVOKE CONNECT ON DATABASE app FROM PUBLIC")
    refused, again = failure(site, **site.dsn_dict("other"))
    assert "keine Berechtigung für Datenbank »app«" in refused
    assert again == 2


def test_a_database_that_is_missing_and_every_other_failure_is_told_at_once(
    install, make_site, failure
):
    site = make_site(name="app", empty=True)
    install(configure({"default": site.dsn_dict()}))
    missing, again = failure(site, NAME="nowhere")
    assert 'database "nowhere" does not exist' in missing
    assert again == 0
    wrong, again = failure(site, PASSWORD="wrong")
    assert 'password authentication failed for user "app"' in wrong
    assert again == 0
    down, again = failure(site, PORT="1")
    assert "Connection refused" in down
    assert again == 0


class Own(psycopg2.extensions.connection):
    """A factory of the project."""


def test_a_factory_of_the_project_makes_the_connections(install, make_site):
    site = make_site(empty=True)
    install(configure({"default": site.dsn_dict() | {"OPTIONS": {"connection_factory": Own}}}))
    connections["default"].ensure_connection()
    assert type(connections["default"].connection) is Own
    connections["default"].close()
    assert connected_during_a_swap(site)[0] == ["new"] * CLIENTS


def test_databases_of_a_test_run_are_made_and_dropped(install, site):
    install(configure({"default": site.dsn_dict()}))
    creation = connections["default"].creation
    name = creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        assert name == f"test_{site.name}"
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT current_database()")
            assert cursor.fetchone() == (name,)
    finally:
        creation.destroy_test_db(site.name, verbosity=0)
    assert site.server.oid(name) is None


# -- a site under load -----------------------------------------------------------------------------

SWAPS = 5


def site_under_load(make_site, manage, tmp_path, **settings):
    """What became of the requests of a site, in a process of its own, during some swaps."""
    site = make_site(empty=True)
    people = "CREATE TABLE people_person (id integer)"
    site.run(people)
    done = tmp_path / "done"
    running = manage.start("be_busy", str(done), database=site, **settings)
    until = time.monotonic() + 20
    while "busy" not in running.stderr():
        assert time.monotonic() < until, running.stderr()
        time.sleep(0.02)
    for _ in range(SWAPS):
        made = temporary(site)
        site.run(people, dbname=made.name)
        time.sleep(0.1)
        swapped(site, made)
        time.sleep(0.1)
        drop(site, "swap")
    done.touch()
    return running.wait(60).ok().json()


@pytest.mark.slow
def test_no_request_fails_that_connects_during_a_swap(make_site, manage, tmp_path):
    found = site_under_load(make_site, manage, tmp_path)
    assert found["errors"] == []
    assert found["tried again"] >= SWAPS  # or nothing was put to the test
    assert found["answered"] > 10 * SWAPS


@pytest.mark.slow
def test_without_it_requests_fail(make_site, manage, tmp_path):
    found = site_under_load(make_site, manage, tmp_path, plain=True)
    swaps = [error for error in found["errors"] if "just been dropped or renamed" in error]
    assert len(swaps) >= SWAPS
