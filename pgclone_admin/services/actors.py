"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import NotAllowed

DUMP = "pgclone_admin.create_dump"
DOWNLOAD = "pgclone_admin.download_dump"
DELETE = "pgclone_admin.delete_dump"
RESTORE = "pgclone_admin.restore_database"
COPY = "pgclone_admin.copy_database"
CANCEL = "pgclone_admin.cancel_run"
WATCH = "pgclone_admin.view_restorerun"

REFRESH = (DUMP, RESTORE)
"""Either will do: who restores what another site dumps has to see its new dumps."""


def is_superuser(user: Any) -> bool:
    """Nobody is where the user model of the site has no such thing."""
    return bool(getattr(user, "is_superuser", False))


@dataclass(frozen=True)
class Actor:
    """A member of staff, or the system itself."""

    name: str
    may: Callable[[str], bool]
    user: Any = None
    """``None`` for the system."""

    @classmethod
    def of(cls, user: Any) -> Actor:
        return cls(user.get_username(), user.has_perm, user)

    @classmethod
    def system(cls, name: str) -> Actor:
        """Who works with the rights of the process: the command line, a schedule."""
        return cls(name, lambda _permission: True)

    def require(self, *permissions: str) -> None:
        """:class:`NotAllowed` without any of them, also where a page was left out."""
        if not any(map(self.may, permissions)):
            raise NotAllowed(
                "you do not have the permission for this",
                hint=f"A superuser can give it: {' or '.join(permissions)}.",
            )
