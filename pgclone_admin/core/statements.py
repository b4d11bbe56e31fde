"""SQL scripts of hooks: their statements, and the values that are put into them.

:func:`bind` first and :func:`split` after it, so that what is split is what the server reads. The
statements are for ``cursor.execute(statement.text)`` without arguments, which leaves ``%`` alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .connection import Connection
from .errors import InvalidScript, TransactionControl
from .lexer import Kind, Token, line_of, tokens
from .placeholders import bind, literal, parameter_names

__all__ = [
    "Statement",
    "bind",
    "literal",
    "parameter_names",
    "refuse_transaction_control",
    "require_standard_strings",
    "split",
]

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
