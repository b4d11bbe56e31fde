"""Every PGCLONE_* setting: default, type, meaning."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import override_settings

from pgclone_admin.core.errors import ConfigurationError
from pgclone_admin.core.programs import Codec
from pgclone_admin.settings import Settings, parse_codec, settings
from pgclone_admin.site_settings import base_dir

DEFAULTS: dict[str, Any] = {
    "allow_copy": True,
    "allow_dump": True,
    "allow_restore": True,
    "bin_dirs": [],
    "compression": Codec("zstd"),
    "configs": {},
    "conn_db": "postgres",
    "connections": {},
    "database": "default",
    "dump_configs": {},
    "exclude": [],
    "hook_params": {},
    "hook_timeout": None,
    "ignore_standbys": False,
    "instance": socket.gethostname(),
    "jobs": max(2, min(os.cpu_count() or 2, 4)),
    "keep_apps": ["pgclone_admin", "django_q", "sessions"],
    "keep_failed": True,
    "lock_timeout": None,
    "lose_settings": [],
    "post_swap_hooks": [],
    "pre_dump_hooks": [],
    "pre_swap_hooks": ["migrate"],
    "require_anonymized": False,
    "restore_configs": {},
    "reversible": False,
    "run_timeout": 20,
    "s3_config": {},
    "s3_endpoint_url": None,
    "statement_timeout": None,
    "storage_location": ".pgclone/",
    "max_disk_bytes": None,
    "stall_timeout": 1800.0,
    "swap_timeout": 60,
    "temporary_days": 7,
    "tolerated_errors": frozenset(),
    "validate_dump_keys": True,
}

SETTING_OF = {name: f"PGCLONE_{name.upper()}" for name in DEFAULTS} | {
    "bin_dirs": "PGCLONE_BIN_DIR"
}

WRONG: dict[str, list[Any]] = {
    "allow_copy": ["no", 0],
    "allow_dump": ["no", 0],
    "allow_restore": ["False", 0],
    "bin_dirs": [5, {"a": 1}, [5]],
    "compression": [5, "lz4", "zstd:", "zstd:0", "zstd:20", "gzip:10", "none:1", "ZSTD", "zstd:1 "],
    "configs": [["x"], "x"],
    "conn_db": [5],
    "connections": [["x"], "x"],
    "database": [5],
    "dump_configs": [["x"]],
    "exclude": [5, [5], {"auth.User": 1}],
    "hook_params": [["srid"], "srid"],
    "hook_timeout": ["60", 0, -1, True],
    "ignore_standbys": ["yes", 1],
    "instance": [5],
    "jobs": ["2", 0, -1, True, 1.5],
    "keep_apps": ["sessions", [5], ["auth", "sites"], ["django.contrib.auth"], {"auth": 1}],
    "keep_failed": ["no", 0],
    "lock_timeout": ["1s", -1, 1.5, True],
    "lose_settings": ["log_statement", [5], {"jit": 1}],
    "post_swap_hooks": [5, [5]],
    "pre_dump_hooks": [5, [5], [["migrate"]]],
    "pre_swap_hooks": [5, [None]],
    "require_anonymized": ["yes", 1],
    "restore_configs": [["x"]],
    "reversible": ["yes", 1],
    "run_timeout": ["60", 0, -1, True, 1.5],
    "s3_config": ["x"],
    "s3_endpoint_url": [5],
    "statement_timeout": ["1s", -1, True],
    "storage_location": [5, ["a"]],
    "max_disk_bytes": ["1 GB", 0, -1, True, 1.5],
    "stall_timeout": ["60", -1, True],
    "swap_timeout": ["60", -1, True, 1.5],
    "temporary_days": ["7", -1, True, 1.5, 36_501],
    "tolerated_errors": [
        "EXTENSION 42501",
        [5],
        ["42501"],
        ["EXTENSION"],
        ["EXTENSION 4250"],
        ["EXTENSION 42501; DROP"],
        [" 42501"],
    ],
    "validate_dump_keys": [0, "no"],
}

RIGHT: dict[str, list[tuple[Any, Any]]] = {
    "allow_copy": [(False, False)],
    "allow_dump": [(False, False)],
    "allow_restore": [(False, False)],
    "compression": [
        ("zstd:19", Codec("zstd", 19)),
        ("gzip", Codec("gzip")),
        ("gzip:1", Codec("gzip", 1)),
        ("none", Codec("none")),
    ],
    "configs": [({"nightly": {}}, {"nightly": {}})],
    "conn_db": [("maintenance", "maintenance"), ("", "postgres")],
    "connections": [({"default": {"USER": "x"}}, {"default": {"USER": "x"}})],
    "database": [("reporting", "reporting")],
    "dump_configs": [({"default": {}}, {"default": {}})],
    "exclude": [(["auth.User"], ["auth.User"]), (("auth.User",), ["auth.User"])],
    "hook_params": [({"srid": 2056}, {"srid": 2056})],
    "hook_timeout": [(1, 1.0), (0.5, 0.5)],
    "ignore_standbys": [(True, True)],
    "instance": [("prod", "prod")],
    "jobs": [(1, 1), (16, 16)],
    "keep_apps": [([], []), (("auth", "people"), ["auth", "people"])],
    "keep_failed": [(False, False)],
    "lock_timeout": [(0, 0), (250, 250)],
    "lose_settings": [([], []), (("log_statement", "ada:jit"), ["log_statement", "ada:jit"])],
    "post_swap_hooks": [(["a"], ["a"]), ({"command": "a"}, [{"command": "a"}])],
    "pre_dump_hooks": [(["a", "b"], ["a", "b"]), ("a", ["a"]), ((), [])],
    "pre_swap_hooks": [
        ([], []),
        ("migrate", ["migrate"]),
        (["migrate", {"code": "SELECT 1"}], ["migrate", {"code": "SELECT 1"}]),
    ],
    "require_anonymized": [(True, True)],
    "restore_configs": [({"default": {}}, {"default": {}})],
    "reversible": [(True, True)],
    "run_timeout": [(1, 1), (3600, 3600)],
    "s3_config": [({"AWS_REGION": "x"}, {"AWS_REGION": "x"})],
    "s3_endpoint_url": [("http://127.0.0.1:9", "http://127.0.0.1:9")],
    "statement_timeout": [(1000, 1000)],
    "storage_location": [("s3://b/p", "s3://b/p"), (Path("/srv"), "/srv")],
    "max_disk_bytes": [(1, 1), (10**12, 10**12)],
    "stall_timeout": [(1, 1.0), (0.5, 0.5), (0, None)],
    "swap_timeout": [(0, 0), (600, 600)],
    "temporary_days": [(0, 0), (30, 30)],
    "tolerated_errors": [
        (
            ["EXTENSION 42501", "DEFAULT ACL 42704"],
            {("EXTENSION", "42501"), ("DEFAULT ACL", "42704")},
        )
    ],
    "validate_dump_keys": [(False, False)],
}

CASES = [(name, given, read) for name, pairs in RIGHT.items() for given, read in pairs]


def test_there_is_no_setting_without_a_test() -> None:
    assert {name for name, value in vars(Settings).items() if isinstance(value, property)} == set(
        DEFAULTS
    )


@pytest.mark.parametrize("name", DEFAULTS)
def test_without_a_setting_its_default_applies(name: str) -> None:
    assert not hasattr(django_settings, SETTING_OF[name])
    assert getattr(settings, name) == DEFAULTS[name]
    with override_settings(**{SETTING_OF[name]: None}):
        assert getattr(settings, name) == DEFAULTS[name]


@pytest.mark.parametrize(("name", "given", "read"), CASES, ids=lambda value: str(value)[:30])
def test_a_setting_is_read_each_time_it_is_asked_for(name: str, given: Any, read: Any) -> None:
    with override_settings(**{SETTING_OF[name]: given}):
        assert getattr(settings, name) == read
    assert getattr(settings, name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_setting(
    name: str, value: Any
) -> None:
    with (
        override_settings(**{SETTING_OF[name]: value}),
        pytest.raises(ConfigurationError, match=SETTING_OF[name]),
    ):
        getattr(settings, name)


def test_a_location_as_empty_as_can_be_is_no_default() -> None:
    with override_settings(PGCLONE_STORAGE_LOCATION=""):
        assert settings.storage_location == ""


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_setting_says_what_it_is_called(name: str) -> None:
    documentation = vars(Settings)[name].__doc__
    assert documentation.startswith(f"{SETTING_OF[name]}")


def test_a_list_that_was_read_is_not_the_list_of_the_settings() -> None:
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=["migrate"]):
        settings.pre_swap_hooks.append("evil")
        assert settings.pre_swap_hooks == ["migrate"]
    settings.pre_swap_hooks.append("evil")
    settings.exclude.append("evil")
    assert settings.pre_swap_hooks == ["migrate"]
    assert settings.exclude == []


@pytest.mark.parametrize(
    ("old", "name"),
    [("PRE_DUMP_HOOKS", "pre_dump_hooks"), ("PRE_SWAP_HOOKS", "pre_swap_hooks")],
)
def test_hooks_under_the_names_that_the_old_documentation_has_apply(old: str, name: str) -> None:
    with override_settings(**{old: ["a", "b"]}):
        assert getattr(settings, name) == ["a", "b"]
    with override_settings(**{old: "a"}):
        assert getattr(settings, name) == ["a"]
    with override_settings(**{old: ["a"], SETTING_OF[name]: ["b"]}):
        assert getattr(settings, name) == ["b"]
    with override_settings(**{old: [5]}), pytest.raises(ConfigurationError, match=f"^{old} "):
        getattr(settings, name)


def test_relative_directories_of_programs_lie_in_the_project(tmp_path: Path) -> None:
    with override_settings(BASE_DIR=tmp_path, PGCLONE_BIN_DIR="bin"):
        assert settings.bin_dirs == [str(tmp_path / "bin")]
    with override_settings(BASE_DIR=str(tmp_path), PGCLONE_BIN_DIR=("bin", "/opt/pg", "")):
        assert settings.bin_dirs == [str(tmp_path / "bin"), "/opt/pg"]
    with override_settings(PGCLONE_BIN_DIR=Path("/opt/pg")):
        assert settings.bin_dirs == ["/opt/pg"]
    with override_settings(PGCLONE_BIN_DIR=""):
        assert settings.bin_dirs == []


def test_without_a_base_directory_paths_begin_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with override_settings():
        del django_settings.BASE_DIR
        assert base_dir() == tmp_path


@pytest.mark.parametrize("level", range(1, 20))
def test_every_level_of_zstd_is_taken(level: int) -> None:
    assert parse_codec(f"zstd:{level}") == Codec("zstd", level)


def test_a_level_in_other_digits_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_codec("zstd:٣")
    assert caught.value.hint
