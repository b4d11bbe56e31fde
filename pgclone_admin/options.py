"""What a command works with: arguments over configuration over settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError
from django.db.backends.postgresql.psycopg_any import errors

from .core.errors import ConfigurationError, UnknownConfiguration
from .hooks.spec import Declared, named_after
from .models import Configuration
from .settings import HookSpec, as_hooks, as_list, settings

NO_CONFIGURATION = "none"
"""What stands in a dump key when no configuration tells how the dump was made."""

HOOK_LISTS = ("pre_dump_hooks", "pre_swap_hooks", "post_swap_hooks")

CONFIGURATION_KEYS = {
    "database": str,
    "dump_key": str,
    "exclude": list,
    "hook_params": Mapping,
    "instance": str,
    "post_swap_hooks": list,
    "pre_dump_hooks": list,
    "pre_swap_hooks": list,
    "require_anonymized": bool,
    "reversible": bool,
    "storage_location": str,
}

VERSION_1_KEYS = {"exclude_models": "exclude"}

VERSION_1_DEFAULT = "default"
"""The configuration of dumps, and that of restores, which 1.x takes without ``-c``, and which it
has where nobody defines it."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the caller said; ``None`` or an empty text for what was left open, an empty list for
    "none"."""

    config: str | None = None
    database: str | None = None
    instance: str | None = None
    storage_location: str | None = None
    dump_key: str | None = None
    exclude: list[str] | None = None
    pre_dump_hooks: list[HookSpec] | None = None
    pre_swap_hooks: list[HookSpec] | None = None
    post_swap_hooks: list[HookSpec] | None = None
    hook_params: Mapping[str, Any] | None = None
    """By name; those that are not named here are looked for further down."""
    reversible: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What applies. ``config`` is the label for the dump key.

    ``given_params`` are the names in ``hook_params`` that the caller has given.
    """

    config: str
    database: str
    instance: str
    storage_location: str
    dump_key: str | None
    exclude: list[str]
    pre_dump_hooks: list[HookSpec]
    pre_swap_hooks: list[HookSpec]
    post_swap_hooks: list[HookSpec]
    hook_params: Mapping[str, Any]
    given_params: tuple[str, ...] = ()
    require_anonymized: bool = False
    reversible: bool


def resolve(arguments: Arguments, *, verb: str) -> Options:
    """Arguments over configuration over settings. ``verb`` is ``dump``, ``restore`` or ``""``.

    Options that change the content of a dump, given beside a configuration, make its label
    "none": such a dump is not what the name of the configuration promises.

    :class:`~pgclone_admin.core.errors.UnknownConfiguration` when there is no such configuration,
    :class:`~pgclone_admin.core.errors.ConfigurationError` for one, or a setting, of a wrong type,
    or whose hooks are not declared. Whether the database exists is not looked at.
    """
    name, configuration = _configuration(arguments.config or None, verb)

    def pick(option: str) -> Any:
        given = getattr(arguments, option, None)
        # An empty text is a variable of a script that is not set: -i "$INSTANCE".
        if given is None or given == "":
            given = configuration.get(option)
        return getattr(settings, option, None) if given is None else given

    changed = (
        arguments.exclude,
        arguments.pre_dump_hooks,
        arguments.pre_swap_hooks,
        arguments.hook_params or None,
    )
    picked = {option: pick(option) for option in CONFIGURATION_KEYS}
    # Some of the hooks may be named, as in the admin, which only knows what is declared.
    picked |= {option: _meant(option, picked[option]) for option in HOOK_LISTS}
    given_params = arguments.hook_params or {}
    picked["hook_params"] = {
        **settings.hook_params,
        **configuration.get("hook_params", {}),
        **given_params,
    }
    # Nobody is asked, and a configuration cannot allow what the settings of the site do not.
    picked["require_anonymized"] = settings.require_anonymized or picked["require_anonymized"]
    return Options(
        config=NO_CONFIGURATION if any(value is not None for value in changed) else name,
        given_params=tuple(given_params),
        **picked,
    )


def _meant(option: str, hooks: list[HookSpec]) -> list[HookSpec]:
    """Texts that are names of declared hooks as these hooks."""
    declared = declared_hooks(option)
    return [declared.meant(hook) for hook in hooks]


def declared_hooks(option: str) -> Declared:
    """The hooks that the settings declare under ``option``."""
    return Declared.of(hook_lists(option, stored=False))


def hook_lists(option: str, *, stored: bool) -> Iterator[list[HookSpec]]:
    """Every list of hooks that the settings have under ``option``; with ``stored`` those of the
    configurations in the database, too, which name only what the settings declare.

    A configuration that cannot be read has none: whoever uses it, and the system checks, are told.
    """
    yield getattr(settings, option)
    for configurations in (settings.configs, settings.dump_configs, settings.restore_configs):
        for name, configuration in configurations.items():
            with contextlib.suppress(ConfigurationError):
                yield checked(str(name), configuration).get(option, [])
    if stored:
        for hooks in Configuration.objects.values_list(option, flat=True):
            yield hooks or []


def configurations_of_settings() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and options of each configuration in the settings, also of those of 1.x."""
    for configurations in (settings.configs, settings.dump_configs, settings.restore_configs):
        for name, configuration in configurations.items():
            yield str(name), checked(str(name), configuration)


def configuration_names() -> list[str]:
    """Every configuration of the settings."""
    names = {*settings.configs, *settings.dump_configs, *settings.restore_configs}
    return sorted(str(name) for name in names)


def stored_configuration(name: str) -> list[Mapping[str, Any]] | None:
    """The configuration of the site's database with this name, if there is one.

    ``None`` when that database cannot be asked: it may be the very thing that is broken.
    """
    try:
        stored = Configuration.objects.filter(name=name).first()
    except DatabaseError as error:
        # Where the app was never migrated there is none; a column that is missing says nothing.
        return [] if isinstance(error.__cause__, errors.UndefinedTable) else None
    if stored is None:
        return []
    options: Mapping[str, Any] = stored.as_options()
    for option in HOOK_LISTS:
        declared = declared_hooks(option).hooks
        if others := [hook for hook in options.get(option, []) if hook not in declared]:
            raise ConfigurationError(
                f'the configuration "{name}" names hooks that the settings do not declare any '
                f"more: {', '.join(map(str, others))}",
                hint=f"Name them in PGCLONE_{option.upper()}, or edit the configuration.",
            )
    return [options]


def _configuration(name: str | None, verb: str) -> tuple[str, Mapping[str, Any]]:
    """The name for the dump key and the options of a configuration, in today's words."""
    version_1: Mapping[str, Any] = {}
    if verb == "dump":
        version_1 = settings.dump_configs
    elif verb == "restore":
        version_1 = settings.restore_configs
    if name is None:
        if VERSION_1_DEFAULT in version_1:
            return VERSION_1_DEFAULT, checked(VERSION_1_DEFAULT, version_1[VERSION_1_DEFAULT])
        return NO_CONFIGURATION, {}
    candidates: list[Mapping[str, Any]] = [settings.configs, version_1]
    found = [configurations[name] for configurations in candidates if name in configurations]
    if not found and name in configuration_names():
        # Of the other verb: it says nothing about this one.
        return name, {}
    stored = None if found else stored_configuration(name)
    found += stored or []
    if not found and stored is not None and name == VERSION_1_DEFAULT and verb:
        # Nobody defines it, and a dump is not called after what may mean something else tomorrow.
        return NO_CONFIGURATION, {}
    if not found:
        known = ", ".join(configuration_names()) or "none"
        unasked = ", whose database cannot be asked now" if stored is None else ""
        raise UnknownConfiguration(
            f'there is no configuration "{name}"',
            hint=f"Configured in the settings: {known}. Others are in the admin{unasked}.",
        )
    if len(found) > 1:
        raise ConfigurationError(
            f'the configuration "{name}" stands in PGCLONE_CONFIGS and in the settings of 1.x',
            hint="Remove one of them.",
        )
    return name, checked(name, found[0])


def checked(name: str, configuration: Any) -> Mapping[str, Any]:
    """The options of the configuration ``name`` in today's words, without those left empty.

    :class:`~pgclone_admin.core.errors.ConfigurationError` for a name that means none, and for an
    option that is not known, is given twice, or has the wrong type.
    """
    if name == NO_CONFIGURATION:
        raise ConfigurationError(
            f'no configuration can be called "{name}"',
            hint="It stands in the key of a dump that was made without one. Rename it.",
        )
    if not isinstance(configuration, Mapping):
        raise ConfigurationError(f'the configuration "{name}" is no mapping')
    options: dict[str, Any] = {}
    for key, value in configuration.items():
        option = VERSION_1_KEYS.get(str(key), str(key))
        kind = CONFIGURATION_KEYS.get(option)
        where = f'"{key}" of the configuration "{name}"'
        if kind is None:
            known = ", ".join(CONFIGURATION_KEYS)
            raise ConfigurationError(f"{where} is not known", hint=f"Known: {known}.")
        if option in options:
            raise ConfigurationError(f"{where} is given twice, under its old and its new name")
        if value is None or (kind is str and value == ""):
            continue
        if kind is not list and not isinstance(value, kind):
            expected = "a mapping" if kind is Mapping else f"of type {kind.__name__}"
            raise ConfigurationError(f"{where} has to be {expected}")
        if option in HOOK_LISTS:
            options[option] = [named_after(name, hook) for hook in as_hooks(value, where)]
        else:
            options[option] = as_list(value, where) if kind is list else value
    return options
