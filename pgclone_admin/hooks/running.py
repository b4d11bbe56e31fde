"""Runs hooks in their order, each on the right database and in the right transaction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg2
from django.db import DEFAULT_DB_ALIAS, connections

from ..core import evidence
from ..core.errors import Cancelled, HookFailed, PgcloneError
from ..core.progress import Reporter
from ..databases import secrets, site_params
from ..routing import route
from .anonymizing import AnonymizeHook
from .base import HookResult, Output, failed
from .command import CommandHook
from .deadline import TimeIsUp, watched
from .loading import AnyHook, TransactionalHook
from .python import PythonHook
from .session import Transaction, transaction
from .waiting import never_for_itself

BEGINS = "running the hook "
"""What is told before a hook runs; what it says is indented after it."""

ENDED = "the hook "
TOOK = "took"
FAILED_AFTER = "failed after"
"""What is told after it: both words are followed by its seconds."""


@dataclass(frozen=True)
class Place:
    """The database that hooks work on: ``alias`` leads to the one with this name while they run."""

    alias: str
    name: str


def run_hooks(
    hooks: Sequence[AnyHook], *, alias: str, name: str, reporter: Reporter
) -> list[HookResult]:
    """Runs ``hooks`` in order, with Django's connections sent to the database ``name``.

    SQL and Python hooks in a row share one transaction, which is committed before a management
    command, that is, before another connection needs what they did. :class:`HookFailed` from the
    first one that fails; those after it do not run, and the transaction that it was in is undone.
    """
    place = Place(alias, name)
    results: list[HookResult] = []
    still_raw = sum(hook.labels.anonymizes for hook in hooks)
    for is_command, group in groupby(hooks, lambda hook: isinstance(hook, CommandHook)):
        segment: list[Any] = list(group)
        try:
            if is_command:
                results.extend(_run_command(hook, place, reporter) for hook in segment)
            else:
                results += _run_transaction(segment, place, reporter)
        except HookFailed as error:
            # What was not anonymized is not left lying about for a look at it.
            error.may_be_kept = not still_raw
            raise
        still_raw -= sum(hook.labels.anonymizes for hook in segment)
    return results


def _run_command(hook: CommandHook, place: Place, reporter: Reporter) -> HookResult:
    with route(place.alias, place.name), _told(hook, place, reporter) as told:
        hook.run(place.alias, told.output)
    if hook.labels.anonymizes:
        with transaction(place.alias, place.name) as shared:
            _attest(hook, shared)
    return told.result()


def _run_transaction(
    hooks: Sequence[TransactionalHook], place: Place, reporter: Reporter
) -> list[HookResult]:
    results = []
    # Python hooks may use the models of the project, too.
    with route(place.alias, place.name):
        with transaction(place.alias, place.name) as shared:
            for hook in hooks:
                with _told(hook, place, reporter, shared) as told, ExitStack() as stack:
                    if isinstance(hook, PythonHook):
                        stack.enter_context(never_for_itself(shared, place.alias, place.name))
                    hook.run_in(shared.connection, told.output, reporter.check)
                if hook.labels.anonymizes and told.output.changed is None:
                    _attest(hook, shared)
                results.append(told.result())
            _check_constraints(hooks, shared)
        if anonymizing := [hook for hook in hooks if isinstance(hook, AnonymizeHook)]:
            with site_params(place.alias, place.name).session() as connection:
                for hook in anonymizing:
                    with _finishing(hook, reporter, connection):
                        hook.finish(connection)
    return results


def _check_constraints(hooks: Sequence[TransactionalHook], shared: Transaction) -> None:
    """What otherwise the commit would find is an error of the hooks. What the server says beside
    its sentence can be a raw row, and is left out."""
    try:
        shared.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except psycopg2.Error as error:
        names = ", ".join(f'"{hook.labels.name}"' for hook in hooks)
        reason = error.diag.message_primary or type(error).__name__
        raise HookFailed(f"what was done by {names} cannot be committed: {reason}") from None


@contextlib.contextmanager
def _finishing(hook: AnonymizeHook, reporter: Reporter, connection: Any) -> Iterator[None]:
    """Ends what is done after the commit in time, too, and when the run is to end."""
    limit = hook.labels.timeout
    try:
        with watched(limit, reporter, connection.cancel):
            yield
    except TimeIsUp as error:
        reason = "what is left of raw rows was not removed in time"
        raise HookFailed(f'the hook "{hook.labels.name}" failed: {reason}') from error
    except HookFailed:
        reporter.check()
        raise


def _attest(hook: AnyHook, shared: Transaction) -> None:
    """For hooks of the project that say of themselves that they anonymize."""
    with shared.connection.cursor() as cursor:
        evidence.write(cursor, digest=hook.labels.name, fields=[])


class _Told:
    """One hook at work, and how long it takes."""

    def __init__(self, hook: AnyHook, reporter: Reporter) -> None:
        self.hook = hook
        self.output = Output(reporter, secrets())
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def result(self) -> HookResult:
        return HookResult(
            self.hook.labels.name, self.hook.kind, round(self.seconds, 3), self.output.changed
        )


@contextlib.contextmanager
def _told(
    hook: AnyHook, place: Place, reporter: Reporter, shared: Transaction | None = None
) -> Iterator[_Told]:
    """Tells what the hook does, ends it in time, and makes every error of it one of ours."""
    reporter.check()
    name = hook.labels.name
    reporter.note(f"{BEGINS}{name}")
    told = _Told(hook, reporter)
    is_done = False
    with ExitStack() as stack:
        stack.callback(lambda: reporter.note(_end(name, told.seconds, is_done=is_done)))
        stack.callback(told.output.finish)
        try:
            with (
                contextlib.redirect_stdout(told.output),
                contextlib.redirect_stderr(told.output),
                watched(hook.labels.timeout, reporter, _canceller(place, shared)),
            ):
                try:
                    yield told
                except SystemExit as error:
                    if error.code not in (None, 0):
                        raise
            if shared is not None:
                # Whichever way the hook has ended.
                shared.check(name)
            is_done = True
        except TimeIsUp as error:
            # A hook that runs hooks is ended by the time of the one around it.
            limit = "it may" if hook.labels.timeout is None else f"{hook.labels.timeout:g} s"
            raise failed(name, f"it took longer than {limit}", told.output) from error
        except Cancelled:
            raise
        except PgcloneError as error:
            # When the run is to end, that is the reason, and statements are cancelled for it. What
            # the hook has waited for, and was ended, is an error of the hook.
            reporter.check()
            cause = error.__cause__ if isinstance(error, HookFailed) else error
            raise _named(error, name, told.output) from cause
        except SystemExit as error:
            told.output.clean(error)
            raise failed(name, f"exit status {error.code}", told.output) from error
        except Exception as error:
            reporter.check()
            told.output.clean(error)
            raise failed(name, _reason(error), told.output) from error


def _end(name: str, seconds: float, *, is_done: bool) -> str:
    return f"{ENDED}{name} {TOOK if is_done else FAILED_AFTER} {seconds:.1f} s"


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _named(error: PgcloneError, name: str, output: Output) -> HookFailed:
    """The error as the failure of its hook, with the name of the hook once."""
    if error.message.startswith('the hook "'):
        named = HookFailed(error.message)
    else:
        named = failed(name, error.message, output)
    named.hint = error.hint
    return named


def _canceller(place: Place, shared: Transaction | None) -> Callable[[], None]:
    """Cancels what the connections of this thread execute, from another thread."""
    wrappers = [connections[alias] for alias in {DEFAULT_DB_ALIAS, place.alias}]

    def cancel() -> None:
        found: list[Any] = [wrapper.connection for wrapper in wrappers]
        for connection in [*found, None if shared is None else shared.connection]:
            if connection is not None:
                with contextlib.suppress(psycopg2.Error):
                    connection.cancel()

    return cancel
