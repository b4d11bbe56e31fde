"""Who can still log in after a restore; and accounts of the site that are carried across it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management.color import no_style
from django.db import DatabaseError, connections, router, transaction

from ..core.errors import HookFailed, PgcloneError
from ..core.progress import Reporter
from ..databases import live_name
from ..routing import route
from ..settings import settings
from ..site_settings import session_engine
from .actors import RESTORE, WATCH, is_superuser

MOST_CHOICES = 200
"""Accounts that a page offers; nobody wants to read more of them."""

FLAGS = ("password", "is_active", "is_staff", "is_superuser")
"""What an account that is there already takes over from the one that is carried."""

STORED_SESSIONS = (
    "django.contrib.sessions.backends.db",
    "django.contrib.sessions.backends.cached_db",
)


class Stay(Enum):
    """Whether somebody is still logged in after a restore."""

    YES = "yes"
    MAYBE = "maybe"
    NO = "no"


@dataclass(frozen=True)
class Outlook:
    """What a restore means for the person who asks for it."""

    stay: Stay
    text: str


# -- before


def has_accounts(alias: str) -> bool:
    """Whether a restore of the database ``alias`` replaces the accounts of the site."""
    try:
        people = get_user_model()
    except ImproperlyConfigured:
        return False
    if people._meta.app_label in settings.keep_apps:
        return False
    mine = connections[router.db_for_write(people)].settings_dict
    theirs = connections[alias].settings_dict
    return all(str(mine[key]) == str(theirs[key]) for key in ("HOST", "PORT", "NAME"))


@dataclass(frozen=True)
class Staff:
    """Usernames of active staff, who can be carried over."""

    offered: list[str]
    has_others: bool
    """Whether there are more than a page offers."""


def staff_of(alias: str, asking: str) -> Staff:
    """The staff of the live database: who asks first, if they are among them, then by name."""
    if (staff := _staff(alias)) is None:
        return Staff([], has_others=False)
    name = get_user_model().USERNAME_FIELD
    first = [asking] if staff.filter(**{name: asking}).exists() else []
    others = staff.exclude(**{name: asking}).order_by(name).values_list(name, flat=True)
    names = first + [str(other) for other in others[: MOST_CHOICES + 1]]
    return Staff(names[:MOST_CHOICES], has_others=len(names) > MOST_CHOICES)


def staff_among(alias: str, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that are usernames of active staff of the live database."""
    if (staff := _staff(alias)) is None:
        return set()
    name = get_user_model().USERNAME_FIELD
    found = staff.filter(**{f"{name}__in": list(names)}).values_list(name, flat=True)
    return {str(each) for each in found}


def _staff(alias: str) -> Any:
    """The rows, or ``None`` where a restore replaces no accounts, or none that are staff."""
    people = get_user_model()
    if not has_accounts(alias) or not {"is_staff", "is_active"} <= _fields(people):
        return None
    return _rows(people, alias).filter(is_staff=True, is_active=True)


def outlook_of_dump(
    user: Any, alias: str, manifest: Mapping[str, Any] | None, taken_at: datetime | None
) -> Outlook:
    """What the manifest tells; which accounts a dump has is known once it is restored."""
    if (outlook := _without_looking(alias)) is not None:
        return outlook
    if manifest is None or manifest.get("origin") != "pgclone":
        return Outlook(
            Stay.MAYBE,
            "Which accounts the dump holds is not known before it is restored: "
            "you may be logged out.",
        )
    here = (settings.instance, alias, live_name(alias))
    there = tuple(manifest.get(key) for key in ("instance", "database", "source_database"))
    if here != there:
        return Outlook(
            Stay.MAYBE,
            "The dump was taken from another site or database. If it does not hold your account "
            "with the same number and name, you will be logged out.",
        )
    joined = getattr(user, "date_joined", None)
    if joined is not None and taken_at is not None and joined > taken_at:
        return Outlook(
            Stay.NO,
            "Your account is younger than the dump and is not in it: you will be logged out, and "
            "cannot log in again unless it is carried over.",
        )
    return Outlook(
        # What others were allowed is in the dump, and can have been given to them later.
        Stay.YES if is_superuser(user) else Stay.MAYBE,
        "The dump was taken from this database when your account was in it. You stay logged in, "
        "unless your name or password has been changed since. Your permissions will be those of "
        "then: without them you can neither watch nor undo it.",
    )


def outlook_of_local(user: Any, alias: str, database: str) -> Outlook:
    """What the accounts in a database of the same server say."""
    if (outlook := _without_looking(alias)) is not None:
        return outlook
    people = get_user_model()
    allowed = [each for each in (RESTORE, WATCH) if user.has_perm(each)]
    try:
        with route(alias, database):
            there = _rows(people, alias).filter(pk=user.pk).first()
            return _compared(user, there, allowed)
    except (DatabaseError, PgcloneError):
        return Outlook(
            Stay.MAYBE,
            f'The accounts in the database "{database}" cannot be read: you may be logged out.',
        )


def _without_looking(alias: str) -> Outlook | None:
    if not has_accounts(alias):
        return Outlook(Stay.YES, "The accounts of the site are not replaced: you stay logged in.")
    if session_engine() in STORED_SESSIONS and "sessions" not in settings.keep_apps:
        return Outlook(
            Stay.NO,
            "Sessions are not kept here (PGCLONE_KEEP_APPS): everybody will be logged out.",
        )
    return None


def _compared(user: Any, there: Any, allowed: Sequence[str]) -> Outlook:
    if there is None or there.get_username() != user.get_username():
        return Outlook(
            Stay.NO, "Your account is not there with the same number and name: you are logged out."
        )
    if not there.is_active:
        return Outlook(Stay.NO, "Your account is not active there: you will be logged out.")
    if there.password != user.password:
        return Outlook(
            Stay.NO,
            "Your password was another one then: you will be logged out, and log in with it.",
        )
    if not getattr(there, "is_staff", True) or not all(map(there.has_perm, allowed)):
        return Outlook(
            Stay.MAYBE,
            "You stay logged in, but there you do not have the permission to watch or undo it.",
        )
    return Outlook(Stay.YES, "Your account is there, with the same password: you stay logged in.")


# -- on the temporary database


@dataclass(frozen=True)
class Account:
    """One account of the live database; permissions and groups by their names."""

    name: str
    values: Mapping[str, Any]
    permissions: Sequence[tuple[str, str, str]]
    """App, model and codename."""
    groups: Sequence[str]


def carry_accounts(usernames: Iterable[str], *, alias: str, name: str, reporter: Reporter) -> None:
    """Writes accounts of the live database ``alias`` into the database ``name``, in one
    transaction.

    An account with the name takes over password, flags, permissions and groups; else it is made,
    with its number where that is free. :class:`HookFailed` for one that cannot be carried. No
    signal is sent. Permissions and groups that are not there are told and left out.
    """
    accounts = list(_read(usernames, alias, reporter))
    if not accounts:
        return
    with route(alias, name), transaction.atomic(using=alias):
        for account in accounts:
            try:
                with transaction.atomic(using=alias):
                    _write(account, alias, reporter)
            except (DatabaseError, ValueError, TypeError) as error:
                # The text of the error would hold what is in the row.
                raise HookFailed(
                    f'the account "{account.name}" cannot be carried over: {type(error).__name__}',
                    hint="Restore without it, and make it afterwards.",
                ) from error


def _read(usernames: Iterable[str], alias: str, reporter: Reporter) -> Iterable[Account]:
    people = get_user_model()
    for username in usernames:
        user: Any = _rows(people, alias).filter(**{people.USERNAME_FIELD: username}).first()
        if user is None:
            reporter.warn(f'the account "{username}" is not there any more and is not carried over')
            continue
        permissions, groups = [], []
        if {"user_permissions", "groups"} <= _fields(people):
            permissions = list(
                user.user_permissions.values_list(
                    "content_type__app_label", "content_type__model", "codename"
                )
            )
            groups = list(user.groups.values_list("name", flat=True))
        values = {f.attname: getattr(user, f.attname) for f in people._meta.concrete_fields}
        yield Account(username, values, permissions, groups)


def _write(account: Account, alias: str, reporter: Reporter) -> None:
    people: Any = get_user_model()
    rows = _rows(people, alias)
    found: Any = rows.filter(**{people.USERNAME_FIELD: account.name}).first()
    if found is None:
        found = _make(account, people, alias)
        what = "made"
    else:
        flags = {name: account.values[name] for name in FLAGS if name in account.values}
        rows.filter(pk=found.pk).update(**flags)
        what = "was there and has its password and rights of now"
    told = f'account "{account.name}": {what}'
    if found.pk != account.values[people._meta.pk.attname]:
        told += "; it has another number and has to log in again"
    reporter.note(told)
    if {"user_permissions", "groups"} <= _fields(people):
        missing = _give(found, account, alias)
        if missing:
            reporter.warn(f'not there for the account "{account.name}": {", ".join(missing)}')


def _make(account: Account, people: Any, alias: str) -> Any:
    values = dict(account.values)
    for field in people._meta.concrete_fields:
        if field.is_relation and values[field.attname] is not None:
            # What it pointed at is another row there, or none.
            if not field.null:
                raise HookFailed(
                    f'the account "{account.name}" cannot be carried over: it needs its '
                    f'"{field.name}"',
                    hint="Restore without it, and make it afterwards.",
                )
            values[field.attname] = None
    key = people._meta.pk
    if _rows(people, alias).filter(pk=values[key.attname]).exists():
        values[key.attname] = key.get_default()
    [made] = _rows(people, alias).bulk_create([people(**values)])
    connection = connections[alias]
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), [people]):
            cursor.execute(statement)
    return made


def _give(user: Any, account: Account, alias: str) -> list[str]:
    """Sets permissions and groups; returns those that do not exist."""
    missing: list[str] = []
    permissions: list[Any] = []
    groups: list[Any] = []
    for app, model, codename in account.permissions:
        found = _rows(user.user_permissions.model, alias).filter(
            content_type__app_label=app, content_type__model=model, codename=codename
        )
        permissions += found
        missing += [] if found else [f"permission {app}.{codename}"]
    for name in account.groups:
        group = _rows(user.groups.model, alias).filter(name=name)
        groups += group
        missing += [] if group else [f"group {name}"]
    user.user_permissions.set(permissions)
    user.groups.set(groups)
    return missing


def _rows(people: Any, alias: str) -> Any:
    return people._base_manager.using(alias)


def _fields(people: Any) -> set[str]:
    return {field.name for field in people._meta.get_fields()}
