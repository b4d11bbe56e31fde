"""The built-in hook that replaces personal data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.names import TableName
from .anonymize import Anonymization
from .base import Kind, Labels, Output
from .parameters import Parameter


@dataclass
class AnonymizeHook:
    """Changes what a map of fields to rules says, with one statement for each table."""

    anonymization: Anonymization
    labels: Labels
    _rewritten: frozenset[TableName] = field(default=frozenset(), init=False, repr=False)
    """Between the two halves of a run, the tables that need no VACUUM."""

    kind = Kind.ANONYMIZE
    parameters: tuple[Parameter, ...] = ()

    def run_in(self, connection: Any, output: Output, check: Callable[[], None]) -> None:
        changed = self.anonymization.run(connection, note=output.line, check=check)
        output.changed, self._rewritten = changed.counts, changed.rewritten

    def finish(self, connection: Any) -> None:
        """What was raw is still in dead rows and statistics until now."""
        rewritten, self._rewritten = self._rewritten, frozenset()
        self.anonymization.finish(connection, rewritten=rewritten)
