"""Which hooks there are. Hooks at work are tested with databases."""

from __future__ import annotations

import re

import pytest
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
    run_hooks(load_hooks(["check"]), alias="default", database="placeholder", reporter=reporter)
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
            database="placeholder",
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
