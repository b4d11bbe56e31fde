"""Hooks: steps of the project that run before a dump or on a restored database.

A hook is a management command, named by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from django.core.management import get_commands

from ..core.errors import UnknownHook
from ..core.progress import Reporter
from ..routing import route
from .command import CommandHook

__all__ = ["CommandHook", "load_hooks", "run_hooks"]


def load_hooks(names: Sequence[str]) -> list[CommandHook]:
    """The hooks with these names; :class:`UnknownHook` before any of them has run."""
    commands = get_commands()
    for name in names:
        if name not in commands:
            close = get_close_matches(name, commands, n=3)
            hint = "A hook is the name of a management command."
            if close:
                hint += f" Close to it: {', '.join(close)}."
            raise UnknownHook(
                f'there is no management command "{name}" to run as a hook', hint=hint
            )
    return [CommandHook(name) for name in names]


def run_hooks(
    hooks: Sequence[CommandHook], *, alias: str, database: str, reporter: Reporter
) -> None:
    """Runs ``hooks`` in order, with Django's connections sent to ``database``.

    :class:`HookFailed` from the first one that fails; those after it do not run.
    """
    for hook in hooks:
        reporter.check()
        reporter.note(f"running the hook {hook.name}")
        with route(alias, database):
            hook.run(alias, reporter)
