"""Cuts the rows of a table, as an archive holds them, into parts that end where a row ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PIECE = 256 * 1024
"""Bytes of rows that a session takes at a time."""

TRAILER = b"\\.\n\n\n"
"""What pg_dump writes after the rows. It would end the COPY of one session, and be an empty row in
that of another."""


@dataclass(frozen=True)
class Piece:
    """A part of a table's rows as COPY text.

    ``ends_row`` is false inside a row that is longer than a piece: the same session has to take
    what follows.
    """

    text: bytes
    ends_row: bool = True


def cut(texts: Iterable[bytes]) -> Iterator[Piece]:
    """The rows of one table in pieces, without what pg_dump writes after them.

    A line break always ends a row in COPY text; one inside a value is written as ``\\n``.
    """
    gathered: list[bytes] = []
    size = 0
    for text in texts:
        gathered.append(text)
        size += len(text)
        if size < PIECE + len(TRAILER):
            continue
        whole = b"".join(gathered)
        # What comes last may be a part of the trailer.
        last = size - len(TRAILER)
        end = whole.rfind(b"\n", 0, last) + 1
        yield Piece(whole[: end or last], ends_row=end > 0)
        gathered = [whole[end or last :]]
        size = len(gathered[0])
    if rows := b"".join(gathered).removesuffix(TRAILER):
        yield Piece(rows)
