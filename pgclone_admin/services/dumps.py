"""Makes dumps, takes foreign archives in, hands archives out."""

from __future__ import annotations

import getpass
import hashlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from django.apps import apps
from django.db import connections

from .. import __version__
from ..core.archive import open_archive
from ..core.dump import DumpLabels, DumpRequest, publish, take_dump
from ..core.errors import DumpNotFound, StorageError, UnknownModel, UsageError
from ..core.load import verify_archive
from ..core.manifest import Manifest
from ..core.names import DumpKey, LocalKey, readable
from ..core.programs import LOCK_WAIT_TIMEOUT, choose_program
from ..core.progress import Phase, Reporter
from ..core.streams import BLOCK, ArchiveReader, StoredReader
from ..databases import live_name, maintenance_params
from ..hooks import AnyHook, Stage, check_params, load_hooks, run_hooks
from ..kept import keeping
from ..options import NO_CONFIGURATION, Options
from ..settings import settings
from ..store import DumpStore
from .allowed import require_allowed
from .anonymity import require_anonymized
from .keys import resolve_key

IMPORTED = "imported"
"""The instance of an archive that was taken in, when none is named."""


def create_dump(options: Options, reporter: Reporter, *, taken_by: str | None = None) -> Manifest:
    """Dumps a database of this site into its storage location.

    ``taken_by`` is who has asked for it, by default the user of this process.
    """
    hooks = ready_hooks(options)
    live = live_name(options.database)
    store = DumpStore(options.storage_location, reporter.note)
    request = DumpRequest(
        live=live,
        maintenance=maintenance_params(options.database),
        labels=DumpLabels(
            instance=options.instance,
            database=options.database,
            config=options.config,
            app_version=__version__,
            taken_by=_person() if taken_by is None else taken_by,
            host=socket.gethostname(),
        ),
        codec=settings.compression,
        exclude=_tables(options.database, options.exclude),
        kept=[kept.name for kept in keeping(options.database).tables],
        program_directories=settings.bin_dirs,
        lock_wait_timeout=settings.lock_timeout or LOCK_WAIT_TIMEOUT,
        statement_timeout=settings.statement_timeout,
        stall_timeout=settings.stall_timeout,
    )

    def pre_dump_hooks() -> Sequence[str]:
        run_hooks(hooks, alias=options.database, database=live, reporter=reporter)
        if options.require_anonymized:
            require_anonymized(options.database, live)
        return [hook.labels.name for hook in hooks]

    return take_dump(request, store, reporter, pre_dump_hooks=pre_dump_hooks)


def ready_hooks(options: Options) -> list[AnyHook]:
    """The hooks of a dump that can be made, as far as that can be told before.

    :class:`~pgclone_admin.core.errors.NotAllowed` where the settings forbid dumps, what
    :func:`~pgclone_admin.databases.live_name`, :func:`~pgclone_admin.hooks.load_hooks` and
    :func:`~pgclone_admin.hooks.check_params` raise, and
    :class:`~pgclone_admin.core.errors.NotAnonymized` where that is required.
    """
    require_allowed("dump")
    hooks = load_hooks(options.pre_dump_hooks, stage=Stage.PRE_DUMP, params=options.hook_params)
    check_params(options.given_params, hooks)
    live = live_name(options.database)
    if options.require_anonymized:
        require_anonymized(options.database, live)
    return hooks


def _tables(alias: str, labels: Sequence[str]) -> list[str]:
    """The tables of models, quoted as Django quotes them; :class:`UnknownModel` for no model."""
    quote = connections[alias].ops.quote_name
    tables = []
    for label in labels:
        try:
            model = apps.get_model(label)
        except (LookupError, ValueError) as error:
            raise UnknownModel(
                f'there is no model "{label}" to exclude',
                hint="A model is named app_label.ModelName. Nothing was dumped.",
            ) from error
        tables.append(quote(model._meta.db_table))
    return tables


def _person() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def write_archive(options: Options, text: str, output: BinaryIO, reporter: Reporter) -> DumpKey:
    """Writes the archive in a dump to ``output``, for a bare pg_restore, and returns its key.

    :class:`~pgclone_admin.core.errors.IntegrityError` at the end when it is not what was dumped;
    what was written until then is not to be used.
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
    with open_archive(store.open(key), reporter) as (stored, archive):
        contents = archive.contents
        program = choose_program(
            "pg_restore",
            server_major=contents.oldest_reader if contents else 0,
            directories=settings.bin_dirs,
        )
        verify_archive(archive, program, reporter)
        stored.check_against(manifest)


def import_archive(
    options: Options, path: Path, reporter: Reporter, *, instance: str | None = None
) -> Manifest:
    """Takes an archive made elsewhere into the storage location, as a foreign dump.

    It is read to its end before: an archive that is cut short or is none is refused. Its key has
    the time at which the archive says that it was made.
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
        store.save(key, content, source_size=path.stat().st_size)
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
        taken_by=_person(),
        host=socket.gethostname(),
    )
    publish(store, key, content, manifest)
    return manifest


def _examine(path: Path, reporter: Reporter) -> tuple[datetime, str, str, str, str]:
    """When the archive was made, its wrapper, versions of server and pg_dump, its database."""
    reporter.phase(Phase.CHECKING, total=path.stat().st_size if path.is_file() else None)
    with open_archive(_file(path), reporter) as (_stored, archive):
        contents = archive.contents
        program = choose_program(
            "pg_restore",
            server_major=contents.oldest_reader if contents else 0,
            directories=settings.bin_dirs,
        )
        verify_archive(archive, program, reporter)
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if contents is None:
            return changed, archive.codec, "", "", ""
        texts = (contents.server_version, contents.program_version, contents.database)
        server_version, program_version, database = (
            # Whatever an archive says: these go into a manifest and a row.
            readable(text).replace("\0", "\N{REPLACEMENT CHARACTER}")
            for text in texts
        )
        created = contents.created or changed
        return created, archive.codec, server_version, program_version, database


def _file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise DumpNotFound(f'there is no file "{path}"') from error
    except OSError as error:
        raise StorageError(f'the file "{path}" cannot be read: {error.strerror}') from error


class _FileContent:
    """A file on its way into a storage, counted and hashed."""

    def __init__(self, file: BinaryIO, reporter: Reporter) -> None:
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
