"""A site that goes on being used while the database that it lies in is replaced."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from django_q.models import OrmQ

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_behind")]

WORK = {"look": 8, "compute": 4, "remember": 4, "enqueue": 4}
"""How many clients do what: read, keep the server at a query, log in, put tasks into the queue."""

SWAPS = 2

STARTS_WITHIN = 20.0


@dataclass
class Client:
    """Asks for the same kind of thing again and again, over HTTP."""

    port: int
    number: int
    work: str
    stop: threading.Event
    statuses: Counter[int] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    """What came with errors."""
    broken: list[str] = field(default_factory=list)
    """The site's connections that were in the middle of a query of this client."""
    told: dict[str, str] = field(default_factory=dict)
    """Name and answer of what was done, as far as the site has said so."""

    def run(self) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            name = f"{self.work}-{self.number}-{count}"
            status, text = self.ask(f"/{self.work}/{name}/")
            self.statuses[status] += 1
            if status == 200:
                self.told[name] = text
            else:
                broken, _, said = text.partition("\n")
                self.said.append(f"{status} {broken}: {said}")
                self.broken.append(broken)
            time.sleep(0.005)

    def ask(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def port_of(running):
    until = time.monotonic() + STARTS_WITHIN
    while not (said := running.stdout().strip()):
        assert time.monotonic() < until, running.stderr()
        time.sleep(0.05)
    return int(said.removeprefix("serving "))


def test_f34_no_connection_of_a_site_with_twenty_clients_breaks_twice_and_nothing_is_lost(office):
    office.settings |= {"ROOT_URLCONF": "tests.project.urls", "ALLOWED_HOSTS": ["127.0.0.1"]}
    key = office.pgclone("dump").ok().lines[0]
    databases = office.databases(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    stop = threading.Event()
    site = office.start("serve", database=databases)
    port = port_of(site)
    kinds = [work for work, count in WORK.items() for _ in range(count)]
    clients = [Client(port, number, work, stop) for number, work in enumerate(kinds)]
    threads = [threading.Thread(target=client.run) for client in clients]
    assert len(threads) == 20
    for thread in threads:
        thread.start()
    broken = []
    try:
        for _ in range(SWAPS):
            before = [len(client.broken) for client in clients]
            oid, told = office.oid, sum(len(client.told) for client in clients)
            office.pgclone("restore", key, "--pre-swap-hook").ok()
            assert office.oid != oid
            time.sleep(0.5)
            assert sum(len(client.told) for client in clients) > told + 100
            broken.append([c.broken[b:] for c, b in zip(clients, before, strict=True)])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        site.kill()

    # Nobody was ever refused. Who was in the middle of a query may try again at once and be given
    # a connection whose session is only just being ended; but none of them is ended twice.
    said = [text for client in clients for text in client.said]
    assert sum((client.statuses for client in clients), Counter()).keys() <= {200, 503}, said
    for of_each in broken:
        assert max(Counter(name for names in of_each for name in names).values()) == 1, said
        assert any(of_each[8:12]), "or nobody was in the middle of a query"

    told = {work: {} for work in WORK}
    for client in clients:
        told[client.work] |= client.told
    assert min(len(of_work) for of_work in told.values()) > 20
    sessions = {row[0] for row in office.run("SELECT session_key FROM django_session")}
    assert set(told["remember"].values()) - sessions == set()
    queued = Counter(row.task["name"] for row in OrmQ.objects.all())
    assert set(told["enqueue"]) - set(queued) == set()
    assert max(queued.values()) == 1
