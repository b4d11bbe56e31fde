"""Standbys: who reads there goes on reading the database that was replaced."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg2

from .connection import ConnectionParams
from .errors import INTERRUPTIONS, PgcloneError
from .marks import Database
from .progress import Reporter
from .refusals import explained, refused
from .server import Server
from .sessions import end_sessions

REPLAYED_WITHIN = 30.0
"""Seconds for which a standby is given to replay the swap."""

POLL = 0.1


def is_standby(params: ConnectionParams, *, of: ConnectionParams) -> bool:
    """Whether the server follows ``of``, directly or not.

    :class:`ServerUnavailable` when one of them cannot be reached, :class:`PermissionMissing` when
    it may not be asked. A standby of another server may well have a database of the same name, and
    even of the same oid: its sessions are nobody's business here.
    """
    try:
        with params.session() as connection:
            standby = Server(params, connection)
            if not standby.value("SELECT pg_is_in_recovery()"):
                return False
            identifier = standby.system_identifier
        with of.session() as connection:
            return identifier == Server(of, connection).system_identifier
    except psycopg2.Error as error:
        raise explained(error, "whose standby a server is cannot be told") from error


def end_sessions_on_standbys(
    standbys: Sequence[ConnectionParams], parked: Database, name: str, reporter: Reporter
) -> None:
    """Ends the sessions that are open on standbys in the database that was ``name`` before.

    After the standby has replayed the swap: who came back earlier would come back to the same
    database. What cannot be done is told, and nothing else: the restore is done.
    """
    for params in standbys:
        try:
            with params.session() as connection:
                _end_sessions(Server(params, connection), parked, name, reporter)
        except INTERRUPTIONS:
            raise
        except (PgcloneError, psycopg2.Error) as error:
            told = refused(error) if isinstance(error, psycopg2.Error) else error
            reporter.warn(
                f"sessions on the standby {params.where} may go on reading the database that was "
                f"replaced: {told}"
            )


def _end_sessions(standby: Server, parked: Database, name: str, reporter: Reporter) -> None:
    end = time.monotonic() + REPLAYED_WITHIN
    while (present := standby.database(name)) is None or present.oid == parked.oid:
        if time.monotonic() > end:
            reporter.warn(
                f"the standby {standby.params.where} has not replayed the swap yet: sessions there "
                "go on reading the database that was replaced until they end"
            )
            return
        time.sleep(POLL)
    if stayed := end_sessions(standby, parked.oid):
        reporter.warn(
            f"sessions on the standby {standby.params.where} go on reading the database that was "
            f"replaced: {', '.join(map(str, stayed))}"
        )
