"""The migrations that a dump has, beside those of this code."""

from __future__ import annotations

from django.db.migrations.loader import MigrationLoader

from .core.manifest import Manifest

NAMED = 3
"""How many migrations a warning names."""

Migration = tuple[str, str]
"""Its app and its name, as Django records it."""


def migrations_to_run(manifest: Manifest) -> list[str] | None:
    """Migrations of this code that the dump lacks; ``None`` when its manifest names none at all."""
    if manifest.migrations is None:
        return None
    applied = set(manifest.migrations)
    loader = MigrationLoader(None)
    return [
        ".".join(node)
        for node in sorted(loader.graph.nodes)
        if node not in applied and not _is_replaced(loader, node, applied)
    ]


def _is_replaced(loader: MigrationLoader, node: Migration, applied: set[Migration]) -> bool:
    """Whether a squashed migration is applied by what it replaces."""
    replaces = loader.disk_migrations[node].replaces
    return bool(replaces) and applied.issuperset(replaces)


def unknown_migrations(manifest: Manifest) -> list[str]:
    """Migrations of the dump that this code does not have."""
    # A graph that does not hold together is for the hook "migrate" to tell.
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    unknown = set(manifest.migrations or ()) - set(loader.disk_migrations)
    return [".".join(migration) for migration in sorted(unknown)]


def check_migrations(manifest: Manifest) -> list[str]:
    """What a person should know before the dump is restored; stops nothing."""
    try:
        unknown = unknown_migrations(manifest)
    except Exception as error:  # noqa: BLE001 - a restore may be what mends the site
        return [f"the migrations of this code cannot be read ({type(error).__name__})"]
    if not unknown:
        return []
    names = ", ".join(unknown[:NAMED]) + (", ..." if len(unknown) > NAMED else "")
    told = (
        f"the dump has {len(unknown)} migrations that this code does not know ({names}): it was "
        "made by newer or other code, which this one may not work with"
    )
    return [told]
