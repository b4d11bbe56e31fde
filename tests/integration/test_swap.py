"""The swap: two renames in one transaction, while clients are at work."""

from __future__ import annotations

import contextlib
import threading

import psycopg2
import pytest

from pgclone_admin.core import swap as swap_module
from pgclone_admin.core import swapper as swapper_module
from pgclone_admin.core.errors import Conflict, TooBusy
from pgclone_admin.core.keeper import Keeper
from pgclone_admin.core.names import derived_name
from pgclone_admin.core.swap import has_swapped, put_in_place

from .operations import (
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

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


def test_a_swap_changes_names_and_marks_together(make_site):
    site = make_site()
    oid, properties = site.oid, site.database_properties()
    made = temporary(site)
    live, parked, result = swapped(site, made, becomes="pre", source=":x")
    assert (site.oid, live.oid) == (made.oid, oid)
    assert labelled(site) == "new"
    assert site.database_properties() == properties
    assert site.server.oid(parked.name) == oid
    assert site.server.comment(parked.name) == parked.comment()
    assert site.server.oid(made.name) is None
    assert 0 < result.seconds < 5
    drop(site, "swap")


def test_the_live_name_is_there_at_every_instant(make_site):
    site = make_site(empty=True)
    label(site, "old")
    oids = {site.oid}
    seen, done = set(), threading.Event()

    def look():
        with contextlib.closing(site.server.connect()) as connection, connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute("SELECT oid FROM pg_database WHERE datname = %s", (site.name,))
                seen.add(tuple(row[0] for row in cursor.fetchall()))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(5):
            made = temporary(site)
            oids.add(made.oid)
            swapped(site, made)
            drop(site, "swap")
    finally:
        done.set()
        watcher.join()
    assert seen == {(oid,) for oid in oids}


def test_sessions_of_both_databases_are_ended(make_site):
    site = make_site()
    made = temporary(site)
    with (
        site.server.held_session(site.name) as of_live,
        site.server.held_session(made.name) as of_temporary,
    ):
        swapped(site, made)
        for connection in (of_live, of_temporary):
            with pytest.raises(psycopg2.OperationalError), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
    drop(site, "swap")


def test_a_transaction_that_is_open_on_the_live_database_is_ended_and_undone(make_site):
    site = make_site()
    label(site, "old")
    made = temporary(site)
    with contextlib.closing(site.connect(autocommit=False)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE label SET content = 'never committed'")
        swapped(site, made)
        with pytest.raises(psycopg2.OperationalError):
            connection.commit()
    assert labelled(site, derived_name(site.name, "swap")) == "old"
    drop(site, "swap")


# -- who cannot be sent away -----------------------------------------------------------------------


def test_a_superuser_may_send_superusers_away(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root, user="postgres")
    oid = site.oid
    with site.server.held_session(site.name, user="postgres"):
        restore(site, key, storage_root, user="postgres")
    assert site.oid != oid


def test_with_pg_signal_backend_sessions_of_other_roles_are_ended(own_pg, make_site, storage_root):
    server = own_pg()
    site = make_site(server)
    server.admin("GRANT pg_signal_backend TO app")
    server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    key = take(site, storage_root)
    oid = site.oid
    with server.held_session(site.name, user="other"):
        restore(site, key, storage_root)
    assert site.oid != oid


def test_a_session_of_another_role_that_comes_late_ends_nobody(make_site):
    site = make_site()
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    made = temporary(site)
    with (
        site.server.held_session(site.name, user="other"),
        site.server.held_session(site.name) as ours,
        unchanged(site),
    ):
        with pytest.raises(TooBusy, match=r"may not end sessions .*: other \(tests, pid") as raised:
            swapped(site, made)
        with ours.cursor() as cursor:
            cursor.execute("SELECT 1")
    assert "pg_signal_backend" in raised.value.hint
    drop(site, "temp")


# -- other things in the way -----------------------------------------------------------------------


def test_a_lock_on_the_live_database_that_is_not_let_go_is_too_busy(make_site, monkeypatch):
    monkeypatch.setattr(swapper_module, "LOCK_TIMEOUT", 300)
    site = make_site()
    made = temporary(site)
    with contextlib.closing(site.server.connect(autocommit=False)) as blocker:
        with blocker.cursor() as cursor:
            cursor.execute(f"COMMENT ON DATABASE \"{site.name}\" IS 'not yet committed'")
        with unchanged(site), pytest.raises(TooBusy):
            swapped(site, made, patience=3)
        blocker.rollback()
    drop(site, "temp")


def test_a_parked_name_that_is_taken_undoes_everything(make_site):
    site = make_site()
    made = temporary(site)
    make_site(name=derived_name(site.name, "swap"), empty=True)
    with unchanged(site), pytest.raises(Conflict, match="already exists"):
        swapped(site, made)
    drop(site, "temp")
    site.server.drop_database(derived_name(site.name, "swap"))


def test_another_database_under_the_temporary_name_is_not_swapped_in(make_site):
    """The lock was lost, and a second restore has put its own there."""
    site = make_site()
    label(site, "live")
    first = temporary(site, "first")
    second = temporary(site, "second")
    assert first.oid != second.oid
    with unchanged(site), pytest.raises(Conflict, match="not the one that was restored"):
        swapped(site, first)
    assert labelled(site) == "live"
    drop(site, "temp")


def test_a_setting_that_cannot_be_carried_undoes_the_renames(make_site):
    site = make_site()
    made = temporary(site)
    site.server.admin(f"ALTER DATABASE \"{site.name}\" SET log_statement = 'all'")
    with unchanged(site), pytest.raises(Exception, match="log_statement") as raised:
        swapped(site, made)
    assert raised.value.code == "not_carried"
    drop(site, "temp")


def test_whether_a_swap_has_happened_is_told_by_the_oids(make_site):
    site = make_site()
    made = temporary(site)
    with connected(site.server) as server:
        live = server.existing(site.name)
        assert not has_swapped(server.params, live, made)
        swapped(site, made)
        assert has_swapped(server.params, live, made)
    drop(site, "swap")


def test_a_connection_that_breaks_after_the_commit_is_no_failure(make_site, monkeypatch):
    site = make_site()
    made = temporary(site)
    commit = swapper_module.Swapper.run

    def commit_and_break(self):
        commit(self)
        self.error = psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(swapper_module.Swapper, "run", commit_and_break)
    swapped(site, made)
    assert site.oid == made.oid
    drop(site, "swap")


def test_a_watching_connection_that_breaks_does_not_hide_that_the_swap_was_done(
    make_site, monkeypatch
):
    site = make_site()
    made = temporary(site)
    watch = swap_module._end_sessions_until_done

    def watch_and_break(*arguments):
        watch(*arguments)
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(swap_module, "_end_sessions_until_done", watch_and_break)
    swapped(site, made)
    assert site.oid == made.oid
    drop(site, "swap")


@pytest.mark.parametrize(
    ("where", "step"),
    [
        (swap_module, "_end_sessions_until_done"),
        (swapper_module.Swapper, "join"),
        (Keeper, "let_go"),
    ],
    ids=["when it is done", "while it is committed", "when the sessions are closed"],
)
def test_an_interruption_that_comes_too_late_does_not_hide_that_the_swap_was_done(
    make_site, monkeypatch, where, step
):
    site = make_site()
    made = temporary(site)
    do, approve = getattr(where, step), swapper_module.Swapper.approve
    approved, interruptions = [], []

    def approve_and_remember(attempt):
        approve(attempt)
        approved.append(attempt)

    def do_and_be_interrupted(*arguments):
        is_waiting = step == "join"
        result = None if is_waiting else do(*arguments)
        is_time = approved and (is_waiting or not approved[0].is_alive())
        if is_time and len(interruptions) < 2:
            interruptions.append(step)
            raise KeyboardInterrupt
        return do(*arguments) if is_waiting else result

    monkeypatch.setattr(swapper_module.Swapper, "approve", approve_and_remember)
    monkeypatch.setattr(where, step, do_and_be_interrupted)
    swapped(site, made)
    assert interruptions
    assert site.oid == made.oid
    drop(site, "swap")


def test_an_interruption_in_time_leaves_everything_as_it_was(make_site, monkeypatch):
    site = make_site()
    made = temporary(site)
    make_site(name=derived_name(site.name, "swap"), empty=True)

    def be_interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(swap_module, "_end_sessions_until_done", be_interrupted)
    with unchanged(site), pytest.raises(KeyboardInterrupt):
        swapped(site, made)
    drop(site, "temp")
    site.server.drop_database(derived_name(site.name, "swap"))


def test_a_database_that_was_missing_is_put_in_place_without_a_mark(make_site):
    site = make_site()
    made = temporary(site)
    name = f"{site.name} new"
    with connected(site.server) as server:
        put_in_place(server, made, name)
    assert site.server.oid(name) == made.oid
    assert site.server.comment(name) is None


def test_a_name_that_appeared_meanwhile_is_not_overwritten(make_site):
    site = make_site()
    made = temporary(site)
    oid = site.oid
    with connected(site.server) as server, pytest.raises(Conflict, match="already exists"):
        put_in_place(server, made, site.name)
    assert site.oid == oid
    drop(site, "temp")
