"""System checks: what is wrong with the settings, before it matters."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import connections
from pgconnection.core import _Databases

from .core.errors import PgcloneError
from .hooks import load_hooks
from .options import Arguments, configuration_names, resolve
from .routing import SharedDatabases, connects_again
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
    if not _uses_psycopg2():
        messages.append(
            Error(
                "django-pgconnection cannot work with psycopg 3, which Django uses here",
                hint="Write DATABASES = pgclone_admin.routing.configure({...}), which does without "
                "it then, or uninstall psycopg.",
                id="pgclone_admin.E002",
            )
        )
    return messages


@register(Tags.database)
def check_connecting(**_kwargs: Any) -> list[CheckMessage]:
    """What connects during a swap succeeds.

    With psycopg 3 nothing is said: it lets nobody see a connection that failed.
    """
    databases = connections.databases
    is_ours = isinstance(databases, SharedDatabases)
    is_an_error = isinstance(databases, _Databases) and not is_ours
    if is_an_error or not _uses_psycopg2():
        return []
    impatient = [
        alias for alias, found in _restored().items() if not connects_again(found["OPTIONS"])
    ]
    if not impatient:
        return []
    return [
        checks.Warning(
            "what connects to a database while a restore is swapped in can fail once: "
            + ", ".join(impatient),
            hint='Write "connection_factory": pgclone_admin.routing.connect_again in its OPTIONS.'
            if is_ours
            else "Write DATABASES = pgclone_admin.routing.configure({...}).",
            id="pgclone_admin.W002",
        )
    ]


@register(Tags.database)
def check_kept_connections(**_kwargs: Any) -> list[CheckMessage]:
    """Connections that a swap has ended are noticed before they are used again."""
    return [
        checks.Warning(
            f'connections of the database "{alias}" are kept without being checked: after a '
            "restore each of them fails once",
            hint=f'Write "CONN_HEALTH_CHECKS": True in DATABASES["{alias}"].',
            id="pgclone_admin.W003",
        )
        for alias, found in _restored().items()
        if (found["CONN_MAX_AGE"] != 0 or found["OPTIONS"].get("pool"))
        and not found["CONN_HEALTH_CHECKS"]
    ]


def _restored() -> dict[str, dict[str, Any]]:
    """The settings of the databases that a restore may replace."""
    try:
        if not settings.allow_restore:
            return {}
    except PgcloneError:
        pass  # that it cannot be read is told by check_settings
    return {
        alias: connections[alias].settings_dict
        for alias in connections
        if connections[alias].vendor == "postgresql"
    }


def _uses_psycopg2() -> bool:
    # Imported late: on a site without psycopg the import itself would fail.
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415

    return not is_psycopg3


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
    options = resolve(Arguments(config=config), verb=verb)
    load_hooks(options.pre_dump_hooks if verb == "dump" else options.pre_swap_hooks)


def _collect(messages: list[CheckMessage], look: Any, identifier: str) -> None:
    try:
        look()
    except PgcloneError as error:
        message = Error(error.message, hint=error.hint, id=identifier)
        if message not in messages:
            messages.append(message)
