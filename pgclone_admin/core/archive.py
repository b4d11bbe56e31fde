"""What an archive in custom format says about itself: header and table of contents.

The layout is that of ``ReadHead`` and ``ReadToc`` in PostgreSQL's
``src/bin/pg_dump/pg_backup_archiver.c``, archive versions 1.12 (PostgreSQL 9.0) to 1.16 (17).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

from .errors import IntegrityError
from .streams import BLOCK, MAGIC_ARCHIVE, Readable

OLDEST_VERSION = (1, 12)
NEWEST_VERSION = (1, 16)

FIRST_MAJOR = {(1, 15): 16, (1, 16): 17}
"""The first PostgreSQL whose pg_restore reads an archive version; older ones need none named."""

SPOOL_IN_MEMORY = 1024 * 1024
"""Bytes of header and table of contents above which they lie in a temporary file."""

LONGEST_TEXT = 256 * 1024 * 1024
"""Bytes of one definition. A flipped bit makes more of it, for which nobody should wait."""

_LARGE_OBJECTS = {"BLOB", "BLOB METADATA"}
_CUSTOM_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the table of contents."""

    dump_id: int
    kind: str
    schema: str | None
    name: str


@dataclass(frozen=True)
class Contents:
    """What stands before the data: who made the archive from what, and what is in it.

    ``entries`` leaves out the single large objects, of which there can be millions.
    """

    version: tuple[int, int]
    created: datetime | None
    """When the archive was made, by the clock of pg_dump, taken as UTC."""
    server_version: str
    program_version: str
    database: str
    entries: tuple[Entry, ...]

    @property
    def oldest_reader(self) -> int:
        """The lowest major version of a pg_restore that can read the archive; 0 for any."""
        return FIRST_MAJOR.get(self.version, 0)

    @property
    def tables_without_data(self) -> frozenset[tuple[str | None, str]]:
        """Tables whose rows were left out of the dump, as (schema, name)."""
        defined = {(e.schema, e.name) for e in self.entries if e.kind == "TABLE"}
        filled = {(e.schema, e.name) for e in self.entries if e.kind == "TABLE DATA"}
        return frozenset(defined - filled)


class OpenedArchive:
    """An archive whose table of contents was read from the stream and that can still be read whole.

    ``contents`` is ``None`` for an archive version that is not known; the stream is whole then too.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._seen: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by close()
            max_size=SPOOL_IN_MEMORY, prefix="pgclone-", suffix=".toc"
        )
        try:
            self.contents = _read_contents(_Tee(source, self._seen))
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[bytes]:
        """All bytes of the archive, once, from its first."""
        self._seen.seek(0)
        while block := self._seen.read(BLOCK):
            yield block
        while block := self._source.read(BLOCK):
            yield block

    def close(self) -> None:
        self._seen.close()


class _Tee:
    """Reads exactly what is asked for and keeps a copy of it."""

    def __init__(self, source: Readable, copy: IO[bytes]) -> None:
        self._source = source
        self._copy = copy
        self._buffer = b""
        self._position = 0

    def take(self, size: int) -> bytes:
        if len(self._buffer) - self._position < size:
            self._fetch(size)
        data = self._buffer[self._position : self._position + size]
        self._position += size
        return data

    def _fetch(self, size: int) -> None:
        """Has at least ``size`` bytes in the buffer, from the position on."""
        pieces = [self._buffer[self._position :]]
        available = len(pieces[0])
        while available < size:
            more = self._source.read(BLOCK)
            if not more:
                raise IntegrityError(
                    "the archive ends inside its table of contents",
                    hint="It was cut short. Use another dump.",
                )
            self._copy.write(more)
            pieces.append(more)
            available += len(more)
        self._buffer = b"".join(pieces)
        self._position = 0

    def byte(self) -> int:
        return self.take(1)[0]


def _read_contents(source: _Tee) -> Contents | None:
    if source.take(len(MAGIC_ARCHIVE)) != MAGIC_ARCHIVE:
        raise IntegrityError("the archive does not begin as an archive")
    version = (source.byte(), source.byte())
    source.byte()  # the revision changes nothing in the layout
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        return None
    fields = _Fields(source, int_size=source.byte(), offset_size=source.byte())
    if source.byte() != _CUSTOM_FORMAT:
        raise IntegrityError("the archive is a directory or tar archive, not one in custom format")
    if version >= (1, 15):
        source.byte()
    else:
        fields.integer()
    created = _moment([fields.integer() for _ in range(7)])
    database = fields.text() or ""
    server_version = fields.text() or ""
    program_version = fields.text() or ""
    count = fields.integer()
    if count < 0:
        raise IntegrityError("the table of contents is damaged: its number of entries is negative")
    entries = tuple(
        entry
        for entry in (_read_entry(fields, version) for _ in range(count))
        if entry.kind not in _LARGE_OBJECTS
    )
    return Contents(version, created, server_version, program_version, database, entries)


def _moment(parts: list[int]) -> datetime | None:
    """A ``struct tm`` of C: months from 0, years from 1900, the time zone of pg_dump unknown."""
    second, minute, hour, day, month, year, _is_dst = parts
    try:
        return datetime(year + 1900, month + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _read_entry(fields: _Fields, version: tuple[int, int]) -> Entry:
    dump_id = fields.integer()
    fields.integer()  # whether the entry has data
    fields.text()  # oid of the catalog
    fields.text()  # oid of the object
    name = fields.text() or ""
    kind = fields.text() or ""
    fields.integer()  # section
    fields.text()  # definition
    fields.text()  # statement that drops it
    fields.text()  # COPY statement
    schema = fields.text() or None
    fields.text()  # tablespace
    if version >= (1, 14):
        fields.text()  # table access method
    if version >= (1, 16):
        fields.integer()  # relkind
    fields.text()  # owner
    fields.text()  # WITH OIDS
    while fields.text() is not None:  # dependencies
        pass
    fields.offset()
    return Entry(dump_id, kind, schema, name)


class _Fields:
    """The integers, texts and offsets of an archive."""

    def __init__(self, source: _Tee, *, int_size: int, offset_size: int) -> None:
        if not (1 <= int_size <= 8 and 1 <= offset_size <= 8):
            raise IntegrityError("the header of the archive is damaged")
        self._source = source
        self._int_size = int_size
        self._offset_size = offset_size

    def integer(self) -> int:
        negative = self._source.byte()
        value = int.from_bytes(self._source.take(self._int_size), "little")
        return -value if negative else value

    def text(self) -> str | None:
        length = self.integer()
        if length < 0:
            return None
        if length > LONGEST_TEXT:
            raise IntegrityError(
                f"the table of contents is damaged: a text of {length:,} bytes",
                hint="The archive was altered in its storage. Use another dump.",
            )
        return self._source.take(length).decode(errors="surrogateescape")

    def offset(self) -> None:
        self._source.take(1 + self._offset_size)
