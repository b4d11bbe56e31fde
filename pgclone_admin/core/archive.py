"""What an archive in custom format says about itself: header and table of contents.

The layout is that of ``ReadHead`` and ``ReadToc`` in PostgreSQL's
``src/bin/pg_dump/pg_backup_archiver.c``, archive versions 1.12 (PostgreSQL 9.0) to 1.16 (17).
"""

from __future__ import annotations

import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

from .errors import IntegrityError
from .fields import HEAD, INT_SIZE, Fields, Splitter, as_text
from .owned import Others
from .progress import Reporter
from .streams import BLOCK, MAGIC_ARCHIVE, ArchiveReader, Readable, StoredReader
from .temporary import CONTENTS, own_prefix, room_for

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

PUBLISHES_EVERYTHING = (b"FOR ALL TABLES", b"FOR TABLES IN SCHEMA")

SETTINGS = {"ENCODING", "STDSTRINGS", "SEARCHPATH"}
"""Entries that make no object, but say how the session is to be."""

_CUSTOM_FORMAT = 1
_ENCODING = re.compile(r"SET client_encoding = '([^']+)';\s*")


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
    copy: bytes = b""
    """The COPY statement that takes the rows; empty where they are INSERT statements."""


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
    with_blocks: array[int] = field(default_factory=lambda: array("i"))
    """Entries that have a block of data, in the order of the archive."""
    settings: dict[str, str] = field(default_factory=dict)
    """What the archive sets for a session, by the kind of the entry that says it."""
    others: Others = field(default_factory=Others)
    """What belongs to other roles than the owner of the database."""

    @property
    def encoding(self) -> str:
        """What all text in the archive is in, as PostgreSQL calls it."""
        found = _ENCODING.fullmatch(self.settings.get("ENCODING", ""))
        return found[1] if found else "UTF8"


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
    plain: bool = False
    """Whether pg_dump left the data uncompressed, and its numbers have four bytes."""

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
    directory for temporary files, readable by its user alone. ``codec`` is what it was wrapped in.

    :class:`IntegrityError` when the source does not begin as an archive in custom format, or its
    table of contents is damaged or cut short; :class:`StorageError` when there is no room for the
    file; and what reading it raises.
    """

    def __init__(self, source: Readable, codec: str = "none") -> None:
        self._source = source
        self.codec = codec
        with room_for(HEAD):
            self._head = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by its own method
                prefix=own_prefix(), suffix=CONTENTS
            )
        self.path = Path(self._head.name)
        splitter = Splitter(source, self._head)
        try:
            self.contents = _read_contents(splitter)
            self._ahead = splitter.finish()
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[bytes]:
        """All bytes of the archive, once, from its first."""
        yield from self.head()
        yield from self.data()

    def head(self) -> Iterator[bytes]:
        """Header and table of contents."""
        self._head.seek(0)
        while block := self._head.read(BLOCK):
            yield block

    def data(self) -> Iterator[bytes]:
        """What comes after the table of contents, once."""
        if self._ahead:
            yield self._ahead
        while block := self._source.read(BLOCK):
            yield block

    def close(self) -> None:
        # What could not be written was told; closing tries once more.
        with suppress(OSError):
            self._head.close()


@contextmanager
def open_archive(
    stored: Readable, reporter: Reporter
) -> Iterator[tuple[StoredReader, OpenedArchive]]:
    """The stored bytes of a dump and the archive in them, closed at the end of the block.

    Raises :class:`UnknownFormat` and :class:`IntegrityError` as :class:`ArchiveReader` and
    :class:`OpenedArchive` do.
    """
    with (
        closing(StoredReader(stored, reporter)) as counted,
        closing(ArchiveReader(counted)) as unwrapped,
        closing(OpenedArchive(unwrapped, unwrapped.codec)) as archive,
    ):
        yield counted, archive


def _read_contents(source: Splitter) -> Contents | None:
    if source.take(len(MAGIC_ARCHIVE)) != MAGIC_ARCHIVE:
        raise IntegrityError("the archive does not begin as an archive")
    major, minor, _revision, int_size, offset_size, archive_format = source.take(6)
    version = (major, minor)
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        return None
    fields = Fields(source, int_size=int_size, offset_size=offset_size)
    if archive_format != _CUSTOM_FORMAT:
        raise IntegrityError("the archive is a directory or tar archive, not one in custom format")
    # The algorithm; before, the level of gzip. Nothing is 0 in both.
    compression = source.take(1)[0] if version >= (1, 15) else fields.integer()
    created = _moment([fields.integer() for _ in range(7)])
    database = fields.text() or ""
    server_version = fields.text() or ""
    program_version = fields.text() or ""
    try:
        entries, outline = _read_entries(fields, version)
    except (ValueError, OverflowError) as error:
        raise IntegrityError(
            "the table of contents is damaged: it holds an invalid number",
            hint="The archive was altered. Use another dump.",
        ) from error
    return Contents(
        version,
        created,
        server_version,
        program_version,
        database,
        entries,
        outline,
        plain=compression == 0 and int_size == INT_SIZE,
    )


def _moment(parts: list[int]) -> datetime | None:
    """A ``struct tm`` of C: months from 0, years from 1900, the time zone of pg_dump unknown."""
    second, minute, hour, day, month, year, _is_dst = parts
    try:
        return datetime(year + 1900, month + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _read_entries(fields: Fields, version: tuple[int, int]) -> tuple[tuple[Entry, ...], Outline]:
    kept: list[Entry] = []
    outline = Outline(array("i"), bytearray(), {})
    superuser_only = outline.superuser_only
    current = int(Section.PRE_DATA)
    count = fields.integer()
    if count < 0:
        raise IntegrityError("the table of contents is damaged: its number of entries is negative")
    for _ in range(count):
        dump_id = fields.integer()
        has_block = fields.integer()
        fields.skip()  # oid of the catalog
        fields.skip()  # oid of the object
        name = fields.raw()
        kind = (fields.raw() or b"").decode(errors="replace")
        section = fields.integer()
        definition = fields.raw() or b""
        drop = fields.raw()
        copy = fields.raw() or b""
        schema = fields.raw()
        if tablespace := as_text(fields.raw()):
            outline.tablespaces.add(tablespace)
        if version >= (1, 14):
            fields.skip()  # table access method
        if version >= (1, 16):
            fields.integer()  # relkind
        owner = fields.raw()
        fields.skip()  # WITH OIDS
        dependencies = []
        while (dependency := fields.raw()) is not None:
            dependencies.append(int(dependency))
        fields.offset()
        # As pg_restore --section does: what is in no section belongs to the one before it.
        if section in (Section.PRE_DATA, Section.DATA, Section.POST_DATA):
            current = section
        outline.ids.append(dump_id)
        if has_block:
            outline.with_blocks.append(dump_id)
        if kind in SETTINGS:
            outline.settings[kind] = as_text(definition)
        outline.sections.append(Section.LAST if _comes_last(kind, name, current) else current)
        outline.kinds[kind] += 1
        names = as_text(schema), as_text(name), as_text(owner)
        outline.others.take(
            dump_id, kind, names, on=tuple(dependencies), definition=definition, drop=drop or b""
        )
        if _needs_superuser(kind, definition) or (
            kind in ("COMMENT", "SECURITY LABEL")
            and any(dependency in superuser_only for dependency in dependencies)
        ):
            superuser_only[dump_id] = f"{kind} {as_text(name)}"
        elif kind == "ACL" and (name or b"").startswith(WRAPPER_GRANTS):
            outline.wrapper_grants[dump_id] = as_text(definition)
        elif kind in KEPT_KINDS:
            kept.append(
                Entry(
                    dump_id=dump_id,
                    kind=kind,
                    schema=as_text(schema) or None,
                    name=as_text(name),
                    dependencies=tuple(dependencies),
                    alters_table=kind == "INDEX" and b"\nALTER TABLE " in definition,
                    is_gin=b" USING gin " in definition,
                    definition=as_text(definition) if kind in ("EXTENSION", "SCHEMA") else "",
                    copy=copy if kind == "TABLE DATA" else b"",
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
