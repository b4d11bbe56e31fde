"""What is restored, and what is chosen for it when nobody has chosen yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.http import QueryDict

from ..core.errors import PgcloneError
from ..databases import replaceable_aliases
from ..options import Arguments, Options, resolve
from ..services.declared import restore_configurations
from ..settings import settings
from .hook_form import usual_hooks

OVER, BESIDE, HOLD = "over", "beside", "hold"

CONFIG, MADE_WITH = "config", "made_with"
"""The configuration that is chosen, and the one that the other choices were made with."""


@dataclass(frozen=True)
class Usual:
    """What a configuration, or the settings without one, would choose."""

    hooks: list[str]
    post_swap_hooks: list[str]
    reversible: bool
    alias: str | None = None
    """The database that it names, if it does."""

    @classmethod
    def of(cls, options: Options) -> Usual:
        return cls(
            hooks=usual_hooks("pre_swap_hooks", options.pre_swap_hooks),
            post_swap_hooks=usual_hooks("post_swap_hooks", options.post_swap_hooks),
            reversible=options.reversible,
            alias=options.database if options.database != settings.database else None,
        )


@dataclass(frozen=True)
class Source:
    """What is restored, as far as it limits the choice."""

    key: str
    location: str | None
    """``None`` for a local database."""
    alias: str
    """The database that is meant when nothing else is chosen; for a local one the only one."""
    usual: Usual
    """What is chosen with ``config``."""
    config: str = ""
    """A configuration of this site that the dump was made with, else an empty text."""
    configs: Sequence[str] = field(default_factory=list)
    """Which can be chosen; an empty text for none."""
    is_foreign: bool = False

    @property
    def is_local(self) -> bool:
        return self.location is None

    def begun(self, given: Mapping[str, Any]) -> QueryDict:
        """The choices as they are first shown, of the configuration that the address names."""
        data = QueryDict(mutable=True)
        data["database"], data["what"] = self.alias, OVER
        data[CONFIG] = given.get(CONFIG, self.config)
        self._fill(data)
        return data

    def filled(self, given: QueryDict) -> tuple[QueryDict, bool]:
        """What was chosen; and whether the configuration is another one than these choices were
        made with, so that they are now those that are usual with it."""
        data = given.copy()
        config = data.setdefault(CONFIG, self.config)
        if config == data.get(MADE_WITH, config):
            data[MADE_WITH] = config
            return data, False
        self._fill(data)
        return data, True

    def _fill(self, data: QueryDict) -> None:
        config = str(data[CONFIG])
        data[MADE_WITH] = config
        try:
            usual = self._usual_with(config)
        except PgcloneError:
            return  # the plan tells what is wrong with it
        data.setlist("hooks", usual.hooks)
        data.setlist("post_swap_hooks", usual.post_swap_hooks)
        data.pop("reversible", None)
        if usual.reversible:
            data["reversible"] = "on"
        if not self.is_local and usual.alias in replaceable_aliases():
            data["database"] = str(usual.alias)

    def _usual_with(self, config: str) -> Usual:
        if config == self.config or config not in self.configs:
            return self.usual
        return Usual.of(resolve(Arguments(config=config or None), verb="restore"))


def choices_of_configurations(config: str, *, is_required: bool) -> list[str]:
    """The configurations with which something can be restored that was made with ``config``.

    ``is_required``: whether it, or the settings, require anonymized data; then only those can be
    chosen that do so, too.
    """
    names = list(dict.fromkeys(["", config, *restore_configurations()]))
    return [name for name in names if not is_required or _requires_anonymized(name)]


def _requires_anonymized(config: str) -> bool:
    try:
        options = resolve(Arguments(config=config or None), verb="restore")
    except PgcloneError:
        return False
    return options.require_anonymized
