"""What stands in the way of restoring a dump, told by its storage, its manifest and its archive.

Checks as those of the target: they raise, or return sentences that a person should read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .archive import Contents
from .connection import one_row
from .errors import IntegrityError, PreflightError, UntrustedDump
from .manifest import Manifest
from .names import DumpKey
from .preflight import Check
from .programs import Program, open_flaws, version_without_flaws
from .server import Server


@dataclass(frozen=True)
class DumpChecks:
    """A dump in its storage: what its manifest says, and how many bytes there are."""

    server: Server
    key: DumpKey
    size: int
    manifest: Manifest | None
    trust_foreign: bool

    def all(self) -> list[Check]:
        return [self.is_trusted, self.is_whole]

    def is_trusted(self) -> list[str]:
        warnings = []
        danger = self.server.danger()
        if danger is not None:
            warnings.append(f"the role that restores {danger}: code in the dump has its rights")
        if self.manifest is None or self.manifest.is_foreign:
            if danger is not None and not self.trust_foreign:
                raise UntrustedDump(
                    f'the dump "{self.key}" was not made by pgclone_admin, and the role that would '
                    f"restore it {danger}",
                    hint="A dump can hold code, which runs with the rights of the role that "
                    "restores. Use a role that is no superuser, or --trust if you know where it "
                    "comes from.",
                )
            if self.manifest is None:
                warnings.append("the dump has no manifest: whether it is unaltered cannot be told")
        return warnings

    def is_whole(self) -> list[str]:
        if self.manifest is not None and self.manifest.size != self.size:
            raise IntegrityError(
                f'the dump "{self.key}" has {self.size:,} bytes, its manifest says '
                f"{self.manifest.size:,}",
                hint="It was cut short or altered in its storage. Use another dump.",
            )
        return []


@dataclass(frozen=True)
class ArchiveChecks:
    """What a dump holds, ``None`` where that cannot be told, and the pg_restore that reads it."""

    server: Server
    contents: Contents | None
    manifest: Manifest | None
    program: Program

    def all(self) -> list[Check]:
        return [self.can_be_told, self.program_is_safe, self.extensions_are_there]

    def can_be_told(self) -> list[str]:
        if self.contents is not None:
            return []
        told = (
            "the archive has a version that is not known here: it is restored in one pass, and "
            "what is in it cannot be told before"
        )
        return [told]

    def program_is_safe(self) -> list[str]:
        program = self.program
        flaws = open_flaws(program) if self.manifest is None or self.manifest.is_foreign else []
        if not flaws:
            return []
        told = (
            f"the installed pg_restore {program.version} has {', '.join(flaws)}, by which a dump "
            "from elsewhere can run code on this machine: update it to "
            f"{version_without_flaws(program.major)}"
        )
        return [told]

    def extensions_are_there(self) -> list[str]:
        """:class:`PreflightError` for extensions that the server does not have."""
        entries = self.contents.entries if self.contents is not None else ()
        wanted = [entry.name for entry in entries if entry.kind == "EXTENSION"]
        if not wanted:
            return []
        available = dict(
            self.server.rows(
                "SELECT name, bool_or(trusted) FROM pg_available_extension_versions"
                " WHERE name = ANY(%s) GROUP BY name",
                [wanted],
            )
        )
        if missing := [name for name in wanted if name not in available]:
            raise PreflightError(
                f"the dump needs extensions that the server does not have: {', '.join(missing)}",
                hint="Install their packages on the server. Nothing was changed.",
            )
        if self.server.role().is_superuser:
            return []
        return [
            f'only a superuser may create the extension "{name}", unless the server allows more'
            for name, trusted in available.items()
            if not trusted
        ]


def left_out(cursor: Any, contents: Contents, *, owner: str, is_superuser: bool) -> list[str]:
    """What a restore leaves out, by kind and name: it cannot be made here by this role.

    ``owner`` is the role that makes the objects.
    """
    tablespaces = [f"TABLESPACE {name}" for name in _unusable_tablespaces(cursor, contents, owner)]
    objects = [] if is_superuser else contents.outline.superuser_only.values()
    return [*tablespaces, *objects]


def _unusable_tablespaces(cursor: Any, contents: Contents, owner: str) -> list[str]:
    """All tablespaces that the dump names, when one of them is missing here or not for ``owner``.

    A tablespace is a directory of the server, and pg_restore uses either all or none.
    """
    names = sorted(contents.outline.tablespaces)
    if not names:
        return []
    cursor.execute(
        "SELECT count(*) FROM pg_tablespace"
        " WHERE spcname = ANY(%s) AND has_tablespace_privilege(%s, oid, 'CREATE')",
        [names, owner],
    )
    return names if one_row(cursor)[0] < len(names) else []
