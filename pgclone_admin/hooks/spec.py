"""How hooks are written down: texts and mappings in lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.errors import ConfigurationError, UnknownHook
from ..settings import HookSpec
from .command import command_line

COMMON = {"name", "timeout", "anonymizes"}
KEYS: Mapping[str, set[str]] = {
    "command": {"args", "options"},
    "code": {"parameters"},
    "file": {"parameters"},
    "pum": set(),
    "migration_hooks": {"parameters", "base"},
    "anonymize": {"seed"},
}
"""What a mapping may be, by the key that tells its kind, and what else it may hold."""

FILE_ENDINGS = (".sql", ".py")

NAME_WIDTH = 60
"""Characters of code that name a hook without a name."""


def kind_of(spec: Mapping[str, Any]) -> str:
    """The key that tells what the hook is; :class:`ConfigurationError` for what is no hook."""
    found = [key for key in KEYS if key in spec]
    if len(found) != 1:
        raise ConfigurationError(
            f"a hook cannot be read: {shortened(json.dumps(spec, default=str))}",
            hint=f"A mapping has exactly one of: {', '.join(KEYS)}.",
        )
    kind = found[0]
    if unknown := sorted(set(map(str, spec)) - COMMON - KEYS[kind] - {kind}):
        known = sorted(COMMON | KEYS[kind])
        raise ConfigurationError(
            f'the hook "{name_of(spec)}" has a key that is not known: {", ".join(unknown)}',
            hint=f"Beside {kind} there may be: {', '.join(known)}.",
        )
    return kind


def normalized(spec: HookSpec) -> HookSpec:
    """A text that names a file, or is a mapping in JSON, as the mapping that it stands for."""
    if isinstance(spec, str) and spec.endswith(FILE_ENDINGS):
        return {"file": spec}
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            read = json.loads(spec)
        except ValueError as error:
            raise UnknownHook(
                f"the hook {shortened(spec)} is no JSON", hint='As in {"file": "views.sql"}.'
            ) from error
        assert isinstance(read, dict)
        return read
    return spec


def name_of(spec: HookSpec) -> str:
    """What a hook is called: its ``name``, or what it consists of."""
    if isinstance(spec, str):
        return spec
    if "command" in spec:
        args, options = spec.get("args") or [], spec.get("options") or {}
        usual = str(spec["command"])
        if isinstance(args, list | tuple) and isinstance(options, Mapping):
            usual = command_line(usual, args, options)
    elif "code" in spec:
        usual = f"SQL: {shortened(str(spec['code']))}"
    else:
        usual = str(spec.get("file") or spec.get("pum") or next(iter(spec), ""))
    return str(spec.get("name") or usual)


def shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NAME_WIDTH else words[:NAME_WIDTH] + " ..."


def by_name(lists: Iterable[Sequence[HookSpec]], *, strict: bool = True) -> dict[str, HookSpec]:
    """The hooks of several lists under their names, in their order.

    :class:`ConfigurationError` when two that differ have the same name, if ``strict``.
    """
    found: dict[str, HookSpec] = {}
    for spec in (each for hooks in lists for each in hooks):
        name = name_of(spec)
        if found.setdefault(name, spec) != spec and strict:
            raise ConfigurationError(
                f'two hooks are called "{name}"', hint='Give one of them a "name" of its own.'
            )
    return found
