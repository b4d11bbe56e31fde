"""System checks: what is wrong with the settings, told before it matters."""

from __future__ import annotations

from typing import Any

import pgconnection
import pytest
from django.core.checks import run_checks
from django.test import override_settings

from pgclone_admin.routing import configure
from tests.unit.helpers import SetDatabases, three_aliases


def ours() -> list[tuple[str, str]]:
    """What ``manage.py check`` says of this app: identifiers and messages."""
    return [
        (str(found.id), str(found.msg))
        for found in run_checks()
        if str(found.id).startswith("pgclone_admin.")
    ]


def test_a_site_without_any_setting_is_right() -> None:
    assert ours() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PRE_DUMP_HOOKS", "PGCLONE_PRE_DUMP_HOOKS"),
        ("PRE_SWAP_HOOKS", "PGCLONE_PRE_SWAP_HOOKS"),
    ],
)
def test_an_old_name_of_a_setting_is_a_warning(old: str, new: str) -> None:
    with override_settings(**{old: ["migrate"]}):
        (found,) = [found for found in run_checks() if found.id == "pgclone_admin.W001"]
    assert found.msg == f"the setting {old} is read as {new}"
    assert found.hint == f"Rename it to {new}."
    assert not found.is_serious()


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "kind of a value": (
        {"PGCLONE_REVERSIBLE": "yes"},
        "E003",
        "PGCLONE_REVERSIBLE has to be of type bool",
    ),
    "codec": ({"PGCLONE_COMPRESSION": "lz4"}, "E003", "PGCLONE_COMPRESSION cannot be 'lz4'"),
    "unknown key": (
        {"PGCLONE_CONFIGS": {"nightly": {"--file": "x"}}},
        "E004",
        '"--file" of the configuration "nightly" is not known',
    ),
    "configuration of version 1": (
        {"PGCLONE_DUMP_CONFIGS": {"default": {"jobs": 2}}},
        "E004",
        '"jobs" of the configuration "default" is not known',
    ),
    "unknown hook": (
        {"PGCLONE_PRE_SWAP_HOOKS": ["migrat"]},
        "E004",
        'there is no management command "migrat" to run as a hook',
    ),
    "unknown hook in a configuration": (
        {"PGCLONE_CONFIGS": {"a": {"pre_dump_hooks": "anonymise; rm -rf /"}}},
        "E004",
        'there is no management command "anonymise; rm -rf /" to run as a hook',
    ),
    "one name for two": (
        {"PGCLONE_CONFIGS": {"x": {}}, "PGCLONE_RESTORE_CONFIGS": {"x": {}}},
        "E004",
        'the configuration "x" stands in PGCLONE_CONFIGS and in the settings of 1.x',
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_setting_that_cannot_be_used_is_an_error_told_once(kind: str) -> None:
    changes, identifier, message = WRONG[kind]
    with override_settings(**changes):
        assert ours() == [(f"pgclone_admin.{identifier}", message)]
        assert all(found.is_serious() for found in run_checks())


def test_every_setting_that_cannot_be_used_is_told() -> None:
    with override_settings(PGCLONE_REVERSIBLE="yes", PGCLONE_LOCK_TIMEOUT="1s", PGCLONE_CONFIGS=[]):
        assert {identifier for identifier, _ in ours()} == {"pgclone_admin.E003"}
        assert len(ours()) == 3


def test_a_mapping_of_the_app_and_a_plain_one_are_right(set_databases: SetDatabases) -> None:
    for databases in (configure(three_aliases()), three_aliases()):
        set_databases(databases)
        assert ours() == []


def test_a_mapping_of_pgconnection_itself_is_an_error_of_every_check(
    set_databases: SetDatabases,
) -> None:
    # Threads would lack Django's defaults, and work on the real database in a test run.
    set_databases(pgconnection.configure(three_aliases()))
    ((identifier, message),) = ours()
    assert identifier == "pgclone_admin.E001"
    assert "works in the first thread only" in message


def test_pgconnection_together_with_psycopg_3_is_an_error(
    set_databases: SetDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for a site where Django uses psycopg 3.
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    set_databases(configure(three_aliases()))
    ((identifier, message),) = ours()
    assert identifier == "pgclone_admin.E002"
    assert "psycopg 3" in message
    set_databases(three_aliases())
    assert ours() == []
