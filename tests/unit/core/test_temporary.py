"""Temporary files tell whose they are, and only those of the dead are removed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgclone_admin.core.errors import StorageError
from pgclone_admin.core.temporary import (
    left_temporary_files,
    own_prefix,
    remove_temporary_file,
)

OLD = timedelta(days=2)
LIMIT = timedelta(days=1)


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-E", "-c", ""])
    process.wait()
    return process.pid


def make(folder: Path, name: str, *, age: timedelta = OLD, is_folder: bool = False) -> Path:
    path = folder / name
    if is_folder:
        path.mkdir()
        (path / "first.list").write_text("1\n")
    else:
        path.write_text("*:*:*:*:secret\n")
    moment = (datetime.now(UTC) - age).timestamp()
    os.utime(path, (moment, moment))
    return path


def found(folder: Path) -> list[str]:
    limit = datetime.now(UTC) - LIMIT
    return [file.path.name for file in left_temporary_files(folder, limit)]


@pytest.mark.parametrize(
    ("suffix", "is_folder"), [(".pgpass", False), (".toc", False), (".lists", True)]
)
def test_what_a_dead_process_left_is_found_and_removed(
    tmp_path: Path, dead: int, suffix: str, *, is_folder: bool
) -> None:
    path = make(tmp_path, f"pgclone-{dead}-ab_c123x{suffix}", is_folder=is_folder)
    (file,) = left_temporary_files(tmp_path, datetime.now(UTC) - LIMIT)
    assert file.path == path
    remove_temporary_file(file)
    assert not path.exists()
    remove_temporary_file(file)


def test_what_a_living_process_uses_is_left_alone_however_old(tmp_path: Path) -> None:
    make(tmp_path, f"{own_prefix()}ab_c123x.pgpass")
    assert found(tmp_path) == []


def test_what_is_young_is_left_alone(tmp_path: Path, dead: int) -> None:
    make(tmp_path, f"pgclone-{dead}-ab_c123x.pgpass", age=timedelta(hours=23))
    assert found(tmp_path) == []


def test_what_has_another_name_is_left_alone(tmp_path: Path, dead: int) -> None:
    for name in (
        f"pgclone-{dead}-ab.txt",
        f"pgclone-{dead}-ab.pgpass.old",
        f"my-pgclone-{dead}-ab.pgpass",
        f"pgclone-{dead}-.pgpass",
        f"pgclone-{dead}x-AB.toc",
    ):
        make(tmp_path, name)
    assert found(tmp_path) == []


def test_what_is_another_thing_than_its_name_says_is_left_alone(tmp_path: Path, dead: int) -> None:
    elsewhere = make(tmp_path, "precious")
    link = tmp_path / f"pgclone-{dead}-ab.pgpass"
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    make(tmp_path, f"pgclone-{dead}-cd.toc", is_folder=True)
    make(tmp_path, f"pgclone-{dead}-ef.lists")
    assert found(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_left_alone(tmp_path: Path, dead: int) -> None:
    os.chown(make(tmp_path, f"pgclone-{dead}-ab.pgpass"), 12345, -1)
    assert found(tmp_path) == []


def test_what_cannot_be_removed_is_told(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, f"pgclone-{dead}-ab.toc")
    (file,) = left_temporary_files(tmp_path, datetime.now(UTC) - LIMIT)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match="cannot be removed: Operation not permitted"):
        remove_temporary_file(file)
