"""Which migrations a dump or a database has, beside those of this code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import psycopg2
from django.db.migrations.loader import MigrationLoader

from .core.catalog import applied_migrations, migrations_table
from .core.errors import PgcloneError
from .core.manifest import Manifest
from .core.marks import Database
from .core.server import Server

NAMED = 3
"""How many migrations a warning names."""

Migration = tuple[str, str]
"""Its app and its name, as Django records it."""


@dataclass(frozen=True)
class MigrationState:
    """``app.name`` of each migration, sorted."""

    missing: list[str] | None
    """Those of this code that are not applied; ``None`` where this code cannot tell: its graph does
    not hold together, which is for the hook "migrate" to tell."""
    unknown: list[str]
    """Those that are applied, and that this code does not have."""
    problem: str = ""
    """Why the migrations of this code cannot be read."""

    @classmethod
    def of(cls, applied: Collection[Migration]) -> MigrationState:
        applied = set(applied)
        loader = MigrationLoader(None, load=False)
        try:
            loader.load_disk()
        except Exception as error:  # noqa: BLE001 - a restore may be what mends the site
            return cls(None, [], type(error).__name__)
        return cls(_missing(applied), _named(applied - set(loader.disk_migrations)))

    def warnings(self, what: str, *, migrates: bool) -> list[str]:
        """What a person should know before it is restored; stops nothing.

        ``what`` has these migrations; ``migrates`` is whether the hook ``migrate`` will run.
        """
        if self.problem:
            return [f"the migrations of this code cannot be read ({self.problem})"]
        told = []
        if self.missing and not migrates:
            of_this_code = _counted(self.missing, "migration") + " of this code"
            told.append(
                f"{of_this_code} {'is' if len(self.missing) == 1 else 'are'} not in it, and the "
                "hook migrate is not chosen: this code may not work with it"
            )
        if self.unknown:
            names = ", ".join(self.unknown[:NAMED]) + (", ..." if len(self.unknown) > NAMED else "")
            told.append(
                f"{what} has {_counted(self.unknown, 'migration')} that this code does not know "
                f"({names}): it was made by newer or other code, which this one may not work with"
            )
        return told


def check_migrations(manifest: Manifest, *, kept_apps: Collection[str] = ()) -> list[str]:
    """What a person should know of those of a dump, whichever hooks run on it.

    Those of ``kept_apps`` are not restored: they stay as they are in the live database.
    """
    applied = [(app, name) for app, name in manifest.migrations or () if app not in kept_apps]
    state = MigrationState.of(applied)
    return state.warnings("the dump", migrates=True)


def _missing(applied: set[Migration]) -> list[str] | None:
    try:
        loader = MigrationLoader(None)
    except Exception:  # noqa: BLE001 - as above
        return None
    nodes = [node for node in loader.graph.nodes if node not in applied]
    return _named([node for node in nodes if not _is_replaced(loader, node, applied)])


def _is_replaced(loader: MigrationLoader, node: Migration, applied: set[Migration]) -> bool:
    """Whether a squashed migration is applied by what it replaces."""
    replaces = loader.disk_migrations[node].replaces
    return bool(replaces) and applied.issuperset(replaces)


def _named(migrations: Collection[Migration]) -> list[str]:
    return [".".join(migration) for migration in sorted(migrations)]


def _counted(names: Collection[str], noun: str) -> str:
    return f"{len(names)} {noun}" if len(names) == 1 else f"{len(names)} {noun}s"


def applied_in(server: Server, database: Database) -> Collection[Migration] | None:
    """What Django has written down in a database of this server; ``None`` where it has not, or
    where this role may not look."""
    role = server.role_to_take(database.owner)
    access = server.params.with_dbname(database.name).with_role(role)
    try:
        with access.session() as connection, connection.cursor() as cursor:
            table = migrations_table(cursor)
            return None if table is None else applied_migrations(cursor, table)
    except (PgcloneError, psycopg2.Error):
        return None
