"""Values that are put into the SQL of hooks: ``{name}`` becomes a literal."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath

from psycopg2.extensions import encodings

from .connection import Connection
from .errors import BadPlaceholder, InvalidScript, UsageError
from .lexer import NAME, Kind, Token, line_of, tokens

_BRACES = re.compile(rf"\{{\{{|\}}\}}|\{{({NAME})\}}|[{{}}]")

# Numbers and true, false and NULL: they can stand within any quotes.
_BARE = re.compile(r" ?[A-Za-z0-9.+-]+")

_GROWS = re.compile(r"[\w'&$]$")


def parameter_names(text: str) -> list[str]:
    """The names of the placeholders that :func:`bind` would replace, each once, in order."""
    names = _Names()
    bind(text, names)
    return list(names)


class _Names(dict[str, str]):
    """Has a literal for every name, and knows which were asked for."""

    def __missing__(self, name: str) -> str:
        return self.setdefault(name, "0")


def bind(text: str, literals: Mapping[str, str]) -> str:
    """Replaces each ``{name}`` by a literal that :func:`literal` has made; ``{{`` is ``{``.

    Comments stay as they are. Elsewhere every brace counts, also in quotes. There a placeholder
    can only be replaced by a number, true, false or NULL, as a text has quotes of its own. What
    stands between dollar quotes is read as SQL too, with its comments and quotes; where it cannot
    be read as SQL, all of it is treated as a quote.

    :class:`BadPlaceholder` for a single brace, a name that ``literals`` does not have, a text
    within quotes, and a value that would close the dollar quotes around it.
    """
    if "{" not in text and "}" not in text:
        return text
    return _Binder(text, literals).bound(0, len(text))


class _Binder:
    def __init__(self, text: str, literals: Mapping[str, str]) -> None:
        self._text = text
        self._literals = literals

    def bound(self, start: int, end: int) -> str:
        pieces: list[str] = []
        for token in tokens(self._text, start, end):
            if token.kind is Kind.DOLLAR_QUOTED:
                pieces.append(self._dollar_quoted(token))
            elif token.kind in {Kind.STRING, Kind.IDENTIFIER}:
                pieces.append(self._within_quotes(token.start, token.end))
            elif brace := _BRACES.fullmatch(self._text, token.start, token.end):
                before = pieces[-1] if pieces else ""
                pieces.append(self._set_apart(self._replacement(brace), before, token.end))
            else:
                pieces.append(token.text)
        return "".join(pieces)

    def _dollar_quoted(self, token: Token) -> str:
        tag = token.text[: token.text.index("$", 1) + 1]
        start, end = token.start + len(tag), token.end - len(tag)
        try:
            body = self.bound(start, end)
        except InvalidScript:
            body = self._within_quotes(start, end)
        if (body + tag).index(tag) < len(body):
            raise BadPlaceholder(
                f"line {self._line(token.start)}: a value holds {tag}, which would end the quote "
                "that begins here",
                hint="Write the quote with another tag, such as $body$.",
            )
        return f"{tag}{body}{tag}"

    def _within_quotes(self, start: int, end: int) -> str:
        pieces: list[str] = []
        for match in _BRACES.finditer(self._text, start, end):
            replacement = self._replacement(match)
            if match[1] and not _BARE.fullmatch(replacement):
                raise BadPlaceholder(
                    f"line {self._line(match.start())}: {match[0]} stands within quotes, where "
                    "only a number can be put",
                    hint=f"Put it beside them, as in '...' || {match[0]}, or use format().",
                )
            pieces += self._text[start : match.start()], replacement
            start = match.end()
        return "".join([*pieces, self._text[start:end]])

    def _set_apart(self, literal: str, before: str, end: int) -> str:
        """A quote that touches another quote or a word would become a part of it."""
        if literal.startswith("'") and _GROWS.search(before):
            literal = f" {literal}"
        if literal.endswith("'") and self._text.startswith("'", end):
            literal = f"{literal} "
        return literal

    def _replacement(self, match: re.Match[str]) -> str:
        brace, name = match[0], match[1]
        if brace in {"{{", "}}"}:
            return brace[0]
        line = self._line(match.start())
        if not name:
            raise BadPlaceholder(
                f"line {line}: a single {brace} stands for nothing",
                hint=f"Write {brace * 2} for a brace that stands for itself, and {{name}} for a "
                "parameter.",
            )
        try:
            return self._literals[name]
        except KeyError:
            raise BadPlaceholder(
                f"line {line}: there is no parameter {name}", hint=self._other_names(name)
            ) from None

    def _line(self, position: int) -> int:
        return line_of(self._text, position)

    def _other_names(self, name: str) -> str:
        folded = {each.casefold(): each for each in self._literals}
        if close := difflib.get_close_matches(name.casefold(), folded, n=1):
            return f"Is it {{{folded[close[0]]}}}? Upper and lower case count."
        if self._literals:
            return f"There are: {', '.join(self._literals)}."
        return f"Declare it, or write {{{{{name}}}}} for braces that stand for themselves."


# -- literals -------------------------------------------------------------------------------------

_ESCAPES = str.maketrans({"'": "''", "\\": "\\\\", "\n": "\\n", "\r": "\\r"})


def literal(value: object, connection: Connection) -> str:
    """A value as SQL: None, a bool, int, float, Decimal, str or path.

    It is the same value however ``standard_conforming_strings`` is set, and has no line break, so
    that lines keep their numbers. It begins with a space where it could grow together with what
    stands before it: the minus of a number, the E of a string. :class:`UsageError` for any other
    value, and for a text that the connection cannot carry.
    """
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "true", False: "false"}[value]
    match value:
        case int():
            return _number(format(value, "d"))
        case float():
            finite = math.isfinite(value)
            return _number(repr(float(value))) if finite else f"'{float(value)}'::float8"
        case Decimal():
            name = "NaN" if value.is_nan() else str(value)
            return _number(name) if value.is_finite() else f"'{name}'::numeric"
        case str() | PurePath():
            return _quoted(str.__str__(value) if isinstance(value, str) else str(value), connection)
    raise UsageError(f"a parameter cannot be a {type(value).__name__}")


def _number(digits: str) -> str:
    return f" {digits}" if digits.startswith("-") else digits


def _quoted(text: str, connection: Connection) -> str:
    if "\0" in text:
        raise UsageError("a parameter cannot hold a NUL character")
    try:
        text.encode(encodings[connection.encoding])
    except UnicodeEncodeError as error:
        raise UsageError(
            f"a parameter holds {error.object[error.start]!a}, which has no place in the encoding "
            f"of the connection, {connection.encoding}"
        ) from error
    escaped = text.translate(_ESCAPES)
    return f" E'{escaped}'" if "\\" in escaped else f"'{escaped}'"
