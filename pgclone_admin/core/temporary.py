"""The files of this app in the machine's directory for temporary files.

Their names tell which process made them, so that one that died can be cleaned up after.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .errors import StorageError

PASSFILE = ".pgpass"
CONTENTS = ".toc"
"""Header and table of contents of an archive that is restored."""
LISTS = ".lists"
"""A directory of lists of entries for pg_restore."""

_NAME = re.compile(
    rf"pgclone-(?:(?P<pid>[0-9]+)-)?[a-z0-9_]+(?P<kind>{'|'.join((PASSFILE, CONTENTS, LISTS))})"
)


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """:class:`StorageError` for what cannot be put into the directory for temporary files."""
    try:
        yield
    except OSError as error:
        # Without a usable one, to ask for it is the error.
        folder = tempfile.tempdir or "the directory for temporary files"
        raise StorageError(
            f"{what} cannot be put into {folder}: {error.strerror or error}",
            hint="The live database was not touched. Make room there, or name another directory "
            "with TMPDIR.",
        ) from error


def own_prefix() -> str:
    """How the names of this process's temporary files begin."""
    return prefix_of(os.getpid())


def prefix_of(pid: int) -> str:
    """The same for another process."""
    return f"pgclone-{pid}-"


@dataclass(frozen=True)
class TemporaryFile:
    """A file, or a directory of lists, that its maker did not remove."""

    path: Path
    since: datetime
    """When it was last changed (UTC)."""


def left_temporary_files(directory: Path, older_than: datetime) -> Iterator[TemporaryFile]:
    """Files of ours in ``directory`` that belong to this user and to no process that runs.

    Never one that was changed after ``older_than``: a process of another container can share the
    directory, and is not seen from here.
    """
    for path in sorted(directory.glob("pgclone-*")):
        match = _NAME.fullmatch(path.name)
        if match is None or (match["pid"] and _is_running(int(match["pid"]))):
            continue
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        is_right = stat.S_ISDIR if match["kind"] == LISTS else stat.S_ISREG
        since = datetime.fromtimestamp(status.st_mtime, UTC)
        if is_right(status.st_mode) and status.st_uid == os.geteuid() and since < older_than:
            yield TemporaryFile(path, since)


def remove_temporary_file(file: TemporaryFile) -> None:
    """Removes it; :class:`StorageError` when that is refused."""
    try:
        if file.path.name.endswith(LISTS):
            shutil.rmtree(file.path)
        else:
            file.path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f'the file "{file.path}" cannot be removed: {error.strerror}',
            hint="Remove it yourself.",
        ) from error


def _is_running(pid: int) -> bool:
    """Whether a process of this user has the number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError):
        return False
    return True
