"""Sites with several aliases: for two databases of a server, for one database, for replicas."""

from __future__ import annotations

import copy
import html
import re
import socket
import threading

import pytest
from django.apps import apps
from django.db import connections
from django.test import override_settings
from django.urls import reverse
from django_q.models import OrmQ

from pgclone_admin import runner
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Dump, RestoreRun, RunEvent, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import dumps, imports, requests
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.restores import Variant

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def aliases(pages):
    """``aliases(name, entry)`` adds an entry to DATABASES, until the test ends."""
    added = []

    def add(name, entry):
        connections.settings[name] = {**copy.deepcopy(connections.settings["default"]), **entry}
        added.append(name)

    yield add
    for name in added:
        connections[name].close()
        del connections[name], connections.settings[name]


@pytest.fixture
def second(pages, aliases, make_site):
    """Another database of the same server, with an alias for the site and one for its owner."""
    site = make_site(server=pages.site.server)
    aliases("second", site.dsn_dict("app"))
    aliases("second_owner", site.dsn_dict("postgres"))
    return site


@pytest.mark.parametrize("alias", ["second", "second_owner"])
def test_the_way_back_of_a_run_leads_to_a_page_for_every_alias(pages, second, alias):
    name = f"{second.name}__pre"
    second.server.create_database(name)
    mark = Mark.new(name=name, kind="pre", of=second.name).comment()
    second.server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark,))
    run = pages.run(database=alias, target=second.name, live_oid=second.server.oid(name))
    client = pages.superuser()

    shown = client.get(reverse("admin:pgclone_admin_restorerun_change", args=[run.pk]))
    [address] = re.findall(r'href="([^"]*/localdatabase/[^"]*/restore/)"', shown.content.decode())
    page = client.get(address)

    assert page.status_code == 200
    text = html.unescape(page.content.decode())
    assert f'Type the name of the database, "{second.name}"' in text


def test_a_dump_of_a_second_alias_is_restored_and_drilled_on_its_own_database(pages, second):
    dump = pages.dump(database="second_owner")

    page = pages.superuser().get(reverse("admin:pgclone_admin_dump_restore", args=[dump.pk]))
    text = page.content.decode()
    requests.request_drill(Actor.system("a test"), dump)

    assert 'value="second" selected' in text
    assert 'value="second_owner"' not in text
    run = RestoreRun.objects.get()
    assert (run.database, run.target) == ("second", second.name)


def test_a_dump_of_an_alias_that_is_not_here_is_restored_on_the_usual_database(pages, second):
    dump = pages.dump(database="elsewhere")
    page = pages.superuser().get(reverse("admin:pgclone_admin_dump_restore", args=[dump.pk]))
    assert 'value="default" selected' in page.content.decode()


@pytest.fixture
def silent():
    """The port of a server that accepts connections and never says a word, and who has come."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    came.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in came:
        connection.close()


def test_a_replica_that_does_not_answer_is_waited_for_once_and_then_left_out(
    pages, aliases, silent
):
    port, came = silent
    aliases("replica", {**pages.site.dsn_dict("app"), "PORT": str(port)})
    for number in range(3):
        name = f"copy_{number}"
        pages.site.server.create_database(name)
        mark = Mark.new(name=name, kind="copy", of=pages.site.name).comment()
        pages.site.server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark,))
    client = pages.superuser()

    for page in ("localdatabase_changelist", "localdatabase_copy", "dump_changelist"):
        answer = client.get(reverse(f"admin:pgclone_admin_{page}"))
        assert answer.status_code == 200
        assert "replica" not in answer.content.decode()
    # libpq tries a silent server a second time where it was to encrypt.
    assert len(came) <= 2


@pytest.fixture
def control(pages, aliases, admin_database):
    """The database in which the site keeps the tables of this app, which ``default`` has not."""
    site = admin_database(pages.site.server)
    aliases("control", site.dsn_dict("app"))
    tables = ", ".join(
        model._meta.db_table
        for model in apps.get_app_config("pgclone_admin").get_models()
        if model._meta.managed
    )
    pages.site.run(f"DROP TABLE {tables} CASCADE")
    with override_settings(
        DATABASE_ROUTERS=["tests.project.routers.ByLabel"],
        TEST_ROUTES={"pgclone_admin": "control"},
    ):
        yield site


def test_people_ask_for_everything_where_the_tables_of_this_app_are_elsewhere(pages, control):
    manifest = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    archive = pages.storage_root / manifest.key
    actor = Actor.of(pages.superuser().user)
    given = {"dump_key": manifest.key, "database": "default"}

    imported = imports.import_dump(actor, {}, archive)
    dump = requests.request_dump(actor, {})
    runs = [
        requests.request_restore(actor, given, variant=Variant()),
        requests.request_drill(actor, imported),
        requests.request_verification(actor, imported),
        requests.request_copy(actor, "default", ":copy"),
    ]

    assert set(Dump.objects.using("control")) == {imported, dump}
    assert list(RestoreRun.objects.using("control").order_by("pk")) == runs
    assert RunEvent.objects.using("control").filter(level="audit").count() == 6
    assert OrmQ.objects.count() == 5
    assert runner.run_dump(dump) == Status.SUCCEEDED
    assert [runner.run_restore(run) for run in runs[1:]] == [Status.SUCCEEDED] * 3


def test_an_import_that_cannot_be_written_down_makes_no_row_there_either(
    pages, control, monkeypatch
):
    def refuse(*_about):
        raise ZeroDivisionError

    manifest = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    monkeypatch.setattr(imports, "audit", refuse)
    with pytest.raises(ZeroDivisionError):
        imports.import_dump(Actor.system("a test"), {}, pages.storage_root / manifest.key)
    assert not Dump.objects.exists()
