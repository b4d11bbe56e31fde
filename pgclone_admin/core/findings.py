"""What the doctor says: a finding, its level, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .errors import PgcloneError


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, but not for everybody or not for ever."""
    PROBLEM = "problem"
    """A dump or a restore would fail."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; every warning and problem has a fix."""

    level: Level
    about: str
    found: str
    fix: str | None = None


def fine(about: str, found: str) -> Finding:
    return Finding(Level.OK, about, found)


def problem(about: str, error: PgcloneError) -> Finding:
    """An error that a dump or restore would meet."""
    found = "; ".join([error.message, *getattr(error, "__notes__", ())])
    fix = error.hint or FIXES.get(about, "See the documentation of the PostgreSQL server.")
    fix = fix.removeprefix("Nothing was changed. ")
    return Finding(Level.PROBLEM, about, found, fix)


FIXES = {
    "database": "Check NAME in DATABASES.",
    "pooler": "Give PGCLONE_CONNECTIONS a connection past the pooler.",
    "programs": "Set PGCLONE_BIN_DIR to the directory of pg_dump and pg_restore.",
    "replication": "Name these servers in DATABASES, so that a restore ends their sessions, or "
    "accept it with --ignore-standbys.",
    "role": "Let PGCLONE_CONNECTIONS name a role that may.",
    "server": "Check HOST, PORT, USER and PASSWORD, and PGCLONE_CONNECTIONS.",
    "settings": "Correct the setting.",
    "sessions": "End these sessions before a restore.",
    "storage": "Check PGCLONE_STORAGE_LOCATION and the credentials of the storage.",
}
"""What to do where an error has no hint of its own."""
