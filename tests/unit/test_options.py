"""Arguments over configuration over settings."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import override_settings

from pgclone_admin import options
from pgclone_admin.core.errors import ConfigurationError, UnknownConfiguration
from pgclone_admin.hooks import load_hooks
from pgclone_admin.options import (
    CONFIGURATION_KEYS,
    NO_CONFIGURATION,
    Arguments,
    Options,
    configuration_names,
    resolve,
)
from pgclone_admin.services.declared import usual_options
from pgclone_admin.settings import settings

NOWHERE: Any = object()
"""In the table: the option cannot be given there."""


@dataclass(frozen=True)
class Row:
    """What the option is without anything, and one value for each place to give it.

    The values differ, and an empty list or False is a value like others.
    """

    default: Any
    setting: Any
    configuration: Any
    argument: Any
    changes_content: bool = False
    """Whether a dump that is made with the argument is not what its configuration promises."""
    together: Callable[[list[Any]], Any] = lambda given: given[-1]
    """What several of the values, in the order of the places, amount to."""


def merged(given: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for each in given for name, value in each.items()}


# A new option is a new line.
TABLE: dict[str, Row] = {
    "database": Row("default", "by_setting", "by_configuration", "by_argument"),
    "dump_key": Row(None, NOWHERE, "by/configuration", ":by_argument"),
    "exclude": Row([], ["a.Setting"], ["a.Configuration"], [], changes_content=True),
    "hook_params": Row({}, {"a": 1}, {"b": 2}, {"c": 3}, changes_content=True, together=merged),
    "instance": Row(socket.gethostname(), "by-setting", "by-configuration", "by-argument"),
    "post_swap_hooks": Row([], ["a"], [{"code": "SELECT 2"}], []),
    "pre_dump_hooks": Row([], ["by_setting"], [], ["by_argument"], changes_content=True),
    "pre_swap_hooks": Row(["migrate"], ["a"], ["b", "migrate"], [], changes_content=True),
    # Nobody can say for one run that raw data may do.
    "require_anonymized": Row(False, True, False, NOWHERE, together=any),
    "reversible": Row(False, True, False, True),
    "storage_location": Row(".pgclone/", "by/setting", "by/configuration/", "s3://by/argument"),
}

NO_OPTIONS = {"config", "given_params"}
"""Fields that say something about the options, and are none."""

CONFIGURATIONS = (
    "none",
    "of today",
    "of the database",
    "of 1.x",
    "default of 1.x",
    "default of nobody",
)

SAYS_NOTHING = ("none", "default of nobody")


def ways(value: Any) -> list[Any]:
    """Not to give an option in a place, to give it, or to give an empty text instead of a text."""
    if value is NOWHERE:
        return [False]
    return [False, True, *(["empty"] if isinstance(value, str) else [])]


PRECEDENCE = [
    pytest.param(option, verb, setting, configuration, content, argument, id="-".join(told))
    for option, row in TABLE.items()
    for verb in ("dump", "restore", "")
    for setting in ([False, True] if row.setting is not NOWHERE else [False])
    for configuration in CONFIGURATIONS
    for content in ([False] if configuration in SAYS_NOTHING else ways(row.configuration)[1:])
    for argument in ways(row.argument)
    # Those of 1.x speak of a verb, and every option can stand in a configuration.
    if verb or (not configuration.startswith("default") and not configuration.endswith("1.x"))
    for told in [
        [
            option,
            verb or "other",
            *(["setting"] if setting else []),
            f"configuration {configuration}",
            *(["empty"] if content == "empty" else []),
            *([f"argument {argument}"] if argument else []),
        ]
    ]
]


def fields_of(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - NO_OPTIONS


def test_the_table_has_every_option_and_every_place_to_give_it() -> None:
    def given_by(place: str) -> set[str]:
        return {name for name, row in TABLE.items() if getattr(row, place) is not NOWHERE}

    assert fields_of(Options) == set(TABLE)
    assert fields_of(Arguments) == given_by("argument")
    assert set(CONFIGURATION_KEYS) == given_by("configuration")
    assert given_by("setting") == {name for name in TABLE if hasattr(type(settings), name)}


def place(
    monkeypatch: pytest.MonkeyPatch, where: str, verb: str, content: dict[str, Any]
) -> tuple[str | None, str, dict[str, Any]]:
    """What ``-c`` says for a configuration with this content, its label, and the settings."""
    stored = [content] if where == "of the database" else []
    monkeypatch.setattr(options, "stored_configuration", lambda _name: stored)
    if where == "none":
        return None, NO_CONFIGURATION, {}
    if where == "default of nobody":
        return "default", NO_CONFIGURATION, {}
    if where == "of the database":
        return "nightly", "nightly", {}
    if where == "of today":
        return "nightly", "nightly", {"PGCLONE_CONFIGS": {"nightly": content}}
    name = "default" if where.startswith("default") else "nightly"
    given = None if name == "default" else name
    return given, name, {f"PGCLONE_{verb.upper()}_CONFIGS": {name: content}}


@pytest.mark.parametrize(
    ("option", "verb", "setting", "configuration", "content", "argument"), PRECEDENCE
)
def test_an_argument_wins_over_a_configuration_and_that_over_a_setting(
    monkeypatch: pytest.MonkeyPatch,
    *,
    option: str,
    verb: str,
    setting: bool,
    configuration: str,
    content: bool | str,
    argument: bool | str,
) -> None:
    row = TABLE[option]
    says = {option: "" if content == "empty" else row.configuration}
    name, label, changes = place(monkeypatch, configuration, verb, says)
    given = []
    if setting:
        changes[f"PGCLONE_{option.upper()}"] = row.setting
        given.append(row.setting)
    if content is True:
        given.append(row.configuration)
    # An empty text is what a script says whose variable is not set: nothing.
    arguments = Arguments(config="" if name is None else name)
    if argument == "empty":
        arguments = dataclasses.replace(arguments, **{option: ""})
    elif argument:
        arguments = dataclasses.replace(arguments, **{option: row.argument})
        given.append(row.argument)

    with override_settings(**changes):
        resolved = resolve(arguments, verb=verb)

    assert getattr(resolved, option) == (row.together(given) if given else row.default)
    assert resolved.config == (NO_CONFIGURATION if argument and row.changes_content else label)
    for other in set(TABLE) - {option}:
        assert getattr(resolved, other) == TABLE[other].default


def test_an_option_that_is_given_nowhere_has_its_default() -> None:
    resolved = resolve(Arguments(), verb="dump")
    assert {name: getattr(resolved, name) for name in TABLE} == {
        name: row.default for name, row in TABLE.items()
    }
    assert resolved.config == NO_CONFIGURATION


def test_parameters_of_hooks_are_looked_for_one_by_one() -> None:
    changes: dict[str, Any] = {
        "PGCLONE_HOOK_PARAMS": {"a": 1, "b": 1, "c": 1},
        "PGCLONE_CONFIGS": {"nightly": {"hook_params": {"b": 2, "c": 2}}},
    }
    with override_settings(**changes):
        options = resolve(Arguments(config="nightly", hook_params={"c": 3}), verb="restore")
    assert options.hook_params == {"a": 1, "b": 2, "c": 3}
    assert options.given_params == ("c",)


def test_a_name_of_a_declared_hook_stands_for_that_hook() -> None:
    declared = {"code": "SELECT 1", "name": "views"}
    with override_settings(PGCLONE_CONFIGS={"nightly": {"pre_swap_hooks": ["migrate", declared]}}):
        options = resolve(Arguments(pre_swap_hooks=["views", "migrate", "other"]), verb="restore")
    assert options.pre_swap_hooks == [declared, "migrate", "other"]


def test_the_name_that_a_hook_has_in_the_plan_is_the_one_that_stands_for_it() -> None:
    people = {"anonymize": {"auth.User.email": "email"}}
    hooks: list[Any] = [
        "migrate",
        {"command": "check", "options": {"verbosity": 0}},
        {"code": "SELECT 1"},
        {"code": "SELECT 2", "name": "second"},
        {"seed": "staging", "timeout": 5, **people},
    ]
    changes = {
        "PGCLONE_PRE_SWAP_HOOKS": [people],
        "PGCLONE_CONFIGS": {"local": {"pre_swap_hooks": hooks}},
        "PGCLONE_RESTORE_CONFIGS": {"old": {"pre_swap_hooks": people}},
    }
    with override_settings(**changes):
        names = []
        for config in (None, "local", "old"):
            for hook in resolve(Arguments(config=config), verb="restore").pre_swap_hooks:
                (loaded,) = load_hooks([hook])
                names.append(loaded.labels.name)
                given = Arguments(pre_swap_hooks=[loaded.labels.name])
                assert resolve(given, verb="restore").pre_swap_hooks == [hook]
    assert names == [
        "anonymize",
        *("migrate", "check --verbosity=...", "SQL: SELECT 1", "second", "anonymize (local)"),
        "anonymize (old)",
    ]


def test_another_configuration_that_cannot_be_used_disturbs_nobody() -> None:
    twins = [{"code": "SELECT 1", "name": "twin"}, {"code": "SELECT 2", "name": "twin"}]
    configs = {"broken": {"no such key": 1}, "other": {"pre_swap_hooks": twins}, "nightly": {}}
    with override_settings(PGCLONE_CONFIGS=configs):
        options = resolve(Arguments(config="nightly"), verb="restore")
        with pytest.raises(ConfigurationError):
            resolve(Arguments(config="broken"), verb="restore")
    assert options.pre_swap_hooks == ["migrate"]


def test_two_hooks_with_one_name_are_refused() -> None:
    hooks = [{"code": "SELECT 1", "name": "views"}, {"code": "SELECT 2", "name": "views"}]
    with (
        override_settings(PGCLONE_PRE_SWAP_HOOKS=hooks),
        pytest.raises(ConfigurationError, match='two hooks are called "views"'),
    ):
        resolve(Arguments(pre_swap_hooks=["views"]), verb="restore")


# -- what stands in a configuration ---------------------------------------------------------------


def resolved(configuration: Any, **arguments: Any) -> Options:
    with override_settings(PGCLONE_CONFIGS={"nightly": configuration}):
        return resolve(Arguments(config="nightly", **arguments), verb="dump")


def test_a_text_alone_is_a_list_of_one_as_in_version_1() -> None:
    options = resolved({"pre_dump_hooks": "prepare", "exclude": "auth.User"})
    assert options.pre_dump_hooks == ["prepare"]
    assert options.exclude == ["auth.User"]


def test_the_old_name_of_exclude_is_read() -> None:
    assert resolved({"exclude_models": ["auth.User"]}).exclude == ["auth.User"]


def test_what_is_none_in_a_configuration_is_left_to_the_settings() -> None:
    with override_settings(PGCLONE_REVERSIBLE=True):
        assert resolved({"reversible": None, "exclude": None}).reversible is True


@pytest.mark.parametrize(
    "key",
    [
        "--file",
        "-f",
        "-d",
        "--role",
        "-j",
        "--fil",
        "file",
        "jobs",
        "options",
        "excludes",
        "Exclude",
        "pg_dump_args",
        "config",
        "",
        7,
    ],
)
def test_f51_a_key_that_is_not_known_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not known") as caught:
        resolved({"exclude": [], key: "x"})
    assert f'"{key}" of the configuration "nightly"' in caught.value.message
    assert caught.value.hint is not None
    assert "pre_swap_hooks" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("database", 5),
        ("dump_key", ["a"]),
        ("exclude", 5),
        ("exclude", [5]),
        ("instance", True),
        ("pre_dump_hooks", 5),
        ("hook_params", ["srid"]),
        ("require_anonymized", 1),
        ("pre_swap_hooks", [["migrate"]]),
        ("reversible", "yes"),
        ("reversible", 1),
        ("storage_location", 5),
    ],
)
def test_f51_a_value_of_the_wrong_kind_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f'^"{key}" of the configuration "nightly" has to'):
        resolved({key: value})


def test_f51_an_option_under_both_of_its_names_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        resolved({"exclude": ["a.B"], "exclude_models": ["c.D"]})


@pytest.mark.parametrize("configuration", [None, [], "exclude", 5])
def test_f51_a_configuration_that_is_no_mapping_is_refused(configuration: Any) -> None:
    with pytest.raises(ConfigurationError, match='the configuration "nightly" is no mapping'):
        resolved(configuration)


# -- which configuration --------------------------------------------------------------------------

ALL = {
    "PGCLONE_CONFIGS": {"nightly": {"exclude": ["a.Nightly"]}},
    "PGCLONE_DUMP_CONFIGS": {"small": {"exclude": ["a.Small"]}},
    "PGCLONE_RESTORE_CONFIGS": {"fast": {"pre_swap_hooks": []}},
}


@pytest.fixture
def none_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of the site has no configuration."""
    monkeypatch.setattr(options, "stored_configuration", lambda _name: [])


@pytest.mark.usefixtures("none_stored")
@override_settings(**ALL)
def test_an_unknown_configuration_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UnknownConfiguration, match='there is no configuration "nihgtly"') as caught:
        resolve(Arguments(config="nihgtly"), verb="dump")
    assert caught.value.hint == (
        "Configured in the settings: fast, nightly, small. Others are in the admin."
    )


@pytest.mark.usefixtures("none_stored")
def test_without_any_configuration_the_error_says_so() -> None:
    with pytest.raises(UnknownConfiguration) as caught:
        resolve(Arguments(config="x"), verb="dump")
    assert caught.value.hint == "Configured in the settings: none. Others are in the admin."


@override_settings(**ALL)
def test_every_configuration_is_listed() -> None:
    assert configuration_names() == ["fast", "nightly", "small"]


@pytest.mark.parametrize(
    ("name", "verb", "exclude", "hooks"),
    [
        ("nightly", "dump", ["a.Nightly"], ["migrate"]),
        ("nightly", "restore", ["a.Nightly"], ["migrate"]),
        ("nightly", "", ["a.Nightly"], ["migrate"]),
        ("small", "dump", ["a.Small"], ["migrate"]),
        ("fast", "restore", [], []),
        # Those of version 1 speak of one verb only.
        ("small", "restore", [], ["migrate"]),
        ("small", "", [], ["migrate"]),
        ("fast", "dump", [], ["migrate"]),
    ],
)
@override_settings(**ALL)
def test_a_configuration_of_version_1_applies_to_its_own_verb(
    name: str, verb: str, exclude: list[str], hooks: list[str]
) -> None:
    options = resolve(Arguments(config=name), verb=verb)
    assert (options.exclude, options.pre_swap_hooks) == (exclude, hooks)


DEFAULTS = {
    "PGCLONE_DUMP_CONFIGS": {"default": {"exclude_models": ["auth.User"]}, "full": {}},
    "PGCLONE_RESTORE_CONFIGS": {"default": {"pre_swap_hooks": "anonymize"}},
    "PGCLONE_EXCLUDE": ["a.Setting"],
}


@pytest.mark.parametrize(
    ("config", "verb", "label", "exclude", "hooks"),
    [
        (None, "dump", "default", ["auth.User"], ["migrate"]),
        ("default", "dump", "default", ["auth.User"], ["migrate"]),
        (None, "restore", "default", ["a.Setting"], ["anonymize"]),
        ("default", "restore", "default", ["a.Setting"], ["anonymize"]),
        (None, "", "none", ["a.Setting"], ["migrate"]),
        ("full", "dump", "full", ["a.Setting"], ["migrate"]),
        ("full", "restore", "full", ["a.Setting"], ["migrate"]),
    ],
)
@override_settings(**DEFAULTS)
def test_the_default_of_version_1_applies_without_being_named(
    config: str | None, verb: str, label: str, exclude: list[str], hooks: list[str]
) -> None:
    options = resolve(Arguments(config=config), verb=verb)
    assert (options.config, options.exclude, options.pre_swap_hooks) == (label, exclude, hooks)


@pytest.mark.usefixtures("none_stored")
def test_a_default_that_nobody_defines_is_there_for_dumps_and_restores_alone() -> None:
    for verb in ("dump", "restore"):
        assert resolve(Arguments(config="default"), verb=verb) == resolve(Arguments(), verb=verb)
    # The admin does not speak of one to the people who restore what 1.x has called so.
    assert usual_options("default") == (None, resolve(Arguments(), verb="restore"))
    with pytest.raises(UnknownConfiguration):
        resolve(Arguments(config="default"), verb="")


def test_a_default_may_be_defined_in_the_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [{"exclude": ["a.Stored"]}]
    monkeypatch.setattr(options, "stored_configuration", lambda _name: stored)
    resolved = resolve(Arguments(config="default"), verb="dump")
    assert (resolved.config, resolved.exclude) == ("default", ["a.Stored"])


def test_a_default_is_not_left_out_because_the_admin_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(options, "stored_configuration", lambda _name: None)
    with pytest.raises(UnknownConfiguration) as caught:
        resolve(Arguments(config="default"), verb="restore")
    assert caught.value.hint == (
        "Configured in the settings: none. "
        "Others are in the admin, whose database cannot be asked now."
    )


@override_settings(PGCLONE_CONFIGS={"default": {"exclude": ["auth.User"]}})
def test_a_configuration_of_today_applies_only_when_it_is_named() -> None:
    assert resolve(Arguments(), verb="dump").exclude == []
    assert resolve(Arguments(), verb="dump").config == "none"
    assert resolve(Arguments(config="default"), verb="dump").exclude == ["auth.User"]


@pytest.mark.parametrize(("verb", "old"), [("dump", "DUMP"), ("restore", "RESTORE")])
def test_a_name_that_means_two_configurations_is_refused(verb: str, old: str) -> None:
    changes = {"PGCLONE_CONFIGS": {"x": {}}, f"PGCLONE_{old}_CONFIGS": {"x": {}}}
    with (
        override_settings(**changes),
        pytest.raises(ConfigurationError, match="stands in PGCLONE_CONFIGS and in the settings of"),
    ):
        resolve(Arguments(config="x"), verb=verb)


# -- the label in a dump key ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [name for name, row in TABLE.items() if row.changes_content and isinstance(row.argument, list)],
)
def test_a_list_takes_the_label_away_even_if_it_is_empty_or_the_same(option: str) -> None:
    row = TABLE[option]
    for value in ([], row.configuration):
        assert resolved({option: row.configuration}, **{option: value}).config == NO_CONFIGURATION


def test_the_label_without_a_configuration_is_none() -> None:
    assert resolve(Arguments(), verb="dump").config == "none"
    assert resolve(Arguments(exclude=["a.B"]), verb="dump").config == "none"


@override_settings(**DEFAULTS)
def test_an_argument_takes_the_label_of_the_default_of_version_1_away_too() -> None:
    options = resolve(Arguments(exclude=["a.B"]), verb="dump")
    assert (options.config, options.exclude) == ("none", ["a.B"])
