"""Archives that are not what was dumped: cut, altered, replaced, or none at all (F23 to F27)."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pgclone_admin.core.errors import IntegrityError, PgcloneError, UnknownFormat
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.streams import Readable
from pgclone_admin.store import DumpStore
from tests.support.django_project import Project
from tests.support.fake_programs import FakePrograms, RecordingBinDir
from tests.support.places import (
    DIFFERENT_KINDS,
    Place,
    dump,
    make_place,
    no_database_is_made,
    restore,
    unchanged,
)
from tests.support.postgres import PostgresServer
from tests.support.sites import Site

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

CODECS = ("zstd", "gzip", "none")


@pytest.fixture(params=DIFFERENT_KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return make_place(request.param, request)


@pytest.fixture
def files(request: pytest.FixtureRequest) -> Place:
    return make_place("files", request)


def never(temporary: str) -> None:
    raise AssertionError(f"the hooks were run on {temporary}")


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


# -- F23: cut short -------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cut", ["one byte", "one percent", "half"])
def test_f23_a_dump_that_was_cut_is_refused_before_anything_is_made(
    site: Site, files: Place, codec: str, cut: str
) -> None:
    key = dump(site, files.store, codec=codec).key
    whole = files.read(key)
    files.put(key, whole[: -{"one byte": 1, "one percent": len(whole) // 100}.get(cut, 9999)])
    with (
        unchanged(site),
        no_database_is_made(site.server),
        pytest.raises(IntegrityError, match=r"its manifest says") as caught,
    ):
        restore(site, key, files.store, hooks=never)
    assert caught.value.code == "integrity_error"


def test_f23_the_list_of_a_cut_archive_is_no_proof(site: Site) -> None:
    """Why the product reads archives to their end: pg_restore --list is content with this one."""
    archive = site.archive("--compress=0")
    listed = subprocess.run(
        [site.server.program("pg_restore"), "--list"],
        input=archive[: len(archive) * 99 // 100],
        capture_output=True,
        check=False,
    )
    assert listed.returncode == 0


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 100, 4096])
@pytest.mark.parametrize("wrapper", ["none", "pg_dump's gzip", "zstd", "gzip"])
def test_f23_a_foreign_archive_that_was_cut_changes_nothing(
    site: Site, files: Place, wrapper: str, cut: int
) -> None:
    """No manifest tells its size or digest."""
    archive = site.archive("--compress=6" if wrapper == "pg_dump's gzip" else "--compress=0")
    wrap = {"zstd": zstd, "gzip": gzip.compress}.get(wrapper, bytes)
    key = "there/default/none/2026-01-02-03-04-05-000006.dump"
    files.put(key, wrap(archive)[:-cut])
    with unchanged(site), pytest.raises(PgcloneError) as caught:
        restore(site, key, files.store, hooks=never)
    assert caught.value.code in {"integrity_error", "restore_failed"}


@pytest.mark.parametrize("cut", [1, 4096])
@pytest.mark.parametrize("wrapper", ["none", "zstd", "gzip"])
def test_f23_an_archive_that_was_cut_is_not_taken_in(
    project: Project, tmp_path: Path, wrapper: str, cut: int
) -> None:
    wrap = {"zstd": zstd, "gzip": gzip.compress}.get(wrapper, bytes)
    file = tmp_path / "cut.dump"
    file.write_bytes(wrap(project.archive("--compress=0"))[:-cut])
    done = project.pgclone("import", str(file)).failed()
    assert "error: " in done.stderr
    assert done.stdout == ""
    assert project.files() == []


# -- F24: altered ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_f24_one_flipped_bit_anywhere_is_noticed_and_nothing_is_swapped(
    site: Site, files: Place, codec: str
) -> None:
    key = dump(site, files.store, codec=codec).key
    whole = files.read(key)
    with unchanged(site):
        for step in range(8):
            damaged = bytearray(whole)
            damaged[len(whole) * (2 * step + 1) // 16] ^= 1 << step
            files.put(key, bytes(damaged))
            with pytest.raises(IntegrityError) as caught:
                restore(site, key, files.store, hooks=never)
            assert caught.value.code == "integrity_error"


def test_f24_a_flipped_bit_in_a_value_is_noticed_although_pg_restore_is_content(
    site: Site, place: Place
) -> None:
    key = dump(site, place.store).key
    whole = place.read(key)
    at = whole.index(b"Customer 77\t")
    place.put(key, whole[:at] + b"customer" + whole[at + 8 :])
    assert len(place.read(key)) == len(whole)
    reporter = SilentReporter()
    with unchanged(site), pytest.raises(IntegrityError, match="SHA-256") as caught:
        restore(site, key, place.store, hooks=never, reporter=reporter)
    assert caught.value.code == "integrity_error"
    assert "restoring" in reporter.phases
    assert "hooks" not in reporter.phases


def test_f24_the_same_bytes_in_order_are_restored(site: Site, place: Place) -> None:
    key = dump(site, place.store).key
    before = site.fingerprint()
    site.run("TRUNCATE order_line")
    restore(site, key, place.store)
    assert site.fingerprint() == before


def test_f24_the_archive_of_an_altered_dump_is_handed_out_with_an_error(project: Project) -> None:
    project.settings["PGCLONE_COMPRESSION"] = "none"
    (key,) = project.pgclone("dump").ok().lines
    path = project.storage_root / key
    whole = path.read_bytes()
    at = whole.index(b"Ada Lovelace")
    path.write_bytes(whole[:at] + b"Eda" + whole[at + 3 :])
    done = project.pgclone("cat", key).failed()
    assert "SHA-256" in done.stderr
    path.write_bytes(whole)
    assert project.pgclone("cat", key).ok().output == whole


# -- F25: longer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("more", [b"\0", bytes(100_000), b"\x28\xb5\x2f\xfd"])
def test_f25_appended_bytes_are_refused_before_anything_is_made(
    site: Site, files: Place, codec: str, more: bytes
) -> None:
    key = dump(site, files.store, codec=codec).key
    files.put(key, files.read(key) + more)
    with (
        unchanged(site),
        no_database_is_made(site.server),
        pytest.raises(IntegrityError, match="its manifest says"),
    ):
        restore(site, key, files.store, hooks=never)


@pytest.mark.parametrize("wrap", [zstd, gzip.compress])
def test_f25_bytes_appended_to_a_compressed_foreign_archive_change_nothing(
    site: Site, files: Place, wrap: Callable[[bytes], bytes]
) -> None:
    key = "there/default/none/2026-01-02-03-04-05-000006.dump"
    files.put(key, wrap(site.archive("--compress=0")) + b"one more thing")
    with unchanged(site), pytest.raises(IntegrityError) as caught:
        restore(site, key, files.store, hooks=never)
    assert caught.value.code == "integrity_error"


# -- F26: replaced meanwhile ----------------------------------------------------------------------


def test_f26_a_dump_replaced_after_it_was_looked_at_is_dropped_before_any_hook(
    site: Site, place: Place
) -> None:
    first = dump(site, place.store)
    site.run("UPDATE customer SET name = 'Someone 77' WHERE name = 'Customer 7'")
    other = dump(site, place.store)
    assert other.size == first.size, "the size alone must not give it away"
    swapped: list[bytes] = []

    class Replaced(DumpStore):
        def open(self, key: DumpKey) -> Readable:
            place.put(first.key, place.read(other.key))
            swapped.append(place.read(first.key))
            return super().open(key)

    reporter = SilentReporter()
    with unchanged(site), pytest.raises(IntegrityError, match="SHA-256") as caught:
        restore(site, first.key, Replaced(place.location), hooks=never, reporter=reporter)
    assert caught.value.code == "integrity_error"
    assert len(swapped) == 1
    assert "swapping" not in reporter.phases


def test_f26_a_dump_replaced_while_it_is_read_is_noticed(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """Half of one archive and half of another, as a storage without versions may give them."""
    place = make_place("alias of anything", request)
    first = dump(site, place.store)
    site.run("UPDATE order_line SET amount = 7 WHERE id % 2 = 0")
    other = dump(site, place.store)

    class Halves:
        def __init__(self) -> None:
            half = first.size // 2
            both = place.read(first.key)[:half] + place.read(other.key)[half:]
            self._content = io.BytesIO(both)

        def read(self, size: int, /) -> bytes:
            return self._content.read(size)

        def close(self) -> None:
            self._content.close()

    class Mixed(DumpStore):
        def open(self, key: DumpKey) -> Readable:
            return Halves() if key.text == first.key else super().open(key)

    assert other.size == first.size
    with unchanged(site), pytest.raises(PgcloneError) as caught:
        restore(site, first.key, Mixed(place.location), hooks=never)
    assert caught.value.code == "integrity_error"


# -- F27: no archive at all -----------------------------------------------------------------------


def tar_of(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


PLAIN = b"--\n-- PostgreSQL database dump\n--\n\\! touch /tmp/owned\nDROP TABLE customer;\n"

NO_ARCHIVES = {
    "nothing": b"",
    "less than a magic number": b"PGD",
    "text": b"the backup failed: no space left on device\n",
    "plain SQL": PLAIN,
    "plain SQL with a BOM": b"\xef\xbb\xbf" + PLAIN,
    "psql commands": b"\\restrict x\n\\! touch /tmp/owned\n",
    "an HTML page": b"<!DOCTYPE html><html><body>403 Forbidden</body></html>",
    "gzip of plain SQL": gzip.compress(PLAIN),
    "gzip of nothing": gzip.compress(b""),
    "gzip cut in its header": b"\x1f\x8b\x08",
    "zstd of plain SQL": zstd(PLAIN),
    "zstd of nothing": zstd(b""),
    "zstd in gzip of plain SQL": gzip.compress(zstd(PLAIN)),
    "a tar archive": tar_of("toc.dat", b"PGDMP"),
    "the magic number later": b"\n" + b"PGDMP\x01\x10\0",
    "zeros": bytes(4096),
}

KEY = "here/default/none/2026-01-02-03-04-05-000006.dump"


@pytest.mark.parametrize("content", NO_ARCHIVES.values(), ids=NO_ARCHIVES.keys())
def test_f27_what_is_no_archive_is_refused_before_any_process_starts(
    site: Site, files: Place, fakes: FakePrograms, content: bytes
) -> None:
    files.put(KEY, content)
    with (
        unchanged(site),
        no_database_is_made(site.server),
        pytest.raises(IntegrityError) as caught,
    ):
        restore(site, KEY, files.store, program_directories=[str(fakes.path)], hooks=never)
    if content != NO_ARCHIVES["gzip cut in its header"]:
        assert isinstance(caught.value, UnknownFormat)
        assert caught.value.code == "unknown_format"
    assert fakes.calls() == []


@pytest.mark.parametrize("content", [PLAIN, gzip.compress(PLAIN), zstd(PLAIN)])
def test_f27_a_manifest_that_vouches_for_plain_sql_does_not_help(
    site: Site, files: Place, fakes: FakePrograms, content: bytes
) -> None:
    manifest = dump(site, files.store)
    files.put(manifest.key, content)
    text = files.read(f"{manifest.key}.json").decode()
    text = text.replace(f'"size": {manifest.size}', f'"size": {len(content)}')
    files.put(f"{manifest.key}.json", text.encode())
    with (
        unchanged(site),
        no_database_is_made(site.server),
        pytest.raises(UnknownFormat),
    ):
        restore(site, manifest.key, files.store, program_directories=[str(fakes.path)])
    assert fakes.calls() == []


@pytest.mark.parametrize("flag", ["--format=directory", "--format=tar"])
def test_f27_archives_in_other_formats_of_pg_dump_are_refused(
    site: Site, files: Place, fakes: FakePrograms, tmp_path: Path, flag: str
) -> None:
    target = tmp_path / "other"
    subprocess.run(
        [site.server.program("pg_dump"), flag, f"--file={target}"],
        env=site.server.psql_env(site.name),
        check=True,
    )
    files.put(KEY, ((target / "toc.dat") if target.is_dir() else target).read_bytes())
    with (
        unchanged(site),
        no_database_is_made(site.server),
        pytest.raises(IntegrityError, match="custom format"),
    ):
        restore(site, KEY, files.store, program_directories=[str(fakes.path)], hooks=never)
    assert fakes.calls() == []


def test_f27_the_contents_decide_and_not_the_name(site: Site, files: Place) -> None:
    """Nothing in these keys tells how the archives are compressed."""
    before = site.fingerprint()
    plain = site.archive("--compress=0")
    for number, content in enumerate([plain, zstd(plain), gzip.compress(plain)]):
        key = f"here/default/none/2026-01-02-03-04-05-00000{number}.dump"
        files.put(key, content)
        site.run("TRUNCATE order_line")
        restore(site, key, files.store)
        assert site.fingerprint() == before


def test_f27_gzip_around_a_dump_of_ours_is_taken_off(site: Site, files: Place) -> None:
    before = site.fingerprint()
    key = dump(site, files.store, codec="zstd").key
    files.put(KEY, gzip.compress(files.read(key)))
    site.run("TRUNCATE order_line")
    restore(site, KEY, files.store)
    assert site.fingerprint() == before


def test_f27_psql_is_never_started_by_any_command(
    project: Project,
    recorder: Callable[[PostgresServer], RecordingBinDir],
    tmp_path: Path,
) -> None:
    programs = recorder(project.server)
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    project.settings["PGCLONE_REVERSIBLE"] = True
    path = {"PATH": f"{programs.path}:/usr/bin:/bin"}
    (key,) = project.pgclone("dump", env=path).ok().lines
    project.pgclone("restore", key, env=path).ok()
    project.pgclone("restore", ":pre", env=path).ok()
    project.pgclone("copy", ":other", env=path).ok()
    file = tmp_path / "archive"
    file.write_bytes(project.pgclone("cat", key, env=path).ok().output)
    project.pgclone("import", str(file), env=path).ok()
    plain = tmp_path / "plain.sql"
    plain.write_bytes(PLAIN)
    project.pgclone("import", str(plain), env=path).failed()
    assert {call.program for call in programs.calls()} == {"pg_dump", "pg_restore"}


def test_f27_plain_sql_is_not_taken_in(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "plain.sql"
    file.write_bytes(PLAIN)
    done = project.pgclone("import", str(file)).failed()
    assert "this is a plain SQL script" in done.stderr
    assert "hint: Make the archive with pg_dump --format=custom." in done.stderr
    assert project.files() == []
