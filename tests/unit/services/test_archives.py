"""Taking foreign archives in and handing archives out, as far as no server is needed."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
import zstandard
from django.test import override_settings

from pgclone_admin.core.errors import IntegrityError, PgcloneError, UnknownFormat
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.archives import write_archive
from pgclone_admin.services.imports import import_archive
from tests.support.fake_programs import FakePrograms
from tests.unit.core.test_streams import NO_ARCHIVES, WRAPPERS
from tests.unit.test_store import manifest, put

KEY = "prod/default/none/2026-01-01-00-00-00-000000.dump"


def read_out(root: Path, key: str = KEY) -> bytes:
    output = io.BytesIO()
    options = resolve(Arguments(storage_location=str(root)), verb="restore")
    write_archive(options, key, output, SilentReporter())
    return output.getvalue()


@pytest.mark.parametrize("wrapper", ["nothing", "gzip", "zstd"])
@pytest.mark.parametrize("kind", NO_ARCHIVES)
def test_f27_what_is_no_archive_is_refused_before_any_process_starts(
    kind: str, wrapper: str, fakes: FakePrograms, storage_root: Path, tmp_path: Path
) -> None:
    content = WRAPPERS[wrapper][1](NO_ARCHIVES[kind][0])
    file = tmp_path / "mailed.dump"
    file.write_bytes(content)
    put(storage_root, KEY, data=content)
    options = resolve(Arguments(storage_location=str(storage_root)), verb="")
    with override_settings(PGCLONE_BIN_DIR=str(fakes.path)):
        with pytest.raises(UnknownFormat):
            import_archive(options, file, SilentReporter())
        with pytest.raises(UnknownFormat):
            read_out(storage_root)
    assert fakes.calls() == []
    assert [path.name for path in storage_root.rglob("*.*")] == [Path(KEY).name]


@pytest.mark.parametrize("wrapper", ["nothing", "gzip", "zstd"])
def test_an_archive_is_handed_out_without_its_wrapper(wrapper: str, storage_root: Path) -> None:
    archive = b"PGDMP" + bytes(range(256)) * 5000
    put(storage_root, KEY, data=WRAPPERS[wrapper][1](archive))
    assert read_out(storage_root) == archive
    assert read_out(storage_root, "prod/default") == archive


def test_f24_f25_an_archive_that_is_not_that_of_its_manifest_is_not_handed_out_with_success(
    storage_root: Path,
) -> None:
    archive = b"PGDMP" + bytes(100_000)
    put(storage_root, KEY, data=archive)
    for changes in ({"size": len(archive) - 1}, {"size": len(archive), "sha256": "b" * 64}):
        put(storage_root, f"{KEY}.json", data=manifest(KEY, **changes).to_json())
        with pytest.raises(IntegrityError):
            read_out(storage_root)


def test_f23_a_compressed_archive_that_is_cut_short_is_not_handed_out_with_success(
    storage_root: Path,
) -> None:
    archive = b"PGDMP" + bytes(range(256)) * 5000
    put(storage_root, KEY, data=gzip.compress(archive)[:-5])
    with pytest.raises(IntegrityError):
        read_out(storage_root)


def test_f23_a_zstd_archive_that_is_cut_short_is_not_handed_out_with_success(
    storage_root: Path,
) -> None:
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(b"PGDMP" + b"abc" * 500_000)
    for length in (len(whole) - 1, len(whole) - 10, len(whole) // 2):
        put(storage_root, KEY, data=whole[:length])
        with pytest.raises(PgcloneError):
            read_out(storage_root)


def test_a_local_copy_has_no_archive(storage_root: Path) -> None:
    with pytest.raises(PgcloneError, match="a local copy has no archive"):
        read_out(storage_root, ":pre")
