"""Hooks as PUM has them: ``migration_hooks`` in a ``.pum.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError
from .parameters import Parameter, declared

# ``application`` is what later versions call it.
SPELLINGS = (("migration_hooks", "pre", "post"), ("application", "drop", "create"))


@dataclass(frozen=True)
class PumHooks:
    """What stands in a configuration of PUM, as far as it is about hooks."""

    pre: tuple[Mapping[str, Any], ...]
    """Run directly before ``migrate``; each a mapping with ``file`` or ``code``."""
    post: tuple[Mapping[str, Any], ...]
    parameters: tuple[Parameter, ...]
    base: Path
    """Where the files lie."""


def read_pum(path: Path, where: str) -> PumHooks:
    """Reads a ``.pum.yaml``; :class:`ConfigurationError` when that cannot be done."""
    try:
        import yaml  # noqa: PLC0415 - only sites with such a file need it
    except ImportError as error:
        raise ConfigurationError(
            f"{where} cannot be read: PyYAML is not installed",
            hint="Install it with: pip install pgclone-admin[pum]",
        ) from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{where} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{where} holds no mapping")
    return pum_hooks(content, path.parent, where)


def pum_hooks(content: Mapping[str, Any], base: Path, where: str) -> PumHooks:
    """Reads what a ``.pum.yaml`` holds, or a mapping of the settings in the same shape.

    What it holds beside hooks and parameters is PUM's own business.
    """
    given = [spelling for spelling in SPELLINGS if content.get(spelling[0])]
    if len(given) != 1:
        raise ConfigurationError(
            f"{where} has to have either migration_hooks or application",
            hint="migration_hooks holds pre and post, application holds drop and create.",
        )
    key, first, last = given[0]
    hooks = content[key]
    if not isinstance(hooks, Mapping) or set(hooks) - {first, last}:
        raise ConfigurationError(f'"{key}" of {where} holds {first} and {last}, and nothing else')
    return PumHooks(
        _list(hooks.get(first), f"{first} of {where}"),
        _list(hooks.get(last), f"{last} of {where}"),
        declared(content.get("parameters") or [], where, has_default=True),
        base,
    )


def _list(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    hooks = value or []
    if not isinstance(hooks, list | tuple):
        raise ConfigurationError(f"{where} has to be a list")
    for hook in hooks:
        if not isinstance(hook, Mapping) or set(hook) not in ({"file"}, {"code"}):
            raise ConfigurationError(
                f"a hook of {where} cannot be read", hint='Each is a mapping of "file" or "code".'
            )
    return tuple(hooks)
