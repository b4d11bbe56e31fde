"""A Django storage in memory that fails in the ways that real ones do."""

from __future__ import annotations

import datetime
import errno
import io
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, Storage


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


class StorageBroke(Exception):
    """What a storage of some vendor raises: nothing that the product could know."""


@dataclass
class Box:
    """Contents of a storage and its faults. Change the switches while it is in use."""

    name: str = "default"
    objects: dict[str, bytes] = field(default_factory=dict)
    modified: dict[str, datetime.datetime] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    save_fails_at: int | None = None
    """Saving raises ``error`` when this many bytes were taken."""

    save_fails_at_end: bool = False
    """Saving raises ``error`` after the last byte, when the object should appear."""

    keep_partial: bool = False
    """A failed save leaves what it took under the final name, as FileSystemStorage does."""

    read_fails_at: int | None = None
    """Reading raises ``error`` when this many bytes were given."""

    read_stalls_at: int | None = None
    """Reading stops after this many bytes until ``go_on`` is set."""

    fails: set[str] = field(default_factory=set)
    """Methods that raise ``error``: "exists", "size", "delete", "listdir", "open", "save"."""

    error: BaseException = field(default_factory=disk_full)

    size_lie: int = 0
    """Added to every size that is told."""

    short_by: int = 0
    """Saving says it is done but loses so many bytes at the end."""

    rename: str | None = None
    """Saving takes this name instead of the one asked for."""

    stall_at: int | None = None
    """Saving stops after this many bytes until ``go_on`` is set."""

    stalled: threading.Event = field(default_factory=threading.Event)
    """Set when a save has come to ``stall_at``."""

    go_on: threading.Event = field(default_factory=threading.Event)

    chunk_size: int = 64 * 1024
    open_handles: int = 0
    saves: list[str] = field(default_factory=list)
    deletes: list[str] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> None:
        with self.lock:
            self.objects[name] = content
            self.modified[name] = datetime.datetime.now(datetime.UTC)

    @property
    def storage(self) -> FaultyStorage:
        return FaultyStorage(self.name)

    @property
    def alias_config(self) -> dict[str, Any]:
        """An entry of STORAGES that uses this box, in this process."""
        return {
            "BACKEND": f"{__name__}.{FaultyStorage.__name__}",
            "OPTIONS": {"name": self.name},
        }

    def flip_bit(self, name: str, offset: int) -> None:
        with self.lock:
            content = bytearray(self.objects[name])
            content[offset] ^= 1
            self.objects[name] = bytes(content)


_boxes: dict[str, Box] = {}


def box(name: str) -> Box:
    """The box that every FaultyStorage of this name shares; made when first asked for."""
    return _boxes.setdefault(name, Box(name))


def forget_boxes() -> None:
    for each in _boxes.values():
        each.go_on.set()
    _boxes.clear()


class _Reader(io.RawIOBase):
    """Gives the bytes of an object in short reads, as a network does."""

    def __init__(self, contents: Box, content: bytes) -> None:
        self._box = contents
        self._content = content
        self._position = 0
        with contents.lock:
            contents.open_handles += 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        limit = self._box.read_fails_at
        count = min(len(buffer), len(self._content) - self._position, self._box.chunk_size)
        if limit is not None:
            if self._position >= limit:
                raise self._box.error
            count = min(count, limit - self._position)
        stall = self._box.read_stalls_at
        if stall is not None and self._position >= stall:
            self._box.stalled.set()
            self._box.go_on.wait()
        buffer[:count] = self._content[self._position : self._position + count]
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            with self._box.lock:
                self._box.open_handles -= 1
        super().close()


class _Writer(io.BytesIO):
    """What ``open(name, "wb")`` gives. It publishes on close whatever happened, as S3 does."""

    def __init__(self, contents: Box, name: str) -> None:
        super().__init__()
        self._box = contents
        self._name = name
        with contents.lock:
            contents.open_handles += 1

    def close(self) -> None:
        if not self.closed:
            self._box.put(self._name, self.getvalue())
            with self._box.lock:
                self._box.open_handles -= 1
        super().close()


class FaultyStorage(Storage):
    """See `Box` for the switches: ``box("name")`` reaches those of ``FaultyStorage("name")``.

    In settings: ``{"BACKEND": "tests.support.storages.FaultyStorage", "OPTIONS": {"name": ...}}``.
    """

    def __init__(self, name: str = "default") -> None:
        self.name = name

    @property
    def box(self) -> Box:
        return box(self.name)

    def _may_fail(self, method: str) -> None:
        if method in self.box.fails:
            raise self.box.error

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return self.box.rename or name

    def _save(self, name: str, content: Any) -> str:
        contents = self.box
        contents.saves.append(name)
        self._may_fail("save")
        taken = bytearray()
        limit = contents.save_fails_at
        try:
            while True:
                if contents.stall_at is not None and len(taken) >= contents.stall_at:
                    contents.stalled.set()
                    contents.go_on.wait()
                if limit is not None and len(taken) >= limit:
                    raise contents.error
                wanted = contents.chunk_size
                for bound in (limit, contents.stall_at):
                    if bound is not None and len(taken) < bound:
                        wanted = min(wanted, bound - len(taken))
                chunk = content.read(wanted)
                if not chunk:
                    break
                taken += chunk
            if contents.save_fails_at_end:
                raise contents.error
        except BaseException:
            if contents.keep_partial:
                contents.put(name, bytes(taken))
            raise
        contents.put(name, bytes(taken[: len(taken) - contents.short_by]))
        return name

    def _open(self, name: str, mode: str = "rb") -> File[bytes]:
        self._may_fail("open")
        if "w" in mode:
            return File(_Writer(self.box, name), name)
        with self.box.lock:
            if name not in self.box.objects:
                raise FileNotFoundError(errno.ENOENT, "No such object", name)
            return File(cast("IO[bytes]", _Reader(self.box, self.box.objects[name])), name)

    def exists(self, name: str) -> bool:
        self._may_fail("exists")
        return name in self.box.objects

    def delete(self, name: str) -> None:
        self._may_fail("delete")
        with self.box.lock:
            self.box.deletes.append(name)
            self.box.objects.pop(name, None)
            self.box.modified.pop(name, None)

    def size(self, name: str) -> int:
        self._may_fail("size")
        try:
            return len(self.box.objects[name]) + self.box.size_lie
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such object", name) from None

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        self._may_fail("listdir")
        prefix = path.strip("/") + "/" if path.strip("/.") else ""
        folders: set[str] = set()
        files: list[str] = []
        for name in sorted(self.box.objects):
            if name.startswith(prefix):
                first, slash, _ = name[len(prefix) :].partition("/")
                folders.add(first) if slash else files.append(first)
        return sorted(folders), files

    def get_modified_time(self, name: str) -> datetime.datetime:
        moment = self.box.modified[name]
        return moment if settings.USE_TZ else moment.replace(tzinfo=None)


class HangingFiles(FileSystemStorage):
    """Writes half of a dump under its final name, and no more."""

    def _save(self, name: str, content: Any) -> str:
        if ".partial-" in name:
            return cast(str, super()._save(name, content))
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read(500))
        threading.Event().wait(60)
        raise AssertionError("nobody has ended this process")


class WholeFiles(FileSystemStorage):
    """Takes and gives whole files only, in the way of the backends for Google Cloud and Azure."""

    def __init__(self, *, max_memory_size: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.max_memory_size = max_memory_size
        self.fetched: list[Any] = []

    def _save(self, name: str, content: Any) -> str:
        content.seek(0, io.SEEK_END)
        size = content.tell()
        content.seek(0)
        assert content.size == size
        return cast(str, super()._save(name, content))

    def _open(self, name: str, mode: str = "rb") -> File[bytes]:
        spool = tempfile.SpooledTemporaryFile(max_size=self.max_memory_size)  # noqa: SIM115
        with super()._open(name, mode) as file:
            for chunk in file.chunks():
                spool.write(chunk)
        spool.seek(0)
        self.fetched.append(spool)
        return File(cast("IO[bytes]", spool), name)
