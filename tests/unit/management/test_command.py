"""``manage.py pgclone`` as far as it needs no server: listing, output, errors, exit status."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from pgclone_admin.core.errors import DumpNotFound
from pgclone_admin.management.commands.pgclone import Command
from tests.unit.test_store import manifest, put

OLD = "prod/default/none/2026-01-01-00-00-00-000000.dump"
NEW = "staging/reporting/nightly/2026-03-01-00-00-00-000000.dump"
VERSION_1 = "shop/2026-02-01-00-00-00-000000.default.dump"


@pytest.fixture(autouse=True)
def dumps(storage_root: Path) -> Path:
    put(storage_root, OLD, NEW, VERSION_1)
    put(storage_root, f"{NEW}.json", data=manifest(NEW).to_json())
    return storage_root


def run(root: Path, *argv: str, **options: Any) -> list[str]:
    """What the command prints, called as a project would call it."""
    output = io.StringIO()
    call_command("pgclone", *argv, "-s", str(root), stdout=output, **options)
    return output.getvalue().splitlines()


def from_command_line(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of manage.py."""
    with pytest.raises(SystemExit) as caught:
        Command().run_from_argv(["manage.py", "pgclone", *argv])
    said = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, said.out, said.err


# -- listing --------------------------------------------------------------------------------------


def test_ls_prints_one_key_per_line_newest_first_and_nothing_else(
    dumps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dumps, "ls") == [NEW, VERSION_1, OLD]
    Command().run_from_argv(["manage.py", "pgclone", "ls", "-s", str(dumps)])
    said = capsys.readouterr()
    assert said.out == f"{NEW}\n{VERSION_1}\n{OLD}\n"
    assert said.err == ""


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (("prod",), [OLD]),
        (("staging/reporting",), [NEW]),
        (("default",), [OLD]),
        (("shop",), [VERSION_1]),
        (("sho",), []),
        (("--instances",), ["prod", "staging"]),
        (("--databases",), ["default", "reporting", "shop"]),
        (("--only-db-names",), ["default", "reporting", "shop"]),
        (("--configs",), ["default", "nightly", "none"]),
        (("prod", "--configs"), ["none"]),
    ],
)
def test_ls_lists_a_part_or_what_there_is(
    dumps: Path, argv: tuple[str, ...], lines: list[str]
) -> None:
    assert run(dumps, "ls", *argv) == lines
    if not argv[-1].startswith("--"):
        assert [
            each["key"] for each in json.loads("".join(run(dumps, "ls", *argv, "--json")))
        ] == lines
    else:
        assert json.loads("".join(run(dumps, "ls", *argv, "--json"))) == lines


def test_ls_long_adds_size_age_and_whether_there_is_a_manifest(dumps: Path) -> None:
    lines = run(dumps, "ls", "--long")
    assert [line.split()[0] for line in lines] == [NEW, VERSION_1, OLD]
    assert [" ".join(line.split()[5:]) for line in lines] == [
        "manifest",
        "no manifest",
        "no manifest",
    ]
    assert all(" 3 B " in line and line.split()[4] == "d" for line in lines)
    # In columns.
    assert len({line.index(" 3 B ") for line in lines}) == 1


def test_ls_json_tells_everything_of_a_dump(dumps: Path) -> None:
    entries = json.loads("".join(run(dumps, "ls", "--json")))
    assert entries[0] == {
        "key": NEW,
        "instance": "staging",
        "database": "reporting",
        "config": "nightly",
        "taken_at": "2026-03-01T00:00:00+00:00",
        "size": 3,
        "has_manifest": True,
    }
    assert (entries[1]["instance"], entries[1]["has_manifest"]) == (None, False)


@pytest.mark.parametrize("argv", [(), ("--long",), ("--instances",)])
def test_ls_of_nothing_prints_nothing(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert run(tmp_path / "empty", "ls", *argv) == []
    assert run(tmp_path / "empty", "ls", *argv, "--json") == ["[]"]


def test_ls_takes_the_location_of_a_configuration(dumps: Path) -> None:
    output = io.StringIO()
    with override_settings(PGCLONE_CONFIGS={"here": {"storage_location": str(dumps)}}):
        call_command("pgclone", "ls", "-c", "here", "prod", stdout=output)
    assert output.getvalue() == f"{OLD}\n"


# -- errors ---------------------------------------------------------------------------------------


def test_an_error_is_a_sentence_and_a_hint_and_exit_status_1(
    dumps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, output, said = from_command_line(capsys, "cat", "nothing", "-s", str(dumps))
    assert status == 1
    assert output == ""
    assert said == (
        f'error: no dump in {dumps} matches "nothing"\nhint: See what there is with: pgclone ls\n'
    )


def test_with_traceback_the_error_itself_is_raised(dumps: Path) -> None:
    with pytest.raises(DumpNotFound):
        Command().run_from_argv(
            ["manage.py", "pgclone", "cat", "nothing", "-s", str(dumps), "--traceback"]
        )


def test_called_from_python_it_raises_the_error_of_commands(dumps: Path) -> None:
    with pytest.raises(CommandError, match=r'matches "nothing"\. See what there is with') as caught:
        run(dumps, "cat", "nothing")
    assert isinstance(caught.value.__cause__, DumpNotFound)


ERRORS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "unknown configuration": (["ls", "-c", "x"], {}, 'there is no configuration "x"'),
    "unknown storage": (["ls", "-s", "storages:x/"], {}, 'the storage "x" cannot be used'),
    "unknown kind of storage": (["ls", "-s", "gs://x"], {}, 'of the kind "gs:" are not known'),
    "unknown database": (["dump", "-d", "x"], {}, 'there is no database "x" in DATABASES'),
    "unknown database of a restore": (["restore", ":pre", "-d", "x"], {}, "no database"),
    "unknown model": (["dump", "-e", "auth.Usr"], {}, 'there is no model "auth.Usr" to exclude'),
    "no model at all": (["dump", "-e", "nonsense"], {}, 'there is no model "nonsense" to exclude'),
    "unknown hook": (
        ["dump", "--pre-dump-hook", "migrat"],
        {},
        'there is no management command "migrat" to run as a hook',
    ),
    "hook with shell characters": (
        ["restore", ":pre", "--pre-swap-hook", "migrate; id"],
        {},
        'there is no management command "migrate; id" to run as a hook',
    ),
    "nothing to restore": (["restore"], {}, "no dump was named"),
    "key out of the location": (["restore", "../../x"], {}, 'matches "../../x"'),
    "name that is too long": (["copy", ":" + "n" * 64], {}, "at most 63 bytes"),
    "copy under a reserved name": (["copy", ":pre"], {}, ":pre is made by"),
    "copy that is no local key": (["copy", "x"], {}, "'x' is no local key"),
    "no file": (["import", "/nowhere/x.dump"], {}, 'there is no file "/nowhere/x.dump"'),
    "dumps forbidden": (
        ["dump"],
        {"PGCLONE_ALLOW_DUMP": False},
        "dumps are not allowed here: PGCLONE_ALLOW_DUMP is False",
    ),
    "restores forbidden": (
        ["restore", ":pre"],
        {"PGCLONE_ALLOW_RESTORE": False},
        "restores are not allowed here: PGCLONE_ALLOW_RESTORE is False",
    ),
    "copies forbidden": (
        ["copy", ":x"],
        {"PGCLONE_ALLOW_COPY": False},
        "copies are not allowed here: PGCLONE_ALLOW_COPY is False",
    ),
    "wrong kind of a setting": (
        ["ls"],
        {"PGCLONE_STORAGE_LOCATION": 5},
        "PGCLONE_STORAGE_LOCATION has to be of type",
    ),
    "server that is down": (["dump"], {}, "cannot connect to the database"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_is_wrong_is_one_clear_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], django_db_blocker: Any
) -> None:
    argv, changes, sentence = ERRORS[kind]
    location = {"PGCLONE_STORAGE_LOCATION": str(tmp_path / "unused")}
    # Nothing listens where the database should be, in which a configuration may stand.
    with django_db_blocker.unblock(), override_settings(**{**location, **changes}):
        status, output, said = from_command_line(capsys, *argv)
    assert (status, output) == (1, "")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert "Traceback" not in said
    assert not (tmp_path / "unused").exists()


def test_a_setting_that_forbids_stands_in_the_way_of_imports_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(PGCLONE_ALLOW_DUMP=False):
        status, _output, said = from_command_line(capsys, "import", str(tmp_path / "x"))
    assert status == 1
    assert "PGCLONE_ALLOW_DUMP is False" in said


def test_an_archive_is_not_written_to_a_terminal(
    dumps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status, output, said = from_command_line(capsys, "cat", OLD, "-s", str(dumps))
    assert (status, output) == (1, "")
    assert "error: an archive is not written to a terminal" in said


def test_f52_nothing_outside_the_location_is_written_out(
    dumps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = dumps.parent / "secret.dump"
    secret.write_bytes(b"PGDMP secret")
    for key in ("../secret.dump", str(secret), "%2e%2e/secret.dump"):
        for validate in (True, False):
            with override_settings(PGCLONE_VALIDATE_DUMP_KEYS=validate):
                status, output, _said = from_command_line(capsys, "cat", key, "-s", str(dumps))
            assert (status, output) == (1, "")


def test_a_key_in_bytes_that_are_no_text_is_a_sentence(
    dumps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = os.fsdecode(b":shop\xff")
    status, output, said = from_command_line(capsys, "restore", key, "-s", str(dumps))
    assert (status, output) == (1, "")
    assert "error: a database name has to be valid text" in said
