"""Takes in archives that people bring."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from django.db import router, transaction
from django.utils import timezone

from .. import __version__
from ..core.dump import publish
from ..core.errors import Conflict, DumpNotFound, IntegrityError, StorageError
from ..core.manifest import Manifest
from ..core.names import DumpKey, readable
from ..core.progress import Phase, Reporter, SilentReporter
from ..databases import live_name
from ..identity import user_of_process
from ..models import Dump, Status
from ..options import NO_CONFIGURATION, Arguments, Options, resolve
from ..store import DumpStore
from . import actors
from .actors import Actor
from .allowed import require_allowed
from .archives import verified
from .audit import audit

IMPORTED = "imported"
"""The instance of an archive that was taken in, when none is named."""


class ImportedAlready(Conflict):
    """the archive was taken in before"""

    def __init__(self, location: str, key: str) -> None:
        super().__init__(
            f'this archive was imported already, as "{key}"', hint="Nothing was stored again."
        )
        self.location = location
        self.key = key


def import_dump(actor: Actor, given: Mapping[str, Any], path: Path) -> Dump:
    """Stores the archive ``path`` as a foreign dump and makes its row.

    ``given`` may name ``database`` and ``instance``. The archive is read twice, so this takes as
    long as its size demands.
    """
    actor.require(actors.DUMP)
    options = resolve(Arguments(database=given.get("database")), verb="dump")
    started = timezone.now()
    manifest = import_archive(options, path, SilentReporter(), instance=given.get("instance"))
    with transaction.atomic(using=router.db_for_write(Dump)):
        # A refresh may have seen the file already.
        dump, _is_new = Dump.objects.update_or_create(
            location=options.storage_location,
            key=manifest.key,
            defaults={
                "status": Status.SUCCEEDED,
                "instance": manifest.instance,
                "database": manifest.database,
                "config": manifest.config,
                "taken_at": datetime.fromisoformat(manifest.taken_at),
                "size": manifest.size,
                "manifest": dataclasses.asdict(manifest),
                "requested_by": actor.name,
                "started_at": started,
                "finished_at": timezone.now(),
            },
        )
        audit(dump, actor, "imported an archive")
    return dump


def import_archive(
    options: Options, path: Path, reporter: Reporter, *, instance: str | None = None
) -> Manifest:
    """Takes an archive made elsewhere into the storage location, as a foreign dump.

    It is read to its end before: an archive that is cut short or is none is refused. Its key has
    the time at which the archive says that it was made.

    :class:`~pgclone_admin.core.errors.NotAllowed` where the settings forbid dumps,
    :class:`~pgclone_admin.core.errors.DumpNotFound` when there is no such file,
    :class:`~pgclone_admin.core.errors.UnknownFormat` when it is no archive,
    :class:`ImportedAlready` when this very archive is there, another
    :class:`~pgclone_admin.core.errors.Conflict` when its key is taken, and
    :class:`~pgclone_admin.core.errors.StorageError` when it cannot be read or stored.
    """
    require_allowed("dump")
    live_name(options.database)
    created, codec, server_version, program_version, source = _examine(path, reporter)
    key = DumpKey.new(
        instance=instance or IMPORTED,
        database=options.database,
        config=NO_CONFIGURATION,
        taken_at=created,
    )
    store = DumpStore(options.storage_location, reporter.note)
    reporter.phase(Phase.STORING, total=path.stat().st_size)
    with _file(path) as file:
        content = _FileContent(file, reporter)
        try:
            store.save(key, content, source_size=path.stat().st_size)
        except Conflict as error:
            if _is_stored(store, key, path):
                raise ImportedAlready(options.storage_location, key.text) from error
            raise
    manifest = Manifest(
        key=key.text,
        size=content.size,
        sha256=content.sha256,
        codec=codec,
        taken_at=created.isoformat(),
        instance=instance or IMPORTED,
        database=options.database,
        config=NO_CONFIGURATION,
        origin="imported",
        app_version=__version__,
        source_database=source,
        server_version=server_version,
        program_version=program_version,
        taken_by=user_of_process(),
        host=socket.gethostname(),
    )
    publish(store, key, content, manifest)
    return manifest


def _is_stored(store: DumpStore, key: DumpKey, path: Path) -> bool:
    """Whether what has the key is this archive, as far as its manifest says."""
    try:
        manifest = store.manifest(key) if store.find(key.text) is not None else None
    except IntegrityError:
        return False
    if manifest is None:
        return False
    with _file(path) as file:
        return manifest.sha256 == hashlib.file_digest(file, "sha256").hexdigest()


def _examine(path: Path, reporter: Reporter) -> tuple[datetime, str, str, str, str]:
    """When the archive was made, its wrapper, versions of server and pg_dump, its database."""
    reporter.phase(Phase.CHECKING, total=path.stat().st_size if path.is_file() else None)
    with _file(path) as file, verified(file, reporter) as read:
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        contents = read.contents
        if contents is None:
            return changed, read.codec, "", "", ""
        texts = (contents.server_version, contents.program_version, contents.database)
        server_version, program_version, database = (
            # Whatever an archive says: these go into a manifest and a row.
            readable(text).replace("\0", "\N{REPLACEMENT CHARACTER}")
            for text in texts
        )
        created = contents.created or changed
        return created, read.codec, server_version, program_version, database


def _file(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise DumpNotFound(f'there is no file "{path}"') from error
    except OSError as error:
        raise StorageError(f'the file "{path}" cannot be read: {error.strerror}') from error


class _FileContent:
    """A file on its way into a storage, counted and hashed."""

    def __init__(self, file: BufferedReader, reporter: Reporter) -> None:
        self._file = file
        self._reporter = reporter
        self._hash = hashlib.sha256()
        self.size = 0
        self.complete = False

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        self._reporter.check()
        data = self._file.read(size)
        self.complete = self.complete or len(data) < size or size < 0
        self._hash.update(data)
        self.size += len(data)
        self._reporter.advance(len(data))
        return data

    def abandon(self) -> None:
        """A file never keeps a reader waiting."""
