"""Faults of the storage a dump is written to or read from (F13 to F22)."""

from __future__ import annotations

import contextlib
import errno
import math
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core import dump as dump_module
from pgclone_admin.core.dump import Content
from pgclone_admin.core.errors import (
    Conflict,
    DumpNotFound,
    IntegrityError,
    SizeMismatch,
    StorageError,
)
from pgclone_admin.core.names import DumpKey
from pgclone_admin.storage.s3 import MOST_PARTS, SMALLEST_PART, transfer_config
from pgclone_admin.store import DumpStore
from tests.support.cutting_proxy import CuttingProxy
from tests.support.django_project import Manage, Project
from tests.support.fake_programs import (
    FakePrograms,
    RecordingBinDir,
    print_file,
    sleep,
    touch,
    wait_for,
)
from tests.support.invariants import Checker, passfiles, unfinished_files
from tests.support.places import (
    ALIAS,
    DIFFERENT_KINDS,
    Place,
    S3Place,
    dump,
    make_bulk,
    make_place,
    no_database_is_made,
    restore,
    storage_settings,
    unchanged,
)
from tests.support.postgres import PostgresServer, ServerPool
from tests.support.processes import wait_gone
from tests.support.s3 import Bucket
from tests.support.sftp import SftpServer
from tests.support.sites import Site
from tests.support.storages import Box, FaultyStorage, StorageBroke

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

MEGABYTE = 1_000_000


@pytest.fixture(params=DIFFERENT_KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return make_place(request.param, request)


@pytest.fixture
def bulk(pg: PostgresServer) -> Site:
    """Its dump without compression is an upload of four parts."""
    return make_bulk(pg, 9)


@pytest.fixture
def proxied(s3_bucket: Bucket, s3_proxy: CuttingProxy, settings: Any) -> S3Place:
    """A bucket behind the proxy; boto3 gives up at once, which saves the test its patience."""
    chosen = s3_bucket.settings("p/", endpoint_url=s3_proxy.endpoint_url)
    chosen["PGCLONE_S3_CONFIG"] = {
        **chosen["PGCLONE_S3_CONFIG"],
        "client_config": Config(retries={"total_max_attempts": 1}),
    }
    for name, value in chosen.items():
        setattr(settings, name, value)
    return S3Place(s3_bucket, "p/", s3_bucket.location("p/"), chosen)


@pytest.fixture
def anything(request: pytest.FixtureRequest) -> Place:
    """A storage that the product knows nothing of; the switches of its faults are ``faulty``."""
    return make_place("alias of anything", request)


# -- F13: an upload fails -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 503])
def test_f13_an_upload_that_fails_at_part_3_leaves_no_object_no_upload_and_no_pg_dump(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy, nothing_left_behind: Checker, status: int
) -> None:
    s3_proxy.fail_part(3, status=status)
    with pytest.raises(StorageError) as caught:
        dump(bulk, proxied.store)
    assert caught.value.code == "storage_error"
    assert caught.value.__cause__.operation_name == "UploadPart"  # type: ignore[union-attr]
    assert s3_proxy.seen("AbortMultipartUpload")[-1].status == 204
    assert s3_proxy.seen("CompleteMultipartUpload") == []
    assert proxied.names() == []
    nothing_left_behind.check()


def test_f13_a_dump_is_not_read_to_its_end_when_its_upload_has_failed(
    pg: PostgresServer, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    read: list[Content] = []

    class Remembering(DumpStore):
        def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
            read.append(content)
            super().save(key, content, source_size=source_size)

    s3_proxy.fail_part(1, status=403)
    with pytest.raises(StorageError):
        dump(make_bulk(pg, 40), Remembering(proxied.location))
    assert read[0].size < 8 * SMALLEST_PART, "of the sixteen that there are"


def test_f13_a_broken_connection_of_a_part_aborts_the_upload(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    s3_proxy.fail_part(2, status=None, drop=True)
    with pytest.raises(StorageError) as caught:
        dump(bulk, proxied.store)
    assert caught.value.__cause__ is not None
    assert "hint" not in str(caught.value)
    assert proxied.names() == []


@pytest.mark.parametrize("status", [403, None], ids=["refused", "broken off"])
def test_f13_a_failed_part_ends_a_dump_that_stands_still(
    bulk: Site,
    proxied: S3Place,
    s3_proxy: CuttingProxy,
    fakes: FakePrograms,
    *,
    tmp_path: Path,
    status: int | None,
) -> None:
    # Enough for a part and a half, and then nothing: as when pg_dump waits for a lock.
    some = tmp_path / "some"
    some.write_bytes(bytes(SMALLEST_PART * 3 // 2))
    fakes.pg_dump(print_file(some), sleep(600))
    s3_proxy.fail_part(1, status=status, drop=status is None)
    started = time.monotonic()

    with pytest.raises(StorageError):
        dump(bulk, proxied.store, program_directories=[str(fakes.path)])

    assert time.monotonic() - started < 10
    assert proxied.names() == []


def test_f13_a_part_that_fails_once_is_sent_again(
    bulk: Site, s3_bucket: Bucket, s3_proxy: CuttingProxy, settings: Any
) -> None:
    for name, value in s3_bucket.settings(endpoint_url=s3_proxy.endpoint_url).items():
        setattr(settings, name, value)
    s3_proxy.fail_part(2, times=1)
    store = DumpStore(s3_bucket.location())
    manifest = dump(bulk, store)
    assert sorted(r.status for r in s3_proxy.seen("UploadPart") if r.part == 2) == [200, 503]
    assert len(s3_bucket.body(manifest.key)) == manifest.size
    restore(bulk, manifest.key, store)


def test_f13_an_upload_that_cannot_be_completed_is_no_dump(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    s3_proxy.fail("CompleteMultipartUpload", status=500)
    with pytest.raises(StorageError):
        dump(bulk, proxied.store)
    assert len(s3_proxy.seen("UploadPart")) == 4
    assert proxied.names() == []


def test_f13_an_abort_that_fails_too_does_not_hide_the_first_error(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    s3_proxy.fail_part(3, status=403)
    s3_proxy.fail("AbortMultipartUpload", status=500)
    with pytest.raises(StorageError) as caught:
        dump(bulk, proxied.store)
    assert caught.value.__cause__.operation_name == "UploadPart"  # type: ignore[union-attr]
    assert proxied.names() == []
    bucket = proxied.bucket
    (left,) = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    bucket.client.abort_multipart_upload(
        Bucket=bucket.name, Key=left["Key"], UploadId=left["UploadId"]
    )


def test_f13_a_manifest_that_cannot_be_stored_takes_its_dump_away_again(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    s3_proxy.fail("PutObject", status=503)  # dumps of this size come in parts
    with pytest.raises(StorageError, match=r"\.dump\.json"):
        dump(bulk, proxied.store)
    assert len(s3_proxy.seen("CompleteMultipartUpload")) == 1
    assert proxied.names() == []


def test_f13_a_dump_that_cannot_be_taken_away_again_is_named_beside_the_first_error(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    s3_proxy.fail("PutObject", status=503)
    s3_proxy.fail("DeleteObject", status=403)
    with pytest.raises(StorageError, match=r"\.dump\.json") as caught:
        dump(bulk, proxied.store)
    (note,) = caught.value.__notes__
    assert note.startswith("the dump could not be removed either: ")
    (name,) = proxied.names()
    assert name in note


@contextlib.contextmanager
def files_end_after(size: int) -> Iterator[None]:
    """The kernel refuses to write more than this into any file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_f13_a_file_that_cannot_grow_any_more_is_removed(
    bulk: Site, request: pytest.FixtureRequest
) -> None:
    place = make_place("files", request)
    with files_end_after(5 * MEGABYTE), pytest.raises(StorageError) as caught:
        dump(bulk, place.store)
    assert "File too large" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert place.names() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_f13_a_full_disk_is_said_in_a_sentence_and_is_as_empty_as_before(
    bulk: Site, small_disk: Path, manage: Manage
) -> None:
    done = manage(
        "pgclone",
        "dump",
        database=bulk,
        settings={
            "PGCLONE_STORAGE_LOCATION": str(small_disk),
            "PGCLONE_BIN_DIR": str(bulk.server.bin_dir),
        },
    ).failed()
    assert "No space left on device" in done.stderr
    assert "hint: The disk is full. What was written so far has been removed." in done.stderr
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert shutil.disk_usage(small_disk).used < 100_000


def test_f13_a_full_directory_for_temporary_files_is_said_in_a_sentence(
    site: Site, storage_root: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with pytest.raises(StorageError, match="No space left on device") as caught:
        dump(site, DumpStore(str(storage_root)))
    assert f"the file with the password cannot be put into {small_disk}" in str(caught.value)
    assert "TMPDIR" in (caught.value.hint or "")
    assert list(small_disk.iterdir()) == [filler]
    assert list(storage_root.iterdir()) == []


def test_f13_a_machine_without_a_directory_for_temporary_files_is_told_so(
    site: Site, storage_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DumpStore(str(storage_root))
    with monkeypatch.context() as machine:
        machine.setattr(tempfile, "tempdir", None)
        machine.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
        with pytest.raises(StorageError, match="No usable temporary directory found") as caught:
            dump(site, store)
    assert "TMPDIR" in (caught.value.hint or "")
    assert list(storage_root.iterdir()) == []


def test_f13_a_storage_that_fails_half_way_keeps_nothing_of_it(
    site: Site, anything: Place, faulty: Box
) -> None:
    faulty.save_fails_at = 1000
    faulty.keep_partial = True
    with pytest.raises(StorageError, match="No space left on device") as caught:
        dump(site, anything.store)
    assert isinstance(caught.value.__cause__, OSError)
    assert "disk is full" in (caught.value.hint or "")
    assert anything.names() == []


def test_f13_a_storage_that_cannot_remove_the_rest_does_not_hide_the_first_error(
    site: Site, anything: Place, faulty: Box
) -> None:
    class ForgetfulStorage(FaultyStorage):
        def delete(self, name: str) -> None:
            raise PermissionError(errno.EACCES, "not even this")

    faulty.save_fails_at = 1000
    store = anything.store
    store._backend._storage = ForgetfulStorage(faulty.name)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="No space left on device") as caught:
        dump(site, store)
    assert "not even this" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize("at_end", [False, True])
def test_f13_an_error_that_only_its_storage_knows_becomes_one_of_ours(
    site: Site, anything: Place, faulty: Box, at_end: bool
) -> None:
    faulty.error = StorageBroke("quota of the account is used up")
    faulty.save_fails_at = None if at_end else 1000
    faulty.save_fails_at_end = at_end
    faulty.keep_partial = True
    with pytest.raises(StorageError, match="quota of the account is used up") as caught:
        dump(site, anything.store)
    assert caught.value.__cause__ is faulty.error
    assert anything.names() == []


# -- F14: the worker dies -------------------------------------------------------------------------


def test_f14_a_worker_killed_while_it_saves_leaves_no_dump(
    project: Project, fakes: FakePrograms, tmp_path: Path, nothing_left_behind: Checker
) -> None:
    (earlier,) = project.pgclone("dump").ok().lines
    whole = tmp_path / "whole"
    whole.write_bytes(project.archive() * 20)
    saving, go_on = tmp_path / "saving", tmp_path / "go on"
    fakes.pg_dump(print_file(whole), touch(saving), wait_for(go_on), print_file(whole))
    before = passfiles()
    running = project.start_pgclone(
        "dump", settings={"PGCLONE_BIN_DIR": str(fakes.path), "PGCLONE_COMPRESSION": "none"}
    )
    until = time.monotonic() + 20
    while not (saving.exists() and unfinished_files()):
        assert time.monotonic() < until, running.stderr()
        time.sleep(0.02)
    running.signal(signal.SIGKILL)
    assert running.wait().returncode == -signal.SIGKILL
    go_on.touch()
    assert wait_gone(fakes.calls("pg_dump")[0].pid), "pg_dump outlived the worker"

    (partial,) = unfinished_files()
    assert partial.name.startswith(f"{partial.name.split('.dump')[0]}.dump.partial-")
    assert partial.stat().st_mode & 0o777 == 0o600
    assert project.pgclone("ls").ok().lines == [earlier]
    (later,) = project.pgclone("dump").ok().lines
    assert project.pgclone("ls").ok().lines == [later, earlier]
    project.pgclone("restore", earlier).ok()

    partial.unlink()
    for passfile in passfiles() - before:
        assert passfile.stat().st_mode & 0o777 == 0o600
        passfile.unlink()
    nothing_left_behind.check()


def test_f14_a_terminated_worker_leaves_not_even_a_partial_file(
    project: Project, fakes: FakePrograms, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(project.archive() * 20)
    saving = tmp_path / "saving"
    fakes.pg_dump(print_file(whole), touch(saving), wait_for(tmp_path / "never"))
    running = project.start_pgclone(
        "dump", settings={"PGCLONE_BIN_DIR": str(fakes.path), "PGCLONE_COMPRESSION": "none"}
    )
    until = time.monotonic() + 20
    while not (saving.exists() and unfinished_files()):
        assert time.monotonic() < until, running.stderr()
        time.sleep(0.02)
    running.signal(signal.SIGTERM)
    done = running.wait(20).failed(130)
    assert done.stdout == ""
    assert project.files() == []


# -- F16: the name is taken -----------------------------------------------------------------------


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dump is taken at the same microsecond."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=tz or UTC)

    monkeypatch.setattr(dump_module, "datetime", Stopped)


@pytest.mark.usefixtures("stopped_clock")
def test_f16_a_key_that_exists_is_neither_overwritten_nor_renamed(site: Site, place: Place) -> None:
    first = dump(site, place.store)
    assert first.key.endswith("/2026-02-03-04-05-06-000007.dump")
    kept = {name: place.read(name) for name in place.names()}
    site.run("TRUNCATE order_line")
    with pytest.raises(Conflict, match="exists already") as caught:
        dump(site, place.store)
    assert caught.value.code == "conflict"
    assert {name: place.read(name) for name in place.names()} == kept
    assert set(kept) == {first.key, f"{first.key}.json"}


def test_f16_a_storage_that_chooses_another_name_keeps_nothing_under_it(
    site: Site, anything: Place, faulty: Box
) -> None:
    faulty.rename = "deep/er/other.dump"
    with pytest.raises(Conflict, match="under another name"):
        dump(site, anything.store)
    assert faulty.saves == ["deep/er/other.dump"]
    assert faulty.objects == {}


# -- F17: the storage lies ------------------------------------------------------------------------


class Losing(FaultyStorage):
    """Says that it has saved what it has not."""

    def _save(self, name: str, content: Any) -> str:
        if name.endswith(".dump"):
            while content.read(65536):
                pass
            return name
        return super()._save(name, content)


@pytest.mark.parametrize("missing", [1, 4096])
def test_f17_an_object_that_is_too_short_is_an_error_and_is_removed(
    site: Site, anything: Place, faulty: Box, missing: int
) -> None:
    faulty.short_by = missing
    with pytest.raises(SizeMismatch, match=r"the storage holds .* bytes of the dump") as caught:
        dump(site, anything.store)
    assert caught.value.code == "size_mismatch"
    assert anything.names() == []


def test_f17_an_object_that_is_too_long_is_an_error_and_is_removed(
    site: Site, anything: Place, faulty: Box
) -> None:
    faulty.size_lie = 1
    with pytest.raises(SizeMismatch):
        dump(site, anything.store)
    assert anything.names() == []


def test_f17_an_object_that_is_missing_after_all_is_an_error(
    site: Site, anything: Place, faulty: Box
) -> None:
    store = anything.store
    store._backend._storage = Losing(faulty.name)  # type: ignore[attr-defined]
    with pytest.raises(SizeMismatch, match="holds 0 bytes") as caught:
        dump(site, store)
    assert caught.value.code == "size_mismatch"
    assert anything.names() == []


@pytest.mark.parametrize("kind", ["files", "s3"])
def test_f17_an_object_cut_behind_our_back_is_found_before_the_manifest_is_written(
    site: Site, request: pytest.FixtureRequest, kind: str
) -> None:
    place = make_place(kind, request)

    class Cutting(DumpStore):
        def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
            super().save(key, content, source_size=source_size)
            place.put(key.text, place.read(key.text)[:-1])

    with pytest.raises(SizeMismatch):
        dump(site, Cutting(place.location))
    assert place.names() == []


# -- F18: more than the storage takes -------------------------------------------------------------

GIGABYTE = 10**9


@given(st.integers(min_value=0, max_value=50 * 1024**4))
def test_f18_no_database_needs_more_than_ten_thousand_parts(size: int) -> None:
    part = transfer_config(size).multipart_chunksize
    # An archive that does not compress is larger than the database.
    assert math.ceil(size * 1.1 / part) <= MOST_PARTS == 10_000
    assert part >= SMALLEST_PART == 5 * 1024**2


@given(st.integers(min_value=0, max_value=40 * GIGABYTE))
def test_f18_parts_of_a_database_below_40_gigabytes_are_the_smallest(size: int) -> None:
    config = transfer_config(size)
    assert config.multipart_chunksize == config.multipart_threshold == SMALLEST_PART


@given(
    st.integers(min_value=0, max_value=50 * 1024**4), st.integers(min_value=0, max_value=1024**4)
)
def test_f18_a_larger_database_never_has_smaller_parts(size: int, more: int) -> None:
    part = transfer_config(size).multipart_chunksize
    assert transfer_config(size + more).multipart_chunksize >= part


def test_f18_the_parts_of_an_upload_have_the_size_that_the_database_asks_for(
    bulk: Site, proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    class Huge(DumpStore):
        def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
            assert source_size == bulk.run("SELECT pg_database_size(current_database())")[0][0]
            super().save(key, content, source_size=90 * GIGABYTE)

    dump(bulk, Huge(proxied.location))
    sizes = {
        request.part: int(
            request.headers.get("x-amz-decoded-content-length") or request.headers["content-length"]
        )
        for request in s3_proxy.seen("UploadPart")
    }
    assert set(sizes) == {1, 2}
    assert sizes[1] == 11 * 1024**2 > sizes[2]


# -- F19: deleted or replaced ---------------------------------------------------------------------


def other_archive(site: Site) -> bytes:
    """Another archive that could be restored as well."""
    site.run("CREATE TABLE later (id integer)")
    return site.archive()


def swapped_manifest(place: Place, key: str, other: str) -> None:
    place.put(f"{key}.json", place.read(f"{other}.json"))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ("deleted", DumpNotFound),
        ("deleted with manifest", DumpNotFound),
        ("replaced by a shorter one", IntegrityError),
        ("replaced by a longer one", IntegrityError),
        ("emptied", IntegrityError),
        ("manifest of another dump", IntegrityError),
        ("manifest that is none", IntegrityError),
        ("manifest of tomorrow", IntegrityError),
    ],
)
def test_f19_a_dump_that_is_gone_or_another_is_refused_before_anything_is_made(
    site: Site,
    place: Place,
    recorder: Callable[[PostgresServer], RecordingBinDir],
    damage: str,
    error: type[Exception],
) -> None:
    key = dump(site, place.store).key
    match damage:
        case "deleted":
            place.remove(key)
        case "deleted with manifest":
            place.remove(key)
            place.remove(f"{key}.json")
        case "replaced by a shorter one":
            place.put(key, site.archive("--exclude-table-data=*"))
        case "replaced by a longer one":
            place.put(key, site.archive("--compress=0", "--verbose") + bytes(100))
        case "emptied":
            place.put(key, b"")
        case "manifest of another dump":
            swapped_manifest(place, key, dump(site, place.store).key)
        case "manifest that is none":
            place.put(f"{key}.json", b"<html>404</html>")
        case "manifest of tomorrow":
            text = place.read(f"{key}.json").replace(b'"format": 1', b'"format": 99')
            place.put(f"{key}.json", text)
    programs = recorder(site.server)
    with unchanged(site), no_database_is_made(site.server), pytest.raises(error) as caught:
        restore(site, key, place.store, program_directories=[str(programs.path)])
    assert caught.value.hint or "newer than this program" in str(caught.value)  # type: ignore[attr-defined]
    assert programs.calls() == []


def test_f19_a_dump_that_is_in_order_is_restored_and_makes_a_database(
    site: Site, place: Place
) -> None:
    """The watch over made databases, which the test before trusts, sees one."""
    key = dump(site, place.store).key
    with (
        pytest.raises(AssertionError, match="CREATE DATABASE"),
        no_database_is_made(site.server),
    ):
        restore(site, key, place.store)


def test_f19_the_command_names_the_dump_that_is_gone(project: Project) -> None:
    (key,) = project.pgclone("dump").ok().lines
    (project.storage_root / key).unlink()
    with unchanged(project), no_database_is_made(project.server):
        done = project.pgclone("restore", key).failed()
    assert key in done.stderr
    assert "hint: " in done.stderr
    assert done.stdout == ""


# -- F22 and what memory costs --------------------------------------------------------------------


class Measured:
    """The most memory and temporary space that one command used, in bytes."""

    def __init__(self) -> None:
        self.memory = 0
        self.temporary = 0


def measure(manage: Manage, *args: str, temporary: Path, **options: Any) -> Measured:
    """Run a command to its end and watch it from outside."""
    temporary.mkdir(exist_ok=True)
    running = manage.start(*args, env={"TMPDIR": str(temporary)}, **options)
    measured = Measured()
    proc = Path(f"/proc/{running.pid}")
    while running.process.poll() is None:
        with contextlib.suppress(OSError, StopIteration, IndexError):
            lines = (proc / "status").read_text().splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM:"))
            measured.memory = max(measured.memory, int(peak.split()[1]) * 1024)
            measured.temporary = max(measured.temporary, _spooled(proc, temporary))
        time.sleep(0.01)
    running.wait().ok()
    assert measured.memory > 0
    assert list(temporary.iterdir()) == []
    return measured


def _spooled(proc: Path, temporary: Path) -> int:
    """Bytes in files below the temporary folder, also in those that have no name any more."""
    found: dict[int, int] = {}
    paths = [path for path in temporary.rglob("*") if path.is_file()]
    for descriptor in (proc / "fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(str(temporary)):
                paths.append(descriptor)
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            found[status.st_ino] = status.st_size
    return sum(found.values())


LARGE = 320
"""Megabytes of random data."""

SMALL = 100


@pytest.fixture(scope="module")
def large_dumps(
    servers: ServerPool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str, str]]:
    """A folder with a large dump and one of next to nothing."""
    folder = tmp_path_factory.mktemp("large")
    server = servers.default()
    keys = []
    for megabytes in (LARGE, 1):
        source = make_bulk(server, megabytes)
        manifest = dump(source, DumpStore(str(folder)), codec="zstd")
        server.drop_database(source.name)
        keys.append(manifest.key)
        assert manifest.size > megabytes * 1024**2
    yield folder, keys[0], keys[1]
    shutil.rmtree(folder)


def upload(bucket: Bucket, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.client.upload_file(str(path), bucket.name, path.relative_to(folder).as_posix())


def sftp_settings(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    server: SftpServer = request.getfixturevalue("sftp_server")
    backend = "storages.backends.sftpstorage.SFTPStorage"
    alias = storage_settings(backend, **server.storage_options(folder))
    return {**alias, "PGCLONE_STORAGE_LOCATION": f"storages:{ALIAS}/"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "s3", "sftp"])
def test_f22_restoring_hundreds_of_megabytes_takes_neither_memory_nor_temporary_space(
    *,
    large_dumps: tuple[Path, str, str],
    make_site: Callable[..., Site],
    manage: Manage,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    folder, large, tiny = large_dumps
    settings: dict[str, Any] = {"PGCLONE_STORAGE_LOCATION": str(folder)}
    if kind == "s3":
        bucket: Bucket = request.getfixturevalue("s3_bucket")
        upload(bucket, folder)
        settings = bucket.settings()
    elif kind == "sftp":
        settings = sftp_settings(request, folder)
    site = make_site(empty=True)
    settings["PGCLONE_BIN_DIR"] = str(site.server.bin_dir)

    def restored(key: str) -> Measured:
        arguments = ("pgclone", "restore", key, "--pre-swap-hook")
        return measure(
            manage, *arguments, database=site, settings=settings, temporary=tmp_path / "tmp"
        )

    small = restored(tiny)
    much = restored(large)
    assert site.run("SELECT sum(length(data)) > 300000000 FROM bulk") == [(True,)]
    assert much.memory - small.memory < 64 * MEGABYTE
    assert much.temporary < MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "s3", "sftp"])
def test_f22_dumping_hundreds_of_megabytes_takes_no_more_memory_than_a_third_of_it(
    pg: PostgresServer, manage: Manage, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    settings: dict[str, Any] = {"PGCLONE_STORAGE_LOCATION": str(tmp_path / "dumps")}
    if kind == "s3":
        settings = request.getfixturevalue("s3_bucket").settings()
    elif kind == "sftp":
        settings = sftp_settings(request, tmp_path / "dumps")
    settings["PGCLONE_BIN_DIR"] = str(pg.bin_dir)

    def used(database: Site, verb: str) -> Measured:
        return measure(
            manage,
            *("pgclone", verb),
            database=database,
            settings=settings,
            temporary=tmp_path / "tmp",
        )

    third, whole = make_bulk(pg, SMALL), make_bulk(pg, LARGE)
    loaded = used(third, "ls")
    less = used(third, "dump")
    more = used(whole, "dump")
    assert less.memory - loaded.memory < 70 * MEGABYTE
    assert more.memory - loaded.memory < 70 * MEGABYTE
    # An upload has between one and all of its parts in memory, as the machine has time for it.
    assert abs(more.memory - less.memory) < (30 if kind == "s3" else 15) * MEGABYTE
    assert max(less.temporary, more.temporary) < MEGABYTE


OBJECTS = 20_000


def test_f22_a_table_of_contents_of_very_many_objects_takes_little_memory(
    pg15: PostgresServer, make_site: Callable[..., Site], manage: Manage, tmp_path: Path
) -> None:
    # Up to 16 every large object is an entry of its own.
    folder = tmp_path / "dumps"
    many, few = make_site(server=pg15, empty=True), make_site(server=pg15, empty=True)
    many.run(f"SELECT count(lo_from_bytea(0, 'x')) FROM generate_series(1, {OBJECTS})")
    keys = [dump(each, DumpStore(str(folder)), codec="zstd").key for each in (few, many)]
    settings = {
        "PGCLONE_STORAGE_LOCATION": str(folder),
        "PGCLONE_BIN_DIR": str(pg15.bin_dir),
    }
    target = make_site(server=pg15, empty=True)
    small, much = (
        measure(
            manage,
            *("pgclone", "restore", key, "--pre-swap-hook"),
            database=target,
            settings=settings,
            temporary=tmp_path / "tmp",
        )
        for key in keys
    )
    assert target.run("SELECT count(*) FROM pg_largeobject_metadata") == [(OBJECTS,)]
    assert much.memory - small.memory < 350 * OBJECTS, "so they are not kept as objects here"
    assert much.temporary < 200 * OBJECTS, "the table of contents, and nothing else"
