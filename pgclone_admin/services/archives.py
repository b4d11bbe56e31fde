"""Hands out and verifies the archive in a dump."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from ..core.archive import Contents, open_archive
from ..core.errors import UsageError
from ..core.feed import verify_archive
from ..core.names import DumpKey, LocalKey
from ..core.programs import choose_program
from ..core.progress import Phase, Reporter
from ..core.streams import BLOCK, ArchiveReader, Readable, StoredReader
from ..options import Options
from ..settings import settings
from ..store import DumpStore
from .keys import resolve_key


def write_archive(options: Options, text: str, output: BinaryIO, reporter: Reporter) -> DumpKey:
    """Writes the archive in a dump to ``output``, for a bare pg_restore, and returns its key.

    Raises what :func:`~pgclone_admin.services.keys.resolve_key` does,
    :class:`~pgclone_admin.core.errors.UsageError` for a local key, and what
    :func:`archive_blocks` does; what was written until then is not to be used.
    """
    store = DumpStore(options.storage_location, reporter.note)
    key = resolve_key(text, store).key
    if isinstance(key, LocalKey):
        raise UsageError("a local copy has no archive", hint="Name a dump, see: pgclone ls")
    reporter.phase(Phase.READING, total=store.size(key))
    output.writelines(archive_blocks(store, key, reporter))
    return key


def archive_blocks(store: DumpStore, key: DumpKey, reporter: Reporter) -> Iterator[bytes]:
    """The archive in a dump, for a bare pg_restore, piece by piece.

    :class:`~pgclone_admin.core.errors.StorageError` when the storage fails,
    :class:`~pgclone_admin.core.errors.UnknownFormat` for what is no archive, and
    :class:`~pgclone_admin.core.errors.IntegrityError` at the end when it is not what was dumped.
    """
    manifest = store.manifest(key)
    with (
        closing(StoredReader(store.open(key), reporter)) as stored,
        closing(ArchiveReader(stored)) as archive,
    ):
        while block := archive.read(BLOCK):
            yield block
        stored.check_against(manifest)


def verify_dump(options: Options, text: str, reporter: Reporter) -> None:
    """Reads a dump to its end: what is stored is what was dumped, and pg_restore can read it.

    :class:`~pgclone_admin.core.errors.IntegrityError` when it is not.
    """
    store = DumpStore(options.storage_location, reporter.note)
    key = DumpKey.parse(text)
    manifest = store.manifest(key)
    reporter.phase(Phase.VERIFYING, total=store.size(key))
    with verified(store.open(key), reporter) as read:
        read.stored.check_against(manifest)


@dataclass(frozen=True)
class VerifiedArchive:
    """An archive that pg_restore could read to its end."""

    stored: StoredReader
    """What it was read from; what follows the archive is not read yet."""
    codec: str
    contents: Contents | None
    """``None`` for a version of archives that is not known here."""


@contextmanager
def verified(source: Readable, reporter: Reporter) -> Iterator[VerifiedArchive]:
    """Has pg_restore read the archive in ``source``, which is closed at the end of the block.

    :class:`~pgclone_admin.core.errors.UnknownFormat` for what is no archive, other
    :class:`~pgclone_admin.core.errors.PgcloneError` for one that cannot be read.
    """
    with open_archive(source, reporter) as (stored, archive):
        contents = archive.contents
        program = choose_program(
            "pg_restore",
            server_major=contents.oldest_reader if contents else 0,
            directories=settings.bin_dirs,
        )
        verify_archive(archive, program, reporter)
        yield VerifiedArchive(stored, archive.codec, contents)
