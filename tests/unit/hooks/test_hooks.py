"""Which hooks there are. Hooks at work are tested with databases."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import BaseCommand, CommandParser, get_commands
from django.test import override_settings

from pgclone_admin.core.errors import ConfigurationError, HookFailed, UnknownHook
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks import HookSpec, load_hooks, run_hooks
from pgclone_admin.hooks.spec import Declared


def test_hooks_are_management_commands_in_the_order_given() -> None:
    hooks = load_hooks(["migrate", "good_hook", "migrate"])
    assert [hook.labels.name for hook in hooks] == ["migrate", "good_hook", "migrate"]
    assert {hook.kind for hook in hooks} == {"command"}
    assert load_hooks([]) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "migrat",
        "Migrate",
        "migrate ",
        "migrate; id",
        "migrate --fake",
        "$(id)",
        "../migrate",
        "django.core.management.commands.migrate",
        "/bin/sh",
        "a\0b",
    ],
)
def test_f59_what_is_no_name_of_a_management_command_is_no_hook(name: str) -> None:
    with pytest.raises(UnknownHook) as caught:
        load_hooks(["migrate", name])
    assert caught.value.message == f'there is no management command "{name}" to run as a hook'


def test_a_name_that_is_close_to_others_names_them() -> None:
    with pytest.raises(UnknownHook) as caught:
        load_hooks(["migrat"])
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("A hook is the name of a management command, ")
    assert "Close to it: " in caught.value.hint
    assert "migrate" in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"command": "migrate", "args": ["--no-such-flag"]}, "arguments: --no-such-flag"),
        ({"command": "migrate", "args": ["people", "0001", "0002"]}, "arguments: 0002"),
        ({"command": "migrate", "args": ["-v"]}, "expected one argument"),
        ({"command": "migrate", "args": ["-v", "much"]}, "invalid int value: 'much'"),
        ({"command": "migrate", "options": {"no_such": 1}}, "Unknown option(s) for"),
        ({"command": "loaddata"}, "No database fixture specified"),
        ({"command": "sqlmigrate", "args": ["people"]}, "required: migration_name"),
        ({"command": "pgclone"}, "required: COMMAND"),
        ({"command": "pgclone", "args": ["dmup"]}, "invalid choice: 'dmup'"),
        ({"command": "pgclone", "args": ["ls", "a", "b"]}, "arguments: b"),
        ({"command": "pgclone", "args": ["ls", "--instances", "--configs"]}, "not allowed with"),
    ],
    ids=str,
)
def test_arguments_that_a_command_does_not_take_are_refused_before_it_runs(
    spec: HookSpec, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_hooks([spec])
    assert isinstance(spec, dict)
    begins = f'the management command "{spec["command"]}" cannot be called so: '
    assert caught.value.message.startswith(begins)
    assert reason in caught.value.message
    assert caught.value.hint == f"What it takes is told by: manage.py help {spec['command']}"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "spec",
    [
        {"command": "migrate", "args": ["people", "0001"], "options": {"verbosity": 0}},
        {"command": "migrate", "options": {"no_input": False, "fake": True}},
        {"command": "migrate", "args": ["--database", "reporting", "--verbosity=2"]},
        {"command": "migrate", "args": ["--help"]},
        {"command": "loaddata", "args": ["written_by_another_hook.json"]},
        {"command": "sqlmigrate", "args": ["people", 1]},
        {"command": "pgclone", "args": ["ls", "--long"], "options": {"config": "nightly"}},
    ],
    ids=str,
)
def test_what_a_command_can_be_called_with_is_accepted(
    spec: HookSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    (hook,) = load_hooks([spec])
    assert hook.kind == "command"
    assert capsys.readouterr() == ("", "")


class Picky(BaseCommand):
    """Asks for what comes with the dump or with another hook, and for a number."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--out", type=lambda name: Path(name).write_text(""))
        parser.add_argument("--person", type=self.person, action=self.Remember)
        parser.add_argument("--plan", choices=[])
        how_often = parser.add_mutually_exclusive_group(required=True)
        how_often.add_argument("--times", type=int)
        how_often.add_argument("--always", action="store_true")

    @staticmethod
    def person(_name: str) -> str:
        raise argparse.ArgumentTypeError("there is nobody yet")

    class Remember(argparse.Action):
        def __call__(self, *_args: object) -> None:
            raise argparse.ArgumentError(self, "there is nobody yet")

    def handle(self, *_args: Any, **_options: Any) -> None:
        raise AssertionError


def test_values_that_come_with_the_dump_are_left_to_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(get_commands(), "picky", Picky())
    out = tmp_path / "out"
    args = ["--out", str(out), "--person", "ada", "--plan", "gold"]
    for options in ({"times": 2}, {"always": True}):
        load_hooks([{"command": "picky", "args": args, "options": options}])
    load_hooks([{"command": "picky", "args": [*args, "--always"]}])
    assert not out.exists()
    with pytest.raises(ConfigurationError, match="one of the arguments --times --always is requ"):
        load_hooks([{"command": "picky", "args": args}])
    with pytest.raises(ConfigurationError, match="argument --times: invalid int value") as caught:
        load_hooks([{"command": "picky", "options": {"times": "hush-hush"}}])
    assert "hush-hush" not in caught.value.message


@pytest.mark.parametrize(
    "other", [{"name": "check", "code": "SELECT 1"}, {"command": "check", "timeout": 5}]
)
def test_a_text_never_stands_for_another_hook_that_is_called_so(other: HookSpec) -> None:
    declared = Declared.of([[other], ["check"]])
    with pytest.raises(ConfigurationError, match='two hooks are called "check"'):
        declared.meant("check")


def test_a_file_is_the_same_hook_in_both_of_its_spellings() -> None:
    declared = Declared.of([["hooks/views.sql"], [{"file": "hooks/views.sql"}]])
    assert declared.meant("hooks/views.sql") == {"file": "hooks/views.sql"}
    assert declared.names_of([{"file": "hooks/views.sql"}]) == ["hooks/views.sql"]


@override_settings(PGCLONE_ALLOW_RESTORE=False)  # DATABASES of the tests would be warned of
def test_what_a_hook_says_is_reported_line_by_line() -> None:
    reporter = SilentReporter()
    run_hooks(load_hooks(["check"]), alias="default", name="placeholder", reporter=reporter)
    *notes, end = reporter.notes
    assert notes == [
        "running the hook check",
        "  System check identified no issues (0 silenced).",
    ]
    assert re.fullmatch(r"the hook check took \d+\.\d s", end)


def test_a_hook_that_fails_ends_the_row_of_hooks_with_its_reason() -> None:
    reporter = SilentReporter()
    with override_settings(PGCLONE_REVERSIBLE="yes"), pytest.raises(HookFailed) as caught:
        run_hooks(
            load_hooks(["check", "migrate"]),
            alias="default",
            name="placeholder",
            reporter=reporter,
        )
    assert caught.value.code == "hook_failed"
    assert caught.value.message.startswith('the hook "check" failed: ')
    assert "PGCLONE_REVERSIBLE has to be of type bool" in caught.value.message
    assert "running the hook migrate" not in reporter.notes


def test_hooks_of_pum_lie_around_all_that_migrates() -> None:
    def code(name: str) -> dict[str, str]:
        return {"code": f"SELECT '{name}'"}

    pum = {"name": "pum", "migration_hooks": {"pre": [code("pre")], "post": [code("post")]}}
    between = {**code("x"), "name": "between"}

    def order(*hooks: HookSpec) -> list[str]:
        return [hook.labels.name.removeprefix("pum: SQL: SELECT ") for hook in load_hooks(hooks)]

    assert order("check", "migrate", between, pum, "migrate", "check") == [
        *("check", "'pre'", "migrate", "between", "migrate", "'post'", "check")
    ]
    assert order(pum, "check") == ["check", "'pre'", "'post'"]
