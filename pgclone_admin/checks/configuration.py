"""System checks of the settings of this app, and of what they say about models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register

from ..core.errors import PgcloneError
from ..databases import require_alias
from ..hooks import HookSpec, Stage, load_hooks
from ..hooks.anonymize import unanonymized_fields
from ..hooks.anonymizing import AnonymizeHook
from ..options import HOOK_LISTS, Arguments, configuration_names, declared_hooks, resolve
from ..services.anonymity import require_anonymizing
from ..services.dumps import excluded_models
from ..settings import VERSION_1_HOOK_SETTINGS, Settings, settings


@register(Tags.compatibility)
def check_old_setting_names(**_kwargs: Any) -> list[CheckMessage]:
    return [
        checks.Warning(
            f"the setting {old} is read as {new}",
            hint=f"Rename it to {new}.",
            id="pgclone_admin.W001",
        )
        for new, old in VERSION_1_HOOK_SETTINGS.items()
        if getattr(django_settings, old, None) is not None
    ]


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Every setting can be read, every configuration too, and what they name exists: databases,
    models and hooks."""
    messages: list[CheckMessage] = []
    for name, attribute in vars(Settings).items():
        if isinstance(attribute, property):
            _collect(messages, lambda name=name: getattr(settings, name), "pgclone_admin.E003")
    if messages:
        return messages
    _collect(messages, lambda: require_alias(settings.database), "pgclone_admin.E003")
    _collect(messages, lambda: excluded_models(settings.exclude), "pgclone_admin.E003")
    if messages:
        return messages
    for option in HOOK_LISTS:
        _collect(
            messages,
            lambda option=option: declared_hooks(option).check(),
            "pgclone_admin.E004",
        )
    for config in [None, *configuration_names()]:
        for verb in ("dump", "restore"):
            _collect(messages, lambda c=config, v=verb: _load(c, v), "pgclone_admin.E004")
    return messages


@register(Tags.models)
def check_anonymizing(**_kwargs: Any) -> list[CheckMessage]:
    """Somebody has looked at each field that seems to be personal."""
    messages: list[CheckMessage] = []
    try:
        specs = declared_hooks("pre_swap_hooks").hooks
        hooks = {name: load_hooks([spec])[0] for name, spec in specs.items() if _anonymizes(spec)}
        kept = settings.keep_apps
    except PgcloneError:
        return []  # told by check_settings
    for name, hook in hooks.items():
        assert isinstance(hook, AnonymizeHook)
        forgotten = [
            field
            for field in unanonymized_fields(hook.anonymization)
            if field.partition(".")[0] not in kept
        ]
        if forgotten:
            messages.append(
                checks.Warning(
                    f'the hook "{name}" says nothing of fields that seem to be personal: '
                    + ", ".join(forgotten),
                    hint='Give each of them a rule; "keep" when it may stay as it is.',
                    id="pgclone_admin.W010",
                )
            )
    return messages


def _anonymizes(spec: HookSpec) -> bool:
    return isinstance(spec, Mapping) and "anonymize" in spec


@register(Tags.models)
def check_kept_apps(**_kwargs: Any) -> list[CheckMessage]:
    """No relation leads from a kept table to another one, or back."""
    try:
        kept = set(settings.keep_apps)
    except PgcloneError:
        return []  # told by check_settings
    messages: list[CheckMessage] = []
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.local_fields if model._meta.managed else ():
            target = field.related_model
            if not isinstance(target, type) or not getattr(field, "db_constraint", False):
                continue
            ends = {model._meta.app_label, target._meta.app_label}
            if ends & kept and not ends <= kept:
                messages.append(
                    Error(
                        f"{field} leads from a kept table to another one, or from another one to "
                        "a kept one",
                        hint="A restore replaces one and keeps the other. Take the app out of "
                        "PGCLONE_KEEP_APPS, add the other one, or use db_constraint=False.",
                        obj=model,
                        id="pgclone_admin.E005",
                    )
                )
    return messages


def _load(config: str | None, verb: str) -> None:
    """Values of parameters that are not there yet are given by who asks for a run."""
    options = resolve(Arguments(config=config), verb=verb)
    require_alias(options.database)
    load = partial(load_hooks, params=options.hook_params, for_a_look=True)
    if verb == "dump":
        excluded_models(options.exclude)
        load(options.pre_dump_hooks, stage=Stage.PRE_DUMP)
        return
    hooks = load(options.pre_swap_hooks)
    load(options.post_swap_hooks, stage=Stage.POST_SWAP)
    if options.require_anonymized:
        require_anonymizing(hooks)


def _collect(messages: list[CheckMessage], look: Any, identifier: str) -> None:
    try:
        look()
    except PgcloneError as error:
        message = Error(error.message, hint=error.hint, id=identifier)
        if message not in messages:
            messages.append(message)
