"""Reads SQL into tokens, where PostgreSQL itself would begin and end each of them.

Only what decides where a statement ends is told apart: quotes, comments and words. An operator of
several characters is several tokens. ``standard_conforming_strings`` is taken to be on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from .errors import InvalidScript


class Kind(Enum):
    SPACE = auto()
    COMMENT = auto()
    WORD = auto()
    """A keyword or a name without quotes."""
    STRING = auto()
    """``'...'`` or ``E'...'``; other prefixes are words before it."""
    IDENTIFIER = auto()
    DOLLAR_QUOTED = auto()
    OTHER = auto()


class Token(NamedTuple):
    kind: Kind
    start: int
    end: int
    text: str

    @property
    def is_significant(self) -> bool:
        return self.kind is not Kind.SPACE and self.kind is not Kind.COMMENT


NAME = r"[^\W\d](?:-?\w)*"
"""What may stand between the braces of a placeholder."""

# Every character outside of ASCII is a letter to the server, also what looks like a space.
_LETTER = r"A-Za-z_\x80-\U0010ffff"
_SPACES = r"\t\n\v\f\r "

_TOKEN = re.compile(
    rf"""
      (?P<space> [{_SPACES}]++ )
    | (?P<comment> --[^\n\r]*+ )
    | (?P<block> /\* )
    | (?P<quote> [eE]?' | " )
    | (?P<dollar> \$(?:[{_LETTER}][{_LETTER}0-9]*+)?\$ )
    | (?P<word> [{_LETTER}][{_LETTER}0-9$]*+ )
    | (?P<glued> [0-9]++[{_LETTER}][{_LETTER}0-9]*+\$ )
    | (?P<other> [0-9]++ | \{{\{{ | \}}\}} | \{{{NAME}\}} | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_MARK = re.compile(r"/\*|\*/")

# What comes after the opening quote, and the closing quote.
_PLAIN = re.compile(r"(?:[^']++|'')*+'")
_ESCAPED = re.compile(r"(?:[^'\\]++|''|\\.)*+'", re.DOTALL)
_QUOTED_NAME = re.compile(r'(?:[^"]++|"")*+"')

# A string goes on after a line break, in the manner in which it began.
_CONTINUED = re.compile(
    r"(?:[ \t\v\f]|--[^\n\r]*+)*+[\n\r](?:[\t\n\v\f\r ]++|--[^\n\r]*+[\n\r])*+'"
)


def line_of(text: str, position: int) -> int:
    """The line of a character, from 1."""
    return text.count("\n", 0, position) + 1


def tokens(text: str, start: int = 0, end: int | None = None) -> Iterator[Token]:
    """Every token of ``text[start:end]``; together they are the whole of it.

    :class:`InvalidScript` for a quote or comment that is not closed, for a NUL character, which
    would end the text for the server, and where versions of the server do not agree.
    """
    end = len(text) if end is None else end
    if (nul := text.find("\0", start, end)) >= 0:
        raise InvalidScript(f"line {line_of(text, nul)}: the SQL holds a NUL character")
    position = start
    continued_at = -1
    if text.startswith("\ufeff", 0, end) and start == 0:
        position = 1
        yield Token(Kind.SPACE, 0, 1, "\ufeff")
    while match := _TOKEN.match(text, position, end):
        group, opener = match.lastgroup, match[0]
        if group == "quote":
            escaped = opener in {"E'", "e'"} or position == continued_at
            kind = Kind.IDENTIFIER if opener == '"' else Kind.STRING
            body = _QUOTED_NAME if opener == '"' else _ESCAPED if escaped else _PLAIN
            closed = body.match(text, match.end(), end)
            stop = closed.end() if closed else -1
            if escaped and closed and (goes_on := _CONTINUED.match(text, stop, end)):
                continued_at = goes_on.end() - 1
        elif group == "dollar":
            kind, stop = Kind.DOLLAR_QUOTED, _after(text.find(opener, match.end(), end), opener)
        elif group == "block":
            kind, stop = Kind.COMMENT, _end_of_comment(text, match.end(), end)
        elif group == "glued":
            raise InvalidScript(
                f"line {line_of(text, position)}: a number runs into a dollar sign",
                hint="Put a space between them: versions of PostgreSQL read this differently.",
            )
        else:
            kind, stop = _SIMPLE[group or "other"], match.end()
        if stop < 0:
            what = "comment" if kind is Kind.COMMENT else "quote"
            raise InvalidScript(
                f"line {line_of(text, position)}: the {what} that begins here with {opener} "
                "is never closed"
            )
        yield Token(kind, position, stop, text[position:stop])
        position = stop


_SIMPLE = {
    "space": Kind.SPACE,
    "comment": Kind.COMMENT,
    "word": Kind.WORD,
    "other": Kind.OTHER,
}


def _after(found: int, text: str) -> int:
    return found + len(text) if found >= 0 else -1


def _end_of_comment(text: str, position: int, end: int) -> int:
    """Where the block comment ends whose inside begins at ``position``; -1: nowhere."""
    depth = 1
    for mark in _BLOCK_MARK.finditer(text, position, end):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return -1
