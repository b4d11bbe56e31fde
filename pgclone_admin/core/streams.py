"""The bytes of a dump on their way to a storage and back: counted, hashed, (de)compressed."""

from __future__ import annotations

import gzip
import hashlib
import io
import select
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast

import zstandard

from .errors import Cancelled, IntegrityError, Stalled, UnknownFormat
from .manifest import Manifest
from .process import Child
from .programs import Codec
from .progress import Reporter

BLOCK = 256 * 1024
"""Bytes that are moved at a time."""

LOOK_EVERY = 0.5
"""Seconds between two looks at whether a read that waits is still wanted."""

ZSTD_LEVEL = 1
"""As small as pg_dump's own gzip, five times faster."""

ZSTD_THREADS = 2

MAGIC_ARCHIVE = b"PGDMP"
MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"
MAGIC_GZIP = b"\x1f\x8b"


LARGEST_ZSTD_BLOCK = 128 * 1024
"""Bytes, by the definition of the format."""


class Readable(Protocol):
    """Anything that is read in pieces."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def blocks(source: Readable) -> Iterator[bytes]:
    """All that there is to read."""
    while block := source.read(BLOCK):
        yield block


Through = Callable[[Readable], Iterator[bytes]]
"""Gives on what it reads."""


class DumpReader:
    """What pg_dump writes, compressed, as a storage reads it.

    ``read(n)`` returns exactly ``n`` bytes until the end; with fewer, uploaders take the file for a
    small one and keep all of it in memory. The end comes only after pg_dump has exited with 0: a
    failed dump raises instead, so that no storage can publish it.

    What pg_dump writes goes ``through`` a look at it, which may raise and which gives it on as it
    is. ``stall_timeout`` is how many seconds pg_dump may send nothing; before its first byte it may
    wait for ``lock_wait`` more.
    """

    def __init__(
        self,
        child: Child,
        codec: Codec,
        reporter: Reporter,
        *,
        through: Through = blocks,
        stall_timeout: float | None = None,
        lock_wait: float = 0.0,
    ) -> None:
        self._child = child
        self._reporter = reporter
        self._stall_timeout = stall_timeout
        self._lock_wait = lock_wait
        raw = through(_Output(self._read_child))
        self._blocks = self._zstd_blocks(raw, codec.level) if codec.name == "zstd" else raw
        self._rest = b""
        self._hash = hashlib.sha256()
        self.size = 0
        self.source_size = 0
        self.complete = False
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()

    @property
    def sha256(self) -> str:
        """The digest, in hexadecimal, of the bytes that were read."""
        return self._hash.hexdigest()

    def abandon(self) -> None:
        """Makes a read that waits, in whatever thread, raise within half a second."""
        self._abandoned.set()

    def start(self) -> None:
        """Waits for the first bytes; raises when the dump fails before there are any."""
        self._rest = self._rest or self._next_block()

    def read(self, size: int = -1, /) -> bytes:
        self._reporter.check()
        self._check_wanted()
        # Parts of an upload are large; what is gathered here is handed over without a copy.
        gathered = io.BytesIO()
        while size < 0 or gathered.tell() < size:
            if not (block := self._rest or self._next_block()):
                break
            wanted = len(block) if size < 0 else size - gathered.tell()
            gathered.write(block[:wanted])
            self._rest = block[wanted:]
        data = gathered.getvalue()
        self._hash.update(data)
        self.size += len(data)
        return data

    def _next_block(self) -> bytes:
        """Empty at the end."""
        if self._failure is not None:
            raise self._failure
        try:
            block = next(self._blocks, b"")
        except BaseException as error:
            # A generator that has raised is at its end. To a storage that reads on, that must not
            # look like the end of the dump.
            self._failure = error
            raise
        self.complete = not block
        return block

    def _read_child(self) -> bytes:
        block = self._wait_for_child()
        self.source_size += len(block)
        self._reporter.advance(len(block))
        if not block:
            self._child.finish()
        return block

    def _wait_for_child(self) -> bytes:
        """Waits for the program, which may wait for a lock, but never deaf to a cancellation."""
        output = self._child.stdout
        waiting = select.poll()
        waiting.register(output, select.POLLIN | select.POLLHUP)
        quiet = 0.0 if self.source_size else -self._lock_wait
        while True:
            is_ready = waiting.poll(LOOK_EVERY * 1000)
            self._check_wanted()
            if is_ready:
                return output.read(BLOCK)
            self._reporter.check()
            # Counted in looks: a process that was stopped meanwhile is not to blame pg_dump.
            quiet += LOOK_EVERY
            if self._stall_timeout is not None and quiet >= self._stall_timeout:
                raise Stalled(
                    f"pg_dump has sent nothing for {self._stall_timeout:g} seconds",
                    hint="Nothing was stored. What it waits for is in pg_stat_activity on the "
                    "server. Where that is only slow, raise PGCLONE_STALL_TIMEOUT.",
                )

    def _check_wanted(self) -> None:
        if self._abandoned.is_set():
            raise Cancelled("the storage does not take the dump any more")

    def _zstd_blocks(self, raw: Iterator[bytes], level: int | None) -> Iterator[bytes]:
        compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL if level is None else level,
            threads=ZSTD_THREADS,
            write_checksum=True,
        )
        chunker = compressor.chunker(chunk_size=BLOCK)
        for block in raw:
            yield from chunker.compress(block)
        yield from chunker.finish()  # type: ignore[no-untyped-call]


class _Output:
    """What pg_dump writes; its end is an error unless it has succeeded."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read

    def read(self, _size: int = BLOCK, /) -> bytes:
        return self._read()

    def close(self) -> None:
        """The program is ended by whoever has started it."""


class StoredReader:
    """The stored bytes of a dump: counted, hashed, and read to their very end."""

    def __init__(self, source: Readable, reporter: Reporter) -> None:
        self._source = source
        self._reporter = reporter
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The digest, in hexadecimal, of the bytes that were read."""
        return self._hash.hexdigest()

    def read(self, size: int = BLOCK, /) -> bytes:
        self._reporter.check()
        data = self._source.read(size)
        self._hash.update(data)
        self.size += len(data)
        self._reporter.advance(len(data))
        return data

    def check_against(self, manifest: Manifest | None) -> None:
        """Reads what is left, and raises :class:`IntegrityError` unless size and digest of the
        whole are those that the manifest names, if there is one."""
        while self.read(BLOCK):
            pass
        if manifest is None:
            return
        if self.size != manifest.size:
            raise IntegrityError(
                f"the archive has {self.size:,} bytes, its manifest says {manifest.size:,}",
                hint="It was cut short or altered in its storage. Use another dump.",
            )
        if self.sha256 != manifest.sha256:
            raise IntegrityError(
                "the archive does not have the SHA-256 digest that its manifest names",
                hint="It was altered in its storage. Use another dump.",
            )

    def close(self) -> None:
        self._source.close()


class ArchiveReader:
    """The archive inside the stored bytes, whatever it is wrapped in.

    What it is wrapped in is told by its first bytes, never by its name: nothing or zstd around
    ``PGDMP``, and gzip around either. Anything else is :class:`UnknownFormat`, before any program
    is started.
    """

    def __init__(self, stored: Readable) -> None:
        self.codec = "none"
        self._inner: Readable = stored
        self._wrappers: list[Readable] = []
        start = self._begin()
        if start.startswith(MAGIC_GZIP):
            self.codec = "gzip"
            self._unwrap(gzip.GzipFile(fileobj=cast(BinaryIO, self._inner), mode="rb"))
            start = self._begin()
        if start.startswith(MAGIC_ZSTD):
            self.codec = "zstd" if self.codec == "none" else "zstd in gzip"
            self._unwrap(
                zstandard.ZstdDecompressor().stream_reader(
                    cast(BinaryIO, _Sealed(self._inner)), read_across_frames=True, closefd=False
                )
            )
            start = self._begin()
        if start != MAGIC_ARCHIVE:
            raise _unknown(start)

    def _begin(self) -> bytes:
        """The first bytes, which are still to be read afterwards."""
        start = b""
        while len(start) < len(MAGIC_ARCHIVE):
            if not (more := self.read(len(MAGIC_ARCHIVE) - len(start))):
                break
            start += more
        self._inner = _Prefixed(start, self._inner)
        return start

    def _unwrap(self, wrapper: object) -> None:
        self._inner = cast(Readable, wrapper)
        self._wrappers.append(self._inner)

    def read(self, size: int = BLOCK, /) -> bytes:
        try:
            return self._inner.read(size)
        except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise IntegrityError(
                f"the {self.codec} data of the archive is damaged: {error}",
                hint="It was cut short or altered in its storage. Use another dump.",
            ) from error

    def close(self) -> None:
        for wrapper in reversed(self._wrappers):
            wrapper.close()


class _Prefixed:
    """``start`` and then ``rest`` as one stream."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if self._start:
            taken = len(self._start) if size < 0 else size
            start, self._start = self._start[:taken], self._start[taken:]
            return start
        return self._rest.read(size)

    def close(self) -> None:
        self._rest.close()


class _Sealed:
    """``source``, and after its end a frame that zstd skips.

    The decoder takes the end of its input for the end of the data. A frame that was cut short
    swallows what comes after it instead, and that is neither its rest nor a block of zstd.
    """

    SEAL = (
        b"\x50\x2a\x4d\x18"
        + LARGEST_ZSTD_BLOCK.to_bytes(4, "little")
        + LARGEST_ZSTD_BLOCK * b"\xff"
    )

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._seal = self.SEAL

    def read(self, size: int, /) -> bytes:
        if data := self._source.read(size):
            return data
        data, self._seal = self._seal[:size], self._seal[size:]
        return data

    def close(self) -> None:
        self._source.close()


def _unknown(start: bytes) -> UnknownFormat:
    if not start:
        return UnknownFormat("the file is empty and no PostgreSQL archive")
    kind = "a plain SQL script" if start.lstrip()[:2] in {b"--", b"\\r", b"SE"} else "not one"
    return UnknownFormat(
        f"only PostgreSQL archives in custom format can be restored, this is {kind}",
        hint="Make the archive with pg_dump --format=custom.",
    )
