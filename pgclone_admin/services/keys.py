"""Which dump a person means."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connections

from ..core.errors import AmbiguousKey, DumpNotFound
from ..core.names import DumpKey, LocalKey, sanitized
from ..store import DumpEntry, DumpStore

SHOWN_CHOICES = 10


@dataclass(frozen=True)
class Resolved:
    """A dump or a local copy, and a sentence when it was chosen among several."""

    key: DumpKey | LocalKey
    explanation: str = ""


def resolve_key(text: str, store: DumpStore) -> Resolved:
    """Reads ``text`` as a local key, a full key, a prefix of whole parts, a database alias, or the
    database name of a 1.x key.

    A prefix or name means its newest dump, by time. :class:`AmbiguousKey` when it covers several
    instances or databases, or can be read in two ways: "the newest" of production and staging
    together is nobody's intention.
    """
    if text.startswith(":"):
        return Resolved(LocalKey.parse(text))
    if (exact := store.find(text)) is not None:
        return Resolved(exact)
    entries = store.entries()
    readings = {
        "the beginning of a dump key": with_prefix(entries, text),
        "the alias of a database": of_database(entries, text),
    }
    found = {reading: matches for reading, matches in readings.items() if matches}
    if not found:
        raise DumpNotFound(
            f'no dump in {store.location} matches "{text}"',
            hint="See what there is with: pgclone ls",
        )
    if len({tuple(entry.key.text for entry in matches) for matches in found.values()}) > 1:
        raise AmbiguousKey(
            f'"{text}" can be read as {" and as ".join(found)}',
            hint="Name the dump by its full key, or by a longer part: "
            + _choices(sorted({_group(e) for matches in found.values() for e in matches})),
        )
    (matches, *_same) = found.values()
    groups = sorted({_group(entry) for entry in matches})
    if len(groups) > 1:
        raise AmbiguousKey(
            f'"{text}" matches dumps of several instances or databases',
            hint=f"Choose one of them: {_choices(groups)}",
        )
    newest = matches[0].key
    return Resolved(newest, f'the newest of {len(matches)} dumps that match "{text}" is {newest}')


def with_prefix(entries: list[DumpEntry], text: str) -> list[DumpEntry]:
    """Entries whose key begins with the whole parts of ``text``: ``app`` is no part of
    ``app_prod``."""
    start = text.rstrip("/") + "/"
    return [entry for entry in entries if entry.key.text.startswith(start)]


def of_database(entries: list[DumpEntry], alias: str) -> list[DumpEntry]:
    """Entries of the database ``alias``, if there is one, from any instance."""
    if alias not in connections.databases:
        return []
    return [
        entry
        for entry in entries
        if entry.key.instance is not None and entry.key.database == sanitized(alias)
    ]


def _group(entry: DumpEntry) -> str:
    return "/".join(filter(None, [entry.key.instance, entry.key.database])) or entry.key.text


def _choices(groups: list[str]) -> str:
    shown = ", ".join(groups[:SHOWN_CHOICES])
    rest = len(groups) - SHOWN_CHOICES
    return f"{shown} and {rest} more" if rest > 0 else shown
