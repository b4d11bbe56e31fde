"""System checks: what is wrong with the settings, before it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError, connections, router
from django.db.models import DurationField, ExpressionWrapper, F, Max
from pgconnection.core import _Databases

from .core.errors import PgcloneError
from .core.programs import choose_program
from .core.server import Server
from .databases import maintenance_params
from .hooks import HookSpec, Stage, load_hooks
from .hooks.anonymize import unanonymized_fields
from .hooks.anonymizing import AnonymizeHook
from .hooks.spec import by_name
from .models import Dump, RestoreRun
from .options import HOOK_LISTS, Arguments, configuration_names, hook_lists, resolve
from .routing import SharedDatabases, connects_again
from .services.anonymity import require_anonymizing
from .settings import VERSION_1_HOOK_SETTINGS, Settings, cluster_settings, settings
from .store import DumpStore


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
    for option in HOOK_LISTS:
        _collect(
            messages,
            lambda option=option: by_name(hook_lists(option, stored=False)),
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
        specs = by_name(hook_lists("pre_swap_hooks", stored=False))
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


USUAL_RETRY = 60
"""Seconds; what django-q2 takes where Q_CLUSTER says nothing."""


@register()
def check_queue(**_kwargs: Any) -> list[CheckMessage]:
    """The queue delivers a run once, lets it finish, and does not end it without our knowledge."""
    if not apps.is_installed("django_q"):
        if not apps.is_installed("django.contrib.admin"):
            return []  # there is the command line, which needs no queue
        return [
            checks.Warning(
                "nothing that is asked for in the admin can be done: django-q2 is not installed",
                hint='Write "django_q" in INSTALLED_APPS, and run: manage.py qcluster',
                id="pgclone_admin.W004",
            )
        ]
    cluster = cluster_settings()
    if cluster.get("sync"):
        return []
    return [*_check_times(cluster), *_check_attempts(cluster)]


def _check_times(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    timeout, retry = cluster.get("timeout"), cluster.get("retry", USUAL_RETRY)
    try:
        longest = settings.run_timeout
    except PgcloneError:
        longest = None  # told by check_settings
    if not timeout:
        yield checks.Warning(
            "Q_CLUSTER has no timeout: a run that hangs keeps its worker for ever",
            hint='Write "timeout" in Q_CLUSTER: more seconds than the longest restore takes; and '
            '"retry" above it.',
            id="pgclone_admin.W005",
        )
    elif retry <= timeout:
        yield Error(
            f"retry of Q_CLUSTER ({retry} s) is not larger than its timeout ({timeout} s): tasks "
            "that are at work are delivered again",
            hint=f'Write "retry": {timeout + USUAL_RETRY} in Q_CLUSTER.',
            id="pgclone_admin.E006",
        )
    if longest is not None and timeout and longest >= timeout:
        yield Error(
            f"PGCLONE_RUN_TIMEOUT ({longest} s) is not smaller than the timeout of Q_CLUSTER "
            f"({timeout} s): django-q2 kills a run before it can clean up",
            hint=f'Write "timeout": {longest + 30} in Q_CLUSTER, and "retry" above it.',
            id="pgclone_admin.E007",
        )
    elif longest is not None and (timeout or 0) < retry <= longest:
        yield Error(
            f"retry of Q_CLUSTER ({retry} s) is not larger than what a run may take ({longest} s)",
            hint=f'Write "retry": {longest + USUAL_RETRY} in Q_CLUSTER.',
            id="pgclone_admin.E008",
        )


def _check_attempts(cluster: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if not cluster.get("ack_failures"):
        yield checks.Warning(
            "tasks that fail are delivered again and again: ack_failures of Q_CLUSTER is not True",
            hint='Write "ack_failures": True in Q_CLUSTER.',
            id="pgclone_admin.W006",
        )
    if cluster.get("max_attempts", 0) != 1:
        yield checks.Warning(
            "a task that its worker did not survive is tried again: max_attempts of Q_CLUSTER is "
            "not 1",
            hint='Write "max_attempts": 1 in Q_CLUSTER.',
            id="pgclone_admin.W007",
        )


@register(Tags.database, deploy=True)
def check_server(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: client programs, and the rights of the role.

    Not with ``migrate``, which looks at databases too: what only dumps need is not to stop it.
    """
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if connections[alias].vendor != "postgresql":
            continue
        try:
            with Server.connected(maintenance_params(alias)) as server:
                messages += _check_programs(server)
                if server.role()[1]:
                    messages.append(
                        checks.Warning(
                            f'the database "{alias}" is used as a superuser: what a dump holds is '
                            "run with all rights",
                            hint="Use a role that owns the database and has CREATEDB.",
                            id="pgclone_admin.W008",
                        )
                    )
        except PgcloneError as error:
            messages.append(_message(error, "pgclone_admin.E009"))
    return messages


def _check_programs(server: Server) -> Iterator[CheckMessage]:
    for name in ("pg_dump", "pg_restore"):
        try:
            choose_program(name, server_major=server.major, directories=settings.bin_dirs)
        except PgcloneError as error:
            yield _message(error, "pgclone_admin.E010")


@register(Tags.database, deploy=True)
def check_storage(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: the storage location can be written, listed and read."""
    if not databases:
        return []
    try:
        store = DumpStore(settings.storage_location)
        if settings.allow_dump:
            store.prove()
    except PgcloneError as error:
        return [_message(error, "pgclone_admin.E011")]
    return []


@register(Tags.database, deploy=True)
def check_longest_run(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """With ``check --deploy --database``: no run has taken longer than tasks are left alone for."""
    retry = cluster_settings().get("retry", USUAL_RETRY)
    took = ExpressionWrapper(F("finished_at") - F("started_at"), output_field=DurationField())
    longest = 0.0
    for model in (Dump, RestoreRun):
        if router.db_for_read(model) not in (databases or ()):
            continue
        try:
            found = model._base_manager.aggregate(longest=Max(took))["longest"]
        except DatabaseError:
            continue  # the tables are not there yet
        longest = max(longest, found.total_seconds() if found else 0.0)
    if longest < retry:
        return []
    return [
        checks.Warning(
            f"a run has taken {longest:.0f} s, and tasks are delivered again after {retry} s "
            "(retry of Q_CLUSTER)",
            hint=f'Write "retry": {round(2 * longest) + USUAL_RETRY} in Q_CLUSTER, and "timeout" '
            "below it.",
            id="pgclone_admin.W009",
        )
    ]


def _message(error: PgcloneError, identifier: str) -> CheckMessage:
    return Error(error.message, hint=error.hint, id=identifier)


def _load(config: str | None, verb: str) -> None:
    options = resolve(Arguments(config=config), verb=verb)
    if verb == "dump":
        load_hooks(options.pre_dump_hooks, stage=Stage.PRE_DUMP, params=options.hook_params)
        return
    hooks = load_hooks(options.pre_swap_hooks, params=options.hook_params)
    load_hooks(options.post_swap_hooks, stage=Stage.POST_SWAP, params=options.hook_params)
    if options.require_anonymized:
        require_anonymizing(hooks)


def _collect(messages: list[CheckMessage], look: Any, identifier: str) -> None:
    try:
        look()
    except PgcloneError as error:
        message = Error(error.message, hint=error.hint, id=identifier)
        if message not in messages:
            messages.append(message)
