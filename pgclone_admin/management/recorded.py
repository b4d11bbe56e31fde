"""What the command line does, written down where the admin shows it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, Error, OperationalError

from ..core.copy import CopyResult
from ..core.errors import Conflict, PgcloneError
from ..core.manifest import Manifest
from ..core.progress import Reporter
from ..core.recovery import Recovered
from ..databases import live_name
from ..hooks.spec import name_of, normalized
from ..identity import user_of_process
from ..models import REPLACING, Dump, Kind, RestoreRun, without_values
from ..options import HOOK_LISTS, Arguments, Options
from ..runner import made_copy, made_dump, made_restore, recorded
from ..services import copies, dumps, recovery, restores
from ..services.actors import Actor
from ..services.lost import audit_cleaning
from ..services.refresh import Refreshed
from ..services.refresh import refresh as refresh_list
from ..services.requests import live_identity
from ..services.restores import Restored, Variant, local_target

LONGEST_NAME = 150


def at_the_command_line() -> Actor:
    """The user of this process, with all rights."""
    user = user_of_process() or "somebody"
    suffix = " (command line)"
    return Actor.system(user[: LONGEST_NAME - len(suffix)] + suffix)


def dump(options: Options, given: Arguments, reporter: Reporter) -> Manifest:
    """As :func:`~pgclone_admin.services.dumps.create_dump`."""

    def make() -> Dump:
        return Dump(
            location=options.storage_location,
            instance=options.instance,
            database=options.database,
            config=options.config,
            options=_said(given),
            requested_by=at_the_command_line().name,
        )

    return recorded(make, lambda both: dumps.create_dump(options, both), made_dump, reporter)


def restore(options: Options, given: Arguments, variant: Variant, reporter: Reporter) -> Restored:
    """As :func:`~pgclone_admin.services.restores.restore`."""

    def make() -> RestoreRun:
        live = live_name(options.database)
        beside = variant.beside
        return _run(
            Kind.RESTORE,
            options,
            given,
            key=options.dump_key or "",
            target=live if beside is None else local_target(beside, live).name,
        )

    def found_out(restored: Restored) -> dict[str, Any]:
        return {"key": str(restored.key), "result": made_restore(restored)}

    return recorded(
        make,
        lambda both: restores.restore(options, both, variant=variant),
        found_out,
        reporter,
    )


def swap(options: Options, given: Arguments, variant: Variant, reporter: Reporter) -> Restored:
    """As :func:`~pgclone_admin.services.restores.swap`."""
    return recorded(
        lambda: _run(Kind.SWAP, options, given, key=":held", target=live_name(options.database)),
        lambda both: restores.swap(options, both, variant=variant),
        lambda restored: {"result": made_restore(restored)},
        reporter,
    )


def copy(
    options: Options,
    given: Arguments,
    target: str,
    reporter: Reporter,
    *,
    end_sessions: bool,
    lose_settings: Sequence[str] | None,
) -> CopyResult:
    """As :func:`~pgclone_admin.services.copies.copy_live`."""

    def make() -> RestoreRun:
        name = local_target(target, live_name(options.database)).name
        return _run(Kind.COPY, options, given, key=target, target=name)

    return recorded(
        make,
        lambda both: copies.copy_live(
            options, target, both, end_sessions=end_sessions, lose_settings=lose_settings
        ),
        lambda copied: {"result": made_copy(copied)},
        reporter,
    )


def refresh(location: str) -> Refreshed:
    """As :func:`~pgclone_admin.services.refresh.refresh`; of no use without the tables."""
    try:
        return refresh_list(at_the_command_line(), location)
    except DatabaseError as error:
        (reason, *_more) = str(error).splitlines() or [type(error).__name__]
        is_unreachable = isinstance(error, OperationalError)
        raise Conflict(
            f"the list of dumps cannot be read or written: {reason}",
            hint=None if is_unreachable else "Its tables are made by: manage.py migrate",
        ) from error


def recover(options: Options, *, older_than: timedelta, dry_run: bool) -> Iterator[Recovered]:
    """As :func:`~pgclone_admin.services.recovery.recover`; what it did is written down at its end,
    where that can be done."""
    done: list[Recovered] = []
    try:
        for item in recovery.recover(options, older_than=older_than, dry_run=dry_run):
            done.append(item)
            yield item
    finally:
        if done and not dry_run:
            with contextlib.suppress(Error):
                audit_cleaning(at_the_command_line(), done)


def _run(kind: Kind, options: Options, given: Arguments, *, key: str, target: str) -> RestoreRun:
    is_of_storage = kind == Kind.RESTORE and not key.startswith(":")
    oid: int | None = None
    identifier = ""
    if kind in REPLACING:
        # What was live is looked for again if the run dies; it need not be known.
        with contextlib.suppress(PgcloneError):
            found, identifier = live_identity(options.database)
            oid = found or 0
    return RestoreRun(
        kind=kind,
        key=key,
        live_oid=oid,
        system_identifier=identifier,
        location=options.storage_location if is_of_storage else "",
        database=options.database,
        target=target,
        options={"arguments": _said(given)},
        requested_by=at_the_command_line().name,
    )


def _said(given: Arguments) -> dict[str, Any]:
    """What was given, with hooks by their names, and without the values of parameters."""
    said = {name: value for name, value in dataclasses.asdict(given).items() if value is not None}
    said |= {
        option: [name_of(normalized(hook)) for hook in said[option]]
        for option in HOOK_LISTS
        if option in said
    }
    return without_values(said)
