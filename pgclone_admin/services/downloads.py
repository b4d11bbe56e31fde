"""Hands dumps to the browsers of people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from ..core.errors import Conflict
from ..core.names import DumpKey
from ..core.progress import SilentReporter
from ..core.streams import BLOCK, StoredReader
from ..models import Dump
from ..store import DumpStore
from . import actors
from .actors import Actor
from .archives import archive_blocks
from .audit import audit

LINK_SECONDS = 300
"""How long a link to a storage is good."""

_UNSAFE_IN_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Form(StrEnum):
    STORED = "stored"
    """The bytes as they are in the storage."""
    ARCHIVE = "archive"
    """An archive that a bare pg_restore reads."""


@dataclass(frozen=True)
class Download:
    """Blocks, or a link where the storage gives them itself.

    The last of the blocks comes only when all of them are what was dumped; otherwise it is an
    :class:`~pgclone_admin.core.errors.IntegrityError`, and the download stays incomplete.
    """

    file_name: str
    blocks: Iterator[bytes]
    link: str | None = None
    size: int | None = None
    """Bytes, where that is known before."""


def open_download(actor: Actor, dump: Dump, form: Form) -> Download:
    """The bytes of a dump for a person, which is written down before the first of them."""
    actor.require(actors.DOWNLOAD)
    if not dump.key:
        raise Conflict("there is no file of this dump")
    store = DumpStore(dump.location)
    key = DumpKey.parse(dump.key)
    size = store.size(key)
    file_name = _UNSAFE_IN_FILE_NAME.sub("_", key.text)
    audit(dump, actor, f"downloaded the dump ({form})")
    if form is Form.ARCHIVE:
        # The stored form, which may be compressed once more, has the other name.
        file_name = f"{file_name.removesuffix('.dump')}.pg_restore.dump"
        return Download(file_name, _held_back(archive_blocks(store, key, SilentReporter())))
    link = store.link(key, seconds=LINK_SECONDS, file_name=file_name)
    blocks = _held_back(_stored_blocks(store, key))
    return Download(file_name, blocks, link, size)


def _stored_blocks(store: DumpStore, key: DumpKey) -> Iterator[bytes]:
    manifest = store.manifest(key)
    with closing(StoredReader(store.open(key), SilentReporter())) as stored:
        while block := stored.read(BLOCK):
            yield block
        stored.check_against(manifest)


def _held_back(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, each only when there is a next one or the end was reached well."""
    last = b""
    for block in blocks:
        if last:
            yield last
        last = block
    yield last
