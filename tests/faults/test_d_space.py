"""Restores that find no room on the server (F36)."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgclone_admin.core.errors import NoRoom, PermissionMissing
from pgclone_admin.core.names import derived_name
from pgclone_admin.store import DumpStore
from tests.support.django_project import Project
from tests.support.invariants import Checker
from tests.support.places import (
    dump,
    make_bulk,
    no_database_is_made,
    restore,
    unchanged,
)
from tests.support.postgres import PostgresServer, system_user
from tests.support.sites import Site

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

MEGABYTES = 48
"""Of the small disk: the database that is live has room, and a small copy of it."""


@pytest.fixture
def small_tablespace(pg: PostgresServer, tmp_path: Path) -> Iterator[Path]:
    """The tablespace "small" on a file system of its own."""
    folder = Path(f"/tmp/pgclone-small-{tmp_path.name}")  # the server cannot enter tmp_path
    folder.mkdir()
    mount = shutil.which("mount")
    options = f"size={MEGABYTES}m,mode=0777"
    command = [mount or "", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("a small file system can only be mounted by root")
    try:
        if (user := system_user()) is not None:
            shutil.chown(folder, pwd.getpwnam(user).pw_uid)
        pg.admin(f"CREATE TABLESPACE small OWNER app LOCATION '{folder}'")
        yield folder
        pg.admin("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("size", [44, 16], ids=["rows", "the index"])
def test_f36_a_full_disk_of_the_server_fails_the_restore_and_is_given_back(
    pg: PostgresServer,
    small_tablespace: Path,
    storage_root: Path,
    nothing_left_behind: Checker,
    size: int,
) -> None:
    large = make_bulk(pg, size)
    if size < MEGABYTES // 2:
        large.run("CREATE INDEX ON bulk (encode(substr(data, 1, 1300), 'hex'))")
    store = DumpStore(str(storage_root))
    manifest = dump(large, store)
    name = pg.create_database(pg.fresh_name("live"), extra="TABLESPACE small")
    pg.run("CREATE TABLE here AS SELECT 'what was live' AS text", name, "app")
    live = Site(pg, name)
    pg.admin("CHECKPOINT")
    oid, before = live.oid, shutil.disk_usage(small_tablespace).used
    try:
        with pytest.raises(NoRoom) as caught:
            restore(live, manifest.key, store)
        assert "the disk of the server is full" in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert "was not touched" in (caught.value.hint or "")
        assert live.oid == oid
        assert pg.run("SELECT text FROM here", name) == [("what was live",)]
        nothing_left_behind.check()
        # The server removes files at its next checkpoint.
        pg.admin("CHECKPOINT")
        assert shutil.disk_usage(small_tablespace).used < before + 2_000_000
    finally:
        pg.drop_database(name)


def test_f36_a_restore_that_needs_more_than_the_limit_is_refused_before_anything_is_made(
    site: Site, storage_root: Path
) -> None:
    store = DumpStore(str(storage_root))
    manifest = dump(site, store)
    (live,) = site.server.admin("SELECT pg_database_size(%s)", (site.name,))[0]
    enough = live + manifest.source_size + 2_000_000
    with unchanged(site), no_database_is_made(site.server), pytest.raises(NoRoom) as caught:
        restore(site, manifest.key, store, most_bytes=manifest.source_size)
    assert "PGCLONE_MAX_DISK_BYTES" in str(caught.value)
    with unchanged(site), pytest.raises(NoRoom):
        restore(site, manifest.key, store, most_bytes=enough, reversible=True)
    restore(site, manifest.key, store, most_bytes=enough)


def test_f36_the_plan_and_the_command_know_the_limit(project: Project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    limit: dict[str, Any] = {"PGCLONE_MAX_DISK_BYTES": 1_000_000}
    plan = project.pgclone("restore", key, "--plan", "--json", settings=limit).failed().json()
    assert [obstacle["code"] for obstacle in plan["obstacles"]] == ["no_room"]
    assert plan["peak_size"] > plan["needed_size"] > 1_000_000
    oid = project.oid
    done = project.pgclone("restore", key, settings=limit).failed()
    assert "PGCLONE_MAX_DISK_BYTES allows 1,000,000" in done.stderr
    assert project.oid == oid
    project.pgclone("restore", key, "--reversible").ok()
    oid = project.oid
    done = project.pgclone("restore", ":pre", settings=limit).failed()
    assert "PGCLONE_MAX_DISK_BYTES" in done.stderr
    assert project.oid == oid


def test_f36_a_copy_and_a_reversible_swap_know_the_limit_and_count_all_copies(
    project: Project,
) -> None:
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("copy", ":first").ok()
    (size,) = project.server.admin("SELECT pg_database_size(%s)", (project.name,))[0]
    # Enough for the live database, one copy, and half of another one.
    limit: dict[str, Any] = {"PGCLONE_MAX_DISK_BYTES": size * 5 // 2}
    with no_database_is_made(project.server):
        done = project.pgclone("copy", ":second", settings=limit).failed()
    assert "PGCLONE_MAX_DISK_BYTES allows" in done.stderr
    project.server.drop_database("first")
    project.pgclone("restore", key, "--hold").ok()
    oid = project.oid
    done = project.pgclone("swap", "--reversible", settings=limit).failed()
    assert "PGCLONE_MAX_DISK_BYTES allows" in done.stderr
    assert project.oid == oid
    project.pgclone("swap", settings=limit).ok()


def test_f36_where_sizes_may_not_be_seen_only_a_limit_needs_them(
    make_site: Callable[..., Site], storage_root: Path
) -> None:
    site = make_site(empty=True)
    store = DumpStore(str(storage_root))
    manifest = dump(site, store)
    restore(site, manifest.key, store, reversible=True)
    older = derived_name(site.name, "pre")
    site.server.admin(f'REVOKE CONNECT ON DATABASE "{older}" FROM PUBLIC, app')
    with pytest.raises(PermissionMissing, match=f'how large "{older}" is cannot be told'):
        restore(site, manifest.key, store, most_bytes=10**12)
    restore(site, manifest.key, store)
