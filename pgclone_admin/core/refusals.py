"""What the server refused, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import errorcodes

from .errors import Conflict, NoRoom, PermissionMissing, PgcloneError, ServerUnavailable, TooBusy


def refused(error: psycopg2.Error) -> PgcloneError:
    """An error of the server that nobody expected, as one of ours."""
    return explained(error, "the PostgreSQL server refused")


@contextmanager
def refusing() -> Iterator[None]:
    """Raises errors of the server in the block as errors of ours."""
    try:
        yield
    except psycopg2.Error as error:
        raise refused(error) from error


def explained(error: psycopg2.Error, what: str) -> PgcloneError:
    """An error of the server as one of ours."""
    reason = error.diag.message_primary or str(error).strip()
    message = f"{what}: {reason}"
    if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
        return PermissionMissing(message)
    if error.pgcode == errorcodes.DISK_FULL:
        return NoRoom(message, hint="Make room on the disk of the server, then try again.")
    if error.pgcode in (errorcodes.OBJECT_IN_USE, errorcodes.LOCK_NOT_AVAILABLE):
        return TooBusy(message, hint="Nothing was changed. Try again when fewer are connected.")
    if isinstance(error, psycopg2.OperationalError):
        return ServerUnavailable(message)
    return Conflict(message)
