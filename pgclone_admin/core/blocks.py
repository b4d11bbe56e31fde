"""The rows in an archive that pg_dump did not compress, read without pg_restore.

After the table of contents each entry with data has a block: a byte for its type, the number of
the entry, then chunks with their lengths, the last one empty. pg_dump writes a chunk for each row
or for many; both are read here. ``_CustomReadFunc`` and ``_skipData`` in PostgreSQL's
``src/bin/pg_dump/pg_backup_custom.c`` have the layout.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping

from .archive import Contents, Entry
from .errors import IntegrityError
from .names import TableName, quote_identifier, readable

_ROWS = b"\x01"
"""The type of a block of rows; the other one is that of large objects."""

_BEGINNING = struct.Struct("<cBI")
"""Type of the block; sign and value of the entry's number."""

# Rows hold no NUL byte: PostgreSQL allows none in any encoding. So a NUL is always the sign that
# begins a length, and a search in C finds all of them at once. Row by row it would take longer than
# the server takes for them.
_LENGTH = re.compile(rb"\x00(.{4})", re.DOTALL)
_END = bytes(5)
_COPIES = re.compile(rb"COPY .+ FROM stdin;\n*", re.DOTALL)
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s."(]+)'
_INTO = re.compile(rb"COPY (" + _NAME + rb"\." + _NAME + rb")[ (]")

SECURE_PATH = "SELECT pg_catalog.set_config('search_path', '', false);\n"


def tables_to_copy(contents: Contents) -> dict[int, Entry]:
    """The entries whose rows can be read here, by their numbers and in the order in which they
    come; none, unless that is all rows.

    Nothing where pg_dump compressed the data, wrote INSERT statements, or is so old that names are
    not qualified; and where a large object comes before a table.
    """
    outline = contents.outline
    tables = {entry.dump_id: entry for entry in contents.entries if entry.kind == "TABLE DATA"}
    if (
        contents.plain
        and outline.settings.get("SEARCHPATH") == SECURE_PATH
        and list(outline.with_blocks[: len(tables)]) == list(tables)
        and all(_COPIES.fullmatch(entry.copy) for entry in tables.values())
    ):
        return tables
    return {}


def loads_elsewhere(entry: Entry) -> bool:
    """Whether the rows of an entry are put into another table: into that which is partitioned, to
    be routed from there. pg_dump does so when it is asked to, and where values of the key may hash
    otherwise in the new database."""
    match = _INTO.match(entry.copy)
    own = TableName(entry.schema or "", entry.name) if match else None
    return own is not None and match is not None and match[1] not in _spellings(own)


def _spellings(table: TableName) -> Iterator[bytes]:
    """A table as pg_dump may write it: it quotes a name only where it has to."""
    for schema in (table.schema, quote_identifier(table.schema)):
        for name in (table.name, quote_identifier(table.name)):
            yield f"{schema}.{name}".encode(errors="surrogateescape")


class TableBlocks:
    """``source`` is what comes after the table of contents; ``tables`` are those to be read."""

    def __init__(self, source: Iterator[bytes], tables: Mapping[int, Entry]) -> None:
        self._source = source
        self._tables = tables
        self._buffer = b""

    def tables(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Each table with its rows as COPY text, which are to be read before the next table.

        :class:`IntegrityError` when there are not all of them, or when they are damaged.
        """
        for expected, table in self._tables.items():
            while len(self._buffer) < _BEGINNING.size:
                self._fill(table)
            kind, sign, number = _BEGINNING.unpack_from(self._buffer)
            if (kind, sign, number) != (_ROWS, 0, expected):
                raise IntegrityError(
                    "the archive is damaged: something else is where the rows of a table begin",
                    hint="It was altered. Use another dump.",
                )
            self._buffer = self._buffer[_BEGINNING.size :]
            yield table, self._rows(table)

    def rest(self) -> Iterator[bytes]:
        """What comes after the tables: large objects, or nothing."""
        if buffer := self._buffer:
            self._buffer = b""
            yield buffer
        yield from self._source

    def _rows(self, table: Entry) -> Iterator[bytes]:
        told = found = 0
        ended = False
        while not ended:
            end = self._buffer.find(_END)
            ended = end >= 0
            parts = _LENGTH.split(self._buffer[:end] if ended else self._buffer)
            # A length of which only a part has come yet.
            begun = parts[-1].find(b"\0")
            self._buffer = self._buffer[end + len(_END) :] if ended else b""
            if begun >= 0:
                self._buffer = parts[-1][begun:] + self._buffer
                parts[-1] = parts[-1][:begun]
            text = b"".join(parts[::2])
            lengths = b"".join(parts[1::2])
            told += sum(struct.unpack(f"<{len(lengths) // 4}I", lengths))
            found += len(text)
            if ended and (begun >= 0 or told != found):
                raise IntegrityError(
                    f"the rows of the table {named(table)} are damaged: their length is another"
                    " one than the archive says",
                    hint="The archive was altered. Use another dump.",
                )
            if text:
                yield text
            if not ended:
                self._fill(table)

    def _fill(self, table: Entry) -> None:
        more = next(self._source, b"")
        if not more:
            raise IntegrityError(
                f"the archive ends before the last row of the table {named(table)}",
                hint="It was cut short. Use another dump.",
            )
        self._buffer += more


def named(table: Entry) -> str:
    return readable(f'"{table.schema}.{table.name}"' if table.schema else f'"{table.name}"')
