"""Every error that pgclone_admin raises on purpose.

::

    PgcloneError
    ├── UsageError                what was asked for makes no sense
    │   ├── InvalidName
    │   ├── ConfigurationError
    │   ├── UnknownDatabase
    │   ├── UnknownConfiguration
    │   ├── UnknownModel
    │   ├── UnknownHook
    │   ├── DumpNotFound
    │   ├── AmbiguousKey
    │   ├── InvalidScript
    │   ├── TransactionControl
    │   └── BadPlaceholder
    ├── NotAllowed                a setting forbids it here
    ├── PreflightError            it cannot work, seen before anything was touched
    │   ├── ProgramMissing
    │   ├── ServerUnavailable
    │   ├── PermissionMissing
    │   │   └── NotCarried        settings or grants of the live database
    │   ├── DatabaseProtected
    │   └── UntrustedDump
    ├── Conflict                  somebody or something else is in the way
    │   ├── StandbyUnreached      its sessions would go on with what is replaced
    │   └── TooBusy
    ├── ProcessFailed             pg_dump or pg_restore ended with an error
    │   ├── KilledBySignal
    │   └── LockTimeout
    ├── StorageError
    │   └── SizeMismatch
    ├── IntegrityError            the bytes are not the bytes that were dumped
    │   └── UnknownFormat
    ├── RestoreFailed
    ├── NoRoom                    the disk of the server, or what may be used of it
    ├── HookFailed
    ├── NotAnonymized             a configuration requires it
    ├── Cancelled
    ├── Stalled                   nothing has moved for too long
    ├── TimedOut                  the time that it may take is over
    └── Interrupted               the process was told to end

The docstring of a class is its default message. ``code`` is stable and meant for programs,
the message and the ``hint`` are meant for people. Neither ever holds a password or a URI.
"""

from __future__ import annotations

import inspect


class PgcloneError(Exception):
    """the operation failed"""

    code = "error"

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        self.hint = hint
        super().__init__(self.message)


class UsageError(PgcloneError):
    """the request cannot be understood"""

    code = "usage"


class InvalidName(UsageError):
    """the name cannot be used"""

    code = "invalid_name"


class ConfigurationError(UsageError):
    """a setting or configuration has a value that cannot be used"""

    code = "configuration"


class UnknownDatabase(UsageError):
    """there is no such database"""

    code = "unknown_database"


class UnknownConfiguration(UsageError):
    """there is no such configuration"""

    code = "unknown_configuration"


class UnknownModel(UsageError):
    """there is no such model"""

    code = "unknown_model"


class UnknownHook(UsageError):
    """there is no such hook"""

    code = "unknown_hook"


class DumpNotFound(UsageError):
    """no dump matches"""

    code = "dump_not_found"


class AmbiguousKey(UsageError):
    """the key can be read in more than one way"""

    code = "ambiguous_key"


class InvalidScript(UsageError):
    """the SQL cannot be read"""

    code = "invalid_script"


class TransactionControl(UsageError):
    """a hook may not begin or end a transaction"""

    code = "transaction_control"


class BadPlaceholder(UsageError):
    """a placeholder cannot be replaced"""

    code = "bad_placeholder"


class NotAllowed(PgcloneError):
    """the settings of this site do not allow it"""

    code = "not_allowed"


class PreflightError(PgcloneError):
    """the operation cannot work and was not started"""

    code = "preflight"


class ProgramMissing(PreflightError):
    """no suitable PostgreSQL client program was found"""

    code = "program_missing"


class ServerUnavailable(PreflightError):
    """the PostgreSQL server cannot be reached"""

    code = "server_unavailable"


class PermissionMissing(PreflightError):
    """the database role lacks a privilege"""

    code = "permission_missing"


class NotCarried(PermissionMissing):
    """settings or grants of the database cannot be carried over"""

    code = "not_carried"


class DatabaseProtected(PreflightError):
    """the database was not made by pgclone_admin and is never dropped or overwritten"""

    code = "database_protected"


class UntrustedDump(PreflightError):
    """the dump was not made by pgclone_admin and the role is a superuser"""

    code = "untrusted_dump"


class Conflict(PgcloneError):
    """something else is in the way"""

    code = "conflict"


class StandbyUnreached(Conflict):
    """sessions on a standby would go on reading the database that is replaced"""

    code = "standby_unreached"


class TooBusy(Conflict):
    """the database is too busy"""

    code = "too_busy"


class ProcessFailed(PgcloneError):
    """a PostgreSQL client program failed"""

    code = "process_failed"


class KilledBySignal(ProcessFailed):
    """a PostgreSQL client program was killed by a signal"""

    code = "killed_by_signal"

    def __init__(self, message: str | None = None, *, signal: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signal = signal


class LockTimeout(ProcessFailed):
    """a lock was not granted in time"""

    code = "lock_timeout"


class StorageError(PgcloneError):
    """the storage location failed"""

    code = "storage_error"


class SizeMismatch(StorageError):
    """the storage holds another number of bytes than was written"""

    code = "size_mismatch"


class IntegrityError(PgcloneError):
    """the archive is damaged or was altered"""

    code = "integrity_error"


class UnknownFormat(IntegrityError):
    """this is not a PostgreSQL archive in custom format"""

    code = "unknown_format"


class RestoreFailed(PgcloneError):
    """the archive could not be restored"""

    code = "restore_failed"


class NoRoom(PgcloneError):
    """there is no room on the disk of the server"""

    code = "no_room"


class HookFailed(PgcloneError):
    """a hook failed"""

    code = "hook_failed"

    may_be_kept = True
    """Whether the database that it worked on may stay for a look at it."""


class NotAnonymized(PgcloneError):
    """personal data has not been replaced"""

    code = "not_anonymized"


class Cancelled(PgcloneError):
    """the operation was cancelled"""

    code = "cancelled"


class Stalled(PgcloneError):
    """nothing has moved for too long"""

    code = "stalled"


class TimedOut(PgcloneError):
    """the operation took too long"""

    code = "timed_out"


class Interrupted(PgcloneError):
    """the process was told to end"""

    code = "interrupted"


INTERRUPTIONS = (KeyboardInterrupt, Cancelled, TimedOut, Interrupted)
"""How an operation learns that it is to end; the others tell that it cannot go on."""
