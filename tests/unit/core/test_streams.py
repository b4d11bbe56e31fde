"""The bytes of a dump on their way to a storage and back."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.errors import (
    Cancelled,
    IntegrityError,
    KilledBySignal,
    PgcloneError,
    ProcessFailed,
    UnknownFormat,
)
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.process import Child
from pgclone_admin.core.programs import Codec, Command
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.streams import BLOCK, ArchiveReader, DumpReader, StoredReader
from tests.unit import PROPERTY

ARCHIVE = b"PGDMP\x01\x10\x00" + random.Random(8).randbytes(3 * BLOCK + 17)
"""Looks like an archive, and does not compress."""

PLAIN, ZSTD = Codec("none"), Codec("zstd")

WRITE = """
import os, random, signal, sys
data = b"PGDMP\\x01\\x10\\x00" + random.Random(8).randbytes({size})
while data:
    data = data[os.write(1, data[:100_000]):]
"""


@contextmanager
def dump(
    code: str = "", *, codec: Codec = PLAIN, reporter: SilentReporter | None = None
) -> Iterator[DumpReader]:
    """The reader of a pg_dump that writes ARCHIVE and then does ``code``."""
    program = WRITE.format(size=len(ARCHIVE) - 8) + code
    with Child(Command((sys.executable, "-S", "-c", program)), stdout=subprocess.PIPE) as child:
        yield DumpReader(child, codec, reporter or SilentReporter())


def read_all(read: Callable[[int], bytes], size: int = 100_000) -> bytes:
    data = b""
    while block := read(size):
        data += block
    return data


class ShortReads:
    """Gives at most ``most`` bytes at a time, as a network does."""

    def __init__(self, data: bytes, most: int = 1000) -> None:
        self._file = io.BytesIO(data)
        self._most = most
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(self._most if size < 0 else min(size, self._most))

    def close(self) -> None:
        self.closed = True


# -- out of pg_dump -------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [PLAIN, Codec("gzip", 9), ZSTD, Codec("zstd", 3)], ids=str)
def test_every_read_is_whole_until_the_end(codec: Codec) -> None:
    with dump(codec=codec) as reader:
        reader.start()
        sizes = []
        data = b""
        while block := reader.read(70_001):
            assert not reader.complete or len(data) + len(block) == reader.size
            sizes.append(len(block))
            data += block
        assert reader.complete
        assert reader.read(1) == b""
    assert set(sizes[:-1]) == {70_001}
    assert reader.size == len(data)
    assert reader.sha256 == hashlib.sha256(data).hexdigest()
    assert reader.source_size == len(ARCHIVE)
    if codec.name == "zstd":
        assert zstandard.ZstdDecompressor().stream_reader(data).read() == ARCHIVE
    else:
        # What pg_dump itself has compressed is left as it is.
        assert data == ARCHIVE


def test_a_read_without_a_size_takes_everything() -> None:
    with dump() as reader:
        assert reader.read() == ARCHIVE
        assert reader.complete


def test_a_zstd_frame_has_a_checksum() -> None:
    with dump(codec=ZSTD) as reader:
        assert zstandard.get_frame_parameters(reader.read()).has_checksum


def test_progress_is_told_in_bytes_of_the_database_not_of_the_storage() -> None:
    reporter = SilentReporter()
    with dump(codec=ZSTD, reporter=reporter) as reader:
        reader.read()
    assert reporter.bytes_done == len(ARCHIVE) == reader.source_size


FAILURES = {
    "exit": ("sys.exit('pg_dump: error: lost the server')", ProcessFailed),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", KilledBySignal),
}


@pytest.mark.parametrize("codec", [PLAIN, ZSTD], ids=str)
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("size", [-1, 1000, BLOCK, len(ARCHIVE)])
def test_f02_the_last_read_of_a_failed_dump_raises_although_all_bytes_came(
    failure: str, codec: Codec, size: int
) -> None:
    code, kind = FAILURES[failure]
    with dump(f"sys.stdout.flush(); {code}", codec=codec) as reader:
        with pytest.raises(kind):
            read_all(reader.read, size)
        assert not reader.complete
        # A storage that tries once more is not told that this was the end.
        for again in (size, 1, -1):
            with pytest.raises(PgcloneError):
                reader.read(again)
        assert not reader.complete
        assert reader.source_size == len(ARCHIVE)


def test_f04_a_dump_that_fails_before_its_first_byte_fails_before_any_storage_is_touched() -> None:
    code = "import sys; sys.exit('pg_dump: error: permission denied for table secret')"
    with Child(Command((sys.executable, "-c", code)), stdout=subprocess.PIPE) as child:
        reader = DumpReader(child, ZSTD, SilentReporter())
        with pytest.raises(ProcessFailed, match="permission denied for table secret"):
            reader.start()
        assert reader.size == 0
        assert not reader.complete


def test_the_start_takes_nothing_from_what_is_read() -> None:
    with dump() as reader:
        reader.start()
        reader.start()
        assert reader.size == 0
        assert reader.read() == ARCHIVE


class Cancelling(SilentReporter):
    """Ends the operation at its ``at``-th look."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def check(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Cancelled


def test_a_dump_that_is_cancelled_stops_at_the_next_read() -> None:
    with dump(reporter=Cancelling(3)) as reader:
        assert len(reader.read(1000) + reader.read(1000)) == 2000
        with pytest.raises(Cancelled):
            reader.read(1000)
        assert not reader.complete


# -- out of a storage -----------------------------------------------------------------------------


def manifest_of(archive: bytes) -> Manifest:
    return Manifest(
        key="a dump",
        size=len(archive),
        sha256=hashlib.sha256(archive).hexdigest(),
        codec="none",
        taken_at="",
        instance="",
        database="",
        config="",
        origin="pgclone",
        app_version="",
    )


def test_stored_bytes_are_counted_and_hashed() -> None:
    reporter = SilentReporter()
    reader = StoredReader(ShortReads(ARCHIVE), reporter)
    assert read_all(reader.read) == ARCHIVE
    assert (reader.size, reporter.bytes_done) == (len(ARCHIVE), len(ARCHIVE))
    assert reader.sha256 == hashlib.sha256(ARCHIVE).hexdigest()
    reader.check_against(manifest_of(ARCHIVE))
    reader.check_against(None)


def test_what_nobody_read_counts_too() -> None:
    reader = StoredReader(ShortReads(ARCHIVE), SilentReporter())
    reader.read(10)
    reader.check_against(manifest_of(ARCHIVE))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "f23_one_byte_less": lambda data: data[:-1],
    "f23_one_percent_less": lambda data: data[: len(data) * 99 // 100],
    "f24_one_bit_flipped": lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    "f25_bytes_appended": lambda data: data + b"\0" * 100,
    "f26_another_archive": lambda data: b"PGDMP" + bytes(len(data) - 5),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_f23_f24_f25_f26_stored_bytes_that_are_not_those_of_the_manifest_are_refused(
    damage: str,
) -> None:
    reader = StoredReader(ShortReads(DAMAGE[damage](ARCHIVE)), SilentReporter())
    with pytest.raises(IntegrityError) as caught:
        reader.check_against(manifest_of(ARCHIVE))
    assert caught.value.code == "integrity_error"


def test_an_archive_of_another_length_is_an_error_that_names_both() -> None:
    reader = StoredReader(ShortReads(bytes(1_000)), SilentReporter())
    said = "the archive has 1,000 bytes, its manifest says 1,234,567"
    with pytest.raises(IntegrityError, match=said):
        reader.check_against(manifest_of(bytes(1_234_567)))


def test_closing_closes_the_storage() -> None:
    source = ShortReads(b"")
    StoredReader(source, SilentReporter()).close()
    assert source.closed


def test_reading_from_a_storage_is_cancelled_too() -> None:
    reader = StoredReader(ShortReads(ARCHIVE), Cancelling(2))
    reader.read(1)
    with pytest.raises(Cancelled):
        reader.read(1)


# -- what it is wrapped in ------------------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def two_frames(data: bytes) -> bytes:
    return zstd(data[:1000]) + zstd(data[1000:])


WRAPPERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "nothing": ("none", lambda data: data),
    "zstd": ("zstd", zstd),
    "several zstd frames": ("zstd", two_frames),
    "gzip": ("gzip", gzip.compress),
    # Somebody has compressed the file of a dump once more.
    "gzip around zstd": ("zstd in gzip", lambda data: gzip.compress(zstd(data))),
    "several gzip members": ("gzip", lambda d: gzip.compress(d[:1000]) + gzip.compress(d[1000:])),
}


@pytest.mark.parametrize("most", [1, 1000, 1 << 30])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_archive_is_found_by_its_first_bytes_whatever_is_around_it(
    wrapper: str, most: int
) -> None:
    codec, wrap = WRAPPERS[wrapper]
    content = ARCHIVE[:5000]
    reader = ArchiveReader(ShortReads(wrap(content), most))
    assert reader.codec == codec
    assert read_all(reader.read, 999) == content
    assert reader.read(1) == b""
    reader.close()


@pytest.mark.parametrize("codec", [PLAIN, ZSTD, Codec("zstd", 19)], ids=str)
def test_what_a_dump_has_written_is_read_back(codec: Codec) -> None:
    with dump(codec=codec) as written:
        data = written.read()
    reader = ArchiveReader(StoredReader(ShortReads(data, 65_536), SilentReporter()))
    assert read_all(reader.read) == ARCHIVE
    reader.close()


NO_ARCHIVES = {
    "empty": (b"", "the file is empty"),
    "short": (b"PGD", "this is not one"),
    "text": (b"Not a dump, just a text.\n", "this is not one"),
    "plain SQL": (b"--\n-- PostgreSQL database dump\n--\n", "this is a plain SQL script"),
    "plain SQL of 17.6": (b"\\restrict abc\n\n--\n", "this is a plain SQL script"),
    "SQL by hand": (b"SELECT 1;\n", "this is a plain SQL script"),
    "HTML": (b"<!DOCTYPE html><html><body>503</body></html>", "this is not one"),
    "XML of S3": (b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>", "this is not one"),
    "tar": (b"toc.dat" + bytes(600), "this is not one"),
    "bzip2": (b"BZh91AY&SY", "this is not one"),
    "lower case": (b"pgdmp\x01\x10", "this is not one"),
}


@pytest.mark.parametrize("wrapper", ["nothing", "gzip", "zstd"])
@pytest.mark.parametrize("kind", NO_ARCHIVES)
def test_f27_what_is_no_archive_is_refused_by_its_first_bytes(kind: str, wrapper: str) -> None:
    content, said = NO_ARCHIVES[kind]
    with pytest.raises(UnknownFormat, match=said) as caught:
        ArchiveReader(ShortReads(WRAPPERS[wrapper][1](content)))
    assert caught.value.code == "unknown_format"
    if content:
        assert caught.value.hint == "Make the archive with pg_dump --format=custom."


def test_f27_an_archive_in_a_wrapper_in_any_other_wrapper_is_refused() -> None:
    for content in (
        zstd(gzip.compress(ARCHIVE)),
        zstd(zstd(ARCHIVE)),
        gzip.compress(gzip.compress(ARCHIVE)),
        gzip.compress(zstd(zstd(ARCHIVE))),
    ):
        with pytest.raises(UnknownFormat):
            ArchiveReader(ShortReads(content))


@pytest.mark.parametrize(
    "start", [b"\x1f\x8bnonsense that goes on and on", b"\x28\xb5\x2f\xfd" + b"\xff" * 40]
)
def test_f27_a_wrapper_that_is_only_pretended_is_refused(start: bytes) -> None:
    with pytest.raises(IntegrityError):
        ArchiveReader(ShortReads(start))


@pytest.mark.parametrize("wrap", [gzip.compress, zstd])
def test_f24_a_bit_flipped_in_a_compressed_archive_is_noticed_while_reading(
    wrap: Callable[[bytes], bytes],
) -> None:
    data = bytearray(wrap(b"PGDMP" + b"some text that compresses well " * 2000))
    data[len(data) // 2] ^= 16

    def read() -> bytes:
        return read_all(ArchiveReader(ShortReads(bytes(data))).read)

    with pytest.raises(IntegrityError, match="is damaged"):
        read()


def test_f23_a_gzip_that_is_cut_short_is_noticed_while_reading() -> None:
    reader = ArchiveReader(ShortReads(gzip.compress(ARCHIVE)[:-1]))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_all(reader.read)


@pytest.mark.parametrize("most", [997, 70_000])
def test_f23_a_zstd_that_is_cut_short_anywhere_is_noticed_while_reading(most: int) -> None:
    frames = zstd(ARCHIVE[:300_000]) + zstd(b"PGDMP" * 60_000)
    lengths = {10, 1000, len(frames) // 2, len(frames) - 50, *range(len(frames) - 12, len(frames))}
    for length in lengths:
        with pytest.raises(IntegrityError):
            read_all(ArchiveReader(ShortReads(frames[:length], most)).read)
    assert len(read_all(ArchiveReader(ShortReads(frames, most)).read)) == 600_000


ZSTD_KINDS = {
    "without a checksum": zstandard.ZstdCompressor(write_checksum=False),
    "without its size": zstandard.ZstdCompressor(write_content_size=False),
    "with everything": zstandard.ZstdCompressor(level=19, write_checksum=True),
    "of several threads": zstandard.ZstdCompressor(threads=2),
}


@pytest.mark.parametrize("kind", ZSTD_KINDS)
@pytest.mark.parametrize("content", [b"PGDMP", b"PGDMP" + bytes(1_000_000), ARCHIVE], ids=len)
def test_every_kind_of_zstd_is_read_to_its_end_and_not_further(kind: str, content: bytes) -> None:
    data = ZSTD_KINDS[kind].compress(content)
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"comment"
    for whole in (data, data + data, data + skippable):
        assert read_all(ArchiveReader(ShortReads(whole)).read).startswith(content)
    for broken in (data[:-1], data + data[:-1], data + data[:3], data + data[:10]):
        with pytest.raises(IntegrityError):
            read_all(ArchiveReader(ShortReads(broken)).read)


def test_f25_what_follows_a_zstd_frame_is_noticed_while_reading() -> None:
    reader = ArchiveReader(ShortReads(zstd(ARCHIVE) + b"appended by somebody"))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_all(reader.read)


@PROPERTY
@given(
    data=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda tail: b"\x1f\x8b\x08" + tail)
    | st.binary(max_size=200).map(lambda tail: b"\x28\xb5\x2f\xfd" + tail)
    | st.binary(max_size=200).map(lambda tail: b"PGDMP" + tail),
    wrapper=st.sampled_from(["nothing", "gzip", "zstd"]),
)
def test_f27_any_bytes_are_an_archive_or_an_integrity_error(data: bytes, wrapper: str) -> None:
    wrapped = WRAPPERS[wrapper][1](data)
    try:
        content = read_all(ArchiveReader(ShortReads(wrapped)).read, 64)
    except IntegrityError:
        return
    assert content.startswith(b"PGDMP")
