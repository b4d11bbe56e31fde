"""Storage locations of every kind under one roof, and the core operations on them.

A `Place` is a location that the product uses, and the raw contents behind it as nobody but a test
sees them: partial files, keys outside the prefix, bytes to be cut or replaced.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import Storage, storages

from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.dump import DumpLabels, DumpRequest, Hooks, Sink, take_dump
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.programs import Codec
from pgclone_admin.core.progress import Reporter, SilentReporter
from pgclone_admin.core.restore import Source, TemporaryHooks, restore_dump
from pgclone_admin.core.target import RestoreRequest, RestoreResult
from pgclone_admin.storage import Backend, open_backend
from pgclone_admin.store import DumpStore

from .postgres import PostgresServer
from .s3 import Bucket
from .sftp import SftpServer
from .sites import Site, template
from .storages import Box

PREFIX = "deep/er/"
ALIAS = "dumps"


class Place:
    """One storage location. ``names`` and the like are relative to the location."""

    def __init__(self, location: str, settings: dict[str, Any]) -> None:
        self.location = location
        self.settings = settings
        """What a project has to set for it."""

    @property
    def store(self) -> DumpStore:
        return DumpStore(self.location)

    @property
    def backend(self) -> Backend:
        return open_backend(self.location)

    def names(self) -> list[str]:
        """Everything that lies in the location, also what is no dump."""
        return sorted(
            name.removeprefix(self.prefix)
            for name in self.everything()
            if name.startswith(self.prefix)
        )

    def outside(self) -> dict[str, bytes]:
        """What lies beside the location."""
        return {
            name: self.raw_read(name)
            for name in self.everything()
            if not name.startswith(self.prefix)
        }

    def read(self, name: str) -> bytes:
        return self.raw_read(self.prefix + name)

    def put(self, name: str, content: bytes) -> None:
        """Put a file there, or replace it, behind the back of the product."""
        self.raw_put(self.prefix + name, content)

    def remove(self, name: str) -> None:
        self.raw_remove(self.prefix + name)

    prefix: str = ""

    def everything(self) -> list[str]:
        raise NotImplementedError

    def raw_read(self, name: str) -> bytes:
        raise NotImplementedError

    def raw_put(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def raw_remove(self, name: str) -> None:
        raise NotImplementedError


class FilesPlace(Place):
    """A folder below ``root``."""

    def __init__(
        self, root: Path, prefix: str, location: str, settings: dict[str, Any] | None = None
    ) -> None:
        super().__init__(location, settings or {})
        self.root = root
        self.prefix = prefix

    def everything(self) -> list[str]:
        return [
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if not path.is_dir()
        ]

    def path(self, name: str) -> Path:
        return self.root / self.prefix / name

    def mode(self, name: str) -> int:
        return stat.S_IMODE(self.path(name).lstat().st_mode)

    def raw_read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def raw_put(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def raw_remove(self, name: str) -> None:
        (self.root / name).unlink()


class S3Place(Place):
    """A prefix of a bucket."""

    def __init__(
        self, bucket: Bucket, prefix: str, location: str, settings: dict[str, Any]
    ) -> None:
        super().__init__(location, settings)
        self.bucket = bucket
        self.prefix = prefix

    def everything(self) -> list[str]:
        return self.bucket.keys()

    def raw_read(self, name: str) -> bytes:
        return self.bucket.body(name)

    def raw_put(self, name: str, content: bytes) -> None:
        self.bucket.put(name, content)

    def raw_remove(self, name: str) -> None:
        self.bucket.delete(name)


class AliasPlace(Place):
    """A prefix of any storage of Django, looked at through its own methods."""

    def __init__(self, prefix: str, settings: dict[str, Any]) -> None:
        super().__init__(f"storages:{ALIAS}/{prefix}", settings)
        self.prefix = prefix

    @property
    def storage(self) -> Storage:
        return storages[ALIAS]

    def everything(self) -> list[str]:
        return list(self._walk(""))

    def _walk(self, folder: str) -> Iterator[str]:
        folders, files = self.storage.listdir(folder)
        yield from (f"{folder}{file}" for file in files)
        for child in folders:
            yield from self._walk(f"{folder}{child}/")

    def raw_read(self, name: str) -> bytes:
        with self.storage.open(name) as file:
            content: bytes = file.read()
        return content

    def raw_put(self, name: str, content: bytes) -> None:
        self.storage.delete(name)
        self.storage.save(name, ContentFile(content))

    def raw_remove(self, name: str) -> None:
        self.storage.delete(name)


# -- making them ----------------------------------------------------------------------------------

Request = Any
"""pytest's FixtureRequest, to ask only for what a kind of place needs."""


def storage_settings(backend: str, **options: Any) -> dict[str, Any]:
    return {
        "STORAGES": {
            "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            "staticfiles": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            ALIAS: {"BACKEND": backend, "OPTIONS": options},
        }
    }


def _files(request: Request) -> Place:
    root: Path = request.getfixturevalue("storage_root")
    return FilesPlace(root, PREFIX, str(root / PREFIX))


def _s3(request: Request) -> Place:
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    return S3Place(bucket, PREFIX, bucket.location(PREFIX), bucket.settings(PREFIX))


def _alias_files(request: Request) -> Place:
    root: Path = request.getfixturevalue("storage_root")
    settings = storage_settings("django.core.files.storage.FileSystemStorage", location=str(root))
    return FilesPlace(root, PREFIX, f"storages:{ALIAS}/{PREFIX}", settings)


def _alias_s3(request: Request) -> Place:
    bucket: Bucket = request.getfixturevalue("s3_bucket")
    options = bucket.storage_options(location="media")
    settings = storage_settings("storages.backends.s3.S3Storage", **options)
    return S3Place(bucket, f"media/{PREFIX}", f"storages:{ALIAS}/{PREFIX}", settings)


def _alias_sftp(request: Request) -> Place:
    root: Path = request.getfixturevalue("storage_root")
    server: SftpServer = request.getfixturevalue("sftp_server")
    options = server.storage_options(root)
    settings = storage_settings("storages.backends.sftpstorage.SFTPStorage", **options)
    return FilesPlace(root, PREFIX, f"storages:{ALIAS}/{PREFIX}", settings)


def _memory(request: Request) -> Place:
    return AliasPlace(PREFIX, storage_settings("django.core.files.storage.InMemoryStorage"))


def _faulty(request: Request) -> Place:
    box: Box = request.getfixturevalue("faulty")
    settings = storage_settings(box.alias_config["BACKEND"], **box.alias_config["OPTIONS"])
    return AliasPlace(PREFIX, settings)


KINDS: dict[str, Callable[[Request], Place]] = {
    "files": _files,
    "s3": _s3,
    "alias of files": _alias_files,
    "alias of s3": _alias_s3,
    "alias of sftp": _alias_sftp,
    "alias in memory": _memory,
    "alias of anything": _faulty,
}
"""Every way in which the product keeps dumps."""

DIFFERENT_KINDS = ("files", "s3", "alias of sftp", "alias of anything")
"""One of each implementation."""


def make_place(kind: str, request: Request) -> Place:
    """A place of this kind, with the settings of this process changed for it."""
    place = KINDS[kind](request)
    settings = request.getfixturevalue("settings")
    for name, value in place.settings.items():
        setattr(settings, name, value)
    return place


# -- databases of any size ------------------------------------------------------------------------

_ROW = 1900
"""Bytes: more would go to the TOAST table, which is slower to read."""


class _RandomRows(io.RawIOBase):
    """COPY ... (FORMAT binary) of one bytea column that no compression makes smaller."""

    def __init__(self, megabytes: int) -> None:
        self._rows = megabytes * 2**20 // _ROW
        self._buffer = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        head = struct.pack(">hi", 1, _ROW)
        while len(self._buffer) < size and not self._ended:
            count = min(500, self._rows)
            random = os.urandom(count * _ROW)
            self._buffer += b"".join(
                head + random[start : start + _ROW] for start in range(0, len(random), _ROW)
            )
            self._rows -= count
            if not self._rows:
                self._buffer += struct.pack(">h", -1)
                self._ended = True
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data


def fill_bulk(server: PostgresServer, name: str, megabytes: int) -> None:
    """Create the table ``bulk`` with random bytes. An uncompressed dump has twice as many."""
    server.run("CREATE TABLE bulk (data bytea)", name, "app")
    with (
        contextlib.closing(server.connect(name, "app")) as connection,
        connection.cursor() as cursor,
    ):
        rows = _RandomRows(megabytes)
        cursor.copy_expert("COPY bulk FROM STDIN (FORMAT binary)", rows, size=1 << 20)


def make_bulk(server: PostgresServer, megabytes: int, name: str | None = None) -> Site:
    """A database with so much of random data, filled once per session."""
    source = template(
        server, f"bulk{megabytes}", lambda filled: fill_bulk(server, filled, megabytes)
    )
    chosen = server.fresh_name("bulk") if name is None else name
    server.create_database(chosen, template=source)
    return Site(server, chosen)


# -- the operations -------------------------------------------------------------------------------

LABELS = DumpLabels(instance="here", database="default", config="none", app_version="test")


def no_dump_hooks() -> Sequence[str]:
    return []


def no_swap_hooks(temporary: str) -> None:
    """Runs nothing on the temporary database."""


def maintenance(site: Site, user: str = "app", **changes: Any) -> ConnectionParams:
    return site.server.params("postgres", user, **changes)


def dump(
    site: Site,
    sink: Sink,
    *,
    reporter: Reporter | None = None,
    hooks: Hooks = no_dump_hooks,
    codec: str = "none",
    **changes: Any,
) -> Manifest:
    """`take_dump` of a site by the programs of its own server; ``changes`` of the request."""
    fields: dict[str, Any] = {
        "live": site.name,
        "maintenance": maintenance(site),
        "labels": LABELS,
        "codec": Codec(codec),
        "program_directories": [str(site.server.bin_dir)],
    }
    request = DumpRequest(**{**fields, **changes})
    return take_dump(request, sink, reporter or SilentReporter(), pre_dump_hooks=hooks)


def restore(
    site: Site,
    key: str | DumpKey,
    source: Source,
    *,
    reporter: Reporter | None = None,
    hooks: TemporaryHooks = no_swap_hooks,
    **changes: Any,
) -> RestoreResult:
    """`restore_dump` over a site; ``changes`` of the request."""
    fields: dict[str, Any] = {
        "live": site.name,
        "maintenance": maintenance(site),
        "program_directories": [str(site.server.bin_dir)],
    }
    return restore_dump(
        RestoreRequest(**{**fields, **changes}),
        DumpKey.parse(str(key)),
        source,
        reporter or SilentReporter(),
        pre_swap_hooks=hooks,
    )


# -- what must not have changed -------------------------------------------------------------------


@contextmanager
def unchanged(site: Site) -> Iterator[None]:
    """Assert that the database is the same one, with the same content, after the block."""
    before = (site.oid, site.fingerprint(), site.database_properties())
    yield
    assert (site.oid, site.fingerprint(), site.database_properties()) == before


@contextmanager
def no_database_is_made(server: PostgresServer) -> Iterator[None]:
    """Assert that nobody creates, renames or drops a database in the block, even for a moment.

    Every such statement comes over the maintenance database, so its log shows them all.
    """
    server.admin("ALTER DATABASE postgres SET log_statement = 'ddl'")
    try:
        start = len(server.log())
        yield
        made = [line for line in server.log()[start:].splitlines() if " DATABASE " in line]
    finally:
        server.admin("ALTER DATABASE postgres RESET log_statement")
    if made:
        raise AssertionError("databases were made or changed:\n" + "\n".join(made))
