"""Hooks that are SQL: code in the settings, or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from ..core.errors import ConfigurationError, HookFailed, UsageError
from ..core.placeholders import bind, literal
from ..core.statements import (
    Statement,
    refuse_transaction_control,
    require_standard_strings,
    split,
)
from .base import Kind, Labels, Output
from .parameters import Parameter, Value

SHOWN = 300
"""Characters of a statement that an error shows."""


@dataclass(frozen=True)
class SqlHook:
    """Statements that run one after the other, in the transaction that they find.

    ``is_template``: whether ``{name}`` stands for the literal of a parameter.
    """

    text: str
    labels: Labels
    parameters: tuple[Parameter, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    is_template: bool = False
    path: Path | None = None

    kind = Kind.SQL

    def run_in(self, connection: Any, output: Output, check: Callable[[], None]) -> None:
        run_script(
            connection,
            self.text,
            self.values if self.is_template else None,
            output=output,
            check=check,
        )


def load_sql(
    text: str,
    labels: Labels,
    *,
    parameters: tuple[Parameter, ...],
    values: Mapping[str, Value],
    is_template: bool,
    path: Path | None = None,
) -> SqlHook:
    """The script as a hook, after it was read to its end.

    :class:`UsageError` for what no server is asked about: a quote that does not end, a command of
    psql, an end of the transaction, a parameter that is not declared.
    """
    try:
        for statement in split(text):
            refuse_transaction_control(statement)
        if is_template:
            bind(text, dict.fromkeys(values, "NULL"))
    except UsageError as error:
        raise ConfigurationError(
            f'the hook "{labels.name}" cannot be used: {error.message}', hint=error.hint
        ) from error
    return SqlHook(text, labels, parameters, values, is_template, path)


def run_script(
    connection: Any,
    text: str,
    values: Mapping[str, Value] | None,
    *,
    output: Output | None = None,
    check: Callable[[], None] = lambda: None,
) -> Any:
    """Executes a script statement by statement, and returns the cursor of the last one.

    ``values`` are bound as literals to the ``{name}`` in it; ``None`` leaves braces alone.
    """
    # Told as it was written: the value of a parameter may be a password.
    written = split(text)
    if values is not None:
        text = bind(text, {name: literal(value, connection) for name, value in values.items()})
    statements = split(text)
    for statement in statements:
        refuse_transaction_control(statement)
    cursor = connection.cursor()
    for statement, shown in zip(statements, written, strict=True):
        check()
        # Otherwise the server might read another statement than the one that was looked at.
        require_standard_strings(connection)
        try:
            cursor.execute(statement.text)
        except psycopg2.Error as error:
            raise HookFailed(_told(shown, error)) from error
        if output is not None and cursor.statusmessage:
            output.line(cursor.statusmessage)
    return cursor


def _told(statement: Statement, error: psycopg2.Error) -> str:
    """What the server says, and of which statement."""
    diagnosis = error.diag
    said = [diagnosis.message_primary or str(error).strip()]
    said += [
        f"{label}: {text}"
        for label, text in (("detail", diagnosis.message_detail), ("hint", diagnosis.message_hint))
        if text
    ]
    shown = statement.text if len(statement.text) <= SHOWN else statement.text[:SHOWN] + " ..."
    return "\n".join([*said, f"in the statement of line {statement.line}: {shown}"])
