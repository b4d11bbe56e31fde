"""Swaps under load: do they succeed, how long do clients wait, and is anything lost?"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extensions

from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.marks import Mark, MarkKind
from pgclone_admin.core.names import derived_name
from pgclone_admin.core.own_databases import create_like, drop_marked
from pgclone_admin.core.server import Server
from pgclone_admin.reconnecting import connect_again
from tests.support.swapping import Swapper
from tests.support.writers import LONG, TABLES, Writers

from . import report
from .servers import PASSWORD, ROLE, BenchmarkServer

LIVE = "swap_live"

ORDINARY = ("kept_queue", "kept_login")

SESSIONS = """
CREATE TABLE django_session (
    session_key varchar(40) NOT NULL PRIMARY KEY, session_data text NOT NULL,
    expire_date timestamptz NOT NULL
);
CREATE INDEX ON django_session (session_key varchar_pattern_ops);
CREATE INDEX ON django_session (expire_date);
"""

FILL_SESSIONS = """
INSERT INTO django_session SELECT md5(i::text),
       (SELECT string_agg(md5((i * 7 + j)::text), '') FROM generate_series(1, 11) AS j),
       now() + (i %% 1209600 + 86400) * interval '1 second'
  FROM generate_series(1, {count}) AS i
"""


@dataclass(frozen=True)
class Load:
    """One row of the table: who is at work, and how often the database is swapped."""

    label: str
    staying: int
    returning: int
    swaps: int
    tables: Sequence[str] = ORDINARY
    writes_between: int = 300
    """Writes that are waited for before each swap."""
    pause: float = 0.02
    """Seconds between two transactions of a client that stays; others pause ten times as long."""
    sessions: int = 0
    """Rows in ``django_session`` before anybody begins."""


LOADS = (
    Load("20 clients that stay connected", 20, 0, 50),
    Load("20 clients that connect for every transaction", 0, 20, 50),
    Load("10 writers", 10, 0, 20, writes_between=2_500, pause=0.001),
    Load(
        "10 writers, a million sessions",
        10,
        0,
        5,
        tables=("django_session",),
        pause=0.005,
        sessions=1_000_000,
    ),
)


@dataclass
class Result:
    """Seconds; ``waits`` holds for each swap and client the longest that it waited meanwhile."""

    load: Load
    succeeded: int = 0
    renames: list[float] = field(default_factory=list)
    locks: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    parts: list[Mapping[str, float]] = field(default_factory=list)
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes of the kept tables with their indexes."""


def measure(server: BenchmarkServer, loads: Sequence[Load] = LOADS) -> list[Result]:
    """Swaps under each load. The clients connect as Django does with ``routing.configure``."""
    results = []
    with _quick_switches():
        for load in loads:
            results.append(_measure(server, load))
            _say(_line(results[-1]))
    return results


def _measure(server: BenchmarkServer, load: Load) -> Result:
    schema = TABLES + SESSIONS
    server.create_empty(LIVE)
    server.run(schema, dbname=LIVE)
    if load.sessions:
        _say(f"{load.label}: filling ...")
        server.run(FILL_SESSIONS.format(count=load.sessions).replace("%%", "%"), dbname=LIVE)
        server.run("VACUUM ANALYZE django_session", dbname=LIVE)
    result = Result(load)
    params = ConnectionParams(
        "postgres", host="127.0.0.1", port=str(server.port), user=ROLE, password=PASSWORD
    )
    writers = Writers(
        functools.partial(_connect, server),
        staying=load.staying,
        returning=load.returning,
        tables=load.tables,
        pause=load.pause,
    )
    conditions = {"django_session": f"expire_date > timestamptz '{time.strftime('%Y-%m-%d')}'"}
    with Swapper() as swapper, writers:
        for _ in range(load.swaps):
            made = _temporary(params, schema)
            writers.wait_for(load.writes_between, seconds=300)
            started = time.monotonic()
            swapper.start(
                params, LIVE, made, patience=60, tables=load.tables, conditions=conditions
            )
            answer = swapper.read()
            _note(result, answer, writers, started)
            with Server.connected(params) as connected:
                drop_marked(connected, derived_name(LIVE, "swap" if answer["swapped"] else "temp"))
    result.acknowledged = writers.acknowledged
    result.problems = writers.problems()
    if load.sessions:
        kept = server.run(
            "SELECT count(*), pg_total_relation_size('django_session') FROM django_session"
            " WHERE session_key NOT LIKE '%/%'",
            dbname=LIVE,
        )[0]
        result.size = kept[1]
        if kept[0] != load.sessions:
            result.problems.append(f"{load.sessions - kept[0]} of the sessions are missing")
    server.drop(LIVE)
    return result


def _connect(server: BenchmarkServer) -> psycopg2.extensions.connection:
    connection: psycopg2.extensions.connection = psycopg2.connect(
        host="127.0.0.1",
        port=server.port,
        user=ROLE,
        password=PASSWORD,
        dbname=LIVE,
        connection_factory=connect_again,
    )
    return connection


def _temporary(params: ConnectionParams, schema: str) -> str:
    name = derived_name(LIVE, "temp")
    with Server.connected(params) as server:
        mark = Mark.new(name=name, kind=MarkKind.TEMPORARY, of=LIVE)
        create_like(server, server.existing(LIVE), mark)
    with params.with_dbname(name).session() as connection, connection.cursor() as cursor:
        cursor.execute(schema)
    return name


def _note(result: Result, answer: Mapping[str, Any], writers: Writers, started: float) -> None:
    if not answer["swapped"]:
        result.problems.append(f"{answer['error']}: {answer['message']}")
        return
    result.succeeded += 1
    _say(
        f"{result.load.label} {result.succeeded}/{result.load.swaps}: renamed in"
        f" {answer['seconds']:.2f} s, writers held for {answer['kept_seconds']:.2f} s,"
        f" attempts {answer['attempts']}, writes {writers.acknowledged}"
    )
    result.renames.append(answer["seconds"])
    result.locks.append(answer["kept_seconds"])
    result.attempts.append(answer["attempts"])
    result.parts.append(answer["parts"])
    # Until everybody who had to wait was told what has become of it.
    writers.wait_for(2 * len(writers.ledgers))
    for ledger in writers.ledgers:
        waited = [end - begin for begin, end in list(ledger.waits) if end > started]
        result.waits.append(max(waited, default=LONG))


# -- what is told ----------------------------------------------------------------------------------


def section(results: Sequence[Result], caption: str) -> str:
    lines = [
        (
            "| under | swaps | connections wait s, median / max | writers wait s, median / max"
            " | a client waits s, median / max | writes acknowledged | lost |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(result) for result in results]
    text = f"{caption}\n\n" + "\n".join(lines)
    for result in results:
        if result.load.sessions and result.parts:
            text += f"\n\n{_parts(result)}"
    return text


def _line(result: Result) -> str:
    lost = len(result.problems)
    return (
        f"| {result.load.label} | {result.succeeded} of {result.load.swaps} |"
        f" {_spread(result.renames)} | {_spread(result.locks)} | {_spread(result.waits)} |"
        f" {result.acknowledged:,} | {lost} |" + (f" {result.problems[:3]}" if lost else "")
    )


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    return f"{statistics.median(seconds):.2f} / {max(seconds):.2f}"


def _parts(result: Result) -> str:
    names = list(dict.fromkeys(name for parts in result.parts for name in parts))
    lines = ["| where the time goes | s, median / max |", "|---|---|"]
    for name in names:
        seconds = [parts.get(name, 0.0) for parts in result.parts]
        lines.append(f"| {name} | {_spread(seconds)} |")
    size = f"{result.size / 1e9:.2f} GB"
    return f"{result.load.label} ({size} with indexes):\n\n" + "\n".join(lines)


def goals(results: Sequence[Result]) -> list[report.Goal]:
    found = []
    for result in results:
        label = result.load.label
        missing = result.load.swaps - result.succeeded
        found.append(report.Goal(f"{label}: swaps that did not succeed", missing, 0))
        found.append(report.Goal(f"{label}: lost or wrong", len(result.problems), 0))
        if result.waits:
            longest = max(result.waits)
            found.append(report.Goal(f"{label}: longest wait of a client", longest, 1.0, " s"))
        if result.waits and not result.load.sessions:
            median = statistics.median(result.waits)
            found.append(report.Goal(f"{label}: median wait of a client", median, 0.25, " s"))
    acknowledged = sum(result.acknowledged for result in results)
    found.append(report.Goal("writes short of 50,000", max(0, 50_000 - acknowledged), 0))
    return found


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _quick_switches(seconds: float = 0.001) -> Iterator[None]:
    """Threads of this process take turns sooner: a client that waits for the others is not one that
    waits for the server."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
