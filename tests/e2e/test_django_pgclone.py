"""Dumps go both ways between this app and the real django-pgclone, and so do settings and names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import SECRET_ROW
from tests.support.django_project import Completed, Project
from tests.support.documents import named, names_of_others
from tests.support.peer import Peer, peer_package

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_behind")]

SECRETS = 'SELECT value FROM "my.tab ü"'
USERS = "SELECT username FROM auth_user"
A_USER = (
    "INSERT INTO auth_user (username, password, first_name, last_name, email, is_superuser,"
    " is_staff, is_active, date_joined) VALUES ('ada', '', '', '', '', false, false, true, now())"
)


@pytest.fixture
def peer(project: Project) -> Peer:
    project.settings["PGCLONE_COMPRESSION"] = "gzip"
    return Peer(project)


@pytest.fixture(params=["here", "there"])
def pgclone(
    request: pytest.FixtureRequest, project: Project, peer: Peer
) -> Callable[..., Completed]:
    """The command of either of the two, for what has to be the same in both."""
    return project.pgclone if request.param == "here" else peer.pgclone


def dump(project: Project, *args: str, **options: Any) -> str:
    return project.pgclone("dump", *args, **options).ok().lines[0]


# -- dumps -----------------------------------------------------------------------------------------


def test_a_dump_of_django_pgclone_is_listed_and_restored_here(project: Project, peer: Peer) -> None:
    key = peer.dump()
    before = project.fingerprint()
    project.add_person("too much")
    project.run('DROP TABLE "my.tab ü"')

    (line,) = project.pgclone("ls", "--long").ok().lines
    assert line.startswith(key)
    assert line.endswith("no manifest")
    done = project.pgclone("restore", key, "--pre-swap-hook").ok()

    assert done.lines == [key]
    assert project.fingerprint() == before


@pytest.mark.parametrize("compression", ["gzip", "gzip:9", "none"])
def test_a_dump_of_this_app_is_listed_and_restored_there(
    project: Project, peer: Peer, compression: str
) -> None:
    key = dump(project, settings={"PGCLONE_COMPRESSION": compression})
    before = project.fingerprint()
    project.add_person("too much")
    project.run('DROP TABLE "my.tab ü"')

    assert peer.pgclone("ls").ok().lines == [key]
    peer.pgclone("restore", key).ok()

    assert project.fingerprint() == before


def test_a_dump_can_be_named_by_its_first_parts_in_both(project: Project, peer: Peer) -> None:
    dump(project, "-i", "ours")
    project.add_person("by the other")
    peer.dump("-i", "theirs")
    project.add_person("too much")

    done = project.pgclone("restore", "theirs/default").ok()
    assert done.lines[0].startswith("theirs/default/none/")
    assert project.people()[3:] == ["by the other"]
    peer.pgclone("restore", "ours/default").ok()
    assert project.people()[3:] == []


WANTED = [
    ["ours"],
    ["theirs/default"],
    ["ours/default/small"],
    ["--instances"],
    ["--databases"],
    ["--configs"],
    ["--configs", "theirs"],
    ["nobody"],
]


def test_both_list_the_same(project: Project, peer: Peer) -> None:
    settings = {"PGCLONE_CONFIGS": {"small": {"exclude": ["auth.User"]}}}
    keys = [
        dump(project, "-i", "ours"),
        dump(project, "-i", "ours", "-c", "small", settings=settings),
        peer.dump("-i", "theirs"),
        peer.dump("-i", "theirs", "-c", "small", settings=settings),
    ]
    assert project.pgclone("ls").ok().lines == keys[::-1]
    assert sorted(peer.pgclone("ls").ok().lines) == sorted(keys)
    for wanted in WANTED:
        here = project.pgclone("ls", *wanted).ok().lines
        assert (wanted, sorted(here)) == (wanted, sorted(peer.pgclone("ls", *wanted).ok().lines))


# -- settings --------------------------------------------------------------------------------------

EVERY_SETTING = {
    "PGCLONE_INSTANCE": "office",
    "PGCLONE_DATABASE": "default",
    "PGCLONE_EXCLUDE": [],
    "PGCLONE_REVERSIBLE": False,
    "PGCLONE_PRE_DUMP_HOOKS": [],
    "PGCLONE_PRE_SWAP_HOOKS": ["migrate"],
    "PGCLONE_ALLOW_DUMP": True,
    "PGCLONE_ALLOW_RESTORE": True,
    "PGCLONE_ALLOW_COPY": True,
    "PGCLONE_CONN_DB": "postgres",
    "PGCLONE_STATEMENT_TIMEOUT": 60_000,
    "PGCLONE_LOCK_TIMEOUT": 60_000,
    "PGCLONE_S3_CONFIG": {"AWS_DEFAULT_REGION": "eu-central-1"},
    "PGCLONE_S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "PGCLONE_VALIDATE_DUMP_KEYS": True,
    "PGCLONE_CONFIGS": {
        "nightly": {
            "database": "default",
            "exclude": ["auth.User"],
            "instance": "prod",
            "pre_dump_hooks": ["good_hook"],
            "pre_swap_hooks": ["migrate", "good_hook"],
            "reversible": True,
        },
        "named": {"dump_key": "prod/default"},
    },
}


def test_the_settings_of_django_pgclone_mean_the_same_in_both(
    project: Project, pgclone: Callable[..., Completed]
) -> None:
    project.settings.update(EVERY_SETTING)
    project.run(A_USER)
    started_with = len(project.notes())

    pgclone("dump", "-c", "nightly").ok()
    (key,) = (file for file in project.files() if file.endswith(".dump"))
    assert key.startswith("prod/default/nightly/")
    assert project.notes()[started_with:] == [f"good hook in {project.name}"]

    project.add_person("too much")
    assert pgclone("ls", "-c", "named").ok().lines == [key]
    pgclone("restore", "prod", "-c", "nightly").ok()
    assert project.run(USERS) == []
    assert len(project.people()) == 3
    assert project.notes()[started_with + 1 :] == [f"good hook in {project.name}__temp"]
    assert project.notes(f"{project.name}__pre")[started_with + 1 :] == []
    assert len(project.people(f"{project.name}__pre")) == 4


@pytest.mark.parametrize(
    ("flags", "label"),
    [
        ([], "nightly"),
        (["-i", "other"], "nightly"),
        (["-i", "", "-d", "", "-s", ""], "nightly"),
        (["--exclude", "people.Note"], "none"),
        (["--pre-dump-hook", "good_hook"], "none"),
    ],
    ids=str,
)
def test_a_dump_that_is_not_what_its_configuration_says_is_labelled_none_in_both(
    project: Project, pgclone: Callable[..., Completed], flags: list[str], label: str
) -> None:
    project.settings.update(EVERY_SETTING)
    pgclone("dump", "-c", "nightly", *flags).ok()
    (key,) = (file for file in project.files() if file.endswith(".dump"))
    assert key.split("/")[2] == label


@pytest.mark.parametrize("verb", ["dump", "restore", "copy"])
def test_what_a_setting_forbids_is_refused_in_both(
    project: Project, pgclone: Callable[..., Completed], verb: str
) -> None:
    key = dump(project)
    target = {"dump": [], "restore": [key], "copy": [f":{project.name}_copy"]}[verb]
    oid = project.oid
    assert pgclone(verb, *target, settings={f"PGCLONE_ALLOW_{verb.upper()}": False}).failed()
    assert project.oid == oid
    assert [file for file in project.files() if file.endswith(".dump")] == [key]
    assert project.server.oid(f"{project.name}_copy") is None


NAMES = {
    "settings.py": r'"(PGCLONE_[A-Z0-9_]+)"',
    "options.py": r'config_opts\.get\("(\w+)"\)',
    "management/commands/pgclone.py": r'"(--?[a-z][a-z-]*)"|"(\w+)": \w+Command',
}
"""What its files say of settings, keys of configurations, flags and commands."""


def test_the_guide_names_every_setting_key_flag_and_command() -> None:
    names = {
        next(filter(None, found.groups()))
        for file, pattern in NAMES.items()
        for found in re.finditer(pattern, (peer_package() / file).read_text("utf-8"))
    }
    assert {"PGCLONE_CONN_DB", "dump_key", "copy", "--pre-swap-hook", "-s"} <= names
    assert sorted(name for name in names if not named(names_of_others(), name)) == []


# -- local copies ----------------------------------------------------------------------------------


def test_what_a_restore_there_has_kept_is_gone_back_to_here_under_another_name(
    project: Project, peer: Peer
) -> None:
    key = peer.dump()
    project.add_person("before")
    peer.pgclone("restore", key, "--reversible").ok()
    project.add_person("after")

    assert {":pre", ":post"} <= set(project.pgclone("ls", "--local").ok().lines)
    refused = project.pgclone("restore", ":pre").failed()
    assert (
        f'"{project.name}__pre" was not made by pgclone_admin and is left alone' in refused.stderr
    )
    before, after = f"{project.name}_before", f"{project.name}_after"
    project.server.admin(f"ALTER DATABASE {project.name}__pre RENAME TO {before}")
    project.server.admin(f"ALTER DATABASE {project.name}__post RENAME TO {after}")
    project.pgclone("restore", f":{before}").ok()
    assert project.people()[3:] == ["before"]
    project.pgclone("restore", f":{after}").ok()
    assert project.people()[3:] == []


def test_what_a_restore_here_has_kept_is_gone_back_to_there(project: Project, peer: Peer) -> None:
    key = dump(project)
    project.add_person("before")
    project.pgclone("restore", key, "--reversible").ok()
    project.add_person("after")

    listed = set(peer.pgclone("ls", "--local").ok().lines)
    assert {f":{project.name}__pre", f":{project.name}__post"} <= listed
    peer.pgclone("restore", ":pre").ok()
    assert project.people()[3:] == ["before"]
    peer.pgclone("restore", ":post").ok()
    assert project.people()[3:] == []


def test_copies_that_the_other_has_made_are_restored(project: Project, peer: Peer) -> None:
    theirs, ours = f"{project.name}_theirs", f"{project.name}_ours"
    peer.pgclone("copy", f":{theirs}").ok()
    project.add_person("between")
    project.pgclone("copy", f":{ours}").ok()
    project.add_person("after")

    assert {f":{theirs}", f":{ours}"} <= set(project.pgclone("ls", "--local").ok().lines)
    project.pgclone("restore", f":{theirs}").ok()
    assert project.people()[3:] == []
    peer.pgclone("restore", f":{ours}").ok()
    assert project.people()[3:] == ["between"]


# -- 1.x -------------------------------------------------------------------------------------------


@pytest.fixture
def version_1(project: Project, peer: Peer) -> list[str]:
    """Keys as 1.x has written them, of two dumps; the newer one holds one person more."""
    keys = []
    for day in ("01", "02"):
        made = project.storage_root / peer.dump()
        key = f"{project.name}/2021_03_{day}_12_30_00_000007.default.dump"
        (project.storage_root / key).parent.mkdir(exist_ok=True)
        made.rename(project.storage_root / key)
        keys.append(key)
        project.add_person(f"after day {day}")
    return keys


def test_dumps_of_1_x_are_listed(project: Project, version_1: list[str]) -> None:
    other = dump(project)
    assert project.pgclone("ls").ok().lines == [other, *version_1[::-1]]
    assert project.pgclone("ls", project.name).ok().lines == version_1[::-1]
    assert project.pgclone("ls", "--only-db-names").ok().lines == ["default", project.name]
    assert project.pgclone("ls", "--configs").ok().lines == ["default", "none"]


def test_dumps_of_1_x_are_restored_by_key_and_by_database(
    project: Project, version_1: list[str]
) -> None:
    older, newer = version_1
    assert project.pgclone("restore", project.name).ok().lines == [newer]
    assert project.people()[3:] == ["after day 01"]
    assert project.pgclone("restore", older).ok().lines == [older]
    assert project.people()[3:] == []
    assert project.run(SECRETS) == [(SECRET_ROW,)] * 3
