"""What is known of a dump, for its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..models import Dump
from . import formats

Facts = list[tuple[str, Any]]

MOST_ITEMS = 500


@dataclass(frozen=True)
class Listing:
    """Several of something: how many, and which when they are asked for."""

    summary: str
    items: list[str]


def facts_of(dump: Dump) -> Facts:
    """What the row says."""
    not_yet = _("not yet")
    facts: Facts = [
        (_("Taken"), formats.ago(dump.taken_at)),
        (_("Requested by"), dump.requested_by or formats.NOTHING),
        (_("Database"), dump.database or formats.NOTHING),
        (_("Configuration"), dump.config or formats.NOTHING),
        (_("Instance"), dump.instance or formats.NOTHING),
        (_("Size"), formats.size(dump.size)),
        (_("Duration"), formats.duration(dump.seconds)),
        (_("Verified"), formats.ago(dump.verified_at) if dump.verified_at else not_yet),
        (_("Drilled"), formats.ago(dump.drilled_at) if dump.drilled_at else not_yet),
        (_("Pinned"), _("yes") if dump.is_pinned else _("no")),
        (_("Storage location"), dump.location),
    ]
    return known(facts)


def known(facts: Facts) -> Facts:
    """Without those of which there is nothing to say."""
    return [fact for fact in facts if fact[1] != formats.NOTHING]


def contents_of(dump: Dump) -> Facts:
    """What the manifest says; nothing for a dump without one."""
    manifest = dump.manifest
    if not isinstance(manifest, dict):
        return []

    def text(name: str) -> str:
        value = manifest.get(name)
        return formats.NOTHING if value in (None, "") else str(value)

    migrations = manifest.get("migrations")
    source_size = manifest.get("source_size")
    return [
        (_("PostgreSQL"), text("server_version")),
        (_("Made with pg_dump"), text("program_version")),
        (_("Source database"), text("source_database")),
        (
            _("Database size when dumped"),
            formats.size(source_size if isinstance(source_size, int) else None),
        ),
        (_("Encoding"), text("encoding")),
        (_("Compression"), text("codec")),
        (
            _("Migrations"),
            _("not known") if migrations is None else listing(_pairs(migrations, ".")),
        ),
        (_("Extensions"), listing(_pairs(manifest.get("extensions"), " "))),
        (_("Rows left out"), listing(_texts(manifest.get("excluded")))),
        (_("Kept by the site, left out"), listing(_texts(manifest.get("kept")))),
        (_("Hooks that ran before"), listing(_texts(manifest.get("hooks")))),
        (_("Anonymized"), anonymized(manifest.get("anonymized"))),
        (_("Made on"), text("host")),
        (_("Made by version"), text("app_version")),
        (_("SHA-256"), text("sha256")),
    ]


def anonymized(fields: Any) -> Listing | str:
    """Which fields the dumped database says were anonymized in it."""
    if fields is None:
        return _("no")
    names = _texts(fields)
    return listing(names) if names else _("yes, by a hook of the project")


def listing(items: list[str]) -> Listing | str:
    """A few of them at once, many of them folded."""
    if len(items) <= 3:
        return ", ".join(items) or formats.NOTHING
    summary = ngettext("%(n)s entry", "%(n)s entries", len(items)) % {"n": len(items)}
    shown = items[:MOST_ITEMS]
    return Listing(summary, shown if len(items) <= MOST_ITEMS else [*shown, "…"])


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _pairs(value: Any, between: str) -> list[str]:
    if not isinstance(value, list | tuple):
        return []
    return [
        between.join(str(part) for part in item)
        if isinstance(item, Sequence) and not isinstance(item, str)
        else str(item)
        for item in value
    ]
