"""Executes one recorded run: claim, work, outcome."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg2
from django.db import IntegrityError, connections, router, transaction
from django.utils import timezone

from .core.copy import CopyResult
from .core.errors import Cancelled, PgcloneError
from .core.manifest import Manifest
from .core.progress import Phase, Reporter
from .core.refusals import refused
from .databases import secrets
from .identity import at_work, own_process, worker_name
from .interrupts import interruptible
from .models import Dump, Kind, RestoreRun, Run, RunEvent, Status
from .options import Arguments, Options, resolve
from .recording import RunReporter, storable
from .services import archives, copies, dumps, restores
from .services.restores import Restored, Variant

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALREADY_TAKEN = "already taken"

PATIENCE_OF_PEOPLE = 5.0
"""Seconds in which the last word of a command has to find its database."""

Work = Callable[[Reporter], dict[str, Any]]
"""Does it, and returns the fields that it found out."""


# -- in a worker


def run_dump(dump: Dump, *, time_limit: float | None = None) -> str:
    """Makes a queued dump; returns the status it ended with, and raises what ended it.

    :data:`ALREADY_TAKEN` when it is not queued any more: a queue may deliver twice. ``time_limit``
    is in seconds.
    """

    def work(reporter: Reporter) -> dict[str, Any]:
        # What was asked for, whatever the configuration says by now and this machine is called.
        pinned = {
            "storage_location": dump.location,
            "instance": dump.instance,
            "database": dump.database,
        }
        options = resolve(Arguments(**{**dump.options, **pinned}), verb="dump")
        return made_dump(dumps.create_dump(options, reporter, taken_by=dump.requested_by))

    return _take(dump, work, time_limit)


def run_restore(run: RestoreRun, *, time_limit: float | None = None) -> str:
    """Does what a queued restore run says; as :func:`run_dump`."""

    def work(reporter: Reporter) -> dict[str, Any]:
        return {"result": WORK[Kind(run.kind)](run, reporter)}

    return _take(run, work, time_limit)


def made_dump(manifest: Manifest) -> dict[str, Any]:
    """What is known of a dump that was made."""
    return {
        "key": manifest.key,
        "instance": manifest.instance,
        "database": manifest.database,
        "config": manifest.config,
        "taken_at": manifest.taken_at,
        "size": manifest.size,
        "manifest": dataclasses.asdict(manifest),
    }


def made_restore(restored: Restored) -> dict[str, Any]:
    """What is known of a restore that was made."""
    result, swap = restored.result, restored.result.swap
    return {
        "key": str(restored.key),
        "database": result.database,
        "swap": None if swap is None else dataclasses.asdict(swap),
        "left_out": list(result.report.left_out),
        "skipped_grants": list(result.report.skipped_grants),
        "lost_owners": [str(lost) for lost in result.report.lost_owners],
        "unchecked_foreign_keys": list(result.report.unchecked_foreign_keys),
        "tolerated": list(result.report.tolerated),
        "hooks": [dataclasses.asdict(hook) for hook in restored.hooks],
    }


def made_copy(copied: CopyResult) -> dict[str, Any]:
    """What is known of a copy that was made."""
    return {"database": copied.database.name, "seconds": copied.seconds, "piped": copied.piped}


def _restore(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    return made_restore(restores.restore(_options(run), reporter, variant=Variant.of_run(run)))


def _drill(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    result = _restore(run, reporter)
    _dumps_of(run).update(drilled_at=timezone.now())
    return result


def _swap(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    return made_restore(restores.swap(_options(run), reporter, variant=Variant.of_run(run)))


def _verify(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    archives.verify_dump(_options(run), run.key, reporter)
    _dumps_of(run).update(verified_at=timezone.now())
    return {}


def _copy(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    copied = copies.copy_live(_options(run), run.key, reporter, replaces=False)
    return made_copy(copied)


def _drop(run: RestoreRun, reporter: Reporter) -> dict[str, Any]:
    copies.drop_local(_options(run), run.target, reporter, confirmed_oid=run.live_oid)
    return {}


WORK: dict[Kind, Callable[[RestoreRun, Reporter], dict[str, Any]]] = {
    Kind.RESTORE: _restore,
    Kind.SWAP: _swap,
    Kind.DRILL: _drill,
    Kind.VERIFY: _verify,
    Kind.COPY: _copy,
    Kind.DROP: _drop,
}


def _options(run: RestoreRun) -> Options:
    return resolve(Arguments(**run.options.get("arguments", {})), verb="restore")


def _dumps_of(run: RestoreRun) -> Any:
    return Dump.objects.filter(location=run.location, key=run.key)


def _take(run: Run, work: Work, time_limit: float | None) -> str:
    with at_work(run):
        if not run.move(Status.RUNNING, error_code="", error="", hint="", **_beginning(run)):
            return ALREADY_TAKEN
        reporter = RunReporter(run, time_limit=time_limit)
        with interruptible(reporter):
            _execute(run, reporter, work)
    return str(Status.SUCCEEDED)


# -- by a command


def recorded(
    make: Callable[[], Run],
    work: Callable[[Reporter], T],
    found_out: Callable[[T], dict[str, Any]],
    reporter: Reporter,
) -> T:
    """Does ``work`` and writes it down, where that can be done.

    ``make`` makes the row, and ``found_out`` tells what goes into it at the end. The database may
    be the very thing that is broken: without it, or without the tables, it is work all the same.
    """
    run = _begun(make)
    if run is None:
        return work(reporter)
    done: list[T] = []

    def noted_work(both: Reporter) -> dict[str, Any]:
        done.append(work(both))
        return found_out(done[0])

    with at_work(run):
        try:
            _execute(run, RunReporter(run, reporter, patience=PATIENCE_OF_PEOPLE), noted_work)
        except KeyboardInterrupt:
            # It is done, and was only being written down.
            if not done:
                raise
    return done[0]


def _begun(make: Callable[[], Run]) -> Run | None:
    """The row of a run that begins now; ``None`` when there can be none."""
    alias = router.db_for_write(Dump)
    if "PGHOSTADDR" in os.environ:
        # It wins over the HOST of the settings: Django's own connection would go to that server.
        return None
    try:
        run = make()
        for name, value in {"status": Status.RUNNING, **_beginning(run)}.items():
            setattr(run, name, value)
        owner = "dump" if isinstance(run, Dump) else "run"
        with transaction.atomic(using=alias):
            run.save(force_insert=True, using=alias)
            RunEvent.objects.using(alias).create(
                level=RunEvent.Level.AUDIT, text="began", person=run.requested_by, **{owner: run}
            )
        return run
    except IntegrityError:
        # Another one is recorded. Whether it lives is told by the lock of its target.
        logger.info("another run of this target is queued or running")
    except Exception as error:  # noqa: BLE001 - a record is no reason to fail
        logger.debug("a run is not recorded: %s", type(error).__name__)
    finally:
        if not connections[alias].in_atomic_block:
            # Who copies a database at once needs everybody gone.
            connections[alias].close()
    return None


# -- both


def _beginning(run: Run) -> dict[str, Any]:
    now = timezone.now()
    is_copy = isinstance(run, RestoreRun) and run.kind == Kind.COPY
    return {
        "started_at": now,
        "heard_at": now,
        "worker": worker_name(),
        "process": own_process(),
        "phase": Phase.COPYING if is_copy else "",
    }


def _execute(run: Run, reporter: RunReporter, work: Work) -> None:
    status, fields = Status.FAILED, _told("interrupted", "the worker was stopped", None)
    try:
        with reporter:
            try:
                fields = work(reporter)
                status = Status.SUCCEEDED
            except Cancelled as error:
                status, fields = Status.CANCELLED, _told(error.code, error.message, error.hint)
                raise
            except PgcloneError as error:
                fields = _told(error.code, error.message, error.hint)
                raise
            except psycopg2.Error as error:
                told = refused(error)
                fields = _told(told.code, told.message, told.hint)
                raise
            except KeyboardInterrupt:
                status, fields = Status.CANCELLED, _told("cancelled", "cancelled", None)
                raise
            except Exception as error:
                fields = _told("internal", f"{type(error).__name__}: {error}", None)
                raise
    finally:
        reporter.finish(status, **fields)


def _told(code: str, message: str, hint: str | None) -> dict[str, str]:
    hidden = secrets()
    return {
        "error_code": code,
        "error": storable(message, hidden),
        "hint": storable(hint or "", hidden),
    }
