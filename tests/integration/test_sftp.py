"""Dumps on an SFTP server: a connection that breaks, a server that is full, modes, and threads."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import paramiko
import pytest
from storages.backends.sftpstorage import SFTPStorage

from pgclone_admin.core import restore as restore_module
from pgclone_admin.core.errors import Conflict, DumpNotFound, IntegrityError, StorageError
from pgclone_admin.storage import Backend, open_backend
from pgclone_admin.storage.base import RESUMES
from pgclone_admin.storage.sftp import WINDOW
from tests.support.places import ALIAS, FilesPlace, Place, dump, make_place, restore
from tests.support.sftp import SftpServer
from tests.support.sites import Site

from .test_storage_contract import NAME, OTHER, Some, checksum, everything

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    return make_place("alias of sftp", request)


@pytest.fixture
def backend(place: Place) -> Backend:
    return place.backend


Options = Callable[..., Backend]


@pytest.fixture
def with_options(place: Place, settings: Any) -> Options:
    """The backend of the same alias with other options."""

    def change(**options: Any) -> Backend:
        alias = settings.STORAGES[ALIAS]
        changed = {**alias, "OPTIONS": {**alias["OPTIONS"], **options}}
        settings.STORAGES = {**settings.STORAGES, ALIAS: changed}
        return place.backend

    return change


def some(place: Place, size: int) -> bytes:
    data = os.urandom(size)
    place.put(NAME, data)
    return data


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 40_000, WINDOW - 1, WINDOW, 2 * WINDOW + 12_345])
def test_a_download_goes_on_where_its_connection_broke(
    sftp_server: SftpServer, place: Place, backend: Backend, cut: int
) -> None:
    data = some(place, 3 * WINDOW + 17)
    stream = backend.open(NAME)
    sftp_server.cut_answers(after=cut)
    assert checksum(everything(stream)) == checksum(data)
    assert sftp_server.connections == 2


def test_a_download_may_break_any_number_of_times_as_long_as_it_gets_on(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    data = some(place, WINDOW)
    sftp_server.cut_answers(after=200_000, times=2 * RESUMES - 2)
    assert checksum(everything(backend.open(NAME))) == checksum(data)
    assert sftp_server.connections == 2 * RESUMES - 1


def test_a_download_takes_every_break_at_one_byte_but_the_sixth(
    sftp_server: SftpServer, place: Place, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgclone_admin.storage.base.FIRST_PAUSE", 0.01)
    data = some(place, WINDOW)
    stream = backend.open(NAME)
    sftp_server.cut_answers(after=1, times=RESUMES)
    assert checksum(everything(stream)) == checksum(data)

    stream = place.backend.open(NAME)
    sftp_server.cut_answers(after=1, times=RESUMES + 1)
    with pytest.raises(StorageError, match="the connection broke 6 times at the same") as caught:
        everything(stream)
    assert caught.value.hint == "Nothing was changed. Try again when the network is better."


def test_a_download_is_read_in_windows_however_it_is_asked_for(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    data = some(place, WINDOW + 1000)
    before = sftp_server.sent
    stream = backend.open(NAME)
    assert stream.read(10) == data[:10]
    assert sftp_server.sent - before < 1.1 * WINDOW
    assert everything(stream, size=7777) == data[10:]


def test_a_file_that_is_replaced_while_it_is_read_is_not_mixed_with_the_new_one(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    some(place, 2 * WINDOW)
    stream = backend.open(NAME)
    stream.read(100)
    some(place, 2 * WINDOW + 1)
    sftp_server.cut_answers(after=0)
    with pytest.raises(IntegrityError, match="was replaced while it was read"):
        everything(stream)


def test_a_file_that_is_cut_off_while_it_is_read_does_not_end_early(
    place: Place, backend: Backend
) -> None:
    data = some(place, 2 * WINDOW)
    stream = backend.open(NAME)
    stream.read(100)
    place.put(NAME, data[:WINDOW])
    with pytest.raises(IntegrityError, match="was replaced while it was read"):
        everything(stream)


def test_what_is_not_there_is_no_dump(backend: Backend) -> None:
    with pytest.raises(DumpNotFound, match=f'there is no dump "{NAME}"'):
        backend.open(NAME)


def test_a_reader_whose_file_is_gone_says_so_and_can_be_closed(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    some(place, 2 * WINDOW)
    stream = backend.open(NAME)
    stream.read(100)
    place.remove(NAME)
    sftp_server.cut_answers(after=0)
    with contextlib.closing(stream), pytest.raises(DumpNotFound):
        everything(stream)


@pytest.mark.parametrize("refused", [1, RESUMES - 1])
def test_a_download_outlives_a_server_that_is_started_anew(
    sftp_server: SftpServer, place: Place, backend: Backend, refused: int
) -> None:
    data = some(place, 2 * WINDOW)
    stream = backend.open(NAME)
    stream.read(100)
    sftp_server.cut_answers(after=0)
    with sftp_server.refuses_after_a_cut(times=refused):
        assert checksum(everything(stream)) == checksum(data[100:])


def test_a_backend_can_be_used_again_when_its_server_is_back(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    some(place, 100)
    assert backend.size(NAME) == 100
    sftp_server.cut_answers(after=0)
    with sftp_server.refuses_after_a_cut():
        for _ in range(2):
            with pytest.raises(StorageError, match=f'"{NAME}" cannot be read'):
                backend.size(NAME)
    assert backend.size(NAME) == 100


def test_a_large_file_is_read_by_one_handle_after_the_other(
    place: Place, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgclone_admin.storage.sftp.SAME_HANDLE", 2 * WINDOW)
    data = some(place, 7 * WINDOW + 3)
    assert checksum(everything(backend.open(NAME))) == checksum(data)


def test_a_large_file_is_read_on_when_its_server_is_started_anew_between_two_handles(
    sftp_server: SftpServer, place: Place, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgclone_admin.storage.sftp.SAME_HANDLE", WINDOW)
    data = some(place, 3 * WINDOW + 3)
    stream = backend.open(NAME)
    first = stream.read(WINDOW)
    sftp_server.clear()
    assert checksum(first + everything(stream)) == checksum(data)


def test_a_reader_can_be_closed_when_its_server_is_gone(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    data = some(place, 1000)
    stream = backend.open(NAME)
    assert b"".join(iter(lambda: stream.read(300), b"")) == data
    sftp_server.clear()
    stream.close()
    stream.close()


def test_a_restore_succeeds_although_its_server_is_gone_before_the_file_is_closed(
    site: Site, sftp_server: SftpServer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dump(site, place.store)
    oid, analyze = site.oid, restore_module._analyze

    def analyze_for_long(*arguments: Any) -> None:
        sftp_server.clear()
        analyze(*arguments)

    monkeypatch.setattr(restore_module, "_analyze", analyze_for_long)
    restore(site, manifest.key, place.store)
    assert site.oid != oid


# -- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [2_000, 500_000, 1_900_000])
def test_a_connection_that_breaks_while_a_dump_is_stored_leaves_nothing(
    sftp_server: SftpServer, place: Place, backend: Backend, cut: int
) -> None:
    sftp_server.cut_requests(after=cut)
    with pytest.raises(StorageError, match=f'"{NAME}" cannot be stored'):
        backend.save(NAME, Some(2_000_000), expected_size=1)
    assert place.names() == []
    assert sftp_server.connections == 2

    content = Some(2_000_000)
    backend.save(NAME, content, expected_size=1)
    assert checksum(place.read(NAME)) == checksum(content.data)


@pytest.mark.parametrize("done", [False, True])
def test_a_rename_whose_answer_is_lost_leaves_nothing(
    sftp_server: SftpServer, place: Place, backend: Backend, done: bool
) -> None:
    sftp_server.cut_at_rename(done=done)
    with pytest.raises(StorageError, match=f'"{NAME}" cannot be stored'):
        backend.save(NAME, Some(1000), expected_size=1)
    assert place.names() == []


def test_a_dump_whose_server_is_gone_lies_there_under_no_name_of_a_dump(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    sftp_server.cut_requests(after=500_000)
    with sftp_server.refuses_after_a_cut(), pytest.raises(StorageError) as caught:
        backend.save(NAME, Some(2_000_000), expected_size=1)
    assert any("could not be removed either" in note for note in caught.value.__notes__)
    (name,) = place.names()
    assert name.startswith(f"{NAME}.partial-")

    fresh = place.backend
    assert list(fresh.list("")) == []
    assert fresh.size(NAME) is None
    assert list(fresh.leftovers(datetime.now(UTC) - timedelta(hours=1))) == []
    (leftover,) = fresh.leftovers(TOMORROW)
    assert leftover.name == name
    fresh.discard(leftover)
    fresh.discard(leftover)
    assert place.names() == []


def test_what_is_written_to_again_since_it_was_found_is_not_removed(
    place: Place, backend: Backend
) -> None:
    partial = f"{NAME}.partial-{'0' * 16}"
    place.put(partial, b"a")
    (leftover,) = backend.leftovers(TOMORROW)
    assert isinstance(place, FilesPlace)
    os.utime(place.path(partial), (time.time() + 100, time.time() + 100))
    backend.discard(leftover)
    assert place.names() == [partial]
    place.remove(partial)


def test_a_server_that_is_full_is_no_place_for_a_dump(
    sftp_server: SftpServer, place: Place, backend: Backend
) -> None:
    with sftp_server.with_room_for(kilobytes=300):
        with pytest.raises(StorageError, match=f'"{NAME}" cannot be stored'):
            backend.save(NAME, Some(1_000_000), expected_size=1)
        assert place.names() == []
        backend.save(NAME, Some(100_000), expected_size=1)
    assert place.names() == [NAME]


def test_a_name_that_is_given_away_while_a_dump_is_stored_is_not_taken(
    place: Place, backend: Backend
) -> None:
    class Late(Some):
        def read(self, size: int = -1, /) -> bytes:
            place.put(NAME, b"of somebody else")
            return super().read(size)

    with pytest.raises(Conflict, match="exists already"):
        backend.save(NAME, Late(1000), expected_size=1)
    assert place.names() == [NAME]
    assert place.read(NAME) == b"of somebody else"


def test_the_root_of_a_server_is_not_the_directory_in_which_a_login_begins(
    place: Place, with_options: Options, storage_root: Path
) -> None:
    with_options(root_path="/")
    backend = open_backend(f"storages:{ALIAS}/")
    name = f"{storage_root}/here.dump".removeprefix("/")
    backend.save(name, Some(10), expected_size=1)
    assert (storage_root / "here.dump").stat().st_size == 10
    assert backend.size(name) == 10
    backend.delete(name)
    assert list(storage_root.iterdir()) == []


# -- who may read it ------------------------------------------------------------------------------


def modes(place: Place) -> tuple[int, int]:
    assert isinstance(place, FilesPlace)
    folder = place.path(NAME).parent
    return place.mode(NAME), stat.S_IMODE(folder.stat().st_mode)


def test_a_dump_is_for_its_owner_alone(place: Place, backend: Backend) -> None:
    backend.save(NAME, Some(10), expected_size=1)
    assert modes(place) == (0o600, 0o700)


def test_the_modes_of_the_storage_are_kept(place: Place, with_options: Options) -> None:
    with_options(file_mode=0o640, dir_mode=0o750).save(NAME, Some(10), expected_size=1)
    assert modes(place) == (0o640, 0o750)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_of_the_storage_is_kept(place: Place, with_options: Options) -> None:
    with_options(uid=1234, gid=5678).save(NAME, Some(10), expected_size=1)
    assert isinstance(place, FilesPlace)
    for path in (place.path(NAME), place.path(NAME).parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


# -- connections ----------------------------------------------------------------------------------


def test_threads_do_not_take_one_another_s_answers(place: Place, storage_root: Path) -> None:
    """A connection of paramiko serves one thread at a time, and an alias is one object."""
    names = [NAME.replace("000006", f"{number:06}") for number in range(100, 106)]
    contents = {name: Some(3_000_000) for name in names}
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            backend = place.backend
            backend.save(name, contents[name], expected_size=1)
            assert checksum(everything(backend.open(name))) == checksum(contents[name].data)
        except BaseException as error:  # noqa: BLE001 - raised by the test itself
            failed.append(error)

    threads = [threading.Thread(target=work, args=[name], daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []


def test_a_connection_ends_with_who_used_it(sftp_server: SftpServer, place: Place) -> None:
    backend = place.backend
    backend.save(NAME, Some(10), expected_size=1)
    reader = backend.open(NAME)
    del backend
    gc.collect()
    assert everything(reader) != b""
    assert sftp_server.open_connections == 1
    del reader
    gc.collect()
    until = time.monotonic() + 10
    while sftp_server.open_connections and time.monotonic() < until:
        time.sleep(0.05)
    assert sftp_server.open_connections == 0


def test_a_wrong_password_is_said_and_not_told(with_options: Options, settings: Any) -> None:
    params = settings.STORAGES[ALIAS]["OPTIONS"]["params"]
    backend = with_options(params={**params, "password": "canary-of-a-wrong-one"})
    with pytest.raises(StorageError, match="the server did not let us in") as caught:
        backend.size(NAME)
    assert caught.value.hint == "Check the params of the storage."
    assert "canary" not in f"{caught.value} {caught.value.__cause__}"


def test_a_server_with_another_key_than_the_known_one_is_not_talked_to(
    sftp_server: SftpServer, with_options: Options, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    other = paramiko.ECDSAKey.generate()
    known.write_text(f"[127.0.0.1]:{sftp_server.port} {other.get_name()} {other.get_base64()}\n")
    with pytest.raises(StorageError, match="Host key for server"):
        with_options(known_host_file=str(known)).size(NAME)
    assert sftp_server.taken == 0


def test_what_cannot_be_deleted_is_not_called_deleted(place: Place, backend: Backend) -> None:
    """``SFTPStorage.delete`` keeps every error to itself."""
    place.put(f"{OTHER}/inside", b"a file below what would be a dump")
    with pytest.raises(StorageError, match=f'"{OTHER}" cannot be deleted'):
        backend.delete(OTHER)
    place.remove(f"{OTHER}/inside")


class Loud(SFTPStorage):
    """A storage that somebody has changed."""

    saved: ClassVar[list[str]] = []

    def _save(self, name: str, content: Any) -> str:
        self.saved.append(name)
        saved_as: str = super()._save(name, content)
        return saved_as


def test_a_storage_that_saves_in_its_own_way_is_asked_to_do_so(place: Place, settings: Any) -> None:
    own = {**settings.STORAGES[ALIAS], "BACKEND": f"{__name__}.Loud"}
    settings.STORAGES = {**settings.STORAGES, ALIAS: own}
    content = Some(100_000)
    place.backend.save(NAME, content, expected_size=1)
    assert Loud.saved[-1].endswith(NAME)
    assert checksum(place.read(NAME)) == checksum(content.data)
