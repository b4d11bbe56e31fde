"""System checks: what is wrong with the settings, before it matters."""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections
from pgconnection.core import _Databases

from .core.errors import PgcloneError
from .hooks import load_hooks
from .options import Arguments, configuration_names, resolve
from .routing import SharedDatabases
from .settings import VERSION_1_HOOK_SETTINGS, Settings, settings


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


@register(Tags.database)
def check_routing(**_kwargs: Any) -> list[CheckMessage]:
    databases = connections.databases
    if not isinstance(databases, _Databases):
        return []
    messages: list[CheckMessage] = []
    if not isinstance(databases, SharedDatabases):
        messages.append(
            Error(
                "DATABASES is configured by django-pgconnection itself, which works in the first "
                "thread only",
                hint="Write DATABASES = pgclone_admin.routing.configure({...}) instead.",
                id="pgclone_admin.E001",
            )
        )
    # Imported late: on a site without psycopg the import itself would fail.
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415

    if is_psycopg3:
        messages.append(
            Error(
                "django-pgconnection cannot work with psycopg 3, which Django uses here",
                hint="Write DATABASES = pgclone_admin.routing.configure({...}), which does without "
                "it then, or uninstall psycopg.",
                id="pgclone_admin.E002",
            )
        )
    return messages


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Every setting can be read, every configuration too, and every hook in them exists."""
    messages: list[CheckMessage] = []
    for name, attribute in vars(Settings).items():
        if isinstance(attribute, property):
            _collect(messages, lambda name=name: getattr(settings, name), "pgclone_admin.E003")
    if messages:
        return messages
    for config in [None, *configuration_names()]:
        for verb in ("dump", "restore"):
            _collect(messages, lambda c=config, v=verb: _load(c, v), "pgclone_admin.E004")
    return messages


def _load(config: str | None, verb: str) -> None:
    options = resolve(Arguments(config=config), verb=verb)
    load_hooks(options.pre_dump_hooks if verb == "dump" else options.pre_swap_hooks)


def _collect(messages: list[CheckMessage], look: Any, identifier: str) -> None:
    try:
        look()
    except PgcloneError as error:
        message = Error(error.message, hint=error.hint, id=identifier)
        if message not in messages:
            messages.append(message)
