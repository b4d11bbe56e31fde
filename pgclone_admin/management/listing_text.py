"""Lists of dumps and local copies as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ..services.listing import LocalEntry
from ..store import DumpEntry
from .console import human_age, human_size


def dump_lines(entries: Sequence[DumpEntry]) -> Iterator[str]:
    """A line for each dump: its key, size, age, and whether it has a manifest."""
    return _columns(
        [
            (
                entry.key.text,
                human_size(entry.stored.size or 0),
                _age(entry.taken_at),
                "manifest" if entry.has_manifest else "no manifest",
            )
            for entry in entries
        ]
    )


def described_dump(entry: DumpEntry) -> dict[str, Any]:
    """The same and more of one dump, for JSON."""
    key = entry.key
    return {
        "key": key.text,
        "instance": key.instance,
        "database": key.database,
        "config": key.config,
        "taken_at": entry.taken_at.isoformat(),
        "size": entry.stored.size,
        "has_manifest": entry.has_manifest,
    }


def local_lines(entries: Sequence[LocalEntry]) -> Iterator[str]:
    """A line for each local copy: its key, size, age, and what it is."""
    return _columns(
        [
            (
                str(entry.key),
                human_size(entry.size),
                _age(entry.made_at) if entry.made_at else "-",
                f"{entry.kind} of {entry.source}" if entry.kind else "not made by pgclone",
            )
            for entry in entries
        ]
    )


def described_local(entry: LocalEntry) -> dict[str, Any]:
    """The same and more of one local copy, for JSON."""
    return {
        "key": str(entry.key),
        "database": entry.database,
        "size": entry.size,
        "kind": entry.kind or None,
        "made_at": entry.made_at.isoformat() if entry.made_at else None,
        "source": entry.source or None,
    }


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns: numbers, which stand between the first and the last, end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < place < len(row) - 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _age(moment: datetime) -> str:
    return human_age((datetime.now(UTC) - moment).total_seconds())
