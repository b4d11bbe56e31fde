"""Dumps in a storage location, whatever django-storages backend is behind it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from .core.dump import Content
from .core.errors import (
    Conflict,
    DumpNotFound,
    IntegrityError,
    InvalidName,
    PgcloneError,
    StorageError,
)
from .core.manifest import Manifest
from .core.names import DumpKey, check_relative_path
from .core.stall import Attendant, AttendedContent, AttendedReader
from .core.streams import Readable
from .settings import settings
from .storage import Backend, Leftover, Note, Stored, open_backend, say_nothing

MANIFEST_SUFFIX = ".json"

PROBE_PREFIX = ".pgclone-doctor-"
"""Begins the name of what is stored to try a storage; never listed as a dump."""

LARGEST_MANIFEST = 16 * 1024 * 1024
"""Bytes above which a file beside a dump is not read as its manifest."""


@dataclass(frozen=True)
class DumpEntry:
    """One dump as the listing of its storage shows it, without opening anything."""

    key: DumpKey
    stored: Stored
    has_manifest: bool

    @property
    def taken_at(self) -> datetime:
        """When the dump was made: what its key says, else when the file was last changed (UTC)."""
        return self.key.taken_at or self.stored.modified or datetime.min.replace(tzinfo=UTC)


class DumpStore:
    """The dumps of one storage location. It is a source and a sink for the operations.

    ``note`` is told when the storage needs room on the disk of this machine. A storage that hangs
    is waited for no longer than PGCLONE_STALL_TIMEOUT says. All that it is asked, it is asked in
    one thread, as many storages have a connection for each.
    """

    def __init__(self, location: str, note: Note = say_nothing) -> None:
        self.location = location
        self._attendant = Attendant(settings.stall_timeout)
        self._backend: Backend = open_backend(location, note, self._attendant.move)

    def entries(self, prefix: str = "") -> list[DumpEntry]:
        """Every dump whose key begins with ``prefix``, newest first, by time.

        With PGCLONE_VALIDATE_DUMP_KEYS off, every file but the manifests counts as a dump.
        """
        files = {stored.name: stored for stored in self._list(prefix)}
        entries = []
        for name, stored in files.items():
            if name.startswith(PROBE_PREFIX):
                continue
            key = _readable_key(name)
            if key is None or (settings.validate_dump_keys and not key.is_standard):
                continue
            if name.endswith(MANIFEST_SUFFIX) and name.removesuffix(MANIFEST_SUFFIX) in files:
                continue
            entries.append(DumpEntry(key, stored, key.manifest_name in files))
        return sorted(entries, key=lambda entry: (entry.taken_at, entry.key.text), reverse=True)

    def find(self, text: str) -> DumpKey | None:
        """The dump whose whole key is ``text``, if there is one."""
        key = _readable_key(text)
        if key is None or (settings.validate_dump_keys and not key.is_standard):
            return None
        if not key.is_standard:
            # It can be the name of a directory, which some storages say they have.
            return next((e.key for e in self.entries(key.text) if e.key == key), None)
        return None if self._size(key.text) is None else key

    # -- a source of dumps

    def size(self, key: DumpKey) -> int:
        """Bytes that are stored under the key; :class:`DumpNotFound` when there are none."""
        size = self._size(_checked(key.text))
        if size is None:
            raise DumpNotFound(
                f'there is no dump "{key}" in {self.location}',
                hint="See what there is with: pgclone ls",
            )
        return size

    def manifest(self, key: DumpKey) -> Manifest | None:
        """The manifest, or ``None`` where there is none; :class:`IntegrityError` for a bad one."""
        _checked(key.text)
        size = self._size(key.manifest_name)
        if size is None:
            return None
        if size > LARGEST_MANIFEST:
            raise IntegrityError(f'the manifest of the dump "{key}" is too large to be one')
        manifest = Manifest.from_json(self._read(key.manifest_name))
        if manifest.key != key.text:
            raise IntegrityError(
                f'the manifest beside the dump "{key}" belongs to the dump "{manifest.key}"',
                hint="Dump and manifest were moved apart. Move them together, under one name.",
            )
        return manifest

    def open(self, key: DumpKey) -> Readable:
        """The stored bytes, in order, from the first; to be closed.

        :class:`InvalidName` for a key that leads out of the location, :class:`StorageError` when
        the storage fails, also while it is read, and :class:`Stalled` when it hangs. What is not
        there is a :class:`DumpNotFound` where the storage tells that apart.
        """
        return self._open(_checked(key.text))

    def link(self, key: DumpKey, *, seconds: int, file_name: str) -> str | None:
        """An address that gives a browser the stored bytes for so long; ``None`` where the storage
        has none. Whoever knows it needs no permission."""
        name = _checked(key.text)
        return self._attendant.call(
            lambda: self._backend.link(name, seconds=seconds, file_name=file_name)
        )

    # -- a sink for dumps

    def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
        """Stores all of ``content`` under the key, or nothing; ``source_size`` in bytes is a guess
        from above.

        :class:`Conflict` when the dump or its manifest is there already, :class:`InvalidName` for a
        key that leads out of the location, :class:`StorageError` when the storage fails,
        :class:`Stalled` when it hangs, and what reading the content raises.
        """
        _checked(key.text)
        if self._size(key.manifest_name) is not None:
            raise Conflict(
                f'"{key.manifest_name}" exists already',
                hint="Nothing was overwritten: this dump is in the storage. If only this file is, "
                "delete it.",
            )
        self._save(_checked(key.text), content, source_size)

    def save_manifest(self, manifest: Manifest) -> None:
        name = DumpKey.parse(manifest.key).manifest_name
        data = manifest.to_json()
        self._save(name, _Bytes(data), len(data))

    def delete(self, key: DumpKey) -> None:
        """Removes the manifest and then the dump; neither need be there."""
        _checked(key.text)
        for name in (key.manifest_name, key.text):
            self._delete(name)

    # -- care

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        """What processes that died have left here before that moment, and nothing lists."""
        yield from self._attendant.call(lambda: list(self._backend.leftovers(older_than)))
        for stored in self._list(PROBE_PREFIX):
            if stored.modified is not None and stored.modified < older_than:
                yield Leftover(stored.name, stored.modified, kind="probe")

    def discard(self, leftover: Leftover) -> None:
        """Removes what :meth:`leftovers` has found."""
        if leftover.kind == "probe":
            self._delete(leftover.name)
        else:
            self._attendant.call(lambda: self._backend.discard(leftover))

    def prove(self) -> None:
        """Stores a few bytes, lists them, reads them back and deletes them.

        :class:`StorageError` for the first of it that cannot be done. They are gone afterwards,
        also when it failed, unless deleting is what fails.
        """
        name = PROBE_PREFIX + secrets.token_hex(8)
        data = secrets.token_bytes(1000)
        try:
            self._save(name, _Bytes(data), len(data))
            if name not in {stored.name for stored in self._list(name)}:
                raise StorageError("what was just stored is not listed")
            if self._read(name) != data:
                raise StorageError("what was just stored is read back as something else")
        except BaseException as error:
            try:
                self._delete(name)
            except PgcloneError as failed:
                error.add_note(f'"{name}" could not be deleted: {failed}')
            raise
        self._delete(name)

    # -- each in the thread of the storage

    def _list(self, prefix: str) -> list[Stored]:
        return self._attendant.call(lambda: list(self._backend.list(prefix)))

    def _size(self, name: str) -> int | None:
        return self._attendant.call(lambda: self._backend.size(name))

    def _delete(self, name: str) -> None:
        self._attendant.call(lambda: self._backend.delete(name))

    def _save(self, name: str, content: Content, expected_size: int) -> None:
        attended = AttendedContent(content, self._attendant)
        self._attendant.call(
            lambda: self._backend.save(name, attended, expected_size=expected_size),
            give_up=attended.abandon,
            undo=lambda: self._backend.delete(name),
        )

    def _open(self, name: str) -> Readable:
        return AttendedReader(
            self._attendant,
            lambda: self._backend.open(name),
            fetches=self._attendant.call(lambda: self._backend.fetches(name)),
        )

    def _read(self, name: str) -> bytes:
        stream = self._open(name)
        try:
            return b"".join(iter(lambda: stream.read(64 * 1024), b""))
        finally:
            stream.close()


class _Bytes:
    """A few bytes as something to be stored."""

    complete = True

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, size: int = -1, /) -> bytes:
        taken = len(self._data) if size < 0 else size
        data, self._data = self._data[:taken], self._data[taken:]
        return data

    def abandon(self) -> None:
        """Nothing here ever waits."""


def _checked(name: str) -> str:
    """The name, which has to stay inside the location whoever has made the key of it.

    Storages know their own root, but not the prefix that dumps are kept under.
    """
    check_relative_path(name)
    return name


def _readable_key(name: str) -> DumpKey | None:
    try:
        return DumpKey.parse(name)
    except InvalidName:
        return None
