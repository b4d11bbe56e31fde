"""Dumps in any backend of Django or django-storages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, cast

from django.core.files.base import File
from django.core.files.storage import InMemoryStorage, Storage

from ..core.dump import Content
from ..core.errors import Conflict
from ..core.streams import BLOCK, Readable
from .base import Backend, Stored, storage_errors

STREAMING_CLASSES = ("storages.backends.sftpstorage.SFTPStorage",)
"""Backends that take a file of unknown size in pieces, beside those that have their own module.

The others (Google Cloud, Azure, Dropbox) rewind the file or ask for its size first, so that for
them a dump is put into a temporary file before.
"""


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


class GenericBackend(Backend):
    """Whatever implements Django's ``Storage``."""

    def __init__(self, storage: Storage, prefix: str = "") -> None:
        self._storage = storage
        self._prefix = prefix

    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        what = f'"{name}" cannot be stored'
        with storage_errors(what):
            full_name = self._prefix + name
            if self._storage.exists(full_name):
                raise Conflict(f'"{name}" exists already', hint="Nothing was overwritten.")
            with self._removed_on_error(full_name), storage_errors(what):
                saved_as = self._save(full_name, content)
            if saved_as != full_name:
                self._storage.delete(saved_as)
                raise Conflict(f'the storage wanted to call "{name}" something else')

    @contextmanager
    def _removed_on_error(self, full_name: str) -> Iterator[None]:
        """Storages may leave what they have taken so far; the first error is the one to be told."""
        try:
            yield
        except BaseException as error:
            try:
                self._storage.delete(full_name)
            except Exception as failed:  # noqa: BLE001 - whatever the storage raises
                error.add_note(f"what was stored of it could not be removed either: {failed}")
            raise

    def _save(self, name: str, content: Content) -> str:
        if self._streams():
            return self._storage.save(name, StreamedFile(content, name))
        with tempfile.TemporaryFile(prefix="pgclone-") as spool:
            while block := content.read(BLOCK):
                spool.write(block)
            spool.seek(0)
            return self._storage.save(name, File(spool, name=name))

    def _streams(self) -> bool:
        bases = {f"{base.__module__}.{base.__qualname__}" for base in type(self._storage).__mro__}
        return isinstance(self._storage, InMemoryStorage) or bool(bases & set(STREAMING_CLASSES))

    def open(self, name: str) -> Readable:
        with storage_errors(f'"{name}" cannot be read'):
            return cast(Readable, self._storage.open(self._prefix + name, "rb"))

    def size(self, name: str) -> int | None:
        with storage_errors(f'"{name}" cannot be read'):
            if not self._storage.exists(self._prefix + name):
                return None
            return int(self._storage.size(self._prefix + name))

    def delete(self, name: str) -> None:
        with storage_errors(f'"{name}" cannot be deleted'):
            self._storage.delete(self._prefix + name)

    def list(self, prefix: str) -> Iterator[Stored]:
        with storage_errors("the storage cannot be listed"):
            for name in self._walk(self._prefix.rstrip("/")):
                relative = name.removeprefix(self._prefix)
                if relative.startswith(prefix):
                    yield Stored(relative, self._storage.size(name), self._modified(name))

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
