"""What a configuration demands that requires anonymized data."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psycopg2

from ..core.errors import HookFailed, NotAnonymized, ServerUnavailable
from ..core.evidence import read
from ..core.names import LocalKey
from ..core.refusals import explained
from ..core.restore import local_source
from ..databases import site_params
from ..hooks import AnyHook


def require_anonymizing(hooks: Sequence[AnyHook]) -> None:
    """:class:`NotAnonymized` unless one of the hooks anonymizes; nothing was touched then."""
    if not any(hook.labels.anonymizes for hook in hooks):
        raise NotAnonymized(
            "anonymized data is required, and none of the pre-swap hooks anonymizes",
            hint='Name a hook with "anonymize" among them. Nothing was changed.',
        )


def require_anonymized(alias: str, database: str) -> None:
    """:class:`NotAnonymized` unless the database says of itself that it was anonymized."""
    if not _is_anonymized(alias, database):
        raise NotAnonymized(
            f'anonymized data is required, and the database "{database}" is not anonymized',
            hint="It is after a restore with a hook that anonymizes. Nothing was changed.",
        )


def check_restore(alias: str, live: str, dump_key: str, hooks: Sequence[AnyHook]) -> None:
    """:class:`NotAnonymized` unless what is restored will be anonymized: by one of the hooks, or
    since it is a database of the same server that is. Asked before anything is touched."""
    if not dump_key.startswith(":") or any(hook.labels.anonymizes for hook in hooks):
        require_anonymizing(hooks)
    else:
        require_anonymized_copy(alias, local_source(LocalKey.parse(dump_key), live))


def require_anonymized_copy(alias: str, database: str) -> None:
    """The same of a database that may not be there, which is told by whoever needs it."""
    with contextlib.suppress(ServerUnavailable):
        require_anonymized(alias, database)


def require_evidence(alias: str, temporary: str) -> None:
    """:class:`HookFailed` unless the hooks have left the temporary database anonymized."""
    if not _is_anonymized(alias, temporary):
        error = HookFailed(
            "anonymized data is required, and no hook has anonymized it",
            hint="A hook after it may have taken the evidence away.",
        )
        error.may_be_kept = False
        raise error


def _is_anonymized(alias: str, database: str) -> bool:
    try:
        params = site_params(alias, database)
        with params.session() as connection, connection.cursor() as cursor:
            return read(cursor) is not None
    except psycopg2.Error as error:
        raise explained(error, "it cannot be told whether data is anonymized") from error
