"""From an alias of DATABASES to the connection that this app uses."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import psycopg2
from django.core.files.storage import storages
from django.db import DEFAULT_DB_ALIAS, connections

from .core.catalog import tables_meant
from .core.connection import ConnectionParams, one_row
from .core.errors import ConfigurationError, PgcloneError, ServerUnavailable, UnknownDatabase
from .core.names import TableName, check_database_name
from .core.server import Server
from .routing import unrouted
from .settings import settings
from .site_settings import settings_of_storages

# Options of Django's backend that libpq does not know.
DJANGO_OPTIONS = {
    "assume_role",
    "connection_factory",
    "cursor_factory",
    "isolation_level",
    "pool",
    "server_side_binding",
}

DEFAULT_PORT = "5432"

SAME_HOSTS = {"localhost": "127.0.0.1", "::1": "127.0.0.1"}
"""Other names of this machine."""

OVERRIDABLE = {"HOST", "PORT", "USER", "PASSWORD", "OPTIONS"}


def require_alias(alias: str) -> None:
    """:class:`~pgclone_admin.core.errors.UnknownDatabase` when the settings have none of it."""
    if alias not in connections.databases:
        known = ", ".join(sorted(connections.databases))
        raise UnknownDatabase(
            f'there is no database "{alias}" in DATABASES', hint=f"There is: {known}."
        )


def settings_of(alias: str) -> dict[str, Any]:
    """The settings that the connection ``alias`` really uses, also in a test run.

    :class:`~pgclone_admin.core.errors.UnknownDatabase` when there is none, or no PostgreSQL.
    """
    require_alias(alias)
    if connections[alias].vendor != "postgresql":
        raise UnknownDatabase(f'the database "{alias}" is not a PostgreSQL database')
    configured: dict[str, Any] = copy.deepcopy(connections[alias].settings_dict)
    return configured


def live_name(alias: str) -> str:
    """The name of the live database behind ``alias``.

    Raises as :func:`settings_of`, :class:`~pgclone_admin.core.errors.ConfigurationError` when it
    has no name or is the maintenance database, and
    :class:`~pgclone_admin.core.errors.InvalidName` for what cannot be one.
    """
    name = settings_of(alias).get("NAME")
    if not name:
        raise ConfigurationError(f'the database "{alias}" has no NAME in DATABASES')
    check_database_name(str(name))
    if name == settings.conn_db:
        raise ConfigurationError(
            f'the database "{alias}" is the maintenance database itself',
            hint="Let PGCLONE_CONN_DB name another database of the server.",
        )
    return str(name)


def replaceable_aliases() -> list[str]:
    """The databases of this site that a restore can replace, each once: no mirrors, no replicas."""
    return [alias for alias in connections if alias in _replaceable().values()]


def replaceable_alias(alias: str) -> str | None:
    """Which of :func:`replaceable_aliases` has the database of ``alias``, or its original, where
    that one is a replica.

    ``None`` where this cannot be told: a server does not answer, or several could be the original.
    Raises as :func:`live_name`.
    """
    alias = settings_of(alias)["TEST"]["MIRROR"] or alias
    name, configured = live_name(alias), connections[alias].settings_dict
    found = _replaceable()
    if (same := found.get((*_address(configured), name))) is not None:
        return same
    originals = [other for (_host, _port, of), other in found.items() if of == name]
    return originals[0] if len(originals) == 1 and _is_in_recovery(alias) else None


def _replaceable() -> dict[tuple[str, str, str], str]:
    """One alias for each database, by address and name; the default one before others."""
    found: dict[tuple[str, str, str], str] = {}
    for alias in sorted(connections, key=lambda alias: alias != DEFAULT_DB_ALIAS):
        try:
            name = live_name(alias)
        except PgcloneError:
            continue
        configured = connections[alias].settings_dict
        if not configured["TEST"]["MIRROR"] and not _is_replica(alias):
            found.setdefault((*_address(configured), name), alias)
    return found


def _is_replica(alias: str) -> bool:
    """Whether it is another alias's database on a server that only replays; one that does not
    answer is one where the other does, and is none where neither does."""
    name = connections[alias].settings_dict["NAME"]
    others = [
        other
        for other in connections
        if connections[other].settings_dict.get("NAME") == name
        and connections[other].vendor == "postgresql"
        and not is_on_same_server(alias, other)
    ]
    if not others:
        return False
    answer = _is_in_recovery(alias)
    if answer is None:
        return any(_is_in_recovery(other) is False for other in others)
    return answer


REMEMBERED = 60.0
"""Seconds for which it is remembered whether a server only replays, or does not answer."""

PATIENCE = 3
"""Seconds in which a server has to answer that: pages wait for it."""

_recovery: dict[tuple[str, str, str], tuple[float, bool | None]] = {}
"""When servers were asked, and what they said."""


def _is_in_recovery(alias: str) -> bool | None:
    """Whether the server of ``alias`` only replays; ``None`` when it cannot be asked."""
    try:
        params = maintenance_params(alias)
    except PgcloneError:
        return None
    asked, answer = _recovery.get(key := (params.host, params.port, params.user), (None, None))
    if asked is None or time.monotonic() - asked > REMEMBERED:
        hasty = replace(params, options={**params.options, "connect_timeout": str(PATIENCE)})
        try:
            with hasty.session() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery()")
                answer = bool(one_row(cursor)[0])
        except (PgcloneError, psycopg2.Error):
            answer = None
        _recovery[key] = time.monotonic(), answer
    return answer


def maintenance_params(alias: str) -> ConnectionParams:
    """The maintenance connection to the server of ``alias``.

    Raises as :func:`settings_of`, and :class:`~pgclone_admin.core.errors.ConfigurationError` for an
    entry of PGCLONE_CONNECTIONS that cannot be used.
    """
    return _params(settings_of(alias), alias)


def standby_candidates(alias: str) -> list[ConnectionParams]:
    """Maintenance connections of the other aliases that could be a standby of ``alias``: those
    with the same database name on another server."""
    configured = settings_of(alias)
    candidates = {
        _address(other): _params(other, name)
        for name in connections
        if (other := connections[name].settings_dict).get("NAME") == configured["NAME"]
        and connections[name].vendor == "postgresql"
        and not is_on_same_server(name, alias)
    }
    return list(candidates.values())


def is_on_same_server(alias: str, other: str) -> bool:
    """Whether two databases of the settings are at the same address."""
    one, two = (connections[name].settings_dict for name in (alias, other))
    return _address(one) == _address(two)


def _address(configured: Mapping[str, Any]) -> tuple[str, str]:
    host, port = str(configured.get("HOST") or ""), str(configured.get("PORT") or DEFAULT_PORT)
    return SAME_HOSTS.get(host, host), port


def site_params(alias: str, name: str) -> ConnectionParams:
    """The database ``name`` on the server of ``alias`` with the role of the site, as Django
    connects to it; raises as :func:`settings_of`."""
    configured = settings_of(alias)
    return _merged(configured, configured.get("OPTIONS") or {}, dbname=name)


def site_tables(alias: str, names: Sequence[str]) -> dict[str, TableName]:
    """Which tables of the live database the quoted SQL ``names`` mean to the site.

    The site's own connection is asked: the search_path of its role, its database and its OPTIONS
    says in which schema Django has its tables, and that of the role that dumps and restores may say
    something else. Names that mean no table are left out; all of them when there is no database.
    Raises as :func:`live_name`, and :class:`~pgclone_admin.core.errors.ServerUnavailable`.
    """
    live = live_name(alias)
    try:
        with site_params(alias, live).session() as connection, connection.cursor() as cursor:
            return tables_meant(cursor, names)
    except ServerUnavailable as error:
        with Server.connected(maintenance_params(alias)) as server:
            if server.database(live) is None:
                return {}
        error.hint = (
            "Nothing was changed. Only the site's own connection, as DATABASES has it, can tell in "
            f"which schema its tables are. {error.hint or ''}"
        ).rstrip()
        raise


def _params(configured: Mapping[str, Any], alias: str) -> ConnectionParams:
    own: Any = settings.connections.get(alias, {})
    if not isinstance(own, Mapping) or (unknown := set(own) - OVERRIDABLE):
        names = "" if not isinstance(own, Mapping) else ": " + ", ".join(sorted(unknown))
        raise ConfigurationError(
            f'PGCLONE_CONNECTIONS["{alias}"] cannot be used{names}',
            hint=f"It is a mapping with some of {', '.join(sorted(OVERRIDABLE))}.",
        )
    options = {**(configured.get("OPTIONS") or {}), **(own.get("OPTIONS") or {})}
    return _merged({**configured, **own}, options, dbname=settings.conn_db)


def _merged(
    merged: Mapping[str, Any], options: Mapping[str, Any], *, dbname: str
) -> ConnectionParams:
    return ConnectionParams(
        dbname=dbname,
        host=str(merged.get("HOST") or ""),
        port=str(merged.get("PORT") or ""),
        user=str(merged.get("USER") or ""),
        password=str(merged["PASSWORD"]) if merged.get("PASSWORD") else None,
        options={
            k: str(v) for k, v in options.items() if k not in DJANGO_OPTIONS and v is not None
        },
        role=options.get("assume_role"),
    )


def protected_names() -> frozenset[str]:
    """Databases that the project names in its settings: never to be made, replaced or dropped."""
    names = {str(configured.get("NAME") or "") for configured in unrouted()}
    names |= {str(connections[alias].settings_dict.get("NAME") or "") for alias in connections}
    return frozenset({*names, settings.conn_db, "template0", "template1"} - {""})


def passwords() -> frozenset[str]:
    """Every password of a database that the settings hold: never to be shown."""
    configured = [*unrouted(), *settings.connections.values()]
    return frozenset(str(c["PASSWORD"]) for c in configured if c.get("PASSWORD"))


SECRET_OPTION = re.compile(
    r"secret|password|passwd|passphrase|token|credential|account_key|connection_string",
    re.IGNORECASE,
)

ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://[^:/]*:(.+)@", re.IGNORECASE)


def secrets() -> frozenset[str]:
    """Every password of a database and every secret of a storage that the settings hold."""
    configured: list[Mapping[str, Any]] = [settings.s3_config, settings_of_storages()]
    backends: Any = storages.backends
    configured += [found.get("OPTIONS") or {} for found in backends.values()]
    return passwords().union(*map(_secrets_in, configured))


def _secrets_in(options: Mapping[Any, Any]) -> set[str]:
    """Also those of options within options, and in addresses."""
    found: set[str] = set()
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _secrets_in(value)
        elif isinstance(value, str) and SECRET_OPTION.search(str(name)):
            found.add(value)
        elif isinstance(value, str) and (address := ADDRESS.match(value)):
            found |= {address[1], unquote(address[1])}
    return found - {""}
