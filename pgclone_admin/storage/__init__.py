"""Storage locations: a directory, a bucket, an SFTP server, or any backend of django-storages.

Each is a :class:`Backend`: bytes under names, published whole or not at all.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage, InvalidStorageError, Storage, storages

from ..core.errors import ConfigurationError
from ..site_settings import base_dir
from .base import Backend, Leftover, Moved, Note, Stored, say_nothing
from .files import FileBackend
from .generic import GenericBackend

__all__ = ["Backend", "Leftover", "Note", "Stored", "open_backend", "say_nothing"]

S3_MODULE = "storages.backends.s3"
SFTP_MODULE = "storages.backends.sftpstorage"
"""Without these modules there can be no storages of their classes."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")


def open_backend(location: str, note: Note = say_nothing, moved: Moved = lambda: None) -> Backend:
    """The backend behind a storage location; :class:`ConfigurationError` for an unknown kind.

    ``note`` is told when a dump has to pass through the disk of this machine, and ``moved`` while
    it is sent from there.
    """
    if location.startswith("s3://"):
        # boto3 takes longer to import than everything else together.
        from .s3 import S3Backend  # noqa: PLC0415

        return S3Backend.of_location(location)
    if location.startswith("storages:"):
        return _of_alias(location, note, moved)
    if not location or "\0" in location:
        raise ConfigurationError("a storage location cannot be empty")
    if (match := _SCHEME.match(location)) is not None:
        raise ConfigurationError(
            f'storage locations of the kind "{match[1]}:" are not known',
            hint="A location is a directory, s3://bucket/prefix/ or storages:<alias>/prefix/.",
        )
    return FileBackend.of_directory(base_dir() / location)


def _of_alias(location: str, note: Note, moved: Moved) -> Backend:
    alias, _slash, rest = location.removeprefix("storages:").partition("/")
    prefix = "".join(f"{part}/" for part in rest.split("/") if part)
    try:
        storage = storages[alias]
    except (InvalidStorageError, ImproperlyConfigured) as error:
        raise ConfigurationError(
            f'the storage "{alias}" cannot be used: {error}',
            hint="Name an alias of STORAGES: storages:<alias>/prefix/.",
        ) from error
    if isinstance(storage, FileSystemStorage) and _saves_as(storage, FileSystemStorage):
        return FileBackend(storage, prefix)
    if S3_MODULE in sys.modules:
        from storages.backends.s3 import S3Storage  # noqa: PLC0415

        from .s3 import S3Backend  # noqa: PLC0415

        if isinstance(storage, S3Storage) and _saves_as(storage, S3Storage):
            return S3Backend(storage, prefix)
    if SFTP_MODULE in sys.modules:
        from storages.backends.sftpstorage import SFTPStorage  # noqa: PLC0415

        from .sftp import SftpBackend  # noqa: PLC0415

        if isinstance(storage, SFTPStorage) and _saves_as(storage, SFTPStorage):
            # The one of the alias is shared by all threads, which its connection cannot be.
            params: Any = storages.backends[alias]
            return SftpBackend(lambda: storages.create_storage(params), prefix)
    return GenericBackend(storage, prefix, note, moved)


def _saves_as(storage: Storage, parent: type) -> bool:
    """Whether a storage saves as its parent class does; one with its own way is asked to do so."""
    return bool(getattr(type(storage), "_save", None) is getattr(parent, "_save", None))
