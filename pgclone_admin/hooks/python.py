"""Hooks that are Python files with a class ``Hook``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError, HookFailed
from .base import Kind, Labels, Output
from .imports import loaded, patience
from .parameters import Parameter, Value
from .session import is_composed, text_of
from .sql import run_script

CLASS = "Hook"
BASE_CLASS = "HookBase"

EXAMPLE = (
    "class Hook(HookBase):\n    def run_hook(self, connection, ...):\n        self.execute(...)"
)

RUN_LATER = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
"""What tells a function that only prepares its work when it is called."""


class HookBase:
    """What a Python hook inherits from.

    ::

        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection, srid):
                self.execute("CREATE VIEW ... {srid} ...")

    ``run_hook`` is given a connection of psycopg2 within a transaction, and each declared parameter
    that it names, as a Python value. It may use the connection, and may not end the transaction.
    """

    _connection: Any = None
    _values: Mapping[str, Value] | None = None
    _folder: Path = Path()

    def execute(self, sql: Any) -> Any:
        """Runs SQL in the transaction and returns the cursor of the last statement.

        ``sql`` is a text, something composed by ``psycopg2.sql`` or ``psycopg.sql``, or the
        :class:`~pathlib.Path` of a file, relative to that of the hook. Where the hook declares
        parameters, ``{name}`` stands for their literals and other braces are doubled; not in what
        was composed, which holds its values already.
        """
        if isinstance(sql, Path):
            text = (self._folder / sql).read_text(encoding="utf-8")
        else:
            text = text_of(sql, self._connection)
        return run_script(self._connection, text, None if is_composed(sql) else self._values)


@dataclass(frozen=True)
class PythonHook:
    """A file with a class ``Hook``, whose ``run_hook`` is called in the transaction it finds."""

    path: Path
    base: Path
    """From where the file was named; modules that lie there can be imported, too."""
    labels: Labels
    parameters: tuple[Parameter, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    is_template: bool = False

    kind = Kind.PYTHON

    def run_in(self, connection: Any, output: Output, check: Callable[[], None]) -> None:
        with loaded(self.path, self.base, self.labels.name, check) as module:
            found = _class_of(module, self.labels.name)
            hook: Any = found()
            hook._connection = connection
            hook._values = self.values if self.is_template else None
            hook._folder = self.path.parent
            if not isinstance(hook, HookBase):
                # One of PUM's, where that is installed: its own execute wants psycopg 3.
                hook.execute = lambda sql: HookBase.execute(hook, sql)
            asked = _asked(found, self.labels.name)
            given = {name: self.values[name] for name in asked if name in self.values}
            _refuse_later(hook.run_hook(connection, **given))


def load_python(
    path: Path,
    base: Path,
    labels: Labels,
    *,
    parameters: tuple[Parameter, ...],
    values: Mapping[str, Value],
    is_template: bool,
) -> PythonHook:
    """The file as a hook: it is loaded once for a look, and again when it runs.

    :class:`ConfigurationError` when it has no usable class ``Hook``, or when that asks for what is
    not declared; :class:`Conflict` while a hook of another thread is at work for too long.
    """
    with loaded(path, base, labels.name, patience()) as module:
        asked = _asked(_class_of(module, labels.name), labels.name)
    if unknown := [name for name, is_needed in asked.items() if is_needed and name not in values]:
        known = ", ".join(sorted(values)) or "none"
        raise ConfigurationError(
            f'the hook "{labels.name}" asks for {", ".join(unknown)}, which no parameter is called',
            hint=f'Declare it under "parameters". Declared: {known}.',
        )
    return PythonHook(path, base, labels, parameters, values, is_template)


def _class_of(module: Any, name: str) -> type:
    found = getattr(module, CLASS, None)
    # By its name, as PUM does: its own HookBase serves as well.
    if not isinstance(found, type) or BASE_CLASS not in {c.__name__ for c in found.__mro__[1:]}:
        raise ConfigurationError(
            f'the hook "{name}" has no class {CLASS} that inherits from {BASE_CLASS}',
            hint=f"It begins with: from pgclone_admin.hooks import HookBase\n{EXAMPLE}",
        )
    return found


def _refuse_later(result: Any) -> None:
    """:class:`HookFailed` for work that was only prepared, as a decorator can hide that."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
    elif not inspect.isasyncgen(result):
        return
    raise HookFailed(
        f"run_hook returned a {type(result).__name__} and has done nothing",
        hint="Call asynchronous code with asyncio.run() in it.",
    )


def _asked(found: type, name: str) -> dict[str, bool]:
    """The parameters that ``run_hook`` names after the connection, and whether it needs them."""
    run_hook = inspect.getattr_static(found, "run_hook", None)
    if not callable(run_hook):
        raise ConfigurationError(
            f'the class {CLASS} of the hook "{name}" has no method run_hook', hint=EXAMPLE
        )
    if any(runs_later(run_hook) for runs_later in RUN_LATER):
        raise ConfigurationError(
            f'run_hook of the hook "{name}" would do nothing when it is called: it is asynchronous '
            "or a generator",
            hint=f"Call asynchronous code with asyncio.run() in it.\n{EXAMPLE}",
        )
    parameters = list(inspect.signature(run_hook).parameters.values())
    kinds = {p.kind for p in parameters}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        raise ConfigurationError(
            f'run_hook of the hook "{name}" has to name the parameters it takes', hint=EXAMPLE
        )
    if len(parameters) < 2 or parameters[0].name == "connection":
        raise ConfigurationError(
            f'run_hook of the hook "{name}" has to take self and connection', hint=EXAMPLE
        )
    return {p.name: p.default is p.empty for p in parameters[2:]}
