"""Kept tables: their rows are after a swap what they were before it."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg2
import pytest

from pgclone_admin.core import keeper as keeper_module
from pgclone_admin.core.errors import Conflict, ServerUnavailable, TooBusy
from pgclone_admin.core.keeper import Keeper
from pgclone_admin.core.kept import Keeping, KeptName
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.names import TableName, derived_name
from pgclone_admin.core.progress import Phase, SilentReporter
from pgclone_admin.core.restore import swap_held
from pgclone_admin.core.server import Server
from pgclone_admin.core.swap import SwapRequest, swap
from tests.support.counting_proxy import CountingProxy

from .operations import drop, labelled, request, restore, swapped, take, temporary, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

TABLES = """
CREATE TABLE queue (id bigserial PRIMARY KEY, payload text UNIQUE, urgent boolean DEFAULT false);
CREATE TABLE login (
    key varchar(40) PRIMARY KEY, data bytea NOT NULL, until timestamptz NOT NULL
);
CREATE TABLE history (
    run integer, place integer GENERATED ALWAYS AS IDENTITY, said jsonb, share double precision,
    size numeric, names text[], double_run integer GENERATED ALWAYS AS (run * 2) STORED,
    queue_id bigint REFERENCES queue DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (run, place)
);
CREATE TABLE scrap (line text);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN NEW.payload := NEW.payload || ''!''; RETURN NEW; END';
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON queue FOR EACH ROW EXECUTE FUNCTION shout();
"""

NAMES = ("queue", "login", "history", "scrap")

KEEPING = Keeping(tables=[KeptName(table=TableName("public", name)) for name in NAMES])


LOGIN = TableName("public", "login")


def fill(site, count=50):
    site.run(f"""
        INSERT INTO queue (payload) SELECT 'task ' || i FROM generate_series(1, {count}) AS i;
        INSERT INTO login SELECT 'k' || i, decode(md5(i::text), 'hex'), now() + interval '1 day'
          FROM generate_series(1, {count}) AS i;
        INSERT INTO history (run, said, share, size, names, queue_id)
        SELECT i, jsonb_build_object('i', i, 't', E'a\\t"b\\\\'), 1.0 / i, i / 7.0,
               ARRAY['x,y', NULL, '{{}}'], i FROM generate_series(1, {count}) AS i;
        INSERT INTO scrap SELECT 'line ' || i FROM generate_series(1, {count}) AS i;
    """)


def rows(site, dbname=None):
    return {
        name: site.run(f"SELECT t::text FROM {name} AS t ORDER BY 1", dbname=dbname)
        for name in NAMES
    }


@pytest.fixture
def kept_site(make_site):
    site = make_site(empty=True)
    site.run(TABLES)
    fill(site)
    return site


def prepared(site):
    """A temporary database with the same tables, which are empty."""
    made = temporary(site)
    site.run(TABLES, dbname=made.name)
    return made


def before_hold(monkeypatch, action):
    """Has ``action`` done between the copy of the rows and the lock."""
    hold = Keeper.hold

    def act_and_hold(self):
        action()
        hold(self)

    monkeypatch.setattr(Keeper, "hold", act_and_hold)


def test_rows_sequences_and_triggers_of_kept_tables_are_those_of_live(kept_site):
    site = kept_site
    made = prepared(site)
    before = rows(site)
    site.run("SELECT setval('queue_id_seq', 700)")
    swapped(site, made, keeping=KEEPING)
    assert labelled(site) == "new"
    assert rows(site) == before
    assert site.run("INSERT INTO queue (payload) VALUES ('next') RETURNING id, payload") == [
        (701, "next!")
    ]
    drop(site, "swap")


def test_what_changes_after_the_copy_comes_too(kept_site, monkeypatch):
    site = kept_site
    made = prepared(site)

    def change():
        site.run("""
            INSERT INTO queue (payload) VALUES ('later');
            UPDATE queue SET urgent = true WHERE id IN (3, 4);
            UPDATE history SET queue_id = NULL WHERE queue_id IN (7, 8);
            DELETE FROM queue WHERE id IN (7, 8);
            UPDATE login SET key = 'other' WHERE key = 'k9';
            DELETE FROM login WHERE key IN ('k1', 'k2');
            INSERT INTO login VALUES ('k2', 'new', now());
            DELETE FROM scrap WHERE line = 'line 5';
            INSERT INTO scrap VALUES ('line 6'), ('line 6');
        """)

    before_hold(monkeypatch, change)
    swapped(site, made, keeping=KEEPING)
    kept = rows(site)
    assert kept == rows(site, derived_name(site.name, "swap"))
    assert len(kept["queue"]) == 49
    assert len(kept["login"]) == 49
    drop(site, "swap")


def test_a_transaction_that_was_open_during_the_copy_is_not_forgotten(kept_site, monkeypatch):
    """Its row number is older than the copy, and a savepoint of it even more so."""
    site = kept_site
    made = prepared(site)
    with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as early:
        with early.cursor() as cursor:
            cursor.execute("INSERT INTO queue (payload) VALUES ('early')")
            cursor.execute("SAVEPOINT inner_one")
            cursor.execute("UPDATE queue SET urgent = true WHERE id = 1")
            cursor.execute("RELEASE SAVEPOINT inner_one")
        site.run("INSERT INTO queue (payload) VALUES ('meanwhile')")
        before_hold(monkeypatch, early.commit)
        swapped(site, made, keeping=KEEPING)
    assert rows(site) == rows(site, derived_name(site.name, "swap"))
    assert site.run("SELECT count(*) FROM queue WHERE urgent OR payload IN ('early!', 'x')") == [
        (2,)
    ]
    drop(site, "swap")


def test_rows_that_exchange_a_unique_value_are_copied_again(kept_site, monkeypatch):
    site = kept_site
    made = prepared(site)
    once = []

    def exchange():
        if not once:
            once.append(1)
            site.run("""
                ALTER TABLE queue DISABLE TRIGGER shout;
                UPDATE queue SET payload = 'parked' WHERE id = 1;
                UPDATE queue SET payload = 'task 1!' WHERE id = 2;
                UPDATE queue SET payload = 'task 2!' WHERE id = 1;
                ALTER TABLE queue ENABLE TRIGGER shout;
            """)

    before_hold(monkeypatch, exchange)
    swapped(site, made, keeping=KEEPING)
    assert rows(site) == rows(site, derived_name(site.name, "swap"))
    drop(site, "swap")


def test_a_condition_leaves_rows_behind(kept_site, monkeypatch):
    site = kept_site
    made = prepared(site)
    site.run("UPDATE login SET until = '2000-01-01' WHERE key < 'k3'")
    before_hold(
        monkeypatch, lambda: site.run("UPDATE login SET until = '2001-01-01' WHERE key = 'k4'")
    )
    left = int(site.run("SELECT count(*) FROM login WHERE until > '2020-01-01'")[0][0])
    keeping = Keeping(tables=[KeptName(table=LOGIN, condition="until > '2020-01-01'")])
    swapped(site, made, keeping=keeping)
    assert site.run("SELECT count(*) FROM login") == [(left - 1,)]
    drop(site, "swap")


class EvenRule:
    """Leaves behind the logins with an even number."""

    columns = ("data", "key")
    reads = ()

    def prepare(self, live, temporary):
        return True

    def is_left_behind(self, values):
        return int(values[1][1:]) % 2 == 0


def test_a_rule_leaves_rows_behind_also_those_that_came_later(kept_site, monkeypatch):
    site = kept_site
    made = prepared(site)
    before_hold(
        monkeypatch,
        lambda: site.run("""
            INSERT INTO login VALUES ('k200', 'x', now()), ('k201', 'x', now());
            DELETE FROM login WHERE key IN ('k1', 'k2');
            UPDATE login SET data = 'changed' WHERE key IN ('k3', 'k4');
        """),
    )
    swapped(site, made, keeping=Keeping(tables=[KeptName(table=LOGIN, rule=EvenRule())]))
    odd = [(f"k{i}",) for i in [*range(3, 51, 2), 201]]
    assert sorted(site.run("SELECT key FROM login")) == sorted(odd)
    assert site.run("SELECT data FROM login WHERE key = 'k3'")[0][0].tobytes() == b"changed"
    drop(site, "swap")


def test_a_kept_table_that_differs_in_the_temporary_database_stops_the_swap(kept_site):
    site = kept_site
    made = prepared(site)
    site.run("ALTER TABLE login ADD COLUMN ip text", dbname=made.name)
    with unchanged(site), pytest.raises(Conflict, match=r"public\.login"):
        swapped(site, made, keeping=KEEPING)
    drop(site, "temp")


@pytest.mark.parametrize(
    "link",
    [
        "CREATE TABLE outside (id bigint REFERENCES queue)",
        """
        CREATE TABLE outside (id bigint PRIMARY KEY);
        ALTER TABLE history ADD FOREIGN KEY (queue_id) REFERENCES outside NOT VALID
        """,
    ],
)
def test_a_foreign_key_between_kept_and_other_tables_is_refused(kept_site, link):
    site = kept_site
    made = prepared(site)
    site.run(link)
    with unchanged(site), pytest.raises(Conflict, match="foreign keys from or to other tables"):
        swapped(site, made, keeping=KEEPING)
    drop(site, "temp")


# -- a busy site -----------------------------------------------------------------------------------


def test_a_writer_that_does_not_end_makes_the_swap_too_busy_and_is_named(kept_site):
    site = kept_site
    made = prepared(site)
    with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as writer:
        with writer.cursor() as cursor:
            cursor.execute("SET application_name = 'nightly import'")
            cursor.execute("UPDATE queue SET urgent = true WHERE id = 1")
        with unchanged(site), pytest.raises(TooBusy, match=r"nightly import.*public\.queue"):
            swapped(site, made, keeping=KEEPING, patience=1)
        writer.rollback()
    drop(site, "temp")


def test_a_table_that_somebody_has_alone_makes_the_swap_too_busy_in_time(kept_site):
    site = kept_site
    made = prepared(site)
    with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as alter:
        with alter.cursor() as cursor:
            cursor.execute("SET application_name = 'long migration'")
            cursor.execute("LOCK TABLE login IN ACCESS EXCLUSIVE MODE")
        oid, started = site.oid, time.monotonic()
        with pytest.raises(TooBusy, match=r"long migration.*public\.login"):
            swapped(site, made, keeping=KEEPING, patience=1)
        assert time.monotonic() - started < 10
        assert site.oid == oid
        alter.rollback()
    drop(site, "temp")


def test_a_writer_that_ends_in_time_only_delays_the_swap(kept_site):
    site = kept_site
    made = prepared(site)
    reporter = SilentReporter()
    with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as writer:
        with writer.cursor() as cursor:
            cursor.execute("UPDATE queue SET urgent = true WHERE id = 1")
        timer = threading.Timer(1.0, writer.commit)
        timer.start()
        _live, _parked, result = swapped(site, made, keeping=KEEPING, reporter=reporter)
        timer.join()
    assert result.attempts > 1
    # What stays in the way is told once for all attempts of ten seconds.
    assert len([note for note in reporter.notes if "trying again" in note]) == 1
    assert site.run("SELECT urgent FROM queue WHERE id = 1") == [(True,)]
    drop(site, "swap")


def longest_wait(site, statement, until):
    """Seconds that a client waited at most for ``statement``, again and again."""
    longest = 0.0
    with (
        contextlib.closing(site.server.connect(site.name, "app")) as client,
        client.cursor() as cursor,
    ):
        while not until.is_set():
            started = time.monotonic()
            cursor.execute(statement)
            longest = max(longest, time.monotonic() - started)
            time.sleep(0.01)
    return longest


@pytest.mark.parametrize(
    "held",
    [
        "UPDATE queue SET urgent = true WHERE id = 1",
        "LOCK TABLE queue IN ACCESS SHARE MODE; LOCK TABLE history IN EXCLUSIVE MODE",
    ],
    ids=["a writing transaction", "an exclusive lock"],
)
def test_no_attempt_keeps_others_waiting_for_half_a_second(kept_site, held):
    site = kept_site
    made = prepared(site)
    done = threading.Event()
    waited = []

    def write():
        waited.append(
            longest_wait(site, "INSERT INTO login VALUES (random()::text, 'x', now())", done)
        )

    writer = threading.Thread(target=write)
    with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as blocker:
        with blocker.cursor() as cursor:
            cursor.execute(held)
        writer.start()
        try:
            with pytest.raises(TooBusy):
                swapped(site, made, keeping=KEEPING, patience=3)
        finally:
            done.set()
            writer.join()
        blocker.rollback()
    assert waited[0] < 0.5
    drop(site, "temp")


def test_a_vacuum_makes_the_swap_too_busy_and_is_named_and_nobody_waits_with_it(kept_site):
    site = kept_site
    made = prepared(site)
    # A pause after nearly every page, of which there are some hundred: a minute at least.
    site.run("INSERT INTO scrap SELECT repeat('x', 900) FROM generate_series(1, 8000)")
    site.run("DELETE FROM scrap WHERE length(line) > 100")
    done = threading.Event()
    waited = []

    def vacuum():
        with (
            contextlib.closing(site.server.connect(site.name, "app")) as client,
            client.cursor() as cursor,
        ):
            cursor.execute("SET application_name = 'nightly vacuum'")
            cursor.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
            with contextlib.suppress(psycopg2.errors.QueryCanceled):
                cursor.execute("VACUUM scrap")
                waited.append("the vacuum was over")

    def write():
        waited.append(
            longest_wait(site, "INSERT INTO login VALUES (random()::text, 'x', now())", done)
        )

    threads = [threading.Thread(target=vacuum), threading.Thread(target=write)]
    locked = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'scrap'::regclass"
    for thread in threads:
        thread.start()
    while not site.run(locked):
        time.sleep(0.01)
    try:
        with pytest.raises(TooBusy, match=r"nightly vacuum.*public\.scrap"):
            swapped(site, made, keeping=KEEPING, patience=3)
        assert site.run(locked), "the vacuum was over"
    finally:
        done.set()
        site.run(f"SELECT pg_cancel_backend(pid) FROM ({locked}) AS vacuum")
        for thread in threads:
            thread.join()
    assert len(waited) == 1
    assert waited[0] < 0.5
    drop(site, "temp")


def test_a_transaction_that_locks_in_the_other_order_is_no_deadlock(kept_site):
    site = kept_site
    made = prepared(site)
    errors = []
    done = threading.Event()

    def work():
        with contextlib.closing(site.server.connect(site.name, "app", autocommit=False)) as client:
            while not done.is_set():
                try:
                    with client.cursor() as cursor:
                        cursor.execute("INSERT INTO scrap VALUES ('x')")
                        time.sleep(0.05)
                        cursor.execute("INSERT INTO login VALUES (random()::text, 'x', now())")
                        cursor.execute("UPDATE history SET said = '{}' WHERE run = 1")
                    client.commit()
                except psycopg2.Error as error:
                    errors.append(error)
                    return

    worker = threading.Thread(target=work)
    worker.start()
    try:
        swapped(site, made, keeping=KEEPING, patience=30)
    finally:
        done.set()
        worker.join()
    # Sent away by the swap, but by no deadlock before.
    assert all(error.pgcode in ("57P01", None) for error in errors)
    assert rows(site) == rows(site, derived_name(site.name, "swap"))
    drop(site, "swap")


def test_changes_that_take_too_long_under_the_lock_are_brought_over_without_it(
    kept_site, monkeypatch
):
    site = kept_site
    made = prepared(site)
    once = []

    def change():
        if not once:
            once.append(1)
            monkeypatch.setattr(keeper_module, "HELD_AT_MOST", 1)
            fill_more = "INSERT INTO scrap SELECT repeat('x', 500) FROM generate_series(1, 40000)"
            site.run(fill_more)
        else:
            monkeypatch.setattr(keeper_module, "HELD_AT_MOST", 5000)

    before_hold(monkeypatch, change)
    reporter = SilentReporter()
    _live, _parked, result = swapped(site, made, keeping=KEEPING, reporter=reporter)
    assert result.attempts == 2
    assert any("too much has changed" in note for note in reporter.notes)
    assert rows(site) == rows(site, derived_name(site.name, "swap"))
    drop(site, "swap")


def test_a_site_whose_changes_always_take_too_long_is_too_busy_in_time(kept_site, monkeypatch):
    site = kept_site
    made = prepared(site)
    monkeypatch.setattr(keeper_module, "HELD_AT_MOST", 1)
    monkeypatch.setattr(keeper_module, "HELD_IN_THE_END", 1)
    started = time.monotonic()
    with unchanged(site), pytest.raises(TooBusy, match="change too fast, or are too large") as told:
        swapped(site, made, keeping=KEEPING, patience=2)
    assert time.monotonic() - started < 20
    assert "PGCLONE_SWAP_TIMEOUT" in told.value.hint
    drop(site, "temp")


def test_tables_that_take_longer_to_look_through_get_more_time_in_the_end(kept_site):
    site = kept_site
    made = prepared(site)
    (logins,) = site.run("SELECT count(*) FROM login")[0]
    slow = KeptName(table=LOGIN, condition=f"pg_sleep({0.8 / logins}) IS NOT NULL")
    reporter = SilentReporter()
    keeping = Keeping(tables=[slow])
    _live, _parked, result = swapped(site, made, keeping=keeping, reporter=reporter, patience=20)
    assert result.attempts > 1
    assert 0.5 < result.kept_seconds < 2.5
    drop(site, "swap")


def test_all_that_is_done_while_writers_wait_has_half_a_second_together(kept_site, monkeypatch):
    """A look at one of the tables takes two seconds, which no single limit has to end."""
    site = kept_site
    made = prepared(site)
    monkeypatch.setattr(keeper_module, "HELD_IN_THE_END", keeper_module.HELD_AT_MOST)
    slow = KeptName(table=LOGIN, condition="pg_sleep(0.04) IS NOT NULL")
    others = [KeptName(table=TableName("public", name)) for name in ("queue", "history", "scrap")]
    done = threading.Event()
    waited = []

    def write():
        waited.append(longest_wait(site, "INSERT INTO scrap VALUES ('meanwhile')", done))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(TooBusy):
            swapped(site, made, keeping=Keeping(tables=[slow, *others]), patience=5)
    finally:
        done.set()
        writer.join()
    assert 0.2 < waited[0] < 1
    drop(site, "temp")


def test_copying_again_without_a_lock_ends_with_the_patience(kept_site, monkeypatch):
    """Also when one statement would take for ever."""
    site = kept_site
    made = prepared(site)
    site.run("CREATE TABLE slow AS SELECT 0.0 AS seconds")
    keeping = Keeping(
        tables=[
            KeptName(
                table=LOGIN,
                condition="pg_sleep((SELECT seconds FROM slow)) IS NOT NULL",
            )
        ]
    )
    before_hold(monkeypatch, lambda: site.run("UPDATE slow SET seconds = 5"))
    started = time.monotonic()
    with pytest.raises(TooBusy, match="change too fast, or are too large"):
        swapped(site, made, keeping=keeping, patience=2)
    assert time.monotonic() - started < 30  # a look would take 250 seconds
    drop(site, "temp")


def test_many_rows_that_come_after_the_copy_are_brought_over_without_a_lock(make_site, monkeypatch):
    """Into tables that were empty at the copy, and that the planner believes to be so still."""
    site = make_site(empty=True)
    names = ("one", "two", "three")
    site.run("".join(f"CREATE TABLE {name} (id bigserial PRIMARY KEY, t text);" for name in names))
    made = temporary(site)
    site.run(
        "".join(f"CREATE TABLE {name} (id bigserial PRIMARY KEY, t text);" for name in names),
        dbname=made.name,
    )
    once = []

    def fill_once():
        if not once:
            once.append(1)
            for name in names:
                site.run(
                    f"INSERT INTO {name} (t) SELECT md5(i::text) FROM generate_series(1, 100000) i"
                )

    before_hold(monkeypatch, fill_once)
    keeping = Keeping(tables=[KeptName(table=TableName("public", name)) for name in names])
    _live, _parked, result = swapped(site, made, keeping=keeping, patience=60)
    assert result.attempts <= 10
    assert [site.run(f"SELECT count(*) FROM {name}") for name in names] == [[(100_000,)]] * 3
    drop(site, "swap")


def test_a_key_that_is_checked_at_the_end_of_a_transaction_is_no_key(make_site, monkeypatch):
    site = make_site(empty=True)
    table = "CREATE TABLE late (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, t text)"
    site.run(table)
    site.run("INSERT INTO late VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    made = temporary(site)
    site.run(table, dbname=made.name)
    before_hold(
        monkeypatch,
        lambda: site.run("UPDATE late SET id = 3 - id WHERE id < 3; DELETE FROM late WHERE id = 3"),
    )
    swapped(site, made, keeping=Keeping(tables=[KeptName(table=TableName("public", "late"))]))
    assert sorted(site.run("SELECT * FROM late")) == [(1, "two"), (2, "one")]
    drop(site, "swap")


def asked_under_the_lock(site, made, names, monkeypatch, *, changed):
    """How often a server is asked from the locks until the renames, after changes to a table."""
    before_hold(monkeypatch, lambda: site.run(changed))
    parked = Mark.new(name=derived_name(site.name, "swap"), kind="parked", of=site.name)
    keeping = Keeping(tables=[KeptName(table=TableName("public", name)) for name in names])
    with (
        CountingProxy(site.server.port) as proxy,
        Server.connected(site.server.params("postgres", port=str(proxy.port))) as server,
    ):
        asked = SwapRequest(
            maintenance=server.params,
            live=server.existing(site.name),
            temporary=made,
            parked=parked,
            keeping=keeping,
        )
        assert swap(asked, SilentReporter()).attempts == 1
    begun = next(i for i, query in enumerate(proxy.queries) if query.startswith("LOCK TABLE"))
    end = next(i for i, query in enumerate(proxy.queries) if "RENAME TO" in query)
    monkeypatch.undo()
    return proxy.queries[begun:end]


def test_tables_that_have_not_changed_cost_no_way_to_the_server_while_writers_wait(
    make_site, monkeypatch
):
    site = make_site(empty=True)
    counts = []
    for many in (2, 12):
        names = [f"kept_{i}" for i in range(many)]
        tables = "".join(
            f"""
            CREATE TABLE {name} (id bigserial PRIMARY KEY, t text);
            CREATE TABLE {name}_lines (t text);
            INSERT INTO {name} (t) VALUES ('a'), ('b'); INSERT INTO {name}_lines VALUES ('c');
            """
            for name in names
        )
        clear = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
        site.run(clear + tables)
        made = temporary(site)
        site.run(tables, dbname=made.name)
        queries = asked_under_the_lock(
            site,
            made,
            [*names, *(f"{name}_lines" for name in names)],
            monkeypatch,
            changed="INSERT INTO kept_1 (t) VALUES ('later'); DELETE FROM kept_1 WHERE id = 1",
        )
        assert sorted(site.run("SELECT t FROM kept_1")) == [("b",), ("later",)]
        assert site.run("INSERT INTO kept_1 (t) VALUES ('x') RETURNING id") == [(4,)]
        counts.append(len(queries))
        drop(site, "swap")
    assert counts[0] == counts[1] <= 20


def test_who_waits_for_a_kept_table_alone_waits_for_a_moment(kept_site, monkeypatch):
    """TRUNCATE waits for the lock of the swap, and the look back at what there was queues behind
    it: that is a circle of which the server sees a part only."""
    site = kept_site
    made = prepared(site)
    lock = Keeper._lock
    waiting = []

    def lock_and_have_somebody_wait(self, live):
        lock(self, live)
        if waiting:
            return
        waiting.append(threading.Thread(target=site.run, args=("TRUNCATE login",)))
        waiting[0].start()
        while not site.run(
            "SELECT 1 FROM pg_locks WHERE relation = 'login'::regclass AND NOT granted"
        ):
            time.sleep(0.01)

    monkeypatch.setattr(Keeper, "_lock", lock_and_have_somebody_wait)
    begun = time.monotonic()
    _live, _parked, result = swapped(site, made, keeping=KEEPING)
    waiting[0].join(20)
    assert time.monotonic() - begun < 20
    assert result.attempts == 2
    assert site.run("SELECT count(*) FROM login") == [(0,)]
    assert rows(site) == rows(site, derived_name(site.name, "swap"))
    drop(site, "swap")


@pytest.mark.parametrize(
    "migration",
    ["ALTER TABLE login ADD COLUMN kind text DEFAULT 'x'", "ALTER TABLE scrap DROP COLUMN line"],
)
def test_a_site_that_is_migrated_meanwhile_is_not_replaced(kept_site, monkeypatch, migration):
    site = kept_site
    made = prepared(site)
    before_hold(monkeypatch, lambda: site.run(migration))
    live = site.oid
    with pytest.raises(Conflict, match="have changed since their rows were copied"):
        swapped(site, made, keeping=KEEPING)
    assert site.oid == live
    drop(site, "temp")


def test_a_sequence_that_a_kept_table_uses_and_does_not_own_goes_on(kept_site):
    site = kept_site
    loosen = "ALTER SEQUENCE queue_id_seq OWNED BY NONE"
    site.run(loosen)
    made = prepared(site)
    site.run(loosen, dbname=made.name)
    swapped(site, made, keeping=KEEPING)
    assert site.run("INSERT INTO queue (payload) VALUES ('next') RETURNING id") == [(51,)]
    drop(site, "swap")


def test_a_restore_waits_for_a_connection_that_is_to_be_had_in_a_moment(kept_site, storage_root):
    site = kept_site
    key = take(site, storage_root)
    before = rows(site)
    limit = f'ALTER DATABASE "{site.name}" CONNECTION LIMIT'
    timers = []

    def hook_is_done(moment):
        """All connections are taken, and come back after a second."""
        site.server.admin(f"{limit} 0")
        timers.append(threading.Timer(moment, site.server.admin, (f"{limit} 20",)))
        timers[-1].start()

    class Full(SilentReporter):
        """At the definitions, and at the copy of the rows."""

        def phase(self, name, *, total=None):
            super().phase(name, total=total)
            if name in (Phase.ANALYZING, Phase.SWAPPING):
                hook_is_done(1)

    site.server.admin(f"{limit} 20")
    restore(site, key, storage_root, keeping=KEEPING, reporter=Full())
    for timer in timers:
        timer.join()
    assert len(timers) >= 2
    assert rows(site) == before


def test_too_many_connections_are_called_so(kept_site, storage_root):
    site = kept_site
    key = take(site, storage_root)
    site.server.admin(f'ALTER DATABASE "{site.name}" CONNECTION LIMIT 0')
    with pytest.raises(ServerUnavailable, match="too many connections") as raised:
        restore(site, key, storage_root, keeping=KEEPING)
    assert "CONNECTION LIMIT" in raised.value.hint
    assert "PASSWORD" not in raised.value.hint


def test_a_result_is_held_over_the_connection_that_there_is_where_no_other_is_to_be_had(
    kept_site, storage_root
):
    site = kept_site
    key = take(site, storage_root)
    live, limit = site.oid, "ALTER ROLE app CONNECTION LIMIT"
    try:
        with pytest.raises(ServerUnavailable, match="too many connections") as raised:
            restore(
                site,
                key,
                storage_root,
                keeping=KEEPING,
                hooks=lambda _name: site.server.admin(f"{limit} 1"),
                swap_patience=1,
            )
    finally:
        site.server.admin(f"{limit} -1")
    assert raised.value.hint.startswith("What was restored is held: swap it in later")
    assert site.oid == live
    held = site.server.oid(derived_name(site.name, "held"))
    swap_held(request(site, keeping=KEEPING), SilentReporter())
    assert site.oid == held


# -- restores --------------------------------------------------------------------------------------


def test_a_restore_keeps_the_tables_that_the_dump_has_with_other_columns(kept_site, storage_root):
    site = kept_site
    site.run("ALTER TABLE login DROP COLUMN data; DROP TABLE scrap")
    key = take(site, storage_root)
    site.run("DROP TABLE login, history, queue; DROP FUNCTION shout")
    site.run(TABLES)
    fill(site, 20)
    before = rows(site)
    restore(site, key, storage_root, keeping=KEEPING)
    assert rows(site) == before


def test_an_expression_that_pg_dump_writes_in_another_way_is_no_difference(kept_site, storage_root):
    site = kept_site
    site.run("CREATE INDEX few ON login (until) WHERE key IN ('k1', 'k2')")
    key = take(site, storage_root)
    before = rows(site)
    restore(site, key, storage_root, keeping=KEEPING)
    assert rows(site) == before
    # And once more: now the live one has it as pg_dump has written it.
    restore(site, key, storage_root, keeping=KEEPING)
    assert rows(site) == before


def test_a_foreign_dump_with_rows_in_kept_tables_brings_none_of_them(kept_site, storage_root):
    site = kept_site
    key = take(site, storage_root)
    site.run("TRUNCATE queue, history, login, scrap; INSERT INTO queue (payload) VALUES ('mine')")
    before = rows(site)
    restore(site, key, storage_root, keeping=KEEPING, reversible=True)
    assert rows(site) == before
    # Made after the hooks and before the rows came: no login of the site is in it.
    assert rows(site, derived_name(site.name, "post")) == {name: [] for name in NAMES}


def test_a_hook_that_changes_a_kept_table_fails_the_restore(kept_site, storage_root):
    site = kept_site
    key = take(site, storage_root)

    def hook(temporary):
        site.run("ALTER TABLE login ADD COLUMN ip text", dbname=temporary)

    with unchanged(site), pytest.raises(Conflict, match=r"public\.login") as raised:
        restore(site, key, storage_root, keeping=KEEPING, hooks=hook)
    assert "migrate" in raised.value.hint


def test_a_local_copy_that_is_restored_gets_the_rows_of_today(kept_site, storage_root):
    site = kept_site
    key = take(site, storage_root)
    restore(site, key, storage_root, keeping=KEEPING, reversible=True)
    site.run("DELETE FROM queue WHERE id > 60; INSERT INTO queue (payload) VALUES ('after')")
    before = rows(site)
    restore(site, ":pre", keeping=KEEPING)
    assert rows(site) == before
