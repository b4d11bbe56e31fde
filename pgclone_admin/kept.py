"""Which tables of a site are kept: those of the apps in PGCLONE_KEEP_APPS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.models import Model
from psycopg2 import sql

from .core.between import pipe
from .core.catalog import MIGRATIONS
from .core.connection import one_row
from .core.kept import Keeping, KeptName
from .core.names import TableName
from .databases import site_tables
from .settings import settings
from .site_settings import session_engine

SESSIONS = "sessions"


def keeping(alias: str) -> Keeping:
    """What a restore of the database ``alias`` leaves as it is."""
    models = list(kept_models(alias))
    if not models:
        return Keeping()
    people = _people()
    asked = [model._meta.db_table for model in models]
    if people is not None:
        asked.append(people.table)
    quote = connections[alias].ops.quote_name
    meant = site_tables(alias, [*map(quote, asked), MIGRATIONS])
    # What is not there yet, the site has still to migrate to.
    there = {
        model: meant[name] for model in models if (name := quote(model._meta.db_table)) in meant
    }
    if people is not None:
        people = replace(people, found=meant.get(quote(people.table)))
    return Keeping(
        tables=[_kept_name(model, table, people) for model, table in there.items()],
        apps=settings.keep_apps,
        migrations=meant.get(MIGRATIONS),
    )


def kept_names(alias: str) -> list[str]:
    """The tables of :func:`kept_models`, quoted as Django quotes them."""
    quote = connections[alias].ops.quote_name
    return [quote(model._meta.db_table) for model in kept_models(alias)]


def kept_models(alias: str) -> Iterator[type[Model]]:
    """The models with a table of their own that the database ``alias`` has, by its routers."""
    for label in settings.keep_apps:
        for model in apps.get_app_config(label).get_models(include_auto_created=True):
            options = model._meta
            if options.managed and not options.proxy and router.allow_migrate_model(alias, model):
                yield model


def _kept_name(model: type[Model], table: TableName, people: People | None) -> KeptName:
    if model._meta.label_lower != "sessions.session":
        return KeptName(table=table)
    # One moment for the whole run: what has expired meanwhile is harmless.
    now = datetime.now(UTC).isoformat()
    condition = f"expire_date > timestamptz '{now}'"
    return KeptName(table=table, condition=condition, rule=SessionRule(people))


@dataclass(frozen=True)
class People:
    """Who can be logged in: the table of the users, and its columns with their number and name."""

    table: str
    id: str
    name: str
    found: TableName | None = None
    """The table as the live database has it; ``None`` where it has none."""


def _people() -> People | None:
    """``None`` when the site has no users."""
    try:
        users = get_user_model()
    except ImproperlyConfigured:
        return None
    name = users._meta.get_field(users.USERNAME_FIELD)
    # Of a model that inherits its name, the table that has it.
    options = name.model._meta
    return People(options.db_table, _column(options.pk), _column(name))


class SessionRule:
    """Leaves sessions behind whose user is not the same person in the restored database.

    A session names its user by number, and the number may be somebody else's there.
    """

    columns: Sequence[str] = ("session_data",)

    def __init__(self, people: People | None) -> None:
        self._people = people
        found = None if people is None else people.found
        self.reads: Sequence[TableName] = [] if found is None else [found]
        self._ids: frozenset[str] = frozenset()
        self._ids_stay_behind = True

    def prepare(self, live: Any, temporary: Any) -> bool:
        """Finds the people whom only one of the databases has."""
        people = self._people
        if people is None or people.found is None:
            return False
        table, columns = people.found, [people.id, people.name]
        if not _has_columns(live, table, columns):
            return False
        if not _has_columns(temporary, table, columns):
            # Nobody is there whom the site would know.
            self._ids, self._ids_stay_behind = frozenset(), False
            return True
        names = {
            "people": sql.Identifier(table.schema, table.name),
            "id": sql.Identifier(people.id),
            "name": sql.Identifier(people.name),
        }
        temporary.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE pgclone_people ON COMMIT DROP AS"
                " SELECT {id} AS id, {name} AS name FROM {people} LIMIT 0"
            ).format(**names)
        )
        pipe(
            live,
            sql.SQL("COPY (SELECT {id}, {name} FROM {people}) TO STDOUT").format(**names),
            temporary,
            sql.SQL("COPY pg_temp.pgclone_people FROM STDIN"),
        )
        temporary.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE pgclone_same ON COMMIT DROP AS"
                " SELECT DISTINCT coalesce(here.{id}::text, there.id::text) AS id,"
                " here.{id} IS NOT NULL AND there.id IS NOT NULL AS same FROM {people} AS here"
                " FULL JOIN pg_temp.pgclone_people AS there"
                " ON there.id = here.{id} AND there.name = here.{name}"
            ).format(**names)
        )
        temporary.execute("SELECT count(*) FILTER (WHERE same), count(*) FROM pg_temp.pgclone_same")
        same, total = (int(count) for count in one_row(temporary))
        # The smaller half is remembered: of a large site there may be millions in the other one.
        self._ids_stay_behind = total - same <= same
        temporary.execute(
            "SELECT id FROM pg_temp.pgclone_same WHERE same = %s", [not self._ids_stay_behind]
        )
        self._ids = frozenset(row[0] for row in temporary.fetchall())
        temporary.execute("DROP TABLE pg_temp.pgclone_people, pg_temp.pgclone_same")
        return same < total

    def is_left_behind(self, values: Sequence[Any]) -> bool:
        session = _store().decode(values[0])
        user = session.get(SESSION_KEY)
        return user is not None and (str(user) in self._ids) is self._ids_stay_behind


def _column(field: Any) -> str:
    return str(field.column)


def _has_columns(cursor: Any, table: TableName, columns: Sequence[str]) -> bool:
    cursor.execute(
        "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s"
        " AND attname = ANY(%s) AND attnum > 0 AND NOT attisdropped",
        [table.schema, table.name, columns],
    )
    return bool(one_row(cursor)[0] == len(columns))


def _store() -> Any:
    return import_module(session_engine()).SessionStore()
