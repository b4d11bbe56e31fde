"""The documentation names all that there is, and links only to what there is."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management.base import CommandParser

from pgclone_admin import settings as settings_module
from pgclone_admin.management.arguments import VERBS
from pgclone_admin.management.commands.pgclone import INTERRUPTED, READER_GONE, Command
from pgclone_admin.options import CONFIGURATION_KEYS, VERSION_1_KEYS, Arguments
from tests.support import ROOT
from tests.support.documents import PAGES, named, names_of_others

ALL_PAGES = "\n".join(PAGES.values())

# -- what there is ---------------------------------------------------------------------------------


def settings_that_are_read() -> list[str]:
    """Every PGCLONE_* setting: by the properties, and by the names that the source asks for."""
    source = inspect.getsource(settings_module)
    asked = re.findall(r'(?:_get|_mapping|_milliseconds)\("([A-Z0-9_]+)"', source)
    named = re.findall(r"PGCLONE_([A-Z0-9_]+)", source)
    properties = [
        name.upper()
        for name, value in vars(settings_module.Settings).items()
        if isinstance(value, property) and f"PGCLONE_{name.upper()}" in (value.__doc__ or "")
    ]
    return sorted({f"PGCLONE_{name}" for name in (*asked, *named, *properties)})


def ids_of_checks() -> set[str]:
    """Every id of a system check that the source gives to a message."""
    return {
        found
        for path in (ROOT / "pgclone_admin").rglob("*.py")
        for found in re.findall(r"\bpgclone_admin\.([A-Z]\d{3})\b", path.read_text("utf-8"))
    }


def flags() -> Iterator[tuple[str, str]]:
    """Verb and flag, but for those that Django gives to every command."""
    command = Command()
    command._called_from_command_line = True  # type: ignore[attr-defined] - as run_from_argv does
    parser = command.create_parser("manage.py", "pgclone")
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for verb, sub in verbs.choices.items():
        assert isinstance(sub, CommandParser)
        for action in sub._actions:
            if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
                yield from ((verb, flag) for flag in action.option_strings)


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", settings_that_are_read())
def test_every_setting_is_in_the_table_of_settings(setting: str) -> None:
    assert named(PAGES["settings.md"], setting)


def test_the_table_of_system_checks_has_each_id_once_and_no_other() -> None:
    section = PAGES["settings.md"].partition("\n## System checks\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]*)` \|", section, re.MULTILINE) == sorted(ids_of_checks())


def test_no_page_names_a_system_check_that_does_not_exist() -> None:
    pages = [
        ALL_PAGES,
        *((ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md")),
    ]
    mentioned = {id_ for page in pages for id_ in re.findall(r"\b[EW]\d{3}\b", page)}
    assert mentioned <= ids_of_checks()


@pytest.mark.parametrize("verb", [verb for verb, _summary, _add in VERBS])
def test_every_command_has_a_section(verb: str) -> None:
    assert re.search(rf"^## `pgclone {verb}\b", PAGES["commands.md"], re.MULTILINE)


@pytest.mark.parametrize(("verb", "flag"), sorted(set(flags())))
def test_every_flag_is_explained(verb: str, flag: str) -> None:
    page = PAGES["commands.md"]
    section = re.search(rf"^## `pgclone {verb}\b.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    common = page[: page.index("## `pgclone ls")]
    assert section is not None
    assert named(common, flag) or named(section[0], flag)


@pytest.mark.parametrize("key", [*CONFIGURATION_KEYS, *VERSION_1_KEYS])
def test_every_key_of_a_configuration_is_explained(key: str) -> None:
    section = PAGES["settings.md"].partition("## Configurations")[2].partition("\n## ")[0]
    assert named(section, key)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Arguments)])
def test_every_option_is_named_somewhere(name: str) -> None:
    assert any(named(ALL_PAGES, spelling) for spelling in (name, f"--{name.replace('_', '-')}"))


def test_the_exit_statuses_of_the_command_are_explained() -> None:
    section = PAGES["commands.md"].partition("\n## Exit status\n")[2].partition("\n## ")[0]
    own = {str(status) for status in (INTERRUPTED, READER_GONE)}
    # 0 and 1 are everybody's, 2 is argparse's.
    assert set(re.findall(r"^\| (\d+) \|", section, re.MULTILINE)) == {"0", "1", "2", *own}


# -- links -----------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [
    pytest.param(source, target, id=f"{source.name}-{target}")
    for source in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for target in re.findall(r"\]\(([^)\s]+)\)", source.read_text("utf-8"))
    if not target.startswith(("http://", "https://"))
]


@pytest.mark.parametrize(("source", "target"), LINKS)
def test_a_link_leads_somewhere(source: Path, target: str) -> None:
    path, _hash, anchor = target.partition("#")
    aim = (source.parent / path).resolve() if path else source
    assert aim.exists()
    if anchor:
        assert anchor in anchors(aim.read_text("utf-8"))


# -- other tools -----------------------------------------------------------------------------------

# Version 1 cannot be installed beside a Django of today; what later versions and PUM have is asked
# of django-pgclone itself in tests/e2e/test_django_pgclone.py, and stands here for PUM.
OF_VERSION_1 = (
    "PGCLONE_STORAGE_LOCATION",
    "PGCLONE_ALLOW_RESTORE",
    "PGCLONE_DUMP_CONFIGS",
    "PGCLONE_RESTORE_CONFIGS",
    "exclude_models",
    "pre_dump_hooks",
    "pre_swap_hooks",
    "--exclude-model",
    "--dump-config",
    "--restore-config",
    "--only-db-names",
    "--local",
    "--pre-swap-hook",
    "--reversible",
    "_custom",
    ":previous",
    ":current",
    "<database>/<timestamp>.<config>.dump",
)
OF_PUM = (
    "migration_hooks",
    "pre",
    "post",
    "application",
    "drop",
    "create",
    "file",
    "code",
    "parameters",
    "name",
    "type",
    "default",
    "values",
    "description",
    "app_only",
    "boolean",
    "integer",
    "text",
    "decimal",
    "path",
    "-p NAME VALUE",
    "{name}",
    "Hook(HookBase)",
    "run_hook",
    "self.execute",
    "changelogs_directory",
    "roles",
    "demo_data",
    "uninstall",
    "dependencies",
)


@pytest.mark.parametrize("name", [*OF_VERSION_1, *OF_PUM])
def test_the_guide_names_what_other_tools_have(name: str) -> None:
    assert named(names_of_others(), name)
