"""Hooks that are management commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from django.core.management import BaseCommand, call_command, get_commands, load_command_class

from ..core.errors import ConfigurationError, PgcloneError, UnknownHook
from .base import Kind, Labels, Output
from .parameters import Parameter

MIGRATE = "migrate"


@dataclass(frozen=True)
class CommandHook:
    """One management command with its arguments and options.

    A command that has an option ``database`` of its own is given the alias only if it is
    ``migrate``: routers of the project decide by the alias what belongs into a database. Nobody is
    there to answer, so a command that can ask does not.
    """

    command: str
    args: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: Labels = field(default_factory=lambda: Labels(name=""))
    can_ask: bool = False

    kind = Kind.COMMAND
    parameters: tuple[Parameter, ...] = ()

    @property
    def is_migrate(self) -> bool:
        return self.command == MIGRATE

    def run(self, alias: str, output: Output) -> None:
        """Runs the command in this thread."""
        options = dict(self.options)
        if self.is_migrate:
            options.setdefault("database", alias)
        if self.can_ask:
            options.setdefault("interactive", False)
        call_command(self.command, *self.args, stdout=output, stderr=output, **options)


def load_command(
    command: str, labels: Labels, args: Sequence[Any] = (), options: Mapping[str, Any] | None = None
) -> CommandHook:
    """The command as a hook; :class:`UnknownHook` when there is none, :class:`ConfigurationError`
    for options that it does not have."""
    commands = get_commands()
    if command not in commands:
        close = get_close_matches(command, commands, n=3)
        hint = (
            "A hook is the name of a management command, a file (.sql or .py), or a mapping: see "
            "the documentation of hooks."
        )
        if close:
            hint += f" Close to it: {', '.join(close)}."
        raise UnknownHook(f'there is no management command "{command}" to run as a hook', hint=hint)
    app = commands[command]
    try:
        loaded = app if isinstance(app, BaseCommand) else load_command_class(app, command)
        parser = loaded.create_parser("manage.py", command)
    except PgcloneError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f'the management command "{command}" cannot be loaded: {type(error).__name__}: {error}'
        ) from error
    known = {action.dest for action in parser._actions} | set(loaded.stealth_options)
    given = dict(options or {})
    if unknown := sorted(set(given) - known):
        raise ConfigurationError(
            f'the management command "{command}" has no option {", ".join(unknown)}',
            hint=f"It has: {', '.join(sorted(known - {'help', 'version'}))}.",
        )
    return CommandHook(
        command,
        tuple(str(each) for each in args),
        given,
        labels,
        can_ask="interactive" in known,
    )


def command_line(command: str, args: Sequence[Any], options: Mapping[str, Any]) -> str:
    """What somebody would type, about; of options only the names: a password may be a value."""
    words = [command, *(str(each) for each in args)]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False and value is not None:
            words.append(f"{flag}=...")
    return " ".join(words)
