"""Files of dumps on their way to a browser, and from one."""

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
    # Django gathers all of a plain iterator in memory where the site runs under ASGI.
    is_async = isinstance(request, ASGIRequest)
    headers = {"Content-Disposition": f'attachment; filename="{download.file_name}"'}
    if download.size is not None:
        headers["Content-Length"] = str(download.size)
    return StreamingHttpResponse(
        _in_threads(download.blocks) if is_async else download.blocks,
        content_type="application/octet-stream",
        headers=headers,
    )


async def _in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    def following() -> bytes:
        return next(blocks, b"")

    while block := await sync_to_async(following, thread_sensitive=False)():
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
