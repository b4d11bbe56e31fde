"""What Django remembers of a database is forgotten once another one has its name."""

from __future__ import annotations

import threading

import pgconnection
import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.test import modify_settings
from django.test.utils import CaptureQueriesContext
from psycopg2 import sql

from pgclone_admin import routing, signals
from pgclone_admin.routing import configure, route
from tests.support.postgres import quote

from .operations import label

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def live(install, make_site):
    """The database of ``default``, not connected to yet."""
    site = make_site(empty=True)
    label(site, "old")
    install(configure({"default": site.dsn_dict()}))
    return site


def swap(site):
    """Puts another database under the name, while nobody is connected."""
    made, parked = site.server.fresh_name("made"), site.server.fresh_name("parked")
    site.server.create_database(made)
    for old, new in ((site.name, parked), (made, site.name)):
        site.server.admin(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(quote(old), quote(new)))


def connect():
    """A new connection of this thread, as each request has one."""
    connections["default"].close()
    connections["default"].ensure_connection()
    return connections["default"]


def remember():
    ContentType.objects._add_to_cache("default", ContentType(pk=1, app_label="a", model="b"))


def remembers():
    return bool(ContentType.objects._cache)


def test_content_types_are_forgotten_after_a_swap(live):
    connect()
    remember()
    connect()
    assert remembers()
    connections["default"].close()
    swap(live)
    assert remembers()
    connect()
    assert not remembers()
    remember()
    connect()
    assert remembers()


def test_whichever_thread_meets_the_new_database_first(live):
    connect()
    remember()
    connections["default"].close()
    swap(live)

    def request():
        connect()
        connections.close_all()

    thread = threading.Thread(target=request)
    thread.start()
    thread.join()
    assert not remembers()
    remember()
    connect()
    assert remembers()


def test_sites_are_forgotten_too_where_they_are_installed(live):
    with modify_settings(INSTALLED_APPS={"append": "django.contrib.sites"}):
        from django.contrib.sites import models  # noqa: PLC0415 - only now is it installed

        assert apps.is_installed("django.contrib.sites")
        connect()
        models.SITE_CACHE[1] = models.Site(pk=1, domain="old.example")
        connect()
        assert models.SITE_CACHE
        connections["default"].close()
        swap(live)
        connect()
        assert not models.SITE_CACHE


def test_a_route_is_no_swap(live, make_site):
    other = make_site(empty=True)
    connect()
    with route("default", other.name):
        connect()
        remember()
    assert not remembers()  # it was of the other database
    remember()
    connect()
    assert remembers()


def test_the_query_is_not_counted(live):
    connection = connections["default"]
    connection.ensure_connection()
    connection.close()
    with CaptureQueriesContext(connection) as captured:
        connection.close()
        connection.ensure_connection()
    assert captured.captured_queries == []


def test_hooks_of_pgconnection_do_not_meet_the_query(live):
    seen = []
    with pgconnection.pre_execute_hook(lambda statement, *_: seen.append(statement)):
        connection = connect()
        with connection.cursor() as cursor:
            cursor.execute("SELECT content FROM label")
    assert seen == ["SELECT content FROM label"]


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_transaction_is_left_open(live, autocommit):
    connections["default"].settings_dict["AUTOCOMMIT"] = autocommit
    connection = connect()
    assert connection.connection.info.transaction_status == routing.IDLE
    state = "SELECT state FROM pg_stat_activity WHERE pid = %s"
    pid = connection.connection.info.backend_pid
    assert live.server.admin(state, (pid,)) == [("idle",)]
    # And it was asked.
    assert live.oid in signals._oids.values()


def test_a_transaction_that_somebody_has_begun_goes_on(live):
    connections["default"].settings_dict["AUTOCOMMIT"] = False
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO label VALUES ('kept')")
    signals.notice_swap(connection)
    connection.commit()
    connection.close()
    assert ("kept",) in live.run("SELECT content FROM label")


def test_a_connection_that_is_lost_at_once_is_no_error_of_ours(live):
    connection = connect()
    pid = connection.connection.info.backend_pid
    live.server.admin("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    signals.notice_swap(connection)
    assert connection.connection.closed


def test_another_kind_of_database_is_not_asked(install):
    install({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
