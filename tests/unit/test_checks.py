"""System checks: what is wrong with the settings, told before it matters."""

from __future__ import annotations

from typing import Any

import pgconnection
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.checks import run_checks
from django.test import override_settings

from pgclone_admin import checks
from pgclone_admin.reconnecting import connect_again
from pgclone_admin.routing import configure
from tests.unit.helpers import SetDatabases, alias_settings, three_aliases


@pytest.fixture(autouse=True)
def configured(set_databases: SetDatabases) -> None:
    """DATABASES as a project should have them."""
    set_databases(configure(three_aliases()))


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
    "alias of no database": (
        {"PGCLONE_DATABASE": "nope"},
        "E003",
        'there is no database "nope" in DATABASES',
    ),
    "model that does not exist": (
        {"PGCLONE_EXCLUDE": ["auth.User", "shop.Nope"]},
        "E003",
        'there is no model "shop.Nope" to exclude',
    ),
    "alias of no database in a configuration": (
        {"PGCLONE_CONFIGS": {"nightly": {"database": "nope"}}},
        "E004",
        'there is no database "nope" in DATABASES',
    ),
    "model that does not exist in a configuration": (
        {"PGCLONE_CONFIGS": {"nightly": {"exclude": ["shop.Nope"]}}},
        "E004",
        'there is no model "shop.Nope" to exclude',
    ),
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
        {"PGCLONE_CONFIGS": {"a": {"pre_dump_hooks": "anonymize; rm -rf /"}}},
        "E004",
        'there is no management command "anonymize; rm -rf /" to run as a hook',
    ),
    "script that ends the transaction": (
        {"PGCLONE_PRE_SWAP_HOOKS": [{"code": "SELECT 1; COMMIT", "name": "half"}]},
        "E004",
        'the hook "half" cannot be used: line 1: COMMIT begins or ends a transaction',
    ),
    "hook that would anonymize the live database": (
        {"PGCLONE_POST_SWAP_HOOKS": [{"anonymize": {"auth.User.email": "email"}}]},
        "E004",
        'the hook "anonymize" would change the live database',
    ),
    "hook that says it anonymizes the live database": (
        {"PGCLONE_PRE_DUMP_HOOKS": [{"command": "good_hook", "anonymizes": True}]},
        "E004",
        'the hook "good_hook" would anonymize the live database',
    ),
    "configuration that requires what its hooks do not do": (
        {"PGCLONE_CONFIGS": {"local": {"require_anonymized": True}}},
        "E004",
        "anonymized data is required, and none of the pre-swap hooks anonymizes",
    ),
    "one name for two hooks": (
        {"PGCLONE_PRE_DUMP_HOOKS": [{"code": "SELECT 1", "name": "x"}, {"code": "", "name": "x"}]},
        "E004",
        'two hooks are called "x"',
    ),
    "name that means no configuration": (
        {"PGCLONE_CONFIGS": {"none": {}}},
        "E004",
        'no configuration can be called "none"',
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


def test_a_parameter_may_wait_for_its_value_until_somebody_asks_for_a_run() -> None:
    hook = {
        "code": "UPDATE t SET label = {label}",
        "parameters": [{"name": "label"}, {"name": "most", "type": "integer"}],
    }
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=[hook], PGCLONE_PRE_DUMP_HOOKS=[hook]):
        assert ours() == []
    with override_settings(
        PGCLONE_PRE_SWAP_HOOKS=[hook], PGCLONE_HOOK_PARAMS={"label": "a", "most": "many"}
    ):
        assert ours() == [
            ("pgclone_admin.E004", 'the value of the parameter "most" cannot be used')
        ]


def test_every_setting_that_cannot_be_used_is_told() -> None:
    with override_settings(PGCLONE_REVERSIBLE="yes", PGCLONE_LOCK_TIMEOUT="1s", PGCLONE_CONFIGS=[]):
        assert {identifier for identifier, _ in ours()} == {"pgclone_admin.E003"}
        assert len(ours()) == 3


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
    # Stands in for a site that got psycopg 3 after DATABASES was made.
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    ((identifier, message),) = ours()
    assert identifier == "pgclone_admin.E002"
    assert "psycopg 3" in message
    set_databases(three_aliases())
    assert ours() == []


# -- kept tables -----------------------------------------------------------------------------------


def leading(between: str) -> tuple[str, str]:
    return (
        "pgclone_admin.E005",
        f"{between} leads from a kept table to another one, or from another one to a kept one",
    )


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ([], []),
        (["people"], []),  # its relations lead to itself
        (
            ["contenttypes"],
            [leading("admin.LogEntry.content_type"), leading("auth.Permission.content_type")],
        ),
        (["auth"], [leading("admin.LogEntry.user"), leading("auth.Permission.content_type")]),
        (["auth", "contenttypes", "admin"], []),
        (["flatpages"], [("pgclone_admin.E003", "PGCLONE_KEEP_APPS names apps that are not")]),
    ],
)
def test_a_relation_between_a_kept_table_and_another_one_is_an_error(
    kept: list[str], found: list[tuple[str, str]]
) -> None:
    with override_settings(PGCLONE_KEEP_APPS=kept):
        told = sorted(ours())
    assert [identifier for identifier, _ in told] == [identifier for identifier, _ in found]
    assert all(
        said.startswith(expected) for (_, said), (_, expected) in zip(told, found, strict=True)
    )


def test_a_relation_that_the_database_does_not_know_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = Permission._meta.get_field("content_type")
    with override_settings(PGCLONE_KEEP_APPS=["auth", "admin"]):
        monkeypatch.setattr(LogEntry._meta.get_field("content_type"), "db_constraint", False)
        with monkeypatch.context() as patch:
            patch.setattr(field, "db_constraint", False)
            assert ours() == []
        assert len(ours()) == 1
        monkeypatch.setattr(Permission._meta, "managed", False)
        assert ours() == []


# -- clients of a database that is swapped ---------------------------------------------------------


def hints(identifier: str) -> list[str]:
    return [str(found.hint) for found in run_checks() if found.id == f"pgclone_admin.{identifier}"]


CAN_FAIL = "what connects to a database while a restore is swapped in can fail once: "


def test_a_plain_mapping_is_a_warning(set_databases: SetDatabases) -> None:
    set_databases(three_aliases())
    assert ours() == [("pgclone_admin.W002", f"{CAN_FAIL}default, reporting, other")]
    assert hints("W002") == ["Write DATABASES = pgclone_admin.routing.configure({...})."]


def test_a_plain_mapping_that_connects_again_is_right(set_databases: SetDatabases) -> None:
    set_databases(
        {
            "default": alias_settings("live", OPTIONS={"connection_factory": connect_again}),
            "cache": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        }
    )
    assert ours() == []


def test_an_engine_that_configure_does_not_know_by_its_name_is_a_warning(
    set_databases: SetDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    databases = three_aliases()
    configured = configure(databases)
    del configured["other"]["OPTIONS"]["connection_factory"]
    set_databases(configured)
    assert ours() == [("pgclone_admin.W002", f"{CAN_FAIL}other")]
    assert hints("W002") == [
        'Write "connection_factory": pgclone_admin.reconnecting.connect_again in its OPTIONS.'
    ]


def test_with_psycopg_3_nobody_is_told_to_do_what_cannot_be_done(
    set_databases: SetDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for a site where Django uses psycopg 3.
    monkeypatch.setattr("django.db.backends.postgresql.psycopg_any.is_psycopg3", True)
    set_databases(configure(three_aliases()))
    assert ours() == []


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, False),
        ({"CONN_MAX_AGE": 600}, True),
        ({"CONN_MAX_AGE": None}, True),
        ({"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}, False),
        ({"CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True}, False),
        ({"OPTIONS": {"pool": True}}, True),
        ({"OPTIONS": {"pool": True}, "CONN_HEALTH_CHECKS": True}, False),
    ],
)
def test_connections_that_are_kept_without_a_check_are_a_warning(
    set_databases: SetDatabases, changes: dict[str, Any], warned: bool
) -> None:
    set_databases(configure(three_aliases(**changes)))
    message = (
        'connections of the database "default" are kept without being checked: after a restore '
        "each of them fails once"
    )
    assert ours() == ([("pgclone_admin.W003", message)] if warned else [])
    told = ['Write "CONN_HEALTH_CHECKS": True in DATABASES["default"].']
    assert hints("W003") == (told if warned else [])


def test_where_nothing_may_be_restored_clients_are_left_in_peace(
    set_databases: SetDatabases,
) -> None:
    set_databases(three_aliases(CONN_MAX_AGE=600))
    assert {identifier for identifier, _ in ours()} == {"pgclone_admin.W002", "pgclone_admin.W003"}
    with override_settings(PGCLONE_ALLOW_RESTORE=False):
        assert ours() == []
    with override_settings(PGCLONE_ALLOW_RESTORE="no"):
        assert len(ours()) == 3


def test_another_kind_of_database_is_none_of_this(set_databases: SetDatabases) -> None:
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": 600}
    set_databases({"default": sqlite})
    assert ours() == []


# -- the queue -------------------------------------------------------------------------------------

CLUSTER = {"timeout": 600, "retry": 700, "ack_failures": True, "max_attempts": 1}

QUEUES: dict[str, tuple[dict[str, Any], dict[str, Any], list[tuple[str, str]]]] = {
    "right": ({}, {}, []),
    "f46 retry as large as timeout": (
        {"retry": 600},
        {},
        [("E006", "retry of Q_CLUSTER (600 s) is not larger than its timeout (600 s)")],
    ),
    "f46 no retry, which is a minute": (
        {"retry": None},
        {},
        [("E006", "retry of Q_CLUSTER (60 s) is not larger than its timeout (600 s)")],
    ),
    "f46 no timeout": ({"timeout": None}, {}, [("W005", "Q_CLUSTER has no timeout")]),
    "a run that may take longer than its worker lives": (
        {},
        {"PGCLONE_RUN_TIMEOUT": 600},
        [("E007", "PGCLONE_RUN_TIMEOUT (600 s) is not smaller than the timeout of Q_CLUSTER")],
    ),
    "a run that may take longer than a task is left alone": (
        {"timeout": None},
        {"PGCLONE_RUN_TIMEOUT": 800},
        [
            ("E008", "retry of Q_CLUSTER (700 s) is not larger than what a run may take (800 s)"),
            ("W005", "Q_CLUSTER has no timeout"),
        ],
    ),
    "failures that are repeated": (
        {"ack_failures": False},
        {},
        [("W006", "tasks that fail are delivered again and again")],
    ),
    "attempts that are repeated": (
        {"max_attempts": 3},
        {},
        [("W007", "a task that its worker did not survive is tried again")],
    ),
    "nothing said of attempts": (
        {"max_attempts": None},
        {},
        [("W007", "a task that its worker did not survive is tried again")],
    ),
    "no queue but the caller itself": ({"sync": True, "timeout": None}, {}, []),
}


@pytest.mark.parametrize("kind", QUEUES)
def test_f46_what_is_wrong_with_the_queue_is_told(kind: str) -> None:
    changes, others, expected = QUEUES[kind]
    cluster = {name: v for name, v in {**CLUSTER, **changes}.items() if v is not None}
    with override_settings(Q_CLUSTER=cluster, **others):
        found = sorted(ours())
        assert [identifier for identifier, _ in found] == [
            f"pgclone_admin.{identifier}" for identifier, _ in expected
        ]
        for (_identifier, message), (_expected, start) in zip(found, expected, strict=True):
            assert message.startswith(start)
        assert all(found.hint for found in run_checks() if "Q_CLUSTER" in str(found.msg))


def test_the_cluster_of_this_process_is_the_one_that_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = {**CLUSTER, "ALT_CLUSTERS": {"long": {"timeout": 900, "retry": 800}}}
    with override_settings(Q_CLUSTER=cluster):
        assert ours() == []
        monkeypatch.setenv("Q_CLUSTER_NAME", "long")
        ((identifier, message),) = ours()
    assert identifier == "pgclone_admin.E006"
    assert "(800 s)" in message
    assert "(900 s)" in message


def test_without_a_queue_nothing_that_is_asked_for_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"django.contrib.admin"}
    monkeypatch.setattr("django.apps.apps.is_installed", installed.__contains__)
    found = checks.check_queue()
    assert [message.id for message in found] == ["pgclone_admin.W004"]
    assert "django_q" in str(found[0].hint)
    installed.clear()
    assert checks.check_queue() == []


def test_fields_that_seem_personal_and_that_no_rule_mentions_are_told() -> None:
    rules = {"people.Person": {"name": "name"}}
    configs = {"local": {"pre_swap_hooks": [{"anonymize": rules, "name": "local"}]}}
    with override_settings(PGCLONE_CONFIGS=configs):
        (message,) = checks.check_anonymizing()
    assert message.id == "pgclone_admin.W010"
    told = str(message.msg)
    assert told.startswith('the hook "local" says nothing of fields that seem to be personal: ')
    assert "people.Person.nickname" in told
    assert "people.Person.name," not in told


def test_fields_that_may_stay_are_told_of_no_more() -> None:
    mentioned = {"people.Person": {"name": "name", "nickname": "keep", "born": "keep"}}
    configs = {"local": {"pre_swap_hooks": [{"anonymize": mentioned}]}}
    with override_settings(PGCLONE_CONFIGS=configs):
        told = "".join(str(message.msg) for message in checks.check_anonymizing())
    assert "people.Person" not in told
    assert checks.check_anonymizing() == []
