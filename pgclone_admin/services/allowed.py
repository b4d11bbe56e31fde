"""What the settings of this site forbid."""

from __future__ import annotations

from django.utils.translation import gettext, gettext_noop

from ..core.errors import NotAllowed
from ..settings import settings

REFUSALS = {
    "dump": gettext_noop("dumps are not allowed here: PGCLONE_ALLOW_DUMP is False"),
    "restore": gettext_noop("restores are not allowed here: PGCLONE_ALLOW_RESTORE is False"),
    "copy": gettext_noop("copies are not allowed here: PGCLONE_ALLOW_COPY is False"),
}
"""By verb, why it is refused; as everywhere, errors are in English and pages are translated."""


def refusal(verb: str) -> str | None:
    """Why nobody may ``dump``, ``restore`` or ``copy`` here, as pages say it; ``None`` where it is
    allowed."""
    return None if _is_allowed(verb) else gettext(REFUSALS[verb])


def require_allowed(verb: str) -> None:
    """:class:`~pgclone_admin.core.errors.NotAllowed` where the settings forbid the verb."""
    if not _is_allowed(verb):
        raise NotAllowed(REFUSALS[verb])


def _is_allowed(verb: str) -> bool:
    return bool(getattr(settings, f"allow_{verb}"))
