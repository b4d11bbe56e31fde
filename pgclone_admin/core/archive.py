"""What an archive in custom format says about itself: header and table of contents.

The layout is that of ``ReadHead`` and ``ReadToc`` in PostgreSQL's
``src/bin/pg_dump/pg_backup_archiver.c``, archive versions 1.12 (PostgreSQL 9.0) to 1.16 (17).
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import IO

from .errors import IntegrityError
from .streams import BLOCK, MAGIC_ARCHIVE, Readable
from .temporary import CONTENTS, own_prefix

OLDEST_VERSION = (1, 12)
NEWEST_VERSION = (1, 16)

FIRST_MAJOR = {(1, 15): 16, (1, 16): 17}
"""The first PostgreSQL whose pg_restore reads an archive version; older ones need none named."""

KEPT_KINDS = {
    *("TABLE", "TABLE DATA", "INDEX", "CONSTRAINT", "FK CONSTRAINT", "STATISTICS"),
    *("EXTENSION", "SCHEMA"),
}
"""Entries that are kept whole. Of the others, of which there can be millions (every large object is
one or more), only number and section are."""

NEVER_AS_PLAIN_ROLE = {"EVENT TRIGGER", "SUBSCRIPTION", "SUBSCRIPTION TABLE"}
"""Only a superuser (or a role with rights over the whole server) can create these."""

WRAPPER_GRANTS = b"FOREIGN DATA WRAPPER "
"""How the name of a grant begins that is needed to create a server of an extension's wrapper."""

LAST_KINDS = {"ACL", "DEFAULT ACL", "EVENT TRIGGER", "MATERIALIZED VIEW DATA"}

LONGEST_TEXT = 256 * 1024 * 1024
"""Bytes of one definition. A flipped bit makes more of it, for which nobody should wait."""

PUBLISHES_EVERYTHING = (b"FOR ALL TABLES", b"FOR TABLES IN SCHEMA")

_CUSTOM_FORMAT = 1


class Section(IntEnum):
    """``teSection`` of pg_dump, where what is in no section goes with the one before it; and what
    pg_restore does after all else: grants, event triggers, the rows of materialized views."""

    PRE_DATA = 2
    DATA = 3
    POST_DATA = 4
    LAST = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the table of contents."""

    dump_id: int
    kind: str
    schema: str | None
    name: str
    dependencies: tuple[int, ...]
    alters_table: bool
    """Whether an index is also made the one of CLUSTER or REPLICA IDENTITY."""
    is_gin: bool
    definition: str = ""
    """The statement that creates an extension or schema; not kept for others."""


@dataclass(frozen=True)
class Outline:
    """Number and section of every entry, in the order of the archive."""

    ids: array[int]
    sections: bytearray
    superuser_only: dict[int, str]
    """Entries that only a superuser can create, with what they are; comments on them too."""
    wrapper_grants: dict[int, str] = field(default_factory=dict)
    """Statements that let roles use the foreign data wrappers of extensions."""
    kinds: Counter[str] = field(default_factory=Counter)
    """How many entries there are of each kind."""
    tablespaces: set[str] = field(default_factory=set)
    """Names of the tablespaces in which tables and indexes lie, other than the database's own."""


@dataclass(frozen=True)
class Contents:
    """What stands before the data: who made the archive from what, and what is in it."""

    version: tuple[int, int]
    created: datetime | None
    """When the archive was made, by the clock of pg_dump, taken as UTC."""
    server_version: str
    program_version: str
    database: str
    entries: tuple[Entry, ...]
    outline: Outline

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
    ``path`` is a file with the header and the table of contents alone, which pg_restore accepts for
    everything that needs no data. It is gone after :meth:`close`; a killed process leaves it in the
    directory for temporary files, readable by its user alone.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = tempfile.NamedTemporaryFile(prefix=own_prefix(), suffix=CONTENTS)  # noqa: SIM115
        self.path = Path(self._head.name)
        splitter = _Splitter(source, self._head)
        try:
            self.contents = _read_contents(splitter)
            self._ahead = splitter.finish()
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[bytes]:
        """All bytes of the archive, once, from its first."""
        self._head.seek(0)
        while block := self._head.read(BLOCK):
            yield block
        if self._ahead:
            yield self._ahead
        while block := self._source.read(BLOCK):
            yield block

    def close(self) -> None:
        self._head.close()


class _Splitter:
    """Gives out exactly what is asked for, and copies what was given to a file."""

    def __init__(self, source: Readable, head: IO[bytes]) -> None:
        self._source = source
        self._head = head
        self._buffer = b""
        self._position = 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._buffer):
            self._refill(size)
            end = size
        data = self._buffer[self._position : end]
        self._position = end
        return data

    def finish(self) -> bytes:
        """What was read from the source and not asked for."""
        self._head.write(self._buffer[: self._position])
        self._head.flush()
        return self._buffer[self._position :]

    def _refill(self, size: int) -> None:
        self._head.write(self._buffer[: self._position])
        parts = [self._buffer[self._position :]]
        missing = size - len(parts[0])
        while missing > 0:
            more = self._source.read(BLOCK)
            if not more:
                raise IntegrityError(
                    "the archive ends inside its table of contents",
                    hint="It was cut short. Use another dump.",
                )
            parts.append(more)
            missing -= len(more)
        self._buffer = b"".join(parts)
        self._position = 0


def _read_contents(source: _Splitter) -> Contents | None:
    if source.take(len(MAGIC_ARCHIVE)) != MAGIC_ARCHIVE:
        raise IntegrityError("the archive does not begin as an archive")
    major, minor, _revision, int_size, offset_size, archive_format = source.take(6)
    version = (major, minor)
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        return None
    fields = _Fields(source, int_size=int_size, offset_size=offset_size)
    if archive_format != _CUSTOM_FORMAT:
        raise IntegrityError("the archive is a directory or tar archive, not one in custom format")
    if version >= (1, 15):
        source.take(1)  # compression algorithm
    else:
        fields.integer()  # compression level
    created = _moment([fields.integer() for _ in range(7)])
    database = fields.text() or ""
    server_version = fields.text() or ""
    program_version = fields.text() or ""
    try:
        entries, outline = _read_entries(fields, version)
    except (ValueError, OverflowError) as error:
        raise IntegrityError(
            "the table of contents is damaged: a number in it is none",
            hint="The archive was altered. Use another dump.",
        ) from error
    return Contents(version, created, server_version, program_version, database, entries, outline)


def _moment(parts: list[int]) -> datetime | None:
    """A ``struct tm`` of C: months from 0, years from 1900, the time zone of pg_dump unknown."""
    second, minute, hour, day, month, year, _is_dst = parts
    try:
        return datetime(year + 1900, month + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _read_entries(fields: _Fields, version: tuple[int, int]) -> tuple[tuple[Entry, ...], Outline]:
    kept: list[Entry] = []
    outline = Outline(array("i"), bytearray(), {})
    superuser_only = outline.superuser_only
    current = int(Section.PRE_DATA)
    count = fields.integer()
    if count < 0:
        raise IntegrityError("the table of contents is damaged: its number of entries is negative")
    for _ in range(count):
        dump_id = fields.integer()
        fields.integer()  # whether the entry has data
        fields.skip()  # oid of the catalog
        fields.skip()  # oid of the object
        name = fields.raw()
        kind = (fields.raw() or b"").decode(errors="replace")
        section = fields.integer()
        definition = fields.raw() or b""
        fields.skip()  # statement that drops it
        fields.skip()  # COPY statement
        schema = fields.raw()
        if tablespace := _text(fields.raw()):
            outline.tablespaces.add(tablespace)
        if version >= (1, 14):
            fields.skip()  # table access method
        if version >= (1, 16):
            fields.integer()  # relkind
        fields.skip()  # owner
        fields.skip()  # WITH OIDS
        dependencies = []
        while (dependency := fields.raw()) is not None:
            dependencies.append(int(dependency))
        fields.offset()
        # As pg_restore --section does: what is in no section belongs to the one before it.
        if section in (Section.PRE_DATA, Section.DATA, Section.POST_DATA):
            current = section
        outline.ids.append(dump_id)
        outline.sections.append(Section.LAST if _comes_last(kind, name, current) else current)
        outline.kinds[kind] += 1
        if _needs_superuser(kind, definition) or (
            kind in ("COMMENT", "SECURITY LABEL")
            and any(dependency in superuser_only for dependency in dependencies)
        ):
            superuser_only[dump_id] = f"{kind} {_text(name)}"
        elif kind == "ACL" and (name or b"").startswith(WRAPPER_GRANTS):
            outline.wrapper_grants[dump_id] = _text(definition)
        elif kind in KEPT_KINDS:
            kept.append(
                Entry(
                    dump_id=dump_id,
                    kind=kind,
                    schema=_text(schema) or None,
                    name=_text(name),
                    dependencies=tuple(dependencies),
                    alters_table=kind == "INDEX" and b"\nALTER TABLE " in definition,
                    is_gin=b" USING gin " in definition,
                    definition=_text(definition) if kind in ("EXTENSION", "SCHEMA") else "",
                )
            )
    return tuple(kept), outline


def _comes_last(kind: str, name: bytes | None, section: int) -> bool:
    """As ``_tocEntryRestorePass`` of pg_restore has it."""
    if kind == "STATISTICS DATA":
        return section == Section.POST_DATA
    if kind == "COMMENT":
        return (name or b"").startswith(b"EVENT TRIGGER ")
    return kind in LAST_KINDS


def _needs_superuser(kind: str, definition: bytes) -> bool:
    if kind == "PUBLICATION":
        return any(words in definition for words in PUBLISHES_EVERYTHING)
    return kind in NEVER_AS_PLAIN_ROLE or kind == "PUBLICATION TABLES IN SCHEMA"


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode(errors="surrogateescape")


class _Fields:
    """The integers, texts and offsets of an archive."""

    def __init__(self, source: _Splitter, *, int_size: int, offset_size: int) -> None:
        if not (1 <= int_size <= 8 and 1 <= offset_size <= 8):
            raise IntegrityError("the header of the archive is damaged")
        self._take = source.take
        self._int_size = int_size + 1
        self._offset_size = offset_size + 1

    def integer(self) -> int:
        data = self._take(self._int_size)
        value = int.from_bytes(data[1:], "little")
        return -value if data[0] else value

    def raw(self) -> bytes | None:
        length = self.integer()
        return None if length < 0 else self._take(self._checked(length))

    def skip(self) -> None:
        length = self.integer()
        if length > 0:
            self._take(self._checked(length))

    @staticmethod
    def _checked(length: int) -> int:
        if length > LONGEST_TEXT:
            raise IntegrityError(
                "the table of contents is damaged: it holds a text without end",
                hint="The archive was altered. Use another dump.",
            )
        return length

    def text(self) -> str | None:
        raw = self.raw()
        return None if raw is None else _text(raw)

    def offset(self) -> None:
        self._take(self._offset_size)
