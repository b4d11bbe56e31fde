"""Rows that are loaded by more than one session at a time."""

from __future__ import annotations

import threading
import time

import pytest

from pgclone_admin.core import build, pieces, rows
from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.errors import Cancelled, PgcloneError, RestoreFailed
from pgclone_admin.core.progress import SilentReporter
from tests.support.sites import make_site as build_site

from .operations import foreign, restore, take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

SLOW = """
CREATE FUNCTION public.slow(x integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN IF x = 1 THEN PERFORM pg_catalog.pg_sleep(0.5); END IF; RETURN true; END $$;
"""
"""A check of rows that holds the first session up, so that pieces queue for another one. Some
megabytes of them are on their way to the server before."""

ODD = r"""
CREATE TABLE odd (
    id integer PRIMARY KEY CHECK (public.slow(id)), text text, bytes bytea, more text[], long text
);
INSERT INTO odd SELECT i,
    (ARRAY['\.', '\N', E'two\nlines', E'\r', E'tab\t', E'\\', '', NULL, E'\\.\n', repeat('Ü', 99)])
        [1 + i % 10],
    decode(repeat('5c0a0d00', i % 5), 'hex'), ARRAY[E'a\nb', NULL, '\.'], repeat(md5(i::text), 25)
FROM generate_series(1, 20000) AS i;
CREATE TABLE one_column AS SELECT CASE WHEN id % 3 > 0 THEN text END AS text FROM odd;
CREATE TABLE no_column ();
INSERT INTO no_column SELECT FROM generate_series(1, 5000);
CREATE TABLE no_row (id integer);
"""


@pytest.fixture
def loaders(monkeypatch):
    """The row loaders of the restores of a test; what they take at a time is small."""
    made = []

    class Kept(rows.RowLoader):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("pgclone_admin.core.load.RowLoader", Kept)
    monkeypatch.setattr(pieces, "PIECE", 16 * 1024)
    return made


def test_all_rows_come_back_whatever_is_in_them(any_pg, make_site, storage_root, loaders):
    site = make_site(any_pg, empty=True)
    site.run(SLOW + ODD)
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("DROP TABLE odd, one_column; TRUNCATE no_column; INSERT INTO no_row VALUES (1)")
    restore(site, key, storage_root)
    assert site.fingerprint() == before
    assert loaders[0].most_sessions == 2


def test_rows_longer_than_a_piece_stay_whole(make_site, storage_root, loaders):
    site = make_site(empty=True)
    site.run(
        "CREATE TABLE long AS SELECT i, repeat(md5(i::text), CASE WHEN i % 7 = 0 THEN 9000"
        " WHEN i % 50 = 1 THEN 60000 ELSE 1 END) AS text FROM generate_series(1, 300) AS i"
    )
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("TRUNCATE long")
    restore(site, key, storage_root, jobs=3)
    assert site.fingerprint() == before
    assert loaders[0].most_sessions > 1


def test_rows_in_another_encoding_come_back(any_pg, storage_root, loaders):
    site = build_site(any_pg, extra="ENCODING 'LATIN1' LOCALE 'C'", empty=True)
    table = r'U&"Gr\00F6\00DFe"'
    site.run(
        f"{SLOW} CREATE TABLE {table} AS SELECT i, repeat(U&'Gr\\00FC\\00DFe ', 150) AS"
        r' U&"Ma\00DF" FROM generate_series(1, 20000) AS i;'
        f" ALTER TABLE {table} ADD CHECK (public.slow(i)), ADD PRIMARY KEY (i)"
    )
    rows_of = f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} AS t"
    before = site.run(rows_of)
    key = take(site, storage_root)
    site.run(f"TRUNCATE {table}")
    restore(site, key, storage_root)
    assert site.run(rows_of) == before
    assert before[0][0] == 20000
    assert loaders[0].most_sessions == 2


def test_rows_that_move_to_another_partition_come_back(pg, make_site, storage_root, monkeypatch):
    """Values of an enum hash by oids, which are others in the new database: pg_dump loads them
    through the root by itself, and no partition is complete before the last one."""
    early = []

    class Kept(build.IndexBuilders):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            early.append(options["early"])

    monkeypatch.setattr("pgclone_admin.core.load.IndexBuilders", Kept)
    site = make_site(pg, empty=True)
    site.run(
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f');"
        "CREATE TABLE root (mood mood, i integer, text text, PRIMARY KEY (mood, i))"
        " PARTITION BY HASH (mood);"
        "CREATE TABLE p0 PARTITION OF root FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE p1 PARTITION OF root FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "INSERT INTO root SELECT (enum_range(NULL::mood))[1 + i % 6], i, repeat(md5(i::text), 300)"
        " FROM generate_series(1, 2000) AS i"
    )
    rows_of = "SELECT count(*), sum(hashtextextended(root::text, 0)) FROM root"
    before = site.run(rows_of)
    archive = site.archive("-Z0", "--load-via-partition-root")
    site.run("TRUNCATE root")
    restore(site, foreign(storage_root, archive), storage_root, jobs=3)
    assert site.run(rows_of) == before
    assert early == [False]


def test_rows_of_a_partitioned_table_that_are_loaded_through_it(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    before = site.fingerprint()
    archive = site.archive("-Z0", "--load-via-partition-root")
    site.run("TRUNCATE orders CASCADE")
    restore(site, foreign(storage_root, archive), storage_root)
    assert site.fingerprint() == before


@pytest.mark.parametrize("arguments", [("-Z0", "--inserts"), ("-Z6",)])
def test_other_archives_go_through_pg_restore(make_site, storage_root, loaders, arguments):
    site = make_site()
    before = site.fingerprint()
    archive = site.archive(*arguments)
    site.run("TRUNCATE orders CASCADE")
    restore(site, foreign(storage_root, archive), storage_root)
    assert site.fingerprint() == before
    assert loaders == []


def test_one_job_is_one_session(make_site, storage_root, loaders):
    site = make_site(empty=True)
    site.run(SLOW + ODD)
    before = site.fingerprint()
    restore(site, take(site, storage_root), storage_root, jobs=1)
    assert site.fingerprint() == before
    assert loaders[0].most_sessions == 1


def test_sessions_that_cannot_be_had_are_done_without(
    make_site, storage_root, loaders, monkeypatch
):
    site = make_site(empty=True)
    site.run(SLOW + ODD)
    before = site.fingerprint()
    key = take(site, storage_root)
    opened = []
    real = ConnectionParams.connect

    def connect(params, **options):
        if threading.current_thread().name.startswith("pgclone rows"):
            opened.append(threading.current_thread().name)
            if opened[-1] != "pgclone rows 0":
                raise PgcloneError("too many connections")
        return real(params, **options)

    monkeypatch.setattr(ConnectionParams, "connect", connect)
    restore(site, key, storage_root, jobs=3)
    assert set(opened) > {"pgclone rows 0"}
    assert site.fingerprint() == before


def broken(site, statement="RAISE EXCEPTION 'row % is bad', x"):
    """Makes the site's table one whose rows its archive cannot restore."""
    site.run(
        "CREATE FUNCTION public.fine(x integer) RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN RETURN true; END';"
        "CREATE TABLE public.filled (id integer CHECK (public.fine(id)), text text);"
        "INSERT INTO public.filled"
        " SELECT i, 'secret ' || md5(i::text) FROM generate_series(1, 20000) AS i;"
    )
    site.run(
        "CREATE OR REPLACE FUNCTION public.fine(x integer) RETURNS boolean LANGUAGE plpgsql AS"
        f" $$ BEGIN IF x = 15000 THEN {statement}; END IF; RETURN true; END $$"
    )


def test_f28_a_row_that_is_refused_fails_the_restore_and_names_its_table(
    make_site, storage_root, loaders
):
    site = make_site()
    broken(site)
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(RestoreFailed) as caught:
        restore(site, key, storage_root)
    assert str(caught.value) == (
        'the rows of the table "public.filled" cannot be loaded: row 15000 is bad'
    )
    assert caught.value.hint == "The live database was not touched."


def test_f29_a_session_that_is_ended_while_it_loads_fails_the_restore(
    make_site, storage_root, loaders
):
    site = make_site()
    broken(site, "PERFORM pg_terminate_backend(pg_backend_pid())")
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(RestoreFailed, match=r'"public\.filled" cannot be loaded'):
        restore(site, key, storage_root)


def test_a_restore_is_cancelled_although_the_server_does_not_take_the_rows(
    make_site, storage_root, loaders
):
    site = make_site()
    broken(site, "PERFORM pg_sleep(60)")
    key = take(site, storage_root)

    class Cancelling(SilentReporter):
        def check(self):
            asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            if loaders and site.server.admin(asleep):
                raise Cancelled

    begun = time.monotonic()
    with unchanged(site), pytest.raises(Cancelled):
        restore(site, key, storage_root, reporter=Cancelling())
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("tolerated", [True, False])
def test_rows_of_a_table_that_may_not_be_filled_are_left_out_where_settings_say_so(
    make_site, storage_root, loaders, tolerated
):
    site = make_site(empty=True)
    site.run(SLOW + ODD)
    archive = site.archive("-Z0").replace(b"COPY public.no_column ", b"COPY public.no_such_t ")
    key = foreign(storage_root, archive)
    if not tolerated:
        with unchanged(site), pytest.raises(RestoreFailed, match=r'"public\.no_column" cannot'):
            restore(site, key, storage_root)
        return
    undefined_table = frozenset({("TABLE DATA", "42P01")})
    result = restore(site, key, storage_root, tolerated=undefined_table)
    assert result.report.tolerated == ["COPY public.no_such_t  FROM stdin;"]
    assert site.run("SELECT count(*) FROM no_column") == [(0,)]
    assert site.run("SELECT count(*) FROM odd") == [(20000,)]
