"""Which pg_dump and pg_restore are used, and the commands that are given to them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from psycopg2.extensions import encodings

from .errors import ConfigurationError, ProgramMissing
from .names import TableName

SYSTEM_DIRECTORIES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/*/bin")

LOCK_WAIT_TIMEOUT = 60_000
"""Milliseconds that pg_dump waits for the lock on a table.

Without a limit a pg_dump whose parent died stays on the server for as long as somebody else holds
the lock.
"""

FIXED_IN: Mapping[str, Mapping[int, int]] = {
    "CVE-2025-8715": {13: 22, 14: 19, 15: 14, 16: 10, 17: 6},
    "CVE-2026-18408": {14: 24, 15: 19, 16: 15, 17: 11, 18: 6},
    "CVE-2026-116314": {14: 25, 15: 20, 16: 16, 17: 12, 18: 7},
}
"""Flaws of pg_restore by which a dump runs code where it is restored, and per major version the
minor one without it. Major versions before those were given up, those after were made without."""

_VERSION = re.compile(rb"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Command:
    """What is started: no shell ever reads it, and no secret is in ``argv``."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts that are blotted out of the error output before anybody sees it."""

    @property
    def name(self) -> str:
        return Path(self.argv[0]).name


@dataclass(frozen=True, order=True)
class Program:
    """One installed pg_dump or pg_restore."""

    major: int
    minor: int
    path: Path

    @property
    def version(self) -> str:
        return f"{self.major}.{self.minor}"


def find_programs(name: str, directories: Sequence[str] = ()) -> list[Program]:
    """Every installed program ``name``, the preferred directories first.

    ``directories`` are those of PGCLONE_BIN_DIR; when given, no other is looked at.
    """
    found: dict[Path, Program] = {}
    for candidate in _candidates(name, directories):
        try:
            path = candidate.resolve(strict=True)
        except (OSError, RuntimeError):  # a symbolic link to itself is the second, up to 3.12
            continue
        # Debian's /usr/bin/pg_dump is a chooser; the programs it chooses from are found by
        # themselves, and it would choose by files that a child is not shown.
        if path.name == "pg_wrapper" or path in found or not os.access(path, os.X_OK):
            continue
        if (version := _version_of(path, path.stat().st_mtime_ns)) is not None:
            found[path] = Program(*version, path)
    return list(found.values())


def _candidates(name: str, directories: Sequence[str]) -> Iterable[Path]:
    if directories:
        yield from (Path(directory) / name for directory in directories)
        return
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if directory:
            yield Path(directory) / name
    for pattern in SYSTEM_DIRECTORIES:
        yield from sorted(Path("/").glob(f"{pattern.removeprefix('/')}/{name}"), reverse=True)


@lru_cache(maxsize=64)
def _version_of(path: Path, modified: int) -> tuple[int, int] | None:
    """Cached by the time of the file's change, so that an upgrade is noticed."""
    try:
        answer = subprocess.run(  # noqa: S603 - found by its name, not typed
            [path, "--version"],
            capture_output=True,
            check=False,
            timeout=30,
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2] or 0)) if match else None


def choose_program(
    name: str, *, server_major: int, directories: Sequence[str] = (), oldest: int = 0
) -> Program:
    """The program of the server's own major version, else the nearest newer one.

    Never one that is older than the server: an older pg_dump refuses it, and an older pg_restore
    may not know what the archive asks for. ``oldest`` raises the lower limit for an archive that
    only newer programs read. :class:`ProgramMissing` names what was found instead.
    """
    programs = find_programs(name, directories)
    lowest = max(server_major, oldest)
    suitable = [program for program in programs if program.major >= lowest]
    if suitable:
        nearest = min(program.major for program in suitable)
        return next(program for program in suitable if program.major == nearest)
    hint = f"Install the PostgreSQL client {lowest}, or set PGCLONE_BIN_DIR to its directory."
    reason = f"the server is version {server_major}"
    if oldest > server_major:
        reason += f" and the archive needs version {oldest}"
    if programs:
        versions = ", ".join(sorted({program.version for program in programs}))
        raise ProgramMissing(f"{name} is too old: {reason}, found is only {versions}", hint=hint)
    raise ProgramMissing(f"{name} is not installed: {reason}", hint=hint)


def open_flaws(program: Program) -> list[str]:
    """The known flaws of a pg_restore that a crafted dump can use, by their CVE numbers.

    For those of this list only; that it is empty does not make a dump trustworthy.
    """
    return [flaw for flaw, fixed in FIXED_IN.items() if _has_flaw(program, fixed)]


def _has_flaw(program: Program, fixed: Mapping[int, int]) -> bool:
    if program.major in fixed:
        return program.minor < fixed[program.major]
    return program.major < min(fixed)


def version_without_flaws(major: int) -> str:
    """The oldest version of a major one that has no flaw of the list, or of the next major one."""
    newest = FIXED_IN["CVE-2026-116314"]
    fixed = major if major in newest else min(newest)
    return f"{fixed}.{max(flaw.get(fixed, 0) for flaw in FIXED_IN.values())}"


@dataclass(frozen=True)
class Codec:
    """How a dump is compressed: ``name`` is ``zstd``, ``gzip`` or ``none``."""

    name: str
    level: int | None = None

    @property
    def pg_dump_level(self) -> int:
        """What pg_dump itself is asked to do; zstd is done by this process."""
        if self.name == "gzip":
            return 6 if self.level is None else self.level
        return 0

    def __str__(self) -> str:
        return self.name if self.level is None else f"{self.name}:{self.level}"


def dump_command(
    program: Program,
    environment: Mapping[str, str],
    *,
    codec: Codec,
    encoding: str,
    exclude_table_data: Sequence[TableName] = (),
    definitions_of: Sequence[TableName] = (),
    role: str | None = None,
    lock_wait_timeout: int = LOCK_WAIT_TIMEOUT,
    secrets: tuple[str, ...] = (),
) -> Command:
    """pg_dump of the database in ``environment`` to its standard output.

    With ``definitions_of`` only these tables are dumped, and without their rows.

    ``encoding`` is that of the database. pg_dump takes its arguments to be in the encoding of its
    connection: in another one a name would match no table, and the rows that were to be left out
    would be dumped. So the one is demanded, whatever role, database and environment set, in which
    the other are written; what is dumped is in it, too.
    """
    argv = [
        str(program.path),
        "--format=custom",
        f"--compress={codec.pg_dump_level}",
        "--no-password",
        f"--encoding={encoding}",
        f"--lock-wait-timeout={lock_wait_timeout}",
        *(
            _as_argument(f"--exclude-table-data={table.quoted}", encoding)
            for table in exclude_table_data
        ),
        *(_as_argument(f"--table={table.quoted}", encoding) for table in definitions_of),
    ]
    if definitions_of:
        argv.append("--schema-only")
    if role is not None:
        argv.append(f"--role={role}")
    return Command(tuple(argv), environment, secrets)


def _as_argument(text: str, encoding: str) -> str:
    """What becomes the bytes of ``text`` in an encoding of PostgreSQL when a child is started."""
    return os.fsdecode(encoded(text, encoding))


def encoded(text: str, encoding: str) -> bytes:
    """``text`` in an encoding of PostgreSQL; :class:`ConfigurationError` where it has none."""
    # In SQL_ASCII every byte stands for itself, and what is read from there is taken as UTF-8.
    codec = "utf-8" if encoding == "SQL_ASCII" else encodings.get(encoding)
    try:
        return text.encode(codec or "ascii")
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"a name cannot be given to pg_dump in the encoding {encoding}: {text}"
        ) from error


def restore_command(
    program: Program,
    environment: Mapping[str, str],
    *,
    role: str | None = None,
    archive: Path | None = None,
    entries: Path | None = None,
    use_tablespaces: bool = True,
    secrets: tuple[str, ...] = (),
) -> Command:
    """pg_restore into the database in ``environment``.

    From its standard input, or from the file ``archive``; everything, or the ``entries`` that a
    file lists by their numbers. An empty ``--dbname`` makes pg_restore connect at all; the name
    comes from PGDATABASE. Objects are left to the role that restores them, which is the owner of
    the live database. Only with ``--verbose`` does pg_restore say which entry of the archive an
    error belongs to. ``--jobs`` is not for us: its sessions write into one another's errors.
    """
    argv = [
        str(program.path),
        "--format=custom",
        "--dbname=",
        "--no-password",
        "--no-owner",
        "--verbose",
    ]
    if role is not None:
        argv.append(f"--role={role}")
    if not use_tablespaces:
        argv.append("--no-tablespaces")
    if entries is not None:
        argv.append(f"--use-list={entries}")
    if archive is not None:
        argv.append(str(archive))
    return Command(tuple(argv), environment, secrets)


def parse_command(program: Program) -> Command:
    """pg_restore that reads a whole archive from its standard input and restores nothing.

    Listing an archive is no proof: it exits 0 for one that is cut short.
    """
    return Command((str(program.path), "--format=custom", "--file=/dev/null"), {})
