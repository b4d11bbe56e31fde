"""Sends Django's connections to another database while hooks run.

A project writes ``DATABASES = pgclone_admin.routing.configure({...})``. That is
``pgconnection.configure`` made safe: the plain one copies the settings for every thread, so that
other threads lack Django's defaults, and reach the real database in a test run.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pgconnection
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend
from pgconnection.core import _Databases

from .core.errors import HookFailed

Databases = MutableMapping[str, dict[str, Any]]


class SharedDatabases(_Databases):  # type: ignore[misc]
    """Which settings an alias has is told per thread; the settings themselves are shared.

    So a route is seen by its own thread alone, and what Django fills in or a test run renames is
    seen by all, as with a plain mapping.
    """

    def _initialize_databases(self) -> None:
        if not hasattr(self._databases, "val"):
            self._databases.val = dict(self._initial_databases)


def configure(databases: dict[str, dict[str, Any]]) -> Databases:
    """``DATABASES`` with routing by django-pgconnection.

    With psycopg 3 installed, which Django prefers and django-pgconnection cannot serve, the
    settings are returned as they are, and :func:`route` replaces the connections itself.
    """
    if importlib.util.find_spec("psycopg") is not None:
        return databases
    configured: Databases = SharedDatabases(dict(pgconnection.configure(databases)))
    return configured


def uses_pgconnection() -> bool:
    """Whether routes go through django-pgconnection."""
    return isinstance(connections.databases, _Databases)


@contextmanager
def route(alias: str, database: str) -> Iterator[None]:
    """Within the block, ``alias`` and ``default`` are ``database`` on the server of ``alias``.

    Every other alias refuses to connect. For this thread alone; transactions that are open when the
    block begins are not part of it. Connections that the block opened are closed at its end.
    """
    destination = copy.deepcopy(connections[alias].settings_dict)
    destination["NAME"] = database
    routed = {DEFAULT_DB_ALIAS, alias}
    # django-pgconnection guards a database once, not once for each alias of it.
    is_twin = alias != DEFAULT_DB_ALIAS and _same_database(
        connections[alias].settings_dict, connections[DEFAULT_DB_ALIAS].settings_dict
    )
    with ExitStack() as stack:
        for other in connections:
            if other in routed:
                replace = is_twin and other == alias
                stack.enter_context(_routed(other, destination, replace=replace))
            else:
                stack.enter_context(_refused(other))
        yield


@contextmanager
def _routed(alias: str, destination: dict[str, Any], *, replace: bool) -> Iterator[None]:
    if _same_database(connections[alias].settings_dict, destination):
        yield
    elif uses_pgconnection() and not replace:
        with pgconnection.route(destination, using=alias):
            yield
    else:
        backend = load_backend(destination["ENGINE"])
        with _replaced(alias, backend.DatabaseWrapper(destination, alias)):
            yield


@contextmanager
def _refused(alias: str) -> Iterator[None]:
    configured = connections[alias].settings_dict
    wrapper: Any = load_backend(configured["ENGINE"]).DatabaseWrapper

    class RefusingWrapper(wrapper):  # type: ignore[misc]
        def get_new_connection(self, conn_params: Any) -> Any:
            raise HookFailed(
                f'the hook used the database "{alias}"',
                hint="A hook may use only the default connection, which is sent to the right "
                "database.",
            )

    with _replaced(alias, RefusingWrapper(configured, alias)):
        yield


@contextmanager
def _replaced(alias: str, connection: BaseDatabaseWrapper) -> Iterator[None]:
    original = connections[alias]
    connections[alias] = connection
    try:
        yield
    finally:
        connections[alias].close()
        connections[alias] = original


def _same_database(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        str(one.get(key) or "") == str(other.get(key) or "")
        for key in ("HOST", "PORT", "USER", "NAME")
    )
