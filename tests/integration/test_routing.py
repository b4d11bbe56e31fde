"""Routes send Django's connections to another database: this thread's, and nobody else's.

Each test runs with ``DATABASES`` as ``pgclone_admin.routing.configure`` makes it and with a plain
mapping, as on a site with psycopg 3.
"""

from __future__ import annotations

import contextlib
import copy as copying
import importlib
import io
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pgconnection
import psycopg2
import pytest
from django.core.management import call_command
from django.db import Error, connection, connections, transaction
from django.db.utils import ConnectionHandler, OperationalError
from pgconnection.core import _Databases

from pgclone_admin import checks
from pgclone_admin.core.errors import HookFailed
from pgclone_admin.routing import (
    PlainDatabases,
    SharedDatabases,
    configure,
    route,
    uses_pgconnection,
)
from tests.project.people.models import Note, Person
from tests.project.pooled_by_alias import base as pooled_by_alias
from tests.support.anew import (
    WAYS,
    by_the_settings_of_django,
    by_the_settings_of_the_project,
    copied,
    created,
    looked_up_anew,
)

from .operations import label

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(params=["pgconnection", "plain"])
def world(request, install, make_site):
    """``default`` and ``other``, live databases with a label each, and a destination."""
    sites = {name: make_site(empty=True) for name in ("default", "other", "destination")}
    for name, site in sites.items():
        label(site, name)
    databases = {alias: sites[alias].dsn_dict() for alias in ("default", "other")}
    install(configure(databases) if request.param == "pgconnection" else databases)
    assert uses_pgconnection() == (request.param == "pgconnection")
    return types.SimpleNamespace(**sites, kind=request.param)


def reached(alias="default"):
    """The label of the database behind an alias."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT content FROM label")
        return cursor.fetchone()[0]


def in_thread(function):
    """The result of a function, called in a thread of its own, whose connections are closed."""
    found = []

    def run():
        try:
            found.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


# -- where a route leads ---------------------------------------------------------------------------


def test_a_route_leads_default_to_the_destination_and_back(world):
    assert reached() == "default"
    before = connections["default"]
    with route("default", world.destination.name):
        assert reached() == "destination"
        assert connection.settings_dict["NAME"] == world.destination.name
    assert reached() == "default"
    assert connections["default"] is before
    assert before.settings_dict["NAME"] == world.default.name


def test_a_route_of_another_alias_leads_default_to_the_same_destination(world):
    with route("other", world.destination.name):
        assert reached("default") == reached("other") == "destination"
        assert connection.settings_dict["NAME"] == world.destination.name
    assert (reached("default"), reached("other")) == ("default", "other")


def test_a_route_to_the_database_itself_is_no_error(world):
    """Hooks before a dump run on the live database."""
    with route("default", world.default.name):
        assert reached() == "default"
        with pytest.raises(HookFailed):
            reached("other")
    with route("other", world.other.name):
        assert reached("default") == reached("other") == "other"
    assert (reached("default"), reached("other")) == ("default", "other")


def test_models_and_commands_follow_the_route(world):
    with route("default", world.destination.name):
        call_command("migrate", "people", verbosity=0, database="default")
        Person.objects.create(name="Ada")
        assert Person.objects.count() == 1
        assert list(Person.objects.values_list("nickname", flat=True)) == [""]
    tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'people_person'"
    assert world.destination.run(tables) == [(1,)]
    assert world.default.run(tables) == world.other.run(tables) == [(0,)]
    assert world.destination.run("SELECT name FROM people_person") == [("Ada",)]


def test_migrate_follows_the_route_of_another_alias(world):
    with route("other", world.destination.name):
        call_command("migrate", "people", verbosity=0, database="other")
        Note.objects.create(text="by default")
    assert world.destination.run('SELECT text FROM "MyTable"') == [("by default",)]
    tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'MyTable'"
    assert world.default.run(tables) == world.other.run(tables) == [(0,)]


def test_every_way_to_query_goes_to_the_destination(world):
    world.destination.run("CREATE FUNCTION seven() RETURNS integer LANGUAGE sql AS 'SELECT 7'")
    with route("default", world.destination.name):
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO label VALUES (%s)", [("two",), ("three",)])
            cursor.callproc("seven")
            assert cursor.fetchone() == (7,)
            cursor.copy_expert("COPY label FROM STDIN", io.StringIO("four\n"))
        with connection.chunked_cursor() as cursor:
            cursor.execute("SELECT content FROM label ORDER BY 1")
            assert [row[0] for row in cursor.fetchall()] == ["destination", "four", "three", "two"]
    assert world.default.run("SELECT content FROM label") == [("default",)]


# -- whom it leaves alone --------------------------------------------------------------------------


def test_threads_that_were_there_go_on_using_the_live_database(world):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(reached).result() == "default"
        with route("default", world.destination.name):
            assert pool.submit(reached).result() == "default"
            assert pool.submit(reached, "other").result() == "other"
            assert reached() == "destination"
        pool.submit(connections.close_all).result()


def test_threads_that_are_started_in_the_block_follow_it(world):
    """What a hook does in a thread of its own is done where the hook works."""

    def look():
        return reached(), in_thread(reached), in_thread(lambda: in_thread(reached))

    with route("default", world.destination.name):
        assert in_thread(look) == ("destination",) * 3
        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(lambda _n: reached(), range(6))) == {"destination"}
            for _ in range(2):
                pool.submit(connections.close_all).result()
        with pytest.raises(HookFailed, match='used the database "other"'):
            pool_of_one(lambda: reached("other"))
        with route("default", world.other.name):
            assert in_thread(reached) == "other"
        assert in_thread(reached) == "destination"
    assert in_thread(reached) == "default"
    assert threading.Thread.start is original_start


def test_others_who_follow_threads_do_so_within_the_block_and_after_it(world, monkeypatch):
    """As what watches a site does, which is set up after this app was imported."""
    seen = []

    def watched_start(thread):
        seen.append(thread.name)
        original_start(thread)

    monkeypatch.setattr(threading.Thread, "start", watched_start)
    with route("default", world.destination.name):
        assert in_thread(reached) == "destination"
    assert in_thread(reached) == "default"
    assert len(seen) == 2
    assert threading.Thread.start is watched_start


original_start = threading.Thread.start


def pool_of_one(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def reached_by(way, alias):
    """The label of the database that a connection leads to which is made in this way."""
    made = way(alias)
    try:
        with made.cursor() as cursor:
            cursor.execute("SELECT content FROM label")
            return cursor.fetchone()[0]
    finally:
        made.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_connects_anew_through_django_is_routed_too(world, way):
    def look():
        return reached_by(way, "default")

    before = connections.settings["default"]["NAME"]
    with route("default", world.destination.name):
        if way is by_the_settings_of_the_project and world.kind == "plain":
            # There nobody can know who asks for settings.DATABASES.
            for _ in range(2):
                with pytest.raises(HookFailed, match=f'used the database "{world.default.name}"'):
                    look()
            with pytest.raises(HookFailed):
                pool_of_one(look)
        else:
            assert look() == in_thread(look) == reached() == "destination"
    assert connections.settings["default"]["NAME"] == before
    assert reached_by(way, "default") == in_thread(look) == reached() == "default"


@pytest.mark.parametrize("way", WAYS)
def test_what_connects_anew_to_another_alias_refuses_too(world, way):
    with route("default", world.destination.name):
        for ask in (lambda f: f(), pool_of_one):
            with pytest.raises(HookFailed, match="the hook used the database"):
                ask(lambda: reached_by(way, "other"))
        with pytest.raises(HookFailed):
            reached("other")
    assert reached_by(way, "other") == reached("other") == "other"


@pytest.mark.parametrize("way", [created, copied, looked_up_anew, by_the_settings_of_django])
@pytest.mark.parametrize("alias", ["default", "other"])
def test_what_connects_anew_follows_the_route_of_another_alias(world, way, alias):
    """Of a database of its own, and of one that ``default`` leads to as well."""
    for name in (None, world.default.name):
        if name:
            connections["other"].close()
            connections["other"].settings_dict["NAME"] = name
        with route("other", world.destination.name):
            assert reached_by(way, alias) == "destination"
            assert in_thread(lambda: reached_by(way, alias)) == "destination"


def test_a_database_of_the_same_name_on_another_server_refuses_too(world):
    """A hook before a dump runs on the live database, whose name another server may have, too."""
    elsewhere = {**connection.settings_dict, "HOST": "localhost"}
    with (
        route("default", world.default.name),
        contextlib.closing(ConnectionHandler({"default": elsewhere})["default"]) as made,
        pytest.raises(HookFailed, match="the hook used the database"),
    ):
        made.cursor()


def test_what_another_thread_sets_while_a_block_runs_is_for_all(install, make_site):
    """A plain mapping stays one that is shared: sites add databases to it."""
    site, destination = make_site(empty=True), make_site(empty=True)
    install({"default": site.dsn_dict()})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        with route("default", destination.name):
            pool.submit(connections.settings.__setitem__, "new", site.dsn_dict()).result()
            assert set(connections) == {"default", "new"}
            assert pool.submit(lambda: connections.settings["default"]["NAME"]).result() == (
                site.name
            )
        assert connections.settings["new"]["NAME"] == site.name
        del connections.settings["new"]


def test_blocks_within_blocks_are_one_transaction_of_the_destination(world):
    with route("default", world.destination.name):
        with contextlib.suppress(RuntimeError), transaction.atomic():
            write("outer")
            with transaction.atomic():
                write("inner")
            raise RuntimeError
        with transaction.atomic():
            write("kept")
            with contextlib.suppress(RuntimeError), transaction.atomic():
                write("undone")
                raise RuntimeError
    found = {row[0] for row in world.destination.run("SELECT content FROM label")}
    assert "kept" in found
    assert not {"outer", "inner", "undone"} & found
    assert world.default.run("SELECT content FROM label") == [("default",)]


def write(content):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO label VALUES (%s)", [content])


def test_two_threads_can_have_a_route_each(world):
    barrier = threading.Barrier(2, timeout=10)

    def routed(alias, name):
        def run():
            with route(alias, name):
                barrier.wait()
                found = reached(alias)
                barrier.wait()
                return found

        return run

    found = {}
    routes = {"one": ("default", world.destination.name), "two": ("default", world.other.name)}
    threads = [
        threading.Thread(target=lambda n=n, r=r: found.update({n: in_thread(routed(*r))}))
        for n, r in routes.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": "destination", "two": "other"}
    assert reached() == "default"


def test_a_thread_has_all_of_djangos_defaults(world):
    def defaults():
        return [connections.settings[a]["ATOMIC_REQUESTS"] for a in ("default", "other")]

    assert in_thread(defaults) == [False, False]
    assert in_thread(lambda: connections["default"].timezone_name) == "UTC"


def test_a_name_that_a_test_runner_sets_is_seen_by_every_thread(world):
    """Else threads of a test run would work on the real database."""
    connections["default"].close()
    connections["default"].settings_dict["NAME"] = world.destination.name
    assert reached() == in_thread(reached) == "destination"


@pytest.mark.parametrize(
    "query",
    [
        lambda cursor: cursor.execute("SELECT 1"),
        lambda cursor: cursor.executemany("INSERT INTO label VALUES (%s)", [("x",)]),
        lambda cursor: cursor.callproc("now"),
        lambda cursor: cursor.copy_expert("COPY label TO STDOUT", sys.stdout),
    ],
    ids=["execute", "executemany", "callproc", "copy"],
)
@pytest.mark.parametrize("opened", [False, True], ids=["not yet open", "open before"])
def test_other_aliases_refuse_every_query(world, query, opened):
    if opened:
        assert reached("other") == "other"
    with route("default", world.destination.name):
        with (
            pytest.raises(HookFailed, match='the hook used the database "other"') as raised,
            connections["other"].cursor() as cursor,
        ):
            query(cursor)
        assert "default connection" in raised.value.hint
        with pytest.raises(HookFailed):
            Person.objects.using("other").count()
        with pytest.raises(HookFailed), transaction.atomic(using="other"):
            pass
        assert reached() == "destination"
    assert reached("other") == "other"
    assert world.other.run("SELECT content FROM label") == [("other",)]


def test_the_live_database_of_a_cursor_from_before_refuses_while_routed(world):
    """Only django-pgconnection can tell; a connection it does not wrap answers."""
    if world.kind == "plain":
        pytest.skip("a plain mapping has nothing to refuse with")
    with (
        connection.cursor() as cursor,
        route("default", world.destination.name),
        pytest.raises(RuntimeError, match="source database"),
    ):
        cursor.execute("DELETE FROM label")
    assert world.default.run("SELECT content FROM label") == [("default",)]


# -- what remains of it ----------------------------------------------------------------------------


class Odd(BaseException):
    """What no handler of Exception sees."""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, Odd])
def test_connections_are_restored_after_any_exception(world, error):
    before = {alias: connections[alias] for alias in connections}

    def routed():
        with route("other", world.destination.name):
            assert reached() == "destination"
            raise error

    with pytest.raises(error):
        routed()
    assert {alias: connections[alias] for alias in connections} == before
    assert (reached("default"), reached("other")) == ("default", "other")


def test_connections_are_restored_after_a_broken_transaction(world):
    with (
        pytest.raises(Error),
        route("default", world.destination.name),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT nonsense")
    assert reached() == "default"
    assert not connection.in_atomic_block


def test_connections_are_restored_when_the_destination_is_gone(world):
    with pytest.raises(OperationalError), route("default", "there is no such"):
        reached()
    assert (reached("default"), reached("other")) == ("default", "other")


def test_connections_are_restored_when_the_server_ended_the_routed_one(world):
    with route("default", world.destination.name):
        reached()
        world.destination.server.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (world.destination.name,),
        )
        with pytest.raises(OperationalError):
            reached()
    assert reached() == "default"


def test_no_session_stays_on_the_destination(world):
    server = world.destination.server
    with route("other", world.destination.name):
        reached("default")
        reached("other")
        assert server.sessions(world.destination.name) == 2
    for _ in range(100):
        if not server.sessions(world.destination.name):
            break
        threading.Event().wait(0.02)
    assert server.sessions(world.destination.name) == 0


def test_routes_can_follow_one_another(world):
    for _ in range(3):
        with route("default", world.destination.name):
            assert reached() == "destination"
        assert reached() == "default"
    with route("other", world.destination.name):
        assert reached() == "destination"


def test_a_route_in_nested_transactions_leaves_them_as_they_were(world):
    """As in a TestCase: the outer transaction goes on, and what the route wrote is written."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO label VALUES ('outer')")
        with transaction.atomic():
            with route("default", world.destination.name):
                assert not connection.in_atomic_block
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("INSERT INTO label VALUES ('routed')")
            assert len(connection.savepoint_ids) == 1
            with connection.cursor() as cursor:
                cursor.execute("SELECT content FROM label ORDER BY 1")
                assert cursor.fetchall() == [("default",), ("outer",)]
        transaction.set_rollback(True)
    assert world.default.run("SELECT content FROM label") == [("default",)]
    assert world.destination.run("SELECT content FROM label ORDER BY 1") == [
        ("destination",),
        ("routed",),
    ]


def test_settings_given_to_an_alias_go_along(world):
    connections["default"].settings_dict["OPTIONS"]["application_name"] = "mine"
    connections["default"].close()
    with route("default", world.destination.name), connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        assert cursor.fetchone() == ("mine",)


# -- when it cannot be kept ------------------------------------------------------------------------


@pytest.fixture(params=["pgconnection", "plain"])
def pooled(request, install, make_site):
    """``default`` with an engine that keeps its pools by alias, and a destination."""
    sites = {name: make_site(empty=True) for name in ("default", "destination")}
    for name, site in sites.items():
        label(site, name)
    databases = {"default": {**sites["default"].dsn_dict(), "ENGINE": pooled_by_alias.__package__}}
    install(configure(databases) if request.param == "pgconnection" else databases)
    yield types.SimpleNamespace(**sites)
    connections["default"].close()
    pooled_by_alias.close_pools()


@pytest.mark.parametrize("used", [False, True], ids=["not yet used", "used before"])
def test_an_engine_that_leads_elsewhere_ends_the_route_before_its_block(pooled, used):
    """Else the hook would work on the live database, or the site on that of the hook."""
    if used:
        assert reached() == "default"
        connection.close()
    begun = False
    with (
        pytest.raises(HookFailed, match=f'leads to the database "{pooled.default.name}"') as raised,
        route("default", pooled.destination.name),
    ):
        begun = True
    assert not begun
    assert "pool" in raised.value.hint
    assert reached() == "default"


def test_an_engine_of_somebody_else_that_leads_where_it_is_sent_is_used(world, monkeypatch):
    for name in ("", ".base"):
        module = importlib.import_module(f"django.db.backends.postgresql{name}")
        monkeypatch.setitem(sys.modules, f"somebodys_engine{name}", module)
    connection.settings_dict["ENGINE"] = "somebodys_engine"
    with route("default", world.destination.name):
        assert reached() == in_thread(reached) == "destination"
    assert reached() == "default"
    with pytest.raises(OperationalError), route("default", "there is no such"):
        reached()


def test_options_that_lead_elsewhere_are_no_way_out_of_the_route(world):
    connection.settings_dict["OPTIONS"]["dbname"] = world.default.name
    with route("default", world.destination.name):
        for _ in range(2):
            with pytest.raises(HookFailed, match=f'instead of "{world.destination.name}"'):
                write("from the hook")
    assert world.default.run("SELECT content FROM label") == [("default",)]


# -- the mapping -----------------------------------------------------------------------------------


def test_configure_copies_and_gives_what_pgconnection_accepts(site):
    given = {"default": site.dsn_dict()}
    before = copying.deepcopy(given)
    configured = configure(given)
    assert given == before
    assert isinstance(configured, SharedDatabases)
    assert isinstance(configured, _Databases)
    assert dict(configured)["default"]["NAME"] == site.name
    assert set(configured["default"]["OPTIONS"]) == {"cursor_factory", "connection_factory"}


def test_with_psycopg_3_only_the_mapping_is_another_one(site, monkeypatch):
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    given = {"default": site.dsn_dict()}
    configured = configure(given)
    assert isinstance(configured, PlainDatabases)
    assert configured == given
    assert configured["default"] is given["default"]


def test_the_check_names_a_mapping_that_breaks_threads(install, site):
    databases = {"default": site.dsn_dict()}
    install(pgconnection.configure(databases))
    assert [message.id for message in checks.check_routing()] == ["pgclone_admin.E001"]
    install(configure(databases))
    assert checks.check_routing() == []
    install(databases)
    assert checks.check_routing() == []


def test_psycopg2_itself_is_not_routed(world):
    """Its connections are the product's own, which have to reach the maintenance database."""
    with (
        route("default", world.destination.name),
        contextlib.closing(world.default.connect()) as own,
    ):
        assert isinstance(own, psycopg2.extensions.connection)
        assert own.info.dbname == world.default.name
