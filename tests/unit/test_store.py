"""The dumps of a storage location."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage, storages
from django.test import override_settings

from pgclone_admin.core.errors import (
    ConfigurationError,
    Conflict,
    DumpNotFound,
    IntegrityError,
    InvalidName,
    StorageError,
)
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.names import DumpKey
from pgclone_admin.storage import base
from pgclone_admin.store import LARGEST_MANIFEST, DumpStore
from tests.support.storages import Box

OLD = "prod/default/none/2026-01-01-00-00-00-000000.dump"
NEW = "prod/default/none/2026-03-01-00-00-00-000000.dump"
VERSION_1 = "shop/2026-02-01-00-00-00-000000.default.dump"


class Content:
    """Bytes on their way into a storage."""

    complete = True

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.size = len(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)


def manifest(key: str, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "size": 3,
        "sha256": "a" * 64,
        "codec": "none",
        "taken_at": "2026-01-01T00:00:00+00:00",
        "instance": "prod",
        "database": "default",
        "config": "none",
        "origin": "pgclone",
        "app_version": "0.1.0",
    }
    return Manifest(key=key, **{**fields, **changes})


def put(root: Path, *names: str, data: bytes = b"abc", modified: datetime | None = None) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if modified is not None:
            os.utime(path, (modified.timestamp(), modified.timestamp()))


@pytest.fixture
def store(storage_root: Path) -> DumpStore:
    return DumpStore(str(storage_root))


def keys(store: DumpStore, prefix: str = "") -> list[str]:
    return [entry.key.text for entry in store.entries(prefix)]


# -- listing --------------------------------------------------------------------------------------


def test_f64_dumps_are_listed_newest_first_by_time_whatever_their_keys_look_like(
    store: DumpStore, storage_root: Path
) -> None:
    put(storage_root, OLD, VERSION_1, NEW)
    put(storage_root, "aaa/default/none/2026-02-15-00-00-00-000000.dump")
    assert keys(store) == [
        NEW,
        "aaa/default/none/2026-02-15-00-00-00-000000.dump",
        VERSION_1,
        OLD,
    ]


def test_dumps_of_one_moment_are_listed_in_a_fixed_order(
    store: DumpStore, storage_root: Path
) -> None:
    names = [f"{i}/default/none/2026-01-01-00-00-00-000000.dump" for i in "bac"]
    put(storage_root, *names)
    assert keys(store) == sorted(names, reverse=True)


def test_what_is_no_dump_is_not_listed(store: DumpStore, storage_root: Path) -> None:
    put(
        storage_root,
        OLD,
        f"{OLD}.json",
        "README.txt",
        "prod/default/none/notes.txt",
        f"{NEW}.partial-0123456789abcdef",
        "prod/default/none/2026-99-01-00-00-00-000000.dump",
        "prod/default\\none/2026-03-01-00-00-00-000000.dump",
    )
    assert keys(store) == [OLD]
    (entry,) = store.entries()
    assert entry.has_manifest
    assert entry.stored.size == 3


def test_without_validation_everything_but_manifests_is_a_dump(
    store: DumpStore, storage_root: Path
) -> None:
    put(storage_root, OLD, f"{OLD}.json", "alone.json", f"{NEW}.partial-0123456789abcdef")
    put(storage_root, "by hand.dump", modified=datetime(2026, 1, 15, tzinfo=UTC))
    put(storage_root, "older.bak", modified=datetime(2025, 1, 1, tzinfo=UTC))
    with override_settings(PGCLONE_VALIDATE_DUMP_KEYS=False):
        assert keys(store) == ["alone.json", "by hand.dump", OLD, "older.bak"]
        by_key = {entry.key.text: entry for entry in store.entries()}
        assert by_key["by hand.dump"].taken_at == datetime(2026, 1, 15, tzinfo=UTC)
        assert by_key[OLD].taken_at == datetime(2026, 1, 1, tzinfo=UTC)
        assert store.find("by hand.dump") == DumpKey.parse("by hand.dump")
    assert keys(store) == [OLD]
    assert store.find("by hand.dump") is None


def test_a_location_in_which_nothing_was_stored_yet_is_empty(tmp_path: Path) -> None:
    store = DumpStore(str(tmp_path / "not" / "there"))
    assert store.entries() == []
    assert store.find(OLD) is None
    assert not (tmp_path / "not").exists()


def test_entries_of_a_prefix(store: DumpStore, storage_root: Path) -> None:
    put(storage_root, OLD, VERSION_1)
    assert keys(store, "prod/") == [OLD]


# -- reading --------------------------------------------------------------------------------------


def test_a_dump_is_found_by_its_whole_key_alone(store: DumpStore, storage_root: Path) -> None:
    put(storage_root, OLD)
    assert store.find(OLD) == DumpKey.parse(OLD)
    for text in ("prod", "prod/default/none", OLD.removesuffix(".dump"), f"{OLD}.json", NEW):
        assert store.find(text) is None


@pytest.mark.parametrize(
    "text", ["../outside", "/etc/passwd", "%2e%2e/outside", "..\\outside", "a\0b", "", "x" * 2000]
)
@pytest.mark.parametrize("validate", [True, False])
def test_f52_a_key_out_of_the_location_is_not_found(
    store: DumpStore, storage_root: Path, text: str, validate: bool
) -> None:
    put(storage_root.parent, "outside")
    with override_settings(PGCLONE_VALIDATE_DUMP_KEYS=validate):
        assert store.find(text) is None


@pytest.mark.parametrize("text", ["../outside", "/etc/passwd", "a/../../outside"])
def test_f52_nothing_outside_is_read_written_or_deleted_even_with_a_key_that_was_not_parsed(
    store: DumpStore, storage_root: Path, text: str
) -> None:
    put(storage_root.parent, "outside")
    forged = DumpKey(text)
    before = sorted(storage_root.parent.rglob("*"))
    with pytest.raises(InvalidName):
        store.open(forged)
    with pytest.raises(InvalidName):
        store.size(forged)
    with pytest.raises(InvalidName):
        store.save(forged, Content(b"x"), source_size=1)
    with pytest.raises(InvalidName):
        store.save_manifest(manifest(text))
    with pytest.raises(InvalidName):
        store.delete(forged)
    assert sorted(storage_root.parent.rglob("*")) == before
    assert (storage_root.parent / "outside").read_bytes() == b"abc"


def test_a_dump_that_is_not_there_is_named(store: DumpStore) -> None:
    with pytest.raises(DumpNotFound, match=f'there is no dump "{OLD}" in {store.location}'):
        store.size(DumpKey.parse(OLD))


def test_a_dump_is_read_as_it_was_stored(store: DumpStore) -> None:
    key = DumpKey.parse(OLD)
    data = os.urandom(700_000)
    store.save(key, Content(data), source_size=1)
    assert store.size(key) == len(data)
    stream = store.open(key)
    assert b"".join(iter(lambda: stream.read(100_000), b"")) == data
    stream.close()


def test_f16_a_key_that_exists_is_neither_overwritten_nor_renamed(
    store: DumpStore, storage_root: Path
) -> None:
    key = DumpKey.parse(OLD)
    store.save(key, Content(b"first"), source_size=1)
    with pytest.raises(Conflict, match="exists already"):
        store.save(key, Content(b"second"), source_size=1)
    assert (storage_root / OLD).read_bytes() == b"first"
    assert [p.name for p in (storage_root / OLD).parent.iterdir()] == [Path(OLD).name]


def test_dumps_are_for_their_owner_alone(store: DumpStore, storage_root: Path) -> None:
    store.save(DumpKey.parse(OLD), Content(b"x"), source_size=1)
    assert stat.S_IMODE((storage_root / OLD).stat().st_mode) == 0o600
    assert stat.S_IMODE((storage_root / OLD).parent.stat().st_mode) == 0o700


# -- manifests ------------------------------------------------------------------------------------


def test_a_manifest_is_stored_beside_its_dump(store: DumpStore, storage_root: Path) -> None:
    key = DumpKey.parse(OLD)
    assert store.manifest(key) is None
    written = manifest(OLD)
    store.save_manifest(written)
    assert store.manifest(key) == written
    assert json.loads((storage_root / f"{OLD}.json").read_text())["key"] == OLD


def test_f26_a_manifest_of_another_dump_is_refused(store: DumpStore, storage_root: Path) -> None:
    put(storage_root, f"{OLD}.json", data=manifest(NEW).to_json())
    with pytest.raises(IntegrityError, match="belongs to the dump"):
        store.manifest(DumpKey.parse(OLD))


def test_a_file_too_large_to_be_a_manifest_is_not_read(
    store: DumpStore, storage_root: Path
) -> None:
    path = storage_root / f"{OLD}.json"
    put(storage_root, f"{OLD}.json")
    with path.open("wb") as file:
        file.truncate(LARGEST_MANIFEST + 1)
    with pytest.raises(IntegrityError, match="too large to be one"):
        store.manifest(DumpKey.parse(OLD))


def test_a_broken_manifest_does_not_make_a_dump_foreign(
    store: DumpStore, storage_root: Path
) -> None:
    put(storage_root, f"{OLD}.json", data=b"{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        store.manifest(DumpKey.parse(OLD))


# -- deleting -------------------------------------------------------------------------------------


def test_a_dump_is_deleted_with_its_manifest_and_nothing_else(
    store: DumpStore, storage_root: Path
) -> None:
    put(storage_root, OLD, f"{OLD}.json", NEW, f"{NEW}.json")
    store.delete(DumpKey.parse(OLD))
    store.delete(DumpKey.parse(OLD))
    assert keys(store) == [NEW]
    assert sorted(p.name for p in storage_root.rglob("*.json")) == [f"{Path(NEW).name}.json"]


def test_f21_the_manifest_goes_first_so_that_a_half_deleted_dump_is_never_trusted(
    faulty: Box,
) -> None:
    with override_settings(STORAGES={"box": faulty.alias_config}):
        faulty.put(OLD, b"abc")
        faulty.put(f"{OLD}.json", b"{}")
        DumpStore("storages:box").delete(DumpKey.parse(OLD))
    assert faulty.deletes == [f"{OLD}.json", OLD]


# -- locations ------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[InMemoryStorage]:
    backend = {"BACKEND": "django.core.files.storage.InMemoryStorage"}
    with override_settings(STORAGES={"memory": backend}):
        storage = storages["memory"]
        assert isinstance(storage, InMemoryStorage)
        yield storage


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("storages:memory", ""),
        ("storages:memory/", ""),
        ("storages:memory/a/b", "a/b/"),
        ("storages:memory//a//b/", "a/b/"),
    ],
)
def test_any_storage_of_django_is_a_location(
    memory: InMemoryStorage, location: str, prefix: str
) -> None:
    store = DumpStore(location)
    store.save(DumpKey.parse(OLD), Content(b"abc"), source_size=3)
    store.save_manifest(manifest(OLD))
    assert memory.open(prefix + OLD).read() == b"abc"
    (entry,) = DumpStore(location).entries()
    assert (entry.key.text, entry.has_manifest, entry.stored.size) == (OLD, True, 3)
    store.delete(DumpKey.parse(OLD))
    assert store.entries() == []


def test_one_location_does_not_see_the_dumps_of_another(memory: InMemoryStorage) -> None:
    DumpStore("storages:memory/app").save(DumpKey.parse(OLD), Content(b"abc"), source_size=3)
    assert DumpStore("storages:memory/app_prod").entries() == []
    assert DumpStore("storages:memory/ap").entries() == []
    assert DumpStore("storages:memory/app").find(OLD) is not None


def test_a_relative_directory_lies_in_the_project(tmp_path: Path) -> None:
    with override_settings(BASE_DIR=tmp_path):
        DumpStore("dumps").save(DumpKey.parse(OLD), Content(b"abc"), source_size=3)
    assert (tmp_path / "dumps" / OLD).read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("", "cannot be empty"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("gs://bucket/x", 'of the kind "gs:" are not known'),
        ("file:///srv", 'of the kind "file:" are not known'),
        ("storages:nowhere/x", 'the storage "nowhere" cannot be used'),
    ],
)
def test_a_location_of_an_unknown_kind_is_a_sentence(location: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DumpStore(location)


@pytest.mark.parametrize("kind", [OSError, ConnectionError, ValueError])
def test_what_a_storage_raises_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Those of requests are OSErrors, and say the whole address."""
    monkeypatch.setattr(base, "secrets", lambda: frozenset({"canary"}))
    with pytest.raises(StorageError) as caught, base.storage_errors("it cannot be read"):
        raise kind("no answer from https://me:canary@example.com/")
    assert str(caught.value).endswith("no answer from https://me:***@example.com/")
    assert caught.value.__cause__ is None
    with pytest.raises(StorageError) as caught, base.storage_errors("it cannot be read"):
        raise kind("no answer")
    assert isinstance(caught.value.__cause__, kind)


def test_an_entry_without_any_time_is_the_oldest(store: DumpStore, storage_root: Path) -> None:
    put(storage_root, OLD)
    (entry,) = store.entries()
    stored = dataclasses.replace(entry.stored, modified=None)
    timeless = dataclasses.replace(entry, key=DumpKey.parse("by hand"), stored=stored)
    assert timeless.taken_at == datetime.min.replace(tzinfo=UTC)
