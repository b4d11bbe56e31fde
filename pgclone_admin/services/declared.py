"""What a site declares: the hooks and storage locations that staff may choose from, and what of it
is usual for a dump."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import NotAllowed, UnknownConfiguration, UnknownDatabase
from ..databases import replaceable_alias
from ..hooks.loading import parameters_of
from ..hooks.parameters import Parameter
from ..hooks.spec import name_of
from ..models import Configuration
from ..options import (
    HOOK_LISTS,
    NO_CONFIGURATION,
    Arguments,
    Options,
    configurations_of_settings,
    declared_hooks,
    hook_lists,
    resolve,
)
from ..settings import HookSpec, settings


def hook_names(option: str) -> list[str]:
    """Names of the hooks that the settings declare under ``option``, in their order; each once.

    ``option`` is ``pre_dump_hooks``, ``pre_swap_hooks`` or ``post_swap_hooks``. Configurations in
    the database declare nothing: they name what the settings do.
    """
    return list(declared_hooks(option).hooks)


def in_declared_order(option: str, names: Sequence[HookSpec]) -> list[HookSpec]:
    """Names of hooks that somebody has chosen, in the order of the list that has exactly these,
    else in which all declared ones are shown. :class:`NotAllowed` for what is not declared."""
    declared = declared_hooks(option)
    known = list(declared.hooks)
    if others := sorted(name_of(name) for name in names if name not in known):
        raise NotAllowed(
            f"not declared as hooks here: {', '.join(others)}",
            hint=f"Hooks are declared in PGCLONE_{option.upper()} and in PGCLONE_CONFIGS.",
        )
    chosen = [str(name) for name in names]
    for hooks in hook_lists(option, stored=True):
        # Those of the database are names already.
        listed = declared.names_of([declared.hooks.get(str(h), h) for h in hooks])
        if set(listed) == set(chosen):
            return [*listed]
    return [name for name in known if name in chosen]


def declared_parameters(
    option: str | None = None, names: Sequence[HookSpec] | None = None
) -> dict[str, Parameter]:
    """Parameters of the hooks that the settings declare, by name; of one list, or of some of its
    hooks. Hooks that cannot be loaded have none: the system checks tell of them."""
    found: dict[str, Parameter] = {}
    for each in (option,) if option else HOOK_LISTS:
        for name, spec in declared_hooks(each).hooks.items():
            if names is None or name in names:
                found |= {parameter.name: parameter for parameter in parameters_of(spec)}
    return found


def restore_configurations() -> list[str]:
    """Every configuration that a restore can name, of the settings and of the admin."""
    stored = Configuration.objects.values_list("name", flat=True)
    return sorted({*map(str, settings.configs), *map(str, settings.restore_configs), *stored})


def declared_locations() -> list[str]:
    """Storage locations that the settings name; the usual one is the first."""
    others = (c.get("storage_location") for _name, c in configurations_of_settings())
    return list(dict.fromkeys([settings.storage_location, *filter(None, others)]))


def usual_alias(alias: str) -> str:
    """The database that a dump of ``alias`` is usually restored on: the same one, under the alias
    under which it can be replaced, and that of the settings for an alias that is not of this site.

    Where the original of a replica cannot be told it is ``alias`` itself: nothing is restored on a
    database that nobody meant.
    """
    try:
        return replaceable_alias(alias) or alias
    except UnknownDatabase:
        return settings.database


def usual_options(config: str) -> tuple[str | None, Options]:
    """The configuration that a dump was made with, if it is here, and what it says."""
    name = config if config not in ("", NO_CONFIGURATION) else None
    try:
        options = resolve(Arguments(config=name), verb="restore")
        # The default of 1.x may be one that nobody defines.
        return name if options.config == name else None, options
    except UnknownConfiguration:
        return None, resolve(Arguments(), verb="restore")
