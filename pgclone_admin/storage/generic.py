"""Dumps in any backend of Django or django-storages."""

from __future__ import annotations

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any, cast

from django.core.files.base import ContentFile, File
from django.core.files.storage import InMemoryStorage, Storage

from ..core.dump import Content
from ..core.errors import Conflict, StorageError
from ..core.space import megabytes
from ..core.streams import BLOCK, Readable
from .base import (
    PARTIAL,
    Backend,
    Leftover,
    Moved,
    Note,
    Stored,
    called_otherwise,
    final_name,
    is_partial,
    removed_on_error,
    say_nothing,
    storage_errors,
    taken,
)

FETCHING_CLASSES = {
    "storages.backends.gcloud.GoogleCloudStorage": "a temporary file",
    "storages.backends.azure_storage.AzureStorage": "a temporary file",
    "storages.backends.dropbox.DropboxStorage": "memory",
    "storages.backends.ftp.FTPStorage": "memory",
    "storages.backends.apache_libcloud.LibCloudStorage": "memory",
}
"""Backends that fetch a file whole before they give its first byte, and where they put it."""

SIGN = "The file of this name is still being stored, or was left by a process that died.\n"
BEGAN = "Its storing began at "
"""Comes after it, before a moment (ISO 8601, UTC): many storages tell no time of a file."""

IN_MEMORY = 2 * 1024 * 1024
"""Bytes of a file that are kept in memory before it goes to the disk."""


class StreamedFile(File):  # type: ignore[type-arg]
    """A ``File`` that is read once, from front to back."""

    def __init__(self, content: Content, name: str) -> None:
        super().__init__(cast(IO[Any], content), name=name)
        self._content = content

    @property
    def closed(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        while block := self.read(chunk_size or BLOCK):
            yield block

    def close(self) -> None:
        return None


class _Spool(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
    """A dump on the disk of this machine, which tells when it is read on."""

    def __init__(self, moved: Moved) -> None:
        super().__init__(max_size=IN_MEMORY, prefix="pgclone-")
        self._moved = moved

    def read(self, *arguments: Any) -> bytes:
        self._moved()
        return cast(bytes, super().read(*arguments))


class GenericBackend(Backend):
    """Whatever implements Django's ``Storage``.

    Some write under the final name, and none can rename. So a small file is stored before, and
    removed after: as long as it lies there, what it stands for is only a part of itself, which
    nothing lists. When the process dies, both stay.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str = "",
        note: Note = say_nothing,
        moved: Moved = lambda: None,
    ) -> None:
        # Their spooled files take 0 for no limit, and would hold a whole dump in memory.
        if getattr(storage, "max_memory_size", None) == 0:
            storage = copy.copy(storage)
            storage.max_memory_size = IN_MEMORY  # type: ignore[attr-defined]
        self._storage = storage
        self._prefix = prefix
        self._note = note
        self._moved = moved
        self._name = type(storage).__name__
        self._bases = [f"{base.__module__}.{base.__qualname__}" for base in type(storage).__mro__]

    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        what = f'"{name}" cannot be stored'
        with storage_errors(what):
            full_name, sign = self._prefix + name, self._sign(name)
            if self._storage.exists(sign):
                raise _begun(name)
            if self._storage.exists(full_name):
                raise taken(name)
            with removed_on_error(lambda: self._delete(sign)), storage_errors(what):
                signed_as = self._storage.save(sign, ContentFile(_sign_now()))
            # Under another name, the one that is there is somebody else's.
            self._check_name(sign, signed_as)
            with removed_on_error(lambda: self._remove(full_name, sign)), storage_errors(what):
                saved_as = self._save(full_name, content, expected_size)
            self._storage.delete(sign)
            self._check_name(full_name, saved_as)

    def _check_name(self, name: str, saved_as: str) -> None:
        """What lies under another name than that is removed."""
        if saved_as != name:
            self._storage.delete(saved_as)
            raise called_otherwise(name)

    def _sign(self, name: str) -> str:
        """Says that the file with this name is not whole."""
        token = hashlib.sha256(name.encode()).hexdigest()[:16]
        return f"{self._prefix}{name}{PARTIAL}{token}"

    def _remove(self, partial: str, sign: str) -> None:
        """The sign stays as long as what it stands for."""
        self._delete(partial)
        self._delete(sign)

    def _delete(self, name: str) -> None:
        """Some storages refuse to delete what is not there."""
        if self._storage.exists(name):
            self._storage.delete(name)

    def _save(self, name: str, content: Content, expected_size: int) -> str:
        if self._streams():
            return self._storage.save(name, StreamedFile(content, name))
        with _Spool(self._moved) as spool:
            self._spool(content, spool, expected_size)
            spool.seek(0)
            return self._storage.save(name, File(spool, name=name))

    def _spool(self, content: Content, spool: IO[bytes], expected_size: int) -> None:
        folder = tempfile.gettempdir()
        is_large = expected_size > IN_MEMORY
        if is_large:
            self._note(
                f"{self._name} takes whole files only, so the dump is put into a temporary file in "
                f"{folder} first: {megabytes(shutil.disk_usage(folder).free)} are free there, the "
                f"database has {megabytes(expected_size)}"
            )
        while block := content.read(BLOCK):
            try:
                spool.write(block)
            except OSError as error:
                raise StorageError(
                    f"the temporary file in {folder} cannot hold the dump: {error.strerror}",
                    hint="Make room there, or name another directory with TMPDIR. The file was "
                    "removed.",
                ) from error
        if is_large:
            self._note(f"the temporary file has {megabytes(content.size)} and is sent now")

    def _streams(self) -> bool:
        """Whether it takes a file of unknown size in pieces.

        The others (Google Cloud, Azure, Dropbox) rewind the file or ask for its size first, so that
        for them a dump is put into a temporary file before.
        """
        return isinstance(self._storage, InMemoryStorage)

    def open(self, name: str) -> Readable:
        with storage_errors(f'"{name}" cannot be read'):
            self._tell_of_fetching(self._prefix + name)
            return _StorageReader(self._storage.open(self._prefix + name, "rb"), name)

    def fetches(self, name: str) -> int:
        with storage_errors(f'"{name}" cannot be read'):
            return int(self._storage.size(self._prefix + name)) if self._fetches_into() else 0

    def _fetches_into(self) -> str:
        """Where it puts a whole file first; empty when it reads as it goes."""
        return next(
            (FETCHING_CLASSES[base] for base in self._bases if base in FETCHING_CLASSES), ""
        )

    def _tell_of_fetching(self, full_name: str) -> None:
        where = self._fetches_into()
        if where and (size := int(self._storage.size(full_name))) > IN_MEMORY:
            self._note(
                f"{self._name} gives whole files only, so all of the dump is fetched first, into "
                f"{where}: {megabytes(size)}"
            )

    def size(self, name: str) -> int | None:
        with storage_errors(f'"{name}" cannot be read'):
            if not self._storage.exists(self._prefix + name):
                return None
            if self._storage.exists(self._sign(name)):
                return None
            return int(self._storage.size(self._prefix + name))

    def delete(self, name: str) -> None:
        with storage_errors(f'"{name}" cannot be deleted'):
            self._delete(self._prefix + name)

    def list(self, prefix: str) -> Iterator[Stored]:
        with storage_errors("the storage cannot be listed"):
            names = list(self._walk(self._prefix.rstrip("/")))
            unfinished = {final_name(name) for name in names if is_partial(name)}
            for name in names:
                relative = name.removeprefix(self._prefix)
                if is_partial(name) or name in unfinished or not relative.startswith(prefix):
                    continue
                if stored := self._stored(relative, name):
                    yield stored

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        with storage_errors("the storage cannot be listed"):
            for name in self._walk(self._prefix.rstrip("/")):
                if is_partial(name):
                    changed = self._last_sign_of_life(name)
                    if changed is not None and changed < older_than:
                        yield Leftover(name.removeprefix(self._prefix), changed)

    def discard(self, leftover: Leftover) -> None:
        with storage_errors(f'"{leftover.name}" cannot be removed'):
            sign = self._prefix + leftover.name
            # It may have been another one's since it was found.
            if self._storage.exists(sign) and self._last_sign_of_life(sign) == leftover.since:
                self._remove(final_name(sign), sign)

    def _last_sign_of_life(self, sign: str) -> datetime | None:
        """When the sign was made, or its file was last written to, if anything tells."""
        moments = [self._modified(sign) or self._began(sign)]
        if self._storage.exists(final_name(sign)):
            moments.append(self._modified(final_name(sign)))
        return max((moment for moment in moments if moment is not None), default=None)

    def _began(self, sign: str) -> datetime | None:
        """What the sign itself says."""
        with self._storage.open(sign, "rb") as file:
            text = file.read(BLOCK).decode(errors="replace")
        try:
            return datetime.fromisoformat(text.partition(BEGAN)[2].strip())
        except ValueError:
            return None

    def _stored(self, relative: str, name: str) -> Stored | None:
        """``None`` for what somebody has deleted since it was listed."""
        try:
            return Stored(relative, self._storage.size(name), self._modified(name))
        except Exception:
            if self._storage.exists(name):
                raise
            return None

    def _walk(self, directory: str) -> Iterator[str]:
        try:
            directories, files = self._storage.listdir(directory)
        except FileNotFoundError:
            return
        start = f"{directory}/" if directory else ""
        for file in files:
            if file:
                yield start + file
        for child in directories:
            yield from self._walk(start + child)

    def _modified(self, name: str) -> datetime | None:
        try:
            modified = self._storage.get_modified_time(name)
        except NotImplementedError:
            return None
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)


def _sign_now() -> bytes:
    return f"{SIGN}{BEGAN}{datetime.now(UTC).isoformat(timespec='seconds')}\n".encode()


def _begun(name: str) -> Conflict:
    return Conflict(
        f'"{name}" exists already, or a part of it: somebody is storing it, or has died meanwhile',
        hint="Nothing was overwritten. What a process that died has left is removed by: pgclone "
        "recover",
    )


class _StorageReader:
    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int, /) -> bytes:
        with storage_errors(f'"{self._name}" cannot be read'):
            return cast(bytes, self._file.read(size))

    def close(self) -> None:
        self._file.close()
