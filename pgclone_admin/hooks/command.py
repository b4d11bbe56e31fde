"""Hooks that are management commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from django.core.management import BaseCommand, call_command, get_commands, load_command_class
from django.db import DEFAULT_DB_ALIAS

from ..core.errors import ConfigurationError, PgcloneError, UnknownHook
from ..core.process import scrubbed
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
        self.call(self.command, alias, output)

    def call(self, command: str | BaseCommand, alias: str, output: Output | None) -> None:
        """Calls ``command`` as this one is called."""
        options = dict(self.options)
        if self.is_migrate:
            options.setdefault("database", alias)
        if self.can_ask:
            options.setdefault("interactive", False)
        call_command(command, *self.args, stdout=output, stderr=output, **options)


def load_command(
    command: str, labels: Labels, args: Sequence[Any] = (), options: Mapping[str, Any] | None = None
) -> CommandHook:
    """The command as a hook; :class:`UnknownHook` when there is none, :class:`ConfigurationError`
    when it does not take these arguments and options."""
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
    hook = CommandHook(
        command,
        tuple(str(each) for each in args),
        dict(options or {}),
        labels,
        can_ask="interactive" in known,
    )
    _rehearse(hook, loaded, parser)
    return hook


def _rehearse(hook: CommandHook, command: BaseCommand, parser: argparse.ArgumentParser) -> None:
    """Has Django read the arguments as it does before it executes the command."""
    for each in _parsers(parser):
        # The text of --help, which is an end without an error.
        vars(each)["_print_message"] = lambda *_args: None
        for action in each._actions:
            _ignore_values(action)
    rehearsed = copy(command)
    vars(rehearsed).update(
        create_parser=lambda *_args, **_options: parser,
        execute=lambda *_args, **_options: None,
    )
    try:
        hook.call(rehearsed, DEFAULT_DB_ALIAS, None)
    except PgcloneError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            return
        # The value of an option may be a password.
        values = [value for value in hook.options.values() if isinstance(value, str) and value]
        reason = scrubbed(str(error).removeprefix("Error: ").rstrip("."), values)
        raise ConfigurationError(
            f'the management command "{hook.command}" cannot be called so: {reason}',
            hint=f"What it takes is told by: manage.py help {hook.command}",
        ) from error


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _parsers(each)


def _ignore_values(action: argparse.Action) -> None:
    """Whether a value will do may depend on rows and files that come with the dump, and a type of
    the project, or one that opens files, may leave something behind: only numbers are looked at."""
    if action.type not in (int, float):
        action.type = None
    if not isinstance(action, argparse._SubParsersAction):
        action.choices = None
    known = next(each for each in type(action).__mro__ if each.__module__ == argparse.__name__)
    action.__class__ = argparse._StoreAction if known is argparse.Action else known


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
