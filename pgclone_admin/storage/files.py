"""Dumps in a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from django.core.files.storage import FileSystemStorage

from ..core.dump import Content
from ..core.errors import InvalidName
from ..core.streams import BLOCK, Readable
from .base import (
    DIRECTORY_MODE,
    FILE_MODE,
    PARTIAL,
    Backend,
    Leftover,
    Stored,
    is_partial,
    partial_name,
    removed_on_error,
    storage_errors,
    taken,
)


class FileBackend(Backend):
    """A directory of the file system.

    ``FileSystemStorage.save`` writes under the final name, and leaves what it has written there
    when it fails. So files are written here: under a partial name, to the disk, and only then
    linked to their own name. When the process dies, a partial file stays that nothing lists.
    """

    def __init__(self, storage: FileSystemStorage, prefix: str = "") -> None:
        self._root = Path(storage.path(prefix) if prefix else storage.location)

    @classmethod
    def of_directory(cls, directory: Path) -> FileBackend:
        return cls(FileSystemStorage(location=directory))

    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        with storage_errors(f'"{name}" cannot be stored'):
            path = self._path(name)
            if os.path.lexists(path):
                raise taken(name)
            _make_directory(path.parent)
            partial = path.with_name(partial_name(path.name))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, FILE_MODE), "wb") as file:
                try:
                    while block := content.read(BLOCK):
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                    _publish(partial, path, name)
                finally:
                    partial.unlink(missing_ok=True)
            with removed_on_error(lambda: path.unlink(missing_ok=True)):
                _sync_directory(path.parent)

    def open(self, name: str) -> Readable:
        with storage_errors(f'"{name}" cannot be read'):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path(name), flags)
            return _FileReader(os.fdopen(descriptor, "rb", buffering=0), name)

    def size(self, name: str) -> int | None:
        with storage_errors(f'"{name}" cannot be read'):
            try:
                status = self._path(name).lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return status.st_size if stat.S_ISREG(status.st_mode) else None

    def delete(self, name: str) -> None:
        with storage_errors(f'"{name}" cannot be deleted'), contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()

    def list(self, prefix: str) -> Iterator[Stored]:
        with storage_errors(f'the directory "{self._root}" cannot be listed'):
            for directory, _directories, files in os.walk(self._root, onerror=_unless_missing):
                for file in files:
                    path = Path(directory, file)
                    name = path.relative_to(self._root).as_posix()
                    if PARTIAL in file or not name.startswith(prefix) or path.is_symlink():
                        continue
                    try:
                        status = path.stat()
                    except FileNotFoundError:  # deleted since the directory was read
                        continue
                    modified = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield Stored(name, status.st_size, modified)

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        with storage_errors(f'the directory "{self._root}" cannot be listed'):
            for directory, _directories, files in os.walk(self._root, onerror=_unless_missing):
                for file in filter(is_partial, files):
                    path = Path(directory, file)
                    changed = _changed(path)
                    if changed is not None and changed < older_than:
                        yield Leftover(path.relative_to(self._root).as_posix(), changed)

    def discard(self, leftover: Leftover) -> None:
        with storage_errors(f'"{leftover.name}" cannot be removed'):
            path = self._path(leftover.name)
            # It may have been another one's since it was found, or a link.
            if _changed(path) == leftover.since:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        """The path of a file, none of whose directories leads out of the location."""
        root = self._root.resolve()
        path = root / name
        if not path.parent.resolve().is_relative_to(root):
            raise InvalidName(f'"{name}" leads out of the storage location by a symbolic link')
        return path


class _FileReader:
    def __init__(self, file: FileIO, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int, /) -> bytes:
        with storage_errors(f'"{self._name}" cannot be read'):
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def _changed(path: Path) -> datetime | None:
    """When a regular file was last changed; ``None`` for anything else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(status.st_mtime, UTC) if stat.S_ISREG(status.st_mode) else None


def _make_directory(directory: Path) -> None:
    """With its parents, for which ``mkdir`` would not use the mode."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=DIRECTORY_MODE, exist_ok=True)


def _publish(partial: Path, path: Path, name: str) -> None:
    """Gives the file its name, which a link, unlike a rename, never takes from another file."""
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise taken(name) from error
    except OSError:
        # A file system without hard links.
        if os.path.lexists(path):
            raise taken(name) from None
        partial.rename(path)


def _sync_directory(directory: Path) -> None:
    """As far as that is possible: not every file system can, and nobody need be able to read it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _unless_missing(error: OSError) -> None:
    """A location that nothing was ever stored in is empty; one that cannot be read is an error."""
    if not isinstance(error, FileNotFoundError):
        raise error
