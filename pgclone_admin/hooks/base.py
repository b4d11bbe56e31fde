"""What every kind of hook has in common."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..core.errors import HookFailed
from ..core.process import scrubbed
from ..core.progress import Reporter

OUTPUT_TAIL = 4_000
"""Characters of a failed hook's output that its error shows."""


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
        self._rest = ""
        self.tail = ""
        self.changed: dict[str, int] | None = None

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.tail = (self.tail + text)[-OUTPUT_TAIL:]
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._reporter.note(f"  {self.scrub(line)}")
        return len(text)

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
        if self._rest:
            self._reporter.note(f"  {self.scrub(self._rest)}")
            self._rest = ""


def shown_path(path: Path, base: Path) -> str:
    """A file as people read it: relative to where the project lies, if it lies there."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
