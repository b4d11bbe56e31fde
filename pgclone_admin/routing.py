"""Sends Django's connections to another database while hooks run, and helps them over a swap.

A project writes ``DATABASES = pgclone_admin.routing.configure({...})``. That is
``pgconnection.configure`` made safe: the plain one copies the settings for every thread, so that
other threads lack Django's defaults, and reach the real database in a test run. And it makes
Django connect again where the database has just been swapped.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pgconnection
from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.utils import load_backend
from django.dispatch import receiver
from pgconnection.core import _Databases

from .core.errors import HookFailed
from .reconnecting import make_patient
from .threads import followed

Databases = MutableMapping[str, dict[str, Any]]

REMEMBERED = {
    "django.contrib.contenttypes": "contenttypes.ContentType",
    "django.contrib.sites": "sites.Site",
}
"""Applications and their models whose rows Django remembers for as long as a process lives."""

IDLE = 0
"""``transaction_status`` of a connection without a transaction, for psycopg2 and psycopg 3."""


class _Here(threading.local):
    """What a route has changed for its thread."""

    place: tuple[str, ...] | None = None
    """Host, port and name that everything leads to; None outside of routes."""

    def __init__(self) -> None:
        self.settings: dict[str, dict[str, Any]] = {}
        """What an alias has in place of what DATABASES says; not used by django-pgconnection."""


_here = _Here()


class SharedDatabases(_Databases):  # type: ignore[misc]
    """Which settings an alias has is told per thread; the settings themselves are shared.

    So a route is seen by its own thread alone, and what Django fills in or a test run renames is
    seen by all, as with a plain mapping.
    """

    def _initialize_databases(self) -> None:
        if not hasattr(self._databases, "val"):
            self._databases.val = dict(self._initial_databases)


class PlainDatabases(Databases):
    """Settings without django-pgconnection: shared, but for what a route of the thread has put
    before them."""

    def __init__(self, shared: Databases) -> None:
        self.shared = shared

    def __getitem__(self, alias: str) -> dict[str, Any]:
        return _here.settings[alias] if alias in _here.settings else self.shared[alias]

    def __setitem__(self, alias: str, settings: dict[str, Any]) -> None:
        self.shared[alias] = settings

    def __delitem__(self, alias: str) -> None:
        del self.shared[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shared)

    def __len__(self) -> int:
        return len(self.shared)


def configure(databases: dict[str, dict[str, Any]]) -> Databases:
    """``DATABASES`` with routing by django-pgconnection, and with ``connect_again``.

    A copy; what was given is not changed. With psycopg 3, which Django prefers, which
    django-pgconnection cannot serve and which lets nobody see a failed connection, the settings
    stay as they are behind a mapping in which :func:`route` can answer, and the connections
    themselves are replaced.
    """
    # Imported late: on a site without psycopg the import itself would fail.
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415

    if is_psycopg3:
        return PlainDatabases(databases)
    configured = dict(pgconnection.configure(databases))
    for alias_settings in configured.values():
        # By its name: the backend itself cannot be loaded while the settings are being read.
        if "postg" in str(alias_settings.get("ENGINE", "")).lower():
            make_patient(alias_settings)
    made: Databases = SharedDatabases(configured)
    return made


def clear_caches() -> None:
    """Forgets the ContentTypes and Sites that this process remembers.

    They are remembered by alias, and have other ids in another database.
    """
    for application, model in REMEMBERED.items():
        if apps.is_installed(application):
            manager: Any = apps.get_model(model)._default_manager
            manager.clear_cache()


def ask(connection: Any, query: str) -> Any:
    """The value that the server answers to ``query``, on a connection that Django has just made.

    Django does not see the query: it is in no log and counts in no test. The connection is left as
    it was.
    """
    raw = connection.connection
    was_idle = raw.info.transaction_status == IDLE
    try:
        with _cursor(connection) as cursor:
            cursor.execute(query)
            (value,) = cursor.fetchone()
    finally:
        # Without autocommit the query has begun a transaction.
        if was_idle and not raw.closed and raw.info.transaction_status != IDLE:
            raw.rollback()
    return value


def _cursor(connection: Any) -> Any:
    """A cursor of the driver's own: those of django-pgconnection run hooks of the project."""
    driver = getattr(connection.Database, "extensions", None)
    return driver.cursor(connection.connection) if driver else connection.connection.cursor()


def uses_pgconnection() -> bool:
    """Whether routes go through django-pgconnection."""
    return isinstance(connections.databases, _Databases)


def unrouted() -> list[dict[str, Any]]:
    """The settings of all databases as they are outside of the routes of this thread."""
    databases: Any = connections.databases
    if isinstance(databases, _Databases):
        databases = databases._initial_databases
    elif isinstance(databases, PlainDatabases):
        databases = databases.shared
    return list(databases.values())


@contextmanager
def route(alias: str, name: str) -> Iterator[None]:
    """Within the block, ``alias`` and ``default`` are the database ``name``, on the server of
    ``alias``.

    Every other alias refuses to connect, and so does what Django connects to elsewhere in any other
    way. For this thread, and for those that it starts in the block; transactions that are open when
    the block begins are not part of it. Connections that the block opened are closed at its end.
    What Django remembers of the one database is not used on the other.
    """
    destination = copy.deepcopy(connections[alias].settings_dict)
    destination["NAME"] = name
    # Django keeps its pools by alias: that of the live database would be taken for this one.
    destination["OPTIONS"].pop("pool", None)
    routed = {DEFAULT_DB_ALIAS, alias}
    # django-pgconnection guards a database once, not once for each alias of it.
    is_twin = alias != DEFAULT_DB_ALIAS and _same_database(
        connections[alias].settings_dict, connections[DEFAULT_DB_ALIAS].settings_dict
    )
    moved = {a for a in routed if not _same_database(connections[a].settings_dict, destination)}
    # Within another route this has been done.
    doubtful = {a for a in moved if _here.place is None and not _is_of_django(a)}
    for other in doubtful:
        _let_pool_begin(other)
    with ExitStack() as stack:
        stack.enter_context(_guarded(destination))
        if moved:
            clear_caches()
            stack.callback(clear_caches)
        for other in connections:
            if other in routed:
                replace = is_twin and other == alias
                stack.enter_context(_routed(other, destination, replace=replace))
            else:
                stack.enter_context(_refused(other))
        stack.enter_context(followed(lambda: route(alias, name)))
        for other in doubtful:
            # One that cannot connect tells the hook itself.
            with suppress(DatabaseError):
                connections[other].ensure_connection()
        yield


def _is_of_django(alias: str) -> bool:
    return str(connections[alias].settings_dict["ENGINE"]).startswith("django.")


def _let_pool_begin(alias: str) -> None:
    """Connects once to where the alias leads outside of the route.

    The engine of somebody else may keep a pool by alias, too. It is to be one of this database:
    then the route sees at once that it cannot do its work. The other way round the pool would be
    one of the destination, and the site would work on that when the route is over.
    """
    configured = connections[alias].settings_dict
    connection = load_backend(configured["ENGINE"]).DatabaseWrapper(configured, alias)
    with suppress(DatabaseError), closing(connection):
        connection.ensure_connection()


@contextmanager
def _guarded(destination: dict[str, Any]) -> Iterator[None]:
    """Within the block, :func:`refuse_elsewhere` lets this thread connect there alone."""
    before, _here.place = _here.place, _place(destination)
    try:
        yield
    finally:
        _here.place = before


@receiver(connection_created, dispatch_uid="pgclone_admin.routing")
def refuse_elsewhere(connection: BaseDatabaseWrapper, **_kwargs: Any) -> None:
    """Closes a new connection of a routed thread that does not lead where the route does.

    Django tells of every connection that it makes, whoever asks for it, before anybody can use it.
    """
    if _here.place is None:
        return
    expected = _here.place[-1]
    found = None
    try:
        if _place(connection.settings_dict) != _here.place:
            raise _refusal(str(connection.settings_dict["NAME"]))
        found = ask(connection, "SELECT current_database()")
        if found != expected:
            raise HookFailed(
                f'the connection "{connection.alias}" leads to the database "{found}" instead of '
                f'"{expected}"',
                hint="The hook has done nothing there. ENGINE or OPTIONS in DATABASES decide it, "
                "as a pool does that is kept by alias. Hooks need an engine that connects to its "
                "NAME, such as Django's own.",
            )
    finally:
        if found != expected:
            connection.close()


@contextmanager
def _routed(alias: str, destination: dict[str, Any], *, replace: bool) -> Iterator[None]:
    if _same_database(connections[alias].settings_dict, destination):
        yield
    elif uses_pgconnection() and not replace:
        with pgconnection.route(destination, using=alias):
            yield
    else:
        with _answered(alias, destination), _replaced(alias, connections.create_connection(alias)):
            yield


@contextmanager
def _answered(alias: str, settings: dict[str, Any]) -> Iterator[None]:
    """Within the block, this thread finds these settings where Django keeps those of the alias."""
    own = _own_settings()
    before = own.get(alias)
    own[alias] = settings
    try:
        yield
    finally:
        if before is None:
            del own[alias]
        else:
            own[alias] = before


def _own_settings() -> Databases:
    handler: Any = connections
    if not isinstance(handler.settings, _Databases | PlainDatabases):
        # Two threads may do so at once: what each has of its own is not kept in the mapping.
        handler.settings = PlainDatabases(handler.settings)
    own: Databases = handler.settings if uses_pgconnection() else _here.settings
    return own


@contextmanager
def _refused(alias: str) -> Iterator[None]:
    configured = connections[alias].settings_dict
    wrapper: Any = load_backend(configured["ENGINE"]).DatabaseWrapper

    class RefusingWrapper(wrapper):  # type: ignore[misc]
        def get_new_connection(self, conn_params: Any) -> Any:
            raise _refusal(alias)

    with _replaced(alias, RefusingWrapper(configured, alias)):
        yield


def _refusal(name: str) -> HookFailed:
    return HookFailed(
        f'the hook used the database "{name}"',
        hint="A hook may use only the default connection, which is sent to the right database.",
    )


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
    same_user = str(one.get("USER") or "") == str(other.get("USER") or "")
    return same_user and _place(one) == _place(other)


def _place(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(settings.get(key) or "") for key in ("HOST", "PORT", "NAME"))
