"""Sending Django's connections elsewhere: which settings each thread and alias has, and when a
connection is tried again. That queries arrive at the right database is tested with servers."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pgconnection
import psycopg2
import psycopg2.extensions
import pytest
from django.conf import settings as django_settings
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from pgconnection.core import _Databases

from pgclone_admin import reconnecting
from pgclone_admin.core.errors import HookFailed
from pgclone_admin.databases import protected_names, secrets
from pgclone_admin.reconnecting import connect_again, connects_again
from pgclone_admin.routing import (
    PlainDatabases,
    SharedDatabases,
    configure,
    route,
    uses_pgconnection,
)
from tests.unit.helpers import SetDatabases, alias_settings, three_aliases
from tests.unit.login_server import REFUSAL, LoginServer

WAYS = {"pgconnection": configure, "plain": lambda databases: databases}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, set_databases: SetDatabases) -> str:
    set_databases(WAYS[request.param](three_aliases()))
    return str(request.param)


def in_thread(ask: Callable[[], Any]) -> Any:
    """What ``ask`` says in another thread."""
    said: list[Any] = []

    def run() -> None:
        try:
            said.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised again below
            said.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    (answer,) = said
    if isinstance(answer, BaseException):
        raise answer
    return answer


def names() -> dict[str, str]:
    """The database that each alias has in this thread."""
    return {alias: connections[alias].settings_dict["NAME"] for alias in connections}


STRAIGHT = {"default": "live", "reporting": "reports", "other": "elsewhere"}

# -- the mapping ----------------------------------------------------------------------------------


def test_a_mapping_of_the_app_is_one_of_pgconnection(set_databases: SetDatabases) -> None:
    set_databases(configure(three_aliases()))
    pgconnection.check()
    assert isinstance(django_settings.DATABASES, SharedDatabases)
    assert isinstance(django_settings.DATABASES, _Databases)
    assert uses_pgconnection()
    assert set(django_settings.DATABASES) == set(STRAIGHT)
    for alias in STRAIGHT:
        assert "cursor_factory" in django_settings.DATABASES[alias]["OPTIONS"]


def test_a_plain_mapping_is_no_obstacle(set_databases: SetDatabases) -> None:
    set_databases(three_aliases())
    assert not uses_pgconnection()


def test_what_was_given_is_not_changed() -> None:
    given = three_aliases()
    configure(given)
    assert given == three_aliases()


def test_what_is_no_settings_of_a_database_is_refused() -> None:
    with pytest.raises(ValueError, match="Must pass a database configuration"):
        configure({"default": "postgres://x"})  # type: ignore[dict-item]


def test_another_engine_is_left_alone() -> None:
    databases = configure({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "x"}})
    assert databases["default"] == {"ENGINE": "django.db.backends.sqlite3", "NAME": "x"}


def test_with_psycopg_3_the_settings_themselves_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Stands in for a site that has psycopg 3 installed.
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    databases = configure(three_aliases())
    assert isinstance(databases, PlainDatabases)
    assert databases == three_aliases()


def test_the_defaults_that_django_fills_in_are_there_in_every_thread(way: str) -> None:
    def look() -> tuple[Any, ...]:
        found = connections["default"].settings_dict
        return found["TIME_ZONE"], found["ATOMIC_REQUESTS"], found["CONN_MAX_AGE"]

    assert in_thread(look) == look() == (None, False, 0)


def test_the_plain_pgconnection_lacks_them_in_other_threads(set_databases: SetDatabases) -> None:
    # The reason for all this; once it is mended there, SharedDatabases can go.
    set_databases(pgconnection.configure(three_aliases()))
    connections["default"].settings_dict["ATOMIC_REQUESTS"]
    with pytest.raises(KeyError):
        in_thread(lambda: connections["default"].settings_dict["ATOMIC_REQUESTS"])


def test_the_name_that_a_test_run_sets_is_seen_by_every_thread(way: str) -> None:
    # As Django's test runner does it; other threads would work on the real database.
    connections["default"].settings_dict["NAME"] = "test_live"
    assert in_thread(names)["default"] == "test_live"


def test_a_mapping_that_a_thread_changes_is_its_own() -> None:
    databases = configure(three_aliases())
    databases["default"] = alias_settings("mine")
    assert databases["default"]["NAME"] == "mine"
    assert in_thread(lambda: databases["default"]["NAME"]) == "live"


def test_a_mapping_without_default_is_refused_by_django(set_databases: SetDatabases) -> None:
    with pytest.raises(ImproperlyConfigured):
        set_databases(configure({"other": alias_settings("x")}))


# -- the route ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", "reporting"])
def test_in_a_route_the_alias_and_default_are_the_destination(way: str, alias: str) -> None:
    with route(alias, "live__temp"):
        routed = names()
        assert routed["default"] == routed[alias] == "live__temp"
    assert names() == STRAIGHT


def test_everything_else_of_the_destination_is_that_of_the_alias(
    set_databases: SetDatabases,
) -> None:
    for make in WAYS.values():
        databases = three_aliases()
        databases["reporting"] |= {"HOST": "127.0.0.2", "USER": "reporter", "PASSWORD": "x"}
        databases["reporting"]["OPTIONS"] = {"sslmode": "require"}
        set_databases(make(databases))
        with route("reporting", "reports__temp"):
            for alias in ("default", "reporting"):
                found = connections[alias].settings_dict
                assert (found["HOST"], found["USER"], found["PASSWORD"], found["NAME"]) == (
                    "127.0.0.2",
                    "reporter",
                    "x",
                    "reports__temp",
                )
                assert found["OPTIONS"]["sslmode"] == "require"


def test_a_route_is_not_seen_by_a_thread_that_was_there_before(way: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(names).result() == STRAIGHT
        with route("default", "live__temp"):
            assert pool.submit(names).result() == STRAIGHT


def test_a_route_is_followed_by_the_threads_that_are_started_in_it(way: str) -> None:
    with route("default", "live__temp"):
        assert in_thread(names) == names()
        assert in_thread(lambda: in_thread(names))["default"] == "live__temp"
    assert in_thread(names) == STRAIGHT


def test_a_thread_that_outlives_its_route_never_comes_back_to_the_live_database(way: str) -> None:
    go_on = threading.Event()
    found: list[str] = []

    def look() -> None:
        go_on.wait(10)
        found.append(names()["default"])

    thread = threading.Thread(target=look)
    with route("default", "live__temp"):
        thread.start()
    go_on.set()
    thread.join(10)
    assert found == ["live__temp"]


def test_our_own_threads_do_not_follow(way: str) -> None:
    found: list[str] = []
    with route("default", "live__temp"):
        thread = threading.Thread(
            target=lambda: found.append(names()["default"]), name="pgclone of a test"
        )
        thread.start()
        thread.join(10)
    assert found == ["live"]


def test_a_route_may_begin_in_any_thread(way: str) -> None:
    def look() -> dict[str, str]:
        with route("default", "live__temp"):
            return names()

    assert in_thread(look)["default"] == "live__temp"
    assert names() == STRAIGHT


def test_every_other_alias_refuses_before_it_connects(way: str) -> None:
    with route("reporting", "reports__temp"):
        with pytest.raises(HookFailed, match='the hook used the database "other"') as caught:
            connections["other"].cursor()
        assert caught.value.hint is not None
        with pytest.raises(HookFailed):
            connections["other"].ensure_connection()
    # Outside it tries the server, which is not there.
    assert connections["other"].settings_dict["HOST"] == "192.0.2.1"


@pytest.mark.parametrize("way", WAYS)
def test_what_is_protected_and_never_told_is_so_in_a_route_too(
    set_databases: SetDatabases, way: str
) -> None:
    # A hook may make runs of its own, and the live database is none that they may replace.
    databases = three_aliases()
    for alias, found in databases.items():
        found["PASSWORD"] = f"password of {alias}"
    set_databases(WAYS[way](databases))
    connections["other"].settings_dict["NAME"] = "test_elsewhere"
    before = protected_names(), secrets()
    assert {"live", "reports", "test_elsewhere"} <= before[0]
    with route("reporting", "reports__temp"):
        assert protected_names() == before[0] | {"reports__temp"}
        assert secrets() == before[1]
    assert (protected_names(), secrets()) == before


def test_an_error_in_the_block_ends_the_route(way: str) -> None:
    before = {alias: connections[alias] for alias in connections}

    def fail() -> None:
        with route("default", "live__temp"):
            raise RuntimeError("the hook")

    with pytest.raises(RuntimeError, match="the hook"):
        fail()
    assert names() == STRAIGHT
    for alias, connection in before.items():
        assert connections[alias] is connection


def test_a_route_to_where_the_alias_leads_anyway_changes_nothing(way: str) -> None:
    # A pre-dump hook runs on the live database itself.
    before = connections["default"]
    with route("default", "live"):
        assert connections["default"] is before
        with pytest.raises(HookFailed):
            connections["other"].cursor()
    with route("reporting", "reports"):
        assert names()["default"] == "reports"
    assert names() == STRAIGHT


def test_a_route_goes_to_the_database_of_a_test_run(way: str) -> None:
    connections["default"].settings_dict["NAME"] = "test_live"
    with route("default", "test_live__temp"):
        assert names()["default"] == "test_live__temp"
    assert names()["default"] == "test_live"


@pytest.mark.parametrize("way", WAYS)
def test_the_destination_is_what_the_server_is_asked_for(
    set_databases: SetDatabases, way: str
) -> None:
    with LoginServer() as server:
        set_databases(WAYS[way](three_aliases(PORT=server.port)))
        with route("default", "live__temp"), pytest.raises(OperationalError, match=REFUSAL):
            connections["default"].ensure_connection()
        with pytest.raises(OperationalError, match=REFUSAL):
            connections["default"].ensure_connection()
    asked = [login.startup["database"] for login in server.logins]
    assert list(dict.fromkeys(asked)) == ["live__temp", "live"]


def test_a_connection_that_the_block_opened_is_closed_at_its_end(way: str) -> None:
    closed = []
    with route("default", "live__temp"):
        routed = connections["default"]
        routed.close = lambda: closed.append(routed.alias)  # type: ignore[method-assign]
    assert closed == ["default"]


def test_what_django_remembers_of_one_database_is_not_used_on_the_other(way: str) -> None:
    ContentType.objects._add_to_cache("default", ContentType(pk=1, app_label="a", model="live"))
    with route("default", "live"):  # the same one
        assert ContentType.objects._cache
    with route("default", "live__temp"):
        assert not ContentType.objects._cache
        ContentType.objects._add_to_cache("default", ContentType(pk=2, app_label="a", model="temp"))
    assert not ContentType.objects._cache


# -- connecting again -----------------------------------------------------------------------------

PREFIX = 'connection to server at "db" (127.0.0.1), port 5432 failed: FATAL:  '
RENAMED = "DETAIL:  It seems to have just been dropped or renamed.\n"

SWAP = {
    "after the wait": f'{PREFIX}database "db" does not exist\n{RENAMED}',
    "an old libpq": f'FATAL:  database "db" does not exist\n{RENAMED}',
    "another host before": f'connection to server at "db" (::1), port 5432 failed: refused\n'
    f'\tIs the server running?\n{PREFIX}database "db" does not exist\n{RENAMED}',
    "just let in": f"{PREFIX}terminating connection due to administrator command\n",
}

PERHAPS_A_SWAP = {
    "German": f"{PREFIX}Datenbank »db« existiert nicht\n"
    "DETAIL:  Sie wurde anscheinend gerade gelöscht oder umbenannt.\n",
    "French": f"{PREFIX}la base de données «\u00a0db\u00a0» n'existe pas\n"
    "DÉTAIL : Cet objet semble avoir été tout juste supprimé ou renommé.\n",
    "Russian": f'{PREFIX.replace("FATAL", "ВАЖНО")}база данных "db" не существует\n'
    "ПОДРОБНОСТИ:  Похоже, она только что была удалена или переименована.\n",
    "Japanese": f'{PREFIX}データベース"db"は存在しません\n'
    "DETAIL:  削除またはリネームされたばかりのようです。\n",
    "signs lost": f"{PREFIX}Datenbank ?db? existiert nicht\nDETAIL:  Sie wurde gerade gel?scht.\n",
}

NO_SWAP = {
    "missing": f'{PREFIX}database "db" does not exist\n',
    "missing, in German": f"{PREFIX}Datenbank »db« existiert nicht\n",
    "wrong password, of a role with the name": f"{PREFIX}password authentication failed for user"
    ' "db"\n',
    "wrong password, with TLS and without": 2
    * f'{PREFIX}password authentication failed for user "db"\n',
    "not in pg_hba.conf, with TLS and without": f'{PREFIX}no entry for user "a", database "db", SSL'
    f' encryption\n{PREFIX}no entry for user "a", database "db", no encryption\n',
    "full": f"{PREFIX}sorry, too many clients already\n",
    "starting": f"{PREFIX}the database system is starting up\n",
    "down": 'connection to server at "db" (127.0.0.1), port 5432 failed: Connection refused\n'
    "\tIs the server running on that host and accepting TCP/IP connections?\n",
    "unknown host": 'could not translate host name "db" to address: Name or service not known\n',
    "part of another name": f"{PREFIX}Datenbank »db_2« existiert nicht\nDETAIL:  Etwas.\n",
}


class Server:
    """A ``connection_factory`` that fails with the messages given, the last one for ever."""

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)
        self.attempts: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, dsn: str, **keywords: Any) -> str:
        self.attempts.append((dsn, keywords))
        message = self.messages.pop(0) if len(self.messages) > 1 else self.messages[0]
        if not message:
            return "connected"
        raise psycopg2.OperationalError(message)


def seconds(server: Server, dsn: str = "dbname=db user=a") -> float:
    """How long a connection is tried that fails for good."""
    started = time.monotonic()
    with pytest.raises(psycopg2.OperationalError) as caught:
        connect_again(dsn, factory=server)
    assert str(caught.value) == server.messages[-1]
    return time.monotonic() - started


@pytest.mark.parametrize("kind", SWAP)
def test_a_connection_is_tried_again_while_the_database_is_swapped(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the dsn nothing is needed where the server speaks English.
    server = Server(*[SWAP[kind]] * 4, "")
    assert connect_again("service=shop", factory=server) == "connected"
    assert len(server.attempts) == 5
    monkeypatch.setattr(reconnecting, "PATIENCE", 0.35)
    assert 0.35 <= seconds(Server(SWAP[kind])) < 0.8


@pytest.mark.parametrize("kind", PERHAPS_A_SWAP)
def test_a_server_that_speaks_another_language_is_understood(kind: str) -> None:
    server = Server(PERHAPS_A_SWAP[kind], PERHAPS_A_SWAP[kind], "")
    assert connect_again("dbname=db", factory=server) == "connected"
    assert len(server.attempts) == 3


@pytest.mark.parametrize("kind", PERHAPS_A_SWAP)
def test_what_only_looks_like_a_swap_fails_within_half_a_second(kind: str) -> None:
    server = Server(PERHAPS_A_SWAP[kind])
    assert 0.1 <= seconds(server) < 0.5
    assert len(server.attempts) == 3


@pytest.mark.parametrize("kind", NO_SWAP)
def test_every_other_error_is_raised_at_once(kind: str) -> None:
    server = Server(NO_SWAP[kind])
    assert seconds(server) < 0.1
    assert len(server.attempts) == 1


def test_an_error_that_follows_the_swap_is_raised_at_once() -> None:
    server = Server(SWAP["after the wait"], NO_SWAP["missing"])
    assert seconds(server) < 0.1
    assert len(server.attempts) == 2


def test_the_role_is_the_name_of_the_database_where_none_is_given() -> None:
    server = Server(PERHAPS_A_SWAP["German"])
    seconds(server, "user=db")
    assert len(server.attempts) == 3
    for name in ("", "a'b"):
        server = Server(PERHAPS_A_SWAP["German"])
        seconds(server, psycopg2.extensions.make_dsn(dbname=name, user="a"))
        assert len(server.attempts) == 1


def test_a_name_of_any_signs_is_found_in_the_message() -> None:
    for name in ("my.shop (1)", "Lädchen", "a:  b", '"', "$x^"):
        message = f"FATAL:  Datenbank »{name}« existiert nicht\nDETAIL:  Umbenannt.\n"
        server = Server(message)
        seconds(server, psycopg2.extensions.make_dsn(dbname=name))
        assert len(server.attempts) == 3, name


def test_everything_that_psycopg2_says_reaches_the_factory_each_time() -> None:
    server = Server(SWAP["after the wait"], "")
    connect_again("dbname=db", factory=server, async_=True)
    assert server.attempts == [("dbname=db", {"async_": True})] * 2


GERMAN = {
    "S": "FATAL",
    "C": "3D000",
    "M": "Datenbank »live« existiert nicht",
    "D": "Sie wurde anscheinend gerade gelöscht oder umbenannt.",
}


def test_psycopg2_and_django_use_it(set_databases: SetDatabases) -> None:
    with LoginServer(GERMAN) as server:
        set_databases(configure(three_aliases(PORT=server.port)))
        with pytest.raises(OperationalError, match="Datenbank »live« existiert nicht"):
            connections["default"].ensure_connection()
    assert len(server.logins) == 3


def test_a_message_in_another_encoding_is_understood_too(set_databases: SetDatabases) -> None:
    # psycopg2 raises UnicodeDecodeError in place of the error then.
    with LoginServer(GERMAN, GERMAN, NO_MORE, encoding="latin-1") as server:
        set_databases(configure(three_aliases(PORT=server.port)))
        with pytest.raises(OperationalError, match="no more"):
            connections["default"].ensure_connection()
    assert len(server.logins) == 3


NO_MORE = {"S": "FATAL", "C": "53300", "M": "no more"}


def test_a_route_tries_again_as_well(set_databases: SetDatabases) -> None:
    german = GERMAN | {"M": "Datenbank »live__temp« existiert nicht"}
    with LoginServer(german, NO_MORE) as server:
        set_databases(configure(three_aliases(PORT=server.port)))
        with route("default", "live__temp"), pytest.raises(OperationalError, match="no more"):
            connections["default"].ensure_connection()
    assert [login.startup["database"] for login in server.logins] == ["live__temp"] * 2


@pytest.mark.parametrize(
    "engine",
    [
        "django.db.backends.postgresql",
        "django.contrib.gis.db.backends.postgis",
        "django_prometheus.db.backends.postgresql",
        "django_tenants.postgresql_backend",
    ],
)
def test_every_engine_of_postgresql_connects_again(engine: str) -> None:
    databases = configure({"default": alias_settings("live", ENGINE=engine)})
    assert databases["default"]["OPTIONS"]["connection_factory"] is connect_again


class Own(psycopg2.extensions.connection):
    """A factory of the project."""


def test_the_factory_of_the_project_is_kept() -> None:
    given = {"default": alias_settings("live", OPTIONS={"connection_factory": Own})}
    made = configure(given)["default"]["OPTIONS"]["connection_factory"]
    assert (made.func, made.keywords) == (connect_again, {"factory": Own})
    assert given["default"]["OPTIONS"]["connection_factory"] is Own
    for factory in (connect_again, made):
        again = {"default": alias_settings("live", OPTIONS={"connection_factory": factory})}
        kept = configure(again)["default"]["OPTIONS"]["connection_factory"]
        assert getattr(kept, "keywords", {}) == getattr(factory, "keywords", {})


def test_it_is_known_whether_connections_are_tried_again() -> None:
    assert connects_again({"connection_factory": connect_again})
    assert connects_again({"connection_factory": functools.partial(connect_again, factory=Own)})
    assert not connects_again({})
    assert not connects_again({"connection_factory": Own})
    assert not connects_again({"connection_factory": functools.partial(Own)})


@pytest.mark.parametrize("options", [{}, {"connection_factory": Own}])
def test_settings_with_it_can_be_copied_and_handed_to_another_process(
    options: dict[str, Any],
) -> None:
    # As routes, test runs in several processes and this app do.
    configured = configure({"default": alias_settings("live", OPTIONS=options)})["default"]
    for same in (copy.deepcopy(configured), pickle.loads(pickle.dumps(configured))):
        assert connects_again(same["OPTIONS"])
        assert set(same["OPTIONS"]) == {"cursor_factory", "connection_factory"}


def test_the_shell_of_the_database_does_not_meet_it(set_databases: SetDatabases) -> None:
    plain, ours = three_aliases(), configure(three_aliases())
    commands = []
    for databases in (plain, ours):
        set_databases(databases)
        connection = connections["default"]
        commands.append(
            connection.client.settings_to_cmd_args_env(connection.settings_dict, ["-c", "x"])
        )
    assert commands[0] == commands[1]
