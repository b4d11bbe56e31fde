"""What the documentation of django-pgclone 1.x and 2+ shows its users, typed as it stands there."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.django_project import Project

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

USERS = "SELECT username FROM auth_user"
A_USER = (
    "INSERT INTO auth_user (username, password, first_name, last_name, email, is_superuser,"
    " is_staff, is_active, date_joined) VALUES ('ada', '', '', '', '', false, false, true, now())"
)


@pytest.fixture
def project(make_quick: Callable[..., Project]) -> Project:
    return make_quick()


def dumped(project: Project, *flags: str, **options: Any) -> str:
    return project.pgclone("dump", *flags, **options).ok().lines[0]


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_tells_host_alias_configuration_and_time(project: Project) -> None:
    del project.settings["PGCLONE_INSTANCE"]
    host = re.sub(r"[^a-zA-Z0-9_-]", "_", socket.gethostname())
    key = dumped(project)
    assert re.fullmatch(rf"{host}/default/none/\d{{4}}(-\d{{2}}){{5}}-\d{{6}}\.dump", key)
    assert project.pgclone("ls").ok().lines == [key]


def test_ls_lists_one_database_and_the_names_of_all(project: Project) -> None:
    key = dumped(project)
    assert project.pgclone("ls", "default").ok().lines == [key]
    assert project.pgclone("ls", "here/default/none").ok().lines == [key]
    assert project.pgclone("ls", "--only-db-names").ok().lines == ["default"]
    assert project.pgclone("ls", "other").ok().lines == []


def test_a_database_is_restored_from_its_most_recent_dump(project: Project) -> None:
    dumped(project)
    project.add_person("between")
    newest = dumped(project)
    project.add_person("after")
    assert project.pgclone("restore", "default").ok().lines == [newest]
    assert project.people()[3:] == ["between"]


def test_variables_of_a_script_that_are_empty_say_nothing(project: Project) -> None:
    empty = ("-d", "", "-s", "", "-c", "")
    key = dumped(project, "-i", "", *empty)
    assert key.startswith("here/default/none/")
    project.add_person("after")
    project.settings["PGCLONE_CONFIGS"] = {
        "usual": {"dump_key": key, "instance": "", "database": "", "storage_location": ""}
    }
    assert project.pgclone("restore", "", "-c", "usual", "-d", "", "-s", "").ok().lines == [key]
    assert project.people()[3:] == []
    assert (
        project.pgclone("restore", "", *empty)
        .failed()
        .stderr.startswith("error: no dump was named")
    )


def test_the_default_configuration_of_1_x_is_there_where_nobody_defines_it(
    project: Project,
) -> None:
    key = dumped(project, "-c", "default")
    assert key.startswith("here/default/none/")
    project.add_person("after")
    assert project.pgclone("restore", "default", "-c", "default").ok().lines == [key]
    assert project.people()[3:] == []


def test_a_default_configuration_that_may_be_in_a_database_which_is_away_is_not_left_out(
    project: Project,
) -> None:
    key = dumped(project)
    away = project.databases(NAME="away")
    failed = project.pgclone("restore", key, "-c", "default", database=away).failed()
    assert 'there is no configuration "default"' in failed.stderr
    assert "Others are in the admin, whose database cannot be asked now." in failed.stderr


# -- what is left out ------------------------------------------------------------------------------

EXCLUDED = {
    "--exclude-model": (["--exclude-model", "auth.User"], {}),
    "--exclude": (["--exclude", "auth.User"], {}),
    "default configuration of 1.x": (
        [],
        {"PGCLONE_DUMP_CONFIGS": {"default": {"exclude_models": ["auth.User"]}}},
    ),
    "configuration": (
        ["-c", "default"],
        {"PGCLONE_CONFIGS": {"default": {"exclude": ["auth.User"]}}},
    ),
    "setting": ([], {"PGCLONE_EXCLUDE": ["auth.User"]}),
}


@pytest.mark.parametrize(("flags", "settings"), EXCLUDED.values(), ids=list(EXCLUDED))
def test_the_user_table_is_left_out(
    project: Project, flags: list[str], settings: dict[str, Any]
) -> None:
    project.run(A_USER)
    key = dumped(project, *flags, settings=settings)
    project.pgclone("restore", key).ok()
    assert project.run(USERS) == []


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_are_given_one_by_one_and_run_in_this_order(project: Project) -> None:
    key = dumped(project)
    hooks = ["--pre-swap-hook", "migrate", "--pre-swap-hook", "remove_stale_contenttypes"]
    done = project.pgclone("restore", key, *hooks, "--pre-swap-hook", "good_hook").ok()
    ran = [line for line in done.stderr.splitlines() if line.startswith("running the hook")]
    assert [line.rpartition(" ")[2] for line in ran] == [
        "migrate",
        "remove_stale_contenttypes",
        "good_hook",
    ]
    assert project.notes()[-1] == f"good hook in {project.name}__temp"


def test_what_is_restored_can_be_named_by_the_configuration(project: Project) -> None:
    key = dumped(project)
    project.add_person("after")
    project.settings["PGCLONE_CONFIGS"] = {"usual": {"dump_key": "here/default"}}
    hooks = ["--pre-swap-hook", "migrate", "--pre-swap-hook", "remove_stale_contenttypes"]
    assert project.pgclone("restore", "-c", "usual", *hooks).ok().lines == [key]
    assert project.people()[3:] == []


def test_a_hook_that_fails_leaves_the_temporary_database_and_the_main_one(
    project: Project, nothing_left_behind: Any
) -> None:
    nothing_left_behind.allow(f"{project.name}__temp")
    key = dumped(project)
    project.add_person("after")
    oid = project.oid
    project.pgclone("restore", key, "--pre-swap-hook", "failing_hook").failed()
    assert project.oid == oid
    assert project.people()[3:] == ["after"]
    assert project.people(f"{project.name}__temp")[3:] == []


@pytest.mark.parametrize(
    "place", ["PGCLONE_PRE_DUMP_HOOKS", "PRE_DUMP_HOOKS", "bare", "configuration"]
)
def test_hooks_before_a_dump_come_from_every_place_that_is_documented(
    project: Project, place: str
) -> None:
    settings: dict[str, Any] = {
        "bare": {"PGCLONE_DUMP_CONFIGS": {"default": {"pre_dump_hooks": "good_hook"}}},
        "configuration": {"PGCLONE_CONFIGS": {"x": {"pre_dump_hooks": ["good_hook"]}}},
    }.get(place, {place: ["good_hook"]})
    dumped(project, *(["-c", "x"] if place == "configuration" else []), settings=settings)
    assert project.notes()[-1] == f"good hook in {project.name}"


@pytest.mark.parametrize(
    "settings",
    [
        {"PGCLONE_PRE_SWAP_HOOKS": ["good_hook"]},
        {"PRE_SWAP_HOOKS": ["good_hook"]},
        {"PGCLONE_RESTORE_CONFIGS": {"default": {"pre_swap_hooks": ["good_hook"]}}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_hooks_before_a_swap_come_from_every_place_that_is_documented(
    project: Project, settings: dict[str, Any]
) -> None:
    key = dumped(project)
    project.pgclone("restore", key, settings=settings).ok()
    assert project.notes()[-1] == f"good hook in {project.name}__temp"


def test_migrate_runs_before_a_swap_unless_hooks_are_named(
    make_quick: Callable[..., Project],
) -> None:
    old = make_quick(upto="0001")
    key = dumped(old)
    old.pgclone("restore", key, "--pre-swap-hook", "where_am_i").ok()
    assert old.migrations() == ["0001_initial"]
    old.pgclone("restore", key).ok()
    assert old.migrations() == ["0001_initial", "0002_person_nickname"]


# -- going back ------------------------------------------------------------------------------------


def test_a_restore_can_be_reverted_by_both_of_its_names(project: Project) -> None:
    """Also without --reversible, where 1.x and 2+ would have deleted both."""
    key = dumped(project)
    project.add_person("before")
    project.pgclone("restore", key, "--reversible").ok()
    for name, people in {
        ":previous": ["before"],
        ":current": [],
        ":pre": ["before"],
        ":post": [],
    }.items():
        project.add_person("after")
        assert project.pgclone("restore", name).ok().lines
        assert project.people()[3:] == people


def test_a_copy_is_listed_and_restored(project: Project) -> None:
    copy = f":{project.name}_clean"
    project.pgclone("copy", copy).ok()
    project.add_person("after")
    assert copy in project.pgclone("ls", "--local").ok().lines
    project.pgclone("restore", copy).ok()
    assert project.people()[3:] == []


# -- production ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["default", ":pre"])
def test_restores_can_be_forbidden_in_production(project: Project, key: str) -> None:
    dumped(project)
    project.pgclone("restore", "default", "--reversible").ok()
    oid = project.oid
    project.settings["PGCLONE_ALLOW_RESTORE"] = False
    refused = project.pgclone("restore", key).failed()
    assert "PGCLONE_ALLOW_RESTORE" in refused.stderr
    assert project.oid == oid
