"""Sending Django's connections elsewhere: which settings each thread and alias has. That queries
arrive at the right database is tested with servers."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import pgconnection
import pytest
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from pgconnection.core import _Databases

from pgclone_admin.core.errors import HookFailed
from pgclone_admin.routing import SharedDatabases, configure, route, uses_pgconnection
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


def test_with_psycopg_3_the_settings_are_returned_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Stands in for a site that has psycopg 3 installed.
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, package=None: object() if name == "psycopg" else find(name, package),
    )
    databases = three_aliases()
    assert configure(databases) is databases


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


def test_a_route_is_seen_by_its_own_thread_alone(way: str) -> None:
    with route("default", "live__temp"):
        assert in_thread(names) == STRAIGHT


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
