"""What a configuration demands that requires anonymized data."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg2

from ..core.errors import HookFailed, NotAnonymized
from ..core.evidence import read
from ..core.server import explained
from ..databases import site_params
from ..hooks import AnyHook


def require_anonymizing(hooks: Sequence[AnyHook]) -> None:
    """:class:`NotAnonymized` unless one of the hooks anonymizes; nothing was touched then."""
    if not any(hook.labels.anonymizes for hook in hooks):
        raise NotAnonymized(
            "the configuration requires anonymized data, and none of the pre-swap hooks anonymizes",
            hint='Name a hook with "anonymize" among them. Nothing was changed.',
        )


def require_anonymized(alias: str, database: str) -> None:
    """:class:`NotAnonymized` unless the live database says that it was anonymized."""
    if not _is_anonymized(alias, database):
        raise NotAnonymized(
            f'the configuration requires anonymized data, and the database "{database}" is not',
            hint="It is after a restore with a hook that anonymizes. Nothing was dumped.",
        )


def require_evidence(alias: str, temporary: str) -> None:
    """:class:`HookFailed` unless the hooks have left the temporary database anonymized."""
    if not _is_anonymized(alias, temporary):
        error = HookFailed(
            "the configuration requires anonymized data, and no hook has anonymized it",
            hint="A hook after it may have taken the evidence away.",
        )
        error.may_be_kept = False
        raise error


def _is_anonymized(alias: str, database: str) -> bool:
    try:
        params = site_params(alias).with_dbname(database)
        with params.session() as connection, connection.cursor() as cursor:
            return read(cursor) is not None
    except psycopg2.Error as error:
        raise explained(error, "it cannot be told whether data is anonymized") from error
