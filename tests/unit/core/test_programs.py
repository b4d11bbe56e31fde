"""Which pg_dump and pg_restore are used, and with which arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgclone_admin.core import programs
from pgclone_admin.core.errors import ProgramMissing
from pgclone_admin.core.names import TableName
from pgclone_admin.core.programs import (
    Codec,
    Command,
    Program,
    choose_program,
    dump_command,
    find_programs,
    parse_command,
    restore_command,
)
from tests.support import CANARY

ENVIRONMENT = {"PGHOST": "db", "PGDATABASE": "shop"}


def install(directory: Path, version: str, name: str = "pg_dump") -> Path:
    """A program that knows nothing but its version, which is ``version``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def installed(directory: Path, version: str) -> str:
    install(directory, f"pg_dump (PostgreSQL) {version}")
    return str(directory)


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed on this machine is not looked at."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", ())


# -- finding --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "major", "minor"),
    [
        ("pg_dump (PostgreSQL) 18.4", 18, 4),
        ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-1.pgdg120+1)", 15, 18),
        ("pg_dump (PostgreSQL) 19beta1", 19, 0),
        ("pg_dump (PostgreSQL) 9.6.24", 9, 6),
    ],
)
def test_the_version_is_what_the_program_says(
    tmp_path: Path, answer: str, major: int, minor: int
) -> None:
    path = install(tmp_path, answer)
    assert find_programs("pg_dump", [str(tmp_path)]) == [Program(major, minor, path)]
    assert find_programs("pg_dump", [str(tmp_path)])[0].version == f"{major}.{minor}"


def test_f08_what_is_no_program_is_passed_over(tmp_path: Path) -> None:
    install(tmp_path / "not_executable", "pg_dump (PostgreSQL) 18.4").chmod(0o644)
    install(tmp_path / "nonsense", "hello")
    (tmp_path / "not_there").mkdir()
    (tmp_path / "folder" / "pg_dump").mkdir(parents=True)
    (tmp_path / "no_format").mkdir()
    (tmp_path / "no_format" / "pg_dump").write_text("\x7fELF?")
    (tmp_path / "no_format" / "pg_dump").chmod(0o755)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "pg_dump").symlink_to("pg_dump")
    folders = [str(folder) for folder in sorted(tmp_path.iterdir())]
    assert find_programs("pg_dump", folders) == []


def test_the_chooser_of_debian_is_passed_over(tmp_path: Path) -> None:
    chooser = install(tmp_path, "pg_dump (PostgreSQL) 15.18", name="pg_wrapper")
    (tmp_path / "pg_dump").symlink_to(chooser)
    assert find_programs("pg_dump", [str(tmp_path)]) == []


def test_one_program_under_two_names_is_found_once(tmp_path: Path) -> None:
    path = install(tmp_path / "real", "pg_dump (PostgreSQL) 18.4")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "pg_dump").symlink_to(path)
    found = find_programs("pg_dump", [str(tmp_path / "link"), str(tmp_path / "real")])
    assert [program.path for program in found] == [path]


def test_only_the_directories_that_are_given_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", installed(tmp_path / "in_path", "18.4"))
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", [installed(tmp_path / "system", "17.1")])
    given = installed(tmp_path / "given", "16.2")
    assert [program.major for program in find_programs("pg_dump", [given])] == [16]


def test_else_path_comes_first_and_then_the_directories_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (installed(tmp_path / name, "18.4") for name in ("first", "second"))
    monkeypatch.setenv("PATH", f"{first}{os.pathsep}{os.pathsep}{second}")
    for major in (15, 16):
        installed(tmp_path / "system" / str(major) / "bin", f"{major}.0")
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", [f"{tmp_path}/system/*/bin"])
    found = [program.path.parent for program in find_programs("pg_dump")]
    assert found == [
        tmp_path / "first",
        tmp_path / "second",
        tmp_path / "system" / "16" / "bin",
        tmp_path / "system" / "15" / "bin",
    ]


def test_an_upgrade_is_noticed(tmp_path: Path) -> None:
    installed(tmp_path, "18.3")
    assert find_programs("pg_dump", [str(tmp_path)])[0].minor == 3
    path = install(tmp_path, "pg_dump (PostgreSQL) 18.4")
    os.utime(path, ns=(1, 1))
    assert find_programs("pg_dump", [str(tmp_path)])[0].minor == 4


def test_f55_a_program_is_asked_for_its_version_in_an_empty_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "evil")
    seen = tmp_path / "environment"
    path = tmp_path / "bin" / "pg_dump"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n/usr/bin/env > '{seen}'\necho 'pg_dump (PostgreSQL) 18.4'\n")
    path.chmod(0o755)
    assert find_programs("pg_dump", [str(path.parent)])
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"LC_ALL"}


# -- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "oldest", "present", "chosen"),
    [
        (15, 0, ["18.4", "15.18", "16.9"], "15.18"),
        (15, 0, ["18.4", "16.9", "17.1"], "16.9"),
        (15, 0, ["14.2", "18.4"], "18.4"),
        (18, 0, ["18.4"], "18.4"),
        (15, 17, ["15.18", "18.4", "17.1"], "17.1"),
        (18, 16, ["16.9", "18.4"], "18.4"),
        (0, 0, ["15.18", "18.4"], "15.18"),
    ],
)
def test_the_program_of_the_server_is_chosen_else_the_nearest_newer_one(
    tmp_path: Path, server: int, oldest: int, present: list[str], chosen: str
) -> None:
    folders = [installed(tmp_path / version, version) for version in present]
    program = choose_program("pg_dump", server_major=server, oldest=oldest, directories=folders)
    assert program.version == chosen


def test_of_two_programs_of_one_version_the_first_is_chosen(tmp_path: Path) -> None:
    folders = [
        installed(tmp_path / name, version) for name, version in (("b", "18.1"), ("a", "18.4"))
    ]
    assert choose_program("pg_dump", server_major=18, directories=folders).version == "18.1"


def test_f08_an_older_program_is_refused_and_both_versions_are_named(tmp_path: Path) -> None:
    folders = [installed(tmp_path / version, version) for version in ("15.18", "14.2")]
    with pytest.raises(ProgramMissing) as caught:
        choose_program("pg_dump", server_major=18, directories=folders)
    assert caught.value.message == (
        "pg_dump is too old: the server is version 18, found is only 14.2, 15.18"
    )
    assert caught.value.hint == (
        "Install the PostgreSQL client 18, or set PGCLONE_BIN_DIR to its directory."
    )


def test_f08_a_program_that_cannot_read_the_archive_is_refused(tmp_path: Path) -> None:
    folders = [installed(tmp_path, "15.18")]
    with pytest.raises(ProgramMissing, match="and the archive needs version 17, found is only 15"):
        choose_program("pg_dump", server_major=15, oldest=17, directories=folders)


def test_f08_a_missing_program_is_named() -> None:
    with pytest.raises(ProgramMissing, match="pg_restore is not installed: the server is version"):
        choose_program("pg_restore", server_major=18)


# -- commands -------------------------------------------------------------------------------------


PROGRAM = Program(18, 4, Path("/opt/pg/bin/pg_dump"))


@pytest.mark.parametrize(
    ("codec", "level"),
    [
        (Codec("zstd"), 0),
        (Codec("zstd", 19), 0),
        (Codec("none"), 0),
        (Codec("gzip"), 6),
        (Codec("gzip", 1), 1),
        (Codec("gzip", 9), 9),
    ],
)
def test_pg_dump_itself_compresses_only_with_gzip(codec: Codec, level: int) -> None:
    assert dump_command(PROGRAM, {}, codec=codec, encoding="UTF8").argv[2] == f"--compress={level}"


def test_a_dump_is_an_archive_in_custom_format_and_waits_for_locks_for_a_limited_time() -> None:
    command = dump_command(
        PROGRAM, ENVIRONMENT, codec=Codec("zstd"), encoding="LATIN1", lock_wait_timeout=250
    )
    assert command.argv == (
        "/opt/pg/bin/pg_dump",
        "--format=custom",
        "--compress=0",
        "--no-password",
        "--encoding=LATIN1",
        "--lock-wait-timeout=250",
    )
    assert command.environment == ENVIRONMENT
    assert command.name == "pg_dump"


def test_f11_a_table_is_left_out_by_its_quoted_name_in_one_argument() -> None:
    command = dump_command(
        PROGRAM,
        {},
        codec=Codec("none"),
        encoding="UTF8",
        exclude_table_data=[TableName("public", "MyTable"), TableName("--file=x", 'my.tab" *')],
        role="owner of all",
    )
    assert command.argv[6:] == (
        '--exclude-table-data="public"."MyTable"',
        '--exclude-table-data="--file=x"."my.tab"" *"',
        "--role=owner of all",
    )


def test_f10_row_level_security_is_never_asked_for() -> None:
    for command in (
        dump_command(PROGRAM, {}, codec=Codec("none"), encoding="UTF8"),
        restore_command(PROGRAM, {}),
    ):
        assert not [part for part in command.argv if "row-security" in part]


def test_a_restore_reads_its_input_into_the_database_of_the_environment() -> None:
    command = restore_command(PROGRAM, ENVIRONMENT, role="owner")
    assert {"--format=custom", "--dbname=", "--no-password", "--no-owner"} <= set(command.argv)
    assert command.argv[-1] == "--role=owner"
    assert "shop" not in "".join(command.argv)
    assert not {"--clean", "--create", "--if-exists", "--exit-on-error"} & set(command.argv)
    assert command.environment == ENVIRONMENT


def test_a_whole_archive_is_read_without_any_database() -> None:
    command = parse_command(PROGRAM)
    assert command.argv[1:] == ("--format=custom", "--file=/dev/null")
    assert command.environment == {}


def test_f54_a_command_shows_neither_secrets_nor_environment() -> None:
    command = Command(("/bin/pg_dump",), {"PGPASSFILE": "/tmp/x"}, secrets=(CANARY,))
    assert CANARY not in repr(command)
    assert "PGPASSFILE" not in repr(command)


@pytest.mark.parametrize(("codec", "text"), [(Codec("zstd"), "zstd"), (Codec("gzip", 9), "gzip:9")])
def test_a_codec_is_written_as_the_setting_has_it(codec: Codec, text: str) -> None:
    assert str(codec) == text
