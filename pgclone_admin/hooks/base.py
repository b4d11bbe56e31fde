"""What every kind of hook has in common."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..core.errors import HookFailed
from ..core.process import scrubbed
from ..core.progress import Reporter

OUTPUT_TAIL = 4_000
"""Characters of a failed hook's output that its error shows."""


LONGEST_LINE = 3_900
"""Characters of a line that are told at once; a log keeps no longer ones."""

REDRAW = 1.0
"""Seconds between two states of a line that is rewritten, as a bar is."""

ENDS = re.compile(r"\r\n|\r|\n")


class Stage(StrEnum):
    """When hooks run, and on which database."""

    PRE_DUMP = "pre_dump"
    """On the live database, before it is dumped."""
    PRE_SWAP = "pre_swap"
    """On the temporary database, before it is swapped in."""
    POST_SWAP = "post_swap"
    """On the live database, after the swap."""


class Kind(StrEnum):
    COMMAND = "command"
    SQL = "sql"
    PYTHON = "python"
    ANONYMIZE = "anonymize"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a person may know of a hook before it runs."""

    name: str
    """What it is called in lists, logs and on pages."""
    source: str = ""
    """What it consists of: a command line, a file, the beginning of its code."""
    timeout: float | None = None
    """Seconds after which it is ended and has failed."""
    anonymizes: bool = False
    """Whether no personal data is left after it, as far as its author knows."""


@dataclass(frozen=True)
class HookResult:
    """What came of one hook; ``seconds`` of wall time."""

    name: str
    kind: str
    seconds: float
    changed: dict[str, int] | None = None
    """Rows that were changed, by model, where it counts them."""


def failed(name: str, reason: str, output: Output) -> HookFailed:
    said = f"\n{output.tail}" if output.tail else ""
    return HookFailed(output.scrub(f'the hook "{name}" failed: {reason}{said}'))


class Output(io.TextIOBase):
    """Gives whole lines to the reporter, without secrets, and keeps the last of them."""

    def __init__(self, reporter: Reporter, secrets: Collection[str]) -> None:
        self._reporter = reporter
        self._secrets = secrets
        self._longest_secret = max(map(len, secrets), default=0)
        self._said = ""
        self._rest = ""
        """What no end of a line has come after."""
        self._drawn = ""
        """A line that is rewritten, as it was drawn last."""
        self._is_drawn_told = True
        self._drawn_at = -REDRAW
        self.changed: dict[str, int] | None = None

    def writable(self) -> bool:
        return True

    @property
    def tail(self) -> str:
        """The last that was said; secrets are in it."""
        return (self._said + (self._rest or self._drawn))[-OUTPUT_TAIL:]

    def write(self, text: str) -> int:
        start = 0
        for end in ENDS.finditer(text):
            self._add(text[start : end.start()])
            start = end.end()
            if end[0] == "\r":
                self._draw()
            else:
                self._end()
        self._add(text[start:])
        return len(text)

    def _add(self, text: str) -> None:
        """Goes on with a line; one that is too long is told in pieces, with no secret in two."""
        self._rest += text
        window = LONGEST_LINE + self._longest_secret
        while len(self._rest) > window:
            shown = self.scrub(self._rest[:window])
            count = max(0, min(LONGEST_LINE, len(shown) - self._longest_secret))
            if count:
                self._tell(shown[:count])
            self._said = (self._said + shown[:count])[-OUTPUT_TAIL:]
            self._rest = shown[count:] + self._rest[window:]

    def _draw(self) -> None:
        """A line is going to be rewritten: it is told now and then."""
        if not self._rest:
            return
        self._drawn, self._rest = self._rest, ""
        now = time.monotonic()
        self._is_drawn_told = now - self._drawn_at >= REDRAW
        if self._is_drawn_told:
            self._drawn_at = now
            self._tell(self._drawn)

    def _end(self) -> None:
        line = self._rest or self._drawn
        if self._rest or not self._drawn or not self._is_drawn_told:
            self._tell(line)
        self._said = f"{self._said}{line}\n"[-OUTPUT_TAIL:]
        self._rest = self._drawn = ""

    def _tell(self, line: str) -> None:
        self._reporter.note(f"  {self.scrub(line)}")

    def line(self, text: str) -> None:
        self.write(f"{text}\n")

    def scrub(self, text: str) -> str:
        return scrubbed(text, self._secrets)

    def clean(self, error: BaseException) -> None:
        """Takes the secrets out of what the hook has raised: a traceback shows it too."""
        chain: list[BaseException] = []
        each: BaseException | None = error
        while each is not None and each not in chain:
            each.args = tuple(
                self.scrub(value) if isinstance(value, str) else value for value in each.args
            )
            chain.append(each)
            each = each.__cause__ or each.__context__

    def finish(self) -> None:
        if self._rest or self._drawn:
            self._end()


def shown_path(path: Path, base: Path) -> str:
    """A file as people read it: relative to where the project lies, if it lies there."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
