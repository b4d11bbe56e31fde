"""Faults of the swap and of kept tables (F30, F31, F34, F35, F37 to F40).

Clients write to kept tables all the time, and note what they were told is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pgclone_admin.core import keeper as keeper_module
from pgclone_admin.core import swap as swap_module
from pgclone_admin.core import swapper as swapper_module
from pgclone_admin.core.carrier import Carrier
from pgclone_admin.core.errors import Conflict, HookFailed, PgcloneError, TooBusy
from pgclone_admin.core.keeper import Keeper
from pgclone_admin.core.kept import Keeping, KeptName
from pgclone_admin.core.locks import take_lock
from pgclone_admin.core.marks import Database
from pgclone_admin.core.names import TableName
from pgclone_admin.core.recovery import Outcome, RecoveryRequest, recover_databases
from pgclone_admin.services.recovery import recover_temporary
from tests.integration.operations import (
    connected,
    drop,
    label,
    labelled,
    restore,
    swapped,
    take,
    temporary,
    unchanged,
)
from tests.support import ROOT
from tests.support.postgres import PostgresServer, ServerPool
from tests.support.processes import wait_until
from tests.support.sites import Site
from tests.support.swapping import DECIDED, STEPS, Swapper
from tests.support.writers import NAMES, TABLES, Writers

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

KEEPING = Keeping(tables=[KeptName(table=TableName("public", name)) for name in NAMES])


@pytest.fixture(params=[18, 15], ids=lambda major: f"pg{major}")
def new_and_old(request: pytest.FixtureRequest, servers: ServerPool) -> PostgresServer:
    if request.param not in servers.majors():
        pytest.skip(f"PostgreSQL {request.param} is not installed on this machine")
    return servers.get(request.param)


def kept_site(make_site: Callable[..., Site], server: PostgresServer | None = None) -> Site:
    site = make_site(server, empty=True)
    label(site, "old")
    site.run(TABLES)
    return site


def prepared(site: Site, content: str = "new") -> Database:
    """A temporary database with empty kept tables."""
    made = temporary(site, content)
    site.run(TABLES, dbname=made.name)
    return made


def recovered(site: Site) -> list[Outcome]:
    """Recovers as soon as the server has noticed that nobody restores any more."""
    request = RecoveryRequest(
        live=site.name,
        maintenance=site.server.params("postgres"),
        kept_for=timedelta(days=7),
        protected=frozenset({site.name, "postgres"}),
        second_look=0.2,
    )
    until = time.monotonic() + 20
    while True:
        found = list(recover_databases(request))
        if not any("is running" in item.why for item in found):
            assert list(recover_databases(request)) == []
            return [item.outcome for item in found]
        assert time.monotonic() < until, found
        time.sleep(0.02)


def swap_once(site: Site, swapper: Swapper, content: str, **options: Any) -> dict[str, Any]:
    """A whole swap in the other process, which has to succeed."""
    made = prepared(site, content)
    swapper.start(site.server.params("postgres"), site.name, made.name, **options)
    answer = swapper.read()
    assert answer["swapped"], answer
    assert (site.oid, labelled(site)) == (made.oid, content)
    drop(site, "swap")
    return answer


# -- F34: kept tables lose nothing -----------------------------------------------------------------


def test_f34_swaps_lose_no_write_that_was_acknowledged(new_and_old, make_site):
    """With 20 clients that stay connected and 20 that connect for every transaction."""
    site = kept_site(make_site, new_and_old)
    site.server.admin(f'ALTER DATABASE "{site.name}" CONNECTION LIMIT -1')
    with (
        Swapper() as swapper,
        Writers(site.connect, staying=20, returning=20, pause=0.01) as writers,
    ):
        for number in range(3):
            writers.wait_for(300)
            swap_once(site, swapper, f"round {number}")
        writers.wait_for(300)
    assert writers.problems() == []
    assert writers.acknowledged > 1200


def test_f34_a_site_whose_transactions_are_serializable_loses_nothing(make_site):
    """What was committed while the lock was waited for has to be seen when it is there."""
    site = kept_site(make_site)
    for setting in ("default_transaction_isolation = 'serializable'",):
        site.server.admin(f'ALTER DATABASE "{site.name}" SET {setting}')
    made = prepared(site)
    with contextlib.closing(site.connect(autocommit=False)) as client:
        with client.cursor() as cursor:
            cursor.execute("INSERT INTO kept_login VALUES ('late', 1)")
        waits = (
            "SELECT 1 FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
            " WHERE d.datname = %s AND l.locktype = 'relation' AND NOT l.granted"
        )

        def commit_while_it_waits():
            wait_until(lambda: site.server.admin(waits, (site.name,)))
            client.commit()

        committing = threading.Thread(target=commit_while_it_waits)
        committing.start()
        _live, _parked, result = swapped(site, made, keeping=KEEPING)
        committing.join()
    assert result.attempts == 1
    assert site.run("SELECT key FROM kept_login") == [("late",)]
    drop(site, "swap")


def test_f34_a_kept_table_that_is_emptied_meanwhile_is_empty_after(make_site, monkeypatch):
    """TRUNCATE leaves no deleted rows that could be found."""
    site = kept_site(make_site)
    site.run("INSERT INTO kept_login SELECT 'k' || i, i FROM generate_series(1, 100) AS i")
    made = prepared(site)
    hold = Keeper.hold

    def empty_and_hold(self):
        site.run("TRUNCATE kept_login; INSERT INTO kept_login VALUES ('k7', 700), ('new', 1)")
        hold(self)

    monkeypatch.setattr(Keeper, "hold", empty_and_hold)
    swapped(site, made, keeping=KEEPING)
    assert sorted(site.run("SELECT * FROM kept_login")) == [("k7", 700), ("new", 1)]
    drop(site, "swap")


def test_f34_a_row_that_was_changed_while_others_had_it_locked_and_then_deleted_is_gone_after(
    make_site, monkeypatch
):
    """Its xmax at the time of the copy is the number of a multixact, which is no transaction."""
    site = kept_site(make_site)
    site.run("INSERT INTO kept_login SELECT 'k' || i, i FROM generate_series(1, 9) AS i")
    made = prepared(site)
    hold = Keeper.hold

    def delete_and_hold(self):
        with contextlib.closing(site.connect(autocommit=False)) as client:
            with client.cursor() as cursor:
                cursor.execute("SELECT FROM kept_login WHERE key IN ('k5', 'k6') FOR KEY SHARE")
                site.run("UPDATE kept_login SET value = 0 WHERE key = 'k5'")
            client.rollback()
        site.run("DELETE FROM kept_login WHERE key IN ('k5', 'k7')")
        hold(self)

    monkeypatch.setattr(Keeper, "hold", delete_and_hold)
    swapped(site, made, keeping=KEEPING)
    kept = sorted(key for (key,) in site.run("SELECT key FROM kept_login"))
    assert kept == ["k1", "k2", "k3", "k4", "k6", "k8", "k9"]
    drop(site, "swap")


def test_f34_an_attempt_that_fails_late_forgets_nothing_of_what_comes_after(make_site, monkeypatch):
    """Rows that it brought over are deleted before the next attempt, and others written."""
    site = kept_site(make_site)
    made = prepared(site)
    hold, attempts = Keeper.hold, []

    def change_and_hold(self):
        attempts.append(1)
        if len(attempts) == 1:
            site.run("INSERT INTO kept_login VALUES ('short-lived', 1), ('stays', 1)")
        else:
            site.run("DELETE FROM kept_login WHERE key = 'short-lived'")
            site.run("UPDATE kept_login SET value = 2; INSERT INTO kept_login VALUES ('late', 3)")
        hold(self)

    alive = Keeper.is_alive
    monkeypatch.setattr(Keeper, "hold", change_and_hold)
    monkeypatch.setattr(Keeper, "is_alive", lambda self: len(attempts) > 1 and alive(self))
    _live, _parked, result = swapped(site, made, keeping=KEEPING)
    assert result.attempts == 2
    assert sorted(site.run("SELECT * FROM kept_login")) == [("late", 3), ("stays", 2)]
    drop(site, "swap")


# -- F30: somebody dies at a step of the swap ------------------------------------------------------


def locks_of(server: PostgresServer, pid: int) -> list[tuple[Any, ...]]:
    return server.admin(
        "SELECT 1 FROM pg_locks WHERE pid = %s AND locktype = 'relation' AND NOT granted", (pid,)
    )


@contextlib.contextmanager
def in_the_way(site: Site, step: str) -> Iterator[None]:
    """At the step in which the locks are waited for somebody has to hold one."""
    if step != "waiting for the locks":
        yield
        return
    with contextlib.closing(site.connect(autocommit=False)) as client:
        with client.cursor() as cursor:
            cursor.execute("LOCK TABLE kept_line IN ROW EXCLUSIVE MODE")
        yield
        client.rollback()


@pytest.mark.slow
def test_f30_a_process_killed_at_each_step_of_the_swap(new_and_old, make_site, nothing_left_behind):
    site = kept_site(make_site, new_and_old)
    nothing_left_behind.allow(f"{site.name}__temp", f"{site.name}__swap")
    databases = site.server.databases()
    properties = site.database_properties()
    with (
        contextlib.ExitStack() as stack,
        Writers(site.connect, staying=3, returning=3, pause=0.01) as writers,
    ):
        spare = stack.enter_context(Swapper())
        for step in STEPS:
            old, content = site.oid, labelled(site)
            made = prepared(site, step)
            swapper, spare = spare, stack.enter_context(Swapper())
            with in_the_way(site, step):
                swapper.start(site.server.params("postgres"), site.name, made.name, stop_at=step)
                event = swapper.read()
                assert event.get("at") == step, event
                if step == "waiting for the locks":
                    wait_until(lambda: locks_of(site.server, event["pids"]["keeper"]))  # noqa: B023
                swapper.kill()
            with contextlib.closing(site.connect()) as client:
                assert client.info.dbname == site.name
            is_new = STEPS.index(step) >= DECIDED
            outcomes = recovered(site)
            assert site.oid == (made.oid if is_new else old), step
            assert labelled(site) == (step if is_new else content)
            assert outcomes == [Outcome.DROPPED], step
            assert site.server.databases() == databases
            assert site.database_properties() == properties
            writers.wait_for(10)
        swap_once(site, spare, "the next one")
    assert writers.problems() == []


ENDED_BUT_SWAPPED = {
    ("keeper", "holding the locks"),
    ("keeper", "in the delta"),
    ("keeper", "after the delta"),
    ("keeper", "the rename waits"),
    ("keeper", "the others are gone"),
    # It has nothing to do any more.
    ("keeper", "approved"),
    ("keeper", "let go"),
    ("keeper", "renamed"),
    ("keeper", "committed"),
    ("terminator", "the others are gone"),
    ("terminator", "approved"),
    ("terminator", "let go"),
    ("terminator", "renamed"),
    ("terminator", "committed"),
    ("swapper", "committed"),
}
"""Whose end at which step stops no swap: another attempt is made, or nobody needs it any more."""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["keeper", "swapper", "terminator"])
def test_f30_a_session_that_is_ended_at_each_step_of_the_swap(new_and_old, make_site, victim):
    site = kept_site(make_site, new_and_old)
    results = {}
    with (
        Swapper() as swapper,
        Writers(site.connect, staying=3, returning=3, pause=0.01) as writers,
    ):
        for step in STEPS:
            old = site.oid
            made = prepared(site, step)
            with in_the_way(site, step):
                swapper.start(site.server.params("postgres"), site.name, made.name, stop_at=step)
                event = swapper.read()
                assert event.get("at") == step, event
                pid = event["pids"][victim]
                if step == "waiting for the locks" and victim == "keeper":
                    wait_until(lambda: locks_of(site.server, pid))  # noqa: B023
                site.server.admin("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            if step != "waiting for the locks":
                swapper.go()
            told = time.monotonic()
            answer = swapper.read()
            # Nobody is left to wait for a rename that nobody helps any more.
            assert time.monotonic() - told < 4, (step, answer)
            results[step] = answer["swapped"]
            assert site.oid == (made.oid if answer["swapped"] else old), (step, answer)
            if not answer["swapped"]:
                assert labelled(site) != step
                assert answer["error"] in ("server_unavailable", "psycopg2"), answer
            drop(site, "swap" if answer["swapped"] else "temp")
            writers.wait_for(10)
            if step == "let go":
                swap_once(site, swapper, "in between")
        swap_once(site, swapper, "the next one")
    assert writers.problems() == []
    went_on = {step for step, done in results.items() if done}
    expected = {step for who, step in ENDED_BUT_SWAPPED if who == victim}
    assert went_on - expected <= {"waiting for the locks"}
    assert expected <= went_on


def test_f30_a_connection_that_breaks_while_the_server_commits_is_no_failure(
    own_pg, make_site, monkeypatch
):
    """The commit waits for a standby, the client is gone, and then it is done after all."""
    server = own_pg()
    site = kept_site(make_site, server)
    made = prepared(site)
    server.admin("ALTER ROLE app SET synchronous_commit = 'on'")
    rename = swapper_module.Swapper._rename

    def standbys(names: str) -> None:
        server.admin(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        server.admin("SELECT pg_reload_conf()")

    def break_it(connection):
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        wait_until(lambda: server.admin(waits, (connection.info.backend_pid,)))
        with socket.socket(fileno=os.dup(connection.fileno())) as broken:
            broken.shutdown(socket.SHUT_RDWR)
        time.sleep(1)
        standbys("")

    def rename_and_wait_for_a_standby(self):
        rename(self)
        standbys("nobody")
        wait_until(lambda: server.run("SHOW synchronous_standby_names") == [("nobody",)])
        time.sleep(0.3)
        threading.Thread(target=break_it, args=(self._connection,)).start()

    monkeypatch.setattr(swapper_module.Swapper, "_rename", rename_and_wait_for_a_standby)
    swapped(site, made, keeping=KEEPING)
    assert site.oid == made.oid
    drop(site, "swap")


# -- F29, F30: the whole command is killed ---------------------------------------------------------

COMMANDS = textwrap.dedent(
    """
    import json, os, sys
    import django
    django.setup()
    from django.core.management import execute_from_command_line
    import pgclone_admin.management.commands.pgclone, pgclone_admin.services.restores

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os.setsid()
            output = os.open(os.environ["COMMAND_OUTPUT"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            execute_from_command_line(["manage.py", *json.loads(line)])
            sys.exit()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    """
)
"""Runs commands, each in a process of its own that has everything loaded already: what is to be
killed is a restore, not the start of Python."""


class Commands:
    def __init__(self, project: Any, manage: Any, folder: Path) -> None:
        self.output = folder / "command-output"
        file = manage.settings_file(project, project.settings, apps=project.apps)
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            cwd=ROOT,
            env=manage.environment(
                {"PGCLONE_TEST_SETTINGS": str(file), "COMMAND_OUTPUT": str(self.output)}
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def start(self, *arguments: str) -> int:
        """Starts a command; returns the id of its process."""
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """Its exit status, or the signal with a minus."""
        return int(self._process.stdout.readline())


MOMENTS = 44


@pytest.mark.slow
def test_f29_f30_a_restore_killed_at_44_moments(
    make_project, manage, tmp_path, nothing_left_behind
):
    """Spread over its whole duration. After every second one the next restore has to cope with what
    was left, after the others `recover`; clients log in and out all the time."""
    project = make_project(apps=["django.contrib.sessions"])
    server = project.server
    nothing_left_behind.allow(f"{project.name}__temp", f"{project.name}__swap", "pgclone_new_*")
    key = take(project, project.storage_root).text
    restored = project.people()
    databases = server.databases()
    arguments = ("pgclone", "restore", key, "--no-reversible", "--pre-swap-hook", "good_hook")
    killed = {"old": 0, "new": 0}
    with (
        Commands(project, manage, tmp_path) as commands,
        Writers(
            project.connect, staying=2, returning=2, tables=["django_session"], pause=0.01
        ) as writers,
    ):
        durations = []
        for _ in range(2):
            started = time.monotonic()
            commands.start(*arguments)
            assert commands.wait() == 0, commands.output.read_text()
            durations.append(time.monotonic() - started)
        for moment in range(MOMENTS):
            project.add_person(f"moment {moment}")
            old, before = project.oid, project.people()
            pid = commands.start(*arguments)
            time.sleep(min(durations) * (moment + 0.5) / MOMENTS)
            with contextlib.suppress(ProcessLookupError):
                signal_process(pid)
            commands.wait()
            with contextlib.closing(project.connect()) as client:
                assert client.info.dbname == project.name
            wait_until(lambda: not server.admin(AT_WORK))
            if project.oid == old:
                killed["old"] += 1
                assert project.people() == before
            else:
                killed["new"] += 1
                assert project.people() == restored
            if moment % 2:
                recovered(project)
                assert server.databases() == databases
        commands.start(*arguments)
        assert commands.wait() == 0, commands.output.read_text()
    assert writers.problems() == []
    assert project.people() == restored
    assert killed["old"] > 20
    recovered(project)
    list(recover_temporary(tempfile.gettempdir(), older_than=timedelta(0), dry_run=False))
    assert server.databases() == databases


AT_WORK = """
    SELECT 1 FROM pg_stat_activity WHERE query ILIKE 'ALTER DATABASE%%RENAME%%'
       AND state <> 'idle' AND pid <> pg_backend_pid()
"""


def signal_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# -- F31: sessions that cannot be ended, and come late ---------------------------------------------


@contextlib.contextmanager
def refused_within(seconds: float, match: str) -> Iterator[None]:
    started = time.monotonic()
    with pytest.raises(TooBusy, match=match):
        yield
    assert time.monotonic() - started < seconds


def test_f31_a_superuser_that_comes_between_two_attempts_is_named_at_once(
    new_and_old, make_site, monkeypatch
):
    site = kept_site(make_site, new_and_old)
    made = prepared(site)
    lock, came = Keeper._lock, []
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(contextlib.closing(site.connect(autocommit=False)))
        with writer.cursor() as cursor:
            cursor.execute("INSERT INTO kept_login VALUES ('not committed', 1)")

        def lock_while_somebody_comes(self, live):
            try:
                lock(self, live)
            finally:
                came.append(
                    stack.enter_context(site.server.held_session(site.name, user="postgres"))
                )

        monkeypatch.setattr(Keeper, "_lock", lock_while_somebody_comes)
        with unchanged(site), refused_within(3, r"superuser is connected.*postgres \(tests, pid"):
            swapped(site, made, keeping=KEEPING, patience=30)
        assert len(came) == 1
        writer.commit()  # nobody was sent away for it
    drop(site, "temp")


def test_f31_a_superuser_that_comes_just_before_the_rename_is_named_in_seconds(
    new_and_old, make_site, monkeypatch
):
    """After the last check: it is met while the rename waits, and nobody waits for long with it."""
    site = kept_site(make_site, new_and_old)
    made = prepared(site)
    hold = Keeper.hold
    with (
        contextlib.ExitStack() as stack,
        Writers(site.connect, staying=2, returning=2) as writers,
    ):

        def hold_while_somebody_comes(self):
            hold(self)
            came = site.server.held_session(site.name, user="postgres")
            stack.enter_context(came)

        monkeypatch.setattr(Keeper, "hold", hold_while_somebody_comes)
        oid = site.oid
        with refused_within(5, r"could not be ended: .*postgres \(tests, pid"):
            swapped(site, made, keeping=KEEPING, patience=30)
        assert site.oid == oid
        writers.wait_for(20)
    assert writers.problems() == []
    assert max(end - begin for ledger in writers.ledgers for begin, end in ledger.waits) < 5
    drop(site, "temp")


def test_f31_a_prepared_transaction_that_comes_late_does_not_close_the_database(
    make_site, monkeypatch
):
    """It counts as somebody who is connected, and cannot be sent away."""
    site = kept_site(make_site)
    made = prepared(site)
    hold = Keeper.hold

    def hold_after_somebody_prepares(self):
        hold(self)
        with contextlib.closing(site.connect(autocommit=False)) as client:
            with client.cursor() as cursor:
                cursor.execute("INSERT INTO label VALUES ('prepared')")
                cursor.execute(f"PREPARE TRANSACTION 'late {time.monotonic()}'")
            client.commit()

    monkeypatch.setattr(Keeper, "hold", hold_after_somebody_prepares)
    with Writers(site.connect, staying=1, returning=1) as writers:
        with refused_within(8, "has prepared transactions: late"):
            swapped(site, made, keeping=KEEPING, patience=30)
        for (gid,) in site.server.admin("SELECT gid FROM pg_prepared_xacts"):
            site.run(f"ROLLBACK PREPARED '{gid}'")
        writers.wait_for(10)
    assert writers.problems() == []
    drop(site, "temp")


# -- limits of the role and the database -----------------------------------------------------------

TINY = "40ms"


@pytest.mark.parametrize("whose", ['DATABASE "{}"', "ROLE app"])
def test_f31_tiny_time_limits_end_no_session_of_a_restore(
    new_and_old, make_site, storage_root, monkeypatch, whose
):
    server = new_and_old
    site = kept_site(make_site, server)
    site.run("INSERT INTO kept_login VALUES ('kept', 1)")
    key = take(site, storage_root)
    names = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    names += ["transaction_timeout"] if server.major >= 17 else []
    monkeypatch.setattr(keeper_module, "HELD_AT_MOST", 20_000)

    def slow(owner, name):
        original = getattr(owner, name)

        def slowly(*arguments, **keywords):
            time.sleep(0.1)
            result = original(*arguments, **keywords)
            time.sleep(0.1)
            return result

        monkeypatch.setattr(owner, name, slowly)

    for owner, name in (
        (Carrier, "copy"),
        (Carrier, "_take_over"),
        (Carrier, "_set_sequences"),
        (Keeper, "_lock"),
        (Keeper, "hold"),
        (Keeper, "is_alive"),
        (swapper_module.Swapper, "_rename"),
        (swap_module, "_attempt"),
    ):
        slow(owner, name)
    altered = whose.format(site.name)
    try:
        for name in names:
            server.admin(f"ALTER {altered} SET {name} = '{TINY}'")
        oid = site.oid
        restore(
            site,
            key,
            storage_root,
            keeping=KEEPING,
            reversible=True,
            hooks=lambda _: time.sleep(0.2),
        )
        assert site.oid != oid
        assert site.server.run("SELECT key FROM kept_login", site.name) == [("kept",)]
    finally:
        for name in names:
            server.admin(f"ALTER {altered} RESET {name}")


# -- F39: two at once, and a lock that is lost -----------------------------------------------------


def test_f39_of_two_restores_at_once_one_does_it_and_one_is_told(
    new_and_old, make_site, storage_root
):
    """At the same instant, in threads of their own, again and again."""
    site = kept_site(make_site, new_and_old)
    key = take(site, storage_root)
    for _ in range(3):
        start, outcomes = threading.Barrier(3), []

        def one():
            start.wait()  # noqa: B023 - joined in this round
            try:
                restore(site, key, storage_root, keeping=KEEPING)
                outcomes.append("done")  # noqa: B023
            except Conflict as error:
                outcomes.append(error.code)  # noqa: B023

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["conflict", "conflict", "done"]
        assert labelled(site) == "old"


def end_lock(site: Site) -> None:
    site.server.admin(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
        " AND pid <> pg_backend_pid()"
    )


def test_f39_a_restore_whose_lock_was_lost_replaces_nothing(new_and_old, make_site, storage_root):
    site = kept_site(make_site, new_and_old)
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(PgcloneError) as raised:
        restore(site, key, storage_root, keeping=KEEPING, hooks=lambda _name: end_lock(site))
    assert raised.value.code in ("conflict", "server_unavailable")
    restore(site, key, storage_root, keeping=KEEPING)


def test_f39_a_lock_that_is_lost_between_two_attempts_stops_the_swap(
    make_site, storage_root, monkeypatch
):
    """Another restore has the lock by then, and is in its hooks when the first would swap."""
    site = kept_site(make_site)
    key = take(site, storage_root)
    hold = Keeper.hold
    attempts = []

    def lose_the_lock(self):
        attempts.append(1)
        end_lock(site)
        with connected(site.server) as other:
            take_lock(other, site.name, exclusive=True)
        raise TooBusy("somebody is at work")

    monkeypatch.setattr(Keeper, "hold", lose_the_lock)
    with unchanged(site), pytest.raises(Conflict, match="was lost"):
        restore(site, key, storage_root, keeping=KEEPING)
    assert len(attempts) == 1
    monkeypatch.setattr(Keeper, "hold", hold)
    restore(site, key, storage_root, keeping=KEEPING)


def test_f39_the_lock_goes_with_the_process_that_had_it(
    new_and_old, make_site, nothing_left_behind
):
    site = kept_site(make_site, new_and_old)
    nothing_left_behind.allow(f"{site.name}__temp")
    made = prepared(site)
    with Swapper() as swapper:
        swapper.start(
            site.server.params("postgres"), site.name, made.name, stop_at="after the copy"
        )
        assert swapper.read()["at"] == "after the copy"
        with connected(site.server) as server:
            with pytest.raises(Conflict, match="is running"):
                take_lock(server, site.name, exclusive=True)
            with pytest.raises(Conflict, match="is running"):
                take_lock(server, site.name, exclusive=False)
    assert recovered(site) == [Outcome.DROPPED]


# -- F35, F38, F40 ---------------------------------------------------------------------------------


def test_f35_a_hook_that_fails_leaves_live_and_its_kept_rows_as_they_were(make_site, storage_root):
    site = kept_site(make_site)
    site.run("INSERT INTO kept_login VALUES ('kept', 1)")
    key = take(site, storage_root)

    def fail(_temporary):
        raise HookFailed("the hook failed")

    with unchanged(site, made={f"{site.name}__temp"}), pytest.raises(HookFailed):
        restore(site, key, storage_root, keeping=KEEPING, hooks=fail)
    restore(site, key, storage_root, keeping=KEEPING)
    assert site.run("SELECT key FROM kept_login") == [("kept",)]


def test_f38_what_was_made_after_the_dump_is_gone_and_is_in_the_database_that_was_replaced(
    make_site, storage_root
):
    site = kept_site(make_site)
    key = take(site, storage_root)
    site.run("CREATE TABLE later (id integer); INSERT INTO kept_login VALUES ('later', 1)")
    restore(site, key, storage_root, keeping=KEEPING, reversible=True)
    assert site.run("SELECT to_regclass('later')::text") == [(None,)]
    assert site.run("SELECT key FROM kept_login") == [("later",)]
    pre = f"{site.name}__pre"
    assert site.run("SELECT to_regclass('later')::text", dbname=pre) == [("later",)]


def test_f40_an_undo_has_the_same_guarantees_and_can_be_undone(
    new_and_old, make_site, storage_root
):
    """Rows of kept tables go along in both directions while clients write them."""
    site = kept_site(make_site, new_and_old)
    label(site, "dumped")
    key = take(site, storage_root)
    label(site, "mistaken for bad")
    properties = site.database_properties()
    with Writers(site.connect, staying=3, returning=3) as writers:
        restore(site, key, storage_root, keeping=KEEPING, reversible=True)
        assert labelled(site) == "dumped"
        writers.wait_for(30)
        restore(site, ":pre", keeping=KEEPING)
        assert labelled(site) == "mistaken for bad"
        writers.wait_for(30)
        restore(site, ":undo", keeping=KEEPING)
        assert labelled(site) == "dumped"
        writers.wait_for(30)
    assert writers.problems() == []
    assert site.database_properties() == properties
