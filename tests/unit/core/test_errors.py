"""The tree of errors, its codes and its sentences."""

from __future__ import annotations

import inspect
import re

import pytest

from pgclone_admin.core import errors
from pgclone_admin.core.errors import KilledBySignal, PgcloneError

CODES = {
    "AmbiguousKey": "ambiguous_key",
    "BadPlaceholder": "bad_placeholder",
    "Cancelled": "cancelled",
    "ConfigurationError": "configuration",
    "Conflict": "conflict",
    "DatabaseProtected": "database_protected",
    "DumpNotFound": "dump_not_found",
    "HookFailed": "hook_failed",
    "IntegrityError": "integrity_error",
    "Interrupted": "interrupted",
    "InvalidName": "invalid_name",
    "InvalidScript": "invalid_script",
    "KilledBySignal": "killed_by_signal",
    "LockTimeout": "lock_timeout",
    "NoRoom": "no_room",
    "NotAllowed": "not_allowed",
    "NotAnonymized": "not_anonymized",
    "NotCarried": "not_carried",
    "PermissionMissing": "permission_missing",
    "PgcloneError": "error",
    "PreflightError": "preflight",
    "ProcessFailed": "process_failed",
    "ProgramMissing": "program_missing",
    "RestoreFailed": "restore_failed",
    "ServerUnavailable": "server_unavailable",
    "SizeMismatch": "size_mismatch",
    "Stalled": "stalled",
    "StandbyUnreached": "standby_unreached",
    "StorageError": "storage_error",
    "TimedOut": "timed_out",
    "TooBusy": "too_busy",
    "TransactionControl": "transaction_control",
    "UnknownConfiguration": "unknown_configuration",
    "UnknownDatabase": "unknown_database",
    "UnknownFormat": "unknown_format",
    "UnknownHook": "unknown_hook",
    "UnknownModel": "unknown_model",
    "UntrustedDump": "untrusted_dump",
    "UsageError": "usage",
}
"""Programs depend on these: a code may be added, never changed."""

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception)
}


def make(kind: type[PgcloneError], *args: str, **changes: str) -> PgcloneError:
    more = {"signal": 9} if issubclass(kind, KilledBySignal) else {}
    return kind(*args, **more, **changes)  # type: ignore[arg-type]


def test_codes_are_stable() -> None:
    # Also the other way round: a class that is new has its code written down here.
    assert {name: value.code for name, value in CLASSES.items()} == CODES


def test_codes_are_unique_and_fit_for_programs() -> None:
    codes = [value.code for value in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("name", CLASSES)
def test_the_docstring_of_a_class_is_its_message_unless_there_is_a_better_one(name: str) -> None:
    kind = CLASSES[name]
    assert kind.__doc__
    assert make(kind).message == inspect.cleandoc(kind.__doc__)
    assert str(make(kind)) == make(kind).message
    assert make(kind).hint is None
    error = make(kind, "the disk is full", hint="Make room.")
    assert (str(error), error.message, error.hint) == (
        "the disk is full",
        "the disk is full",
        "Make room.",
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_message_is_one_sentence_that_can_stand_after_error(name: str) -> None:
    message = make(CLASSES[name]).message
    assert "\n" not in message
    assert not message.endswith(".")


def test_the_tree_in_the_documentation_is_the_tree_of_the_classes() -> None:
    assert errors.__doc__
    documented: dict[str, str | None] = {}
    above: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ((?:[│├└─ ]{4})*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            above[depth] = match[2]
            documented[match[2]] = above[depth - 1] if depth else None
    real = {
        name: None if kind is PgcloneError else kind.__bases__[0].__name__
        for name, kind in CLASSES.items()
    }
    assert documented == real


def test_a_program_that_was_killed_says_by_which_signal() -> None:
    error = KilledBySignal("pg_dump was killed by SIGKILL", signal=9)
    assert (error.signal, error.code) == (9, "killed_by_signal")
