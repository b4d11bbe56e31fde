"""A pooler before the server: one that lets sessions be is told, another one stops a restore."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from pgclone_admin.core.connection import Connection, ConnectionParams
from pgclone_admin.core.copy import copy_database
from pgclone_admin.core.errors import PreflightError
from pgclone_admin.core.kept import Keeping, KeptName
from pgclone_admin.core.locks import is_locked, take_lock
from pgclone_admin.core.names import TableName
from pgclone_admin.core.pooler import check_sessions_last
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.server import Server
from tests.support.places import no_database_is_made
from tests.support.pooler import SessionPooler
from tests.support.sites import Site

from .operations import connected, label, labelled, mark, restore, take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

KEEPING = Keeping(tables=[KeptName(table=TableName("public", "kept"))])


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    site = make_site(empty=True, properties=False)
    label(site, "old")
    site.run("CREATE TABLE kept (id integer PRIMARY KEY)")
    return site


@pytest.fixture
def pooler(site: Site) -> Iterator[SessionPooler]:
    with SessionPooler(site.server) as pooler:
        yield pooler


def is_ended(session: Connection) -> bool:
    try:
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.OperationalError:
        return True
    return False


def test_behind_a_pooler_that_makes_numbers_up_a_swap_ends_the_sessions(
    site: Site, pooler: SessionPooler, storage_root
) -> None:
    key = take(site, storage_root)
    label(site, "newer")
    site.run("INSERT INTO kept VALUES (1)")
    reporter = SilentReporter()
    maintenance = site.server.params("postgres", port=str(pooler.port))
    with site.server.held_session(site.name) as held:
        result = restore(
            site,
            key,
            storage_root,
            maintenance=maintenance,
            keeping=KEEPING,
            swap_patience=5,
            reporter=reporter,
        )
        assert is_ended(held)
    assert result.swap is not None
    assert result.swap.attempts == 1
    assert labelled(site) == "old"
    assert site.run("SELECT id FROM kept") == [(1,)]
    assert [told for told in reporter.warnings if "goes through a pooler" in told]


def test_behind_such_a_pooler_a_copy_ends_the_sessions(site: Site, pooler: SessionPooler) -> None:
    maintenance = site.server.params("postgres", port=str(pooler.port))
    with site.server.held_session(site.name) as held, Server.connected(maintenance) as server:
        result = copy_database(
            server,
            server.existing(site.name),
            mark("whole", of=site.name, kind="copy"),
            SilentReporter(),
            end_sessions=True,
        )
        assert is_ended(held)
    assert not result.piped
    site.server.drop_database(result.database.name)


def test_a_pooler_that_lends_its_connections_stops_a_restore(
    site: Site, storage_root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives both sessions of the check the same one of the server."""
    key = take(site, storage_root)
    shared = site.server.params("postgres").connect()

    @contextlib.contextmanager
    def session(self: ConnectionParams, *, autocommit: bool = True) -> Iterator[Connection]:
        yield shared

    with contextlib.closing(shared), unchanged(site), no_database_is_made(site.server):
        monkeypatch.setattr(ConnectionParams, "session", session)
        with pytest.raises(PreflightError, match="does not keep locks") as caught:
            restore(site, key, storage_root)
        assert "PGCLONE_CONNECTIONS" in str(caught.value.hint)
        with shared.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")
            assert cursor.fetchall() == []
    monkeypatch.undo()


def test_the_check_leaves_the_lock_of_the_restore_alone(site: Site) -> None:
    with connected(site.server) as ours, connected(site.server) as other:
        take_lock(ours, site.name, exclusive=True)
        assert check_sessions_last(ours) == []
        assert is_locked(other, site.name)


def test_a_plan_and_the_doctor_tell_of_a_pooler(project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    with SessionPooler(project.server) as pooler:
        project.settings["PGCLONE_CONNECTIONS"] = {"default": {"PORT": str(pooler.port)}}
        plan = project.pgclone("restore", key, "--plan", "--json").ok().json()
        findings = project.pgclone("doctor", "--json").ok().json()
        project.pgclone("restore", key).ok()
    (told,) = [f for f in findings if f["about"] == "pooler"]
    assert told["level"] == "warning"
    assert told["found"] in plan["warnings"]
