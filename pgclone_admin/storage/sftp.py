"""Dumps on a server that speaks SFTP."""

from __future__ import annotations

import posixpath
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from paramiko import AuthenticationException, SSHException
from storages.backends.sftpstorage import SFTPStorage

from ..core.dump import Content
from ..core.errors import DumpNotFound, StorageError
from ..core.streams import BLOCK, Readable
from .base import (
    DIRECTORY_MODE,
    FILE_MODE,
    PARTIAL,
    Backend,
    Breaks,
    Leftover,
    Stored,
    is_partial,
    partial_name,
    removed_on_error,
    replaced_meanwhile,
    storage_errors,
    taken,
)

ANSWERS_WITHIN = 60.0
"""Seconds after which a server that says nothing is one that is gone."""

WINDOW = 2 * 1024 * 1024
"""Bytes that are asked for at once: a network takes its time for each question."""

ANSWER = 32 * 1024
"""Bytes that SFTP gives for one question."""

SAME_HANDLE = 64 * 1024 * 1024
"""Bytes after which a file is opened anew: paramiko keeps some of the blocks that it asked for."""

BROKEN = (OSError, EOFError, SSHException)
"""What paramiko raises when a connection is no good any more, among other things."""


@contextmanager
def sftp_errors(what: str) -> Iterator[None]:
    """As :func:`storage_errors`, for what paramiko raises."""
    with storage_errors(what):
        try:
            yield
        except AuthenticationException as error:
            raise StorageError(
                f"{what}: the server did not let us in", hint="Check the params of the storage."
            ) from error
        except (EOFError, SSHException) as error:
            raise StorageError(
                f"{what}: {str(error) or 'the connection broke'}",
                hint="Check the host and the network, then try again.",
            ) from error


class SftpBackend(Backend):
    """A directory behind django-storages' ``SFTPStorage``.

    ``SFTPStorage.save`` writes under the final name, readable for everybody whom the server's umask
    allows. So files are written here: under a partial name, for their owner alone, and only then
    given their own name. When the process dies, a partial file stays that nothing lists.
    """

    def __init__(self, make_storage: Callable[[], SFTPStorage], prefix: str = "") -> None:
        """``make_storage`` gives one that nobody else uses: a connection serves one thread at a
        time, and a storage that has lost its connection cannot always make another one."""
        self._connection = _Connection(make_storage)
        self._storage = make_storage()
        root = posixpath.join(self._storage.root_path, prefix)
        # Nothing at all would be the directory in which the login begins.
        self._root = root.rstrip("/") or root[:1]
        weakref.finalize(self, self._connection.close)

    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        what = f'"{name}" cannot be stored'
        with sftp_errors(what):
            path = self._path(name)
            if self._is_there(path):
                raise taken(name)
            self._make_directory(posixpath.dirname(path))
            partial = partial_name(path)
            with removed_on_error(lambda: self._give_up(partial)), sftp_errors(what):
                self._write(partial, content)
            with removed_on_error(lambda: self._give_up(partial, path)), sftp_errors(what):
                self._publish(partial, path, name)

    def open(self, name: str) -> Readable:
        with sftp_errors(f'"{name}" cannot be read'):
            return _ResumingReader(self, self._path(name), name)

    def size(self, name: str) -> int | None:
        with sftp_errors(f'"{name}" cannot be read'):
            try:
                attributes = self.client.lstat(self._path(name))
            except FileNotFoundError:
                return None
            return int(attributes.st_size) if stat.S_ISREG(attributes.st_mode) else None

    def delete(self, name: str) -> None:
        with sftp_errors(f'"{name}" cannot be deleted'):
            self._remove(self._path(name))

    def list(self, prefix: str) -> Iterator[Stored]:
        """One request for a directory; sizes and dates come with it."""
        with sftp_errors("the storage cannot be listed"):
            for name, attributes in self._walk(""):
                if PARTIAL not in posixpath.basename(name) and name.startswith(prefix):
                    yield Stored(name, attributes.st_size, _changed(attributes))

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        with sftp_errors("the storage cannot be listed"):
            for name, attributes in self._walk(""):
                if is_partial(name) and (changed := _changed(attributes)) < older_than:
                    yield Leftover(name, changed)

    def discard(self, leftover: Leftover) -> None:
        with sftp_errors(f'"{leftover.name}" cannot be removed'):
            path = self._path(leftover.name)
            with suppress(FileNotFoundError):
                # It may have been another one's since it was found.
                if _changed(self.client.lstat(path)) == leftover.since:
                    self._remove(path)

    # -- for its readers

    @property
    def client(self) -> Any:
        """paramiko's ``SFTPClient``, with a connection that is open."""
        return self._connection.client()

    def disconnect(self) -> None:
        """Ends a connection on which answers were missed; the next request makes another one."""
        self._connection.close()

    # -- how

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _is_there(self, path: str) -> bool:
        try:
            self.client.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.client.remove(path)

    def _make_directory(self, directory: str) -> None:
        missing = []
        while directory.strip("/") and not self._is_there(directory):
            missing.append(directory)
            directory = posixpath.dirname(directory)
        for each in reversed(missing):
            try:
                self.client.mkdir(each, DIRECTORY_MODE)
            except OSError:
                # The server tells nobody why: somebody else may have made it just now.
                if not self._is_there(each):
                    raise
            else:
                self._own(each, self._storage.dir_mode)

    def _own(self, path: str, mode: int | None) -> None:
        """Gives a file or a directory what the options of the storage ask for."""
        if mode is not None:
            self.client.chmod(path, mode)
        user, group = self._storage.uid, self._storage.gid
        if user is not None or group is not None:
            present = self.client.stat(path)
            self.client.chown(
                path,
                present.st_uid if user is None else user,
                present.st_gid if group is None else group,
            )

    def _write(self, partial: str, content: Content) -> None:
        with self.client.open(partial, "wx") as file:
            with suppress(OSError):  # a server that has no modes
                file.chmod(FILE_MODE)
            file.set_pipelined(True)
            block = content.read(BLOCK)
            while following := content.read(BLOCK):
                file.write(block)
                block = following
            # Only a write that waits for its own answer looks at those of the others.
            file.set_pipelined(False)
            file.write(block)
            if file.stat().st_size != content.size:
                raise StorageError("the server has not stored all of the file")
        self._own(partial, self._storage.file_mode)

    def _publish(self, partial: str, path: str, name: str) -> None:
        """Gives the file its name; a rename of SFTP never takes one from another file."""
        try:
            self.client.rename(partial, path)
        except OSError as error:
            if self._is_there(path) and self._is_there(partial):
                raise taken(name) from error
            raise

    def _give_up(self, partial: str, path: str | None = None) -> None:
        """Removes a file that failed; ``path``: where it is if the answer to a rename was lost."""
        self.disconnect()
        try:
            self.client.remove(partial)
        except FileNotFoundError:
            if path is not None:
                self._remove(path)

    def _walk(self, directory: str) -> Iterator[tuple[str, Any]]:
        """The names and attributes of all files below a directory, in no order."""
        try:
            entries = self.client.listdir_attr(
                self._path(directory).rstrip("/") or self._root or "."
            )
        except FileNotFoundError:
            return
        for entry in entries:
            name = posixpath.join(directory, entry.filename)
            if stat.S_ISDIR(entry.st_mode):
                yield from self._walk(name)
            elif stat.S_ISREG(entry.st_mode):
                yield name, entry


class _Connection:
    """The connection of one backend, made when it is asked for."""

    def __init__(self, make_storage: Callable[[], SFTPStorage]) -> None:
        self._make_storage = make_storage
        self._storage: SFTPStorage | None = None

    def client(self) -> Any:
        if self._storage is None:
            self._storage = self._make_storage()
        try:
            client = self._storage.sftp
        except BaseException:
            self.close()
            raise
        client.get_channel().settimeout(ANSWERS_WITHIN)
        return client

    def close(self) -> None:
        storage, self._storage = self._storage, None
        if storage is not None:
            storage.close()


class _ResumingReader:
    """A file, read by many requests at a time, and taken up again where its connection broke."""

    def __init__(self, backend: SftpBackend, path: str, name: str) -> None:
        # The backend ends its connection when nobody uses it.
        self._backend = backend
        self._path = path
        self._name = name
        self._position = 0
        self._breaks = Breaks(name)
        self._window = b""
        self._used = 0
        self._file: Any = None
        self._identity: tuple[int, int] | None = None
        self._open()

    def read(self, size: int, /) -> bytes:
        if self._used == len(self._window):
            with sftp_errors(f'"{self._name}" cannot be read'):
                self._window, self._used = self._next_window(), 0
        data = self._window[self._used : self._used + size]
        self._used += len(data)
        return data

    def close(self) -> None:
        file, self._file = self._file, None
        # The server is asked for that, too, and may be gone by now.
        if file is not None:
            with suppress(*BROKEN):
                file.close()

    def _open(self) -> None:
        try:
            self._file = _quiet(self._backend.client.open(self._path, "rb"))
        except FileNotFoundError as error:
            raise DumpNotFound(f'there is no dump "{self._name}"') from error
        attributes = self._file.stat()
        identity = attributes.st_size, attributes.st_mtime
        if self._identity not in (None, identity):
            raise replaced_meanwhile(self._name)
        self._identity = identity
        self._size = int(attributes.st_size)
        self._opened_at = self._position

    def _next_window(self) -> bytes:
        wanted = min(WINDOW, self._size - self._position)
        if self._position - self._opened_at >= SAME_HANDLE:
            self.close()
        while wanted:
            problem: Exception = StorageError("the file ended early")
            data = bytearray()
            try:
                if self._file is None:
                    self._open()
                for answer in self._file.readv(self._questions(wanted)):
                    data += answer
            except BROKEN as error:
                problem = error
            self._position += len(data)
            if len(data) < wanted:
                self._backend.disconnect()
                self._file = None
            if data:
                return bytes(data)
            self._breaks.another(self._position, problem)
        return b""

    def _questions(self, wanted: int) -> list[tuple[int, int]]:
        """Where each begins, and its bytes: what was answered before a break is not lost."""
        end = self._position + wanted
        starts = range(self._position, end, ANSWER)
        return [(start, min(ANSWER, end - start)) for start in starts]


def _quiet(file: Any) -> Any:
    """The thread that asks for a window tells stderr of a broken connection; its reader is told as
    well, and does something about it."""
    if (ask := getattr(file, "_prefetch_thread", None)) is not None:

        def ask_quietly(*arguments: Any) -> None:
            with suppress(*BROKEN):
                ask(*arguments)

        file._prefetch_thread = ask_quietly
    return file


def _changed(attributes: Any) -> datetime:
    return datetime.fromtimestamp(attributes.st_mtime, UTC)
