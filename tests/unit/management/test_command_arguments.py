"""What the flags of ``manage.py pgclone`` mean."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import Any

import pytest
from django.core.management.base import CommandParser
from django.test import override_settings

from pgclone_admin.management.arguments import VERBS, given_arguments, take_key_from_values
from pgclone_admin.management.commands.pgclone import Command
from pgclone_admin.options import Arguments, resolve

FULL_KEY = "prod/default/none/2026-01-01-00-00-00-000000.dump"
VERSION_1_KEY = "shop/2021-03-01-12-30-00-000007.default.dump"


def parser() -> CommandParser:
    """The parser of a command that is run by manage.py."""
    command = Command()
    command._called_from_command_line = True  # type: ignore[attr-defined] - as run_from_argv does
    return command.create_parser("manage.py", "pgclone")


def parse(*argv: str) -> dict[str, Any]:
    """What Django hands to the command for these arguments."""
    given = vars(parser().parse_args(argv))
    if given["verb"] == "restore":
        take_key_from_values(given)
    return given


def arguments(*argv: str) -> Arguments:
    return given_arguments(parse(*argv))


# -- the verbs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [name for name, _summary, _add in VERBS])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(verb, "--help")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    (summary,) = (summary for name, summary, _add in VERBS if name == verb)
    assert summary in said
    assert "--traceback" not in said


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("dmup",),
        ("dump", "--exclud-models", "x"),
        ("dump", "prod/default"),
        ("ls", "a", "b"),
        ("ls", "--instances", "--databases"),
        ("ls", "--local", "--only-db-names"),
        ("copy",),
        ("cat",),
        ("import",),
        ("copy", ":x", "-s", "dumps"),
        ("cat", "key", "-d", "default"),
        ("restore", "a", "b"),
        ("restore", "--to"),
        ("dump", "-d"),
        ("dump", "--reversible"),
        ("dump", "-v", "9"),
        ("recover", "x"),
        ("recover", "--older-than", "soon"),
        ("recover", "--older-than", "-1"),
        ("recover", "--older-than", "nan"),
        ("recover", "--older-than", "1e9"),
        ("doctor", "x"),
        ("swap", "key"),
        ("swap", "-s", "dumps"),
        ("swap", "--pre-swap-hook"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(argv)
    assert caught.value.code == 2
    assert "usage: manage.py pgclone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "hours"), [((), 24), (("--older-than", "0"), 0), (("--older-than", "1.5"), 1.5)]
)
def test_the_age_of_leftovers_is_in_hours(argv: tuple[str, ...], hours: float) -> None:
    assert parse("recover", *argv)["older_than"] == timedelta(hours=hours)


@pytest.mark.parametrize("hours", ["x", "-1", "inf", "1e9"])
def test_an_age_that_is_no_number_of_hours_is_told_so(
    hours: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("recover", f"--older-than={hours}")
    assert f"argument --older-than: '{hours}' is no number of hours" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["ls", "dump", "restore", "recover", "doctor"])
def test_without_flags_everything_is_left_open(verb: str) -> None:
    assert arguments(verb) == Arguments()


@pytest.mark.parametrize("verb", ["ls", "dump", "restore", "import x", "recover", "doctor"])
def test_flags_that_verbs_share(verb: str) -> None:
    long = ("--database", "reporting", "--storage-location", "s3://b/p", "--config", "nightly")
    short = ("-d", "reporting", "-s", "s3://b/p", "-c", "nightly")
    for flags in (long, short):
        given = arguments(*verb.split(), *flags)
        assert (given.database, given.storage_location, given.config) == (
            "reporting",
            "s3://b/p",
            "nightly",
        )
        assert parse(*verb.split(), *flags)["json"] is False
        assert parse(*verb.split(), *flags, "--json")["json"] is True


def test_ls_takes_a_prefix_and_one_thing_to_list() -> None:
    given = parse("ls", "prod/default", "--long", "--instances")
    assert (given["dump_key"], given["long"], given["instances"]) == ("prod/default", True, True)
    assert not given["databases"]
    for flag, dest in (
        ("--databases", "databases"),
        ("--configs", "configs"),
        ("--local", "local"),
    ):
        assert parse("ls", flag)[dest] is True
    # As version 1 had it.
    assert parse("ls", "--only-db-names")["databases"] is True


def test_dump_takes_an_instance() -> None:
    assert arguments("dump", "-i", "prod").instance == "prod"
    assert arguments("dump", "--instance", "prod").instance == "prod"
    assert arguments("import", "file", "-i", "prod").instance == "prod"


def test_copy_cat_and_import_take_what_they_work_on() -> None:
    given = parse("copy", ":shop_before", "-d", "default", "-c", "x", "--end-sessions", "--json")
    assert (given["dump_key"], given["end_sessions"], given["json"]) == (":shop_before", True, True)
    assert parse("copy", ":x")["end_sessions"] is False
    given = parse("cat", FULL_KEY, "-s", "dumps", "-c", "x")
    assert (given["dump_key"], given["storage_location"]) == (FULL_KEY, "dumps")
    assert parse("import", "/tmp/a b.dump")["file"] == "/tmp/a b.dump"


# -- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-e", "--exclude", "--exclude-model"])
@pytest.mark.parametrize(
    ("values", "models"),
    [
        (("{} auth.User",), ["auth.User"]),
        (("{} auth.User", "{} people.Note"), ["auth.User", "people.Note"]),
        (("{} auth.User people.Note",), ["auth.User", "people.Note"]),
        (("{} a.A b.B", "-i x", "{} c.C"), ["a.A", "b.B", "c.C"]),
        (("{}",), []),
        (("{}", "{} a.A"), ["a.A"]),
    ],
)
def test_excluded_models_add_up(flag: str, values: tuple[str, ...], models: list[str]) -> None:
    argv = " ".join(values).replace("{}", flag).split()
    assert arguments("dump", *argv).exclude == models


def test_the_three_names_of_exclude_add_up_together() -> None:
    given = arguments("dump", "-e", "a.A", "--exclude", "b.B", "--exclude-model", "c.C")
    assert given.exclude == ["a.A", "b.B", "c.C"]


def test_hooks_before_a_dump_add_up_in_order_and_can_be_none() -> None:
    assert arguments("dump", "--pre-dump-hook", "b", "--pre-dump-hook", "a").pre_dump_hooks == [
        "b",
        "a",
    ]
    assert arguments("dump", "--pre-dump-hook", "b", "a").pre_dump_hooks == ["b", "a"]
    assert arguments("dump", "--pre-dump-hook").pre_dump_hooks == []
    assert arguments("dump").pre_dump_hooks is None


def test_two_commands_do_not_share_their_lists() -> None:
    assert arguments("dump", "-e", "a.A").exclude == ["a.A"]
    assert arguments("dump", "-e", "b.B").exclude == ["b.B"]


@pytest.mark.parametrize("name", ["hooks/views.sql", "views"])
def test_a_declared_hook_comes_with_all_that_is_declared_of_it(name: str) -> None:
    declared = {"file": "hooks/views.sql", "parameters": [{"name": "n"}], "timeout": 5}
    if name == "views":
        declared["name"] = name
    with override_settings(PGCLONE_PRE_SWAP_HOOKS=[declared]):
        given = arguments("restore", ":pre", "--pre-swap-hook", "migrate", name)
        assert resolve(given, verb="restore").pre_swap_hooks == ["migrate", declared]


# -- the key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [":pre", FULL_KEY, VERSION_1_KEY, "prod/default", "shop", "prod/"])
def test_the_key_may_stand_anywhere_between_flags(key: str) -> None:
    for argv in (
        (key,),
        (key, "-r", "-d", "default"),
        ("-d", "default", key),
        ("-r", key, "--trust"),
        ("--json", "-d", "default", "-r", key),
        ("--pre-swap-hook", "migrate", "-r", key),
        (key, "--pre-swap-hook", "migrate", "anonymize"),
        ("--pre-swap-hook", "migrate", "--", key),
    ):
        given = arguments("restore", *argv)
        assert given.dump_key == key
        if "--pre-swap-hook" in argv:
            assert given.pre_swap_hooks is not None
            assert given.pre_swap_hooks[0] == "migrate"
            assert key not in given.pre_swap_hooks


@pytest.mark.parametrize(
    ("argv", "hooks", "key"),
    [
        ("--pre-swap-hook migrate --pre-swap-hook stale", ["migrate", "stale"], None),
        ("--pre-swap-hook migrate stale", ["migrate", "stale"], None),
        ("--pre-swap-hook stale --pre-swap-hook migrate x", ["stale", "migrate", "x"], None),
        ("--pre-swap-hook", [], None),
        ("--pre-swap-hook -d default", [], None),
        ("", None, None),
        # A last value that has the shape of a key is the key.
        (f"--pre-swap-hook migrate {FULL_KEY}", ["migrate"], FULL_KEY),
        (f"--pre-swap-hook migrate {VERSION_1_KEY}", ["migrate"], VERSION_1_KEY),
        ("--pre-swap-hook migrate stale :pre", ["migrate", "stale"], ":pre"),
        ("--pre-swap-hook migrate --pre-swap-hook stale :pre", ["migrate", "stale"], ":pre"),
        ("--pre-swap-hook migrate prod/default -r", ["migrate"], "prod/default"),
        (f"--pre-swap-hook {FULL_KEY}", [], FULL_KEY),
        # It cannot be told from a hook: to be written before the flag.
        ("--pre-swap-hook migrate shop", ["migrate", "shop"], None),
        # An empty one is none.
        ("'' --pre-swap-hook migrate :pre", ["migrate"], ":pre"),
        # One key is enough.
        (":post --pre-swap-hook migrate :pre", ["migrate", ":pre"], ":post"),
    ],
)
def test_hooks_before_a_swap_add_up_and_leave_the_key(
    argv: str, hooks: list[str] | None, key: str | None
) -> None:
    given = arguments("restore", *shlex.split(argv))
    assert (given.pre_swap_hooks, given.dump_key) == (hooks, key)


@pytest.mark.parametrize("flag", ["--pre-swap-hook", "--post-swap-hook"])
def test_a_last_value_that_is_the_name_of_a_declared_hook_is_no_key(flag: str) -> None:
    option = f"{flag.strip('-').replace('-', '_')}s"
    hooks = ["migrate", {"pum": "pumx/.pum.yaml"}, {"code": "SELECT 1", "name": ":tidy"}]
    with override_settings(PGCLONE_CONFIGS={"nightly": {option: hooks}}):
        for name in ("pumx/.pum.yaml", ":tidy"):
            given = arguments("restore", flag, "migrate", name)
            assert (getattr(given, option), given.dump_key) == (["migrate", name], None)
            given = arguments("restore", flag, name, "prod/default")
            assert (getattr(given, option), given.dump_key) == ([name], "prod/default")


# -- switches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "reversible"),
    [
        ((), None),
        (("-r",), True),
        (("--reversible",), True),
        (("--no-reversible",), False),
        (("-r", "--no-reversible"), False),
        (("--no-reversible", "-r"), True),
    ],
)
def test_reversible_is_yes_no_or_left_open(argv: tuple[str, ...], reversible: bool | None) -> None:
    assert arguments("restore", *argv).reversible is reversible
    assert arguments("restore", ":pre", *argv).reversible is reversible


def test_a_restore_may_stop_before_the_swap_which_is_made_later() -> None:
    given = parse("restore", FULL_KEY)
    assert (given["hold"], given["ignore_standbys"]) == (False, False)
    given = parse("restore", FULL_KEY, "--hold", "--ignore-standbys")
    assert (given["hold"], given["ignore_standbys"]) == (True, True)
    assert arguments("swap") == Arguments()
    assert arguments("swap", "-r", "-d", "reporting", "-c", "nightly") == Arguments(
        reversible=True, database="reporting", config="nightly"
    )
    assert parse("swap")["ignore_standbys"] is False
    assert parse("swap", "--ignore-standbys", "--json")["ignore_standbys"] is True


def test_settings_that_may_be_lost_add_up_and_leave_the_key() -> None:
    given = parse("restore", "--lose-settings", "log_statement", "ada:jit", FULL_KEY)
    assert (given["lose_settings"], given["dump_key"]) == (["log_statement", "ada:jit"], FULL_KEY)
    assert parse("restore", FULL_KEY)["lose_settings"] is None
    assert parse("swap", "--lose-settings", "a", "--lose-settings", "b")["lose_settings"] == [
        "a",
        "b",
    ]
    assert parse("copy", ":look", "--lose-settings")["lose_settings"] == []


def test_a_restore_may_go_beside_and_trust() -> None:
    given = parse("restore", ":pre", "--to", ":inspect", "--trust")
    assert (given["to"], given["trust"], given["dump_key"]) == (":inspect", True, ":pre")
    assert (parse("restore")["to"], parse("restore")["trust"]) == (None, False)


# -- Django's own ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (("--traceback",), "traceback", True),
        (("--no-color",), "no_color", True),
        (("--force-color",), "force_color", True),
        (("-v", "2"), "verbosity", 2),
        (("--verbosity", "0"), "verbosity", 0),
        (("--settings", "a.b"), "settings", "a.b"),
        (("--pythonpath", "/x"), "pythonpath", "/x"),
    ],
)
def test_options_of_django_stand_before_or_after_the_verb(
    flags: tuple[str, ...], name: str, value: object
) -> None:
    assert parse(*("dump", *flags))[name] == value
    assert parse(*(*flags, "dump"))[name] == value


def test_there_are_no_checks_to_skip() -> None:
    # The database may be the very thing that is broken.
    assert Command.requires_system_checks == ()
    assert parse("dump", "--skip-checks")["skip_checks"] is True


def test_without_options_of_django_its_defaults_apply() -> None:
    given = parse("dump")
    assert (given["traceback"], given["no_color"], given["verbosity"]) == (False, False, 1)


def test_everything_that_a_command_line_can_say_reaches_the_options() -> None:
    dump_line = "dump -d a -i b -s c -c d -e e.E --pre-dump-hook f"
    restore_line = "restore :k -d a -s c -c d --pre-swap-hook g -r"
    dump = arguments(*dump_line.split())
    restore = arguments(*restore_line.split())
    assert dump == Arguments(
        database="a",
        instance="b",
        storage_location="c",
        config="d",
        exclude=["e.E"],
        pre_dump_hooks=["f"],
    )
    assert restore == Arguments(
        dump_key=":k",
        database="a",
        storage_location="c",
        config="d",
        pre_swap_hooks=["g"],
        reversible=True,
    )
