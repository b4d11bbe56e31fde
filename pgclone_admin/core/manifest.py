"""The JSON that lies beside every dump as ``<key>.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import IntegrityError

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of one dump. It is written last: a dump that has one is complete.

    ``size`` (bytes) and ``sha256`` (hexadecimal) are those of the stored bytes; ``source_size`` is
    ``pg_database_size`` (bytes) when the dump was taken; times are ISO 8601 in UTC.
    """

    key: str
    size: int
    sha256: str
    codec: str
    taken_at: str
    instance: str
    database: str
    config: str
    origin: str
    """``pgclone`` for a dump made here, ``imported`` for an archive that was taken in."""
    app_version: str
    source_database: str = ""
    source_size: int | None = None
    server_version: str = ""
    program_version: str = ""
    encoding: str = ""
    extensions: tuple[tuple[str, str], ...] = ()
    migrations: tuple[tuple[str, str], ...] | None = None
    excluded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Tables of the site, whose rows a dump never has."""
    hooks: tuple[str, ...] = ()
    anonymized: tuple[str, ...] | None = None
    """Fields that were anonymized in the database; ``None`` when it was not."""
    taken_by: str = ""
    host: str = ""

    @property
    def is_foreign(self) -> bool:
        """Whether the archive was made by somebody else."""
        return self.origin != "pgclone"

    def to_json(self) -> bytes:
        return json.dumps(
            {"format": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Reads a manifest of this or an earlier format; unknown keys are left aside.

        :class:`IntegrityError` for anything else, and for one of a later format.
        """
        try:
            values = json.loads(data)
            if not isinstance(values, dict) or not isinstance(values.get("format"), int):
                raise ValueError("it has no format")
            if values["format"] > FORMAT_VERSION:
                raise ValueError(f"its format {values['format']} is newer than this program")
            known = {field.name for field in fields(cls)}
            manifest = cls(**{k: _frozen(v) for k, v in values.items() if k in known})
            if not isinstance(values["size"], int) or len(manifest.sha256) != 64:
                raise ValueError("its size or digest is no such thing")
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"the manifest of the dump cannot be read: {error}",
                hint="Without its manifest the dump counts as foreign. Restore another one.",
            ) from error
        return manifest


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value
