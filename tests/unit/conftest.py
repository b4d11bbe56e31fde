"""Marks what lies here, and fixtures for more than one file of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.local import Local
from django.conf import settings
from django.db import connections

from tests.unit.helpers import SetDatabases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        borrows_a_server = {"servers", "any_pg"} & set(getattr(item, "fixturenames", ()))
        if item.path.is_relative_to(here) and not borrows_a_server:
            item.add_marker("unit")


@pytest.fixture
def set_databases(django_db_blocker: Any) -> Iterator[SetDatabases]:
    """Makes a mapping the DATABASES of this process, as if Django had been started with it."""
    before = settings.DATABASES, connections.settings, connections._connections

    def set_databases(databases: Any) -> None:
        settings.DATABASES = databases
        connections._connections = Local(connections.thread_critical)
        connections.settings = connections.configure_settings(databases)

    with django_db_blocker.unblock():
        yield set_databases
    settings.DATABASES, connections.settings, connections._connections = before
