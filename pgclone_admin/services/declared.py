"""What a site declares: the hooks and storage locations that staff may choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.errors import NotAllowed
from ..hooks.loading import parameters_of
from ..hooks.parameters import Parameter
from ..hooks.spec import by_name, name_of
from ..options import HOOK_LISTS, configurations_of_settings, hook_lists
from ..settings import HookSpec, settings


def declared_hooks(option: str, *, stored: bool = True) -> list[str]:
    """Names of the hooks that the settings declare under ``option``, in their order; each once.

    ``option`` is ``pre_dump_hooks``, ``pre_swap_hooks`` or ``post_swap_hooks``. With ``stored``
    also those of the configurations in the database.
    """
    return list(declared_specs(option, stored=stored))


def declared_specs(option: str, *, stored: bool = True) -> Mapping[str, HookSpec]:
    """The same hooks by their names, as they are written down. Of two that share a name the first:
    whoever wants to run it is told."""
    found = by_name(hook_lists(option, stored=False), strict=False)
    if stored:
        # They are names of these; one that is not declared any more is refused when it is loaded.
        names = [name_of(hook) for hooks in hook_lists(option, stored=True) for hook in hooks]
        found = {name: found.get(name, name) for name in [*found, *names]}
    return found


def in_declared_order(option: str, names: Sequence[HookSpec]) -> list[HookSpec]:
    """Names of hooks that somebody has chosen, in the order of the list that has exactly these,
    else in which all declared ones are shown. :class:`NotAllowed` for what is not declared."""
    known = declared_hooks(option)
    if others := sorted(name_of(name) for name in names if name not in known):
        raise NotAllowed(
            f"not declared as hooks here: {', '.join(others)}",
            hint=f"Hooks are declared in PGCLONE_{option.upper()} and in PGCLONE_CONFIGS.",
        )
    chosen = {str(name) for name in names}
    lists = ([name_of(hook) for hook in hooks] for hooks in hook_lists(option, stored=True))
    same = (hooks for hooks in lists if set(hooks) == chosen)
    return [*next(same, [name for name in known if name in chosen])]


def declared_parameters(
    option: str | None = None, names: Sequence[str] | None = None
) -> dict[str, Parameter]:
    """Parameters of the hooks that the settings declare, by name; of one list, or of some of its
    hooks. Hooks that cannot be loaded have none: the system checks tell of them."""
    found: dict[str, Parameter] = {}
    for each in (option,) if option else HOOK_LISTS:
        for name, spec in declared_specs(each, stored=False).items():
            if names is None or name in names:
                found |= {parameter.name: parameter for parameter in parameters_of(spec)}
    return found


def declared_locations() -> list[str]:
    """Storage locations that the settings name; the usual one is the first."""
    others = (c.get("storage_location") for _name, c in configurations_of_settings())
    return list(dict.fromkeys([settings.storage_location, *filter(None, others)]))
