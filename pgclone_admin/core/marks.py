"""The databases of a server, and the marks on those that were made here."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psycopg2 import sql

MARK_PREFIX = "pgclone_admin "
NEW_DATABASE_PREFIX = "pgclone_new_"
NEW_DATABASE_NAME = re.compile(re.escape(NEW_DATABASE_PREFIX) + "[0-9a-f]{16}")


class MarkKind(StrEnum):
    """What a marked database is, as its mark says it."""

    TEMPORARY = "temporary"
    """Being built, or left by a run that died."""
    FAILED = "failed"
    """A temporary one whose hook failed."""
    HELD = "held"
    """Restored, to be swapped in later."""
    PARKED = "parked"
    """Live until the swap that is not yet cleaned up after."""
    PRE = "pre"
    """Live before a restore."""
    POST = "post"
    """What that restore has made."""
    UNDO = "undo"
    """Live before going back to a local copy."""
    COPY = "copy"
    BESIDE = "beside"
    """Restored beside the live one, under a name of its own."""


LOCAL_COPIES = frozenset(
    {MarkKind.PRE, MarkKind.POST, MarkKind.UNDO, MarkKind.COPY, MarkKind.BESIDE}
)
"""Kinds that are there to stay, and can be restored from."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The comment that says that a database was made here and may be dropped here.

    It holds for the name it names only: a database that somebody renamed is theirs.
    """

    name: str
    kind: str
    """A :class:`MarkKind`, or one that this version does not know."""
    of: str
    """The live database it was made for."""
    made_at: str
    """ISO 8601, UTC."""
    source: str = ""
    """The key it was made from."""
    becomes: str = ""
    """What a parked database is to become after the swap: ``pre``, ``undo``, or dropped. In the
    mark of a held one ``pre`` says that its restore was asked to be reversible."""
    copy: int = 0
    """The oid of the database that becomes ``post`` when a parked one becomes ``pre``."""

    @classmethod
    def new(
        cls,
        *,
        name: str,
        kind: MarkKind,
        of: str,
        source: str = "",
        becomes: str = "",
        copy: int = 0,
    ) -> Mark:
        return cls(
            name=name,
            kind=kind,
            of=of,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=source,
            becomes=becomes,
            copy=copy,
        )

    @property
    def made(self) -> datetime | None:
        """``made_at``, in UTC where it names no zone; ``None`` for what cannot be read."""
        try:
            made = datetime.fromisoformat(self.made_at)
        except (ValueError, TypeError):
            return None
        return made if made.tzinfo is not None else made.replace(tzinfo=UTC)

    def comment(self) -> str:
        return MARK_PREFIX + json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, comment: str | None) -> Mark | None:
        """The mark in a comment, whichever database carries it now."""
        if comment is None or not comment.startswith(MARK_PREFIX):
            return None
        try:
            return cls(**json.loads(comment.removeprefix(MARK_PREFIX)))
        except (ValueError, TypeError, RecursionError):
            return None

    @classmethod
    def read(cls, comment: str | None, name: str) -> Mark | None:
        """The mark of the database ``name``, which holds as long as it has this name."""
        mark = cls.parse(comment)
        return mark if mark is not None and mark.name == name else None


@dataclass(frozen=True, kw_only=True)
class Database:
    """One row of ``pg_database``, with the names behind its oids."""

    oid: int
    name: str
    owner: str
    is_template: bool
    allows_connections: bool
    connection_limit: int
    comment: str | None
    tablespace: str
    encoding: str
    row: dict[str, Any]
    """The whole row; its columns differ from version to version."""

    @property
    def mark(self) -> Mark | None:
        return Mark.read(self.comment, self.name)


def new_database_name() -> str:
    """A name that no other database has, and that tells whose it is before it has a mark."""
    return NEW_DATABASE_PREFIX + secrets.token_hex(8)


def set_comment(cursor: Any, database: str, comment: str | None) -> None:
    cursor.execute(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            sql.Identifier(database), sql.Literal(comment)
        )
    )


def option(name: str, value: sql.Composable) -> sql.Composable:
    return sql.SQL("{} {}").format(sql.SQL(name), value)


def options_like(model: Database) -> list[sql.Composable]:
    """The options of CREATE DATABASE that make another one like ``model``."""
    row = model.row
    options: dict[str, sql.Composable] = {
        "OWNER": sql.Identifier(model.owner),
        "ENCODING": sql.Literal(model.encoding),
        "LC_COLLATE": sql.Literal(row["datcollate"]),
        "LC_CTYPE": sql.Literal(row["datctype"]),
    }
    # Naming a tablespace needs a right to it, also where the template lies in it anyway.
    if model.tablespace != "pg_default":
        options["TABLESPACE"] = sql.Identifier(model.tablespace)
    # datlocprovider came with 15, daticurules with 16; 17 renamed daticulocale to datlocale.
    locale = row.get("datlocale") or row.get("daticulocale")
    match row.get("datlocprovider"):
        case "i":
            options |= {"LOCALE_PROVIDER": sql.SQL("icu"), "ICU_LOCALE": sql.Literal(locale)}
            if row.get("daticurules"):
                options["ICU_RULES"] = sql.Literal(row["daticurules"])
        case "b":
            options |= {
                "LOCALE_PROVIDER": sql.SQL("builtin"),
                "BUILTIN_LOCALE": sql.Literal(locale),
            }
        case "c":
            # Named, because the server's own templates may have another provider.
            options["LOCALE_PROVIDER"] = sql.SQL("libc")
        case _:
            pass
    return [option(name, value) for name, value in options.items()]
