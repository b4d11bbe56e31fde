"""Arguments over configuration over settings."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from django.test import override_settings

from pgclone_admin import options
from pgclone_admin.core.errors import ConfigurationError, UnknownConfiguration
from pgclone_admin.options import (
    CONFIGURATION_KEYS,
    Arguments,
    Options,
    configuration_names,
    resolve,
)
from pgclone_admin.settings import settings

SOURCES = ("setting", "configuration", "argument")

# One value for each source; they differ, and an empty list or False is a value like others.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "database": ("by_setting", "by_configuration", "by_argument"),
    "dump_key": (None, "by/configuration", ":by_argument"),
    "exclude": (["a.Setting"], ["a.Configuration"], []),
    "hook_params": ({"srid": 1}, {"srid": 2}, {"srid": 3}),
    "instance": ("by-setting", "by-configuration", "by-argument"),
    "post_swap_hooks": (["by_setting"], [{"code": "SELECT 2"}], []),
    "pre_dump_hooks": (["by_setting"], [], ["by_argument"]),
    "pre_swap_hooks": (["by_setting"], ["by_configuration", "migrate"], []),
    "reversible": (True, False, True),
    "storage_location": ("by/setting", "by/configuration/", "s3://by/argument"),
}

PRECEDENCE = [
    pytest.param(option, given, id=f"{option}-{'+'.join(given) or 'nowhere'}")
    for option in VALUES
    for count in range(4)
    for given in itertools.combinations(SOURCES, count)
    if not (option == "dump_key" and "setting" in given)
]


def test_the_table_below_has_every_option() -> None:
    # Nobody can say for one run that raw data may do.
    assert set(VALUES) == set(CONFIGURATION_KEYS) - {"require_anonymized"}
    found_out = {"config", "given_params", "require_anonymized"}
    assert set(VALUES) | found_out == {field.name for field in dataclasses.fields(Options)}
    assert set(VALUES) | {"config"} == {field.name for field in dataclasses.fields(Arguments)}


@pytest.mark.parametrize("verb", ["dump", "restore", ""])
@pytest.mark.parametrize(("option", "given"), PRECEDENCE)
def test_an_argument_wins_over_a_configuration_and_that_over_a_setting(
    option: str, given: tuple[str, ...], verb: str
) -> None:
    value = dict(zip(SOURCES, VALUES[option], strict=True))
    configuration = {option: value["configuration"]} if "configuration" in given else {}
    changes: dict[str, Any] = {"PGCLONE_CONFIGS": {"nightly": configuration}}
    if "setting" in given:
        changes[f"PGCLONE_{option.upper()}"] = value["setting"]
    argument = {option: value["argument"]} if "argument" in given else {}
    default = getattr(settings, option, None)
    expected = value[given[-1]] if given else default
    with override_settings(**changes):
        options = resolve(Arguments(config="nightly", **argument), verb=verb)
        assert getattr(options, option) == expected
        # Nothing else has moved.
        for other in set(VALUES) - {option}:
            assert getattr(options, other) == getattr(settings, other, None)


def test_without_anything_the_settings_apply() -> None:
    assert resolve(Arguments(), verb="dump") == Options(
        config="none",
        database="default",
        instance=settings.instance,
        storage_location=".pgclone/",
        dump_key=None,
        exclude=[],
        pre_dump_hooks=[],
        pre_swap_hooks=["migrate"],
        post_swap_hooks=[],
        hook_params={},
        given_params=(),
        require_anonymized=False,
        reversible=False,
    )


@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize("configured", [False, True, None])
def test_anonymized_data_is_required_by_the_settings_or_the_configuration(
    setting: bool, configured: bool | None
) -> None:
    configuration = {} if configured is None else {"require_anonymized": configured}
    with override_settings(
        PGCLONE_REQUIRE_ANONYMIZED=setting, PGCLONE_CONFIGS={"nightly": configuration}
    ):
        options = resolve(Arguments(config="nightly"), verb="restore")
    assert options.require_anonymized is (setting or bool(configured))


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
    ("arguments", "label"),
    [
        ({}, "nightly"),
        ({"database": "reporting"}, "nightly"),
        ({"instance": "prod"}, "nightly"),
        ({"storage_location": "s3://x/"}, "nightly"),
        ({"reversible": True}, "nightly"),
        ({"dump_key": ":pre"}, "nightly"),
        # What changes the content of a dump: it is not what the configuration promises.
        ({"exclude": ["auth.User"]}, "none"),
        ({"exclude": []}, "none"),
        ({"pre_dump_hooks": ["x"]}, "none"),
        ({"pre_dump_hooks": []}, "none"),
    ],
)
def test_the_label_is_the_configuration_unless_an_argument_changes_the_content(
    arguments: dict[str, Any], label: str
) -> None:
    assert resolved({"exclude": ["a.B"]}, **arguments).config == label


def test_the_label_without_a_configuration_is_none() -> None:
    assert resolve(Arguments(), verb="dump").config == "none"
    assert resolve(Arguments(exclude=["a.B"]), verb="dump").config == "none"


@override_settings(**DEFAULTS)
def test_an_argument_takes_the_label_of_the_default_of_version_1_away_too() -> None:
    options = resolve(Arguments(exclude=["a.B"]), verb="dump")
    assert (options.config, options.exclude) == ("none", ["a.B"])
