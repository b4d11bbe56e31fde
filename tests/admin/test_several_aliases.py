"""Sites with several aliases: for two databases of a server, for one database, for replicas."""

from __future__ import annotations

import copy
import socket
import threading

import pytest
from django.db import connections
from django.urls import reverse

from pgclone_admin.core.marks import Mark

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
