"""Files of dumps on their way to a browser, and from one; and logs on their way to it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from asgiref.sync import sync_to_async
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from ..services.downloads import Download


def streamed(request: HttpRequest, download: Download) -> StreamingHttpResponse:
    """A download, block by block."""
    headers = {"Content-Disposition": f'attachment; filename="{download.file_name}"'}
    if download.size is not None:
        headers["Content-Length"] = str(download.size)
    return StreamingHttpResponse(
        _blocks(request, download.blocks, uses_database=False),
        content_type="application/octet-stream",
        headers=headers,
    )


def streamed_text(request: HttpRequest, blocks: Iterator[bytes]) -> StreamingHttpResponse:
    """Text that a browser shows as it is; its blocks may come from the database."""
    return StreamingHttpResponse(
        _blocks(request, blocks, uses_database=True),
        content_type="text/plain; charset=utf-8",
        headers={"X-Content-Type-Options": "nosniff"},
    )


def _blocks(
    request: HttpRequest, blocks: Iterator[bytes], *, uses_database: bool
) -> Iterator[bytes] | AsyncIterator[bytes]:
    # Django gathers all of a plain iterator in memory where the site runs under ASGI.
    if not isinstance(request, ASGIRequest):
        return blocks
    # A connection belongs to its thread.
    return _in_threads(blocks, is_one_thread=uses_database)


async def _in_threads(blocks: Iterator[bytes], *, is_one_thread: bool) -> AsyncIterator[bytes]:
    def following() -> bytes:
        return next(blocks, b"")

    while block := await sync_to_async(following, thread_sensitive=is_one_thread)():
        yield block


@contextmanager
def on_disk(upload: UploadedFile[bytes]) -> Iterator[Path]:
    """An upload as a file; a large one is one already."""
    if isinstance(upload, TemporaryUploadedFile):
        yield Path(upload.temporary_file_path())
        return
    with tempfile.NamedTemporaryFile(prefix="pgclone-import-") as file:
        for chunk in upload.chunks():
            file.write(chunk)
        file.flush()
        yield Path(file.name)
