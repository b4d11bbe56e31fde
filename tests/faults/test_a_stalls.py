"""What hangs without a time-out of its own: pg_dump, or a storage (F07)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgclone_admin.core import stall
from pgclone_admin.core.errors import Stalled, StorageError
from pgclone_admin.core.stall import Attendant, AttendedReader
from pgclone_admin.storage.base import is_partial
from pgclone_admin.store import DumpStore
from tests.support.cutting_proxy import CuttingProxy
from tests.support.django_project import Project
from tests.support.fake_programs import FakePrograms, print_file, sleep, touch
from tests.support.invariants import Checker
from tests.support.places import Place, dump, make_bulk, make_place, restore, unchanged
from tests.support.processes import is_running
from tests.support.s3 import Bucket
from tests.support.sites import Site
from tests.support.storages import Box

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

LIMIT = 1.0


@pytest.fixture(autouse=True)
def impatient(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PGCLONE_STALL_TIMEOUT = LIMIT
    monkeypatch.setattr(stall, "LOOK", 0.1)
    monkeypatch.setattr(stall, "FAREWELL", 0.5)


@pytest.fixture
def anything(request: pytest.FixtureRequest) -> Place:
    return make_place("alias of anything", request)


@pytest.fixture
def archive(site: Site, tmp_path: Path) -> Path:
    path = tmp_path / "site.archive"
    path.write_bytes(site.archive())
    return path


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened in the end, so that no thread waits for ever."""
    event = threading.Event()
    yield event
    event.set()


def sessions_of_pg_dump(site: Site) -> int:
    rows = site.server.run(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND datname = %s",
        params=[site.name],
    )
    return int(rows[0][0])


# -- the storage takes nothing --------------------------------------------------------------------


def test_f07_a_bucket_that_takes_nothing_more_holds_neither_pg_dump_nor_the_lock(
    s3_bucket: Bucket, s3_proxy: CuttingProxy, settings: Any, make_site: Any, pg: Any
) -> None:
    bulk, site = make_bulk(pg, 20), make_site()
    for name, value in s3_bucket.settings("p/", endpoint_url=s3_proxy.endpoint_url).items():
        setattr(settings, name, value)
    opened = s3_proxy.hold("UploadPart", times=None)
    started = time.monotonic()
    try:
        with pytest.raises(Stalled) as caught:
            dump(bulk, DumpStore(s3_bucket.location("p/")))
        assert time.monotonic() - started < 15
        assert caught.value.code == "stalled"
        assert "the storage has neither taken nor given anything" in str(caught.value)
        assert "PGCLONE_STALL_TIMEOUT" in (caught.value.hint or "")
        assert not opened.is_set(), "it hangs still"
        assert sessions_of_pg_dump(bulk) == 0, "its snapshot keeps VACUUM from working"
        assert bulk.server.run(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "postgres"
        ) == [(0,)]
    finally:
        opened.set()
    deadline = time.monotonic() + 20
    while s3_bucket.open_uploads() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert s3_bucket.keys() == []
    assert site.oid


def test_f07_a_storage_that_never_returns_from_a_call_ends_the_dump_all_the_same(
    site: Site, anything: Place, faulty: Box, nothing_left_behind: Checker
) -> None:
    faulty.stall_at = 1000
    with pytest.raises(Stalled):
        dump(site, anything.store)
    assert faulty.stalled.is_set()
    nothing_left_behind.check()
    # The sign of what was begun: the thread that could remove it hangs.
    assert list(anything.backend.list("")) == []
    assert [is_partial(name) for name in anything.names()] == [True]


def test_f07_a_storage_that_comes_to_its_end_after_all_keeps_nothing_of_it(
    site: Site, anything: Place, faulty: Box
) -> None:
    faulty.stall_at = len(site.archive()) // 2
    store = anything.store
    with pytest.raises(Stalled):
        dump(site, store)
    faulty.stall_at = None
    faulty.go_on.set()
    deadline = time.monotonic() + 10
    while anything.names() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert anything.names() == []
    assert dump(site, store).size > 0, "the same storage is used again"


def test_f07_a_storage_that_hangs_after_the_dump_gives_the_lock_back(
    site: Site, anything: Place, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = anything.store
    save = type(store._backend).save

    def hang_at_the_manifest(self: Any, name: str, *arguments: Any, **more: Any) -> None:
        if name.endswith(".json"):
            gate.wait()
        save(self, name, *arguments, **more)

    monkeypatch.setattr(type(store._backend), "save", hang_at_the_manifest)
    with pytest.raises(Stalled) as caught:
        dump(site, store)
    assert "could not be removed either" in "".join(caught.value.__notes__)


def test_f07_a_storage_that_is_only_slow_is_waited_for(
    site: Site, anything: Place, faulty: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = 8
    faulty.chunk_size = len(site.archive()) // pieces + 1
    read = type(faulty.storage)._save

    def slowly(self: Any, name: str, content: Any) -> str:
        pauses = iter([LIMIT / 3] * pieces)

        class Slow:
            def read(self, size: int) -> bytes:
                time.sleep(next(pauses, 0))
                data: bytes = content.read(size)
                return data

        return read(self, name, Slow())

    monkeypatch.setattr(type(faulty.storage), "_save", slowly)
    started = time.monotonic()
    assert dump(site, anything.store).size > 0
    assert time.monotonic() - started > 2 * LIMIT


# -- pg_dump sends nothing ------------------------------------------------------------------------


def test_f07_a_pg_dump_that_sends_nothing_more_is_ended_and_named(
    site: Site, fakes: FakePrograms, archive: Path, tmp_path: Path, storage_root: Path
) -> None:
    mark = tmp_path / "pid"
    fakes.pg_dump(touch(mark), print_file(archive, 1000), sleep(600))
    with pytest.raises(Stalled, match="pg_dump has sent nothing for 1 seconds"):
        dump(
            site,
            DumpStore(str(storage_root)),
            program_directories=[str(fakes.path)],
            stall_timeout=LIMIT,
        )
    assert not is_running(int(mark.read_text()))
    assert [path for path in storage_root.rglob("*") if path.is_file()] == []


def test_f07_waiting_for_a_lock_is_no_stall(site: Site, storage_root: Path) -> None:
    store = DumpStore(str(storage_root))
    with contextlib.closing(site.server.connect(site.name)) as other:
        other.autocommit = False
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE customer IN ACCESS EXCLUSIVE MODE")
        threading.Timer(2 * LIMIT, other.rollback).start()
        manifest = dump(site, store, lock_wait_timeout=20_000, stall_timeout=LIMIT)
    assert manifest.size > 0


def test_f07_a_pg_dump_that_sends_a_little_now_and_then_is_waited_for(
    site: Site, fakes: FakePrograms, archive: Path, storage_root: Path
) -> None:
    steps = [step for _ in range(8) for step in (print_file(archive, 100), sleep(0.6))]
    fakes.pg_dump(*steps)
    manifest = dump(
        site,
        DumpStore(str(storage_root)),
        program_directories=[str(fakes.path)],
        stall_timeout=4.0,
    )
    assert manifest.size > 0


def test_f07_the_setting_ends_a_command(
    project: Project, fakes: FakePrograms, tmp_path: Path
) -> None:
    fakes.pg_dump(sleep(600))
    settings = {
        "PGCLONE_STALL_TIMEOUT": 1,
        "PGCLONE_LOCK_TIMEOUT": 1,
        "PGCLONE_BIN_DIR": str(fakes.path),
    }
    done = project.pgclone("dump", settings=settings).failed()
    assert "pg_dump has sent nothing for 1 seconds" in done.stderr
    assert done.seconds < 20
    assert project.files() == []


# -- the storage gives nothing --------------------------------------------------------------------


def test_f07_a_storage_that_gives_nothing_more_ends_the_restore_and_its_database(
    site: Site, anything: Place, faulty: Box, nothing_left_behind: Checker
) -> None:
    manifest = dump(site, anything.store)
    faulty.read_stalls_at = manifest.size // 2
    with unchanged(site), pytest.raises(Stalled):
        restore(site, manifest.key, anything.store)
    nothing_left_behind.check()
    faulty.read_stalls_at = None
    restore(site, manifest.key, anything.store)


def test_f07_a_storage_that_fetches_a_whole_file_has_time_for_its_size(
    gate: threading.Event,
) -> None:
    class Fetching:
        def read(self, size: int, /) -> bytes:
            time.sleep(2 * LIMIT)
            return b"all of it"

        def close(self) -> None:
            gate.set()

    reader = AttendedReader(Attendant(LIMIT), Fetching, fetches=3 * stall.SLOWEST)
    assert reader.read(3) + reader.read(100) == b"all of it"
    with pytest.raises(Stalled):
        reader.read(1)
    reader.close()
    assert gate.wait(5), "it is closed when it is back"


def test_f07_a_storage_that_hangs_when_all_was_read_is_not_waited_for(
    gate: threading.Event,
) -> None:
    class Closing:
        def read(self, size: int, /) -> bytes:
            return b""

        def close(self) -> None:
            gate.wait()
            raise StorageError("it was gone by then")

    attendant = Attendant(LIMIT)
    reader = AttendedReader(attendant, Closing)
    assert reader.read(10) == b""
    started = time.monotonic()
    reader.close()
    assert time.monotonic() - started < LIMIT / 2
    gate.set()
    assert attendant.call(lambda: 1) == 1


# -- the thread -----------------------------------------------------------------------------------


def test_f07_after_a_stall_nothing_is_waited_for_until_the_thread_is_back(
    gate: threading.Event,
) -> None:
    attendant = Attendant(LIMIT)
    with pytest.raises(Stalled):
        attendant.call(gate.wait)
    started = time.monotonic()
    with pytest.raises(Stalled, match="still does not answer"):
        attendant.call(lambda: 1)
    assert time.monotonic() - started < LIMIT / 2
    gate.set()
    until = time.monotonic() + 10
    while attendant.hangs and time.monotonic() < until:
        time.sleep(0.01)
    assert attendant.call(lambda: 1) == 1


def test_f07_the_thread_of_a_storage_ends_with_it() -> None:
    attendant = Attendant(None)
    thread = attendant.call(threading.current_thread)
    with pytest.raises(StorageError):
        attendant.call(_fail)
    del attendant
    thread.join(5)
    assert not thread.is_alive()


def _fail() -> None:
    raise StorageError
