"""What an archive says of the objects that do not belong to the owner of the database."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from psycopg2.extensions import encodings

from .names import quote_identifier

LIKE_THEIR_DROP = {
    *("AGGREGATE", "COLLATION", "CONVERSION", "DOMAIN", "EVENT TRIGGER", "FOREIGN DATA WRAPPER"),
    *("FOREIGN TABLE", "FUNCTION", "MATERIALIZED VIEW", "OPERATOR", "OPERATOR CLASS"),
    *("OPERATOR FAMILY", "PROCEDURAL LANGUAGE", "PROCEDURE", "PUBLICATION", "SEQUENCE", "SERVER"),
    *("STATISTICS", "SUBSCRIPTION", "TABLE", "TEXT SEARCH CONFIGURATION"),
    *("TEXT SEARCH DICTIONARY", "TYPE", "VIEW"),
}
"""Kinds that ALTER ... OWNER TO names as DROP does: with the types of their arguments and all."""

GRANTS = ("ACL", "DEFAULT ACL")

_DROP = re.compile(r"DROP (.+);\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Owned:
    """An object of another role. All texts are in the encoding of the archive."""

    name: str
    """Kind, schema and name, for people."""
    owner: str
    altered: tuple[str, ...]
    """What is to be altered, as SQL; many where large objects share an entry."""
    is_definer: bool
    """Whether it is a routine that runs with the rights of its owner."""

    @classmethod
    def read(
        cls, kind: str, names: tuple[str, str, str], *, definition: bytes, drop: bytes
    ) -> Owned | None:
        """``None`` for an entry of a kind that has no owner of its own."""
        schema, name, owner = names
        match = _DROP.fullmatch(drop.decode(errors="surrogateescape"))
        if kind == "SCHEMA":
            # That of "public" holds no statement that drops it.
            altered: tuple[str, ...] = (f"SCHEMA {quote_identifier(name)}",)
        elif kind in ("BLOB", "BLOB METADATA"):
            listed = name if kind == "BLOB" else definition.decode("ascii", "replace")
            altered = tuple(f"LARGE OBJECT {oid}" for oid in re.findall(r"[0-9]+", listed))
            kind = "LARGE OBJECT"
        elif kind in LIKE_THEIR_DROP and match is not None:
            altered = (match[1],)
        else:
            return None
        shown = f"{kind} {schema}.{name}" if schema else f"{kind} {name}"
        is_definer = kind in ("FUNCTION", "PROCEDURE") and b"SECURITY DEFINER" in definition
        return cls(shown, owner, altered, is_definer)


@dataclass(frozen=True, slots=True)
class Grants:
    """An entry with grants on what belongs to another role, or with default privileges of it."""

    name: str
    owner: str
    on: tuple[int, ...]
    """The entries of the objects."""
    is_default: bool


@dataclass
class Others:
    """What belongs to other roles than the owner of the database; nothing where that is not named.

    Both by the numbers of the entries, in the order of the archive.
    """

    objects: dict[int, Owned] = field(default_factory=dict)
    grants: dict[int, Grants] = field(default_factory=dict)
    _database_owner: str = ""

    def take(
        self,
        dump_id: int,
        kind: str,
        names: tuple[str, str, str],
        *,
        on: tuple[int, ...],
        definition: bytes,
        drop: bytes,
    ) -> None:
        """The next entry: ``names`` are those of schema, object and owner, ``on`` what it needs.

        The entry of the database comes before all that is in it.
        """
        _schema, name, owner = names
        if kind == "DATABASE":
            self._database_owner = owner
        elif not self._database_owner or owner in ("", self._database_owner, "pg_database_owner"):
            return
        elif kind in GRANTS:
            self.grants[dump_id] = Grants(name, owner, on, kind == "DEFAULT ACL")
        elif owned := Owned.read(kind, names, definition=definition, drop=drop):
            self.objects[dump_id] = owned


@dataclass(frozen=True)
class LostOwner:
    """An object that belongs to another role after a restore than in the dump."""

    name: str
    owner: str
    heir: str
    """Whose it is instead: the owner of the database."""
    reason: str
    is_definer: bool = False

    def __str__(self) -> str:
        return f'{self.name} of the role "{self.owner}"'


def told(lost: Sequence[LostOwner]) -> Iterator[str]:
    """What people should know of them: a sentence for each role, and for each routine that has
    other rights now."""
    alike = Counter((each.owner, each.heir, each.reason) for each in lost)
    for (owner, heir, reason), count in alike.items():
        if count == 1:
            names = (e.name for e in lost if (e.owner, e.heir, e.reason) == (owner, heir, reason))
            yield f'the owner of {next(names)} was "{owner}", now it is "{heir}": {reason}'
        else:
            yield f'the owner of {count} objects was "{owner}", now it is "{heir}": {reason}'
    for each in lost:
        if each.is_definer:
            yield (
                f'{each.name} is SECURITY DEFINER: it runs with the rights of "{each.heir}" now, '
                f'not with those of "{each.owner}"'
            )


def decoded(text: str, encoding: str) -> str:
    """For people: a text of an archive whose encoding is ``encoding``."""
    codec = "utf-8" if encoding == "SQL_ASCII" else encodings.get(encoding, "utf-8")
    return text.encode(errors="surrogateescape").decode(codec, errors="replace")
