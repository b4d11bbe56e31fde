"""Faults of a restore and of its swap (F28 to F31, F33, F37, F41)."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pgclone_admin.core import restore as restore_module
from pgclone_admin.core.errors import (
    Cancelled,
    KilledBySignal,
    PreflightError,
    RestoreFailed,
    StorageError,
    TimedOut,
    TooBusy,
    UntrustedDump,
)
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.names import LocalKey, derived_name
from pgclone_admin.core.own_databases import mark_and_rename
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.stall import AttendedReader
from pgclone_admin.store import DumpStore
from tests.integration.operations import (
    Clients,
    connected,
    copy,
    drop,
    foreign,
    label,
    labelled,
    mark,
    restore,
    swapped,
    take,
    temporary,
    unchanged,
)
from tests.support import ROOT, places
from tests.support.fake_programs import kill_self, read_input, run_real, touch, wait_for
from tests.support.postgres import PASSWORDS, PostgresServer
from tests.support.processes import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]


def fail(_temporary):
    raise AssertionError("the hooks ran")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Asserts how long the block took, also when it raises."""
    started = time.monotonic()
    try:
        yield
    finally:
        assert time.monotonic() - started < seconds


@contextlib.contextmanager
def unchanged_oids(server: PostgresServer) -> Iterator[None]:
    """Asserts that every database has the name it had."""
    before = dict(server.admin("SELECT datname, oid FROM pg_database"))
    yield
    assert dict(server.admin("SELECT datname, oid FROM pg_database")) == before


# -- F28: a statement of pg_restore fails ----------------------------------------------------------


@pytest.fixture
def broken(make_site, storage_root):
    """``broken(sql, *arguments, as_superuser="")``: the key of a dump of a database in which the
    SQL ran as ``app``, and then that of the superuser, taken with arguments of pg_dump."""

    def make(statements, *arguments, as_superuser=""):
        source = make_site(empty=True, properties=False)
        source.run("CREATE TABLE before (id integer PRIMARY KEY); INSERT INTO before VALUES (1)")
        source.run(statements)
        if as_superuser:
            source.run(as_superuser, user="postgres")
        archive = source.archive(*arguments, user="postgres")
        source.server.drop_database(source.name)
        return foreign(storage_root, archive)

    return make


FAILURES = {
    "function missing": {
        "statements": "CREATE FUNCTION helper() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "CREATE TABLE broken (id integer DEFAULT helper())",
        "arguments": ["--table=broken", "--table=before"],
        "message": "function public.helper() does not exist",
    },
    "type missing": {
        "statements": "CREATE TYPE kind AS ENUM ('a'); CREATE TABLE broken (k kind)",
        "arguments": ["--table=broken"],
        "message": 'type "public.kind" does not exist',
    },
    "duplicate key": {
        "statements": "CREATE TABLE broken (id integer); INSERT INTO broken VALUES (1), (1);"
        "CREATE INDEX broken_idx ON broken (id)",
        "as_superuser": "UPDATE pg_index SET indisunique = true"
        " WHERE indexrelid = 'broken_idx'::regclass",
        "message": 'could not create unique index "broken_idx"',
    },
    "duplicate key of a constraint": {
        "statements": "CREATE TABLE broken (id integer); INSERT INTO broken VALUES (1), (1);"
        "CREATE INDEX broken_idx ON broken (id)",
        "as_superuser": "UPDATE pg_index SET indisunique = true"
        " WHERE indexrelid = 'broken_idx'::regclass;"
        "ALTER TABLE broken ADD CONSTRAINT broken_key UNIQUE USING INDEX broken_idx",
        "message": 'could not create unique index "broken_key"',
    },
    "duplicate key of a large table": {
        # Large enough for its index to be built while the table after it is being loaded.
        "statements": "CREATE TABLE broken AS SELECT 1 AS id, repeat(md5(n::text), 100) AS text"
        " FROM generate_series(1, 2000) AS n; CREATE TABLE broken_after AS SELECT * FROM broken;"
        "CREATE INDEX broken_idx ON broken (id)",
        "as_superuser": "UPDATE pg_index SET indisunique = true"
        " WHERE indexrelid = 'broken_idx'::regclass",
        "message": 'could not create unique index "broken_idx"',
    },
    "row against a check": {
        "statements": "CREATE TABLE broken (id integer); INSERT INTO broken VALUES (-1);"
        "ALTER TABLE broken ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
        "as_superuser": "UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive'",
        "message": 'violates check constraint "positive"',
    },
    "language of a superuser": {
        "statements": "SELECT 1",
        "as_superuser": "CREATE FUNCTION broken(integer) RETURNS integer LANGUAGE internal"
        " AS 'int4abs'",
        "message": "permission denied for language internal",
    },
    "trigger without its function": {
        "statements": "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN NEW; END'; CREATE TABLE broken (id integer);"
        "CREATE TRIGGER fires BEFORE INSERT ON broken FOR EACH ROW EXECUTE FUNCTION fire()",
        "arguments": ["--table=broken"],
        "message": "function public.fire() does not exist",
    },
    "view of a missing table": {
        "statements": "CREATE TABLE gone (id integer); CREATE VIEW broken AS SELECT * FROM gone",
        "arguments": ["--table=broken"],
        "message": 'relation "public.gone" does not exist',
    },
    "materialized view that divides by zero": {
        "statements": "CREATE TABLE divisor (n integer); INSERT INTO divisor VALUES (1);"
        "CREATE MATERIALIZED VIEW broken AS SELECT 1 / n AS value FROM divisor;"
        "UPDATE divisor SET n = 0",
        "message": "division by zero",
    },
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES)
def test_f28_a_statement_that_fails_leaves_live_as_it_was(make_site, storage_root, broken, case):
    site = make_site()
    key = broken(
        case["statements"], *case.get("arguments", []), as_superuser=case.get("as_superuser", "")
    )
    with (
        unchanged(site),
        pytest.raises(RestoreFailed, match=re.escape(case["message"])) as raised,
    ):
        restore(site, key, storage_root, reversible=True, hooks=fail)
    assert raised.value.code == "restore_failed"
    assert raised.value.hint == "The live database was not touched."


def test_f28_on_every_version(any_pg, make_site, storage_root):
    site, source = make_site(any_pg), make_site(any_pg, empty=True)
    source.run("CREATE TABLE broken (id integer); INSERT INTO broken VALUES (1), (1)")
    source.run("CREATE INDEX broken_idx ON broken (id)")
    source.run(
        "UPDATE pg_index SET indisunique = true WHERE indexrelid = 'broken_idx'::regclass",
        user="postgres",
    )
    key = foreign(storage_root, source.archive())
    with unchanged(site), pytest.raises(RestoreFailed, match="broken_idx"):
        restore(site, key, storage_root, hooks=fail)


def test_f28_an_extension_that_the_server_does_not_have(make_site, storage_root):
    site, source = make_site(), make_site(empty=True)
    source.run("CREATE EXTENSION vector", user="postgres")
    source.run("UPDATE pg_extension SET extname = 'no such' WHERE extname = 'vector'", "postgres")
    key = foreign(storage_root, source.archive(user="postgres"))
    with unchanged(site), pytest.raises((PreflightError, RestoreFailed), match="no such"):
        restore(site, key, storage_root, hooks=fail)


def test_f28_beside_and_into_a_missing_database_nothing_is_made_either(
    make_site, storage_root, broken
):
    case = FAILURES["duplicate key"]
    site = make_site()
    key = broken(case["statements"], as_superuser=case["as_superuser"])
    with unchanged(site), pytest.raises(RestoreFailed):
        restore(site, key, storage_root, beside=LocalKey.parse(":beside"))
    databases = site.server.databases() - {site.name}
    site.server.drop_database(site.name)
    with pytest.raises(RestoreFailed):
        restore(site, key, storage_root)
    assert site.server.databases() == databases


def test_f28_what_was_made_is_dropped_when_the_archive_cannot_be_closed(
    make_site, storage_root, monkeypatch
):
    site = make_site()
    key = foreign(storage_root, site.archive())
    close = AttendedReader.close

    def close_badly(reader):
        close(reader)
        raise StorageError("it cannot be closed")

    monkeypatch.setattr(AttendedReader, "close", close_badly)
    with unchanged(site), pytest.raises(StorageError, match="it cannot be closed"):
        restore(site, key, storage_root)


class Counted(DumpStore):
    """Counts what was read of the dumps, and may do something each time."""

    def __init__(self, root, then=lambda: None):
        super().__init__(str(root))
        self.read = 0
        self._then = then

    def open(self, key):
        stream = super().open(key)
        read = stream.read

        def counted(size):
            data = read(size)
            self.read += len(data)
            self._then()
            return data

        stream.read = counted
        return stream


@pytest.fixture
def failing_early(make_site, storage_root):
    """A site whose dump fails at its first statements, and has many bytes after them."""
    site = places.make_bulk(make_site().server, 20)
    site.run("CREATE TABLE gone (id integer); CREATE VIEW broken AS SELECT * FROM gone")
    archive = site.archive("--table=broken", "--table=bulk", "--compress=0")
    return site, foreign(storage_root, archive), archive


def test_f28_the_rest_of_a_foreign_dump_that_has_failed_is_not_fetched(failing_early, storage_root):
    site, key, archive = failing_early
    store = Counted(storage_root)
    with unchanged(site), pytest.raises(RestoreFailed, match="does not exist"):
        places.restore(site, key, store)
    assert store.read < len(archive) / 2


def with_manifest(storage_root, key, archive):
    """As if it were one of ours."""
    manifest = Manifest(
        key=str(key),
        size=len(archive),
        sha256=hashlib.sha256(archive).hexdigest(),
        codec="none",
        taken_at="2026-01-02T03:04:05+00:00",
        instance="elsewhere",
        database="default",
        config="none",
        origin="pgclone",
        app_version="0.1.0",
    )
    (storage_root / key.manifest_name).write_bytes(manifest.to_json())


def test_f28_the_rest_of_a_dump_that_has_failed_is_looked_at_for_a_while_only(
    failing_early, storage_root, monkeypatch
):
    site, key, archive = failing_early
    with_manifest(storage_root, key, archive)
    monkeypatch.setattr(restore_module, "LOOK_FOR_DAMAGE", 0.0)
    store = Counted(storage_root)
    with unchanged(site), pytest.raises(RestoreFailed, match="does not exist") as raised:
        places.restore(site, key, store)
    assert store.read < len(archive) / 2
    assert raised.value.hint.endswith("Whether the dump is damaged was not looked for to its end.")


@pytest.mark.parametrize("interruption", [Cancelled, TimedOut, StorageError, KeyboardInterrupt])
def test_f28_what_comes_while_the_rest_is_looked_at_does_not_hide_the_error(
    failing_early, storage_root, interruption
):
    site, key, archive = failing_early
    with_manifest(storage_root, key, archive)

    def interrupt():
        if store.read > len(archive) / 2:
            raise interruption

    store = Counted(storage_root, interrupt)
    with unchanged(site), pytest.raises(RestoreFailed, match="does not exist"):
        places.restore(site, key, store)


def test_f28_an_older_pre_and_post_survive_a_failed_restore(make_site, storage_root, broken):
    case = FAILURES["duplicate key"]
    site = make_site()
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    names = [derived_name(site.name, role) for role in ("pre", "post")]
    oids = [site.server.oid(name) for name in names]
    bad = broken(case["statements"], as_superuser=case["as_superuser"])
    for reversible in (True, False):
        with unchanged(site), pytest.raises(RestoreFailed):
            restore(site, bad, storage_root, reversible=reversible)
        assert [site.server.oid(name) for name in names] == oids


def test_f28_the_command_says_the_first_error_and_ends_1(project, storage_root):
    source = project.server.create_database("broken source")
    project.server.run(
        "CREATE FUNCTION helper() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "CREATE TABLE broken (id integer DEFAULT helper());"
        "CREATE TABLE broken_too (id integer DEFAULT helper())",
        source,
        "app",
    )
    key = foreign(storage_root, project.server.archive(source, "--table=broken*"))
    with unchanged(project):
        failed = project.pgclone("restore", key.text, "--pre-swap-hook", "migrate").failed(1)
    assert failed.stdout == ""
    *_, error, hint = failed.stderr.splitlines()
    assert error.startswith("error: pg_restore failed: ")
    assert error.endswith("function public.helper() does not exist")
    assert hint == "hint: The live database was not touched."


# -- F29: pg_restore or the whole command is killed ------------------------------------------------


def test_f29_a_pg_restore_that_is_killed_leaves_live_as_it_was(make_site, storage_root, fakes):
    site = make_site()
    key = take(site, storage_root)
    fakes.pg_restore(read_input(5000), kill_self("KILL"))
    with unchanged(site), pytest.raises(KilledBySignal, match="SIGKILL") as raised:
        restore(site, key, storage_root, hooks=fail, program_directories=[str(fakes.path)])
    assert raised.value.signal == 9
    restore(site, key, storage_root)


def test_f29_a_real_pg_restore_that_is_killed_while_it_loads(make_site, storage_root, tmp_path):
    """In the middle of the data, which pg_restore loads where pg_dump compressed it: the archive is
    longer than what a pipe holds."""
    site = make_site()
    site.run(
        "CREATE TABLE big AS SELECT n, md5(n::text) || md5((-n)::text) || md5((n + 0.5)::text) AS t"
        " FROM generate_series(1, 150000) AS n"
    )
    key = take(site, storage_root, codec="gzip")

    class Killing(SilentReporter):
        killed = 0

        def advance(self, count):
            super().advance(count)
            if self.phases[-1] == "restoring" and self.bytes_done > 6_000_000 and not self.killed:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if child.name() == "pg_restore":
                            child.kill()
                            self.killed = child.pid

    reporter = Killing()
    with unchanged(site), pytest.raises(KilledBySignal, match="SIGKILL"):
        restore(site, key, storage_root, reporter=reporter, hooks=fail)
    assert reporter.killed


def test_f29_a_pg_restore_that_is_killed_while_it_builds_indexes(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)
    killed = []

    class Killing(SilentReporter):
        def phase(self, name, *, total=None):
            super().phase(name, total=total)
            if name == "indexing":
                threading.Thread(target=kill_a_pg_restore, args=(killed,)).start()

    with unchanged(site), pytest.raises(KilledBySignal, match="SIGKILL"):
        restore(site, key, storage_root, reporter=Killing(), hooks=fail)
    assert killed


def kill_a_pg_restore(killed):
    until = time.monotonic() + 10
    while not killed and time.monotonic() < until:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Not the one that has just loaded the data: that one names no file.
                if child.name() == "pg_restore" and "".join(child.cmdline()[-1:]).startswith("/"):
                    child.kill()
                    killed.append(child.pid)


def stop_in(project, phase, fakes, tmp_path):
    """Starts a restore and waits until it is in a phase; returns it and a gate to open."""
    mark_file, gate = tmp_path / "reached", tmp_path / "gate"
    real = project.server.bin_dir / "pg_restore"
    key = take(project, project.storage_root).text
    if phase == "loading":
        fakes.pg_restore(touch(mark_file), wait_for(gate), run_real(real))
        running = project.start_pgclone(
            "restore", key, settings={"PGCLONE_BIN_DIR": str(fakes.path)}
        )
    elif phase == "hook":
        mark_file = project.folder / "hook-hangs"
        running = project.start_pgclone("restore", key, "-r", "--pre-swap-hook", "hang_hook")
    wait_until(lambda: mark_file.exists() or running.process.poll() is not None, 30)
    assert running.process.poll() is None, running.stderr()
    return running, key, gate


def leftovers_of_a_killed_command():
    """Password files that nobody could remove any more: only their owner may read them."""
    found = list(Path(tempfile.gettempdir()).glob("pgclone-*"))
    for path in found:
        assert path.stat().st_mode & 0o077 == 0
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


@pytest.mark.parametrize("phase", ["loading", "hook"])
def test_f29_a_killed_command_leaves_live_and_the_next_restore_clears_up(
    project, fakes, tmp_path, phase, nothing_left_behind
):
    name = f"{project.name}__temp"
    nothing_left_behind.allow(name)
    people = project.people()
    running, key, gate = stop_in(project, phase, fakes, tmp_path)
    project.add_person("live")
    with unchanged(project):
        running.signal(signal.SIGKILL)
        assert running.wait().returncode == -signal.SIGKILL
        gate.touch()
        left = Mark.read(project.server.comment(name), name)
        assert (left.kind, left.of) == ("temporary", project.name)
    leftovers_of_a_killed_command()

    project.pgclone("restore", key).ok()

    assert project.server.oid(name) is None
    assert project.people() == people


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("phase", ["loading", "hook"])
def test_f29_a_command_that_is_asked_to_end_clears_up_itself(
    project, fakes, tmp_path, phase, number
):
    project.add_person("live")
    with unchanged(project):
        running, _key, _gate = stop_in(project, phase, fakes, tmp_path)
        running.signal(number)
        done = running.wait(30)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "cancelled"
    assert done.stdout == ""


# -- F30: the process dies in the swap -------------------------------------------------------------

SWAPPING = textwrap.dedent(
    """
    import json, sys
    from pgclone_admin.core.connection import ConnectionParams
    from pgclone_admin.core.marks import Mark
    from pgclone_admin.core.server import Server
    from pgclone_admin.core.progress import SilentReporter
    from pgclone_admin.core import swap as swap_module
    from pgclone_admin.core.swap import SwapRequest, swap

    params = ConnectionParams(**json.loads(sys.stdin.readline()))
    live, spare, *others = sys.argv[1:]
    if others:  # those that come after the look at who cannot be ended
        swap_module.check_sessions_can_be_ended = lambda *_args: None
    with Server.connected(params) as server:
        parked = Mark.new(name=live + "__swap", kind="parked", of=live)
        unparked = Mark.new(name=spare, kind="temporary", of=live)
        while True:
            swap(
                SwapRequest(
                    maintenance=server.params,
                    live=server.existing(live),
                    temporary=server.existing(spare),
                    parked=parked,
                ),
                SilentReporter(),
            )
            print("swapped", flush=True)
            mark_and_rename(server, parked.name, unparked)
    """
)
"""Swaps two databases to and fro until it is killed."""


def swapping(site, spare, *others):
    process = subprocess.Popen(
        [sys.executable, "-c", SWAPPING, site.name, spare, *others],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    params = site.server.params("postgres")
    fields = ("dbname", "host", "port", "user", "password")
    line = "{" + ", ".join(f'"{name}": "{getattr(params, name)}"' for name in fields) + "}\n"
    process.stdin.write(line.encode())
    process.stdin.flush()
    return process


def ended(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_f30_a_process_killed_in_the_swap_leaves_live_wholly_old_or_wholly_new(
    make_site, nothing_left_behind
):
    """Killed at five instants of a swap or between two; clients are at work all the time."""
    site = make_site(empty=True)
    label(site, "old")
    made = temporary(site, "new")
    contents = {site.oid: "old", made.oid: "new"}
    properties = site.database_properties()
    parked = derived_name(site.name, "swap")
    nothing_left_behind.allow(made.name, parked)
    renaming = (
        "SELECT 1 FROM pg_stat_activity WHERE query ILIKE 'ALTER DATABASE%%RENAME%%'"
        " AND state <> 'idle' AND pid <> pg_backend_pid()"
    )
    with Clients(site, staying=2, returning=2):
        for number in range(5):
            process = swapping(site, made.name)
            assert process.stdout.readline() == b"swapped\n"
            time.sleep(0.037 * number)
            ended(process)
            wait_until(lambda: not site.server.admin(renaming))  # the server finishes what it does
            names = {site.server.oid(name): name for name in (site.name, parked, made.name)}
            assert set(names) - {None} == set(contents)
            assert site.oid in contents
            assert labelled(site) == contents[site.oid]
            assert site.database_properties() == properties
            if site.server.oid(parked) is not None:
                with connected(site.server) as server:
                    mark_and_rename(server, parked, mark(made.name, of=site.name))


def test_f30_killed_while_the_rename_waits_the_old_database_is_live_and_open(make_site):
    site = make_site()
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    label(site, "old")
    made = temporary(site)
    holds_lock = (
        "SELECT 1 FROM pg_locks WHERE classid = 'pg_database'::regclass AND objid = %s"
        " AND mode = 'AccessExclusiveLock' AND granted"
    )
    with unchanged_oids(site.server), site.server.held_session(site.name, user="other"):
        process = swapping(site, made.name, "comes late")
        wait_until(lambda: site.server.admin(holds_lock, (site.oid,)))
        ended(process)
        with within(10):  # as long as the server takes to give up the rename
            assert labelled(site) == "old"
    drop(site, "temp")


# -- F31: clients stay connected -------------------------------------------------------------------


def test_f31_ten_of_ten_swaps_succeed_under_clients_that_stay_and_clients_that_return(make_site):
    site = make_site(properties=False)
    label(site, "start")
    with Clients(site, staying=10, returning=10) as clients:
        for number in range(10):
            made = temporary(site, f"round {number}")
            live, _parked, result = swapped(site, made)
            assert result.seconds < 5  # it may wait no longer for sessions to leave
            assert site.oid == made.oid != live.oid
            assert labelled(site) == f"round {number}"
            drop(site, "swap")
    assert clients.queries > 200
    # Whoever was sent away came back, and nobody saw anything but the two known errors.
    known = ("terminating connection", "just been dropped or renamed", "server closed")
    assert [e for e in clients.errors if not any(part in e for part in known)] == []
    assert clients.longest_gap < 8


def test_f31_a_superuser_session_is_told_early_and_nothing_is_made(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)
    with site.server.held_session(site.name, user="postgres") as session:
        with unchanged(site), pytest.raises(TooBusy, match="superuser is connected") as raised:
            restore(site, key, storage_root, reversible=True, hooks=fail)
        assert raised.value.code == "too_busy"
        assert "postgres (tests, pid" in raised.value.message
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_f31_a_superuser_session_that_comes_later_stops_the_swap_and_ends_nobody(
    make_site, storage_root
):
    site = make_site()
    key = take(site, storage_root)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(site.server.held_session(site.name))

        def hook(_temporary):
            stack.enter_context(site.server.held_session(site.name, user="postgres"))

        held = derived_name(site.name, "held")
        with unchanged(site, made=[held]), pytest.raises(TooBusy, match="superuser"):
            restore(site, key, storage_root, hooks=hook)
        with client.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_f31_a_session_of_another_role_is_named_in_time_and_live_stays_open(
    make_site, storage_root
):
    site = make_site()
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    key = take(site, storage_root)
    with site.server.held_session(site.name, user="other") as session:
        with unchanged(site), pytest.raises(TooBusy) as raised, within(10):
            restore(site, key, storage_root)
        assert "other (tests, pid" in raised.value.message
        assert "pg_signal_backend" in raised.value.hint
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")
        for user in ("app", "other", "postgres"):
            with contextlib.closing(site.connect(user)) as connection:
                assert connection.info.dbname == site.name


# -- F33: names that the server would cut ----------------------------------------------------------


def test_f33_every_drop_names_a_database_that_was_made_here(own_pg, make_site, storage_root):
    """All statements of whole cycles on a name of 63 bytes, as the server has logged them."""
    server = own_pg()
    server.admin("ALTER SYSTEM SET log_statement = 'ddl'")
    server.admin("SELECT pg_reload_conf()")
    wait_until(lambda: server.run("SHOW log_statement") == [("ddl",)])
    name = "l" * 60 + "ive"
    site = make_site(server, name=name, empty=True)
    label(site, "dumped")
    key = take(site, storage_root)
    for reversible in (True, True, False):
        restore(site, key, storage_root, reversible=reversible)
    restore(site, key, storage_root, beside=LocalKey.parse(":beside"))
    restore(site, ":beside")
    restore(site, ":undo")
    copy(site, ":beside")
    statements = re.findall(r"app@postgres LOG:  statement: (DROP DATABASE.*)", server.log())
    dropped = [
        re.search(r'DROP DATABASE (?:IF EXISTS )?"?([^" ]+)', each)[1] for each in statements
    ]
    made_here = {derived_name(name, role) for role in ("temp", "swap", "pre", "post", "undo")}
    assert len(dropped) >= 6
    assert set(dropped) <= made_here | {"beside"}
    assert all(len(each.encode()) <= 63 for each in dropped)
    assert labelled(site) == "dumped"


# -- F37: what belongs to the database -------------------------------------------------------------


def rows_of(site, name):
    """The rows of a database in the catalogs that all databases share, without its own oid."""
    ((oid, row),) = site.server.admin(
        "SELECT oid, to_jsonb(d) FROM pg_database AS d WHERE datname = %s", (name,)
    )
    own = ("oid", "datname", "datfrozenxid", "datminmxid", "datlastsysoid")
    settings = site.server.admin(
        "SELECT setrole, setconfig FROM pg_db_role_setting WHERE setdatabase = %s ORDER BY setrole",
        (oid,),
    )
    row["datacl"] = sorted(row["datacl"] or [])
    return (
        {key: value for key, value in row.items() if key not in own},
        [(role, sorted(config)) for role, config in settings],
        site.server.admin(
            "SELECT description FROM pg_shdescription WHERE objoid = %s"
            " AND classoid = 'pg_database'::regclass",
            (oid,),
        ),
    )


def test_f37_the_rows_of_the_catalogs_are_identical_after(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    for statement in (
        'GRANT CREATE ON DATABASE "{}" TO other WITH GRANT OPTION',
        'ALTER ROLE app IN DATABASE "{}" SET search_path = "a,b", "$user", "quo""te"',
        "ALTER DATABASE \"{}\" SET TimeZone = 'Europe/Berlin'",
    ):
        any_pg.admin(statement.format(site.name))
    before, content = rows_of(site, site.name), site.fingerprint()
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    assert rows_of(site, site.name) == before
    assert site.fingerprint() == content
    restore(site, ":pre")
    assert rows_of(site, site.name) == before
    restore(site, foreign(storage_root, site.archive()), storage_root)
    assert rows_of(site, site.name) == before
    assert site.fingerprint() == content


# -- F41: a dump that holds code -------------------------------------------------------------------


@pytest.fixture
def armed(pg, make_site, storage_root, tmp_path):
    """A dump with a CHECK that runs a program on the server, and the file the program makes."""
    proof = pg.path / "pwned"
    source = make_site(empty=True, properties=False)
    source.run(
        f"""
        CREATE FUNCTION armed() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('role', 'none', true);
            COPY (SELECT 1) TO PROGRAM 'cat > {proof}';
            RETURN true;
        END $$;
        CREATE TABLE bait (id integer CHECK (armed()));
        INSERT INTO bait VALUES (1);
        """,
        user="postgres",
    )
    proof.unlink()
    key = foreign(storage_root, source.archive(user="postgres"))
    pg.drop_database(source.name)
    yield key, proof
    proof.unlink(missing_ok=True)


def test_f41_as_a_plain_role_the_code_fails_and_runs_nothing(site, storage_root, armed):
    key, proof = armed
    with unchanged(site), pytest.raises(RestoreFailed, match="permission denied to COPY"):
        restore(site, key, storage_root, hooks=fail)
    assert not proof.exists()


def test_f41_a_superuser_is_refused_before_anything_is_made(site, storage_root, armed, recorder):
    key, proof = armed
    programs = recorder(site.server)
    with unchanged(site), pytest.raises(UntrustedDump, match="is a superuser") as raised:
        restore(site, key, storage_root, user="postgres", program_directories=[str(programs.path)])
    assert raised.value.code == "untrusted_dump"
    assert "--trust" in raised.value.hint
    assert programs.calls() == []
    assert not proof.exists()


def test_f41_a_role_that_may_run_programs_is_refused_too(site, storage_root, armed, monkeypatch):
    key, proof = armed
    monkeypatch.setitem(PASSWORDS, "runner", "canary-Ru22-runner")
    site.server.admin("CREATE ROLE runner LOGIN CREATEDB PASSWORD 'canary-Ru22-runner'")
    try:
        site.server.admin("GRANT app, pg_execute_server_program TO runner")
        with unchanged(site), pytest.raises(UntrustedDump, match="may run programs"):
            restore(site, key, storage_root, user="runner")
        assert not proof.exists()
    finally:
        site.server.admin("DROP ROLE runner")


def test_f41_a_superuser_behind_another_role_is_still_one(site, storage_root, armed):
    """What a restored function sets back, it gets back."""
    key, proof = armed
    behind = site.server.params("postgres", "postgres", role="app")
    with unchanged(site), pytest.raises(UntrustedDump, match="is a superuser"):
        restore(site, key, storage_root, maintenance=behind)
    assert not proof.exists()


def test_f41_what_is_refused_is_dangerous_indeed(site, storage_root, armed):
    key, proof = armed
    reporter = SilentReporter()
    restore(site, key, storage_root, user="postgres", trust_foreign=True, reporter=reporter)
    assert proof.exists()
    assert any("is a superuser" in warning for warning in reporter.warnings)


def test_f41_the_command_refuses_and_trusts(make_project, storage_root):
    project = make_project()
    key = foreign(storage_root, project.archive())
    databases = {"default": project.dsn_dict("postgres")}
    people = project.people()
    project.add_person("later")
    with unchanged(project):
        refused = project.pgclone("restore", key.text, database=databases).failed(1)
    assert "error: the dump" in refused.stderr
    assert "is a superuser" in refused.stderr
    project.pgclone("restore", key.text, "--trust", database=databases).ok()
    assert project.people() == people
    assert project.database_properties()["owner"] == "app"


def test_f41_an_imported_archive_stays_foreign(make_project, storage_root, tmp_path):
    project = make_project()
    file = tmp_path / "e-mailed.dump"
    file.write_bytes(project.archive())
    key = project.pgclone("import", str(file)).ok().lines[0]
    with unchanged(project):
        refused = project.pgclone(
            "restore", key, database={"default": project.dsn_dict("postgres")}
        ).failed(1)
    assert "was not made by pgclone_admin" in refused.stderr
    project.pgclone("restore", key).ok()


def test_f41_whatever_an_imported_archive_says_of_itself_can_be_told(make_project, tmp_path):
    """Its texts are in any encoding, and go into a manifest and a row."""
    project = make_project()
    said = project.name.encode()
    file = tmp_path / "e-mailed.dump"
    file.write_bytes(project.archive().replace(said, b"\xe9\0" + said[2:], 1))
    key = project.pgclone("import", str(file)).ok().lines[0]
    assert any(key in line for line in project.pgclone("ls", "--long").ok().lines)
    project.pgclone("restore", key).ok()
