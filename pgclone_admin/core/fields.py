"""The bytes before the data of an archive: integers, texts and offsets."""

from __future__ import annotations

from typing import IO

from .errors import IntegrityError
from .streams import BLOCK, Readable
from .temporary import room_for

LONGEST_TEXT = 256 * 1024 * 1024
"""Bytes of one definition. A flipped bit makes more of it, for which nobody should wait."""

INT_SIZE = 4
"""Bytes of an integer on every machine that PostgreSQL runs on; its sign is a byte before them."""


HEAD = "the table of contents of the archive"


class Splitter:
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
        with room_for(HEAD):
            self._head.write(self._buffer[: self._position])
            self._head.flush()
        return self._buffer[self._position :]

    def _refill(self, size: int) -> None:
        with room_for(HEAD):
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


class Fields:
    """The integers, texts and offsets of an archive."""

    def __init__(self, source: Splitter, *, int_size: int, offset_size: int) -> None:
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
                "the table of contents is damaged: it holds a string that is too long",
                hint="The archive was altered. Use another dump.",
            )
        return length

    def text(self) -> str | None:
        raw = self.raw()
        return None if raw is None else as_text(raw)

    def offset(self) -> None:
        self._take(self._offset_size)


def as_text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode(errors="surrogateescape")
