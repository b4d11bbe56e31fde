"""How hooks are written down: texts and mappings in lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
            # Not what it holds: a seed or a password may be among it.
            f"a hook cannot be read, with the keys: {', '.join(map(str, spec)) or 'none'}",
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
    spec = _with_file(spec)
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            read = json.loads(spec)
        except ValueError as error:
            raise UnknownHook(
                f"the hook {shortened(spec)} is no JSON", hint='For example: {"file": "views.sql"}.'
            ) from error
        assert isinstance(read, dict)
        return read
    return spec


def _with_file(spec: HookSpec) -> HookSpec:
    return {"file": spec} if isinstance(spec, str) and spec.endswith(FILE_ENDINGS) else spec


def named_after(configuration: str, spec: HookSpec) -> HookSpec:
    """A hook of a configuration. The map of an anonymizing one says nothing of its name, so that it
    has the name of its configuration: it is to mean the same map whatever else is declared."""
    if isinstance(spec, str) or "anonymize" not in spec or spec.get("name"):
        return spec
    return {**spec, "name": f"{name_of(spec)} ({configuration})"}


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
        kind = next((key for key in KEYS if key in spec), next(iter(spec), ""))
        usual = str(spec.get("file") or spec.get("pum") or kind)
    return str(spec.get("name") or usual)


def shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= NAME_WIDTH else words[:NAME_WIDTH] + " ..."


@dataclass(frozen=True)
class Declared:
    """The hooks of several lists under their names, in their order.

    Where two that differ have the same name it is ``ambiguous``, and the first stands for both.
    """

    hooks: Mapping[str, HookSpec]
    ambiguous: frozenset[str]

    @classmethod
    def of(cls, lists: Iterable[Sequence[HookSpec]]) -> Declared:
        hooks: dict[str, HookSpec] = {}
        ambiguous = set()
        # A file is the same hook in both of its spellings.
        for spec in map(_with_file, chain.from_iterable(lists)):
            name = name_of(spec)
            if hooks.setdefault(name, spec) != spec:
                ambiguous.add(name)
        return cls(hooks, frozenset(ambiguous))

    def names_of(self, hooks: Sequence[HookSpec]) -> list[str]:
        """The names of hooks as they are written down; without those that are not declared."""
        return [name for hook in hooks for name, known in self.hooks.items() if known == hook]

    def meant(self, hook: HookSpec) -> HookSpec:
        """The hook with this name, else what was given.

        :class:`ConfigurationError` when two are called so.
        """
        if not isinstance(hook, str):
            return hook
        self.check(hook)
        return self.hooks.get(hook, hook)

    def check(self, *names: str) -> None:
        """:class:`ConfigurationError` when two hooks have one of these names; any without names."""
        for name in sorted(self.ambiguous):
            if not names or name in names:
                raise ConfigurationError(
                    f'two hooks are called "{name}"', hint='Give one of them a "name" of its own.'
                )
