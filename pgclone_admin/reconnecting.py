"""Makes Django connect again where the server says that the database has just been swapped."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
import psycopg2.extensions

logger = logging.getLogger(__name__)


SWAPPED = ("just been dropped or renamed", "terminating connection due to administrator command")
"""What the server says to a client that connects during a swap: to one that had to wait for it, and
to one that had just been let in. psycopg2 has no SQLSTATE for a connection that failed."""

PATIENCE = 5.0
"""Seconds in which a connection is tried again, for a server that speaks English."""

PAUSE = 0.1
"""Seconds between two attempts; the second attempt follows the first at once."""

ATTEMPTS = 3
"""How often a connection is tried where the message only looks like that of a swap."""


def make_patient(alias_settings: dict[str, Any]) -> None:
    """Lets the connections of an alias be made by :func:`connect_again`."""
    options = alias_settings.setdefault("OPTIONS", {})
    factory = options.get("connection_factory")
    if factory is None:
        options["connection_factory"] = connect_again
    elif not connects_again(options):
        options["connection_factory"] = functools.partial(connect_again, factory=factory)


def connects_again(options: Mapping[str, Any]) -> bool:
    """Whether connections with these OPTIONS are made by :func:`connect_again`."""
    factory = options.get("connection_factory")
    return getattr(factory, "func", factory) is connect_again


def connect_again(
    dsn: str,
    *,
    factory: Callable[..., Any] = psycopg2.extensions.connection,
    **keywords: Any,
) -> Any:
    """A new connection by ``factory``, tried again while the database is being swapped.

    A ``connection_factory`` of psycopg2. The server lets new clients wait for a swap and sends each
    away once when it is done. Only connecting is repeated, never a query: nothing has been asked
    yet. Every other error is raised at once, that of a database that does not exist too.

    A server can speak another language than English (``lc_messages``). So a message of two lines
    that quotes the name of the database in the first alone is answered with ``ATTEMPTS`` attempts;
    which makes a role without the right to connect wait for ``PAUSE`` seconds.
    """
    name = _dbname(dsn)
    attempt, failed_first = 1, 0.0
    while True:
        try:
            return factory(dsn, **keywords)
        # A message that is not UTF-8 is no error of psycopg2's own.
        except (psycopg2.OperationalError, UnicodeDecodeError) as error:
            failed_first = failed_first or time.monotonic()
            waited = time.monotonic() - failed_first
            if not _is_worth_another(_message(error), name, attempt, waited):
                raise
        logger.info('the database "%s" is being swapped: connecting again', name)
        if attempt > 1:
            time.sleep(PAUSE)
        attempt += 1


def _is_worth_another(message: str, name: str, attempt: int, waited: float) -> bool:
    if any(text in message for text in SWAPPED):
        return attempt < ATTEMPTS or waited < PATIENCE
    return attempt < ATTEMPTS and _quotes_name_once(message, name)


def _message(error: psycopg2.OperationalError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return error.object.decode("utf-8", "replace")
    return str(error)


def _dbname(dsn: str) -> str:
    parsed = psycopg2.extensions.parse_dsn(dsn)
    return str(parsed.get("dbname") or parsed.get("user") or "")


def _quotes_name_once(message: str, name: str) -> bool:
    """Whether this may be "database "x" does not exist", with a reason, in any language.

    libpq writes two blanks after the severity of the server's own words, and the reason into a line
    of its own. An error that it met twice, with TLS and without, quotes the name twice.
    """
    *_, words, reason = ["", "", *message.strip().splitlines()]
    quoted = re.compile(rf"[^\w\s]\s?{re.escape(name)}\s?[^\w\s]")
    said = words.partition(":  ")[2]
    return bool(name and quoted.search(said) and not quoted.search(reason))
