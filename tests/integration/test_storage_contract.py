"""One contract, held by every storage: files, S3, and any alias of Django's STORAGES.

Bytes appear under a name whole or not at all, are never overwritten or renamed, and come back in
order. The operations rely on nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from pgclone_admin.core.dump import publish
from pgclone_admin.core.errors import (
    Cancelled,
    ConfigurationError,
    Conflict,
    DumpNotFound,
    IntegrityError,
    KilledBySignal,
    PgcloneError,
    StorageError,
)
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.streams import Readable
from pgclone_admin.storage import Backend, open_backend
from pgclone_admin.storage.base import FIRST_PAUSE, RESUMES
from pgclone_admin.storage.s3 import SMALLEST_PART
from pgclone_admin.store import DumpStore
from tests.support import S3_ACCESS_KEY, S3_CANARY
from tests.support.cutting_proxy import CuttingProxy
from tests.support.places import ALIAS, KINDS, FilesPlace, Place, S3Place, make_place
from tests.support.s3 import Bucket, S3Server

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

NAME = "here/default/none/2026-01-02-03-04-05-000006.dump"
OTHER = "here/default/none/2026-01-02-03-04-05-000007.dump"

SIZES = [0, 1, 300_000, SMALLEST_PART - 1, SMALLEST_PART, 2 * SMALLEST_PART + 1]
"""A file, an upload at once, an upload in parts."""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return make_place(request.param, request)


@pytest.fixture
def backend(place: Place) -> Backend:
    return place.backend


class Some:
    """Content of so many bytes, that may raise when so many were given."""

    def __init__(
        self, size: int, *, fails_at: int | None = None, error: BaseException | None = None
    ) -> None:
        self.data = os.urandom(min(size, 1000)) * (size // 1000 + 1)
        self.data = self.data[:size]
        self.size = 0
        self.complete = False
        self.asked: list[int] = []
        self.failed = False
        self._fails_at = fails_at
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        assert not self.failed, "what has failed was read again"
        if not self.complete:
            self.asked.append(size)
        end = len(self.data) if size < 0 else min(self.size + size, len(self.data))
        if self._fails_at is not None and (end > self._fails_at or end - self.size < size):
            self.failed = True
            assert self._error is not None
            raise self._error
        data = self.data[self.size : end]
        self.size = end
        self.complete = len(data) < size or size < 0
        return data

    def abandon(self) -> None:
        """Nothing here ever waits."""


def everything(stream: Readable, size: int = 100_000) -> bytes:
    with contextlib.closing(stream):
        return b"".join(iter(lambda: stream.read(size), b""))


def checksum(data: bytes) -> str:
    """Two large contents that differ would make pytest think for minutes."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


# -- whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_what_is_saved_is_there_whole(place: Place, backend: Backend, size: int) -> None:
    content = Some(size)
    backend.save(NAME, content, expected_size=size)
    assert place.names() == [NAME]
    assert checksum(place.read(NAME)) == checksum(content.data)
    assert content.complete
    assert backend.size(NAME) == size


def assert_nothing_of_a_failed_save_stays(
    place: Place, backend: Backend, *, size: int, fails_at: int, error: BaseException
) -> None:
    content = Some(size, fails_at=fails_at, error=error)
    with pytest.raises(type(error)) as caught:
        backend.save(NAME, content, expected_size=size)
    assert caught.value is error
    assert content.failed
    assert place.names() == []
    assert backend.size(NAME) is None
    assert list(backend.list("")) == []


FAILURES = [
    pytest.param(300_000, 0, id="at the start"),
    pytest.param(300_000, 150_000, id="in the middle"),
    pytest.param(300_000, 300_000, id="at the end"),
    pytest.param(0, 0, id="of nothing"),
    pytest.param(3 * SMALLEST_PART, SMALLEST_PART + 1, id="in the second part"),
    pytest.param(3 * SMALLEST_PART, 3 * SMALLEST_PART, id="after the last part"),
]


@pytest.mark.parametrize(("size", "fails_at"), FAILURES)
def test_what_fails_while_it_is_saved_leaves_nothing(
    place: Place, backend: Backend, size: int, fails_at: int
) -> None:
    error = KilledBySignal("pg_dump was killed", signal=9)
    assert_nothing_of_a_failed_save_stays(place, backend, size=size, fails_at=fails_at, error=error)


@pytest.mark.parametrize("error", [Cancelled(), MemoryError()])
def test_whatever_ends_a_save_leaves_nothing(
    place: Place, backend: Backend, error: Exception
) -> None:
    if isinstance(error, MemoryError):
        content = Some(2 * SMALLEST_PART, fails_at=SMALLEST_PART, error=error)
        with pytest.raises(StorageError) as caught:
            backend.save(NAME, content, expected_size=1)
        assert caught.value.__cause__ is error
        assert place.names() == []
        return
    assert_nothing_of_a_failed_save_stays(
        place, backend, size=2 * SMALLEST_PART, fails_at=SMALLEST_PART, error=error
    )


def test_after_a_failed_save_the_same_name_can_be_saved(place: Place, backend: Backend) -> None:
    with pytest.raises(Cancelled):
        backend.save(NAME, Some(1000, fails_at=500, error=Cancelled()), expected_size=1)
    content = Some(1000)
    backend.save(NAME, content, expected_size=1)
    assert place.read(NAME) == content.data


@pytest.mark.parametrize("size", SIZES)
def test_content_is_read_in_bounded_pieces(backend: Backend, size: int) -> None:
    """However large a dump is, no storage asks for all of it at once."""
    content = Some(size)
    backend.save(NAME, content, expected_size=size)
    assert min(content.asked) > 0
    assert max(content.asked) <= SMALLEST_PART


@pytest.mark.parametrize("kind", ["alias of files", "s3", "alias of s3", "alias of anything"])
def test_f15_an_adapter_that_writes_with_open_does_not_hold_the_contract(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """``storage.open(name, "wb")`` publishes what was written when the block raises."""
    place = make_place(kind, request)
    good = place.backend

    class Careless(type(good)):  # type: ignore[misc]
        def save(self, name: str, content: Any, *, expected_size: int) -> None:
            with storage.open(prefix + name, "wb") as file:
                while block := content.read(65536):
                    file.write(block)

    from django.core.files.storage import FileSystemStorage  # noqa: PLC0415 - for this one

    storage: Any = getattr(good, "_storage", None)
    prefix = getattr(good, "_prefix", "")
    if isinstance(place, FilesPlace):
        storage = FileSystemStorage(location=place.path(""))
        place.path(NAME).parent.mkdir(parents=True)
    good.__class__ = Careless
    with pytest.raises(AssertionError):
        assert_nothing_of_a_failed_save_stays(
            place, good, size=300_000, fails_at=150_000, error=Cancelled()
        )
    assert place.names() == [NAME], "a dump that was cut looks like a good one"


# -- names ----------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_not_overwritten(place: Place, backend: Backend) -> None:
    place.put(NAME, b"somebody else's")
    content = Some(1000)
    with pytest.raises(Conflict, match="exists already") as caught:
        backend.save(NAME, content, expected_size=1)
    assert NAME in str(caught.value)
    assert content.asked == []
    assert place.names() == [NAME]
    assert place.read(NAME) == b"somebody else's"


@pytest.mark.parametrize("kind", ["files", "alias of files"])
def test_a_name_that_is_taken_while_it_is_saved_is_not_overwritten(
    kind: str, request: pytest.FixtureRequest
) -> None:
    place = make_place(kind, request)

    class Overtaken(Some):
        def read(self, size: int = -1, /) -> bytes:
            data = super().read(size)
            if self.complete:
                place.put(NAME, b"somebody else's")
            return data

    with pytest.raises(Conflict, match="exists already"):
        place.backend.save(NAME, Overtaken(500_000), expected_size=1)
    assert place.names() == [NAME]
    assert place.read(NAME) == b"somebody else's"


ODD_NAMES = [
    "default/2020-01-02-03-04-05-000006.my config.dump",
    "here/ünïcode/ -x/--file=y.dump",
    "a=b;c/$(id)/'\"/+&#?.dump",
    "x/" + "n" * 200 + ".dump",
    "no folder.dump",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_kept_to_the_letter(place: Place, backend: Backend, name: str) -> None:
    content = Some(2000)
    backend.save(name, content, expected_size=1)
    assert place.names() == [name]
    assert [stored.name for stored in backend.list("")] == [name]
    assert backend.size(name) == 2000
    assert everything(backend.open(name)) == content.data
    backend.delete(name)
    assert place.names() == []


# -- size, delete, list ---------------------------------------------------------------------------


def test_what_is_not_there_has_no_size(place: Place, backend: Backend) -> None:
    assert backend.size(NAME) is None
    place.put(f"{NAME}.json", b"{}")
    assert backend.size(NAME) is None


def test_only_what_is_named_is_deleted(place: Place, backend: Backend) -> None:
    for name in (NAME, OTHER, f"{NAME}.json"):
        place.put(name, b"x")
    backend.delete(NAME)
    assert place.names() == [f"{NAME}.json", OTHER]
    backend.delete(NAME)
    assert place.names() == [f"{NAME}.json", OTHER]


def test_a_place_that_nothing_was_ever_stored_in_is_empty(backend: Backend) -> None:
    assert list(backend.list("")) == []
    assert list(backend.list("here/")) == []


def test_listing_tells_name_size_and_time(place: Place, backend: Backend) -> None:
    place.put(NAME, b"12345")
    place.put("elsewhere/x.dump", b"")
    found = {stored.name: stored for stored in backend.list("")}
    assert {name: stored.size for name, stored in found.items()} == {
        NAME: 5,
        "elsewhere/x.dump": 0,
    }
    modified = found[NAME].modified
    assert modified is not None
    assert modified.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - modified) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["app/a/none/1.dump", "app/b/none/1.dump", "app_prod/a/none/1.dump", "x.dump"]),
        ("app/", ["app/a/none/1.dump", "app/b/none/1.dump"]),
        ("app", ["app/a/none/1.dump", "app/b/none/1.dump", "app_prod/a/none/1.dump"]),
        ("app/a/none/1", ["app/a/none/1.dump"]),
        ("app/a/none/1.dump", ["app/a/none/1.dump"]),
        ("a/none/", []),
        ("nothing/", []),
    ],
)
def test_listing_is_narrowed_by_the_beginning_of_names(
    place: Place, backend: Backend, prefix: str, expected: list[str]
) -> None:
    for name in ("app/a/none/1.dump", "app/b/none/1.dump", "app_prod/a/none/1.dump", "x.dump"):
        place.put(name, b"x")
    assert sorted(stored.name for stored in backend.list(prefix)) == expected


def test_what_lies_beside_the_location_is_not_listed(place: Place, backend: Backend) -> None:
    place.put(NAME, b"x")
    beside = place.prefix.rstrip("/")
    for name in (f"{beside}2/{NAME}", f"{beside}.dump", "outside.dump", f"z/{NAME}"):
        place.raw_put(name, b"x")
    assert [stored.name for stored in backend.list("")] == [NAME]


def test_more_files_than_one_answer_holds_are_all_listed(
    request: pytest.FixtureRequest,
) -> None:
    """S3 answers with a thousand names at a time."""
    place = make_place("s3", request)
    assert isinstance(place, S3Place)
    names = [f"a/b/c/{number:04}.dump" for number in range(1005)]
    for name in names:
        place.put(name, b"")
    assert sorted(stored.name for stored in place.backend.list("")) == names


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1, 2, 3], [65_536], [1_000_000], [7, 250_000]])
def test_a_stream_gives_the_bytes_in_order(
    place: Place, backend: Backend, sizes: list[int]
) -> None:
    data = Some(300_000).data
    place.put(NAME, data)
    with contextlib.closing(backend.open(NAME)) as stream:
        got = b""
        while len(got) < len(data) and (more := stream.read(sizes[len(got) % len(sizes)])):
            assert len(more) <= max(sizes)
            got += more
            if len(got) > 100_000:
                sizes = [100_000]
        assert checksum(got) == checksum(data)
        assert stream.read(10) == b""
        assert stream.read(10) == b""


def test_an_empty_file_is_read_as_nothing(place: Place, backend: Backend) -> None:
    place.put(NAME, b"")
    assert backend.size(NAME) == 0
    assert everything(backend.open(NAME)) == b""


# Django's storage in memory hands out one and the same stream.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "alias in memory"])
def test_two_streams_of_one_file_do_not_disturb_each_other(
    kind: str, request: pytest.FixtureRequest
) -> None:
    place = make_place(kind, request)
    backend = place.backend
    data = Some(200_000).data
    place.put(NAME, data)
    with (
        contextlib.closing(backend.open(NAME)) as one,
        contextlib.closing(backend.open(NAME)) as two,
    ):
        first = one.read(1000)
        assert two.read(1000)[:10] == first[:10] == data[:10]
        rest = b"".join(iter(lambda: one.read(50_000), b""))
    assert checksum(first + rest) == checksum(data)


def test_what_is_not_there_cannot_be_opened(backend: Backend) -> None:
    with pytest.raises(PgcloneError) as caught:
        backend.open(NAME).read(1)
    assert caught.value.code in {"storage_error", "dump_not_found"}
    assert NAME in str(caught.value)


# -- dumps and their manifests --------------------------------------------------------------------


def manifest_of(key: str, content: Some) -> Manifest:
    return Manifest(
        key=key,
        size=content.size,
        sha256=hashlib.sha256(content.data).hexdigest(),
        codec="none",
        taken_at="2026-01-02T03:04:05+00:00",
        instance="here",
        database="default",
        config="none",
        origin="pgclone",
        app_version="test",
        hooks=("ünïcode",),
    )


@pytest.mark.parametrize("kind", ["files", "alias of files"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EIO])
def test_a_directory_that_cannot_be_synced_holds_the_file_or_nothing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    """Not every file system knows fsync for a directory; one that fails may not have the name."""
    place = make_place(kind, request)
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    if number != errno.EIO:
        place.backend.save(NAME, Some(100), expected_size=100)
        assert place.names() == [NAME]
        return
    with pytest.raises(StorageError, match="Input/output error"):
        place.backend.save(NAME, Some(100), expected_size=100)
    assert place.names() == []


def test_what_is_deleted_while_it_is_listed_is_left_out(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place("files", request)
    for name in (NAME, OTHER):
        place.backend.save(name, Some(1), expected_size=1)
    real = Path.stat

    def after_somebody_has_deleted_it(path: Path, **options: Any) -> os.stat_result:
        if path.name == Path(NAME).name:
            path.unlink(missing_ok=True)
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", after_somebody_has_deleted_it)
    assert [stored.name for stored in place.backend.list("")] == [OTHER]


def test_a_dump_that_somebody_else_has_stored_meanwhile_is_not_removed(place: Place) -> None:
    """Two imports of one archive have one key."""
    store = DumpStore(place.location)
    key, content = DumpKey.parse(NAME), Some(1000)
    store.save(key, content, source_size=1000)
    store.save_manifest(manifest_of(NAME, content))
    with pytest.raises(Conflict):
        publish(store, key, content, manifest_of(NAME, content))
    assert place.names() == [NAME, f"{NAME}.json"]
    # A manifest whose dump is gone is nobody's to take.
    place.backend.delete(NAME)
    with pytest.raises(Conflict, match=r'json" exists already'):
        store.save(key, Some(1000), source_size=1000)
    assert place.names() == [f"{NAME}.json"]


def test_an_upload_that_may_not_even_begin_ends_the_dump(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place("s3", request)

    class Endless(Some):
        abandoned = False

        def read(self, size: int = -1, /) -> bytes:
            if self.abandoned:
                raise Cancelled
            assert self.size < 40 * SMALLEST_PART, "it is read on and on"
            self.size += size
            return bytes(size)

        def abandon(self) -> None:
            self.abandoned = True

    def refused(**_rest: Any) -> Any:
        response = AWSResponse("http://127.0.0.1", 403, {}, None)
        return response, {
            "Error": {"Code": "AccessDenied", "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": 403},
        }

    backend: Any = place.backend
    events = backend._storage.connection.meta.client.meta.events
    events.register("before-call.s3.CreateMultipartUpload", refused)
    content = Endless(0)
    with pytest.raises((StorageError, Cancelled)):
        backend.save(NAME, content, expected_size=10)
    assert content.abandoned
    assert place.names() == []


def test_an_upload_that_was_completed_all_the_same_is_removed(
    request: pytest.FixtureRequest,
) -> None:
    """Its answer is lost, or nobody waits for it any more."""
    place = make_place("s3", request)
    backend: Any = place.backend
    events = backend._storage.connection.meta.client.meta.events

    def is_lost(**_rest: Any) -> None:
        raise ConnectionResetError("the answer is lost")

    events.register("after-call.s3.CompleteMultipartUpload", is_lost)
    with pytest.raises(StorageError, match="the answer is lost"):
        backend.save(NAME, Some(2 * SMALLEST_PART + 1), expected_size=10)
    assert place.names() == []


def test_a_manifest_lies_beside_its_dump(place: Place) -> None:
    store, key, content = place.store, DumpKey.parse(NAME), Some(5000)
    store.save(key, content, source_size=1)
    (entry,) = store.entries()
    assert (entry.key, entry.has_manifest) == (key, False)
    assert store.manifest(key) is None
    manifest = manifest_of(NAME, content)
    store.save_manifest(manifest)
    assert place.names() == [NAME, f"{NAME}.json"]
    (entry,) = store.entries()
    assert (entry.key, entry.has_manifest, entry.stored.size) == (key, True, 5000)
    assert store.manifest(key) == manifest
    assert everything(store.open(key)) == content.data
    store.delete(key)
    assert place.names() == []


def test_a_manifest_is_not_overwritten(place: Place) -> None:
    store, content = place.store, Some(10)
    store.save_manifest(manifest_of(NAME, content))
    kept = place.read(f"{NAME}.json")
    with pytest.raises(Conflict):
        store.save_manifest(manifest_of(NAME, Some(20)))
    assert place.read(f"{NAME}.json") == kept


def test_a_dump_that_is_not_there_is_said_to_be_missing(place: Place) -> None:
    with pytest.raises(DumpNotFound, match="there is no dump") as caught:
        place.store.size(DumpKey.parse(NAME))
    assert NAME in str(caught.value)
    assert "pgclone ls" in (caught.value.hint or "")


def test_dumps_are_listed_newest_first_by_time(place: Place) -> None:
    names = [
        "zzz/default/none/2024-01-01-00-00-00-000000.dump",
        "aaa/default/none/2026-01-01-00-00-00-000000.dump",
        "default/2025-01-01-00-00-00-000000.none.dump",
    ]
    for name in names:
        place.put(name, b"x")
    place.put("aaa/default/none/notes.txt", b"x")
    keys = [entry.key.text for entry in place.store.entries()]
    assert keys == [names[1], names[2], names[0]]


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files", "alias of files"])
def test_files_are_for_their_owner_alone(kind: str, request: pytest.FixtureRequest) -> None:
    place = make_place(kind, request)
    assert isinstance(place, FilesPlace)
    before = os.umask(0)
    try:
        place.store.save(DumpKey.parse(NAME), Some(10), source_size=1)
        place.store.save_manifest(manifest_of(NAME, Some(10)))
    finally:
        os.umask(before)
    assert place.mode(NAME) == place.mode(f"{NAME}.json") == 0o600
    folder = place.path(NAME).parent
    while folder != place.path("").parent.parent:
        assert folder.stat().st_mode & 0o022 == 0, f"{folder} can be written to by others"
        folder = folder.parent


def test_a_file_in_the_making_is_not_listed(request: pytest.FixtureRequest) -> None:
    place = make_place("files", request)
    seen: list[list[str]] = []

    class Watching(Some):
        def read(self, size: int = -1, /) -> bytes:
            data = super().read(size)
            if self.complete and not seen:
                seen.append([stored.name for stored in place.backend.list("")])
                seen.append(place.names())
            return data

    place.backend.save(NAME, Watching(300_000), expected_size=1)
    listed, lying = seen
    assert listed == []
    (partial,) = lying
    assert partial.startswith(f"{NAME}.partial-")
    assert place.names() == [NAME]


@pytest.mark.parametrize("kind", ["files", "alias of files"])
def test_a_folder_is_no_file(kind: str, request: pytest.FixtureRequest) -> None:
    place = make_place(kind, request)
    place.put(NAME, b"x")
    assert place.backend.size("here/default") is None
    assert place.backend.size(f"{NAME}/x") is None
    with pytest.raises(StorageError):
        place.backend.open("here/default").read(1)
    with pytest.raises(StorageError):
        place.backend.delete("here/default")
    assert place.names() == [NAME]


def test_a_location_that_is_a_file_is_an_error(request: pytest.FixtureRequest) -> None:
    place = make_place("files", request)
    place.raw_put(place.prefix.rstrip("/"), b"a file")
    with pytest.raises(StorageError, match="cannot be listed: Not a directory"):
        list(place.backend.list(""))
    with pytest.raises(StorageError, match="cannot be stored"):
        place.backend.save(NAME, Some(10), expected_size=1)


# -- S3 -------------------------------------------------------------------------------------------

PATIENT = {"client_config": Config(retries={"total_max_attempts": 1})}
"""boto3 would repeat what fails, with pauses."""


@pytest.fixture
def proxied(s3_bucket: Bucket, s3_proxy: CuttingProxy, settings: Any) -> S3Place:
    chosen = s3_bucket.settings("p/", endpoint_url=s3_proxy.endpoint_url)
    chosen["PGCLONE_S3_CONFIG"] = {**chosen["PGCLONE_S3_CONFIG"], **PATIENT}
    for name, value in chosen.items():
        setattr(settings, name, value)
    return S3Place(s3_bucket, "p/", s3_bucket.location("p/"), chosen)


SIZE = 400_000


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgclone_admin.storage.base.FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("times", [1, RESUMES])
@pytest.mark.parametrize("after", [0, 1, 65_537, SIZE - 1])
def test_a_download_whose_connection_breaks_is_taken_up_again(
    proxied: S3Place, s3_proxy: CuttingProxy, after: int, times: int, reset: bool
) -> None:
    data = os.urandom(SIZE)
    proxied.put(NAME, data)
    if after == SIZE - 1:
        times = 1  # what is left then is shorter
    s3_proxy.cut_gets(after=after, times=times, reset=reset)
    assert checksum(everything(proxied.backend.open(NAME), 70_000)) == checksum(data)
    first, *others = s3_proxy.seen("GetObject")
    assert first.range is None
    assert len(others) >= 1
    starts = [int((request.range or "").removeprefix("bytes=").rstrip("-")) for request in others]
    assert starts == sorted(starts)
    assert all(request.headers.get("if-match") for request in others)
    if not reset:  # a reset may take bytes with it that were sent
        assert starts == [min((turn + 1) * after, SIZE) for turn in range(times)]


def test_a_download_may_break_any_number_of_times_as_long_as_it_gets_on(
    proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    data = os.urandom(SIZE)
    proxied.put(NAME, data)
    s3_proxy.cut_gets(after=SIZE // (3 * RESUMES), times=None)
    assert checksum(everything(proxied.backend.open(NAME))) == checksum(data)
    assert len(s3_proxy.seen("GetObject")) > 3 * RESUMES


def test_a_download_whose_connection_always_breaks_at_one_byte_is_given_up(
    proxied: S3Place, s3_proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("pgclone_admin.storage.base.time.sleep", pauses.append)
    proxied.put(NAME, os.urandom(SIZE))
    s3_proxy.cut_gets(after=0, times=None)
    with pytest.raises(StorageError, match="the connection broke") as caught:
        everything(proxied.backend.open(NAME))
    assert NAME in str(caught.value)
    assert caught.value.hint
    assert len(s3_proxy.seen("GetObject")) == RESUMES + 1
    assert [pause for pause in pauses if pause >= FIRST_PAUSE] == [0.5, 1, 2, 4]


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new_one(
    proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    proxied.put(NAME, os.urandom(SIZE))
    s3_proxy.cut_gets(after=100_000)
    with contextlib.closing(proxied.backend.open(NAME)) as stream:
        assert len(stream.read(50_000)) > 0
        proxied.put(NAME, os.urandom(SIZE))
        with pytest.raises(IntegrityError, match="replaced while it was read") as caught:
            everything(stream)
    assert NAME in str(caught.value)


def test_an_object_that_is_deleted_while_it_is_read_is_an_error(
    proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    proxied.put(NAME, os.urandom(SIZE))
    s3_proxy.cut_gets(after=100_000)
    with contextlib.closing(proxied.backend.open(NAME)) as stream:
        stream.read(50_000)
        proxied.remove(NAME)
        with pytest.raises(DumpNotFound, match="there is no dump"):
            everything(stream)


def test_the_first_bytes_of_an_object_come_without_the_rest(
    proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    proxied.put(NAME, bytes(40_000_000))
    with contextlib.closing(proxied.backend.open(NAME)) as stream:
        assert stream.read(10) == bytes(10)
        time.sleep(0.2)
        (request,) = s3_proxy.seen("GetObject")
        assert request.sent < 30_000_000


def test_one_request_lists_a_thousand_objects(proxied: S3Place, s3_proxy: CuttingProxy) -> None:
    for number in range(20):
        proxied.put(f"a/b{number}/c/1.dump", b"x")
    assert len(list(proxied.backend.list(""))) == 20
    assert len(s3_proxy.requests) == 1


def test_an_aborted_upload_is_gone_from_the_bucket(
    proxied: S3Place, s3_proxy: CuttingProxy
) -> None:
    content = Some(3 * SMALLEST_PART, fails_at=2 * SMALLEST_PART, error=Cancelled())
    with pytest.raises(Cancelled):
        proxied.backend.save(NAME, content, expected_size=1)
    assert len(s3_proxy.seen("CreateMultipartUpload")) == 1
    assert [request.status for request in s3_proxy.seen("AbortMultipartUpload")] == [204]
    assert proxied.bucket.open_uploads() == []


OPERATIONS: dict[str, Callable[[Backend], object]] = {
    "save": lambda backend: backend.save(NAME, Some(10), expected_size=1),
    "open": lambda backend: backend.open(NAME),
    "size": lambda backend: backend.size(NAME),
    "delete": lambda backend: backend.delete(NAME),
    "list": lambda backend: list(backend.list("")),
}


def one_sentence(error: PgcloneError) -> str:
    """What a person reads: no line break, no secret, no name of a Python class."""
    told = f"{error} {error.hint or ''}"
    assert "\n" not in told
    assert S3_CANARY not in told
    assert "Traceback" not in told
    assert "ClientError" not in told
    assert S3_CANARY not in repr(error)
    return told


@pytest.mark.parametrize("operation", ["save", "size", "list", "open"])
def test_a_bucket_that_does_not_exist_is_said_in_a_sentence(
    s3_server: S3Server, settings: Any, operation: str
) -> None:
    bucket = Bucket(s3_server.endpoint_url)
    bucket.destroy()
    for name, value in bucket.settings().items():
        setattr(settings, name, value)
    with pytest.raises(StorageError) as caught:
        OPERATIONS[operation](open_backend(bucket.location()))
    told = one_sentence(caught.value)
    assert "Create the bucket, or correct its name" in told
    assert caught.value.code == "storage_error"
    if operation != "open":
        assert bucket.name in told


@contextlib.contextmanager
def credentials_are_checked(server: S3Server) -> Iterator[None]:
    """Lets the server look at credentials, which it does not do otherwise."""

    def requests_without_check(count: str) -> None:
        request = urllib.request.Request(
            f"{server.endpoint_url}/moto-api/reset-auth",
            data=count.encode(),
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()

    requests_without_check("0")
    try:
        yield
    finally:
        requests_without_check("inf")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_credentials_that_are_refused_are_said_in_a_sentence(
    s3_bucket: Bucket, s3_server: S3Server, settings: Any, operation: str
) -> None:
    for name, value in s3_bucket.settings().items():
        setattr(settings, name, value)
    backend = open_backend(s3_bucket.location())
    with credentials_are_checked(s3_server), pytest.raises(StorageError) as caught:
        OPERATIONS[operation](backend)
    assert "credentials" in one_sentence(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_missing_credentials_are_said_in_a_sentence(
    s3_bucket: Bucket, settings: Any, operation: str
) -> None:
    for name, value in s3_bucket.settings().items():
        setattr(settings, name, value)
    settings.PGCLONE_S3_CONFIG = {"AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.raises(StorageError, match="Unable to locate credentials") as caught:
        OPERATIONS[operation](open_backend(s3_bucket.location()))
    assert "credentials of the storage" in one_sentence(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_does_not_answer_is_said_in_a_sentence(
    s3_bucket: Bucket, settings: Any, operation: str
) -> None:
    for name, value in s3_bucket.settings(endpoint_url="http://127.0.0.1:9").items():
        setattr(settings, name, value)
    settings.PGCLONE_S3_CONFIG = {**s3_bucket.s3_config, **PATIENT}
    with pytest.raises(StorageError, match="Could not connect") as caught:
        OPERATIONS[operation](open_backend(s3_bucket.location()))
    assert "Check the endpoint" in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix/", "names no bucket"),
        ("gs://bucket/", 'of the kind "gs:" are not known'),
        ("http://127.0.0.1/", 'of the kind "http:" are not known'),
        ("storages:no-such-alias/", 'the storage "no-such-alias" cannot be used'),
        ("storages:", "cannot be used"),
        ("", "cannot be empty"),
        ("a\0b", "cannot be"),
    ],
)
def test_a_location_that_cannot_be_meant_is_refused(location: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_backend(location)
    assert caught.value.code == "configuration"


def test_an_alias_that_cannot_be_imported_is_refused(settings: Any) -> None:
    settings.STORAGES = {**settings.STORAGES, ALIAS: {"BACKEND": "no.such.Storage"}}
    with pytest.raises(ConfigurationError, match='the storage "dumps" cannot be used'):
        open_backend(f"storages:{ALIAS}/")


def test_an_s3_option_that_does_not_exist_is_refused(s3_bucket: Bucket, settings: Any) -> None:
    settings.PGCLONE_S3_CONFIG = {"AWS_ACCES_KEY_ID": S3_ACCESS_KEY}
    with pytest.raises(ConfigurationError, match="PGCLONE_S3_CONFIG does not know") as caught:
        open_backend(s3_bucket.location())
    assert "AWS_ACCES_KEY_ID" in str(caught.value)
    assert S3_ACCESS_KEY not in str(caught.value)


def test_the_media_settings_of_a_site_do_not_apply_to_s3_locations(
    s3_bucket: Bucket, settings: Any
) -> None:
    """Public, compressed, renamed: what is good for pictures is bad for dumps."""
    settings.AWS_DEFAULT_ACL = "public-read"
    settings.AWS_IS_GZIPPED = True
    settings.AWS_S3_FILE_OVERWRITE = False
    settings.AWS_LOCATION = "media"
    for name, value in s3_bucket.settings("p/").items():
        setattr(settings, name, value)
    DumpStore(s3_bucket.location("p/")).save(DumpKey.parse(NAME), Some(10), source_size=1)
    assert s3_bucket.keys() == [f"p/{NAME}"]
    grants = s3_bucket.client.get_object_acl(Bucket=s3_bucket.name, Key=f"p/{NAME}")["Grants"]
    assert [grant["Grantee"].get("URI") for grant in grants] == [None]
