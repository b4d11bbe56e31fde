"""Storages that take or give whole files only: what passes through the disk is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgclone_admin.core.errors import Conflict, StorageError
from pgclone_admin.core.names import DumpKey
from pgclone_admin.storage import generic
from pgclone_admin.storage.base import is_partial
from pgclone_admin.storage.generic import IN_MEMORY, GenericBackend
from pgclone_admin.store import DumpStore
from tests.faults.test_b_storage import files_end_after
from tests.support import ROOT
from tests.support.django_project import Project
from tests.support.places import ALIAS, make_place
from tests.support.storages import WholeFiles

from .test_storage_contract import NAME, Some, checksum, everything

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

LARGE = IN_MEMORY + 100_000


@pytest.fixture
def whole(storage_root: Path) -> WholeFiles:
    return WholeFiles(location=str(storage_root))


def test_a_dump_is_spooled_with_a_note_and_restored(project: Project) -> None:
    project.settings["STORAGES"] = {
        ALIAS: {
            "BACKEND": "tests.support.storages.WholeFiles",
            "OPTIONS": {"location": str(project.storage_root)},
        }
    }
    project.settings["PGCLONE_STORAGE_LOCATION"] = f"storages:{ALIAS}/nightly/"
    before = project.fingerprint()

    dumped = project.pgclone("dump").ok()
    key = dumped.lines[0]
    project.run('DELETE FROM "MyTable"')
    project.pgclone("restore", key, "--pre-swap-hook").ok()

    assert "WholeFiles takes whole files only" in dumped.stderr
    assert f"a temporary file in {tempfile.gettempdir()} first" in dumped.stderr
    assert "the temporary file has 0 MB and is sent now" in dumped.stderr
    assert project.fingerprint() == before
    assert project.files() == [f"nightly/{key}", f"nightly/{key}.json"]


def test_f14_a_process_that_dies_while_it_stores_a_dump_leaves_none(storage_root: Path) -> None:
    """``FTPStorage``, too, writes under the name of the dump."""
    code = f"""
from pgclone_admin.storage.generic import GenericBackend
from tests.integration.test_storage_contract import NAME, Some
from tests.support.storages import HangingFiles
GenericBackend(HangingFiles({str(storage_root)!r})).save(NAME, Some(1000), expected_size=1)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    path = storage_root / NAME
    until = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()

    backend = GenericBackend(WholeFiles(location=str(storage_root)))
    assert backend.size(NAME) is None
    assert list(backend.list("")) == []
    with pytest.raises(Conflict, match="exists already"):
        backend.save(NAME, Some(10), expected_size=1)
    (leftover,) = backend.leftovers(datetime.now(UTC) + timedelta(days=1))
    backend.discard(leftover)
    assert [path for path in storage_root.rglob("*") if path.is_file()] == []
    backend.save(NAME, Some(10), expected_size=1)


def test_only_what_is_large_is_spooled_to_the_disk(
    whole: WholeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    backend = GenericBackend(whole, note=notes.append)
    seen: list[Any] = []
    original = WholeFiles._save

    def look(storage: WholeFiles, name: str, content: Any) -> str:
        if not is_partial(name):
            seen.append(content.file._rolled)
        return original(storage, name, content)

    monkeypatch.setattr(WholeFiles, "_save", look)
    backend.save("small", Some(1000), expected_size=1000)
    assert (seen, notes) == ([False], [])
    content = Some(LARGE)
    backend.save("large", content, expected_size=LARGE)

    assert seen == [False, True]
    assert [note.split(",")[0] for note in notes] == [
        "WholeFiles takes whole files only",
        "the temporary file has 2 MB and is sent now",
    ]
    assert checksum(everything(backend.open("large"))) == checksum(content.data)


def test_a_temporary_directory_without_room_is_named_and_nothing_is_stored(
    whole: WholeFiles, storage_root: Path
) -> None:
    backend = GenericBackend(whole)
    with files_end_after(IN_MEMORY), pytest.raises(StorageError) as caught:
        backend.save(NAME, Some(3 * IN_MEMORY), expected_size=LARGE)

    folder = tempfile.gettempdir()
    assert f"the temporary file in {folder} cannot hold the dump: File too large" in str(
        caught.value
    )
    assert "TMPDIR" in (caught.value.hint or "")
    assert [path for path in storage_root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("limit", [0, 7_000_000])
def test_a_storage_that_fetches_whole_files_does_not_hold_them_in_memory(
    whole: WholeFiles, limit: int
) -> None:
    whole.max_memory_size = limit
    backend = GenericBackend(whole)
    content = Some(LARGE)
    backend.save(NAME, content, expected_size=LARGE)

    with contextlib.closing(backend.open(NAME)) as stream:
        assert stream.read(10) == content.data[:10]
        # What the settings of the site say is left as it is.
        assert whole.fetched[-1]._rolled == (limit == 0)
    assert whole.max_memory_size == limit


@pytest.mark.parametrize("where", ["memory", "a temporary file"])
def test_what_is_fetched_whole_is_told(
    whole: WholeFiles,
    storage_root: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setitem(generic.FETCHING_CLASSES, "tests.support.storages.WholeFiles", where)
    settings.STORAGES = {
        ALIAS: {
            "BACKEND": "tests.support.storages.WholeFiles",
            "OPTIONS": {"location": str(storage_root)},
        }
    }
    notes: list[str] = []
    (storage_root / NAME).parent.mkdir(parents=True)
    (storage_root / NAME).write_bytes(os.urandom(LARGE))
    (storage_root / "small").write_bytes(b"x")

    store = DumpStore(f"storages:{ALIAS}/", notes.append)
    store.open(DumpKey.parse(NAME)).close()
    store._backend.open("small").close()

    (note,) = notes
    assert note.startswith("WholeFiles gives whole files only, so all of the dump is fetched")
    assert note.endswith(f" first, into {where}: 2 MB")


def test_from_any_other_storage_the_first_bytes_come_without_the_rest(
    faulty: Any, request: pytest.FixtureRequest
) -> None:
    place = make_place("alias of anything", request)
    content = Some(LARGE)
    place.backend.save(NAME, content, expected_size=LARGE)
    faulty.read_fails_at = 200_000

    with contextlib.closing(place.backend.open(NAME)) as stream:
        assert stream.read(100) == content.data[:100]
        with pytest.raises(StorageError):
            list(iter(lambda: stream.read(50_000), b""))
