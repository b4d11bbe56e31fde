"""The built-in hook that replaces personal data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .anonymize import Anonymization
from .base import Kind, Labels, Output
from .parameters import Parameter


@dataclass(frozen=True)
class AnonymizeHook:
    """Changes what a map of fields to rules says, with one statement for each table."""

    anonymization: Anonymization
    labels: Labels

    kind = Kind.ANONYMIZE
    parameters: tuple[Parameter, ...] = ()

    def run_in(self, connection: Any, output: Output, check: Callable[[], None]) -> None:
        output.changed = self.anonymization.run(connection, note=output.line, check=check)

    def finish(self, connection: Any) -> None:
        """What was raw is still in dead rows and statistics until now."""
        self.anonymization.finish(connection)
