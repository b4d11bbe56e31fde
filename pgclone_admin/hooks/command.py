"""Hooks that are management commands."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.core.management import call_command

from ..core.errors import HookFailed, PgcloneError
from ..core.process import scrubbed
from ..core.progress import Reporter
from ..databases import passwords

OUTPUT_TAIL = 4_000
"""Characters of a failed hook's output that its error shows."""

MIGRATE = "migrate"


@dataclass(frozen=True)
class CommandHook:
    """One management command without arguments."""

    name: str

    def run(self, alias: str, reporter: Reporter) -> None:
        """Runs the command in this thread; its output goes to ``reporter``, line by line."""
        output = _LineWriter(reporter, passwords())
        options: dict[str, Any] = {}
        if self.name == MIGRATE:
            options = {"database": alias, "interactive": False}
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                call_command(self.name, stdout=output, stderr=output, **options)
        except PgcloneError:
            raise
        except SystemExit as error:
            if error.code not in (None, 0):
                output.clean(error)
                raise self._failure(f"exit status {error.code}", output) from error
        except Exception as error:
            output.clean(error)
            raise self._failure(str(error) or type(error).__name__, output) from error
        finally:
            output.finish()

    def _failure(self, reason: str, output: _LineWriter) -> HookFailed:
        said = f"\n{output.tail}" if output.tail else ""
        return HookFailed(output.scrub(f'the hook "{self.name}" failed: {reason}{said}'))


class _LineWriter(io.TextIOBase):
    """Gives whole lines to the reporter, without secrets, and keeps the last of them."""

    def __init__(self, reporter: Reporter, secrets: Collection[str]) -> None:
        self._reporter = reporter
        self._secrets = secrets
        self._rest = ""
        self.tail = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.tail = (self.tail + text)[-OUTPUT_TAIL:]
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._reporter.note(f"  {self.scrub(line)}")
        return len(text)

    def scrub(self, text: str) -> str:
        return scrubbed(text, self._secrets)

    def clean(self, error: BaseException) -> None:
        """Takes the secrets out of what the command has raised: a traceback shows it too."""
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
