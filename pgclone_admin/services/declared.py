"""What a site declares: the hooks and storage locations that staff may choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import NotAllowed
from ..models import Configuration
from ..options import checked
from ..settings import settings


def declared_hooks(option: str, *, stored: bool = True) -> list[str]:
    """Hooks that the settings name under ``option``, in their order; each once.

    ``option`` is ``pre_dump_hooks`` or ``pre_swap_hooks``. With ``stored`` also those of the
    configurations in the database.
    """
    return list(dict.fromkeys(name for hooks in _lists(option, stored=stored) for name in hooks))


def in_declared_order(option: str, names: Sequence[str]) -> list[str]:
    """Hooks that somebody has chosen, in the order of the list that has exactly these, else in
    which all declared ones are shown. :class:`NotAllowed` for one that is not declared."""
    known = declared_hooks(option)
    if others := sorted(set(names) - set(known)):
        raise NotAllowed(
            f"not declared as hooks here: {', '.join(others)}",
            hint=f"Hooks are declared in PGCLONE_{option.upper()} and in PGCLONE_CONFIGS.",
        )
    same = (hooks for hooks in _lists(option, stored=True) if set(hooks) == set(names))
    return next(same, [name for name in known if name in names])


def declared_locations() -> list[str]:
    """Storage locations that the settings name; the usual one is the first."""
    others = (c.get("storage_location") for _name, c in configurations_of_settings())
    return list(dict.fromkeys([settings.storage_location, *filter(None, others)]))


def configurations_of_settings() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and options of each configuration in the settings, also of those of 1.x."""
    for configurations in (settings.configs, settings.dump_configs, settings.restore_configs):
        for name, configuration in configurations.items():
            yield str(name), checked(str(name), configuration)


def _lists(option: str, *, stored: bool) -> Iterator[list[str]]:
    yield getattr(settings, option)
    for _name, configuration in configurations_of_settings():
        yield configuration.get(option, [])
    if stored:
        for hooks in Configuration.objects.values_list(option, flat=True):
            yield hooks or []
