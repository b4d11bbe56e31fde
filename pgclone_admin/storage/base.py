"""What every storage backend does."""

from __future__ import annotations

import errno
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex

from django.core.exceptions import SuspiciousOperation

from ..core.dump import Content
from ..core.errors import Conflict, IntegrityError, InvalidName, PgcloneError, StorageError
from ..core.names import DumpKey
from ..core.process import scrubbed
from ..core.streams import Readable
from ..databases import secrets

Note = Callable[[str], None]
"""Takes a sentence for the log of whoever uses the storage."""


Moved = Callable[[], None]
"""Told, from whatever thread, that a storage goes on where nobody can see it."""


def say_nothing(_message: str) -> None:
    """For who does not listen."""


@dataclass(frozen=True)
class Stored:
    """One file of a storage: its name, bytes, and when it was last changed (UTC)."""

    name: str
    size: int | None
    modified: datetime | None


@dataclass(frozen=True)
class Leftover:
    """What a process that died has left in a storage, and that nothing lists."""

    name: str
    since: datetime
    """When it was last changed, or begun (UTC)."""
    kind: str = "partial file"
    upload: str = ""
    """The number of an unfinished upload."""

    @property
    def key(self) -> DumpKey:
        """That of the dump which it would be, or would be the manifest of."""
        name = final_name(self.name) if is_partial(self.name) else self.name
        name = name.removesuffix(".json")
        try:
            return DumpKey.parse(name)
        except InvalidName:
            return DumpKey(name)


FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

RESUMES = 5
"""How often a download is taken up again at one and the same byte after its connection broke."""

FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each one after it waits twice as long. The first one is made
at once."""

PARTIAL = ".partial-"
"""What is in the name of a file that is still being written."""

_PARTIAL_NAME = re.compile(rf"(?:.+/)?[^/]+{re.escape(PARTIAL)}[0-9a-f]{{16}}")


def partial_name(name: str) -> str:
    """A name of its own for a file that will be called ``name`` once it is whole."""
    return f"{name}{PARTIAL}{token_hex(8)}"


def is_partial(name: str) -> bool:
    return _PARTIAL_NAME.fullmatch(name) is not None


def final_name(partial: str) -> str:
    """What a file with a name of :func:`partial_name` would have been called."""
    return partial.rpartition(PARTIAL)[0]


def taken(name: str) -> Conflict:
    return Conflict(f'"{name}" exists already', hint="Nothing was overwritten.")


def called_otherwise(name: str) -> Conflict:
    """For a storage that chooses another name instead of saying that this one is taken."""
    return Conflict(f'the storage would store "{name}" under another name')


class Breaks:
    """The breaks of the connection of one download."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._position = -1
        self._times = 0

    def another(self, position: int, problem: Exception) -> None:
        """After a break at this byte: returns when the next attempt is to be made.

        :class:`StorageError` when there were too many without a byte between them; a long download
        may break any number of times.
        """
        self._times = self._times + 1 if position == self._position else 1
        self._position = position
        if self._times > RESUMES:
            raise StorageError(
                f'"{self._name}" cannot be read: the connection broke {self._times} times at the '
                "same byte",
                hint="Nothing was changed. Try again when the network is better.",
            ) from problem
        if self._times > 1:
            time.sleep(FIRST_PAUSE * 2 ** (self._times - 2))


def replaced_meanwhile(name: str) -> IntegrityError:
    """The digest would notice another file under the same name, but only at the end."""
    return IntegrityError(
        f'"{name}" was replaced while it was read',
        hint="Nothing was changed. Look at what replaces dumps in this storage.",
    )


@contextmanager
def removed_on_error(delete: Callable[[], None]) -> Iterator[None]:
    """Storages may leave what they have taken so far, or all of it when the last step failed; the
    first error is the one to be told."""
    try:
        yield
    except BaseException as error:
        try:
            delete()
        except Exception as failed:  # noqa: BLE001 - whatever the storage raises
            error.add_note(f"what was stored of it could not be removed either: {failed}")
        raise


class Backend(ABC):
    """Bytes under names relative to a storage location.

    Every method raises :class:`StorageError` when the storage fails.
    """

    @abstractmethod
    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        """Publishes all of ``content`` under ``name``, or nothing.

        ``Conflict`` when the name is taken. What ``content`` raises goes through, after what was
        written so far is removed; it is read in a thread that no signal interrupts, so that this is
        always an ``Exception``. ``expected_size`` in bytes is a guess from above.
        """

    @abstractmethod
    def open(self, name: str) -> Readable:
        """The stored bytes, in order, read as they are asked for."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes under the name, or ``None`` when nothing is there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes what is under the name, if anything."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Stored]:
        """Every file whose name begins with ``prefix``, in no order."""

    def fetches(self, name: str) -> int:
        """Bytes that are fetched, out of sight, before the first of them is given."""
        return 0

    def link(self, name: str, *, seconds: int, file_name: str) -> str | None:
        """An address under which a browser gets the stored bytes for so long, as a file of that
        name; ``None`` where the storage has no such thing."""
        return None

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        """What processes that died have left before that moment; nothing where it cannot be told.

        A dump without a manifest, or a manifest without a dump, is none.
        """
        return iter(())

    def discard(self, leftover: Leftover) -> None:
        """Removes what :meth:`leftovers` has found; fine when it is gone already."""
        raise NotImplementedError


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns what a storage raises into a sentence, without the secrets that some say in theirs.

    Errors of ours, which come through a storage from what it reads, stay as they are.
    """
    try:
        yield
    except PgcloneError:
        raise
    except SuspiciousOperation as error:
        raise InvalidName(f"{what}: the name points out of the storage location") from error
    except Exception as error:  # noqa: BLE001 - see below
        # Every backend of django-storages has errors of its own, which share no base class. Those
        # of requests are of the system, too, and say the whole address.
        whole, hidden = str(error), secrets()
        text = getattr(error, "strerror", None) or whole or type(error).__name__
        raise StorageError(f"{what}: {scrubbed(str(text), hidden)}", hint=_hint(error)) from (
            error if scrubbed(whole, hidden) == whole else None
        )


def _hint(error: Exception) -> str | None:
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. What was written so far has been removed."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Let the user that runs this command write to the storage location."
    return None
