"""Pipes an archive into a program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

from .archive import OpenedArchive
from .errors import ProcessFailed, RestoreFailed
from .process import Child
from .programs import Program, parse_command
from .progress import Reporter


def feed(archive: Iterable[bytes], child: Child, reporter: Reporter) -> Iterator[int]:
    """Writes the archive to a program and gives the number of bytes after each piece.

    Stops where the program stops reading; whether that was right is told by its end.
    """
    try:
        for block in archive:
            reporter.check()
            view = memoryview(block)
            while view:
                written = child.stdin.write(view)
                view = view[written:]
                yield written
        child.stdin.close()
    except BrokenPipeError:
        return


def verify_archive(archive: OpenedArchive, program: Program, reporter: Reporter) -> None:
    """Has pg_restore read the whole archive without a database.

    :class:`RestoreFailed` when it cannot; pg_restore's list of contents would not notice an
    archive that is cut short.
    """
    with Child(parse_command(program), stdin=subprocess.PIPE) as child:
        for _piece in feed(archive.blocks(), child, reporter):
            pass
        try:
            child.finish()
        except ProcessFailed as error:
            raise RestoreFailed(f"the archive cannot be read: {error}") from error
