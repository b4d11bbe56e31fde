"""A storage location is tried, and its leftovers are told from its dumps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.test import override_settings

from pgclone_admin.core.errors import Conflict, PgcloneError, StorageError
from pgclone_admin.services.doctor import without_credentials
from pgclone_admin.storage.generic import GenericBackend, _sign_now
from pgclone_admin.store import PROBE_PREFIX, DumpStore, _Bytes
from tests.support.storages import Box, FaultyStorage, StorageBroke
from tests.unit.test_store import put

KEY = "prod/default/none/2026-01-01-00-00-00-000000.dump"
PARTIAL = f"{KEY}.partial-0123456789abcdef"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def age(path: Path, days: float = 2) -> Path:
    moment = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    os.utime(path, (moment, moment), follow_symlinks=False)
    return path


def left(root: Path, older_than: datetime = YESTERDAY) -> list[str]:
    return sorted(each.name for each in DumpStore(str(root)).leftovers(older_than))


def everything(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())


# -- leftovers -------------------------------------------------------------------------------------


def test_f14_an_old_partial_file_is_found_and_removed_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, KEY, PARTIAL)
    (tmp_path / f"{KEY}.json").write_text("{}")
    for name in everything(tmp_path):
        age(tmp_path / name)
    store = DumpStore(str(tmp_path))

    (found,) = store.leftovers(YESTERDAY)
    assert found.name == PARTIAL
    store.discard(found)
    store.discard(found)

    assert everything(tmp_path) == [KEY, f"{KEY}.json"]


def test_f63_a_partial_file_of_a_clock_that_is_ahead_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, PARTIAL)
    age(tmp_path / PARTIAL, days=-400)
    assert left(tmp_path) == []


def test_f14_a_partial_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, PARTIAL)
    age(tmp_path / PARTIAL, days=0.9)
    assert left(tmp_path) == []


def test_f14_a_partial_file_that_is_written_to_again_is_not_removed(tmp_path: Path) -> None:
    put(tmp_path, PARTIAL)
    age(tmp_path / PARTIAL)
    store = DumpStore(str(tmp_path))
    (found,) = store.leftovers(YESTERDAY)
    age(tmp_path / PARTIAL, days=0)
    store.discard(found)
    assert everything(tmp_path) == [PARTIAL]


@pytest.mark.parametrize(
    "name",
    [
        f"{KEY}.partial-0123456789abcde",
        f"{KEY}.partial-0123456789abcdef0",
        f"{KEY}.partial-0123456789abcdeg",
        f"{KEY}.partial-0123456789abcdef.txt",
        ".partial-0123456789abcdef",
        "film.mkv.partial",
    ],
)
def test_f14_only_our_own_pattern_is_a_leftover(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    age(tmp_path / name)
    assert left(tmp_path) == []


def test_f53_a_leftover_behind_a_symbolic_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "dumps"
    put(elsewhere, "precious", PARTIAL)
    age(elsewhere / "precious")
    age(elsewhere / PARTIAL)
    root.mkdir()
    age(root).joinpath("linked").symlink_to(elsewhere)
    link = root / "a.partial-0123456789abcdef"
    link.symlink_to(elsewhere / "precious")
    age(link)
    (root / "b.partial-0123456789abcdef").mkdir()
    age(root / "b.partial-0123456789abcdef")

    assert left(root) == []


def test_f53_what_became_a_link_after_it_was_found_is_not_removed(tmp_path: Path) -> None:
    put(tmp_path, PARTIAL, "precious")
    path = age(tmp_path / PARTIAL)
    store = DumpStore(str(tmp_path))
    (found,) = store.leftovers(YESTERDAY)
    path.unlink()
    path.symlink_to(tmp_path / "precious")
    store.discard(found)
    assert path.is_symlink()


def test_a_location_that_was_never_used_has_no_leftovers(tmp_path: Path) -> None:
    assert left(tmp_path / "never") == []


class Sparse(FaultyStorage):
    """Tells no times, and refuses to delete what is not there, as FTP and Dropbox do."""

    def get_modified_time(self, name: str) -> datetime:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        if not self.exists(name):
            raise StorageBroke(f"{name} is not there")
        super().delete(name)


def test_what_a_storage_that_tells_no_times_was_left_with_is_found_by_what_it_says(
    faulty: Box,
) -> None:
    backend = GenericBackend(Sparse(faulty.name))
    before = datetime.now(UTC) - timedelta(seconds=1)
    faulty.put(backend._sign(KEY), _sign_now())
    assert list(backend.leftovers(before)) == []
    (found,) = backend.leftovers(datetime.now(UTC) + timedelta(seconds=1))
    assert before <= found.since
    with pytest.raises(Conflict, match="has died meanwhile") as caught:
        backend.save(KEY, _Bytes(b"x"), expected_size=1)
    assert "pgclone recover" in (caught.value.hint or "")
    backend.discard(found)
    backend.delete(KEY)
    assert faulty.objects == {}


def test_the_sign_goes_with_a_dump_of_which_nothing_was_stored(faulty: Box) -> None:
    backend = GenericBackend(Sparse(faulty.name))

    class Failing(_Bytes):
        def read(self, size: int = -1, /) -> bytes:
            raise StorageError("pg_dump has failed")

    with pytest.raises(StorageError, match="pg_dump has failed") as caught:
        backend.save(KEY, Failing(b"x"), expected_size=1)
    assert not getattr(caught.value, "__notes__", [])
    assert faulty.objects == {}


def test_of_two_that_store_the_same_dump_the_later_one_leaves_the_other_s_sign(
    faulty: Box,
) -> None:
    backend = GenericBackend(Sparse(faulty.name))
    sign = backend._sign(KEY)
    save = Sparse._save

    class Racing(Sparse):
        def _save(self, name: str, content: object) -> str:
            faulty.put(sign, b"of the other one")
            return save(self, f"{name}_2", content)

    with pytest.raises(Conflict):
        GenericBackend(Racing(faulty.name)).save(KEY, _Bytes(b"x"), expected_size=1)
    assert faulty.objects == {sign: b"of the other one"}


def test_a_dump_that_is_still_written_to_is_no_leftover_however_old_its_sign(faulty: Box) -> None:
    backend = GenericBackend(faulty.storage)
    faulty.put(backend._sign(KEY), b"x")
    faulty.put(KEY, b"PGDMP, and more comes")
    faulty.modified[backend._sign(KEY)] = YESTERDAY - timedelta(days=1)
    assert list(backend.leftovers(YESTERDAY)) == []


def test_what_has_a_sign_beside_it_is_no_dump_in_any_storage(faulty: Box) -> None:
    sign = GenericBackend(faulty.storage)._sign(KEY)
    faulty.put(sign, b"x")
    faulty.put(KEY, b"PGDMP, and not all of it")
    with override_settings(STORAGES={"boxed": faulty.alias_config}):
        store = DumpStore("storages:boxed/")
        assert store.entries() == []
        assert store.find(KEY) is None
        assert list(store.leftovers(YESTERDAY)) == []
        (found,) = store.leftovers(datetime.now(UTC))
        assert found.name == sign
        store.discard(found)
        store.discard(found)
    assert faulty.objects == {}


# -- the round trip --------------------------------------------------------------------------------


def test_a_storage_is_tried_without_a_trace(tmp_path: Path) -> None:
    put(tmp_path, KEY)
    DumpStore(str(tmp_path)).prove()
    assert everything(tmp_path) == [KEY]


@pytest.mark.parametrize("validate", [True, False])
def test_what_a_trial_that_died_left_is_no_dump_and_is_a_leftover(
    tmp_path: Path, *, validate: bool
) -> None:
    put(tmp_path, f"{PROBE_PREFIX}0123456789abcdef")
    age(tmp_path / f"{PROBE_PREFIX}0123456789abcdef")
    store = DumpStore(str(tmp_path))
    with override_settings(PGCLONE_VALIDATE_DUMP_KEYS=validate):
        assert store.entries() == []
        assert store.find(f"{PROBE_PREFIX}0123456789abcdef") is None
    (found,) = store.leftovers(YESTERDAY)
    store.discard(found)
    assert everything(tmp_path) == []


@pytest.fixture
def boxed(faulty: Box) -> Iterator[Box]:
    """The storage behind ``storages:boxed/``."""
    faulty.error = StorageBroke("the vendor says no")
    with override_settings(STORAGES={"boxed": faulty.alias_config}):
        yield faulty


@pytest.mark.parametrize("method", ["exists", "save", "listdir", "open"])
def test_a_storage_that_cannot_do_one_thing_fails_its_trial_and_keeps_nothing(
    boxed: Box, method: str
) -> None:
    boxed.fails = {method}
    with pytest.raises(StorageError, match="the vendor says no"):
        DumpStore("storages:boxed/p/").prove()
    assert boxed.objects == {}


def test_a_storage_that_cannot_delete_fails_its_trial(boxed: Box) -> None:
    boxed.fails = {"delete"}
    with pytest.raises(StorageError, match="cannot be deleted"):
        DumpStore("storages:boxed/").prove()


def test_a_storage_that_loses_bytes_fails_its_trial(boxed: Box) -> None:
    boxed.short_by = 1
    with pytest.raises(PgcloneError, match="read back as something else"):
        DumpStore("storages:boxed/").prove()
    assert boxed.objects == {}


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix/"),
        ("s3://key:secret@bucket/p/", "s3://***@bucket/p/"),
        ("backups/me@home/", "backups/me@home/"),
        ("storages:alias/p/", "storages:alias/p/"),
    ],
)
def test_f54_a_location_is_shown_without_credentials(location: str, shown: str) -> None:
    assert without_credentials(location) == shown
