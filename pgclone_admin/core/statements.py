"""SQL scripts of hooks: their statements, and the values that are put into them.

:func:`bind` first and :func:`split` after it, so that what is split is what the server reads. The
statements are for ``cursor.execute(statement.text)`` without arguments, which leaves ``%`` alone.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath

from psycopg2.extensions import encodings

from .connection import Connection
from .errors import BadPlaceholder, InvalidScript, TransactionControl, UsageError
from .lexer import NAME, Kind, Token, line_of, tokens

MOST_WORDS = 4


@dataclass(frozen=True)
class Statement:
    """One statement of a script."""

    text: str
    """As written, with its comments and without its semicolon."""
    line: int
    """The line of the script, from 1, of the first token that is no comment."""
    words: tuple[str, ...]
    """The words it begins with, up to four, in upper case: ``("ROLLBACK", "TO", "SAVEPOINT")``."""

    def line_of(self, position: int) -> int:
        """The line of the script of a character of ``text``, counted from 1 as the server does."""
        begins = next(token.start for token in tokens(self.text) if token.is_significant)
        return self.line + line_of(self.text, position - 1) - line_of(self.text, begins)


# -- statements -----------------------------------------------------------------------------------


def split(text: str) -> list[Statement]:
    """The statements of a script, as psql would send them one by one.

    What holds nothing but comments is left out. :class:`InvalidScript` for what only psql can do
    (its backslash commands, and COPY with the data in the script), and for quotes left open.

    A body ``BEGIN ATOMIC ... END`` ends with the END that stands where a statement would begin.
    psql counts BEGIN, CASE and END, and is misled by a column or function of such a name; it would
    then send the rest of the script as one.
    """
    statements = []
    reading = _Reading()
    line, counted = 1, 0
    for token in tokens(text):
        if reading.is_ended_by(token):
            if reading.first >= 0:
                line, counted = line + text.count("\n", counted, reading.first), reading.first
                statements.append(reading.statement(text[reading.start : token.start], line))
            reading = _Reading()
        else:
            reading.take(token, text)
    if reading.first >= 0:
        line += text.count("\n", counted, reading.first)
        statements.append(reading.statement(text[reading.start :], line))
    return statements


@dataclass
class _Reading:
    """The statement that is being read."""

    start: int = -1
    first: int = -1
    """Where its first token begins that is no comment."""
    words: list[str] = field(default_factory=list)
    _at_start: bool = True
    """Whether no token but words was seen yet."""
    _depth: int = 0
    """Parentheses that are open: ``CREATE RULE ... DO (...; ...)``."""
    _in_body: bool = False
    _previous: str = ""

    def is_ended_by(self, token: Token) -> bool:
        return token.text == ";" and not self._depth and not self._in_body

    def statement(self, text: str, line: int) -> Statement:
        return Statement(text.rstrip(" \t\n\v\f\r"), line, tuple(self.words))

    def take(self, token: Token, text: str) -> None:
        if self.start < 0 and token.kind is not Kind.SPACE:
            self.start = token.start
        if not token.is_significant:
            return
        if token.text == "\\":
            raise _psql_command(text, token.start)
        if self.first < 0:
            self.first = token.start
        word = _upper(token.text) if token.kind is Kind.WORD else ""
        if not word:
            self._at_start &= token.text == "(" and not self.words
        elif self._at_start and len(self.words) < MOST_WORDS:
            self.words.append(word)
        if word in _STREAMS and self._is_copy and self._previous in {"FROM", "TO"}:
            raise InvalidScript(
                f"line {line_of(text, token.start)}: COPY {self._previous} {word} needs psql "
                "at the other end",
                hint="Write the rows as INSERT, or COPY them in a Python hook.",
            )
        self._follow(word or token.text)

    def _follow(self, mark: str) -> None:
        if mark == "(":
            self._depth += 1
        elif mark == ")":
            self._depth = max(0, self._depth - 1)
        elif not self._depth:
            if mark == "ATOMIC" and self._previous == "BEGIN" and self._makes_a_routine:
                self._in_body = True
                mark = ";"  # a statement may begin here
            elif mark == "END" and self._previous == ";":
                self._in_body = False
        self._previous = mark

    @property
    def _is_copy(self) -> bool:
        return self.words[:1] == ["COPY"] and not self._depth

    @property
    def _makes_a_routine(self) -> bool:
        words = [word for word in self.words if word not in {"OR", "REPLACE"}]
        return words[:1] == ["CREATE"] and words[1:2] in (["FUNCTION"], ["PROCEDURE"])


# The server takes either for either.
_STREAMS = {"STDIN", "STDOUT"}


def _upper(word: str) -> str:
    """In upper case as far as the server would have it: a dotless i makes no keyword."""
    return word.upper() if word.isascii() else word


def _psql_command(text: str, position: int) -> InvalidScript:
    match = re.compile(r"\\\S*").match(text, position)
    return InvalidScript(
        f"line {line_of(text, position)}: {match[0] if match else ''} is a command of psql, "
        "which does not run here",
        hint="Write it in SQL, or as a Python hook.",
    )


_ALWAYS_CONTROL = {"ABORT", "BEGIN", "COMMIT", "END", "START"}


def refuse_transaction_control(statement: Statement) -> None:
    """:class:`TransactionControl` for what begins or ends a transaction; savepoints do not.

    What a DO block or a procedure tries, the server refuses by itself within a transaction.
    """
    first, *rest = [*statement.words, ""]
    if first == "ROLLBACK":
        controls = "TO" not in (rest[1:] if rest[0] in {"WORK", "TRANSACTION"} else rest)[:1]
    else:
        controls = first in _ALWAYS_CONTROL or (first, rest[:1]) == ("PREPARE", ["TRANSACTION"])
    if controls:
        raise TransactionControl(
            f"line {statement.line}: {' '.join(statement.words[:2])} begins or ends a transaction",
            hint="Take it out: the SQL of hooks runs in one transaction, which is committed when "
            "all of it has succeeded. SAVEPOINT and ROLLBACK TO are possible.",
        )


def require_standard_strings(connection: Connection) -> None:
    """:class:`InvalidScript` while a backslash would not be a backslash for the server.

    To be asked before each statement, as each can change it: a quote would then end elsewhere than
    :func:`split` has seen, and what it took for text could be a COMMIT.
    """
    if connection.get_parameter_status("standard_conforming_strings") != "on":
        raise InvalidScript(
            "standard_conforming_strings is off, so the server would read quotes differently",
            hint="Set it to on, and write strings with backslash escapes as E'...'.",
        )


# -- placeholders ---------------------------------------------------------------------------------

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
