"""Brings the table of dumps in line with what a storage location holds."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.errors import IntegrityError
from ..models import Dump, Status
from ..store import DumpEntry, DumpStore
from . import actors
from .actors import Actor
from .audit import audit_without_row

CHUNK = 500
"""Rows that are changed together."""

AT_ONCE = 50
"""Rows that are made together: whatever ends this loses no more than so many manifests."""


@dataclass(frozen=True)
class Refreshed:
    """How many rows are new, are missing from the storage, and are there again."""

    added: int
    missing: int
    returned: int
    left: int = 0
    """Dumps without a row that there was no time for."""


def refresh(actor: Actor, location: str, *, time_limit: float | None = None) -> Refreshed:
    """Makes a row for every dump that has none, and marks those whose file is gone.

    The storage is the truth, and neither side is deleted. One listing, and one manifest for each
    dump that is new, the newest first. After ``time_limit`` seconds the rest of them is left to
    the next refresh, which goes on there; each makes one row at least.
    """
    actor.require(*actors.REFRESH)
    deadline = None if time_limit is None else time.monotonic() + time_limit
    store = DumpStore(location)
    # In this order: a dump that is finished in between is not taken for one that has gone.
    known = dict(
        Dump.objects.filter(location=location).exclude(key="").values_list("key", "status")
    )
    entries = {entry.key.text: entry for entry in store.entries()}
    gone = [k for k, s in known.items() if s == Status.SUCCEEDED and k not in entries]
    back = [k for k, s in known.items() if s == Status.MISSING and k in entries]
    for keys, before, after in (
        (gone, Status.SUCCEEDED, Status.MISSING),
        (back, Status.MISSING, Status.SUCCEEDED),
    ):
        for start in range(0, len(keys), CHUNK):
            rows = Dump.objects.filter(location=location, key__in=keys[start : start + CHUNK])
            rows.filter(status=before).update(status=after)
    new = [entry for key, entry in entries.items() if key not in known]
    added = 0
    try:
        for count in _add(store, location, new, deadline):
            added += count
    finally:
        if added or gone or back:
            said = f"{added} new, {len(gone)} missing, {len(back)} there again"
            audit_without_row(location, actor, f"refreshed the list of dumps: {said}")
    return Refreshed(added, len(gone), len(back), left=len(new) - added)


def _add(
    store: DumpStore, location: str, entries: list[DumpEntry], deadline: float | None
) -> Iterator[int]:
    """Makes their rows while there is time, and tells each time how many."""
    for start in range(0, len(entries), AT_ONCE):
        rows = []
        for entry in entries[start : start + AT_ONCE]:
            rows.append(_row(store, location, entry))
            is_over = deadline is not None and time.monotonic() >= deadline
            if is_over:
                break
        Dump.objects.bulk_create(rows, ignore_conflicts=True)
        yield len(rows)
        if is_over:
            return


def _row(store: DumpStore, location: str, entry: DumpEntry) -> Dump:
    key = entry.key
    try:
        manifest = store.manifest(key) if entry.has_manifest else None
        described = None if manifest is None else dataclasses.asdict(manifest)
        _check_storable(described)
    except (IntegrityError, ValueError):
        manifest = described = None  # one that cannot be read makes the dump a foreign one
    return Dump(
        status=Status.SUCCEEDED,
        location=location,
        key=key.text,
        instance=(key.instance or "")[:255],
        database=(key.database or "")[:255],
        config=(key.config or "")[:255],
        taken_at=entry.taken_at,
        requested_at=entry.taken_at,
        requested_by="" if manifest is None else str(manifest.taken_by)[:150],
        size=entry.stored.size,
        manifest=described,
    )


def _check_storable(value: Any) -> None:
    """:class:`ValueError` for what JSON can say and PostgreSQL cannot keep."""
    if "\\u0000" in json.dumps(value, allow_nan=False):
        raise ValueError("NUL cannot be stored")
